//! Logs: one JSON object per line on stderr, and the last lines in memory for `ollamax logs`.
//!
//! `line` says what stands in a line. Levels are error, warn, info and debug, nothing below; a panic is an error. The
//! ring is bounded in lines and bytes; a reader that follows too slowly loses lines and is told how many. Logging never
//! fails the caller.

use std::collections::VecDeque;
use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt as subscriber_fmt};

use ollamax_types::{Clock, ErrorCode};

use self::line::JsonLine;

mod line;

const RING_LINES_MAX: usize = 10_000;
const RING_BYTES_MAX: usize = 4 << 20;
const FOLLOW_LINES_MAX: usize = 1_024;

/// Node id and term that every line carries; 0 while unknown.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// This node's id.
    pub(crate) node: AtomicU64,
    /// The Raft term it is in.
    pub(crate) term: AtomicU64,
}

/// The last lines of the log.
#[derive(Debug, Clone)]
pub(crate) struct Ring(Arc<RingInner>);

#[derive(Debug)]
struct RingInner {
    lines: Mutex<Lines>,
    follow: broadcast::Sender<Arc<str>>,
}

#[derive(Debug, Default)]
struct Lines {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Ring {
    fn new() -> Self {
        let (follow, _) = broadcast::channel(FOLLOW_LINES_MAX);
        Self(Arc::new(RingInner { lines: Mutex::default(), follow }))
    }

    fn push(&self, line: &str) {
        let line: Arc<str> = line.trim_end().into();
        let mut held = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes += line.len();
        held.lines.push_back(Arc::clone(&line));
        while held.lines.len() > RING_LINES_MAX || held.bytes > RING_BYTES_MAX {
            let Some(oldest) = held.lines.pop_front() else { break };
            held.bytes -= oldest.len();
        }
        // Sent under the lock, so that a follower sees each line once. Nobody may be following.
        drop(self.0.follow.send(line));
    }

    /// The last `count` lines, and a receiver of those that follow.
    #[must_use]
    pub(crate) fn tail(&self, count: usize) -> (Vec<Arc<str>>, broadcast::Receiver<Arc<str>>) {
        let held = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = held.lines.len().saturating_sub(count);
        (held.lines.iter().skip(skip).cloned().collect(), self.0.follow.subscribe())
    }
}

/// How lines look on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// The level and filter text are not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// Not one of error, warn, info, debug, or a list of `target=level`.
    #[error("log.level: {0}")]
    Level(String),
    /// Somebody else had set up logging in this process.
    #[error("logging is set up already")]
    Twice,
}

/// Checks a level text without installing anything.
///
/// # Errors
/// When a part of it is not understood, or asks for `trace`.
pub(crate) fn parse_level(level: &str) -> Result<EnvFilter, InitError> {
    let mut filter = EnvFilter::default().add_directive(LevelFilter::WARN.into());
    // A peer that cannot be reached is our own state change, logged once; openraft would say it with every message. A
    // request that makes no sense is its caller's, whose call has its line; rmcp would warn of each. What its service
    // says of answers that nobody takes is of assistants that have left: no defect, and listening ends so each time.
    for text in ["openraft=error", "rmcp=error", "rmcp::service=off"] {
        let quiet = text.parse().map_err(|_| InitError::Level(text.to_owned()))?;
        filter = filter.add_directive(quiet);
    }
    for part in level.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let word = part.rsplit('=').next().unwrap_or(part);
        if !["error", "warn", "info", "debug"].contains(&word) {
            return Err(InitError::Level(format!("{word:?} is not error, warn, info or debug")));
        }
        let text = if part.contains('=') { part.to_owned() } else { own_crates(part) };
        for directive in text.split(',') {
            let parsed: Directive = directive.parse().map_err(|_| InitError::Level(format!("{directive:?}")))?;
            filter = filter.add_directive(parsed);
        }
    }
    Ok(filter)
}

/// A bare level speaks of our own crates; libraries stay at `warn` unless they are named.
fn own_crates(level: &str) -> String {
    let crates = [
        "node",
        "core",
        "store",
        "blobs",
        "metadata",
        "transfer",
        "scheduler",
        "gateway",
        "net",
        "outbound",
        "security",
        "engine",
    ];
    crates.map(|name| format!("ollamax_{name}={level}")).join(",")
}

/// Installs the process's subscriber.
///
/// # Errors
/// When the level is not understood or a subscriber is installed already.
pub(crate) fn init(level: &str, format: Format, standing: Arc<Standing>, clock: Clock) -> Result<Ring, InitError> {
    let ring = Ring::new();
    let filter = parse_level(level)?;
    let writer = Tee { ring: ring.clone(), stderr: format == Format::Json };
    let json = subscriber_fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(JsonLine { standing, clock })
        .with_writer(writer);
    let text =
        (format == Format::Text).then(|| subscriber_fmt::layer().with_writer(std::io::stderr).with_target(false));
    let installed = tracing_subscriber::registry().with(filter).with(json).with(text).try_init();
    installed.map_err(|_| InitError::Twice)?;
    log_panics();
    Ok(ring)
}

#[derive(Clone)]
struct Tee {
    ring: Ring,
    stderr: bool,
}

impl Write for Tee {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.ring.push(&String::from_utf8_lossy(line));
        if self.stderr {
            std::io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Tee {
    type Writer = Self;
    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

/// From now on a panic is a line of the log like every other, with the request in which it happened.
fn log_panics() {
    std::panic::set_hook(Box::new(tell_panic));
}

fn tell_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.payload_as_str().unwrap_or("no text");
    let place = panic.location().map(ToString::to_string);
    tracing::error!(code = %ErrorCode::Internal, error = text, place, "a panic; please report it");
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures::StreamExt as _;
    use serde_json::Value;
    use tonic::codegen::{Service as _, http};
    use tracing::Subscriber;

    use ollamax_gateway as gateway;
    use ollamax_proto::v1;
    use ollamax_tools::mem::MemPorts;
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
        let request =
            http::Request::post("/tools/list_nodes").header("host", "localhost").header("x-request-id", "r-8");
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
            let catalogue = toolbox::fill(&MemPorts::default().ports(), &[]).expect("declared well");
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
        assert!(stack[0].contains("telemetry.rs:"), "{stack:?}");
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
        assert!(line["place"].as_str().is_some_and(|place| place.contains("telemetry.rs:")), "{line}");
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
}
