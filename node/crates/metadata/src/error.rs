//! One error per operation of the [`crate::Handle`], each with the code that leaves the node.
//!
//! What a caller may do next depends on one question: can the change have happened? [`ProposeError::NoQuorum`] is
//! only said when it certainly has not; otherwise it is [`ProposeError::OutcomeUnknown`].

use ollamax_core::catalog::Refusal;
use ollamax_types::{ErrorCode, NodeId};

/// Why the node could not open its replicated state.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store refused: damaged, of another node or cluster, or unreadable.
    #[error(transparent)]
    Store(#[from] ollamax_store::OpenError),
    /// Numbers that cannot work together; all of them.
    #[error("configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// The cluster has gone on to a version that this node does not apply.
    #[error(
        "this cluster runs version {version}, and this node applies up to {own}; \
         install the release that the other members run, or raise raft.version_max"
    )]
    ClusterTooNew {
        /// The cluster's.
        version: u32,
        /// What this node applies.
        own: u32,
    },
    /// What is stored does not fit together.
    #[error("start consensus: {0}")]
    Raft(String),
}

impl OpenError {
    /// The code that leaves the node.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(error) => error.code(),
            Self::Config(_) => ErrorCode::ConfigInvalid,
            Self::ClusterTooNew { .. } => ErrorCode::PreconditionFailed,
            Self::Raft(_) => ErrorCode::StorageCorrupt,
        }
    }
}

/// Why a change was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader, or a leader without its majority. Nothing was changed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// It was handed to the log and no answer came back: it may have happened, or may still happen.
    #[error("the outcome is not known: {0}")]
    OutcomeUnknown(String),
    /// Too many bytes of changes wait for the log. Nothing was changed.
    #[error("too many changes are waiting for the log")]
    Overloaded,
    /// The disk of this node is too full for another entry. Nothing was changed.
    #[error(transparent)]
    DiskFull(#[from] ollamax_store::NoRoom),
    /// The command is larger than the log takes. Nothing was changed.
    #[error("the change has {bytes} bytes; the log takes {limit}")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// `COMMAND_BYTES_MAX`.
        limit: usize,
    },
    /// The state forbids it. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The cluster exists already, with other members than this node alone.
    #[error("this node belongs to a cluster already")]
    AlreadyInitialised,
    /// This node's consensus has stopped; the node must stop too.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
    /// The leader refused to look at it.
    #[error("node {node} refused: {message}")]
    Leader {
        /// Who.
        node: NodeId,
        /// Its code.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

impl ProposeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::OutcomeUnknown(_) => ErrorCode::OutcomeUnknown,
            Self::Overloaded => ErrorCode::Overloaded,
            Self::DiskFull(_) => ErrorCode::DiskFull,
            Self::TooLarge { .. } => ErrorCode::BodyTooLarge,
            Self::Refused(refusal) => refusal.code(),
            Self::AlreadyInitialised => ErrorCode::AlreadyMember,
            Self::Fatal(_) => ErrorCode::StorageFailed,
            Self::Leader { code, .. } => *code,
        }
    }
}

/// Why a linearizable read is not possible now. Nothing old is ever returned instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader, or a leader without its majority.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// This node's state is known to be wrong.
    #[error("the state of this node differs from that of the majority, so it is not read; ask another node")]
    Deviates,
    /// This node's consensus has stopped; the node must stop too.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
}

impl ReadError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::Deviates => ErrorCode::StorageCorrupt,
            Self::Fatal(_) => ErrorCode::StorageFailed,
        }
    }
}

/// Why voters or the leader were not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the leader can do it; this is who leads, when known.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does.
        leader: Option<NodeId>,
    },
    /// Another change of the membership is not finished, or the target is no learner.
    #[error("not possible now: {0}")]
    NotNow(String),
    /// Leadership stays, or it is not known where it went.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// The majority did not answer in time.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// This node's consensus has stopped.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
}

impl ChangeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotLeader { .. } | Self::NotNow(_) => ErrorCode::PreconditionFailed,
            Self::Declined(declined) => declined.code(),
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::Fatal(_) => ErrorCode::StorageFailed,
        }
    }
}

