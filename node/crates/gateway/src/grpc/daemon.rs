//! The port through which the admin API reaches what only the assembly can do: life-cycle, logs, checks, imports, the
//! runtimes of other nodes.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};

use ollamax_core::catalog::{Answer, Fault, Refusal, TASKS_VERSION};
use ollamax_core::placement::Outlook;
use ollamax_metadata as metadata;
use ollamax_proto::v1;
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{Digest, ErrorCode, Incarnation, NodeId, PeerId, RequestId, TaskId};

/// gRPC metadata key that carries the error code's text form.
pub const CODE_KEY: &str = "ollamax-code";
/// gRPC metadata key under which an error says why.
const WHY_KEY: &str = "ollamax-why-bin";
/// gRPC metadata key under which an error says what to do.
const NEXT_KEY: &str = "ollamax-next-bin";
/// What makes room where no more names fit on record.
const NAMES_FULL: &str = "ollamax model rm NAME for those that nobody needs; to have names go sooner that nobody has: \
                          ollamax autopilot set forget_after 1h, and after that hour ollamax model gc";

/// Where a node stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Belongs to no cluster and waits for `init` or `join`.
    Waiting,
    /// Has its id and waits for the replicated state.
    Joining,
    /// Takes part.
    Member,
    /// Finishes what runs and takes nothing new.
    Stopping,
    /// Was removed from its cluster.
    Removed,
}

/// What the assembly knows of this node.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Where it stands.
    pub phase: Phase,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Its id, once it has one.
    pub node: Option<NodeId>,
    /// Its name.
    pub name: String,
    /// Its key.
    pub peer_id: PeerId,
    /// Its data directory's incarnation.
    pub incarnation: Incarnation,
    /// Base URL of its `api` listener.
    pub api_url: String,
    /// Base URL of the runtime beside it; empty while there is none.
    pub runtime_url: String,
    /// Process id of the engine it started; 0 for a runtime that somebody else runs.
    pub runtime_pid: u32,
    /// Whether `api` serves everybody who can reach it.
    pub api_open: bool,
    /// Release.
    pub version: &'static str,
    /// Process id.
    pub pid: u32,
    /// How often the schedule makes a backup, milliseconds; 0: never.
    pub backup_every_ms: u64,
    /// How it reaches each member.
    pub paths: BTreeMap<NodeId, Path>,
}

/// How this node reaches another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path {
    /// What carried the last connection: `tcp`, `p2p`, `relayed`; empty while there was none.
    pub way: &'static str,
    /// The last round trip; `None`: not measured.
    pub rtt: Option<Duration>,
}

/// What runs once this node has an id.
#[derive(Debug, Clone)]
pub struct Engines {
    /// The replicated state.
    pub metadata: metadata::Handle,
    /// Load, queues, dispatch.
    pub scheduler: scheduler::Handle,
    /// Pulls, here and on other nodes.
    pub transfer: transfer::Handle,
}

