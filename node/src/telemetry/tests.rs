//! What is said, and how, of calls, panics and libraries.

use std::sync::atomic::Ordering;

use futures::StreamExt as _;
use serde_json::Value;
use tonic::codegen::{Service as _, http};
use tracing::Subscriber;

use ollamax_gateway as gateway;
use ollamax_proto::v1;
use ollamax_tools::mem::{MemLab, MemPorts};
use ollamax_types::Timestamp;

use crate::{run, toolbox};

use super::*;

/// Node 3 at a fixed time, with the filter of the default level.
fn to_ring() -> (Ring, impl Subscriber + Send + Sync) {
    to_ring_at("info")
}

fn to_ring_at(level: &str) -> (Ring, impl Subscriber + Send + Sync) {
    let ring = Ring::new();
    let standing = Arc::new(Standing::default());
    standing.node.store(3, Ordering::Relaxed);
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let layer = subscriber_fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(JsonLine { standing, clock })
        .with_writer(Tee { ring: ring.clone(), stderr: false });
    let filter = parse_level(level).expect("a level");
    (ring, tracing_subscriber::registry().with(filter).with(layer))
}

/// A door with these tools.
fn parts(tools: gateway::Toolbox, registry: prometheus::Registry) -> gateway::http::Parts {
    gateway::http::Parts {
        node: Arc::new(gateway::mem::MemNode::new("n1")),
        tools,
        config: gateway::Config::default(),
        bound: "127.0.0.1:11435".parse().expect("an address"),
        hostname: String::new(),
        metrics: gateway::Metrics::register(&registry).expect("a new registry"),
        registry,
        seed: 1,
    }
}

#[tokio::test]
async fn a_clients_request_is_found_by_its_id() {
    let parts = parts(gateway::Toolbox::default(), prometheus::Registry::new());
    let mut router = gateway::http::router(parts);
    let (ring, subscriber) = to_ring();
    let guard = tracing::subscriber::set_default(subscriber);
    let request = http::Request::post("/api/chat").header("host", "localhost").header("x-request-id", "r-7");
    let body = r#"{"model":"m","messages":[{"role":"user","content":"a secret"}]}"#.to_owned();
    let response = router.call(request.body(body).expect("a request")).await.expect("infallible");
    drop(response);
    drop(guard);
    let request = v1::LogsRequest { request_id: "r-7".to_owned(), ..v1::LogsRequest::default() };
    let lines: Vec<_> = crate::log_stream::lines(&ring, request).collect().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let json = &lines[0].as_ref().expect("a line").json;
    assert!(!json.contains("secret"), "{json}");
    let line: Value = serde_json::from_str(json).expect("one JSON object");
    for (key, expected) in
        [("msg", Value::from("answered")), ("model", "m".into()), ("node", "n1".into()), ("status", 503.into())]
    {
        assert_eq!(line[key], expected, "{key}");
    }
}

