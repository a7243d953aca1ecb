//! Routes of Ollama, OpenAI and Anthropic that this door does not serve: 501, and what to use instead. Those that
//! change models are served on the administrator's socket, which they name.

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;

use ollamax_types::ErrorCode;

use crate::error::{ApiError, Shape};

/// Their paths.
pub(crate) const PATHS: [&str; 19] = [
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
];

/// Says so.
pub(crate) async fn answer(request: Request) -> Response<Body> {
    let path = request.uri().path();
    let instead = instead_of(path);
    let text = if is_on_the_socket(path) {
        format!(
            "{path}: this is for administrators; use: {instead}; or send it to the admin socket: \
             curl --unix-socket DATA_DIR/admin.sock http://localhost{path}"
        )
    } else {
        format!("{path}: this release serves inference, reads and pulls; use: {instead}")
    };
    ApiError::new(ErrorCode::NotImplemented, text).into_response(Shape::of_path(path))
}

/// Whether the administrator's door has it.
fn is_on_the_socket(path: &str) -> bool {
    matches!(path, "/api/push" | "/api/create" | "/api/copy" | "/api/delete") || path.starts_with("/api/blobs/")
}

fn instead_of(path: &str) -> &'static str {
    match path {
        "/api/copy" => "ollamax model tag NAME NEW",
        "/api/delete" => "ollamax model rm NAME",
        "/api/push" => "ollamax model push NAME",
        "/api/embeddings" => "/api/embed",
        "/v1/completions" => "/api/generate, or /v1/chat/completions",
        "/v1/responses" | "/v1/messages" => "/v1/chat/completions",
        "/api/create" => "ollamax model create NAME --modelfile FILE",
        _ if path.starts_with("/api/blobs/") => "ollamax model create NAME FILE.gguf",
        _ => "the routes that docs/api/routes.md lists",
    }
}
