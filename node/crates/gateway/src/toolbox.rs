//! The tools of a node at its doors: a call is made, counted, and written down, whichever door it came through.
//!
//! Always: one line in the log and one count for each call, also where the caller left before it ended. The line says
//! who called what with which arguments, and which task came of it; what their schema marks as secret, and what it does
//! not know, is hidden, before the arguments are cut and their digest is made. A call about which its caller is asked
//! first is one, and the call with the answer another.

use std::fmt;
use std::sync::Arc;

use prometheus::Registry;
use serde_json::Value;
use tokio::time::Instant;

use ollamax_tools::once::digest_of;
use ollamax_tools::{Call as Asked, CallError, Caller, Catalogue, Progress, Started, Tasks};
use ollamax_types::{Digest, ErrorCode};

use crate::inference::InferenceSlot;
use crate::metrics::{ToolMetrics, UNKNOWN_TOOL};
use crate::ports::Keys;

mod openapi;
mod tasks;

pub(crate) use tasks::what_it_does;

/// Characters of a call's arguments in the log.
const ARGUMENTS_CHARS_MAX: usize = 1_000;
/// Characters of a name that no tool has, in the log.
const NAME_CHARS_MAX: usize = 64;

/// The tools of a node. Clones are the same tools, with the same counts and the same limits.
#[derive(Clone, Default)]
pub struct Toolbox {
    catalogue: Arc<Catalogue>,
    metrics: ToolMetrics,
    /// `None`: nothing here takes longer than its call.
    tasks: Option<Arc<dyn Tasks>>,
    inference: InferenceSlot,
    /// `None`: nothing is sealed here, and nobody is asked before a call begins.
    keys: Option<Arc<dyn Keys>>,
}

impl fmt::Debug for Toolbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toolbox").finish_non_exhaustive()
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
    Asked,
    Refused(ErrorCode),
    Unknown,
    Left,
}

/// A call that is under way; it is counted and written down when it is dropped.
struct Call {
    metrics: ToolMetrics,
    /// The tool's name where there is such a tool.
    tool: &'static str,
    /// The name that was sent.
    sent: String,
    request: String,
    subject: String,
    arguments: String,
    /// Of all of these arguments, in whichever order: of long ones the beginning is written down.
    arguments_digest: Digest,
    /// The task that came of it.
    task: Option<String>,
    started_at: Instant,
    outcome: Outcome,
}

// === impl Toolbox ===

impl Toolbox {
    /// Puts tools behind the doors, and their metrics into a registry.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn new(catalogue: Catalogue, registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = ToolMetrics::default();
        metrics.register(registry)?;
        Ok(Self { catalogue: Arc::new(catalogue), metrics, ..Self::default() })
    }

    /// With the tasks that its tools begin; the catalogue has the same ones.
    #[must_use]
    pub fn with_tasks(self, tasks: Arc<dyn Tasks>) -> Self {
        Self { tasks: Some(tasks), ..self }
    }

    /// With what its tools ask models through. The clients' door that is opened with this toolbox fills it.
    #[must_use]
    pub fn with_inference(self, inference: InferenceSlot) -> Self {
        Self { inference, ..self }
    }

    /// With the keys that seal what callers carry from one round of a call to the next.
    #[must_use]
    pub fn with_keys(self, keys: Arc<dyn Keys>) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// What there is.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// What tools ask models through.
    pub(crate) const fn inference(&self) -> &InferenceSlot {
        &self.inference
    }

    /// What seals.
    pub(crate) fn keys(&self) -> Option<Arc<dyn Keys>> {
        self.keys.clone()
    }

    /// Calls a tool. One that begins a task comes back at once.
    ///
    /// # Errors
    /// As [`Catalogue::start`].
    pub(crate) async fn start(
        &self,
        caller: Caller,
        name: &str,
        arguments: Value,
        progress: Progress,
    ) -> Result<Started, CallError> {
        let mut call = Call::begin(self, &caller, name, &arguments);
        let asked = Asked { caller, once: None, progress };
        Ok(match call.start(&self.catalogue, asked, name, arguments).await? {
            Started::Task(task) => Started::Task(tasks::told(task)),
            answered @ Started::Answered(_) => answered,
        })
    }

    /// Checks a call about which its caller is asked first, and writes down that it is. What the caller reads then is
    /// what it would do, line by line.
    ///
    /// # Errors
    /// As [`Catalogue::foresee`].
    pub(crate) async fn ask_first(
        &self,
        caller: &Caller,
        name: &str,
        arguments: &Value,
    ) -> Result<Vec<String>, CallError> {
        let mut call = Call::begin(self, caller, name, arguments);
        let foreseen = self.catalogue.foresee(caller, name, arguments).await;
        call.outcome = if foreseen.is_ok() { Outcome::Asked } else { Outcome::of(&foreseen) };
        foreseen
    }

    /// Calls a tool. Where it begins a task, the call waits for it; for how long, and what is answered then, says
    /// [`Self::waited`]. Where its caller was asked before, the answer is said to that task first, and once: `asked`
    /// has the key that makes all goings on from one question one call, where the arguments have none.
    ///
    /// # Errors
    /// As [`Catalogue::start`], and when the task fails; when the answer was no, or another one before.
    pub(crate) async fn call(
        &self,
        asked: Asked,
        answer: Option<bool>,
        name: &str,
        arguments: Value,
    ) -> Result<Value, CallError> {
        let (caller, progress) = (asked.caller.clone(), asked.progress.clone());
        let mut call = Call::begin(self, &caller, name, &arguments);
        match call.start(&self.catalogue, asked, name, arguments).await? {
            Started::Answered(value) => Ok(value),
            Started::Task(task) => {
                // Who leaves meanwhile leaves the call; the task goes on.
                call.outcome = Outcome::Left;
                let ended = match answer {
                    Some(yes) => self.decided(&caller, task, yes, &progress).await,
                    None => self.waited(task, &progress).await,
                };
                let ended = ended.map_err(CallError::from);
                call.outcome = Outcome::of(&ended);
                ended
            }
        }
    }
}

