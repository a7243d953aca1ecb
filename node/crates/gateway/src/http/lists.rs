//! What the cluster has, merged: models, what is loaded, the version. Answered from this node's own state.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Response, StatusCode};
use jiff::Timestamp as Moment;
use serde::Serialize;
use serde_json::value::RawValue;

use ollamax_core::catalog::models::{Listed, listing, pins};
use ollamax_core::catalog::read;
use ollamax_core::health::Health;
use ollamax_scheduler as scheduler;
use ollamax_types::{Api, ErrorCode, ModelName, NodeId, Residency, RuntimeState, Timestamp};

use crate::error::{ApiError, Shape};
use crate::http::{OpenDoor, json_text};

#[derive(Serialize)]
struct Tags {
    models: Vec<Tag>,
}

/// One row of `/api/tags`; `node` is our addition: the names of the nodes that hold this version.
#[derive(Serialize)]
struct Tag {
    name: String,
    model: String,
    modified_at: String,
    size: u64,
    digest: String,
    details: Box<RawValue>,
    /// Runtimes before those that tell it have no such key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    capabilities: Vec<String>,
    node: Vec<String>,
}

#[derive(Serialize)]
struct Processes {
    models: Vec<Process>,
}

/// One row of `/api/ps`; `node` is our addition: where it is loaded.
#[derive(Serialize)]
struct Process {
    name: String,
    model: String,
    size: u64,
    digest: String,
    details: Box<RawValue>,
    expires_at: String,
    size_vram: u64,
    context_length: u32,
    node: String,
}

#[derive(Serialize)]
struct Models {
    object: &'static str,
    data: Option<Vec<Model>>,
}

#[derive(Serialize)]
struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

#[derive(Serialize)]
struct Version {
    version: String,
}

/// `GET /api/tags`
pub(crate) async fn tags(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    answer(Shape::Ollama, read_tags(&door))
}

/// `GET /v1/models`
pub(crate) async fn models(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    answer(Shape::OpenAi, listed(&door).map(|(listed, _)| openai_models(listed)))
}

/// `GET /v1/models/{model}`: one of them, under the name that was asked for.
pub(crate) async fn model(State(door): State<Arc<OpenDoor>>, Path(sent): Path<String>) -> Response<Body> {
    answer(Shape::OpenAi, read_model(&door, sent))
}

/// `GET /api/ps`
pub(crate) async fn ps(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    answer(Shape::Ollama, read_processes(&door))
}

/// `GET /api/version`: the lowest of all runtimes that can be sent work, so that clients use what each of them has.
pub(crate) async fn version(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    let found = scheduler_of(&door).and_then(|scheduler| {
        let lowest = versions(&scheduler).into_iter().min_by_key(|version| numbers(version));
        lowest.map(|version| Version { version }).ok_or_else(no_runtime)
    });
    answer(Shape::Ollama, found)
}

fn answer<T: Serialize>(shape: Shape, found: Result<T, ApiError>) -> Response<Body> {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(code = %error.code, %error, "list");
            return error.into_response(shape);
        }
    };
    let text = serde_json::to_string(&found).expect("rows of texts and numbers always serialise");
    json_text(StatusCode::OK, text)
}

fn scheduler_of(door: &OpenDoor) -> Result<scheduler::Handle, ApiError> {
    door.parts.node.scheduler().ok_or_else(|| ApiError::without_engines(&*door.parts.node))
}

fn no_runtime() -> ApiError {
    let text = "no node's model runtime answers; `ollamax status` shows what needs attention";
    ApiError {
        retry_after: Some(std::time::Duration::from_secs(30)),
        ..ApiError::new(ErrorCode::RuntimeUnavailable, text)
    }
}

/// The merged listing, newest first, and the members' names.
fn listed(door: &OpenDoor) -> Result<(Vec<Listed>, BTreeMap<NodeId, String>), ApiError> {
    let view = door.parts.node.view().ok_or_else(|| ApiError::without_engines(&*door.parts.node))?;
    let names = read::members(&*view)?.into_iter().map(|member| (member.id, member.name)).collect();
    Ok((listing(read::locations(&*view)?, &pins(&*view)?), names))
}

fn read_tags(door: &OpenDoor) -> Result<Tags, ApiError> {
    let (listed, names) = listed(door)?;
    let models = listed.into_iter().map(|one| Tag {
        name: one.model.name.to_string(),
        model: one.model.name.to_string(),
        modified_at: rfc3339(one.model.modified_at),
        size: one.model.size_bytes,
        digest: one.model.digest.to_string(),
        details: raw(&one.model.details_json),
        capabilities: one.model.capabilities,
        node: one.nodes.iter().map(|node| shown(&names, *node)).collect(),
    });
    Ok(Tags { models: models.collect() })
}