/// What the assembly does for the admin API.
pub trait Daemon: Send + Sync + 'static {
    /// What it knows of this node.
    fn facts(&self) -> Facts;
    /// The engines, once this node has an id.
    fn engines(&self) -> Option<Engines>;
    /// Which models have too few copies and which cannot have enough, as this node sees it; no moves. Nothing before it
    /// has an id.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn shortfall(&self) -> Result<Outlook, AdminError>;
    /// Makes this node the first of a new cluster.
    fn init(&self, id: RequestId, request: v1::InitRequest) -> BoxFuture<'_, Result<v1::InitReply, AdminError>>;
    /// Makes this node a member of an existing cluster.
    fn join(&self, id: RequestId, request: v1::JoinRequest) -> BoxFuture<'_, Result<v1::JoinReply, AdminError>>;
    /// Leaves the cluster in good order.
    fn leave(&self, id: RequestId, request: v1::LeaveRequest) -> BoxFuture<'_, Result<v1::LeaveReply, AdminError>>;
    /// Draws a token and records it.
    fn create_token(
        &self,
        id: RequestId,
        request: v1::CreateTokenRequest,
    ) -> BoxFuture<'_, Result<v1::CreateTokenReply, AdminError>>;
    /// Spreads a model file to runtimes.
    fn import_model(
        &self,
        chunks: Streaming<v1::ImportModelRequest>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::ImportModelProgress, Status>>, AdminError>>;
    /// Has the runtime beside a node do what the first order says. Dropping what is told ends it there; it ends with
    /// `RuntimeDone`, or with why not.
    fn at_runtime(
        &self,
        node: NodeId,
        orders: BoxStream<'static, v1::RuntimeOrder>,
    ) -> BoxStream<'static, Result<v1::RuntimeEvent, NotDone>>;
    /// Whether the runtime beside this node has a file.
    fn has_file(&self, sha256: Digest) -> BoxFuture<'_, Result<bool, NotDone>>;
    /// Hands a file of a size that may not be known to the runtime beside this node, unless it has it. What breaks off,
    /// and what is dropped, leaves nothing there.
    fn take_file(
        &self,
        sha256: Digest,
        size_bytes: Option<u64>,
        bytes: BoxStream<'static, io::Result<Bytes>>,
    ) -> BoxFuture<'_, Result<(), NotDone>>;
    /// Writes a backup of this node's state; the last message says what was made.
    fn create_backup(
        &self,
        request: v1::CreateBackupRequest,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Result<v1::CreateBackupProgress, Status>>, AdminError>>;
    /// The backups that lie at a place.
    fn list_backups(&self, request: v1::ListBackupsRequest) -> BoxFuture<'_, Result<v1::ListBackupsReply, AdminError>>;
    /// Makes a backup key, keeps its public half, and tells the secret one.
    fn new_backup_key(&self, id: RequestId) -> BoxFuture<'_, Result<v1::NewBackupKeyReply, AdminError>>;
    /// The last lines of the log and, if asked, those that follow.
    fn logs(&self, request: v1::LogsRequest) -> BoxStream<'static, Result<v1::LogLine, Status>>;
    /// Checks of this machine and its way to the others.
    fn doctor(&self) -> BoxFuture<'_, v1::DoctorReply>;
    /// What the leader would do for the wishes of the cluster just now.
    fn outlook(&self, order: v1::OutlookOrder) -> BoxFuture<'_, Result<v1::OutlookView, AdminError>>;
}

/// Why the runtime beside a node did not do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDone {
    /// Its place in the table of codes.
    pub code: ErrorCode,
    /// In the words of that runtime, node or connection.
    pub text: String,
}

/// An error for an administrator: what happened, why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct AdminError {
    /// Its place in the table of codes.
    pub code: ErrorCode,
    /// One line.
    pub what: String,
    /// One line; empty when `what` says it all.
    pub why: String,
    /// The command to type, or the thing to do.
    pub next: String,
}

// === impl AdminError ===

