//! What is told of a failed HTTP call: its innermost cause, which says most.

use std::error::Error as _;
use std::io::{self, ErrorKind};

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

/// Whether the machine refused the connection: it is there, and nothing listens.
pub(crate) fn is_refused(error: &reqwest::Error) -> bool {
    let mut source = error.source();
    while let Some(inner) = source {
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        source = inner.source();
    }
    false
}

/// Whether what was asked over TLS answered in something else, most likely plain HTTP.
pub(crate) fn is_no_tls(error: &reqwest::Error) -> bool {
    deepest(error).contains("InvalidContentType")
}

/// What the operating system or the HTTP parser said, without the address: a signed one is as good as a key.
pub(crate) fn without_address(error: reqwest::Error) -> String {
    deepest(&error.without_url())
}
