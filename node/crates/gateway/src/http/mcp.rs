//! `/mcp`: the door for assistants, by the protocol of 2026-07-28 and by the handshake of 2025-06-18 and 2025-11-25.
//!
//! rmcp speaks the protocol; what is decided here is who gets to it. Always: no sessions, so that any node answers any
//! request of either era and nothing is left of a client that goes; only programs on this machine are let in, as long
//! as callers have no keys; host, origin, size and form are checked before the protocol sees a message. No event store
//! is set: with one, a call would go on after its caller has left. What is older than that is [`sse`]'s, where it is
//! switched on.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;
use tracing::Level;

use ollamax_tools::Caller;
use ollamax_types::limits;

use crate::http::{OpenDoor, body, edge, loopback, tools};
use crate::mem::MemKeys;
use crate::toolbox::Toolbox;

mod approval;
mod fixtures;
mod listen;
mod progress;
mod refusal;
pub(crate) mod rules;
mod server;
pub(crate) mod socket;
pub(crate) mod sse;
mod state;
mod tasks;

use self::fixtures::Fixtures;
use self::fixtures::questions::Questions;
use self::listen::Watched;
use self::refusal::Refusal;
use self::server::Server;
use self::state::Seal;

/// Bytes of one message.
pub(crate) const MESSAGE_BYTES_MAX: usize = limits::ASSISTANT_MESSAGE_BYTES_MAX;

/// Characters of a method in the log.
const METHOD_CHARS_MAX: usize = 64;

/// In which header clients say which revision they speak.
const VERSION_HEADER: &str = "mcp-protocol-version";

/// The protocol, ready for requests.
#[derive(Clone)]
pub(crate) enum Service {
    /// The node's tools.
    Tools(StreamableHttpService<Server, NeverSessionManager>),
    /// The same, and beside them what the official suite looks for.
    Fixtures(StreamableHttpService<Fixtures, NeverSessionManager>, Questions),
}

/// A message that was let in; its caller stands beside it.
struct Admitted {
    head: Head,
    bytes: Bytes,
    is_json: bool,
    /// It names no host and no origin that the protocol refuses: before that only what costs nothing is done.
    is_taken: bool,
    held: Option<body::Held>,
}

/// What is read of a message in a revision that is not spoken, and for the log.
#[derive(Deserialize)]
struct Opening {
    method: String,
    #[serde(default)]
    id: Value,
}

/// How the protocol is spoken at every door: each answer is whole, nothing is kept of a client, and no page of a
/// browser is let in that is not named.
fn protocol_config() -> StreamableHttpServerConfig {
    StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_sse_retry(None)
        .with_max_request_body_bytes(MESSAGE_BYTES_MAX)
        .enforce_origin_validation()
}

/// Makes the protocol's part of a door.
pub(crate) fn service(door: &OpenDoor) -> Service {
    let server = Server::new(door.parts.tools.clone());
    let config = protocol_config()
        .with_allowed_hosts(rules::hosts(&door.parts.hostname, door.parts.bound))
        .with_allowed_origins(rules::origins(&door.parts.config.origins, &door.parts.hostname, door.parts.bound));
    let sessions = Arc::new(NeverSessionManager::default());
    if door.parts.config.conformance_fixtures {
        // A node without a cluster seals with a key of its own.
        let keys = door.parts.tools.keys().unwrap_or_else(|| Arc::new(MemKeys::draw()));
        let fixtures = Fixtures::new(server, &door.parts.tools, Seal::new(keys));
        let service = StreamableHttpService::new(move || Ok(fixtures.clone()), sessions, config);
        return Service::Fixtures(service, Questions::new(Arc::clone(&door.parts.node)));
    }
    Service::Tools(StreamableHttpService::new(move || Ok(server.clone()), sessions, config))
}

/// Answers one request.
pub(crate) async fn answer(door: &OpenDoor, service: &Service, request: Request) -> Response<Body> {
    let admitted = match admit(door, request).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal.into_response(),
    };
    // rmcp, which decides on origins, does not see what is answered here.
    if let Service::Fixtures(_, questions) = service
        && admitted.is_taken
        && let Some(response) = questions.answer(&admitted.head.headers, &admitted.bytes).await
    {
        return response;
    }
    hand_over(&door.parts.tools, service, admitted).await
}

