//! What a machine is told that gets nothing: status, the registry protocol's word, and a text for people.
//!
//! Ollama's client shows the whole body behind the status, so the text is the one that helps. The code of this program
//! goes into its header, where there is one. Waiting is advised only where it helps.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use ollamax_core::catalog::Fault;
use ollamax_transfer::PullError;
use ollamax_types::{Digest, ErrorCode};

use crate::error::{ApiError, ERROR_HEADER, words_of};
use crate::ports::Node;

/// When to ask again, seconds.
const RETRY_AFTER_SECONDS: u64 = 10;

/// An error on its way to a machine that pulls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    word: &'static str,
    message: String,
    code: Option<ErrorCode>,
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [Told<'a>; 1],
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'static str,
    message: &'a str,
}

// === impl Refusal ===

impl Refusal {
    fn new(status: StatusCode, word: &'static str, message: impl Into<String>) -> Self {
        Self { status, word, message: message.into(), code: None }
    }

    /// No network of `registry.allow` has the client.
    pub(super) fn stranger(client: Option<IpAddr>) -> Self {
        let client = client.map_or_else(|| "this machine".to_owned(), |client| client.to_canonical().to_string());
        Self::new(StatusCode::FORBIDDEN, "DENIED", format!("{client} is in no network of registry.allow"))
    }

    /// Nothing can be changed here.
    pub(super) fn read_only() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only")
    }

    /// No address of a registry.
    pub(super) fn no_place() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "404 page not found")
    }

    /// A name that no model can have.
    pub(super) fn no_name(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("{text:?} is no model name"))
    }

    /// Nobody has the model.
    pub(super) fn no_model(name: &str) -> Self {
        let code = Some(ErrorCode::ModelNotFound);
        let text = format!("{name}: file does not exist");
        Self { code, ..Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", text) }
    }

    /// A file that is not here, or not any more.
    pub(super) fn no_file(sha256: Digest) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("sha256:{sha256} is not here"))
    }

    /// The node is no member, or one that starts.
    pub(super) fn without_engines(node: &dyn Node) -> Self {
        let error = ApiError::without_engines(node);
        Self { code: Some(error.code), ..Self::unavailable(error.message) }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
    }

    /// Why a model is not given.
    pub(super) fn of_pull(name: &str, error: &PullError) -> Self {
        let code = error.code();
        if code == ErrorCode::ModelNotFound {
            return Self::no_model(name);
        }
        let of_origin = [ErrorCode::OriginFailed, ErrorCode::OriginRefused, ErrorCode::ManifestInvalid];
        let refusal = if of_origin.contains(&code) {
            Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", words_of(error))
        } else {
            // All else lies with this node or its cluster, and may be otherwise later.
            Self::unavailable(words_of(error))
        };
        Self { code: Some(code), ..refusal }
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response<Body> {
        let errors = [Told { code: self.word, message: &self.message }];
        let body = serde_json::to_string(&Errors { errors }).expect("texts always serialise");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if let Some(code) = self.code {
            headers.insert(ERROR_HEADER, HeaderValue::from_static(code.as_str()));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let error = ApiError::from(fault);
        Self { code: Some(error.code), ..Self::unavailable(error.message) }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_transfer::{OriginError, OriginTrouble};

    use super::*;

    #[test]
    fn why_a_model_is_not_given_decides_what_is_answered() {
        let origin = |kind, code| PullError::Manifest(OriginError { kind, code, text: "why".to_owned() });
        let check = |error: &PullError, status: u16, code: &str, retry: Option<&str>| {
            let response = Refusal::of_pull("demo:1b", error).into_response();
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
            let found = (response.status().as_u16(), header("x-ollamamax-error"), header("retry-after"));
            assert_eq!(found, (status, Some(code), retry), "{error}");
        };
        check(&origin(OriginTrouble::Absent, ErrorCode::ModelNotFound), 404, "model_not_found", None);
        check(&origin(OriginTrouble::Busy { after_ms: None }, ErrorCode::OriginFailed), 502, "origin_failed", None);
        check(&PullError::TooMany(64, 64), 503, "overloaded", Some("10"));
        check(&PullError::Stopping, 503, "draining", Some("10"));
        check(&PullError::NoStore("no runtime".to_owned()), 503, "runtime_unavailable", Some("10"));
        let full = PullError::DiskFull { place: "/m".to_owned(), reason: "no space".to_owned() };
        check(&full, 503, "disk_full", Some("10"));
    }

    #[test]
    fn texts_are_in_the_words_of_a_registry() {
        let check = |refusal: Refusal, word: &str, message: &str| {
            assert_eq!((refusal.word, refusal.message.as_str()), (word, message));
        };
        let client = Some("::ffff:8.8.8.8".parse().expect("an address"));
        check(Refusal::stranger(client), "DENIED", "8.8.8.8 is in no network of registry.allow");
        check(Refusal::no_name("a b"), "NAME_INVALID", "\"a b\" is no model name");
        check(Refusal::no_model("demo:1b"), "MANIFEST_UNKNOWN", "demo:1b: file does not exist");
        let text = format!("sha256:{} is not here", "07".repeat(32));
        check(Refusal::no_file(Digest([7; 32])), "BLOB_UNKNOWN", &text);
    }
}
