//! What the scheduler needs from others: the runtime beside this node, the other nodes, and where models are.
//!
//! The in-memory forms are in [`crate::mem`]; the real ones are the assembly's adapters. Every future that a port
//! returns is cancelled by dropping it, and so is every body.

use std::sync::Arc;

use futures::future::BoxFuture;

use ollamax_core::catalog::Location;
use ollamax_types::{ErrorCode, InferenceRequest, ModelName, NodeId};

use crate::response::Response;

/// The runtime beside this node.
pub trait Runtime: Send + Sync + 'static {
    /// Sends a request and waits for the head of the answer, however long the runtime takes. Any status is an
    /// answer. `Response::node` is filled in by the scheduler.
    fn send(&self, request: InferenceRequest) -> BoxFuture<'static, Result<Response, RuntimeError>>;
}

/// Why the runtime beside this node gave no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// Nothing was sent: refused, not started, no route.
    #[error("the runtime cannot be reached: {0}")]
    Unreachable(String),
    /// The request was sent, and the runtime closed the connection or answered something that is not its protocol.
    #[error("the runtime broke off before it answered: {0}")]
    Failed(String),
}

impl RuntimeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable(_) => ErrorCode::RuntimeUnavailable,
            Self::Failed(_) => ErrorCode::RuntimeFailed,
        }
    }
}

/// The way to the other nodes' admission.
pub trait Remote: Send + Sync + 'static {
    /// Hands a request to another node and waits for its refusal or the head of the answer.
    fn send(&self, to: NodeId, request: InferenceRequest) -> BoxFuture<'static, Result<Response, SendError>>;
}

/// Why another node gave no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No connection, or it was lost before the head.
    #[error("node cannot be reached: {0}")]
    Unreachable(String),
    /// The other node refused; code, text and `started` are those of its [`crate::AdmitError`].
    #[error("{message}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// For people.
        message: String,
        /// The runtime there had begun to work on it and failed before its first byte.
        started: bool,
    },
}

impl SendError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable(_) => ErrorCode::PeerUnreachable,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// Which nodes hold which model, from the state that this node has applied.
pub trait Placements: Send + Sync + 'static {
    /// All copies of one model on members that have not departed.
    ///
    /// # Errors
    /// When the local state cannot be read.
    fn locations(&self, model: &ModelName) -> Result<Arc<[Location]>, PlacementsError>;

    /// Whether an administrator has drained the node. An unknown node counts as drained.
    fn drained(&self, node: NodeId) -> bool;
}

/// The local state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read placements: {reason}")]
pub struct PlacementsError {
    /// What the store said.
    pub reason: String,
}
