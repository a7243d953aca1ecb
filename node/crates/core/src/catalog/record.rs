//! What the replicated state consists of: key families and the record that each holds.
//!
//! Byte forms of both belong to `store`, one file per family.

mod model;
mod state_keys;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ollamax_types::limits::QUOTA_NEARLY_FULL_PERCENT;
use ollamax_types::{
    ClusterId, Digest, ErrorCode, Incarnation, ModelName, ModelRecord, NodeId, PeerId, Role, Root, TaskId, Timestamp,
    TokenId,
};

pub use model::{Cordon, Drop, How, Model, Phase, PhaseWord, Pin, PlanKind, Since, Version, Want};
pub use state_keys::{StateKey, StateKeys};
pub use task::{Once, Task, TaskOutcome, TaskProgress, TaskState, TaskTold};

/// Names one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The one [`Cluster`] record.
    Cluster,
    /// A [`Member`] by id. Departed members stay, with their state.
    Member(NodeId),
    /// The id of the active member with this key.
    MemberByPeer(PeerId),
    /// A join [`Token`].
    Token(TokenId),
    /// That a node holds a model: model key (`ModelName::key`), node. Value: [`Location`].
    Location(String, NodeId),
    /// The same, by node first, so that a node's models can be listed. Value: [`Location`].
    NodeModel(NodeId, String),
    /// A cluster-wide configuration key.
    Setting(String),
    /// A revisioned [`Value`]: namespace, key.
    Value(String, String),
    /// What the values of a namespace under one prefix take: namespace, prefix. Value: [`Usage`].
    Usage(String, String),
    /// A [`Lease`] by id.
    Lease(u64),
    /// That a value goes with a lease: lease, namespace, key. Value: [`Record::Present`].
    LeaseValue(u64, String, String),
    /// A client [`Session`] by id.
    Session(u64),
    /// What a command of a session answered: session, sequence. Value: [`Remembered`].
    SessionAnswer(u64, u64),
    /// When something is to be looked at again, in order of time. Value: [`Record::Present`].
    Deadline(Timestamp, Due),
    /// The one [`Counts`] record.
    Counts,
    /// What became of a [`Migration`] by its number.
    Migration(u32),
    /// What a file with this SHA-256 must be: a [`Blob`].
    Blob(Digest),
    /// A [`Wish`] by model key (`ModelName::key`).
    Wish(String),
    /// A [`Model`] by model key.
    Model(String),
    /// A [`Version`] of a name: model key, number.
    Version(String, u64),
    /// A [`Task`] by id. Since cluster version 5, as what follows.
    Task(TaskId),
    /// What a request with this key was answered, as [`Once`].
    Once([u8; 32]),
    /// The one [`StateKeys`] record.
    StateKeys,
    /// That a task is not over: whose it is, id. Value: [`Record::Present`].
    OpenTask(String, TaskId),
}

/// What ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A lease, with the values that go with it.
    Lease(u64),
    /// A client session, with the answers that it holds.
    Session(u64),
    /// What a task waits for, the lease of the node that works at it, or its time on record.
    Task(TaskId),
    /// What a request with a key was answered.
    Once([u8; 32]),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Member(id) => write!(f, "member/{id}"),
            Self::MemberByPeer(peer) => write!(f, "member-by-peer/{peer}"),
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Location(model, node) => write!(f, "location/{model}/{node}"),
            Self::NodeModel(node, model) => write!(f, "node-model/{node}/{model}"),
            Self::Setting(key) => write!(f, "setting/{key}"),
            Self::Value(namespace, key) => write!(f, "value/{namespace}/{key}"),
            Self::Usage(namespace, prefix) => write!(f, "usage/{namespace}/{prefix}"),
            Self::Lease(id) => write!(f, "lease/{id}"),
            Self::LeaseValue(lease, namespace, key) => write!(f, "lease-value/{lease}/{namespace}/{key}"),
            Self::Session(id) => write!(f, "session/{id}"),
            Self::SessionAnswer(session, sequence) => write!(f, "session-answer/{session}/{sequence}"),
            Self::Deadline(at, Due::Task(id)) => write!(f, "deadline/{}/{id}", at.0),
            Self::Deadline(at, Due::Once(key)) => write!(f, "deadline/{}/once/{}", at.0, digits(key)),
            Self::Deadline(at, due) => write!(f, "deadline/{}/{due:?}", at.0),
            Self::Counts => f.write_str("counts"),
            Self::Migration(number) => write!(f, "migration/{number:03}"),
            Self::Blob(sha256) => write!(f, "blob/{sha256}"),
            Self::Wish(model) => write!(f, "wish/{model}"),
            Self::Model(model) => write!(f, "model/{model}"),
            Self::Version(model, number) => write!(f, "version/{model}/{number}"),
            Self::Task(id) => write!(f, "task/{id}"),
            Self::Once(key) => write!(f, "once/{}", digits(key)),
            Self::StateKeys => f.write_str("state-keys"),
            Self::OpenTask(subject, id) => write!(f, "open-task/{subject}/{id}"),
        }
    }
}

