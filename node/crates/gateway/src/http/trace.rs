//! The trace that a request belongs to, by W3C Trace Context: a client names it, and the node's lines tell of it.
//!
//! Pure. What is malformed is as if it were not there: nobody is refused for it. Nothing is sent anywhere: a trace is
//! found in the log.

use axum::http::HeaderMap;
use tracing::Span;

/// In which header a client names its trace.
const HEADER: &str = "traceparent";
/// Characters of what every version begins with: version, trace, parent and flags, with a `-` between two.
const CHARS: usize = 55;
/// A version that there will never be.
const NO_VERSION: &str = "ff";
/// The version that has nothing behind the flags.
const VERSION: &str = "00";

/// A trace, and what in it caused the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// 32 hexadecimal digits.
    id: String,
    /// The caller's span: 16 hexadecimal digits.
    parent: String,
}

// === impl Trace ===

impl Trace {
    /// By what a message says itself, else by its request's headers.
    pub(crate) fn of(said: Option<&str>, headers: Option<&HeaderMap>) -> Option<Self> {
        said.and_then(Self::parse).or_else(|| headers.and_then(Self::of_headers))
    }

    /// By the header, where there is one.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut sent = headers.get_all(HEADER).iter();
        let first = sent.next()?.to_str().ok()?;
        if sent.next().is_some() { None } else { Self::parse(first) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (known, more) = text.split_at_checked(CHARS)?;
        let parts: Vec<&str> = known.split('-').collect();
        let [version, id, parent, flags] = parts[..] else { return None };
        let is_known = version != NO_VERSION && (more.is_empty() || (version != VERSION && more.starts_with('-')));
        let are_numbers = is_hex(version, 2) && is_hex(id, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        let is_any = |number: &str| number.bytes().any(|digit| digit != b'0');
        (is_known && are_numbers && is_any(id) && is_any(parent))
            .then(|| Self { id: id.to_owned(), parent: parent.to_owned() })
    }

    /// The trace's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The id of the caller's span.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }

    /// What has its lines tell of it.
    pub(crate) fn span(&self) -> Span {
        tracing::error_span!("call", trace_id = self.id(), parent_id = self.parent())
    }
}

/// Small letters alone.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const OTHER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "b7ad6b7169203331";

    fn named(id: &str) -> String {
        format!("00-{id}-{PARENT}-01")
    }

    fn trace(id: &str) -> Trace {
        Trace { id: id.to_owned(), parent: PARENT.to_owned() }
    }

    #[test]
    fn a_trace_is_read_as_the_specification_has_it_and_anything_else_is_none() {
        let check = |text: &str, expected: Option<Trace>| assert_eq!(Trace::parse(text), expected, "{text:?}");
        check(&named(ID), Some(trace(ID)));
        check(&format!("00-{ID}-{PARENT}-00"), Some(trace(ID)));
        check(&format!("cc-{ID}-{PARENT}-01"), Some(trace(ID)));
        check(&format!("cc-{ID}-{PARENT}-01-more"), Some(trace(ID)));
        for none in [
            String::new(),
            ID.to_owned(),
            "é".repeat(CHARS),
            format!("ff-{ID}-{PARENT}-01"),
            format!("0x-{ID}-{PARENT}-01"),
            format!("cc-{ID}-{PARENT}-01more"),
            format!("{}-more", named(ID)),
            format!(" {}", named(ID)),
            named(&ID.to_uppercase()),
            named(&"0".repeat(32)),
            named(&ID[1..]),
            named(&format!("{}é", &ID[2..])),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}-{PARENT}-0g"),
            format!("00-{ID}-{PARENT}--1"),
        ] {
            check(&none, None);
        }
    }

    #[test]
    fn what_the_message_says_counts_more_than_the_header_and_two_headers_are_none() {
        let check = |said: Option<String>, headers: &[String], expected: Option<Trace>| {
            let mut sent = HeaderMap::new();
            for header in headers {
                sent.append(HEADER, HeaderValue::from_str(header).expect("a value"));
            }
            assert_eq!(Trace::of(said.as_deref(), Some(&sent)), expected, "{said:?} {headers:?}");
        };
        check(Some(named(ID)), &[named(OTHER)], Some(trace(ID)));
        check(None, &[named(OTHER)], Some(trace(OTHER)));
        check(Some("nonsense".to_owned()), &[named(OTHER)], Some(trace(OTHER)));
        check(Some(named(ID)), &["nonsense".to_owned()], Some(trace(ID)));
        check(None, &[named(ID), named(OTHER)], None);
        check(None, &[], None);
        assert_eq!(Trace::of(Some(&named(ID)), None), Some(trace(ID)));
    }
}
