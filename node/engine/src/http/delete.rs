//! `DELETE /api/delete`: forgets a model, and its weights if nobody else uses them.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::http::show::given;
use crate::inference::Engine;
use crate::name::Name;
use crate::store::StoreError;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DeleteRequest {
    model: Option<String>,
    name: Option<String>,
}

impl Shaped for DeleteRequest {
    const SHAPE: &'static Struct = &Struct::new("api.DeleteRequest", &[("model", Kind::Text), ("name", Kind::Text)]);
}

pub(super) async fn delete(
    State(engine): State<Engine>,
    Body(request): Body<DeleteRequest>,
) -> Result<StatusCode, ApiError> {
    let asked = given(request.model, request.name).ok_or_else(|| ApiError::bad("model is required"))?;
    let name = Name::parse(&asked).ok_or_else(|| ApiError::bad(format!("name {asked:?} is invalid")))?;
    match engine.on_disk(move |store| store.delete(&name)).await.ok_or_else(ApiError::lost)? {
        Err(StoreError::NotFound) => return Err(ApiError::not_found(format!("model '{asked}' not found"))),
        result => {
            if let Some(weights) = result? {
                engine.pool.unload(&weights);
            }
        }
    }
    tracing::info!(model = asked, "model deleted");
    Ok(StatusCode::OK)
}
