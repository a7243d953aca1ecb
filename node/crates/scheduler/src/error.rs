//! Why a request was not answered: what the owner refuses with, and what the router says when nobody was left.
//!
//! Every text says who and why, and ends with the command that shows or mends it. Waiting is advised only where it
//! can help.

use std::fmt;
use std::time::Duration;

use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::ports::{PlacementsError, RuntimeError};

/// Why the owner did not take a request, or its runtime gave no usable head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The runtime beside this node no longer holds that version of the model.
    #[error("node {node} does not hold {model} at {}; `ollamax model show {model}` lists the copies", shown(*.wanted))]
    StalePlacement {
        /// This node.
        node: NodeId,
        /// The model asked for.
        model: Box<ModelName>,
        /// The digest asked for.
        wanted: Option<Digest>,
    },
    /// The runner's queue is full, or the wait in it was too long, or the runtime said so itself.
    #[error("node {node} is overloaded: {detail}; `ollamax ps` shows what runs")]
    Overloaded {
        /// This node.
        node: NodeId,
        /// Which bound was reached.
        detail: String,
    },
    /// This node stops or was drained.
    #[error("node {node} takes no new requests; `ollamax node undrain {node}` ends a drain")]
    Draining {
        /// This node.
        node: NodeId,
    },
    /// The runtime beside this node cannot be sent work.
    #[error("the runtime of node {node} is not available: {detail}; run `ollamax doctor` there")]
    RuntimeUnavailable {
        /// This node.
        node: NodeId,
        /// What is wrong with it.
        detail: String,
    },
    /// The model's runner died on this request before its first byte.
    #[error("the model's runner on node {node} stopped: {detail}")]
    RunnerCrashed {
        /// This node.
        node: NodeId,
        /// The runtime's own text.
        detail: String,
    },
    /// The runtime had the request, and went down before its first byte.
    #[error("the runtime of node {node} went down before it answered: {detail}; run `ollamax doctor` there")]
    RuntimeLost {
        /// This node.
        node: NodeId,
        /// What is wrong with it.
        detail: String,
    },
    /// The runtime closed the connection before its first byte, or answered garbage.
    #[error("node {node}: {source}")]
    Runtime {
        /// This node.
        node: NodeId,
        /// What happened.
        source: RuntimeError,
    },
}

impl AdmitError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::StalePlacement { .. } => ErrorCode::StalePlacement,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Draining { .. } => ErrorCode::Draining,
            Self::RuntimeUnavailable { .. } => ErrorCode::RuntimeUnavailable,
            Self::RunnerCrashed { .. } | Self::RuntimeLost { .. } => ErrorCode::RuntimeFailed,
            Self::Runtime { source, .. } => source.code(),
        }
    }

    /// Whether the runtime had begun to work on the request: such a request is tried on one more node at most.
    #[must_use]
    pub const fn started(&self) -> bool {
        match self {
            Self::RunnerCrashed { .. }
            | Self::RuntimeLost { .. }
            | Self::Runtime { source: RuntimeError::Failed(_), .. } => true,
            Self::StalePlacement { .. }
            | Self::Overloaded { .. }
            | Self::Draining { .. }
            | Self::RuntimeUnavailable { .. }
            | Self::Runtime { source: RuntimeError::Unreachable(_), .. } => false,
        }
    }
}

fn shown(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "any version".to_owned(), |digest| digest.short())
}

/// Why one node could not answer. The texts are stable; programs may match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its queue is full.
    Overloaded,
    /// The model's runner died on this request.
    RunnerCrashed,
    /// Its runtime broke off before the first byte.
    RuntimeFailed,
    /// It is draining or drained.
    NodeDraining,
    /// Its runtime is down or absent.
    RuntimeDown,
    /// It has been silent for long.
    NodeOffline,
    /// The connection to it failed.
    Unreachable,
    /// It no longer holds that version of the model.
    StalePlacement,
    /// It was left untried: the request may not go to more nodes.
    NotTried,
}

impl Reason {
    /// The stable text form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::RunnerCrashed => "runner_crashed",
            Self::RuntimeFailed => "runtime_failed",
            Self::NodeDraining => "node_draining",
            Self::RuntimeDown => "runtime_down",
            Self::NodeOffline => "node_offline",
            Self::Unreachable => "unreachable",
            Self::StalePlacement => "stale_placement",
            Self::NotTried => "not_tried",
        }
    }

    /// After which time the same request may succeed; `None` where waiting does not help.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Overloaded | Self::Unreachable | Self::RuntimeFailed => Some(Duration::from_secs(10)),
            Self::RuntimeDown => Some(Duration::from_secs(30)),
            Self::NodeDraining | Self::NodeOffline => Some(Duration::from_secs(60)),
            Self::RunnerCrashed | Self::StalePlacement | Self::NotTried => None,
        }
    }
}