/// As 64 hex digits.
fn digits(key: &[u8; 32]) -> Digest {
    Digest(*key)
}

/// A run of keys of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// All members.
    Members,
    /// All tokens.
    Tokens,
    /// All locations of all models, by model.
    Locations,
    /// All locations of one model key.
    LocationsOf(String),
    /// All models of one node.
    ModelsOf(NodeId),
    /// All configuration keys that start with a text.
    Settings(String),
    /// All values of a namespace whose keys start with a text: namespace, text.
    Values(String, String),
    /// All leases.
    Leases,
    /// What goes with one lease.
    LeaseValues(u64),
    /// All client sessions.
    Sessions,
    /// All answers that a session holds.
    SessionAnswers(u64),
    /// Everything that ends by itself, the next first.
    Deadlines,
    /// The ledger of migrations.
    Migrations,
    /// All files whose BLAKE3 is on record.
    Blobs,
    /// All wishes, by model.
    Wishes,
    /// All records of names, by model.
    Models,
    /// The history of one model key, by number.
    VersionsOf(String),
    /// All tasks, by id.
    Tasks,
    /// The tasks that are not over, by subject.
    OpenTasks,
    /// The tasks of one subject that are not over.
    OpenTasksOf(String),
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// At [`Key::Cluster`].
    Cluster(Cluster),
    /// At [`Key::Member`].
    Member(Member),
    /// At [`Key::MemberByPeer`].
    NodeId(NodeId),
    /// At [`Key::Token`].
    Token(Token),
    /// At [`Key::Location`] and [`Key::NodeModel`].
    Location(Location),
    /// At [`Key::Setting`].
    Setting(Setting),
    /// At [`Key::Value`].
    Value(Value),
    /// At [`Key::Usage`].
    Usage(Usage),
    /// At [`Key::Lease`].
    Lease(Lease),
    /// At [`Key::Session`].
    Session(Session),
    /// At [`Key::SessionAnswer`].
    Remembered(Remembered),
    /// At [`Key::Counts`].
    Counts(Counts),
    /// At [`Key::Migration`].
    Migration(Box<Migration>),
    /// At [`Key::Blob`].
    Blob(Blob),
    /// At [`Key::Wish`].
    Wish(Box<Wish>),
    /// At [`Key::Model`].
    Model(Box<Model>),
    /// At [`Key::Version`].
    Version(Box<Version>),
    /// At [`Key::Task`].
    Task(Box<Task>),
    /// At [`Key::Once`].
    Once(Once),
    /// At [`Key::StateKeys`].
    StateKeys(StateKeys),
    /// At [`Key::LeaseValue`], [`Key::Deadline`] and [`Key::OpenTask`]: all is in the key.
    Present,
}

/// The cluster itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Drawn by `init`.
    pub id: ClusterId,
    /// For people.
    pub name: String,
    /// Ed25519 public key that signs membership credentials, 32 bytes.
    pub public_key: [u8; 32],
    /// Log time of the first entry.
    pub created_at: Timestamp,
    /// The id that the next member gets. Never goes back.
    pub next_node_id: u64,
    /// Least release level of all members; gates new commands.
    pub version: u32,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Takes part.
    Active,
    /// Takes no new requests, by an administrator's wish.
    Drained,
    /// Removed or left; the id is never used again.
    Departed {
        /// Log time of the removal.
        at: Timestamp,
    },
}