fn openai_models(listed: Vec<Listed>) -> Models {
    let rows: Vec<Model> = listed.iter().map(|one| openai_model(one, one.model.name.to_string())).collect();
    Models { object: "list", data: (!rows.is_empty()).then_some(rows) }
}

fn openai_model(one: &Listed, id: String) -> Model {
    let owned_by = one.model.name.namespace().to_owned();
    Model { id, object: "model", created: one.model.modified_at.0 / 1_000, owned_by }
}

fn read_model(door: &OpenDoor, sent: String) -> Result<Model, ApiError> {
    let name: ModelName = sent.parse().map_err(|_| ApiError::new(ErrorCode::BadRequest, "invalid model name"))?;
    let (listed, _) = listed(door)?;
    let found = listed.iter().find(|one| one.model.name == name);
    let found = found.ok_or_else(|| ApiError::model_not_found(Api::OpenAiChat, &sent, ""))?;
    Ok(openai_model(found, sent))
}

fn read_processes(door: &OpenDoor) -> Result<Processes, ApiError> {
    let scheduler = scheduler_of(door)?;
    let view = door.parts.node.view().ok_or_else(|| ApiError::without_engines(&*door.parts.node))?;
    let names = read::members(&*view)?.into_iter().map(|member| (member.id, member.name)).collect();
    let mut rows: Vec<(NodeId, Residency)> =
        scheduler.runtime().resident.iter().map(|row| (scheduler.node(), row.clone())).collect();
    for peer in scheduler.peers().into_iter().filter(|peer| peer.health != Health::Dead) {
        rows.extend(peer.beat.resident.iter().map(|row| (peer.beat.node, row.clone())));
    }
    rows.sort_by_cached_key(|(node, row)| (Reverse(row.expires_at.parse::<Moment>().ok()), *node, row.name.key()));
    Ok(Processes { models: rows.into_iter().map(|(node, row)| process(&names, node, row)).collect() })
}

fn process(names: &BTreeMap<NodeId, String>, node: NodeId, row: Residency) -> Process {
    Process {
        name: row.name.to_string(),
        model: row.name.to_string(),
        size: row.size_bytes,
        digest: row.digest.to_string(),
        details: raw(&row.details_json),
        expires_at: row.expires_at,
        size_vram: row.size_vram_bytes,
        context_length: row.context_length,
        node: shown(names, node),
    }
}

fn versions(scheduler: &scheduler::Handle) -> Vec<String> {
    let own = scheduler.runtime();
    let own = (own.state == RuntimeState::Up).then(|| own.version.clone());
    let others = scheduler
        .peers()
        .into_iter()
        .filter(|peer| peer.health != Health::Dead && peer.beat.runtime_state == RuntimeState::Up);
    let all = own.into_iter().chain(others.map(|peer| peer.beat.runtime_version.clone()));
    all.filter(|version| !version.is_empty()).collect()
}

/// The numbers of a version, for comparing: `0.12.3-rc1` is 0, 12, 3.
fn numbers(version: &str) -> Vec<u64> {
    let head = version.split(['-', '+']).next().unwrap_or_default();
    head.trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

fn shown(names: &BTreeMap<NodeId, String>, node: NodeId) -> String {
    names.get(&node).cloned().unwrap_or_else(|| node.to_string())
}

fn rfc3339(at: Timestamp) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|millis| Moment::from_millisecond(millis).ok());
    moment.unwrap_or(Moment::UNIX_EPOCH).to_string()
}

/// A stored JSON text as it is; an empty object where it is none.
fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned())
        .unwrap_or_else(|_| RawValue::from_string("{}".to_owned()).expect("an empty object is JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let check = |versions: &[&str], lowest: &str| {
            let found = versions.iter().min_by_key(|version| numbers(version)).copied();
            assert_eq!(found, Some(lowest), "{versions:?}");
        };
        check(&["0.9.1", "0.12.3"], "0.9.1");
        check(&["0.33.0-rc2", "0.33.1"], "0.33.0-rc2");
        check(&["1.0", "0.99.99"], "0.99.99");
    }

    #[test]
    fn moments_are_written_as_ollama_writes_them() {
        assert_eq!(rfc3339(Timestamp(1_785_578_400_123)), "2026-08-01T10:00:00.123Z");
    }
}
