//! From the errors of the engines to what a client sees: code, status and text, in the shape of the route's protocol.
//!
//! One `match` per engine error, without a catch-all arm: a new variant does not compile until it has an answer here.
//! The text goes into the protocol's own error body, so that stock clients show it; the code goes into the header
//! `X-OllamaMax-Error`, since Ollama's and OpenAI's bodies have no place for it. `Retry-After` is sent only where
//! waiting helps.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use ollamax_core::catalog::Fault;
use ollamax_scheduler::DispatchError;
use ollamax_transfer::PullError;
use ollamax_types::{Api, ErrorCode};

use crate::ports::Node;

/// Carries the code's text form on every error answer.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-ollamamax-error");

/// Whose error body a route speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `{"error":"…"}`
    Ollama,
    /// `{"error":{"message","type","param","code"}}`
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`
    Anthropic,
}

/// An error on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its place in the table of codes.
    pub code: ErrorCode,
    /// The HTTP status: the code's own, unless the protocol of the route wants another.
    pub status: u16,
    /// What the client reads.
    pub message: String,
    /// When to try again, where waiting helps.
    pub retry_after: Option<Duration>,
}

#[derive(Serialize)]
struct OllamaBody<'a> {
    error: &'a str,
}

#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct AnthropicBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

// === impl Shape ===

impl Shape {
    /// The shape of a routed call.
    #[must_use]
    pub const fn of(api: Api) -> Self {
        match api {
            Api::Generate | Api::Chat | Api::Embed | Api::Show => Self::Ollama,
            Api::OpenAiChat | Api::OpenAiEmbeddings => Self::OpenAi,
        }
    }

    /// The shape of any path.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        match path {
            _ if path.starts_with("/v1/messages") => Self::Anthropic,
            _ if path.starts_with("/v1/") => Self::OpenAi,
            _ => Self::Ollama,
        }
    }

    /// The body for a status and text.
    #[must_use]
    pub fn body(self, status: u16, message: &str) -> String {
        let body = match self {
            Self::Ollama => serde_json::to_string(&OllamaBody { error: message }),
            Self::OpenAi => {
                let error = OpenAiError { message, kind: openai_type(status), param: None, code: None };
                serde_json::to_string(&OpenAiBody { error })
            }
            Self::Anthropic => {
                let error = AnthropicError { kind: anthropic_type(status), message };
                serde_json::to_string(&AnthropicBody { kind: "error", error })
            }
        };
        body.expect("texts always serialise")
    }
}

const fn openai_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    }
}

const fn anthropic_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}

// === impl ApiError ===

impl ApiError {
    /// An error with the code's own status.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, status: code.http_status(), message: message.into(), retry_after: None }
    }

    /// The node belongs to no cluster: nothing can be answered, and waiting for the administrator helps.
    #[must_use]
    pub fn not_initialised() -> Self {
        let text = "this node belongs to no cluster; `ollamax status` on it says what to do \
                    (on a new one `ollamax init`, or `ollamax join TOKEN`)";
        Self { status: 503, retry_after: Some(Duration::from_secs(30)), ..Self::new(ErrorCode::NotInitialised, text) }
    }

    /// The node has no engines: it is a member that starts, or belongs to no cluster.
    #[must_use]
    pub fn without_engines(node: &dyn Node) -> Self {
        if !node.is_starting() {
            return Self::not_initialised();
        }
        let text = "this node is starting: it reads the state of its cluster from its disk";
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::new(ErrorCode::Starting, text) }
    }

    /// Tools are for programs on this machine, as long as callers have no keys.
    #[must_use]
    pub fn not_local() -> Self {
        let text = "tools are called by programs on this machine alone, over the loopback address and without a proxy: \
                    callers have no keys in this release; run yours on the node, or forward the port: ssh -L \
                    11435:127.0.0.1:11435 NODE";
        Self::new(ErrorCode::Forbidden, text)
    }

    /// A bound of this door was reached.
    #[must_use]
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self { retry_after: Some(Duration::from_secs(10)), ..Self::new(ErrorCode::Overloaded, message) }
    }

    /// One caller asks too often: not this door is full, and nobody else has to wait.
    #[must_use]
    pub fn too_often(code: ErrorCode, message: impl Into<String>, after: Duration) -> Self {
        // Who comes back a part of a second too early is refused again.
        let whole = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
        Self { status: 429, retry_after: Some(Duration::from_secs(whole)), ..Self::new(code, message) }
    }

    /// Nobody answered; `sent` is the model as the client wrote it. Not-found texts are Ollama's, three variants.
    #[must_use]
    pub fn of_dispatch(api: Api, sent: &str, error: &DispatchError) -> Self {
        let code = error.code();
        match error {
            DispatchError::ModelNotFound { model } => Self::model_not_found(api, sent, &model.to_string()),
            DispatchError::Exhausted { model, .. } if code == ErrorCode::ModelNotFound => {
                Self::model_not_found(api, sent, &model.to_string())
            }
            DispatchError::Placements(_) | DispatchError::Exhausted { .. } => {
                Self { retry_after: error.retry_after(), ..Self::new(code, error.to_string()) }
            }
        }
    }

    /// The model was taken out of use; `sent` is the model as the client wrote it.
    #[must_use]
    pub fn disabled(sent: &str, note: &str) -> Self {
        let why = if note.is_empty() { String::new() } else { format!(": {note}") };
        Self::new(ErrorCode::Forbidden, format!("{sent} is disabled{why}"))
    }

    /// A pull that did not happen, told at its end: Ollama's status is always 500, the code says more.
    #[must_use]
    pub fn of_pull(error: &PullError) -> Self {
        Self { status: 500, ..Self::new(error.code(), words_of(error)) }
    }

    /// Ollama's texts for a model that nobody has.
    #[must_use]
    pub fn model_not_found(api: Api, sent: &str, canonical: &str) -> Self {
        let text = match api {
            Api::Generate | Api::Chat | Api::OpenAiChat => format!("model '{sent}' not found"),
            Api::Embed | Api::OpenAiEmbeddings if sent.is_empty() => "model '' not found".to_owned(),
            Api::Embed | Api::OpenAiEmbeddings => format!("model {sent:?} not found, try pulling it first"),
            Api::Show => format!("model '{canonical}' not found"),
        };
        Self::new(ErrorCode::ModelNotFound, text)
    }

    /// The answer in the shape of a route's protocol.
    #[must_use]
    pub fn into_response(self, shape: Shape) -> Response<Body> {
        let body = shape.body(self.status, &self.message);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(self.code.as_str()));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

/// Why a pull did not happen, in the words of the node that pulled: whoever asks is told apart which one that is.
pub(crate) fn words_of(error: &PullError) -> String {
    match error {
        PullError::Elsewhere { code, text, .. } if *code != ErrorCode::PeerUnreachable => text.clone(),
        other => other.to_string(),
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        let code = match &fault {
            Fault::Unreadable { .. } => ErrorCode::StorageFailed,
            Fault::Mismatch { .. } | Fault::Invariant(_) => ErrorCode::StorageCorrupt,
        };
        Self::new(code, format!("the state of this node cannot be read: {fault}; run `ollamax doctor` there"))
    }
}

#[cfg(test)]
mod tests {
    use ollamax_scheduler::{NodeReason, Reason};
    use ollamax_types::NodeId;

    use super::*;
    use crate::mem::MemNode;

    fn check(api: Api, sent: &str, expected: &str) {
        let model = "Me/M".parse().expect("valid");
        let error = ApiError::of_dispatch(api, sent, &DispatchError::ModelNotFound { model });
        assert_eq!((error.status, Shape::of(api).body(error.status, &error.message).as_str()), (404, expected));
    }

    #[test]
    fn not_found_texts_are_ollamas_three_variants() {
        check(Api::Chat, "Me/M", r#"{"error":"model 'Me/M' not found"}"#);
        check(Api::Generate, "Me/M", r#"{"error":"model 'Me/M' not found"}"#);
        check(Api::Embed, "Me/M", r#"{"error":"model \"Me/M\" not found, try pulling it first"}"#);
        check(Api::Show, "Me/M", r#"{"error":"model 'Me/M:latest' not found"}"#);
        let chat =
            r#"{"error":{"message":"model 'Me/M' not found","type":"not_found_error","param":null,"code":null}}"#;
        check(Api::OpenAiChat, "Me/M", chat);
    }

    #[test]
    fn waiting_is_advised_only_where_it_helps() {
        let exhausted = |reason| DispatchError::Exhausted {
            model: "m".parse().expect("valid"),
            nodes: vec![NodeReason { node: NodeId(1), reason, detail: String::new() }],
        };
        let check = |reason, status: u16, code: &str, retry: Option<&str>| {
            let response = ApiError::of_dispatch(Api::Chat, "m", &exhausted(reason)).into_response(Shape::Ollama);
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(
                (response.status().as_u16(), header("x-ollamamax-error"), header("retry-after")),
                (status, Some(code), retry)
            );
        };
        check(Reason::Overloaded, 503, "overloaded", Some("10"));
        check(Reason::NodeOffline, 503, "runtime_unavailable", Some("60"));
        check(Reason::RunnerCrashed, 502, "runtime_failed", None);
        check(Reason::StalePlacement, 404, "model_not_found", None);
    }

    #[test]
    fn who_asks_too_often_is_told_the_whole_seconds_after_which_there_is_room() {
        let check = |after_ms: u64, expected: &str| {
            let error = ApiError::too_often(ErrorCode::Overloaded, "slowly", Duration::from_millis(after_ms));
            let response = error.into_response(Shape::Ollama);
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(response.status().as_u16(), 429, "{after_ms}");
            assert_eq!((header("x-ollamamax-error"), header("retry-after")), (Some("overloaded"), Some(expected)));
        };
        check(0, "1");
        check(100, "1");
        check(1_000, "1");
        check(1_001, "2");
        check(59_900, "60");
    }

    #[test]
    fn a_pull_that_failed_has_ollamas_status_and_its_own_code() {
        let response = ApiError::of_pull(&PullError::Cancelled).into_response(Shape::Ollama);
        let code = response.headers().get(ERROR_HEADER).map(|value| value.to_str().expect("text"));
        assert_eq!((response.status().as_u16(), code), (500, Some("pull_cancelled")));
        let words = |code| words_of(&PullError::Elsewhere { node: NodeId(2), code, text: "gone".to_owned() });
        assert_eq!(words(ErrorCode::ModelNotFound), "gone");
        assert_eq!(words(ErrorCode::PeerUnreachable), "node 2: gone");
    }

    #[test]
    fn a_member_that_starts_is_not_told_as_one_of_no_cluster() {
        let node = MemNode::new("n1");
        let check = |is_starting: bool, code: &str, retry: &str| {
            node.set_starting(is_starting);
            let response = ApiError::without_engines(&node).into_response(Shape::Ollama);
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(response.status().as_u16(), 503, "{code}");
            assert_eq!((header("x-ollamamax-error"), header("retry-after")), (Some(code), Some(retry)));
        };
        check(true, "starting", "1");
        check(false, "not_initialised", "30");
    }

    #[test]
    fn every_shape_says_the_type_of_its_protocol() {
        let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
        assert_eq!(Shape::of_path("/v1/messages").body(503, "m"), anthropic);
        let openai = r#"{"error":{"message":"m","type":"api_error","param":null,"code":null}}"#;
        assert_eq!(Shape::of_path("/v1/completions").body(503, "m"), openai);
        assert_eq!(Shape::of_path("/api/push").body(501, "say \"m\""), r#"{"error":"say \"m\""}"#);
    }

    #[test]
    fn every_code_has_its_section_in_the_papers() {
        let papers = include_str!("../../../../docs/api/errors.md");
        for code in ErrorCode::ALL {
            let start =
                papers.find(&format!("\n## `{code}`\n")).unwrap_or_else(|| unreachable!("no section for {code}"));
            let section = papers[start + 1..].split("\n## ").next().expect("a section");
            let retry = if code.is_retryable() { "retry: yes" } else { "retry: no" };
            let facts = [format!("HTTP {} ", code.http_status()), retry.to_owned()];
            for text in facts.iter().map(String::as_str).chain(["**What happened.**", "**What to do.**"]) {
                assert!(section.contains(text), "{code}: no {text:?}");
            }
        }
        assert_eq!(papers.matches("\n## `").count(), ErrorCode::ALL.len());
    }
}
