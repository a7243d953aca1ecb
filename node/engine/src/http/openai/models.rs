//! `GET /v1/models` and `GET /v1/models/:model`.

use std::time::UNIX_EPOCH;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::http::error::{ApiError, OpenAiError};
use crate::http::stream;
use crate::inference::Engine;
use crate::name::Name;
use crate::store::{Listed, Store};

pub(crate) async fn list(State(engine): State<Engine>) -> Result<Response, OpenAiError> {
    let rows: Vec<Value> = listed(&engine).await?.iter().map(|model| row(model, &model.name.to_string())).collect();
    let data = if rows.is_empty() { Value::Null } else { json!(rows) };
    Ok(stream::object(json!({"object": "list", "data": data})))
}

pub(crate) async fn one(State(engine): State<Engine>, Path(model): Path<String>) -> Result<Response, OpenAiError> {
    let name = Name::parse(&model).ok_or_else(|| ApiError::bad("invalid model name"))?;
    let models = listed(&engine).await?;
    let found = models.iter().find(|listed| listed.name.same(&name));
    let found = found.ok_or_else(|| ApiError::not_found(format!("model '{model}' not found")))?;
    // Under the name that was asked for.
    Ok(stream::object(row(found, &model)))
}

async fn listed(engine: &Engine) -> Result<Vec<Listed>, ApiError> {
    Ok(engine.on_disk(Store::list).await.ok_or_else(ApiError::lost)??)
}

fn row(model: &Listed, id: &str) -> Value {
    let created = model.modified_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({"id": id, "object": "model", "created": created, "owned_by": model.name.namespace()})
}
