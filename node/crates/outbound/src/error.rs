//! What can go wrong between a node and its model runtime.
//!
//! Every variant names what was seen, so that one log line is enough to act on. Nothing is retried here: whether
//! another node may try is the scheduler's decision, by [`RuntimeError::code`] and [`RuntimeError::has_started`].

use std::time::Duration;

use ollamax_types::ErrorCode;

/// An answer's body ended before it was complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the runtime broke off its answer: {reason}")]
pub struct Broken {
    /// What the connection said.
    pub reason: String,
}

/// A call to the runtime failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// No connection: nothing listens there, or the machine cannot be reached.
    #[error("the runtime at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Base URL.
        url: String,
        /// What the connection said.
        reason: String,
        /// Whether the machine refused it: nothing listens there. Else it may be that only the way is closed.
        is_refused: bool,
    },
    /// The connection stood, and the runtime went away before it answered.
    #[error("the runtime at {url} closed the connection before it answered: {reason}")]
    Disconnected {
        /// Base URL.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// No answer in time.
    #[error("the runtime at {url} did not answer {path} within {} ms", after.as_millis())]
    TimedOut {
        /// Base URL.
        url: String,
        /// Which call.
        path: String,
        /// How long it was given.
        after: Duration,
    },
    /// Something answers there that does not speak Ollama's protocol.
    #[error("{url}{path} answered status {status} with {found}; that is no Ollama, check runtime.url and OLLAMA_HOST")]
    NotOllama {
        /// Base URL.
        url: String,
        /// Which call, without the leading slash of the base URL.
        path: String,
        /// HTTP status.
        status: u16,
        /// Content type, or what was wrong with the body.
        found: String,
    },
    /// An OllamaMax node answers there; using it as a runtime would send requests in circles.
    #[error("{url} is the OllamaMax node {node:?}, not a model runtime; check runtime.url and OLLAMA_HOST")]
    IsOllamaMax {
        /// Base URL.
        url: String,
        /// The name it gave.
        node: String,
    },
    /// The runtime understood the call and refused it.
    #[error("the runtime refused {path}{}: {message}", with_status(*status))]
    Refused {
        /// Which call.
        path: String,
        /// HTTP status; 200 when the refusal came as a line of a progress stream.
        status: u16,
        /// The runtime's own text.
        message: String,
    },
    /// The answer to a control call is larger than this node reads.
    #[error("the answer to {path} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// Which call.
        path: String,
        /// The bound, bytes.
        limit_bytes: usize,
    },
    /// The answer began and broke off.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// What was to be sent to the runtime could not be read to its end.
    #[error("the upload broke off: {reason}")]
    UploadFailed {
        /// What the source said.
        reason: String,
    },
}

/// A refusal in the midst of the work has the status of its beginning, which says nothing.
fn with_status(status: u16) -> String {
    if status == 200 { String::new() } else { format!(" with status {status}") }
}

// === impl RuntimeError ===

impl RuntimeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::IsOllamaMax { .. } => {
                ErrorCode::RuntimeUnavailable
            }
            Self::Disconnected { .. } | Self::NotOllama { .. } | Self::TooLarge { .. } | Self::Broken(_) => {
                ErrorCode::RuntimeFailed
            }
            Self::Refused { status: 400, .. } | Self::UploadFailed { .. } => ErrorCode::BadRequest,
            Self::Refused { status: 404, .. } => ErrorCode::ModelNotFound,
            Self::Refused { status: 503, .. } => ErrorCode::Overloaded,
            Self::Refused { status: 507, .. } => ErrorCode::DiskFull,
            Self::Refused { .. } => ErrorCode::RuntimeFailed,
        }
    }

    /// Whether the runtime may have begun to work on the request: then another node may try it at most once more.
    #[must_use]
    pub const fn has_started(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::IsOllamaMax { .. } | Self::UploadFailed { .. } => false,
            Self::Disconnected { .. }
            | Self::TimedOut { .. }
            | Self::NotOllama { .. }
            | Self::Refused { .. }
            | Self::TooLarge { .. }
            | Self::Broken(_) => true,
        }
    }
}
