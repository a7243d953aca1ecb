//! A call of a tool, from whatever door: it is made, counted, and written down.
//!
//! Always: one line in the log and one count for each call, also where the caller left before it ended. The line says
//! who called what with which arguments; what their schema marks as secret, and what it does not know, is hidden.

use serde_json::Value;
use tokio::time::Instant;

use ollamax_tools::{CallError, Caller};
use ollamax_types::ErrorCode;

use crate::http::OpenDoor;
use crate::metrics::{Metrics, UNKNOWN_TOOL};

/// Characters of a call's arguments in the log.
const ARGUMENTS_CHARS_MAX: usize = 1_000;
/// Characters of a name that no tool has, in the log.
const NAME_CHARS_MAX: usize = 64;

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
    metrics: Metrics,
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

/// Calls a tool.
///
/// # Errors
/// As [`ollamax_tools::Catalogue::call`].
pub(crate) async fn call(door: &OpenDoor, caller: Caller, name: &str, arguments: Value) -> Result<Value, CallError> {
    let mut call = Call::begin(door, &caller, name, &arguments);
    let answer = door.parts.tools.call(caller, name, arguments).await;
    call.outcome = Outcome::of(&answer);
    answer
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
    fn begin(door: &OpenDoor, caller: &Caller, name: &str, arguments: &Value) -> Self {
        let found = door.parts.tools.find(name);
        // Of arguments for nothing nothing is known that could be hidden.
        let shown = found.map_or(Value::Null, |tool| tool.input().redact(arguments));
        Self {
            metrics: door.parts.metrics.clone(),
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
        self.metrics.tool_calls.with_label_values(&[self.tool, self.outcome.as_str()]).inc();
        self.metrics.tool_duration.with_label_values(&[self.tool]).observe(took.as_secs_f64());
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
