//! From a request to its answer: record it, let faults strike, find the route.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fake_ollama::record::Received;
use crate::fake_ollama::request::Refused;
use crate::fake_ollama::script::{Fault, FaultRule, On, Script, take_fault};
use crate::fake_ollama::watch::Watch;
use crate::fake_ollama::{CloseConnection, Shared, embedding, inference, lock, models, pull};

/// Largest body that a fake takes.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Route of the standalone fake by which a test changes the script; unknown to Ollama.
pub(crate) const SCRIPT_PATH: &str = "/fake/script";
/// Route by which a test reads the record's counts.
pub(crate) const RECORD_PATH: &str = "/fake/record";

/// One request on its way through the fake.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) watch: Watch,
    pub(crate) ending: Ending,
    pub(crate) extra_first_byte: Duration,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    CutAfter(u64),
    ErrorAfter(u64),
}

pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response, CloseConnection> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| CloseConnection)?.to_bytes();
    let path = parts.uri.path().to_owned();
    if path == SCRIPT_PATH || path == RECORD_PATH {
        return Ok(control(&shared, &path, &body));
    }
    let headers = parts.headers.iter();
    let received = Received {
        number: 0,
        at: Instant::now(),
        method: parts.method.to_string(),
        path: path.clone(),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect(),
        body: body.clone(),
    };
    let number = lock(&shared.record).receive(received);
    if !is_local_host(parts.headers.get(header::HOST)) {
        return Ok(respond(403, "text/plain", ""));
    }
    let watch = Watch::new(&shared.record, number, &path);
    let mut ask = Ask { path, body, watch, ending: Ending::Whole, extra_first_byte: Duration::ZERO };
    let struck = take_fault(&mut lock(&shared.faults), kind_of(&ask.path));
    if let Some(fault) = struck
        && let Some(response) = strike(&shared, &mut ask, fault).await?
    {
        ask.watch.forget();
        return Ok(response);
    }
    Ok(route(shared, &parts.method, ask).await)
}

/// What a fault makes of a request; `None` lets it go on.
async fn strike(shared: &Arc<Shared>, ask: &mut Ask, fault: Fault) -> Result<Option<Response>, CloseConnection> {
    let response = match fault {
        Fault::Busy => busy(&ask.path),
        Fault::Hang => std::future::pending().await,
        Fault::Reset => {
            ask.watch.forget();
            return Err(CloseConnection);
        }
        Fault::Garbage => respond(200, "text/html", "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>"),
        Fault::RunnerCrash => {
            inference::forget_runner(shared, &ask.body);
            fail(&ask.path, 500, RUNNER_STOPPED)
        }
        Fault::Status(status, text) => fail(&ask.path, status, &text),
        Fault::SlowFirstByte(millis) => {
            ask.extra_first_byte = Duration::from_millis(millis);
            return Ok(None);
        }
        Fault::CutAfterLines(lines) => {
            ask.ending = Ending::CutAfter(lines);
            return Ok(None);
        }
        Fault::ErrorAfterLines(lines) => {
            ask.ending = Ending::ErrorAfter(lines);
            return Ok(None);
        }
    };
    Ok(Some(response))
}

/// Ollama's text when a runner process died.
pub(crate) const RUNNER_STOPPED: &str = "model runner has unexpectedly stopped, this may be due to resource \
    limitations or an internal error, check ollama server logs for details";
/// Ollama's text when too many requests wait for a load; the two spaces are its own.
pub(crate) const SERVER_BUSY: &str = "server busy, please try again.  maximum pending requests exceeded";

