//! `POST /api/copy`: gives a model a second name.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::inference::Engine;
use crate::name::Name;
use crate::store::StoreError;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CopyRequest {
    source: Option<String>,
    destination: Option<String>,
}

impl Shaped for CopyRequest {
    const SHAPE: &'static Struct =
        &Struct::new("api.CopyRequest", &[("source", Kind::Text), ("destination", Kind::Text)]);
}

pub(super) async fn copy(
    State(engine): State<Engine>,
    Body(request): Body<CopyRequest>,
) -> Result<StatusCode, ApiError> {
    let (source, destination) = (request.source.unwrap_or_default(), request.destination.unwrap_or_default());
    let from = Name::parse(&source).ok_or_else(|| ApiError::bad(format!("source {source:?} is invalid")))?;
    let to =
        Name::parse(&destination).ok_or_else(|| ApiError::bad(format!("destination {destination:?} is invalid")))?;
    match engine.on_disk(move |store| store.copy(&from, &to)).await.ok_or_else(ApiError::lost)? {
        Err(StoreError::NotFound) => return Err(ApiError::not_found(format!("model {source:?} not found"))),
        result => {
            if let Some(weights) = result? {
                engine.pool.unload(&weights);
            }
        }
    }
    tracing::info!(source, destination, "model copied");
    Ok(StatusCode::OK)
}