impl AdminError {
    /// Puts one together.
    #[must_use]
    pub fn new(code: ErrorCode, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), next: next.into() }
    }

    /// This node belongs to no cluster yet.
    #[must_use]
    pub fn not_initialised() -> Self {
        Self::new(
            ErrorCode::NotInitialised,
            "this node belongs to no cluster yet",
            "it was started and waits for an administrator",
            "ollamax init (first node) or ollamax join TOKEN (others)",
        )
    }

    /// This node is a member, and its engines do not run yet.
    #[must_use]
    pub fn starting() -> Self {
        Self::new(
            ErrorCode::Starting,
            "this node is starting",
            "it reads the state of its cluster from its disk",
            "ollamax status; then the same again",
        )
    }

    /// This node was removed from its cluster.
    #[must_use]
    pub fn removed() -> Self {
        Self::new(
            ErrorCode::NotMember,
            "this node was removed from its cluster",
            "its id is never used again",
            "ollamax leave; then start the daemon again, and ollamax join TOKEN if it shall be a member anew",
        )
    }

    /// Why a node in this phase has no engines.
    #[must_use]
    pub fn without_engines(phase: Phase) -> Self {
        match phase {
            Phase::Waiting => Self::not_initialised(),
            Phase::Joining | Phase::Member => Self::starting(),
            Phase::Stopping => Self::new(ErrorCode::Draining, "this node is stopping", "", "ask another node"),
            Phase::Removed => Self::removed(),
        }
    }

    /// The state answered something that this command cannot have.
    #[must_use]
    pub fn unexpected(answer: &Answer) -> Self {
        let what = format!("the state answered {answer:?}");
        Self::new(ErrorCode::Internal, what, "this is a defect of the program", "ollamax logs --level error")
    }

    /// A refusal whose next step names what it is about.
    fn refused(refusal: &Refusal, why: &str, next: String) -> Self {
        Self::new(refusal.code(), refusal.to_string(), why, next)
    }

    /// A refusal about a task, or about a request that carries a key.
    fn of_task(refusal: &Refusal) -> Self {
        let show = |id: &TaskId| format!("ollamax task show {id}");
        let (why, next) = match refusal {
            Refusal::TaskMoved(id) => ("its node was silent for too long, or somebody ended it", show(id)),
            Refusal::TaskStands { id, .. } => (
                "only a task that waits can be approved or denied, and only one that failed or was cancelled retried",
                show(id),
            ),
            Refusal::OnceReused => (
                "a key counts for its caller and tool, and with other arguments it is another request",
                "send this request with a key of its own; the first one is not done again".to_owned(),
            ),
            _ => ("it was never opened, or is over for more than a day", "ollamax task list".to_owned()),
        };
        Self::refused(refusal, why, next)
    }

    /// A node name or id that no member has.
    #[must_use]
    pub fn node_not_found(text: &str) -> Self {
        let what = format!("there is no node {text:?}");
        Self::new(ErrorCode::NodeNotFound, what, "no member has this id or name", "ollamax node list")
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        let (why, next) = match &refusal {
            Refusal::AlreadyInitialised => ("one cluster is made once", "ollamax status"),
            Refusal::NotInitialised => return Self::not_initialised(),
            Refusal::TokenInvalid(_) => ("a token serves a limited time and number of joins", "ollamax token create"),
            Refusal::TokenNotFound(_) => ("it was never made here, or was swept away", "ollamax token list"),
            Refusal::RoleNotGranted { .. } => ("a token is bound to a role", "ollamax token create --role ROLE"),
            Refusal::IncarnationConflict { node } => {
                let next = format!("on a member: ollamax node remove {node}; then join again");
                return Self::new(refusal.code(), refusal.to_string(), "its data directory was wiped or copied", next);
            }
            Refusal::NodeNotFound(_) => ("no member has this id", "ollamax node list"),
            Refusal::LastVoter(_) => {
                let next = "join another voter first; to end the cluster: ollamax leave --force on each of its nodes";
                ("a cluster needs one voter", next)
            }
            Refusal::ModelsRemain(_) => ("its models are still on record", "repeat the command"),
            Refusal::SettingNotFound(_) => ("it was never set, or was deleted", "check the key's spelling"),
            Refusal::Invalid(_) => ("the value is outside its limits", "correct it and repeat the command"),
            Refusal::Fenced { .. } => ("leadership changed meanwhile", "repeat the command"),
            // A request with a key needs this version, also where the change itself needs less.
            Refusal::VersionTooLow { needed, .. } if *needed == TASKS_VERSION => (
                "a member runs an older release",
                "upgrade all members first; what they know already passes without an idempotency_key",
            ),
            Refusal::VersionTooLow { .. } => ("a member runs an older release", "upgrade all members first"),
            Refusal::SessionExpired(_) => (
                "it had no command within its time, or was closed",
                "open a new session; look what became of the change",
            ),
            Refusal::SequenceTooOld { .. } => {
                ("more commands came since than the session keeps answers for", "look what became of the change")
            }
            Refusal::LeaseNotFound(_) => ("it was never granted, or has ended", "ollamax kv lease grant"),
            Refusal::QuotaExceeded { unit, .. } => room_for(unit),
            Refusal::Migration(_) => ("migrations go in order, one direction at a time", "ollamax migrate status"),
            Refusal::RootConflict { .. } => (
                "two nodes read different bytes under one name: a disk lies, or a defect of the program",
                "delete the model on the node whose log tells of this file, and pull it again",
            ),
            Refusal::RoundPassed { .. } => ("somebody has asked for the model again meanwhile", "ollamax model pulls"),
            Refusal::VersionMoved { .. } => (
                "the registry gave the tag to another version meanwhile",
                "ollamax model pull NAME begins anew with it",
            ),
            Refusal::WishNotFound(_) => ("it was never asked for, or is not any more", "ollamax model pull NAME"),
            Refusal::NotPlanned { .. } => ("the leader has given this to another node", "ollamax model pulls"),
            Refusal::VersionNotFound { name, .. } => {
                let next = format!("ollamax model history {name}");
                let why = "no node ever had it under this name; of a digest it takes 4 digits or more";
                return Self::refused(&refusal, why, next);
            }
            Refusal::Pinned { name, .. } => {
                let next = format!("ollamax model unpin {name}");
                return Self::refused(&refusal, "somebody wants the name to stand for that version", next);
            }
            Refusal::LastCopy { name } => {
                let next = format!("ollamax model rm {name} --force");
                return Self::refused(&refusal, "nobody else has this version under this name", next);
            }
            Refusal::BelowWish { name, left, .. } => {
                let next = match left {
                    // Others have it, and not where it is wanted: fewer of it do not make them enough.
                    0 => "ollamax model wishes shows where it is wanted; or the same again with --force".to_owned(),
                    left => format!("ollamax model pull {name} --replicas {left}"),
                };
                let why = "somebody asked for the model on that many nodes; a copy where it is not wanted is none of \
                           them";
                return Self::refused(&refusal, why, next);
            }
            Refusal::Disabled(name) => {
                let next = format!("ollamax model enable {name}");
                return Self::refused(&refusal, "somebody, or a rule, took it out of use", next);
            }
            Refusal::NameTaken { name, .. } => {
                let next = format!("ollamax model rm {name}, or use another name");
                return Self::refused(&refusal, "a tag never replaces another version", next);
            }
            Refusal::TaskNotFound(_) | Refusal::TaskMoved(_) | Refusal::TaskStands { .. } | Refusal::OnceReused => {
                return Self::of_task(&refusal);
            }
        };
        Self::new(refusal.code(), refusal.to_string(), why, next)
    }
}

