//! Liveness, readiness, start-up and metrics. Answered from cached state, so at once, whatever else hangs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, Uri, header};
use prometheus::{Encoder as _, TextEncoder};
use serde::Serialize;
use serde_json::{Map, Value};

use ollamax_types::ErrorCode;

use crate::http::{OpenDoor, plain};
use crate::ports::{Needed, Readiness};

#[derive(Serialize)]
struct Verbose {
    status: &'static str,
    started: bool,
    stopping: bool,
    components: Map<String, Value>,
}

/// `/livez`: the process is worth keeping. Never depends on other nodes.
pub(crate) async fn live(State(door): State<Arc<OpenDoor>>, uri: Uri) -> Response<Body> {
    let readiness = door.parts.node.readiness();
    answer(&uri, readiness.is_live(), &readiness)
}

/// `/readyz`: clients may be sent here.
pub(crate) async fn ready(State(door): State<Arc<OpenDoor>>, uri: Uri) -> Response<Body> {
    let readiness = door.parts.node.readiness();
    answer(&uri, readiness.is_ready(), &readiness)
}

/// `/health`: as `/readyz`, and always with every part of the node.
pub(crate) async fn health(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    let readiness = door.parts.node.readiness();
    full(readiness.is_ready(), &readiness)
}

/// `/startupz`: everything that was to be started has been.
pub(crate) async fn started(State(door): State<Arc<OpenDoor>>, uri: Uri) -> Response<Body> {
    let readiness = door.parts.node.readiness();
    answer(&uri, readiness.started, &readiness)
}

/// `/metrics` in Prometheus' text form.
pub(crate) async fn metrics(State(door): State<Arc<OpenDoor>>) -> Response<Body> {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    if let Err(error) = encoder.encode(&door.parts.registry.gather(), &mut text) {
        tracing::error!(code = %ErrorCode::Internal, %error, "encode metrics");
        return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("encode metrics: {error}"));
    }
    let mut response = Response::new(Body::from(text));
    let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}

fn answer(uri: &Uri, holds: bool, readiness: &Readiness) -> Response<Body> {
    let is_verbose = uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("verbose")));
    if is_verbose {
        return full(holds, readiness);
    }
    plain(status(holds), if holds { "ok".to_owned() } else { problems(readiness) })
}

const fn status(holds: bool) -> StatusCode {
    if holds { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn full(holds: bool, readiness: &Readiness) -> Response<Body> {
    let text = serde_json::to_string(&verbose(holds, readiness)).expect("texts always serialise");
    let mut response = plain(status(holds), text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn verbose(holds: bool, readiness: &Readiness) -> Verbose {
    let components = readiness.components.iter().map(|part| {
        let needed = match part.needed {
            Needed::ToLive => "to_live",
            Needed::ToServe => "to_serve",
            Needed::Shown => "shown",
        };
        (part.name.to_owned(), serde_json::json!({"ok": part.works, "needed": needed, "detail": part.detail}))
    });
    Verbose {
        status: if holds { "ok" } else { "unavailable" },
        started: readiness.started,
        stopping: readiness.stopping,
        components: components.collect(),
    }
}

/// One line: what is missing.
fn problems(readiness: &Readiness) -> String {
    let starting = (!readiness.started).then(|| "starting".to_owned());
    let stopping = readiness.stopping.then(|| "stopping".to_owned());
    let broken = readiness.components.iter().filter(|part| !part.works && part.needed != Needed::Shown);
    let broken = broken.map(|part| format!("{}: {}", part.name, part.detail));
    starting.into_iter().chain(stopping).chain(broken).collect::<Vec<_>>().join("; ")
}
