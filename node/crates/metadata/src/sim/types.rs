//! The product's types of consensus, except that nothing is left to chance.

use openraft::EmptyNode;
use openraft::vote::leader_id_std;

use super::machine::Machine;
use super::runtime::Runtime;
use crate::raft::{Answered, Sealed};

openraft::declare_raft_types!(
    /// As `raft::Types`.
    pub(super) SimTypes:
        D = Sealed,
        R = Answered,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// Consensus of one node.
pub(super) type SimRaft = openraft::Raft<SimTypes, Machine>;

/// A mistake that is made on purpose, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Entries are called durable before the sync.
    DurableBeforeSync,
    /// A vote is kept in memory only.
    VoteInMemory,
    /// A leader answers a reader without asking its majority.
    ReadWithoutMajority,
    /// A client sends a change again without its sequence.
    RetryWithoutSequence,
    /// How far a snapshot reaches is read before its content.
    LabelBeforeContent,
    /// The applied mark lags behind the state on disk.
    MarkBehindState,
    /// A data directory that was emptied passes for the one that it was.
    WipedAsBefore,
    /// What a snapshot skips is not said to be missing in the feed.
    FeedOverSnapshot,
    /// A watcher that goes on at another node begins with what comes next there.
    ResumeFromNow,
}