/// Lets the protocol answer a message, and says in the log which method it was and who sent it. What a call of a tool
/// comes to, its own line says.
async fn hand_over(tools: &Toolbox, service: &Service, admitted: Admitted) -> Response<Body> {
    let (caller, started_at) = (admitted.head.extensions.get::<Caller>().cloned(), Instant::now());
    let method = if tracing::enabled!(Level::DEBUG) { method_of(&admitted.bytes) } else { String::new() };
    let response = served(tools, service, admitted).await;
    tracing::debug!(
        request_id = caller.as_ref().map(|caller| caller.request.0.as_str()),
        mcp.method.name = method,
        principal = caller.as_ref().map(|caller| caller.principal.subject().to_string()),
        status = response.status().as_u16(),
        took_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered an assistant"
    );
    response
}

async fn served(tools: &Toolbox, service: &Service, admitted: Admitted) -> Response<Body> {
    let Admitted { mut head, bytes, is_json, is_taken, held } = admitted;
    let watched = match head.extensions.get::<Caller>().filter(|_| is_taken) {
        Some(caller) => Watched::of(tools, caller, &bytes).await,
        None => Watched::default(),
    };
    head.extensions.insert(watched.clone());
    let response = kept(service.handle(axum::http::Request::from_parts(head, Full::new(bytes))).await, held);
    if is_json && response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        // It is JSON, so it is the message that cannot be read.
        return Refusal::no_request().into_response();
    }
    // What contradicts the protocol otherwise was refused by then; a stream that is dropped ends.
    if let Some(refusal) = watched.refusal().filter(|_| is_stream(response.headers())) {
        return refusal.into_response();
    }
    response.map(|body| watched.acknowledge(body))
}

/// The protocol remembers a message until its answer ends: where that is a stream, the message counts among the bodies
/// until then. Other answers are whole by now.
fn kept(response: Response<Body>, held: Option<body::Held>) -> Response<Body> {
    if !is_stream(response.headers()) {
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &held;
            frame
        }))
    })
}

// === impl Service ===

impl Service {
    async fn handle(&self, request: axum::http::Request<Full<Bytes>>) -> Response<Body> {
        // What the protocol remembers of a request is large.
        match self {
            Self::Tools(service) => Box::pin(service.handle(request)).await.map(Body::new),
            Self::Fixtures(service, _) => Box::pin(service.handle(request)).await.map(Body::new),
        }
    }
}

/// Decides who calls, and reads the message.
async fn admit(door: &OpenDoor, request: Request) -> Result<Admitted, Refusal> {
    let host = edge::host_of(&request);
    let (mut head, client_body) = request.into_parts();
    let caller = loopback::caller_of(door, &head, &host).ok_or_else(Refusal::not_local)?;
    head.extensions.insert(caller);
    let is_taken = tools::caller_of(door, &head, &host).is_ok();
    let is_json = is_json(&head.headers);
    // Without a message there is nothing to check; the protocol refuses what is no POST.
    let (bytes, held) = if head.method == Method::POST && is_json {
        let held = body::read_up_to(door, &head.headers, client_body, MESSAGE_BYTES_MAX).await?;
        check_message(&held.bytes)?;
        check_version(&head.headers, &held.bytes)?;
        (held.bytes.clone(), Some(held))
    } else {
        (Bytes::new(), None)
    };
    Ok(Admitted { head, bytes, is_json, is_taken, held })
}

/// The method of a request or a notification, as far as a log shows it; empty where the message is none.
fn method_of(bytes: &[u8]) -> String {
    let method = serde_json::from_slice::<Opening>(bytes).map(|Opening { method, .. }| method).unwrap_or_default();
    method.chars().take(METHOD_CHARS_MAX).collect()
}

/// One message, which is JSON.
fn check_message(bytes: &[u8]) -> Result<(), Refusal> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Err(error) => Err(Refusal::no_json(&error)),
        Ok(_) if first == Some(&b'[') => Err(Refusal::batch()),
        Ok(_) if first != Some(&b'{') => Err(Refusal::no_request()),
        Ok(_) => Ok(()),
    }
}

