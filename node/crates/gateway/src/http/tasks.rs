//! The tasks of tools over plain HTTP: `GET /tasks` shows them, `GET /tasks/ID` one, `POST /tasks/ID/cancel` ends it.
//!
//! Handlers only translate. Results are in no list, and a list comes page by page. A caller sees the tasks that it
//! began; who may call at all is decided as for [`super::tools`].

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use ollamax_tools::views::TaskView;
use ollamax_tools::{CallError, TasksAsked, ToolError};
use ollamax_types::ErrorCode;

use crate::error::ApiError;
use crate::http::OpenDoor;
use crate::http::tools::{RESPOND_ASYNC, answered, told, who};

/// Which wish of the caller was heeded.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Which tasks are shown; what is left out or empty is not said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Shown {
    status: String,
    tool: String,
    mine: bool,
    limit: Option<u32>,
    cursor: String,
}

/// `GET /tasks`
pub(crate) async fn list(
    State(door): State<Arc<OpenDoor>>,
    shown: Result<Query<Shown>, QueryRejection>,
    request: Request,
) -> Response<Body> {
    let found = who(&door, request).and_then(|caller| {
        let Query(shown) = shown.map_err(|error| ApiError::new(ErrorCode::BadRequest, error.body_text()))?;
        door.parts.tools.tasks(&caller, &asked(shown)).map_err(refused)
    });
    answered(found.map(|(tasks, next)| json!({"tasks": tasks, "next_cursor": next})))
}

fn asked(shown: Shown) -> TasksAsked {
    let Shown { status, tool, mine, limit, cursor } = shown;
    TasksAsked { status: Some(status), tool: Some(tool), mine, limit, cursor: Some(cursor) }
}

/// `GET /tasks/{id}`
pub(crate) async fn show(
    State(door): State<Arc<OpenDoor>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    answered(try_show(&door, &id, request).await)
}

async fn try_show(door: &OpenDoor, id: &str, request: Request) -> Result<Value, ApiError> {
    let caller = who(door, request)?;
    let found = door.parts.tools.find_task(&caller, id).await;
    found.map(|task| one(&task)).map_err(refused)
}

/// `POST /tasks/{id}/cancel`
pub(crate) async fn cancel(
    State(door): State<Arc<OpenDoor>>,
    Path(id): Path<String>,
    request: Request,
) -> Response<Body> {
    answered(try_cancel(&door, &id, request).await)
}

async fn try_cancel(door: &OpenDoor, id: &str, request: Request) -> Result<Value, ApiError> {
    let caller = who(door, request)?;
    let ended = door.parts.tools.cancel_task(&caller, id).await;
    ended.map(|task| one(&task)).map_err(refused)
}

/// What is told of a call that goes on in a task.
pub(super) fn accepted(task: &TaskView) -> Response<Body> {
    let mut response = told(StatusCode::ACCEPTED, &one(task));
    let headers = response.headers_mut();
    headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static(RESPOND_ASYNC));
    if let Ok(place) = HeaderValue::from_str(&format!("/tasks/{}", task.id)) {
        headers.insert(header::LOCATION, place);
    }
    response
}

fn one(task: &TaskView) -> Value {
    json!({"task": task})
}

fn refused(error: ToolError) -> ApiError {
    CallError::Failed(error).into()
}
