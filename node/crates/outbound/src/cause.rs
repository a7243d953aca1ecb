//! What is told of a failed HTTP call: its innermost cause, which says most.

use std::error::Error as _;

/// What the operating system or the HTTP parser said.
pub(crate) fn deepest(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

/// The same without the address: a signed one is as good as a key.
pub(crate) fn without_address(error: reqwest::Error) -> String {
    deepest(&error.without_url())
}