#[tokio::test]
async fn a_call_of_a_tool_is_one_line_that_hides_what_its_schema_does_not_know() {
    let catalogue = toolbox::fill(&MemPorts::default().ports(), &[]).expect("declared well");
    let registry = prometheus::Registry::new();
    let tools = gateway::Toolbox::new(catalogue, &registry).expect("new names");
    let mut router = gateway::http::router(parts(tools, registry));
    let (ring, subscriber) = to_ring();
    let guard = tracing::subscriber::set_default(subscriber);
    let request = http::Request::post("/tools/list_nodes").header("host", "localhost").header("x-request-id", "r-8");
    let body = r#"{"health": "dead", "password": "hunter2"}"#.to_owned();
    let mut request = request.body(body).expect("a request");
    let client = "127.0.0.1:4711".parse().expect("an address");
    request.extensions_mut().insert(gateway::http::ClientAddress(client));
    drop(router.call(request).await.expect("infallible"));
    drop(guard);
    let request = v1::LogsRequest { request_id: "r-8".to_owned(), ..v1::LogsRequest::default() };
    let lines: Vec<_> = crate::log_stream::lines(&ring, request).collect().await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: Value = serde_json::from_str(&lines[0].as_ref().expect("a line").json).expect("one JSON object");
    for (key, expected) in [
        ("msg", "called a tool"),
        ("level", "info"),
        ("mcp.method.name", "tools/call"),
        ("gen_ai.tool.name", "list_nodes"),
        ("principal", "loopback"),
        ("arguments", r#"{"health":"dead","password":"***"}"#),
        ("outcome", "refused"),
        ("code", "bad_request"),
    ] {
        assert_eq!(line[key], expected, "{key}");
    }
    let shown = serde_json::json!({"password": "***", "health": "dead"});
    let digest = ollamax_types::Digest(ollamax_tools::once::digest_of(&shown));
    assert_eq!(line["arguments_digest"], digest.to_string(), "of what is shown, in whichever order");
}

/// A call of a tool at `/mcp`, whose message and whose request name these traces.
fn traced_call(said: &str, header: &str) -> http::Request<String> {
    let meta = serde_json::json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "traceparent": said,
    });
    let params = serde_json::json!({"name": "list_nodes", "arguments": {}, "_meta": meta});
    let message = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let headers = [
        ("host", "localhost"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "list_nodes"),
        ("x-request-id", "r-9"),
        ("traceparent", header),
    ];
    let request =
        headers.iter().fold(http::Request::post("/mcp"), |request, (name, value)| request.header(*name, *value));
    let mut request = request.body(message.to_string()).expect("a request");
    let client = "127.0.0.1:4711".parse().expect("an address");
    request.extensions_mut().insert(gateway::http::ClientAddress(client));
    request
}

#[tokio::test]
async fn a_call_tells_of_the_trace_that_its_message_names_else_of_that_of_its_request() {
    let check = async |said: &str, header: &str, expected: Option<(&str, &str)>| {
        let lab = MemLab { nodes: Some(Vec::new()), ..MemLab::default() };
        let catalogue = toolbox::fill(&MemPorts::of(lab).ports(), &[]).expect("declared well");
        let registry = prometheus::Registry::new();
        let tools = gateway::Toolbox::new(catalogue, &registry).expect("new names");
        let mut router = gateway::http::router(parts(tools, registry));
        let (ring, subscriber) = to_ring();
        let guard = tracing::subscriber::set_default(subscriber);
        drop(router.call(traced_call(said, header)).await.expect("infallible"));
        drop(guard);
        let request = v1::LogsRequest { request_id: "r-9".to_owned(), ..v1::LogsRequest::default() };
        let lines: Vec<_> = crate::log_stream::lines(&ring, request).collect().await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line: Value = serde_json::from_str(&lines[0].as_ref().expect("a line").json).expect("one JSON object");
        assert_eq!((&line["msg"], &line["outcome"]), (&Value::from("called a tool"), &Value::from("answered")));
        let found = line["trace_id"].as_str().zip(line["parent_id"].as_str());
        assert_eq!(found, expected, "{said} {header}: {line}");
        assert_eq!(line["span_id"].as_str().map(str::len), expected.map(|_| 16), "{line}");
    };
    let (own, other) = ("0af7651916cd43dd8448eb211c80319c", "4bf92f3577b34da6a3ce929d0e0e4736");
    let named = |id: &str| format!("00-{id}-b7ad6b7169203331-01");
    check(&named(own), &named(other), Some((own, "b7ad6b7169203331"))).await;
    check("nonsense", &named(other), Some((other, "b7ad6b7169203331"))).await;
    check("nonsense", "nonsense", None).await;
}