/// Why there is no more room for something, and what makes room.
fn room_for(unit: &str) -> (&'static str, &'static str) {
    match unit {
        "models" => ("names stay on record for a while when nobody has them any more", NAMES_FULL),
        "tasks" => ("tasks stay on record for a day when they are over", "ollamax task list; wait until old ones go"),
        "open tasks" => ("so many tasks of one caller are not over", "ollamax task list; then ollamax task cancel ID"),
        "keys of requests" => ("what a request with a key was answered is kept for a day", "wait until old ones go"),
        _ => ("a bound keeps the replicated state small", "delete what is not needed, or raise it: ollamax kv quota"),
    }
}

impl From<Fault> for AdminError {
    fn from(fault: Fault) -> Self {
        let next = "look at ollamax logs --level error; the node stops when its state cannot be trusted";
        Self::new(ErrorCode::StorageFailed, "the replicated state cannot be read", fault.to_string(), next)
    }
}

impl From<metadata::ProposeError> for AdminError {
    fn from(error: metadata::ProposeError) -> Self {
        match error {
            // The leader sees it before the state is asked, which would say the same.
            metadata::ProposeError::Refused(refusal @ Refusal::VersionTooLow { .. }) => refusal.into(),
            error => Self::of_engine(error.code(), &error),
        }
    }
}

