//! What a caller is told whose message does not get to the protocol: an error of JSON-RPC, without an id where none was
//! read, under the HTTP status that says the same.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use rmcp::model::TASKS_EXTENSION_ID;
use serde_json::{Value, json};

use ollamax_types::ErrorCode;

use crate::error::{ApiError, ERROR_HEADER};

/// JSON-RPC's code of a text that is no JSON.
pub(crate) const PARSE_ERROR: i32 = -32_700;
/// JSON-RPC's code of JSON that is no request, or that may not be sent.
pub(crate) const INVALID_REQUEST: i32 = -32_600;
/// JSON-RPC's code of a method that there is not.
pub(crate) const METHOD_NOT_FOUND: i32 = -32_601;
/// The protocol's code of headers that contradict the message or each other.
pub(crate) const HEADER_MISMATCH: i32 = -32_020;
/// The protocol's code of what wants a capability that the request does not declare.
pub(crate) const MISSING_CAPABILITY: i32 = -32_021;
/// The protocol's code of a revision that is not spoken.
pub(crate) const UNSUPPORTED_VERSION: i32 = -32_022;
/// JSON-RPC's code of what is not the caller's fault.
const INTERNAL_ERROR: i32 = -32_603;

/// Why a message does not get to the protocol.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) json_rpc: i32,
    error: ApiError,
    /// The request's; null where none was read.
    id: Box<Value>,
    /// What the protocol has beside the code; null: nothing.
    details: Box<Value>,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::of(error)
    }
}

// === impl Refusal ===

impl Refusal {
    /// An error of the door, in the words of JSON-RPC.
    pub(crate) fn of(error: ApiError) -> Self {
        let json_rpc = if error.status < 500 { INVALID_REQUEST } else { INTERNAL_ERROR };
        Self { json_rpc, error, id: Box::default(), details: Box::default() }
    }

    pub(crate) fn not_local() -> Self {
        Self::of(ApiError::not_local())
    }

    pub(crate) fn no_json(error: &serde_json::Error) -> Self {
        let text = format!("the message is no JSON: {error}");
        Self { json_rpc: PARSE_ERROR, ..Self::of(ApiError::new(ErrorCode::BadRequest, text)) }
    }

    pub(crate) fn two_versions() -> Self {
        let text = "the header MCP-Protocol-Version comes more than once";
        Self { json_rpc: HEADER_MISMATCH, ..Self::of(ApiError::new(ErrorCode::BadRequest, text)) }
    }

    /// `id` is the request's; null where it is none.
    pub(crate) fn unsupported(id: Value, requested: &str, supported: &[&str]) -> Self {
        let text = format!("revision {requested} is not spoken here; those that are: {}", supported.join(", "));
        let details = Box::new(json!({"requested": requested, "supported": supported}));
        let error = ApiError::new(ErrorCode::BadRequest, text);
        Self { json_rpc: UNSUPPORTED_VERSION, error, id: Box::new(id), details }
    }

    /// Tasks that a client wants to hear of which does not say that it takes any; `id` is the request's.
    pub(crate) fn undeclared_tasks(id: Value) -> Self {
        let text = format!("who listens for tasks declares the capability {TASKS_EXTENSION_ID} in that request");
        let details = Box::new(json!({"requiredCapabilities": {"extensions": {TASKS_EXTENSION_ID: {}}}}));
        let error = ApiError::new(ErrorCode::BadRequest, text);
        Self { json_rpc: MISSING_CAPABILITY, error, id: Box::new(id), details }
    }

    /// A method that the revision of the request has no more; `id` is the request's.
    pub(crate) fn no_method(id: Value, method: &str, version: &str) -> Self {
        let text = format!("revision {version} has no {method}; server/discover says what there is");
        let error = ApiError { status: 404, ..ApiError::new(ErrorCode::BadRequest, text) };
        Self { json_rpc: METHOD_NOT_FOUND, id: Box::new(id), ..Self::of(error) }
    }

    pub(crate) fn batch() -> Self {
        let text = "several messages in one request are no part of this protocol; send each in a request of its own";
        Self::of(ApiError::new(ErrorCode::BadRequest, text))
    }

    pub(crate) fn no_request() -> Self {
        let text = "the message is no JSON-RPC 2.0 request, notification or answer";
        Self::of(ApiError::new(ErrorCode::BadRequest, text))
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let Self { json_rpc, error, id, details } = self;
        let mut data = json!({"code": error.code.as_str()});
        if let Value::Object(details) = *details {
            for (name, value) in details {
                data[name] = value;
            }
        }
        let error_json = json!({"code": json_rpc, "message": error.message, "data": data});
        let body = json!({"jsonrpc": "2.0", "id": id, "error": error_json});
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(error.code.as_str()));
        if let Some(after) = error.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}