#[tokio::test]
async fn every_message_of_an_assistant_is_found_where_the_level_is_debug() {
    let catalogue = toolbox::fill(&MemPorts::default().ports(), &[]).expect("declared well");
    let registry = prometheus::Registry::new();
    let tools = gateway::Toolbox::new(catalogue, &registry).expect("new names");
    let mut router = gateway::http::router(parts(tools, registry));
    let (ring, subscriber) = to_ring_at("debug");
    let guard = tracing::subscriber::set_default(subscriber);
    drop(router.call(traced_call("nonsense", "nonsense")).await.expect("infallible"));
    drop(guard);
    let request = v1::LogsRequest { request_id: "r-9".to_owned(), ..v1::LogsRequest::default() };
    let lines: Vec<_> = crate::log_stream::lines(&ring, request).collect().await;
    let lines = lines.iter().map(|line| &line.as_ref().expect("a line").json);
    let lines = lines.map(|json| serde_json::from_str::<Value>(json).expect("one JSON object"));
    let mut told = lines.filter(|line| line["msg"] == "answered an assistant");
    let line = told.next().expect("it is told");
    let said = (&line["mcp.method.name"], &line["principal"], &line["status"]);
    assert_eq!(said, (&"tools/call".into(), &"loopback".into(), &200.into()), "{line}");
    assert_eq!(told.next(), None, "once");
}

