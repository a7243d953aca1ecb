//! Why the state refuses a command, and the code of each reason.
//!
//! The table is total: a reason without a code does not compile.

use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, Role, TaskId, TokenId};

/// Why a command was refused. Same state and command, same refusal, on every node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A second `InitCluster`.
    #[error("this cluster exists already")]
    AlreadyInitialised,
    /// A command before `InitCluster`.
    #[error("the cluster does not exist yet")]
    NotInitialised,
    /// No such token, a wrong secret, used up, revoked or expired; the word says which.
    #[error("the join token is {0}")]
    TokenInvalid(TokenProblem),
    /// No such token to revoke.
    #[error("there is no token {0}")]
    TokenNotFound(TokenId),
    /// The token grants another role.
    #[error("the token admits a {granted}, not a {asked}")]
    RoleNotGranted {
        /// The token's role.
        granted: Role,
        /// The joiner's wish.
        asked: Role,
    },
    /// An active member has this key, but another data directory: it was wiped or copied.
    #[error("node {node} holds this key with another data directory")]
    IncarnationConflict {
        /// The member.
        node: NodeId,
    },
    /// No such member, or it has departed.
    #[error("there is no member {0}")]
    NodeNotFound(NodeId),
    /// The last member of role voter cannot be removed: nobody could change anything any more.
    #[error("node {0} is the last member that may vote")]
    LastVoter(NodeId),
    /// The member's models must be forgotten first.
    #[error("node {0} still has models on record")]
    ModelsRemain(NodeId),
    /// No such configuration key.
    #[error("there is no setting {0:?}")]
    SettingNotFound(String),
    /// A field breaks a limit; the text names field and limit.
    #[error("{0}")]
    Invalid(String),
    /// The leader's term has passed.
    #[error("the term {expected} has passed; it is {actual} now")]
    Fenced {
        /// The term the proposer led in.
        expected: u64,
        /// The entry's term.
        actual: u64,
    },
    /// The cluster's version is below what the command needs.
    #[error("needs cluster version {needed}; this cluster runs {actual}")]
    VersionTooLow {
        /// What the command needs.
        needed: u32,
        /// What the cluster has.
        actual: u32,
    },
    /// No such client session, or it has ended. What it asked for earlier may have happened.
    #[error("client session {0} has ended; open a new one")]
    SessionExpired(u64),
    /// So far below the session's highest sequence that its answer is forgotten. It may have happened, and is not done
    /// (again).
    #[error("sequence {sequence} of client session {session} is too old: answers are kept from {oldest} on")]
    SequenceTooOld {
        /// Which session.
        session: u64,
        /// What was sent.
        sequence: u64,
        /// The least that is still taken.
        oldest: u64,
    },
    /// No such lease, or it has ended.
    #[error("there is no lease {0}")]
    LeaseNotFound(u64),
    /// A bound on what is kept; deletes make room.
    #[error("{what} would take {needed} of {limit} {unit}")]
    QuotaExceeded {
        /// What is bounded.
        what: String,
        /// What it would be.
        needed: u64,
        /// What it may be.
        limit: u64,
        /// Of what: `bytes`, `sessions`, …
        unit: String,
    },
    /// The ledger speaks against this step of a migration; the text says what to do first.
    #[error("{0}")]
    Migration(String),
    /// A file has one BLAKE3. That another is told is a defect or a lie, never an old copy.
    #[error("the file {} is on record with another BLAKE3 or size", .sha256.short())]
    RootConflict {
        /// Which file.
        sha256: Digest,
    },
    /// What was told is of a round that is over.
    #[error("round {round} of {name} has passed")]
    RoundPassed {
        /// Which model.
        name: ModelName,
        /// The round that was told of.
        round: u64,
    },
    /// The round spreads another version than the one that was found.
    #[error("this round of {name} is about version {}, and {} was found", .wanted.short(), .found.short())]
    VersionMoved {
        /// Which model.
        name: ModelName,
        /// What the round spreads.
        wanted: Digest,
        /// What was found.
        found: Digest,
    },
    /// Nobody has asked for this model, or nobody does any more.
    #[error("nobody has asked for {0}")]
    WishNotFound(ModelName),
    /// What was told is not this node's to tell: the plan says otherwise, or there is none.
    #[error("node {node} has no such part in the plan for {name}")]
    NotPlanned {
        /// Which model.
        name: ModelName,
        /// Who told it.
        node: NodeId,
    },
    /// The history of a name has no such version.
    #[error("{name} has no version {version}")]
    VersionNotFound {
        /// Which name.
        name: ModelName,
        /// Its number, or the beginning of its digest.
        version: String,
    },
    /// The name is pinned at another version, or too few copies of the pinned one would be left.
    #[error("{name} is pinned at {}", .digest.short())]
    Pinned {
        /// Which name.
        name: ModelName,
        /// The pinned version.
        digest: Digest,
    },
    /// A version would be gone under this name.
    #[error("that would remove the last copy of {name}")]
    LastCopy {
        /// Which name.
        name: ModelName,
    },
    /// Fewer copies than the wish says would be left.
    #[error("{name} is wanted on {wanted} nodes; {left} would be left")]
    BelowWish {
        /// Which name.
        name: ModelName,
        /// Copies that are wished for.
        wanted: u32,
        /// Copies that would be left.
        left: u32,
    },
    /// The model is disabled.
    #[error("{0} is disabled")]
    Disabled(ModelName),
    /// A name has another version than it was to get.
    #[error("{name} exists already, with version {}", .held.short())]
    NameTaken {
        /// Which name.
        name: ModelName,
        /// The version that it has.
        held: Digest,
    },
    /// No such task, or it is over since long ago.
    #[error("there is no task {0}")]
    TaskNotFound(TaskId),
    /// The task is not this node's in this attempt, or not any more.
    #[error("{0} is not with this node in this attempt any more")]
    TaskMoved(TaskId),
    /// The task stands where this cannot be done with it.
    #[error("{id} is {state}")]
    TaskStands {
        /// Which task.
        id: TaskId,
        /// How it stands, in words.
        state: String,
    },
    /// The key of this request was used for another one.
    #[error("the key of this request was used for another request")]
    OnceReused,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenProblem {
    /// Not known to this cluster.
    Unknown,
    /// All its uses are spent.
    UsedUp,
    /// Withdrawn.
    Revoked,
    /// Past its time.
    Expired,
}

