//! What can go wrong with a tool: in its declaration, on the way to it, inside it.
//!
//! A tool that does not exist is an error of the protocol. Everything else is the tool's answer, which says what to do
//! next, so that an assistant can mend its call by itself.

use std::time::Duration;

use serde_json::{Value, json};

use ollamax_types::ErrorCode;

/// Characters of an id that nobody knows, where it is told.
const ID_CHARS_MAX: usize = 64;

/// A tool's answer where it could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// Its place in the table of codes.
    pub code: ErrorCode,
    /// What happened, in one sentence.
    pub message: String,
    /// What to do about it: a call, or a command to type. Empty where the message says it.
    pub next: String,
    /// When the same call may be made again, where this caller, and nobody else, called too often.
    pub retry_after: Option<Duration>,
}

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No tool has this name.
    #[error("there is no tool {0:?}; tools/list shows what there is")]
    UnknownTool(String),
    /// The tool, or what stands before it, said no.
    #[error(transparent)]
    Failed(#[from] ToolError),
}

/// A tool that contradicts itself; found when the process starts, and by every test that makes a catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tool {tool}: {}", .problems.join("; "))]
pub struct DeclarationError {
    /// Which one.
    pub tool: String,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

// === impl ToolError ===

impl ToolError {
    /// Puts one together.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, message: message.into(), next: next.into(), retry_after: None }
    }

    /// There is no task of this id, or none that whoever asks may see; what was sent for an id is told, and not at any
    /// length. `next` shows those that there are.
    #[must_use]
    pub fn unknown_task(id: &str, next: &str) -> Self {
        let id: String = id.chars().take(ID_CHARS_MAX).collect();
        Self::new(ErrorCode::TaskNotFound, format!("there is no task {id:?}"), next)
    }

    /// The form in which callers read it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "code": self.code.as_str(),
            "message": self.message,
            "next": self.next,
            "retryable": self.code.is_retryable(),
        })
    }
}