/// One revision at most, and none that is known and not spoken. rmcp takes requests of every handshake that it knows,
/// also of one that it would not agree on here; of what it does not know, and of what a message says of itself, it
/// decides.
fn check_version(headers: &HeaderMap, bytes: &[u8]) -> Result<(), Refusal> {
    let mut sent = headers.get_all(VERSION_HEADER).iter();
    let version = sent.next().and_then(|version| version.to_str().ok()).unwrap_or_default();
    if sent.next().is_some() {
        return Err(Refusal::two_versions());
    }
    if version == server::WITHOUT_HANDSHAKE {
        // rmcp would read its params before it looks at the revision.
        return match serde_json::from_slice::<Opening>(bytes) {
            Ok(Opening { method, id }) if method == "initialize" => Err(Refusal::no_method(id, &method, version)),
            _ => Ok(()),
        };
    }
    if !server::is_known_and_not_spoken(version) {
        return Ok(());
    }
    match serde_json::from_slice::<Opening>(bytes) {
        // Here the answer says what is spoken.
        Ok(Opening { method, .. }) if method == "initialize" => Ok(()),
        Ok(Opening { id, .. }) => Err(Refusal::unsupported(id, version, &server::spoken())),
        Err(_) => Err(Refusal::no_request()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    is_of_kind(headers, "application/json")
}

/// Whether an answer comes piece by piece.
fn is_stream(headers: &HeaderMap) -> bool {
    is_of_kind(headers, "text/event-stream")
}

fn is_of_kind(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_of_json_is_let_in_and_nothing_else() {
        let check = |text: &str, expected: Option<i32>| {
            assert_eq!(check_message(text.as_bytes()).err().map(|refusal| refusal.json_rpc), expected, "{text}");
        };
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, None);
        check(" \n{}", None);
        check(r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, Some(refusal::INVALID_REQUEST));
        check("[]", Some(refusal::INVALID_REQUEST));
        check("7", Some(refusal::INVALID_REQUEST));
        check("", Some(refusal::PARSE_ERROR));
        check("{", Some(refusal::PARSE_ERROR));
        check(&"[".repeat(100_000), Some(refusal::PARSE_ERROR));
    }

    #[test]
    fn a_log_shows_as_much_of_a_method_as_fits() {
        let check = |message: &str, expected: &str| assert_eq!(method_of(message.as_bytes()), expected, "{message}");
        check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, "tools/list");
        check(
            r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":{"a":1}}"#,
            "notifications/initialized",
        );
        check(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "");
        check("", "");
        let long = "ä".repeat(METHOD_CHARS_MAX + 1);
        check(&format!(r#"{{"method":"{long}"}}"#), &"ä".repeat(METHOD_CHARS_MAX));
    }

    #[test]
    fn one_revision_is_named_and_none_that_was_left_behind() {
        let check = |versions: &[&'static str], method: &str, expected: Option<i32>| {
            let mut headers = HeaderMap::new();
            for version in versions {
                headers.append(VERSION_HEADER, header::HeaderValue::from_static(version));
            }
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}"}}"#);
            let found = check_version(&headers, text.as_bytes()).err().map(|refusal| refusal.json_rpc);
            assert_eq!(found, expected, "{versions:?} {method}");
        };
        for spoken in server::spoken() {
            check(&[spoken], "tools/list", None);
            let is_gone = spoken == server::WITHOUT_HANDSHAKE;
            check(&[spoken], "initialize", is_gone.then_some(refusal::METHOD_NOT_FOUND));
        }
        check(&[], "tools/list", None);
        check(&["2099-01-01"], "tools/list", None);
        check(&["2025-03-26"], "tools/list", Some(refusal::UNSUPPORTED_VERSION));
        check(&["2025-03-26"], "initialize", None);
        check(&["2026-07-28", "2026-07-28"], "tools/list", Some(refusal::HEADER_MISMATCH));
        check(&["2025-11-25", "2026-07-28"], "initialize", Some(refusal::HEADER_MISMATCH));
    }
}