async fn route(shared: Arc<Shared>, method: &Method, mut ask: Ask) -> Response {
    let path = ask.path.clone();
    let read = method == Method::GET || method == Method::HEAD;
    let answered = match path.as_str() {
        "/" if read => Ok(respond(200, "text/plain; charset=utf-8", "Ollama is running")),
        "/api/version" if read => Ok(object(200, &json!({ "version": shared.script().version }))),
        "/api/status" if read => Ok(object(200, &json!({ "cloud": { "disabled": true, "source": "env" } }))),
        "/api/tags" if read => Ok(models::tags(&shared)),
        "/api/ps" if method == Method::GET => Ok(models::ps(&shared)),
        "/v1/models" if method == Method::GET => Ok(models::openai_list(&shared)),
        "/api/show" if method == Method::POST => models::show(&shared, &ask),
        "/api/create" if method == Method::POST => models::create(&shared, &ask),
        "/api/copy" if method == Method::POST => models::copy(&shared, &ask),
        "/api/pull" if method == Method::POST => pull::pull(&shared, &ask),
        "/api/push" if method == Method::POST => models::push(&shared, &ask),
        "/api/delete" if method == Method::DELETE => models::delete(&shared, &ask),
        "/api/embed" | "/api/embeddings" | "/v1/embeddings" if method == Method::POST => {
            return finish(&path, embedding::embed(&shared, ask).await);
        }
        "/api/generate" | "/api/chat" | "/v1/chat/completions" | "/v1/completions" if method == Method::POST => {
            return finish(&path, inference::infer(&shared, ask).await);
        }
        _ => models::by_prefix(&shared, method, &ask),
    };
    ask.watch.forget();
    finish(&path, answered)
}

fn finish(path: &str, answered: Result<Response, Refused>) -> Response {
    answered.unwrap_or_else(|refused| fail(path, refused.status, &refused.text))
}

fn kind_of(path: &str) -> On {
    match path {
        "/" | "/api/version" | "/api/tags" | "/api/ps" | "/v1/models" => On::Health,
        "/api/generate"
        | "/api/chat"
        | "/api/embed"
        | "/api/embeddings"
        | "/v1/chat/completions"
        | "/v1/completions"
        | "/v1/embeddings" => On::Inference,
        "/api/pull" => On::Pull,
        _ => On::Management,
    }
}

/// Ollama on loopback refuses names that are not local, against DNS rebinding.
fn is_local_host(host: Option<&HeaderValue>) -> bool {
    let Some(Ok(host)) = host.map(HeaderValue::to_str) else { return true };
    let name = if host.starts_with('[') { host } else { host.rsplit_once(':').map_or(host, |(name, _)| name) };
    let suffix = [".localhost", ".local", ".internal"].iter().any(|suffix| name.ends_with(suffix));
    name.is_empty()
        || name == "localhost"
        || suffix
        || host.parse::<std::net::SocketAddr>().is_ok()
        || name.parse::<std::net::IpAddr>().is_ok()
}

fn control(shared: &Shared, path: &str, body: &[u8]) -> Response {
    if path == RECORD_PATH {
        let record = lock(&shared.record);
        let counts = json!({
            "total": record.total, "finished": record.finished, "loads": record.loads, "counts": record.counts,
            "running": record.running, "running_most": record.running_most, "cancelled": record.cancelled.len(),
        });
        return object(200, &counts);
    }
    match serde_json::from_slice::<Script>(body) {
        Ok(mut script) => {
            *lock(&shared.faults) = std::mem::take::<Vec<FaultRule>>(&mut script.faults);
            shared.change(|old| *old = script);
            object(200, &json!({}))
        }
        Err(error) => object(400, &json!({ "error": error.to_string() })),
    }
}

pub(crate) fn busy(path: &str) -> Response {
    fail(path, 503, SERVER_BUSY)
}

/// An error in the shape of the path's protocol.
pub(crate) fn fail(path: &str, status: u16, text: &str) -> Response {
    if !path.starts_with("/v1/") {
        return object(status, &json!({ "error": text }));
    }
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    object(status, &json!({ "error": { "message": text, "type": kind, "param": null, "code": null } }))
}

pub(crate) fn object(status: u16, value: &Value) -> Response {
    respond(status, "application/json; charset=utf-8", value.to_string())
}

pub(crate) fn respond(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
