//! From the events of a job to an answer: piece by piece, or whole.
//!
//! A stream that breaks ends with an error that says so, never with something that looks like a proper end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::error::ApiError;
use crate::inference::Running;
use crate::pool::JobError;
use crate::protocol::{Event, Outcome};

/// One thing to be written.
#[derive(Debug)]
pub(super) enum Part {
    /// The next piece of text.
    Text(String),
    /// The end.
    End(End),
    /// The end, before its time.
    Broken(ApiError),
}

/// What is known at the end of an answer.
#[derive(Debug)]
pub(super) struct End {
    /// From the runner.
    pub(super) outcome: Outcome,
    /// Time spent on loading.
    pub(super) load: Duration,
    /// When the request arrived.
    pub(super) started: Instant,
}

/// What kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// One JSON object per line.
    Ndjson,
    /// Server-sent events.
    Sse,
}

impl End {
    /// Timings in nanoseconds, those that are zero left out.
    pub(super) fn metrics(&self) -> Map<String, Value> {
        let outcome = &self.outcome;
        let rows = [
            ("total_duration", nanos(self.started.elapsed())),
            ("load_duration", nanos(self.load)),
            ("prompt_eval_count", outcome.prompt_tokens),
            ("prompt_eval_duration", outcome.prompt_ns),
            ("eval_count", outcome.tokens),
            ("eval_duration", outcome.tokens_ns),
        ];
        rows.into_iter().filter(|(_, value)| *value > 0).map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }
}

/// Nanoseconds, as the API counts time.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes each part as `shape` says, when it comes.
pub(super) fn parts(
    running: Running,
    started: Instant,
    wire: Wire,
    shape: impl FnMut(Part) -> String + Send + 'static,
) -> Response {
    let lines = stream::unfold(Some((running, shape)), move |state| async move {
        let (mut running, mut shape) = state?;
        let part = match running.next().await {
            Ok(Event::Text(text)) => return Some((line(shape(Part::Text(text))), Some((running, shape)))),
            Ok(Event::Done(outcome)) => Part::End(End { outcome, load: running.load, started }),
            Ok(_) => Part::Broken(ApiError::lost()),
            Err(error) => Part::Broken(error.into()),
        };
        Some((line(shape(part)), None))
    });
    let kind = match wire {
        Wire::Ndjson => "application/x-ndjson",
        Wire::Sse => "text/event-stream",
    };
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], Body::from_stream(lines)).into_response()
}

fn line(text: String) -> Result<String, Infallible> {
    Ok(text)
}

/// The whole text and how it ended.
pub(super) async fn whole(mut running: Running, started: Instant) -> Result<(String, End), ApiError> {
    let mut text = String::new();
    loop {
        match running.next().await {
            Ok(Event::Text(piece)) => text.push_str(&piece),
            Ok(Event::Done(outcome)) => return Ok((text, End { outcome, load: running.load, started })),
            Ok(_) => return Err(ApiError::lost()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The vectors of an embedding order, and its tokens.
pub(super) async fn vectors(mut running: Running) -> Result<(Vec<Vec<f32>>, u64), ApiError> {
    match running.next().await {
        Ok(Event::Vectors { vectors, tokens }) => Ok((vectors, tokens)),
        Ok(_) => Err(ApiError::lost()),
        Err(error) => Err(JobError::into(error)),
    }
}

/// One line of a native stream.
pub(super) fn native(part: Part, chunk: impl Fn(Option<String>, Option<End>) -> Value) -> String {
    let value = match part {
        Part::Text(text) => chunk(Some(text), None),
        Part::End(end) => chunk(None, Some(end)),
        Part::Broken(error) => error.body(),
    };
    format!("{value}\n")
}

/// A whole native answer.
pub(super) fn object(value: Value) -> Response {
    ([(CONTENT_TYPE, "application/json; charset=utf-8")], value.to_string()).into_response()
}
