//! The tools of a node at its doors: a call is made, counted, and written down, whichever door it came through.
//!
//! Always: one line in the log and one count for each call, also where the caller left before it ended. The line says
//! who called what with which arguments; what their schema marks as secret, and what it does not know, is hidden.

use std::sync::Arc;

use prometheus::Registry;
use serde_json::Value;
use tokio::time::Instant;

use ollamax_tools::{CallError, Caller, Catalogue};
use ollamax_types::ErrorCode;

use crate::metrics::{ToolMetrics, UNKNOWN_TOOL};

/// Characters of a call's arguments in the log.
const ARGUMENTS_CHARS_MAX: usize = 1_000;
/// Characters of a name that no tool has, in the log.
const NAME_CHARS_MAX: usize = 64;

/// The tools of a node. Clones are the same tools, with the same counts and the same limits.
#[derive(Debug, Clone, Default)]
pub struct Toolbox {
    catalogue: Arc<Catalogue>,
    metrics: ToolMetrics,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answered,
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
        Ok(Self { catalogue: Arc::new(catalogue), metrics })
    }

    /// What there is.
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// As [`Catalogue::call`].
    pub(crate) async fn call(&self, caller: Caller, name: &str, arguments: Value) -> Result<Value, CallError> {
        let mut call = Call::begin(self, &caller, name, &arguments);
        let answer = self.catalogue.call(caller, name, arguments).await;
        call.outcome = Outcome::of(&answer);
        answer
    }
}

// === impl Outcome ===

impl Outcome {
    const fn of(answer: &Result<Value, CallError>) -> Self {
        match answer {
            Ok(_) => Self::Answered,
            Err(CallError::Failed(error)) => Self::Refused(error.code),
            Err(CallError::UnknownTool(_)) => Self::Unknown,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused(_) => "refused",
            Self::Unknown => UNKNOWN_TOOL,
            Self::Left => "left",
        }
    }

    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Refused(code) => Some(code.as_str()),
            Self::Answered | Self::Unknown | Self::Left => None,
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
            arguments: shown.to_string().chars().take(ARGUMENTS_CHARS_MAX).collect(),
            started_at: Instant::now(),
            outcome: Outcome::Left,
        }
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
            outcome = self.outcome.as_str(),
            code = self.outcome.code(),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "called a tool"
        );
    }
}
