//! Every error of a request: its status, and its shape in Ollama's and in OpenAI's words.

use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::inference::InferenceError;
use crate::pool::{AcquireError, JobError};
use crate::store::{CreateError, StoreError, UploadError};

/// What a client is told instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// One line.
    pub(super) message: String,
}

/// The same, in OpenAI's shape.
#[derive(Debug)]
pub(super) struct OpenAiError(pub(super) ApiError);

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The work on a blocking thread came to nothing: it panicked, or the server ends.
    pub(super) fn lost() -> Self {
        Self::internal("the request could not be completed; see the log of ollamax-engine")
    }

    /// Ollama's shape.
    pub(super) fn body(&self) -> Value {
        json!({"error": self.message})
    }

    /// OpenAI's shape.
    pub(super) fn openai_body(&self) -> Value {
        let kind = match self.status {
            StatusCode::BAD_REQUEST => "invalid_request_error",
            StatusCode::NOT_FOUND => "not_found_error",
            _ => "api_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": null, "code": null}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = self.message, "request failed");
        }
        answer(self.status, &self.body())
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        if self.0.status.is_server_error() {
            tracing::warn!(status = self.0.status.as_u16(), error = self.0.message, "request failed");
        }
        answer(self.0.status, &self.0.openai_body())
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<InferenceError> for ApiError {
    fn from(error: InferenceError) -> Self {
        let status = match &error {
            InferenceError::InvalidName | InferenceError::Unsupported { .. } => StatusCode::BAD_REQUEST,
            InferenceError::NotFound(_) => StatusCode::NOT_FOUND,
            // Ollama answers a wrong type of an option with 500, and clients know that.
            InferenceError::Option(_) => StatusCode::INTERNAL_SERVER_ERROR,
            InferenceError::Store(error) => status_of_store(error),
            InferenceError::Acquire(AcquireError::Busy | AcquireError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
            InferenceError::Acquire(AcquireError::Load(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            InferenceError::Job(error) => status_of_job(error),
        };
        Self::new(status, error.to_string())
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        Self::new(status_of_job(&error), error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::new(status_of_store(&error), error.to_string())
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let status = match error {
            UploadError::Mismatch { .. } => StatusCode::BAD_REQUEST,
            UploadError::Full => StatusCode::INSUFFICIENT_STORAGE,
            UploadError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let status = match &error {
            CreateError::NoBlob(_) | CreateError::Gguf(_) | CreateError::Template(_) => StatusCode::BAD_REQUEST,
            CreateError::NoModel(_) => StatusCode::NOT_FOUND,
            CreateError::Store(error) => status_of_store(error),
        };
        Self::new(status, error.to_string())
    }
}

fn status_of_store(error: &StoreError) -> StatusCode {
    match error {
        StoreError::NotFound => StatusCode::NOT_FOUND,
        error if error.is_full() => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Io { .. } | StoreError::Manifest { .. } | StoreError::Weights { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

fn status_of_job(error: &JobError) -> StatusCode {
    match error {
        JobError::Request(_) => StatusCode::BAD_REQUEST,
        JobError::Runner(_) | JobError::Stopped(_) | JobError::Stuck => StatusCode::INTERNAL_SERVER_ERROR,
        JobError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_queue_may_be_asked_again() {
        let error = ApiError::from(InferenceError::Acquire(AcquireError::Busy));
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.message, "server busy, please try again.  maximum pending requests exceeded");
    }

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let check = |error: io::Error, status: StatusCode| {
            let error = ApiError::from(UploadError::from(error));
            assert_eq!(error.status, status, "{}", error.message);
        };
        check(io::Error::from(io::ErrorKind::StorageFull), StatusCode::INSUFFICIENT_STORAGE);
        check(io::Error::from(io::ErrorKind::QuotaExceeded), StatusCode::INSUFFICIENT_STORAGE);
        check(io::Error::from(io::ErrorKind::PermissionDenied), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
