//! Routes of Ollama, OpenAI and Anthropic that this release does not serve: 501, and what to use instead.

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;

use ollamax_types::ErrorCode;

use crate::error::{ApiError, Shape};

/// Their paths.
pub(crate) const PATHS: [&str; 20] = [
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs/{digest}",
    "/api/embeddings",
    "/api/status",
    "/api/me",
    "/api/signout",
    "/api/user/keys/{key}",
    "/api/experimental/web_search",
    "/api/experimental/web_fetch",
    "/api/experimental/model-recommendations",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/images/generations",
    "/v1/images/edits",
    "/mcp",
];

/// Says so.
pub(crate) async fn answer(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let text = format!("{path}: this release serves inference, reads and pulls; use: {}", instead_of(path));
    ApiError::new(ErrorCode::NotImplemented, text).into_response(Shape::of_path(path))
}

fn instead_of(path: &str) -> &'static str {
    match path {
        "/api/copy" => "ollamax model tag NAME NEW",
        "/api/delete" => "ollamax model rm NAME",
        "/api/push" => "the Ollama beside the node that holds the model",
        "/api/embeddings" => "/api/embed",
        "/v1/completions" => "/api/generate, or /v1/chat/completions",
        "/v1/responses" | "/v1/messages" => "/v1/chat/completions",
        "/api/create" => "ollamax model import FILE --name NAME",
        _ if path.starts_with("/api/blobs/") => "ollamax model import FILE --name NAME",
        _ => "the routes that docs/api/routes.md lists",
    }
}