/// One machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// For people; unique among members that have not departed.
    pub name: String,
    /// Its key.
    pub peer_id: PeerId,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// What it may become.
    pub role: Role,
    /// Where it stands.
    pub state: MemberState,
    /// `host:port` of its `peer` listener, best first.
    pub peer_addresses: Vec<String>,
    /// libp2p multiaddresses.
    pub p2p_addresses: Vec<String>,
    /// Base URLs of its `api` listener.
    pub api_addresses: Vec<String>,
    /// Log time of its first join.
    pub joined_at: Timestamp,
    /// What people say of it.
    pub labels: BTreeMap<String, String>,
    /// What it says of itself.
    pub own_labels: BTreeMap<String, String>,
    /// Whether it takes new copies.
    pub cordon: Cordon,
}

// === impl Member ===

impl Member {
    /// Whether it is a member still, drained or not.
    #[must_use]
    pub const fn is_standing(&self) -> bool {
        !matches!(self.state, MemberState::Departed { .. })
    }

    /// Whether models may be there: it is a member still, and no gateway.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        self.is_standing() && self.role != Role::Gateway
    }

    /// What a label says. What people say of the member wins over what it says itself.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&String> {
        self.labels.get(key).or_else(|| self.own_labels.get(key))
    }

    /// Whether a copy belongs there, by what people said: it is a member that is not being emptied, and the wish does
    /// not keep away from it.
    #[must_use]
    pub fn suits(&self, want: &Want) -> bool {
        let is_labelled = want.labels.iter().all(|(key, wanted)| self.label(key) == Some(wanted));
        let is_open = self.is_standing() && self.cordon != Cordon::Emptying;
        is_open && is_labelled && !want.avoid.contains(&self.id)
    }
}

/// A permission to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The public half.
    pub id: TokenId,
    /// SHA-256 of the secret half.
    pub secret_sha256: [u8; 32],
    /// The role it grants.
    pub role: Role,
    /// Joins that it still permits.
    pub uses_left: u32,
    /// Log time.
    pub created_at: Timestamp,
    /// Log time.
    pub expires_at: Timestamp,
    /// Withdrawn by an administrator.
    pub revoked: bool,
}

/// One node's copy of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Who holds it.
    pub node: NodeId,
    /// What its runtime says of it.
    pub model: ModelRecord,
}

/// A cluster-wide configuration value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The bytes that were set.
    pub value: Vec<u8>,
    /// Index of the entry that set it.
    pub revision: u64,
}

/// A value with its history in three numbers, as etcd tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// What was put.
    pub bytes: Vec<u8>,
    /// Index of the entry that made the key.
    pub created: u64,
    /// Index of the entry that put these bytes.
    pub modified: u64,
    /// Puts since the key was made; 1 for the first.
    pub version: u64,
    /// It goes when this lease ends.
    pub lease: Option<u64>,
}

/// What values take, and what they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Puts beyond it are refused; deletes never.
    pub bytes_max: u64,
}

/// How full what a quota bounds is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// There is room.
    Roomy,
    /// At least `QUOTA_NEARLY_FULL_PERCENT` of it are used.
    Nearly,
    /// All of it is used: what is there can be read, made smaller and deleted, and nothing can grow.
    Full,
}

// === impl Usage ===

impl Usage {
    /// How full it is. Nothing under a bound of 0 is not full: somebody wanted it so.
    #[must_use]
    pub const fn fill(&self) -> Fill {
        let nearly = self.bytes_max.saturating_mul(QUOTA_NEARLY_FULL_PERCENT);
        if self.bytes == 0 {
            Fill::Roomy
        } else if self.bytes >= self.bytes_max {
            Fill::Full
        } else if self.bytes.saturating_mul(100) >= nearly {
            Fill::Nearly
        } else {
            Fill::Roomy
        }
    }
}

