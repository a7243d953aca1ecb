//! What a caller is told whose message does not get to the protocol: an error of JSON-RPC without an id, since no id
//! was read, under the HTTP status that says the same.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use ollamax_types::ErrorCode;

use crate::error::{ApiError, ERROR_HEADER};

/// JSON-RPC's code of a text that is no JSON.
pub(crate) const PARSE_ERROR: i32 = -32_700;
/// JSON-RPC's code of JSON that is no request, or that may not be sent.
pub(crate) const INVALID_REQUEST: i32 = -32_600;
/// JSON-RPC's code of what is not the caller's fault.
const INTERNAL_ERROR: i32 = -32_603;

/// Why a message does not get to the protocol.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) json_rpc: i32,
    error: ApiError,
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
        Self { json_rpc, error }
    }

    pub(crate) fn not_local() -> Self {
        Self::of(ApiError::not_local())
    }

    pub(crate) fn no_json(error: &serde_json::Error) -> Self {
        let text = format!("the message is no JSON: {error}");
        Self { json_rpc: PARSE_ERROR, error: ApiError::new(ErrorCode::BadRequest, text) }
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
        let Self { json_rpc, error } = self;
        let body = json!({
            "jsonrpc": "2.0",
            "id": null,
            "error": {"code": json_rpc, "message": error.message, "data": {"code": error.code.as_str()}},
        });
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
