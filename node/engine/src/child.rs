//! The server's end of one runner: starting it, speaking to it, and knowing how it died.
//!
//! A `Child` that is dropped is killed. Whatever the runner writes to its log appears in the server's; the first
//! telling line since the last order goes into the message that a client gets when the runner dies.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec, LinesCodec};
use tokio_util::task::TaskTracker;

use crate::limits;
use crate::options::Settings;
use crate::protocol::{Event, Fault, Footprint, Order};
use crate::shortage;

const SIGKILL: i32 = 9;
const LINES_KEPT: usize = 20;
const TELLING: [&str; 6] = ["error", "failed", "assert", "abort", "terminate", "panicked"];

/// A runner that has its model loaded.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    input: FramedWrite<ChildStdin, LengthDelimitedCodec>,
    output: FramedRead<ChildStdout, LengthDelimitedCodec>,
    log: Log,
    log_reader: JoinHandle<()>,
    settings: Settings,
    footprint: Footprint,
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LoadError {
    /// The system could not start the process.
    #[error("start model runner: {0}")]
    Start(String),
    /// llama.cpp refused the file.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// For lack of memory.
        memory: bool,
    },
    /// Native code, or the system, took the process down.
    #[error("llama runner process has terminated: {message}")]
    Died {
        /// How it ended.
        message: String,
        /// For lack of memory.
        memory: bool,
    },
    /// It took too long.
    #[error("timed out waiting for llama runner to start")]
    TimedOut,
}

impl LoadError {
    /// True if it may work once other models have made room.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Refused { memory: true, .. } | Self::Died { memory: true, .. })
    }
}

/// A runner died with a request in its hands.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, \
     check the log of ollamax-engine for details: {0}"
)]
pub(crate) struct Stopped(String);

/// What a runner wrote to its log since its last order; the newest lines if there are many.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<VecDeque<String>>>);

// === impl Child ===

impl Child {
    /// Starts a runner and waits until its model is loaded.
    pub(crate) async fn load(
        program: &Path,
        weights: PathBuf,
        settings: Settings,
        tasks: &TaskTracker,
    ) -> Result<Self, LoadError> {
        let mut child = Self::start(program, &weights, settings, tasks)?;
        match timeout(limits::LOAD_TIMEOUT, child.event()).await {
            Ok(Some(Event::Loaded(footprint))) => {
                child.footprint = footprint;
                Ok(child)
            }
            Ok(Some(Event::Failed { fault, message })) => {
                // It ends now, and its log may say more than it does.
                child.wait_for_log().await;
                Err(LoadError::Refused { message: child.with_log(message), memory: fault == Fault::Memory })
            }
            Ok(_) => {
                let message = child.obituary().await;
                Err(LoadError::Died { message, memory: child.was_short_of_memory() })
            }
            Err(_) => Err(LoadError::TimedOut),
        }
    }

    fn start(program: &Path, weights: &Path, settings: Settings, tasks: &TaskTracker) -> Result<Self, LoadError> {
        let mut command = Command::new(program);
        command.arg("runner").arg("--model").arg(weights);
        command.args(["--num-ctx", &settings.num_ctx.to_string(), "--num-batch", &settings.num_batch.to_string()]);
        if let Some(layers) = settings.num_gpu {
            command.args(["--num-gpu", &layers.to_string()]);
        }
        if let Some(threads) = settings.num_thread {
            command.args(["--num-thread", &threads.to_string()]);
        }
        if !settings.use_mmap {
            command.arg("--no-mmap");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|error| LoadError::Start(error.to_string()))?;
        let pipes = (process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(LoadError::Start("its pipes are missing".to_owned()));
        };
        let log = Log::default();
        let log_reader = tasks.spawn(log.clone().follow(stderr, process.id()));
        let codec = || LengthDelimitedCodec::builder().max_frame_length(limits::FRAME_BYTES_MAX).new_codec();
        Ok(Self {
            process,
            input: FramedWrite::new(stdin, codec()),
            output: FramedRead::new(stdout, codec()),
            log,
            log_reader,
            settings,
            footprint: Footprint::default(),
        })
    }