/// A time that its holder keeps renewing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its length.
    pub ttl_ms: u64,
    /// Log time at which it ends unless it is renewed.
    pub ends_at: Timestamp,
    /// Values that go with it.
    pub values: u32,
    /// Where its deadline stands, so that it can go with it. `None`: as cluster version 2 writes it, not noted.
    pub due_at: Option<Timestamp>,
}

/// A client whose commands have effect once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who opened it, as in [`super::Entry::principal`].
    pub principal: String,
    /// How long it lives without a command.
    pub ttl_ms: u64,
    /// Log time at which it ends unless there is a command.
    pub ends_at: Timestamp,
    /// How many answers are kept: that many commands may be under way at once.
    pub window: u32,
    /// The highest sequence so far; 0: none yet. What lies `window` or more below it is never executed.
    pub highest: u64,
    /// As in [`Lease`].
    pub due_at: Option<Timestamp>,
}

/// What a command answered, for when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Index of its entry.
    pub revision: u64,
    /// Term of its entry.
    pub term: u64,
    /// Its answer.
    pub answer: super::command::Answer,
}

/// How many there are of what is bounded in number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Client sessions.
    pub sessions: u64,
    /// Leases.
    pub leases: u64,
    /// Wishes for models.
    pub wishes: u64,
    /// Files whose BLAKE3 is on record.
    pub blobs: u64,
    /// Names with a record of their own.
    pub models: u64,
    /// Tasks, those that are over among them.
    pub tasks: u64,
    /// Answers to requests with a key.
    pub once: u64,
    /// Index of the entry that changed a task last; 0: none did. Whoever has looked at the tasks of a later state need
    /// not look again.
    pub tasks_changed_at: u64,
}

/// What a file of a model must be, whoever hands out its chunks. Bound once, by a node that read all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blob {
    /// Its length.
    pub size_bytes: u64,
    /// Its BLAKE3, against which its chunks are checked.
    pub root: Root,
    /// Who read it.
    pub bound_by: NodeId,
    /// Log time.
    pub bound_at: Timestamp,
}

/// That a model shall be on some nodes, and how far that has come in its present round. A model that nodes have and
/// nobody asked for has none: it is *as found*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Which model, as it was asked for.
    pub name: ModelName,
    /// Index of the entry that asked for it. What is told of another round is refused.
    pub round: u64,
    /// The registry may be reached without TLS.
    pub insecure: bool,
    /// On which nodes.
    pub replicas: Replicas,
    /// SHA-256 of the manifest that this round spreads; `None` until the ingester has told it, the same ever after.
    pub digest: Option<Digest>,
    /// Bytes of all its files; 0 until then.
    pub size_bytes: u64,
    /// Who does what; `None` until the leader has planned.
    pub plan: Option<Plan>,
    /// Who has failed in this round, and why: the last thing that each has told. Who holds the version that is spread
    /// has not failed, whatever it told before.
    pub failures: BTreeMap<NodeId, Failure>,
    /// Log time at which the round began.
    pub asked_at: Timestamp,
    /// Who asked, as in [`super::Entry::principal`].
    pub asked_by: String,
    /// Which nodes come into question.
    pub want: Want,
    /// The declared file asks for it, not a person alone. Stays until the wish is forgotten.
    pub declared: bool,
    /// Nodes with a copy of the name, whichever version, among which an earlier round had some too many. None of them
    /// is a target. Each loses its copy when this round has its own.
    pub surplus: BTreeSet<NodeId>,
    /// Somebody else had asked for it in an earlier round: what that one wanted is no wish of its own any more, so this
    /// one is nobody's alone to end. Stays until the wish is forgotten.
    pub shared: bool,
}

/// On which nodes a model shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicas {
    /// On that many, the cluster chooses.
    Count(u32),
    /// On all that may hold models.
    All,
    /// On these. In a record by id, each once.
    Nodes(Vec<NodeId>),
}

/// Who does what in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who asks the registry. It need not be a target when it holds the model.
    pub ingester: NodeId,
    /// Who shall hold the model, each once, in the order of the plan.
    pub targets: Vec<NodeId>,
    /// Log time.
    pub made_at: Timestamp,
    /// What it was made for.
    pub kind: PlanKind,
}