/// Why a leader did not give leadership away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It is the one that was named.
    #[error("node {0} leads already")]
    LeadsAlready(NodeId),
    /// There is nobody else to give it to.
    #[error("node {0} is the only voter")]
    OnlyVoter(NodeId),
    /// Only a voter may lead.
    #[error("node {0} does not vote")]
    NotVoter(NodeId),
    /// It did not answer within the leader's lease.
    #[error("node {0} was not heard within the leader's lease")]
    NotHeard(NodeId),
    /// No other voter answered within the leader's lease.
    #[error("no other voter was heard within the leader's lease")]
    NobodyHeard,
    /// It would have to catch up first, and nothing could be written meanwhile.
    #[error("node {node} lies {entries} entries behind")]
    Behind {
        /// Who.
        node: NodeId,
        /// How far.
        entries: u64,
    },
    /// It was told to take over and did not in time. It still may.
    #[error("node {0} was told to take over, and did not in time")]
    NotTaken(NodeId),
}

impl Declined {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::LeadsAlready(_)
            | Self::OnlyVoter(_)
            | Self::NotVoter(_)
            | Self::NotHeard(_)
            | Self::NobodyHeard
            | Self::Behind { .. } => ErrorCode::PreconditionFailed,
            Self::NotTaken(_) => ErrorCode::OutcomeUnknown,
        }
    }
}

/// Why leadership was not handed over, whichever node was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandOverError {
    /// The leader keeps it, or it is not known where it went.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// Nobody leads, or the leader cannot be reached. Nothing was changed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// The leader was asked, and its answer did not come back.
    #[error("the outcome is not known: {0}")]
    OutcomeUnknown(String),
    /// The leader refused to look at it.
    #[error("node {node} refused: {message}")]
    Leader {
        /// Who.
        node: NodeId,
        /// Its code.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// This node's consensus has stopped; the node must stop too.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
}

impl HandOverError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Declined(declined) => declined.code(),
            Self::NoQuorum(_) => ErrorCode::NoQuorum,
            Self::OutcomeUnknown(_) => ErrorCode::OutcomeUnknown,
            Self::Leader { code, .. } => *code,
            Self::Fatal(_) => ErrorCode::StorageFailed,
        }
    }
}

/// Why no snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// There is no state here yet.
    #[error("nothing was applied on this node yet")]
    Empty,
    /// It is being taken, and is not done in time.
    #[error("the snapshot was not done in time, and may still come")]
    Late,
    /// This node's consensus has stopped; the node must stop too.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
}

impl SnapshotError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::PreconditionFailed,
            Self::Late => ErrorCode::OutcomeUnknown,
            Self::Fatal(_) => ErrorCode::StorageFailed,
        }
    }
}

/// Why a message from a peer was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServeError {
    /// The bytes are no message of this release.
    #[error("unreadable message: {0}")]
    Unreadable(String),
    /// It is meant for another cluster or node.
    #[error("this message is for node {to} of cluster {cluster}")]
    NotForMe {
        /// The node it names.
        to: NodeId,
        /// The cluster it names, in hex.
        cluster: String,
    },
    /// The sender uses another node's vote.
    #[error("node {from} speaks for node {claims}")]
    Impostor {
        /// Whose key opened the connection.
        from: NodeId,
        /// Whose vote it sent.
        claims: NodeId,
    },
    /// The disk of this node is too full for what the message brings. Nothing was written.
    #[error(transparent)]
    DiskFull(#[from] ollamax_store::NoRoom),
    /// The snapshot stream broke, was damaged, or could not be written.
    #[error("receive snapshot: {0}")]
    Snapshot(String),
    /// This node's consensus has stopped.
    #[error("consensus has stopped on this node: {0}")]
    Fatal(String),
}

impl ServeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Unreadable(_) => ErrorCode::BadRequest,
            Self::NotForMe { .. } | Self::Impostor { .. } => ErrorCode::IdentityConflict,
            Self::DiskFull(_) => ErrorCode::DiskFull,
            Self::Snapshot(_) | Self::Fatal(_) => ErrorCode::StorageFailed,
        }
    }
}
