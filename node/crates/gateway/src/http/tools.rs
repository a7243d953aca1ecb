//! The tools over plain HTTP: `GET /tools` shows them, `POST /tools/NAME` calls one. For scripts, and for programs that
//! speak no MCP.
//!
//! Handlers only translate. Who may call, from which pages, what is checked and what is written down is the same as at
//! `/mcp`; a refusal has its code's HTTP status and says what to do next.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use ollamax_tools::{CallError, Caller, Tool, ToolError};
use ollamax_types::ErrorCode;

use crate::error::{ApiError, Shape};
use crate::http::mcp::{MESSAGE_BYTES_MAX, rules};
use crate::http::{OpenDoor, body, edge, loopback};

/// `GET /tools`
pub(crate) async fn list(State(door): State<Arc<OpenDoor>>, request: Request) -> Response<Body> {
    let host = edge::host_of(&request);
    let (head, _) = request.into_parts();
    let listed = caller_of(&door, &head, &host).map(|caller| {
        let tools = door.parts.tools.catalogue().listed(&caller.principal);
        json!({"tools": tools.map(Tool::describe).collect::<Vec<_>>()})
    });
    answered(listed)
}

/// `POST /tools/{name}`
pub(crate) async fn call(
    State(door): State<Arc<OpenDoor>>,
    Path(name): Path<String>,
    request: Request,
) -> Response<Body> {
    answered(try_call(&door, &name, request).await)
}

async fn try_call(door: &OpenDoor, name: &str, request: Request) -> Result<Value, ApiError> {
    let host = edge::host_of(&request);
    let (head, client_body) = request.into_parts();
    let caller = caller_of(door, &head, &host)?;
    let held = body::read_up_to(door, &head.headers, client_body, MESSAGE_BYTES_MAX).await?;
    let arguments = read_arguments(&held.bytes)?;
    Ok(door.parts.tools.call(caller, name, arguments).await?)
}

fn caller_of(door: &OpenDoor, head: &Head, host: &str) -> Result<Caller, ApiError> {
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
            CallError::Failed(ToolError { code, message, next }) => {
                let text = if next.is_empty() { message } else { format!("{message}; {next}") };
                if code == ErrorCode::Overloaded { Self::overloaded(text) } else { Self::new(code, text) }
            }
        }
    }
}

fn answered(answer: Result<Value, ApiError>) -> Response<Body> {
    match answer {
        Ok(value) => {
            let mut response = Response::new(Body::from(value.to_string()));
            let json = HeaderValue::from_static("application/json; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(error) => error.into_response(Shape::Ollama),
    }
}
