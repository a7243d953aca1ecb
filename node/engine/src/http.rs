//! The HTTP door: Ollama's routes, texts and statuses, and OpenAI's beside them.
//!
//! Handlers translate and nothing else. Bodies are read whole up to a bound, except uploads, which are streamed. Every
//! answer says `Server: ollamax-engine/VERSION`; `/api/version` says which Ollama the answers are those of. A handler
//! that panics costs its own request.

mod blobs;
mod body;
mod callers;
mod chat;
mod copy;
mod create;
mod delete;
mod edge;
mod embed;
mod error;
mod generate;
mod json_fault;
mod lists;
mod openai;
mod show;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CONTENT_TYPE, SERVER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, head, post};
use serde_json::json;

use crate::http::callers::Callers;
use crate::inference::Engine;

/// The Ollama whose API is spoken here. Clients and the cluster compare this number with those of real Ollamas.
const SPEAKS_OLLAMA: &str = "0.24.0";

/// All routes; `on_loopback` turns on the check of the Host header.
pub(crate) fn router(engine: Engine, on_loopback: bool) -> Router {
    let callers = Arc::new(Callers {
        checks_hosts: on_loopback,
        hostname: callers::hostname(),
        origins: Vec::new(),
        is_own: callers::is_own_address,
    });
    let router = Router::new()
        .route("/", get(|| async { "Ollama is running" }))
        .route("/api/version", get(|| async { stream::object(json!({"version": SPEAKS_OLLAMA})) }))
        .route("/api/tags", get(lists::tags))
        .route("/api/ps", get(lists::ps))
        .route("/api/show", post(show::show))
        .route("/api/generate", post(generate::generate))
        .route("/api/chat", post(chat::chat))
        .route("/api/embed", post(embed::embed))
        .route("/api/create", post(create::create))
        .route("/api/copy", post(copy::copy))
        .route("/api/delete", delete(delete::delete))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{model}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::completions))
        .route("/v1/embeddings", post(openai::embeddings::embeddings))
        .route("/api/blobs/{digest}", head(blobs::exists).post(blobs::upload))
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "404 page not found") })
        .method_not_allowed_fallback(|| async { plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed") })
        .with_state(engine);
    router.layer(middleware::from_fn_with_state(callers, edge::check)).layer(middleware::map_response(sign))
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(CONTENT_TYPE, "text/plain")], text).into_response()
}

async fn sign(mut response: Response) -> Response {
    let name = concat!("ollamax-engine/", env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(SERVER, HeaderValue::from_static(name));
    response
}

/// A time as Ollama writes it.
fn rfc3339(time: std::time::SystemTime) -> String {
    jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Now, for the field `created_at`.
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
