//! Work that is told line by line in Ollama's words, or by its end alone: pulls, and what makes and gives models.
//!
//! Lines go out as they come. The last one is success or an error; whoever tells the lines sees to that.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};
use serde::Serialize;

/// The status of the last line.
pub(crate) const SUCCESS: &str = "success";

/// One line, its keys in Ollama's order. What is empty or zero is left out, as Go does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Line {
    Step {
        status: &'static str,
    },
    Blob {
        status: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        digest: String,
        #[serde(skip_serializing_if = "is_zero")]
        total: u64,
        #[serde(skip_serializing_if = "is_zero")]
        completed: u64,
    },
    Error {
        error: String,
    },
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Each in a line of its own.
pub(crate) fn text(lines: &[Line]) -> String {
    let line = |line: &Line| serde_json::to_string(line).expect("texts and numbers can be written") + "\n";
    lines.iter().map(line).collect()
}

/// Lines, as they come; no piece may be empty.
pub(crate) fn streamed(pieces: impl Stream<Item = String> + Send + 'static) -> Response<Body> {
    let pieces = pieces.map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    answered(Body::from_stream(pieces), "application/x-ndjson")
}

/// The answer to who wanted the end alone, and it is a good one.
pub(crate) fn succeeded() -> Response<Body> {
    let done = text(&[Line::Step { status: SUCCESS }]);
    answered(Body::from(done.trim_end().to_owned()), "application/json; charset=utf-8")
}

fn answered(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