// === impl Outcome ===

impl Outcome {
    const fn of<T>(answer: &Result<T, CallError>) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(CallError::Failed(error)) => Self::Refused(error.code),
            Err(CallError::UnknownTool(_)) => Self::Unknown,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Asked => "asked",
            Self::Refused(_) => "refused",
            Self::Unknown => UNKNOWN_TOOL,
            Self::Left => "left",
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Refused(code) => Some(code.as_str()),
            Self::Answered | Self::Asked | Self::Unknown | Self::Left => None,
        }
    }
}

// === impl Call ===

impl Call {
    fn begin(toolbox: &Toolbox, caller: &Caller, name: &str, arguments: &Value) -> Self {
        let found = toolbox.catalogue.find(name);
        // Of arguments for nothing nothing is known that could be hidden.
        let shown = found.map_or(Value::Null, |tool| tool.input().redact(arguments));
        Self {
            metrics: toolbox.metrics.clone(),
            tool: found.map_or(UNKNOWN_TOOL, |tool| tool.spec().name),
            sent: name.chars().take(NAME_CHARS_MAX).collect(),
            request: caller.request.to_string(),
            subject: caller.principal.subject().to_string(),
            arguments_digest: Digest(digest_of(&shown)),
            arguments: shown.to_string().chars().take(ARGUMENTS_CHARS_MAX).collect(),
            task: None,
            started_at: Instant::now(),
            outcome: Outcome::Left,
        }
    }

    async fn start(
        &mut self,
        catalogue: &Catalogue,
        asked: Asked,
        name: &str,
        arguments: Value,
    ) -> Result<Started, CallError> {
        let started = catalogue.start_as(asked, name, arguments).await;
        if let Ok(Started::Task(task)) = &started {
            self.task = Some(task.id.clone());
        }
        self.outcome = Outcome::of(&started);
        started
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.started_at.elapsed();
        self.metrics.calls.with_label_values(&[self.tool, self.outcome.as_str()]).inc();
        self.metrics.duration.with_label_values(&[self.tool]).observe(took.as_secs_f64());
        tracing::info!(
            request_id = self.request,
            mcp.method.name = "tools/call",
            gen_ai.tool.name = self.sent,
            principal = self.subject,
            arguments = self.arguments,
            arguments_digest = self.arguments_digest.to_string(),
            task = self.task.as_deref(),
            outcome = self.outcome.as_str(),
            code = self.outcome.code(),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "called a tool"
        );
    }
}