/// Why a node has failed in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub code: ErrorCode,
    /// For people; at most `FAILURE_TEXT_BYTES_MAX`.
    pub text: String,
    /// Log time.
    pub at: Timestamp,
    /// A person removed the copy there, or put another version in its place. Nobody in the cluster did it; the node is
    /// left out of later rounds too.
    pub by_hand: bool,
}

// === impl Wish ===

impl Wish {
    /// Whether a copy on this node is one of those that are wanted: where nodes are named, on these alone.
    #[must_use]
    pub fn counts_at(&self, node: NodeId) -> bool {
        match &self.replicas {
            Replicas::Nodes(nodes) => nodes.contains(&node),
            Replicas::Count(_) | Replicas::All => true,
        }
    }

    /// Whether a copy of which an earlier round had too many may go although it is the last of its version: this round
    /// spreads another one, of which so many copies stay where they count, and those are as many as are wanted.
    #[must_use]
    pub fn has_replaced(&self, copy: &Location, staying: usize) -> bool {
        let wanted = match &self.replicas {
            Replicas::Count(count) => *count as usize,
            Replicas::Nodes(nodes) => nodes.len(),
            Replicas::All => 1,
        };
        let is_other = self.digest.is_some_and(|digest| digest != copy.model.digest);
        is_other && self.surplus.contains(&copy.node) && staying >= wanted.max(1)
    }
}

// === impl Plan ===

impl Plan {
    /// Whether a node has a part in it.
    #[must_use]
    pub fn names(&self, node: NodeId) -> bool {
        self.ingester == node || self.targets.contains(&node)
    }
}

/// A row of the ledger: what became of a migration. Fifteen things for people and programs, and what its next step
/// needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Number of the phase in whose range its own lies.
    pub phase: u32,
    /// What that phase is about, in one word.
    pub group: String,
    /// Log time of its first step.
    pub started_at: Timestamp,
    /// Log time of its last step.
    pub finished_at: Option<Timestamp>,
    /// Who asked for it, as in [`super::Entry::principal`].
    pub actor: String,
    /// From its first to its last step in log time.
    pub duration_ms: u64,
    /// Where it stands.
    pub status: MigrationStatus,
    /// Why it failed; empty when it did not.
    pub error: String,
    /// Log time at which it was taken back.
    pub reverted_at: Option<Timestamp>,
    /// Who asked for that; empty when nobody has.
    pub reverted_by: String,
    /// How long that took in log time.
    pub revert_duration_ms: u64,
    /// Whether it has a way back.
    pub reversible: bool,
    /// It was begun out of order, or against one that was under way, because somebody insisted.
    pub forced: bool,
    /// Log time at which the walk under way, or the last one, began.
    pub began_at: Timestamp,
    /// The walk goes on behind this key; `None`: at its start, or it has ended.
    pub cursor: Option<Key>,
    /// Records that the walk has looked at.
    pub looked_at: u64,
    /// Records that it has changed.
    pub changed: u64,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationStatus {
    /// On its way.
    Applying,
    /// Done.
    Applied,
    /// On its way back.
    Reverting,
    /// Taken back.
    Reverted,
    /// Met records that contradict each other, and stopped.
    Failed,
}

// === impl MigrationStatus ===

impl MigrationStatus {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Applying => "applying",
            Self::Applied => "applied",
            Self::Reverting => "reverting",
            Self::Reverted => "reverted",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_nearly_full_from_four_fifths_on_and_full_at_its_end() {
        let check = |bytes: u64, bytes_max: u64, expected: Fill| {
            assert_eq!(Usage { keys: 1, bytes, bytes_max }.fill(), expected, "{bytes} of {bytes_max}");
        };
        check(0, 10, Fill::Roomy);
        check(79, 100, Fill::Roomy);
        check(80, 100, Fill::Nearly);
        check(99, 100, Fill::Nearly);
        check(100, 100, Fill::Full);
        // The bound was lowered below what lies there.
        check(101, 100, Fill::Full);
        check(1, 0, Fill::Full);
        check(0, 0, Fill::Roomy);
        check(u64::MAX - 1, u64::MAX, Fill::Nearly);
    }
}
