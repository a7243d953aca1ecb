//! What an answer of the runtime means for the cluster: an answer, or a reason to ask another node.
//!
//! Only error statuses are looked at, and only their first `RUNTIME_ERROR_BYTES_MAX` bytes; what turns out to be an
//! answer flows on with those bytes in front.

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use serde_json::Value;

use ollamax_types::limits::RUNTIME_ERROR_BYTES_MAX;

use crate::response::{Broken, Response};

/// Texts by which Ollama says that the process behind a model died.
const RUNNER_DIED: [&str; 5] = [
    "model runner has unexpectedly stopped",
    "runner process has terminated",
    "runner process no longer running",
    "runner terminated",
    "an error was encountered while running the model",
];

/// What is to be done with an answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is the client's.
    Answer(Response),
    /// The runtime's own queue is full; its text.
    NoRoom(String),
    /// The runtime does not know the model.
    NoModel,
    /// The model's runner died on the request; the runtime's text.
    RunnerDied(String),
}

pub(super) async fn of(response: Response) -> Verdict {
    if !matches!(response.status, 404 | 500..) {
        return Verdict::Answer(response);
    }
    let (text, response) = peek(response).await;
    let message = error_message(&text);
    match response.status {
        503 => Verdict::NoRoom(message),
        404 if message.contains("not found") && message.contains("model") => Verdict::NoModel,
        404 => Verdict::Answer(response),
        _ if RUNNER_DIED.iter().any(|sign| message.contains(sign)) => Verdict::RunnerDied(message),
        _ => Verdict::Answer(response),
    }
}

/// Reads the start of an error body, and gives back an answer that still has all of it.
async fn peek(mut response: Response) -> (Bytes, Response) {
    let mut read: Vec<Result<Bytes, Broken>> = Vec::new();
    let mut text = BytesMut::new();
    while text.len() < RUNTIME_ERROR_BYTES_MAX {
        let Some(part) = response.body.next().await else { break };
        let broken = part.is_err();
        if let Ok(bytes) = &part {
            text.extend_from_slice(bytes);
        }
        read.push(part);
        if broken {
            break;
        }
    }
    let body = stream::iter(read).chain(response.body).boxed();
    (text.freeze(), Response { body, ..response })
}

/// The text of `{"error": "…"}` or `{"error": {"message": "…"}}`, else the body itself, cut short.
fn error_message(body: &[u8]) -> String {
    const SHOWN_CHARS: usize = 500;
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let error = json.as_ref().and_then(|json| json.get("error"));
    let message = error.and_then(|error| error.as_str().or_else(|| error.get("message")?.as_str()));
    let text = message.map_or_else(|| String::from_utf8_lossy(body).trim().to_owned(), str::to_owned);
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use ollamax_types::NodeId;

    fn response(status: u16, parts: &[&str]) -> Response {
        let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from((*part).to_owned()))).collect();
        Response { status, headers: vec![], node: NodeId(1), body: stream::iter(parts).boxed() }
    }

    async fn check(status: u16, parts: &[&str], expected: &str) {
        let shown = match of(response(status, parts)).await {
            Verdict::Answer(answer) => {
                let body: Vec<Bytes> = answer.body.try_collect().await.expect("whole");
                assert_eq!(body.concat(), parts.concat().into_bytes(), "an answer keeps every byte");
                "answer".to_owned()
            }
            Verdict::NoRoom(text) => format!("no room: {text}"),
            Verdict::NoModel => "no model".to_owned(),
            Verdict::RunnerDied(text) => format!("died: {text}"),
        };
        assert_eq!(shown, expected, "{status} {parts:?}");
    }

    #[tokio::test]
    async fn tells_refusals_from_answers() {
        check(200, &["{\"error\":", "\"model 'm' not found\"}"], "answer").await;
        check(400, &[r#"{"error":"model is required"}"#], "answer").await;
        check(404, &[r#"{"error":"model ", "'m' not found"}"#], "no model").await;
        check(404, &[r#"{"error":"model 'm' "#, r#"not found"}"#], "no model").await;
        check(404, &[r#"{"error":{"message":"model 'm' not found","type":"not_found_error"}}"#], "no model").await;
        check(404, &["404 page not found"], "answer").await;
        check(503, &[r#"{"error":"server busy, please try again."}"#], "no room: server busy, please try again.").await;
        check(503, &[], "no room: ").await;
        let died = "model runner has unexpectedly stopped, this may be due to resource limitations";
        check(500, &[&format!(r#"{{"error":"{died}"}}"#)], &format!("died: {died}")).await;
        check(500, &[r#"{"error":"unable to load model"}"#], "answer").await;
        check(502, &["<html>"], "answer").await;
    }

    #[tokio::test]
    async fn a_long_error_flows_on_whole_and_is_shown_short() {
        let long = "x".repeat(RUNTIME_ERROR_BYTES_MAX);
        check(500, &[&long, "tail"], "answer").await;
        check(503, &[&long], &format!("no room: {}", "x".repeat(500))).await;
    }
}
