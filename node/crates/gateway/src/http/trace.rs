//! Where clients name the trace of a request, and what the node's lines tell of it.
//!
//! Pure. What is malformed is as if it were not there. What goes along to other nodes and to the runtime is the trace
//! under the request's own span; spans themselves are sent nowhere: they are found in the log.

use axum::http::{HeaderMap, HeaderValue};
use tracing::Span;

use ollamax_types::Trace;

/// The trace by what a message says itself, with its state, else by its request's headers.
pub(crate) fn of(said: Option<&str>, state: Option<&str>, headers: Option<&HeaderMap>) -> Option<Trace> {
    let said = said.and_then(Trace::parse).map(|trace| trace.with_state(state.unwrap_or_default()));
    said.or_else(|| headers.and_then(of_headers))
}

/// The trace by the headers, where they name one; a state may stand in several.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Trace> {
    let mut sent = headers.get_all(Trace::HEADER).iter();
    let trace = Trace::parse(sent.next()?.to_str().ok()?)?;
    if sent.next().is_some() {
        return None;
    }
    let states = headers.get_all(Trace::STATE_HEADER).iter().map(HeaderValue::to_str);
    // One that is no text spoils the whole, as it does in one header.
    let states: Vec<&str> = states.collect::<Result<_, _>>().unwrap_or_default();
    Some(trace.with_state(&states.join(",")))
}

/// What has the lines of a call tell of its trace, and of the span under which it goes on.
pub(crate) fn span(said: &Trace, own: &Trace) -> Span {
    tracing::error_span!("call", trace_id = said.id(), parent_id = said.parent(), span_id = own.parent())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    const OTHER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn named(id: &str) -> String {
        format!("00-{id}-b7ad6b7169203331-01")
    }

    fn with(name: &'static str, values: &[&[u8]]) -> HeaderMap {
        let mut sent = HeaderMap::new();
        for value in values {
            sent.append(name, HeaderValue::from_bytes(value).expect("a value"));
        }
        sent
    }

    #[test]
    fn what_the_message_says_counts_more_than_the_header_and_two_headers_are_none() {
        let check = |said: Option<String>, headers: &[String], expected: Option<&str>| {
            let headers: Vec<&[u8]> = headers.iter().map(String::as_bytes).collect();
            let found = of(said.as_deref(), None, Some(&with(Trace::HEADER, &headers)));
            assert_eq!(found.as_ref().map(Trace::id), expected, "{said:?}");
        };
        check(Some(named(ID)), &[named(OTHER)], Some(ID));
        check(None, &[named(OTHER)], Some(OTHER));
        check(Some("nonsense".to_owned()), &[named(OTHER)], Some(OTHER));
        check(Some(named(ID)), &["nonsense".to_owned()], Some(ID));
        check(None, &[named(ID), named(OTHER)], None);
        check(None, &[], None);
        assert_eq!(of(Some(&named(ID)), None, None).as_ref().map(Trace::id), Some(ID));
    }

    #[test]
    fn a_state_belongs_to_the_trace_beside_it_and_several_headers_are_one() {
        let check = |said: Option<&str>, state: Option<&str>, states: &[&[u8]], expected: &str| {
            let mut headers = with(Trace::STATE_HEADER, states);
            headers.insert(Trace::HEADER, HeaderValue::from_str(&named(OTHER)).expect("a value"));
            let found = of(said, state, Some(&headers)).expect("a trace");
            assert_eq!(found.state(), expected, "{said:?} {state:?} {states:?}");
        };
        let own = named(ID);
        check(Some(&own), Some("a=1"), &[b"b=2"], "a=1");
        check(Some(&own), None, &[b"b=2"], "");
        check(None, Some("a=1"), &[b"b=2", b"c=3"], "b=2,c=3");
        check(None, None, &[b"b=2", "c=é".as_bytes()], "");
        check(None, None, &[], "");
    }
}
