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
mod tests;