impl std::fmt::Display for TokenProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown to this cluster",
            Self::UsedUp => "used up",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        })
    }
}

impl Refusal {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::AlreadyInitialised => ErrorCode::AlreadyMember,
            Self::NotInitialised => ErrorCode::NotInitialised,
            Self::TokenInvalid(_) | Self::RoleNotGranted { .. } => ErrorCode::TokenInvalid,
            Self::TokenNotFound(_) => ErrorCode::TokenNotFound,
            Self::IncarnationConflict { .. } => ErrorCode::IdentityConflict,
            Self::NodeNotFound(_) => ErrorCode::NodeNotFound,
            Self::SettingNotFound(_) => ErrorCode::SettingNotFound,
            Self::Invalid(_) => ErrorCode::BadRequest,
            Self::SessionExpired(_) => ErrorCode::SessionExpired,
            Self::SequenceTooOld { .. } => ErrorCode::SequenceTooOld,
            Self::LeaseNotFound(_) => ErrorCode::LeaseNotFound,
            Self::QuotaExceeded { .. } => ErrorCode::QuotaExceeded,
            Self::RootConflict { .. } | Self::VersionMoved { .. } | Self::NameTaken { .. } => ErrorCode::DigestConflict,
            Self::WishNotFound(_) | Self::VersionNotFound { .. } => ErrorCode::ModelNotFound,
            Self::Disabled(_) => ErrorCode::Forbidden,
            Self::TaskNotFound(_) => ErrorCode::TaskNotFound,
            Self::LastVoter(_)
            | Self::ModelsRemain(_)
            | Self::Fenced { .. }
            | Self::VersionTooLow { .. }
            | Self::Migration(_)
            | Self::RoundPassed { .. }
            | Self::NotPlanned { .. }
            | Self::Pinned { .. }
            | Self::LastCopy { .. }
            | Self::BelowWish { .. }
            | Self::TaskMoved(_)
            | Self::TaskStands { .. }
            | Self::OnceReused => ErrorCode::PreconditionFailed,
        }
    }
}
