//! `GET /api/tags` and `GET /api/ps`: what is on disk and what is in memory.

use std::time::SystemTime;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::http::{rfc3339, stream};
use crate::inference::Engine;
use crate::keep_alive::FOREVER;
use crate::pool::Resident;
use crate::store::{Listed, Store};

pub(super) async fn tags(State(engine): State<Engine>) -> Result<Response, ApiError> {
    let models = engine.on_disk(Store::list).await.ok_or_else(ApiError::lost)??;
    let row = |model: &Listed| {
        let name = model.name.to_string();
        json!({
            "name": name,
            "model": name,
            "modified_at": rfc3339(model.modified_at),
            "size": model.size,
            "digest": model.digest.hex(),
            "details": model.details,
        })
    };
    let rows: Vec<Value> = models.iter().map(row).collect();
    Ok(stream::object(json!({"models": rows})))
}

pub(super) async fn ps(State(engine): State<Engine>) -> Response {
    let row = |resident: Resident| {
        json!({
            "name": resident.label.name,
            "model": resident.label.name,
            "size": resident.footprint.total_bytes,
            "digest": resident.label.digest.hex(),
            "details": resident.label.details,
            "expires_at": rfc3339(resident.expires_at.unwrap_or_else(far_away)),
            "size_vram": resident.footprint.vram_bytes,
            "context_length": resident.footprint.context_length,
        })
    };
    let rows: Vec<Value> = engine.pool.residents().into_iter().map(row).collect();
    stream::object(json!({"models": rows}))
}

fn far_away() -> SystemTime {
    SystemTime::from(super::now()) + FOREVER
}
