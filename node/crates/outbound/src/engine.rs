//! Keeps the bundled engine running: starts it, reads where it listens, restarts it, ends it with its children.
//!
//! Always: one engine at a time, in a process group of its own, which is killed whole when the engine ends, when we
//! stop, and when this task is dropped. The engine holds a pipe from us and ends itself when we die. After a failure it
//! is started again, later each time up to [`BACK_OFF_MAX`]; a run of [`STEADY_AFTER`] forgets earlier failures.
//! What the engine logs, JSON lines, goes to our log at its own level; what it says otherwise (an abort of native code)
//! is a warning. Its last line stands in the reason when it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::AsyncRead;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Level;
use url::Url;

use ollamax_types::ErrorCode;

use crate::address;
use crate::metrics::Metrics;

/// How long the engine may take to say where it listens.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to end by itself when it is told to.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before a restart.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest pause before a restart.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A run this long counts as healthy.
pub const STEADY_AFTER: Duration = Duration::from_secs(60);
/// Longest line of the engine's output that is read.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Under which target the log shows what the engine says.
const TARGET: &str = "ollamax_engine";

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSpec {
    /// The program.
    pub binary: PathBuf,
    /// Where it shall listen; port 0 means any.
    pub listen: SocketAddr,
    /// Its model store.
    pub models: PathBuf,
}

/// Where the engine stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Started, and has not said yet where it listens.
    Starting,
    /// Listens.
    Running {
        /// Base URL.
        url: Url,
        /// Process id.
        pid: u32,
        /// Whether it was built to use GPUs; `None` when it does not say.
        gpu: Option<bool>,
    },
    /// Ended or could not be started; it is tried again.
    Failed {
        /// What happened, with the engine's last line of output.
        reason: String,
    },
}

/// Why a run of the engine ended.
#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error("start {program}: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("the engine did not say within {} s where it listens{said}", START_TIMEOUT.as_secs())]
    Silent { said: String },
    #[error("the engine closed its output before it said where it listens{said}")]
    Mute { said: String },
    #[error("the engine said {line:?} instead of where it listens")]
    Garbled { line: String },
    #[error("the engine's first line cannot be read: {0}")]
    Unreadable(#[from] LinesCodecError),
    #[error("the engine ended with {status}{said}")]
    Ended { status: String, said: String },
}

/// One run of the engine. Dropping it kills the whole group.
struct Running {
    child: Child,
    group: Group,
    stdin: Option<ChildStdin>,
    last_line: Arc<Mutex<String>>,
}

/// A process group that does not outlive this value.
struct Group(Pid);

#[derive(Deserialize)]
struct Listening {
    listening: String,
    gpu: Option<bool>,
}