impl From<metadata::WatchError> for AdminError {
    fn from(error: metadata::WatchError) -> Self {
        match &error {
            metadata::WatchError::Compacted { oldest } => {
                let next = format!("read the values, and watch from their revision + 1, at least {oldest}");
                let why = "a node keeps its last changes in memory, and begins anew when it starts";
                Self::new(ErrorCode::Compacted, error.to_string(), why, next)
            }
            metadata::WatchError::Deviates => metadata::ReadError::Deviates.into(),
            metadata::WatchError::Stopped => {
                Self::new(ErrorCode::Draining, error.to_string(), "it ends its watches", "watch on another node")
            }
        }
    }
}

impl From<metadata::ReadError> for AdminError {
    fn from(error: metadata::ReadError) -> Self {
        Self::of_engine(error.code(), &error)
    }
}

impl AdminError {
    fn of_engine(code: ErrorCode, error: &dyn std::error::Error) -> Self {
        let next = match code {
            ErrorCode::NoQuorum => "ollamax status shows which members are missing; bring a majority of voters back",
            ErrorCode::OutcomeUnknown => "look whether the change is there before you repeat it",
            ErrorCode::DiskFull => "free some space on that disk and repeat the command; the others go on meanwhile",
            ErrorCode::Overloaded => "repeat the command in a moment",
            _ => "ollamax status",
        };
        let told = error.to_string();
        let (what, why) = match code {
            ErrorCode::NoQuorum => {
                let why = told.strip_prefix("no quorum: ").unwrap_or(&told);
                ("no quorum: a majority of voters did not answer".to_owned(), why.to_owned())
            }
            ErrorCode::OutcomeUnknown => ("the change was sent, but its outcome did not come back".to_owned(), told),
            _ => (told, String::new()),
        };
        Self::new(code, what, why, next)
    }
}

impl From<AdminError> for Status {
    fn from(error: AdminError) -> Self {
        let mut status = Self::new(Code::from_i32(error.code.grpc_status()), error.what);
        let headers = status.metadata_mut();
        headers.insert(CODE_KEY, MetadataValue::from_static(error.code.as_str()));
        for (name, text) in [(WHY_KEY, error.why), (NEXT_KEY, error.next)] {
            headers.insert_bin(name, MetadataValue::from_bytes(text.as_bytes()));
        }
        status
    }
}