/// One node's part in a [`DispatchError::Exhausted`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReason {
    /// Which node.
    pub node: NodeId,
    /// Why, as a code.
    pub reason: Reason,
    /// Why, for people; a sentence that names the node, or empty.
    pub detail: String,
}

impl fmt::Display for NodeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, reason, detail } = self;
        if detail.is_empty() { write!(f, "node {node} {}", reason.as_str()) } else { f.write_str(detail) }
    }
}

/// Why nobody answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// No member holds the model.
    #[error("model '{model}' not found")]
    ModelNotFound {
        /// The model asked for.
        model: ModelName,
    },
    /// The local state could not be read.
    #[error(transparent)]
    Placements(#[from] PlacementsError),
    /// Members hold the model, and none of them answered.
    #[error("no node can answer for {model}: {}; `ollamax status` shows what needs attention", listed(.nodes))]
    Exhausted {
        /// The model asked for.
        model: ModelName,
        /// What each holder's part was, in the order of trial.
        nodes: Vec<NodeReason>,
    },
}

impl DispatchError {
    /// The code that leaves the node. A mixed failure takes the code that says most about what to do.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        let nodes = match self {
            Self::ModelNotFound { .. } => return ErrorCode::ModelNotFound,
            Self::Placements(_) => return ErrorCode::StorageFailed,
            Self::Exhausted { nodes, .. } => nodes,
        };
        let has = |wanted: Reason| nodes.iter().any(|node| node.reason == wanted);
        let only = |wanted: Reason| nodes.iter().all(|node| node.reason == wanted);
        if has(Reason::RunnerCrashed) || has(Reason::RuntimeFailed) {
            ErrorCode::RuntimeFailed
        } else if has(Reason::Overloaded) {
            ErrorCode::Overloaded
        } else if only(Reason::NodeDraining) {
            ErrorCode::Draining
        } else if only(Reason::StalePlacement) {
            ErrorCode::ModelNotFound
        } else {
            ErrorCode::RuntimeUnavailable
        }
    }

    /// After which time the same request may succeed; `None` where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Exhausted { nodes, .. } = self else { return None };
        if self.code() == ErrorCode::RuntimeFailed && nodes.iter().any(|node| node.reason == Reason::RunnerCrashed) {
            return None;
        }
        nodes.iter().filter_map(|node| node.reason.retry_after()).min()
    }

    /// Each holder's part; empty unless the request was exhausted.
    #[must_use]
    pub fn nodes(&self) -> &[NodeReason] {
        match self {
            Self::Exhausted { nodes, .. } => nodes,
            Self::ModelNotFound { .. } | Self::Placements(_) => &[],
        }
    }
}

fn listed(nodes: &[NodeReason]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reasons: &[Reason], code: ErrorCode, retry_after_s: Option<u64>) {
        let nodes = reasons
            .iter()
            .enumerate()
            .map(|(at, reason)| NodeReason { node: NodeId(at as u64 + 1), reason: *reason, detail: String::new() })
            .collect();
        let error = DispatchError::Exhausted { model: "m".parse().expect("valid"), nodes };
        assert_eq!((error.code(), error.retry_after().map(|d| d.as_secs())), (code, retry_after_s), "{reasons:?}");
        assert!(error.to_string().contains("`ollamax status`"), "{error}");
    }

    #[test]
    fn the_code_says_most_and_waiting_is_advised_only_where_it_helps() {
        check(&[Reason::Overloaded, Reason::NodeOffline], ErrorCode::Overloaded, Some(10));
        check(&[Reason::NodeDraining], ErrorCode::Draining, Some(60));
        check(&[Reason::NodeDraining, Reason::RuntimeDown], ErrorCode::RuntimeUnavailable, Some(30));
        check(&[Reason::StalePlacement, Reason::StalePlacement], ErrorCode::ModelNotFound, None);
        check(&[Reason::RunnerCrashed, Reason::Overloaded], ErrorCode::RuntimeFailed, None);
        check(&[Reason::RuntimeFailed, Reason::Unreachable], ErrorCode::RuntimeFailed, Some(10));
        check(&[Reason::Unreachable, Reason::NodeOffline], ErrorCode::RuntimeUnavailable, Some(10));
    }
}