/// One line of the engine's log.
#[derive(Deserialize)]
struct LogLine {
    level: String,
    message: String,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Runs the engine until `stop`; says in `state` where it stands.
pub async fn supervise(
    spec: EngineSpec,
    state: watch::Sender<EngineState>,
    metrics: Metrics,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let mut pause = BACK_OFF_MIN;
    loop {
        state.send_replace(EngineState::Starting);
        metrics.engine_starts.inc();
        let started_at = Instant::now();
        let reason = match run_once(&spec, &state, &tasks, &stop).await {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        if started_at.elapsed() >= STEADY_AFTER {
            pause = BACK_OFF_MIN;
        }
        tracing::warn!(reason, retry_ms = pause.as_millis(), "the engine is not running");
        state.send_replace(EngineState::Failed { reason });
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(BACK_OFF_MAX);
    }
}

/// One run: `Ok` when we were told to stop, an error when the engine ended by itself.
async fn run_once(
    spec: &EngineSpec,
    state: &watch::Sender<EngineState>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), EndError> {
    let (mut running, stdout) = Running::start(spec, tasks)?;
    let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
    let first = tokio::select! {
        () = stop.cancelled() => { running.stop().await; return Ok(()) }
        first = timeout(START_TIMEOUT, lines.next()) => first,
    };
    let line = match first {
        Err(_) => return Err(EndError::Silent { said: running.said() }),
        Ok(Some(line)) => line?,
        // As a rule it is ending, and its status says more.
        Ok(None) => {
            let ended = timeout(STOP_TIMEOUT, running.wait()).await.ok();
            return Err(ended.unwrap_or_else(|| EndError::Mute { said: running.said() }));
        }
    };
    let said: Option<Listening> = serde_json::from_str(&line).ok();
    let heard = said.and_then(|said| Some((address::parse(&said.listening).ok()?, said.gpu)));
    let Some((url, gpu)) = heard else {
        return Err(EndError::Garbled { line });
    };
    let pid = running.child.id().unwrap_or_default();
    tracing::info!(pid, %url, "the engine listens");
    state.send_replace(EngineState::Running { url, pid, gpu });
    tasks.spawn(forward_lines(lines, None));
    tokio::select! {
        () = stop.cancelled() => { running.stop().await; Ok(()) }
        error = running.wait() => Err(error),
    }
}

// === impl Running ===

impl Running {
    fn start(spec: &EngineSpec, tasks: &TaskTracker) -> Result<(Self, ChildStdout), EndError> {
        let start_error = |source| EndError::Start { program: spec.binary.display().to_string(), source };
        let mut child = Command::new(&spec.binary)
            .arg("serve")
            .args(["--host", &spec.listen.to_string()])
            .arg("--models")
            .arg(&spec.models)
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(start_error)?;
        let gone = || start_error(std::io::ErrorKind::BrokenPipe.into());
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(gone)?;
        let group = Group(Pid::from_raw(pid));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(gone)?;
        let stderr = child.stderr.take().ok_or_else(gone)?;
        let last_line = Arc::new(Mutex::new(String::new()));
        let stderr = FramedRead::new(stderr, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        tasks.spawn(forward_lines(stderr, Some(Arc::clone(&last_line))));
        Ok((Self { child, group, stdin, last_line }, stdout))
    }

    /// Waits for the engine's own end; what it leaves behind in its group is killed.
    async fn wait(&mut self) -> EndError {
        let status = self.child.wait().await;
        self.group.signal(Signal::SIGKILL);
        EndError::Ended { status: shown(status), said: self.said() }
    }

    /// Lets the engine end by itself, then makes it.
    async fn stop(&mut self) {
        drop(self.stdin.take());
        self.group.signal(Signal::SIGTERM);
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.group.signal(Signal::SIGKILL);
            let status = self.child.wait().await;
            tracing::warn!(status = shown(status), "the engine had to be killed");
        }
    }

    fn said(&self) -> String {
        let line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() { String::new() } else { format!("; it said: {line}") }
    }
}

// === impl Group ===

impl Group {
    fn signal(&self, signal: Signal) {
        // A group that has ended already is what we want.
        killpg(self.0, signal).unwrap_or_default();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Ends with the pipe. A line that is too long is cut out, not fatal.
async fn forward_lines<R: AsyncRead + Unpin>(mut lines: FramedRead<R, LinesCodec>, last: Option<Arc<Mutex<String>>>) {
    while let Some(line) = lines.next().await {
        let Ok(line) = line else { continue };
        let (level, text) = read_line(line);
        match level {
            Level::ERROR => {
                tracing::error!(target: TARGET, code = %ErrorCode::RuntimeFailed, error = text, "the engine says");
            }
            Level::WARN => tracing::warn!(target: TARGET, said = text, "the engine says"),
            Level::INFO => tracing::info!(target: TARGET, said = text, "the engine says"),
            _ => tracing::debug!(target: TARGET, said = text, "the engine says"),
        }
        if let Some(last) = &last {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
    }
}

/// How loud a line of the engine is, and what it says: its message, then its fields.
fn read_line(line: String) -> (Level, String) {
    let Ok(LogLine { level, message, mut fields }) = serde_json::from_str(&line) else {
        return (Level::WARN, line);
    };
    fields.retain(|name, _| name != "timestamp" && name != "target");
    let fields = fields.into_iter().map(|(name, value)| match value {
        Value::String(text) => format!(", {name}: {text}"),
        value => format!(", {name}: {value}"),
    });
    (level.parse().unwrap_or(Level::WARN), message + &fields.collect::<String>())
}

fn shown(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_engine_keeps_its_level() {
        let check = |line: &str, level: Level, text: &str| {
            assert_eq!(read_line(line.to_owned()), (level, text.to_owned()), "{line}");
        };
        let crash = r#"{"timestamp":"t","level":"WARN","message":"a runner died","how":"signal: 6","target":"e"}"#;
        check(crash, Level::WARN, "a runner died, how: signal: 6");
        check(r#"{"level":"INFO","message":"loaded","pid":7}"#, Level::INFO, "loaded, pid: 7");
        check(r#"{"level":"ERROR","message":"ends"}"#, Level::ERROR, "ends");
        check("GGML_ASSERT(x) failed", Level::WARN, "GGML_ASSERT(x) failed");
        check(r#"{"other":1}"#, Level::WARN, r#"{"other":1}"#);
    }
}
