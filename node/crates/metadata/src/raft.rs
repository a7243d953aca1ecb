//! How openraft is bound to this node: its types, its disk, its state and its network.
//!
//! Nothing outside this crate sees these types. Every encoding is our own ([`crate::envelope`], [`crate::wire`]).
//! A command travels and rests as the bytes that the leader wrote, and is decoded once, when it is applied: a node
//! that does not know it stores and forwards it faithfully, and halts instead of skipping it.

pub(crate) mod held;
pub(crate) mod log;
pub(crate) mod network;
pub(crate) mod snapshot;
pub(crate) mod state;
pub(crate) mod tail;

use std::fmt;

use bytes::Bytes;
use openraft::EmptyNode;
use openraft::vote::leader_id_std;

use ollamax_core::catalog::Answer;

/// An encoded envelope.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sealed(pub(crate) Bytes);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "envelope({} bytes)", self.0.len())
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry answers. Blank and membership entries answer `Done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    /// Index and term of the entry that had this effect, when it was an earlier one of the same client session.
    pub(crate) before: Option<(u64, u64)>,
}

impl Answered {
    pub(crate) const fn done() -> Self {
        Self { answer: Answer::Done, before: None }
    }
}

openraft::declare_raft_types!(
    /// One leader per term, so that a term is a fencing token; node records are empty, because addresses live in the
    /// catalog.
    pub(crate) Types:
        D = Sealed,
        R = Answered,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

/// An entry of the log.
pub(crate) type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Payload>;
/// Term and index.
pub(crate) type LogId = openraft::LogId<leader_id_std::CommittedLeaderId<u64>>;
/// Who votes for whom.
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
/// A membership with the entry that set it.
pub(crate) type StoredMembership = openraft::StoredMembership<leader_id_std::CommittedLeaderId<u64>, u64, EmptyNode>;
/// Voters and members.
pub(crate) type Membership = openraft::Membership<u64, EmptyNode>;
/// What an entry carries.
pub(crate) type Payload = openraft::EntryPayload<Sealed, u64, EmptyNode>;
/// The consensus of this node.
pub(crate) type Raft = openraft::Raft<Types, state::Machine>;
/// What openraft shows of itself.
pub(crate) type Metrics = openraft::RaftMetrics<Types>;

/// A log id of the standard election rule.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of a log id.
pub(crate) fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}

#[cfg(test)]
mod tests;
