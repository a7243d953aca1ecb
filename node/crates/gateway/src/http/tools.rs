//! The tools over plain HTTP: `GET /tools` shows them, `POST /tools/NAME` calls one, `GET /openapi.json` describes
//! both. For scripts, and for programs that speak no MCP.
//!
//! Handlers only translate. Who may call, from which pages, what is checked and what is written down is the same as at
//! `/mcp`; a refusal has its code's HTTP status and says what to do next. What takes long is waited for, or answered
//! with the task that it is done in ([`super::tasks`]).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};

use ollamax_tools::{Call, CallError, Caller, Progress, Started, Tool, ToolError};
use ollamax_types::ErrorCode;

use crate::error::{ApiError, Shape};
use crate::http::mcp::{MESSAGE_BYTES_MAX, rules};
use crate::http::{OpenDoor, body, edge, json_text, loopback, tasks};

/// In which header a caller says how it wants to be answered.
const PREFER: &str = "prefer";
/// That it does not want to wait.
pub(super) const RESPOND_ASYNC: &str = "respond-async";

/// `GET /tools`
pub(crate) async fn list(State(door): State<Arc<OpenDoor>>, request: Request) -> Response<Body> {
    let listed = who(&door, request).map(|caller| {
        let tools = door.parts.tools.catalogue().listed(&caller.principal);
        json!({"tools": tools.map(Tool::describe).collect::<Vec<_>>()})
    });
    answered(listed)
}

/// `GET /openapi.json`
pub(crate) async fn openapi(State(door): State<Arc<OpenDoor>>, request: Request) -> Response<Body> {
    answered(who(&door, request).map(|caller| door.parts.tools.openapi(&caller.principal)))
}

/// `POST /tools/{name}`
pub(crate) async fn call(
    State(door): State<Arc<OpenDoor>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    match try_call(&door, &name, request).await {
        Ok(Started::Answered(value)) => answered(Ok(value)),
        Ok(Started::Task(task)) => tasks::accepted(&task),
        Err(error) => answered(Err(error)),
    }
}

/// Waits for the answer of a tool that works in a task, unless the caller prefers not to.
async fn try_call(door: &OpenDoor, name: &str, request: Request) -> Result<Started, ApiError> {
    let host = edge::host_of(&request);
    let (head, client_body) = request.into_parts();
    let caller = caller_of(door, &head, &host)?;
    let held = body::read_up_to(door, &head.headers, client_body, MESSAGE_BYTES_MAX).await?;
    let arguments = read_arguments(&held.bytes)?;
    let tools = &door.parts.tools;
    if prefers_no_wait(&head.headers) {
        return Ok(tools.start(caller, name, arguments, Progress::nobody()).await?);
    }
    let asked = Call { caller, once: None, progress: Progress::nobody() };
    Ok(Started::Answered(tools.call(asked, None, name, arguments).await?))
}

/// `Prefer: respond-async` (RFC 7240).
fn prefers_no_wait(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(PREFER).into_iter().filter_map(|line| line.to_str().ok());
    let mut wishes = lines.flat_map(|line| line.split(',')).filter_map(|wish| wish.split(';').next());
    wishes.any(|wish| wish.trim().eq_ignore_ascii_case(RESPOND_ASYNC))
}

/// Who makes a request whose body does not matter.
pub(super) fn who(door: &OpenDoor, request: Request) -> Result<Caller, ApiError> {
    let host = edge::host_of(&request);
    let (head, _) = request.into_parts();
    caller_of(door, &head, &host)
}

/// Who calls, where that is a program of this machine and no page of elsewhere.
pub(super) fn caller_of(door: &OpenDoor, head: &Head, host: &str) -> Result<Caller, ApiError> {
    let (hostname, bound) = (&door.parts.hostname, door.parts.bound);
    let hosts = rules::hosts(hostname, bound);
    let origins = rules::origins(&door.parts.config.origins, hostname, bound);
    // What cannot be read is no origin that is taken.
    let origin = head.headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let caller = loopback::caller_of(door, head, host);
    caller.filter(|_| rules::take(&hosts, &origins, host, origin)).ok_or_else(ApiError::not_local)
}

/// Without a body, a call without arguments.
fn read_arguments(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    let read = serde_json::from_slice(bytes);
    read.map_err(|error| ApiError::new(ErrorCode::BadRequest, format!("the arguments are no JSON: {error}")))
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::UnknownTool(name) => {
                let text = format!("there is no tool {name:?}; GET /tools lists what there is");
                Self { status: 404, ..Self::new(ErrorCode::BadRequest, text) }
            }
            CallError::Failed(ToolError { code, message, next, retry_after }) => {
                let text = if next.is_empty() { message } else { format!("{message}; {next}") };
                match retry_after {
                    Some(after) => Self::too_often(code, text, after),
                    None if code == ErrorCode::Overloaded => Self::overloaded(text),
                    None => Self::new(code, text),
                }
            }
        }
    }
}

/// An answer as it is told over plain HTTP.
pub(super) fn answered(answer: Result<Value, ApiError>) -> Response<Body> {
    match answer {
        Ok(value) => told(StatusCode::OK, &value),
        Err(error) => error.into_response(Shape::Ollama),
    }
}

/// A value under a status.
pub(super) fn told(status: StatusCode, value: &Value) -> Response<Body> {
    json_text(status, value.to_string())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn who_prefers_not_to_wait_is_understood_among_other_wishes() {
        let check = |lines: &[&'static str], expected: bool| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(PREFER, HeaderValue::from_static(line));
            }
            assert_eq!(prefers_no_wait(&headers), expected, "{lines:?}");
        };
        check(&["respond-async"], true);
        check(&["Respond-Async; foo=1, wait=10"], true);
        check(&["return=minimal", "wait=10 , respond-async"], true);
        check(&[], false);
        check(&["wait=10"], false);
        check(&["respond-asynchronously"], false);
    }
}