    /// What it was started with.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it takes.
    pub(crate) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// True while the process runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Gives an order.
    pub(crate) async fn send(&mut self, order: &Order) -> Result<(), Stopped> {
        self.log.clear();
        let bytes = serde_json::to_vec(order).map_err(|error| Stopped(error.to_string()))?;
        match self.input.send(Bytes::from(bytes)).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Err(Stopped(error.to_string())),
            Err(_) => Err(Stopped(self.obituary().await)),
        }
    }

    /// The next event. Cancelling the wait loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Event, Stopped> {
        match self.event().await {
            Some(event) => Ok(event),
            None => Err(Stopped(self.obituary().await)),
        }
    }

    /// Asks the process to leave and waits until its memory is free.
    pub(crate) async fn retire(mut self) {
        drop(self.input);
        if timeout(limits::RETIRE_GRACE, self.process.wait()).await.is_err()
            && let Err(error) = self.process.kill().await
        {
            tracing::warn!(%error, "kill runner");
        }
    }

    async fn event(&mut self) -> Option<Event> {
        let frame: BytesMut = self.output.next().await?.ok()?;
        serde_json::from_slice(&frame).ok()
    }

    /// Waits until a process that ends has said its last word.
    async fn wait_for_log(&mut self) {
        if !self.log_reader.is_finished() && timeout(limits::RETIRE_GRACE, &mut self.log_reader).await.is_err() {
            tracing::warn!("a runner that ended left its log open");
        }
    }

    /// How the process ended, in a few words.
    async fn obituary(&mut self) -> String {
        let status = match timeout(limits::RETIRE_GRACE, self.process.wait()).await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it no longer answers".to_owned(),
        };
        self.wait_for_log().await;
        let how = self.with_log(status);
        tracing::warn!(how, "a runner has ended by itself");
        how
    }

    /// Whether a process that has ended had not enough memory. Nobody but the system kills one that loads.
    fn was_short_of_memory(&mut self) -> bool {
        let killed = |status: ExitStatus| status.signal() == Some(SIGKILL);
        let killed = self.process.try_wait().ok().flatten().is_some_and(killed);
        killed || self.log.speaks_of_shortage()
    }

    fn with_log(&self, text: String) -> String {
        match self.log.telling() {
            Some(line) if !text.contains(&line) => format!("{text}: {line}"),
            _ => text,
        }
    }
}

// === impl Log ===

impl Log {
    async fn follow(self, stderr: ChildStderr, pid: Option<u32>) {
        let mut lines = FramedRead::new(stderr, LinesCodec::new_with_max_length(limits::LOG_LINE_BYTES_MAX));
        while let Some(line) = lines.next().await {
            let Ok(line) = line else { continue };
            // A runner says nothing below a warning.
            tracing::warn!(pid, said = line, "a runner says");
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LINES_KEPT {
                kept.pop_front();
            }
            kept.push_back(line);
        }
    }

    /// The first line that speaks of an error, without what only a log needs: the first names the cause.
    fn telling(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tells = |line: &&String| {
            let line = line.to_ascii_lowercase();
            TELLING.iter().any(|word| line.contains(word))
        };
        let line = kept.iter().find(tells)?.trim();
        let line = line.strip_prefix("ERROR").or_else(|| line.strip_prefix("WARN")).unwrap_or(line);
        Some(line.split(" module=").next().unwrap_or(line).trim().to_owned())
    }

    fn speaks_of_shortage(&self) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().any(|line| shortage::is_named_in(line))
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_speaks_of_an_error_names_the_cause() {
        let check = |lines: &[&str], expected: Option<&str>| {
            let log = Log::default();
            log.0.lock().expect("free").extend(lines.iter().map(|line| (*line).to_owned()));
            assert_eq!(log.telling().as_deref(), expected, "{lines:?}");
        };
        check(&[], None);
        check(&["all is well"], None);
        check(
            &[" WARN slow", "ERROR error loading model: no tensor module=\"llama.cpp\"", "ERROR failed to load model"],
            Some("error loading model: no tensor"),
        );
        check(&["a.cpp:7: GGML_ASSERT(x) failed", "abort"], Some("a.cpp:7: GGML_ASSERT(x) failed"));
    }
}