#[derive(Debug, thiserror::Error)]
#[error("copy a file")]
struct Copying(#[source] std::io::Error);

/// The last line of a log that was written at this level.
fn logged(level: &str, write: impl FnOnce()) -> Value {
    let (ring, subscriber) = to_ring_at(level);
    tracing::subscriber::with_default(subscriber, write);
    ring.tail(1).0.first().map(|line| serde_json::from_str(line).expect("one JSON object")).unwrap_or_default()
}

fn names(line: &Value) -> Vec<&str> {
    line.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn every_line_has_the_same_fields_and_an_error_three_more() {
    const ALWAYS: [&str; 7] = ["ts", "level", "target", "msg", "request_id", "node_id", "term"];
    let check = |level: &str, write: fn()| {
        let line = logged("debug", write);
        assert_eq!(names(&line), ALWAYS, "{line}");
        assert_eq!((&line["level"], &line["msg"], &line["request_id"]), (&level.into(), &"x".into(), &"".into()));
    };
    check("warn", || tracing::warn!(target: "ollamax_node", "x"));
    check("info", || tracing::info!(target: "ollamax_node", "x"));
    check("debug", || tracing::debug!(target: "ollamax_node", "x"));
    let error = logged("info", || {
        tracing::error!(target: "ollamax_node", code = %ErrorCode::DiskFull, error = "no room", "x");
    });
    assert_eq!(names(&error), [&ALWAYS[..], &["code", "error", "stack"][..]].concat(), "{error}");
    assert_eq!((&error["code"], &error["error"]), (&"disk_full".into(), &"no room".into()));
}

#[test]
fn an_error_shows_its_place_its_spans_and_its_causes() {
    let error = logged("info", || {
        let _request = tracing::error_span!("request", request_id = "r1").entered();
        let _inner = tracing::error_span!("copy").entered();
        let error: Box<dyn std::error::Error> = Box::new(Copying(std::io::Error::other("no room")));
        tracing::error!(target: "ollamax_node", code = %ErrorCode::Internal, error, "x");
    });
    assert_eq!((&error["error"], &error["request_id"]), (&"copy a file".into(), &"r1".into()));
    let stack: Vec<&str> = error["stack"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(stack[0].contains("telemetry/tests.rs:"), "{stack:?}");
    assert_eq!(stack[1..4], ["in copy", "in request", "because of no room"], "{stack:?}");
}

#[test]
fn an_error_of_a_library_has_a_code_too_and_an_event_without_a_text_its_place() {
    let line = logged("info", || tracing::error!(target: "h2", "broken"));
    assert_eq!((&line["code"], &line["error"]), (&"internal".into(), &"broken".into()));
    let line = logged("info", || tracing::warn!(target: "h2", tries = 2));
    assert!(line["msg"].as_str().is_some_and(|msg| msg.starts_with("event ")), "{line}");
}

#[test]
fn that_an_assistant_has_left_is_no_error_of_the_node() {
    let left = || tracing::error!(target: "rmcp::service", "failed to send pending response during drain");
    assert_eq!(logged("info", left), Value::Null);
    assert_eq!(logged("info,rmcp::service=error", left)["level"], "error", "who asks for it has it");
    let line = logged("info", || tracing::error!(target: "rmcp::transport", "broken"));
    assert_eq!(line["level"], "error");
}

#[test]
fn nothing_below_debug_is_ever_logged() {
    let line = logged("debug,h2=debug", || {
        tracing::trace!(target: "ollamax_node", "x");
        tracing::trace!(target: "h2", "x");
    });
    assert_eq!(line, Value::Null);
}

#[test]
fn a_panic_is_an_error_of_the_request_in_which_it_happened() {
    let line = logged("info", || {
        let _request = tracing::error_span!("request", request_id = "r1").entered();
        std::panic::set_hook(Box::new(tell_panic));
        let caught = std::panic::catch_unwind(|| panic!("a bug"));
        drop(std::panic::take_hook());
        assert!(caught.is_err());
    });
    let seen = [&line["level"], &line["request_id"], &line["code"], &line["error"]];
    assert_eq!(seen, ["error", "r1", "internal", "a bug"], "{line}");
    assert!(line["place"].as_str().is_some_and(|place| place.contains("telemetry/tests.rs:")), "{line}");
}

#[test]
fn a_line_carries_its_own_fields_and_those_of_its_spans() {
    let (ring, subscriber) = to_ring();
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request", request_id = "r1");
        let _entered = span.enter();
        tracing::warn!(code = "no_quorum", tries = 2, "write refused");
    });
    let (lines, _) = ring.tail(10);
    let line: Value = serde_json::from_str(&lines[0]).expect("one JSON object");
    for (key, expected) in [
        ("ts", Value::from("2023-11-14T22:13:20.000Z")),
        ("level", "warn".into()),
        ("msg", "write refused".into()),
        ("node_id", 3.into()),
        ("term", 0.into()),
        ("request_id", "r1".into()),
        ("code", "no_quorum".into()),
        ("tries", 2.into()),
    ] {
        assert_eq!(line[key], expected, "{key}");
    }
}

#[test]
fn a_node_that_serves_the_network_says_so_and_what_to_do() {
    let line = logged("info", || run::warn_if_open(true, "http://0.0.0.0:11435"));
    assert_eq!((&line["level"], &line["api"]), (&"warn".into(), &"http://0.0.0.0:11435".into()));
    let text = line["msg"].as_str().unwrap_or_default();
    assert!(text.starts_with("api.allow_unauthenticated is true") && text.contains("set api.listen"), "{line}");
    assert_eq!(logged("info", || run::warn_if_open(false, "http://127.0.0.1:11435")), Value::Null);
}

#[test]
fn the_ring_keeps_the_last_lines_within_its_bytes() {
    let ring = Ring::new();
    let wide = "x".repeat(RING_BYTES_MAX / 8);
    for number in 0..20 {
        ring.push(&format!("{number} {wide}"));
    }
    let (lines, _) = ring.tail(100);
    assert!(lines.len() < 9, "{}", lines.len());
    assert!(lines.last().is_some_and(|line| line.starts_with("19 ")));
    assert_eq!(ring.tail(1).0.len(), 1);
}

#[test]
fn levels_are_checked() {
    for good in ["info", "debug", "warn,ollamax_net=debug"] {
        assert!(parse_level(good).is_ok(), "{good}");
    }
    for bad in ["trace", "loud", "ollamax_net=all"] {
        assert!(parse_level(bad).is_err(), "{bad}");
    }
}
