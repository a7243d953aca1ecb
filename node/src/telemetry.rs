//! Logs: one JSON object per line on stderr, and the last lines in memory for `ollamax logs`.
//!
//! Every line carries `ts`, `level`, `target`, `msg`, `node_id`, `term` and `request_id` (empty where no request is
//! served), and the fields of the spans it stands in. Levels are error, warn, info and debug. The ring is bounded in
//! lines and bytes; a reader that follows too slowly loses lines and is told how many. Logging never fails the caller.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Directive;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt as subscriber_fmt};

use ollamax_types::Clock;

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
    // A peer that cannot be reached is our own state change, logged once; openraft would say it with every message.
    let quiet = "openraft=error".parse().map_err(|_| InitError::Level("openraft=error".to_owned()))?;
    filter = filter.add_directive(quiet);
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
    let crates = ["node", "core", "store", "metadata", "scheduler", "gateway", "net", "outbound", "security", "engine"];
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

struct JsonLine {
    standing: Arc<Standing>,
    clock: Clock,
}

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        line.insert("ts".to_owned(), rfc3339(self.clock.now().0).into());
        line.insert("level".to_owned(), event.metadata().level().as_str().to_lowercase().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        line.insert("msg".to_owned(), Value::Null);
        line.insert("request_id".to_owned(), "".into());
        line.insert("node_id".to_owned(), self.standing.node.load(Ordering::Relaxed).into());
        line.insert("term".to_owned(), self.standing.term.load(Ordering::Relaxed).into());
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<JsonFields>>();
            if let Some(Ok(Value::Object(fields))) = fields.map(|text| serde_json::from_str(&text.fields)) {
                line.extend(fields);
            }
        }
        event.record(&mut Fields(&mut line));
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC.
#[must_use]
pub(crate) fn rfc3339(millis: u64) -> String {
    let stamp = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(String::new, |stamp| format!("{stamp:.3}"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tonic::codegen::{Service as _, http};

    use ollamax_gateway as gateway;
    use ollamax_proto::v1;
    use ollamax_types::Timestamp;

    use super::*;

    /// Node 3 at a fixed time, with the filter of the default level.
    fn to_ring() -> (Ring, impl Subscriber + Send + Sync) {
        let ring = Ring::new();
        let standing = Arc::new(Standing::default());
        standing.node.store(3, Ordering::Relaxed);
        let clock = Clock::manual(Timestamp(1_700_000_000_000));
        let layer = subscriber_fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine { standing, clock })
            .with_writer(Tee { ring: ring.clone(), stderr: false });
        let filter = parse_level("info").expect("a level");
        (ring, tracing_subscriber::registry().with(filter).with(layer))
    }

    #[tokio::test]
    async fn a_clients_request_is_found_by_its_id() {
        let registry = prometheus::Registry::new();
        let mut router = gateway::http::router(gateway::http::Parts {
            node: Arc::new(gateway::mem::MemNode::new("n1")),
            config: gateway::Config::default(),
            bound: "127.0.0.1:11435".parse().expect("an address"),
            hostname: String::new(),
            metrics: gateway::Metrics::register(&registry).expect("a new registry"),
            registry,
            seed: 1,
        });
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

    #[test]
    fn every_line_has_a_request_id() {
        let (ring, subscriber) = to_ring();
        tracing::subscriber::with_default(subscriber, || tracing::error!(target: "ollamax_node", "alone"));
        let line: Value = serde_json::from_str(&ring.tail(1).0[0]).expect("one JSON object");
        assert_eq!(line["request_id"], "");
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