impl From<&Status> for AdminError {
    /// What one of them was before it became a status; another status is a defect of the program.
    fn from(status: &Status) -> Self {
        let code = status.metadata().get(CODE_KEY).and_then(|code| ErrorCode::from_text(code.to_str().ok()?));
        let said = |key: &str| {
            let bytes = status.metadata().get_bin(key).and_then(|text| text.to_bytes().ok()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self::new(code.unwrap_or(ErrorCode::Internal), status.message(), said(WHY_KEY), said(NEXT_KEY))
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::TokenProblem;
    use ollamax_types::ModelName;

    use super::*;

    #[test]
    fn an_error_is_the_same_behind_a_stream() {
        let error =
            AdminError::new(ErrorCode::RuntimeFailed, "node n2 could not push m", "it said: nö", "ollamax doctor");
        assert_eq!(AdminError::from(&Status::from(error.clone())), error);
        let bare = AdminError::from(&Status::internal("odd"));
        assert_eq!(bare, AdminError::new(ErrorCode::Internal, "odd", "", ""));
    }

    #[test]
    fn a_refusal_about_a_model_names_the_next_command_with_that_model() {
        let name: ModelName = "llama3.2".parse().expect("a name");
        let check = |refusal: Refusal, code: ErrorCode, next: &str| {
            let error = AdminError::from(refusal);
            assert_eq!((error.code, error.next.as_str()), (code, next), "{}", error.what);
            assert!(!error.why.is_empty(), "{}", error.what);
        };
        let (digest, refused) = (Digest([7; 32]), ErrorCode::PreconditionFailed);
        let version = Refusal::VersionNotFound { name: name.clone(), version: "7".to_owned() };
        // Two digits that begin a digest are taken for a number.
        assert!(AdminError::from(version.clone()).why.ends_with("4 digits or more"));
        check(version, ErrorCode::ModelNotFound, "ollamax model history llama3.2:latest");
        check(Refusal::Pinned { name: name.clone(), digest }, refused, "ollamax model unpin llama3.2:latest");
        check(Refusal::LastCopy { name: name.clone() }, refused, "ollamax model rm llama3.2:latest --force");
        let below = |left| Refusal::BelowWish { name: name.clone(), wanted: 3, left };
        check(below(2), refused, "ollamax model pull llama3.2:latest --replicas 2");
        let where_it_is = "ollamax model wishes shows where it is wanted; or the same again with --force";
        check(below(0), refused, where_it_is);
        check(Refusal::Disabled(name.clone()), ErrorCode::Forbidden, "ollamax model enable llama3.2:latest");
        let taken = Refusal::NameTaken { name, held: digest };
        check(taken, ErrorCode::DigestConflict, "ollamax model rm llama3.2:latest, or use another name");
        let full = |unit: &str| {
            let (what, unit) = ("this cluster".to_owned(), unit.to_owned());
            Refusal::QuotaExceeded { what, needed: 2, limit: 1, unit }
        };
        check(full("models"), ErrorCode::QuotaExceeded, NAMES_FULL);
        let quota = "delete what is not needed, or raise it: ollamax kv quota";
        check(full("bytes"), ErrorCode::QuotaExceeded, quota);
        let own = "ollamax task list; then ollamax task cancel ID";
        check(full("open tasks"), ErrorCode::QuotaExceeded, own);
        check(full("tasks"), ErrorCode::QuotaExceeded, "ollamax task list; wait until old ones go");
        let id = TaskId([1; 16]);
        let show = format!("ollamax task show {id}");
        check(Refusal::TaskMoved(id), refused, &show);
        let stands = Refusal::TaskStands { id, state: "queued".to_owned() };
        let why = AdminError::from(stands.clone()).why;
        assert!(why.contains("that waits") && why.contains("that failed"), "{why}");
        check(stands, refused, &show);
        check(Refusal::TaskNotFound(id), ErrorCode::TaskNotFound, "ollamax task list");
        let other = "send this request with a key of its own; the first one is not done again";
        check(Refusal::OnceReused, Refusal::OnceReused.code(), other);
        assert!(AdminError::from(Refusal::OnceReused).why.contains("its caller and tool"));
        let token = Refusal::TokenInvalid(TokenProblem::UsedUp);
        check(token, ErrorCode::TokenInvalid, "ollamax token create");
    }

    #[test]
    fn that_there_is_no_quorum_is_said_once() {
        let error = AdminError::from(metadata::ProposeError::NoQuorum("nobody leads".to_owned()));
        let expected = ("no quorum: a majority of voters did not answer", "nobody leads");
        assert_eq!((error.what.as_str(), error.why.as_str()), expected);
    }

    #[test]
    fn a_node_without_engines_says_whether_it_will_have_some() {
        let check = |phase: Phase, code: ErrorCode, retryable: bool| {
            let error = AdminError::without_engines(phase);
            assert_eq!((error.code, error.code.is_retryable()), (code, retryable), "{phase:?}");
            assert_eq!(error.next.contains("ollamax init"), phase == Phase::Waiting, "{error:?}");
        };
        check(Phase::Waiting, ErrorCode::NotInitialised, false);
        check(Phase::Joining, ErrorCode::Starting, true);
        check(Phase::Member, ErrorCode::Starting, true);
        check(Phase::Stopping, ErrorCode::Draining, true);
        check(Phase::Removed, ErrorCode::NotMember, false);
    }

    #[test]
    fn a_cluster_that_is_too_old_is_told_in_the_same_words_by_the_leader_and_by_the_state() {
        let refusal = Refusal::VersionTooLow { needed: 4, actual: 3 };
        let error = AdminError::from(metadata::ProposeError::Refused(refusal.clone()));
        assert_eq!(error, AdminError::from(refusal));
        assert_eq!(error.next, "upgrade all members first");
        let error = AdminError::from(Refusal::VersionTooLow { needed: TASKS_VERSION, actual: 4 });
        assert!(error.next.ends_with("passes without an idempotency_key"), "{error:?}");
    }
}
