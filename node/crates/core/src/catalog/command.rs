//! The changes that can be asked for, and what comes back.
//!
//! Commands are idempotent by their content wherever a retry is natural: a member joins again under its key, a
//! token is created under an id that its maker drew, a report replaces what the node had said.

mod course;
mod refusal;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{
    ClusterId, Digest, ErrorCode, Incarnation, ModelName, ModelRecord, NodeId, PeerId, RequestId, Role, Root,
    SecretKey, TaskId, Timestamp, TokenId,
};

use super::record::{Cordon, How, Migration, PhaseWord, PlanKind, Replicas, TaskOutcome, TaskTold, Want};
use super::txn::{Effect, Txn};
pub use course::CopyCourse;
pub use refusal::{Refusal, TokenProblem};
use told::told_since;

/// One log entry: the envelope, version 1 from the first day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Least cluster version that may apply it.
    pub least_version: u32,
    /// Log time: never goes back, moves with the leaders' monotonic clocks.
    pub log_time: Timestamp,
    /// The client request behind it; empty for the node's own loops.
    pub request: RequestId,
    /// Who asked: `node/3`, or `node/3 for admin`; in the log as [`super::principal::stamped`] wrote it.
    pub principal: String,
    /// Namespace of user-owned records; empty for cluster records.
    pub namespace: String,
    /// Client session and sequence, so that it has effect once; `None` for commands that are idempotent by content.
    pub session: Option<(u64, u64)>,
    /// Refused unless the leader's term is this one: fences planner loops.
    pub fence_term: Option<u64>,
    /// The key of the request behind it, so that it has effect once whoever sends it again, and wherever. Since cluster
    /// version 5.
    pub once: Option<OnceKey>,
    /// What to change.
    pub command: Command,
}

/// What makes a request the same one when it comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceKey {
    /// Of who asked, for what, under the key that they gave it.
    pub key: [u8; 32],
    /// Of all that was asked. Another one under the same key is another request, and refused.
    pub digest: [u8; 32],
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The first command of a cluster; refused ever after.
    InitCluster {
        /// Drawn by the first node.
        cluster: ClusterId,
        /// For people.
        name: String,
        /// Verifies membership credentials.
        public_key: [u8; 32],
        /// The first member; gets node id 1 and role voter.
        first: NewMember,
        /// The cluster version to begin with: the founder's own.
        version: u32,
    },
    /// Redeems a token. The same key and incarnation of an active member gets its old id back, token unread.
    AddMember {
        /// Which token.
        token: TokenId,
        /// SHA-256 of the secret that the joiner sent.
        secret_sha256: [u8; 32],
        /// The role asked for; must be the token's (a voter token also admits a learner).
        role: Role,
        /// Who joins.
        member: NewMember,
    },
    /// A member tells where it can be reached, at each start.
    SetAddresses {
        /// Which member.
        node: NodeId,
        /// Must be the member's own.
        incarnation: Incarnation,
        /// As in [`super::Member`].
        peer_addresses: Vec<String>,
        /// As in [`super::Member`].
        p2p_addresses: Vec<String>,
        /// As in [`super::Member`].
        api_addresses: Vec<String>,
    },
    /// An administrator drains or undrains a member.
    SetDrained {
        /// Which member.
        node: NodeId,
        /// Whether it shall take no new requests.
        drained: bool,
    },
    /// Marks a member as departed and forgets its key. Its models go with [`Command::ForgetModels`] steps first.
    RemoveMember {
        /// Which member.
        node: NodeId,
    },
    /// Removes up to `limit` model locations of a node. Answers [`Answer::More`] until none is left.
    ForgetModels {
        /// Whose.
        node: NodeId,
        /// At most this many, itself at most `COMMAND_KEYS_MAX / 2`.
        limit: u32,
    },
    /// Makes a join token.
    CreateToken {
        /// Drawn by the maker.
        id: TokenId,
        /// SHA-256 of the secret half.
        secret_sha256: [u8; 32],
        /// The role it grants.
        role: Role,
        /// How many may join with it, at least 1.
        uses: u32,
        /// Life from the entry's log time, milliseconds.
        ttl_ms: u64,
    },
    /// Withdraws a token.
    RevokeToken {
        /// Which token.
        id: TokenId,
    },
    /// A node's runtime gained or lost models. A node with many sends a series.
    ReportModels {
        /// Whose runtime.
        node: NodeId,
        /// Present now, new or changed; at most `REPORT_MODELS_MAX`.
        present: Vec<ModelRecord>,
        /// Keys (`ModelName::key`) that are gone; at most `REPORT_MODELS_MAX`.
        absent: Vec<String>,
        /// Those of them that no person removed: the node did because the cluster said so, whatever it says by now, or
        /// their manifest lies there and is damaged. Since cluster version 4.
        removed: Vec<String>,
    },
    /// Sets a configuration key.
    SetSetting {
        /// Which key.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// Removes a configuration key; refused when it is not there.
    DeleteSetting {
        /// Which key.
        key: String,
    },
    /// Reads and changes values at one index. Since cluster version 2, as all that follow.
    Txn(Txn),
    /// Begins a client session; its id is the index of the entry.
    OpenSession {
        /// Life without a command, milliseconds.
        ttl_ms: u64,
        /// Commands that may be under way at once.
        window: u32,
    },
    /// Ends a client session; one that is not there is no error.
    CloseSession {
        /// Which session.
        session: u64,
    },
    /// Begins a lease; its id is the index of the entry.
    GrantLease {
        /// Its length, milliseconds.
        ttl_ms: u64,
    },
    /// Renews a lease for its length.
    RenewLease {
        /// Which lease.
        lease: u64,
    },
    /// Ends a lease and removes the values that go with it.
    RevokeLease {
        /// Which lease.
        lease: u64,
    },
    /// Ends what has passed its time. Answers [`Answer::More`] while more has.
    Expire,
    /// Sets how many bytes the values under a prefix may take.
    SetQuota {
        /// Which prefix, one that values may have.
        prefix: String,
        /// Bytes of keys and values.
        bytes_max: u64,
    },
    /// Lets the cluster use what a newer release brought. Never goes back.
    RaiseVersion {
        /// The version from now on.
        version: u32,
    },
    /// One step of a migration; the ledger says where it goes on. Answers [`Answer::Migration`]: while that is under
    /// way, the same command is sent again. Since cluster version 3.
    Migrate {
        /// Which one.
        number: u32,
        /// Back.
        down: bool,
        /// Begin although the order, or one on its way in the other direction, speaks against it.
        force: bool,
    },
    /// A node has read files whole and tells the BLAKE3 of each. Since cluster version 4, as all that follow.
    BindBlobs {
        /// Who read them.
        node: NodeId,
        /// At most `BIND_BLOBS_MAX`; all or none are taken.
        blobs: Vec<BoundBlob>,
    },
    /// A model shall be on some nodes. Begins a round, which forgets what an earlier one has come to, save what people
    /// removed, and save the version where a file says only where it shall be or there shall be fewer copies. A round
    /// of the same wish that is not planned yet or that somebody is busy with goes on, for receivers alone as long as
    /// `ROUND_KEPT_FOR`, or `ROUND_KEPT_UNSAID_FOR` where nobody says anything of places, and not for those that are
    /// `away` then. Answers [`Answer::Wish`].
    AskModel {
        /// Which model.
        name: ModelName,
        /// On which nodes.
        replicas: Replicas,
        /// The registry may be reached without TLS.
        insecure: bool,
        /// Which nodes come into question.
        want: Want,
        /// The declared file asks for it.
        declared: bool,
        /// Nobody said on which nodes: what is on record stays, and `replicas` are where nothing is that came to
        /// something. Since cluster version 5.
        unsaid: bool,
        /// Where nobody said on which nodes: those of the round that runs for which nobody waits, as they are away.
        away: BTreeSet<NodeId>,
    },
    /// The leader says who does what in a round; the entry is fenced by its term.
    PlanPull {
        /// Which model.
        name: ModelName,
        /// Which round.
        round: u64,
        /// A target, or a node that holds the model.
        ingester: NodeId,
        /// Who shall hold the model; 1 to `WISH_TARGETS_MAX`.
        targets: Vec<NodeId>,
        /// What it was made for.
        kind: PlanKind,
    },
    /// The ingester of a round has learned which version it is about. The first one stays.
    ResolveWish {
        /// The plan's ingester.
        node: NodeId,
        /// Which model.
        name: ModelName,
        /// Which round.
        round: u64,
        /// SHA-256 of the manifest.
        digest: Digest,
        /// Bytes of all files.
        size_bytes: u64,
    },
    /// A node that has a part in a round could not do it.
    TellPull {
        /// Who.
        node: NodeId,
        /// Which model.
        name: ModelName,
        /// Which round.
        round: u64,
        /// What kind of failure.
        code: ErrorCode,
        /// For people; cut at `FAILURE_TEXT_BYTES_MAX`.
        text: String,
    },
    /// A model is not wished for any more. Copies stay where they are.
    ForgetWish {
        /// Which model.
        name: ModelName,
        /// Only while this is its round: what others asked for since stays. Since cluster version 5.
        round: Option<u64>,
    },
    /// A name shall stand for a version that is known. Begins a round with it, as [`Command::AskModel`] does without.
    /// Answers [`Answer::Wish`].
    FixVersion {
        /// Which name.
        name: ModelName,
        /// SHA-256 of the manifest.
        digest: Digest,
        /// Bytes of all files.
        size_bytes: u64,
        /// On which nodes; `None`: where the wish says.
        replicas: Option<Replicas>,
        /// How the name comes to it.
        how: How,
    },
    /// A name has come to another version; the leader notes it, fenced by its term.
    NoteVersion {
        /// Which name.
        name: ModelName,
        /// SHA-256 of the manifest.
        digest: Digest,
        /// Bytes of all files.
        size_bytes: u64,
        /// How the name came to it.
        how: How,
    },
    /// A name shall stand for one version in the whole cluster, or no longer.
    PinModel {
        /// Which name.
        name: ModelName,
        /// The version; `None`: whichever is the newest.
        digest: Option<Digest>,
    },
    /// A model goes on to another phase of its life.
    SetPhase {
        /// Which model.
        name: ModelName,
        /// Which phase.
        phase: PhaseWord,
        /// Why, for people; at most `PHASE_NOTE_BYTES_MAX`.
        note: String,
    },
    /// Copies of a model shall go; the nodes that have them do it.
    DropCopies {
        /// Which model.
        name: ModelName,
        /// Where, at most `WISH_TARGETS_MAX`; none named: everywhere.
        nodes: Vec<NodeId>,
        /// The wish goes too.
        forget: bool,
        /// Against all guards. Where there is a wish, the nodes are left out of the round that runs.
        force: bool,
        /// Nothing of it is done while the name is pinned, whoever insists. Since cluster version 5.
        unless_pinned: bool,
    },
    /// A node has used models of its own on a day.
    NoteUse {
        /// Who.
        node: NodeId,
        /// Days since 1970.
        day: u32,
        /// Model keys; at most `REPORT_MODELS_MAX`. What has no record is left out.
        names: Vec<String>,
    },
    /// Forgets what files must be that were bound long ago; whoever has one binds it again. Answers [`Answer::More`]
    /// while files are left behind those that it looked at: whoever asks goes on there.
    ForgetBlobs {
        /// Those that were bound before this log time.
        before: Timestamp,
        /// Behind this file; `None`: from the first on.
        after: Option<Digest>,
        /// At most this many, itself at most `FORGET_BLOBS_MAX`.
        limit: u32,
    },
    /// Looks whether nobody has, asks for or pins these names: notes since when, or forgets those for which that holds
    /// since long ago, with their history. [`super::names`] says which. Since cluster version 5.
    ForgetNames {
        /// Those of which nobody did since before this log time.
        before: Timestamp,
        /// Model keys; at most `FORGET_NAMES_MAX`. What has no record is left out.
        names: Vec<String>,
    },
    /// Labels of a node are set and removed.
    SetLabels {
        /// Which node.
        node: NodeId,
        /// Those that it gives itself, which only it can change.
        own: bool,
        /// To be set.
        set: BTreeMap<String, String>,
        /// To be removed.
        unset: Vec<String>,
    },
    /// A node takes new copies, or does not.
    SetCordon {
        /// Which node.
        node: NodeId,
        /// From now on.
        cordon: Cordon,
    },
    /// How far a node is with its copy in a round. Only an event comes of it; the record stays as it is.
    NoteCopy {
        /// Whose copy.
        node: NodeId,
        /// Which model.
        name: ModelName,
        /// Which round.
        round: u64,
        /// How far.
        course: Box<CopyCourse>,
    },
    /// Long work shall be done. The same task again changes nothing. Since cluster version 5, as all that follow.
    OpenTask {
        /// Drawn by who opens it.
        id: TaskId,
        /// Which tool does it.
        tool: String,
        /// What the tool is given, as JSON; at most `TASK_ARGUMENTS_BYTES_MAX`.
        arguments_json: String,
        /// Whose it is.
        subject: String,
        /// At most `TASK_PRIORITY_MAX`; the highest first.
        priority: u8,
        /// It may be begun again after its node was lost.
        repeatable: bool,
        /// It waits until somebody approves it.
        needs_approval: bool,
        /// What it would do, line by line, for whoever approves it; at most `TASK_PLAN_BYTES_MAX`. Empty: not told.
        plan: String,
    },
    /// Somebody approves a task that waits for it, or does not.
    DecideTask {
        /// Which task.
        id: TaskId,
        /// It goes on; else it is cancelled.
        approved: bool,
        /// How often it had been begun when somebody was asked: where it waits again, that is another question. `None`:
        /// whichever it is.
        attempt: Option<u32>,
    },
    /// The leader gives a task to a node; the entry is fenced by its term. Begins an attempt.
    AssignTask {
        /// Which task.
        id: TaskId,
        /// To which node.
        node: NodeId,
    },
    /// A node works at these tasks still, and is so far. Those that are not its own in that attempt are left out.
    TellTasks {
        /// Who.
        node: NodeId,
        /// At most `TASKS_TOLD_MAX`.
        tasks: Vec<TaskTold>,
    },
    /// A node is through with a task.
    EndTask {
        /// Who.
        node: NodeId,
        /// Which task.
        id: TaskId,
        /// In which attempt.
        attempt: u32,
        /// How it ended.
        outcome: TaskOutcome,
    },
    /// A task shall end. Where a node works at it, or a lost one did, whoever has it ends it.
    CancelTask {
        /// Which task.
        id: TaskId,
    },
    /// A task that failed, or was cancelled after it was begun, is done again.
    RetryTask {
        /// Which task.
        id: TaskId,
        /// What it would do now, as in `OpenTask`.
        plan: String,
    },
    /// The leader adds a key to those that seal what clients carry; the entry is fenced by its term. Changes nothing
    /// while the newest key is young. Since cluster version 5.
    AddStateKey {
        /// Drawn by the leader.
        secret: SecretKey,
    },
}

/// The BLAKE3 of a file whose SHA-256 is its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundBlob {
    /// Its name.
    pub sha256: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// Its BLAKE3.
    pub root: Root,
}

/// The cluster version that keeps client sessions.
const SESSIONS_VERSION: u32 = 2;
/// The cluster version that keeps what a model can do.
pub const CAPABILITIES_VERSION: u32 = 4;
/// The cluster version that forgets names.
pub const NAMES_VERSION: u32 = 5;
/// The cluster version that keeps what a wish leaves free of disks.
const DISK_FREE_VERSION: u32 = 5;
/// The cluster version that asks for a pin when copies are to go against all other guards.
pub const UNLESS_PINNED_VERSION: u32 = 5;
/// The cluster version that is told when nobody said how many copies are wanted.
pub const UNSAID_VERSION: u32 = 5;
/// The cluster version that forgets a wish only in a round.
const FORGET_ROUND_VERSION: u32 = 5;
/// The cluster version that keeps tasks, and what requests with a key were answered.
pub const TASKS_VERSION: u32 = 5;
/// The cluster version that keeps keys for what clients carry.
pub const STATE_KEYS_VERSION: u32 = 5;

// === impl Entry ===

impl Entry {
    /// The cluster version that it needs, its session and its key included. Below it neither the log nor the state
    /// takes it.
    #[must_use]
    pub fn needed_version(&self) -> u32 {
        let session = if self.session.is_some() { SESSIONS_VERSION } else { 0 };
        let once = if self.once.is_some() { TASKS_VERSION } else { 0 };
        self.least_version.max(self.command.least_version()).max(session).max(once)
    }
}

// === impl Command ===

impl Command {
    /// Its name in one word, for people who look at a log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::InitCluster { .. } => "init_cluster",
            Self::AddMember { .. } => "add_member",
            Self::SetAddresses { .. } => "set_addresses",
            Self::SetDrained { .. } => "set_drained",
            Self::RemoveMember { .. } => "remove_member",
            Self::ForgetModels { .. } => "forget_models",
            Self::CreateToken { .. } => "create_token",
            Self::RevokeToken { .. } => "revoke_token",
            Self::ReportModels { .. } => "report_models",
            Self::SetSetting { .. } => "set_setting",
            Self::DeleteSetting { .. } => "delete_setting",
            Self::Txn(_) => "txn",
            Self::OpenSession { .. } => "open_session",
            Self::CloseSession { .. } => "close_session",
            Self::GrantLease { .. } => "grant_lease",
            Self::RenewLease { .. } => "renew_lease",
            Self::RevokeLease { .. } => "revoke_lease",
            Self::Expire => "expire",
            Self::SetQuota { .. } => "set_quota",
            Self::RaiseVersion { .. } => "raise_version",
            Self::Migrate { .. } => "migrate",
            Self::BindBlobs { .. } => "bind_blobs",
            Self::AskModel { .. } => "ask_model",
            Self::PlanPull { .. } => "plan_pull",
            Self::ResolveWish { .. } => "resolve_wish",
            Self::TellPull { .. } => "tell_pull",
            Self::ForgetWish { .. } => "forget_wish",
            Self::FixVersion { .. } => "fix_version",
            Self::NoteVersion { .. } => "note_version",
            Self::PinModel { .. } => "pin_model",
            Self::SetPhase { .. } => "set_phase",
            Self::DropCopies { .. } => "drop_copies",
            Self::NoteUse { .. } => "note_use",
            Self::ForgetBlobs { .. } => "forget_blobs",
            Self::ForgetNames { .. } => "forget_names",
            Self::SetLabels { .. } => "set_labels",
            Self::SetCordon { .. } => "set_cordon",
            Self::NoteCopy { .. } => "note_copy",
            Self::OpenTask { .. } => "open_task",
            Self::DecideTask { .. } => "decide_task",
            Self::AssignTask { .. } => "assign_task",
            Self::TellTasks { .. } => "tell_tasks",
            Self::EndTask { .. } => "end_task",
            Self::CancelTask { .. } => "cancel_task",
            Self::RetryTask { .. } => "retry_task",
            Self::AddStateKey { .. } => "add_state_key",
        }
    }

    /// The cluster version that it needs.
    #[must_use]
    pub fn least_version(&self) -> u32 {
        match self {
            Self::InitCluster { .. }
            | Self::AddMember { .. }
            | Self::SetAddresses { .. }
            | Self::SetDrained { .. }
            | Self::RemoveMember { .. }
            | Self::ForgetModels { .. }
            | Self::CreateToken { .. }
            | Self::RevokeToken { .. }
            | Self::SetSetting { .. }
            | Self::DeleteSetting { .. }
            // Every member said that it knows the command before it is asked for.
            | Self::RaiseVersion { .. } => 1,
            // An older member would drop what it does not know, and its state would differ.
            Self::ReportModels { present, removed, .. } => {
                let is_able = present.iter().any(|model| !model.capabilities.is_empty());
                if is_able || !removed.is_empty() { CAPABILITIES_VERSION } else { 1 }
            }
            Self::Txn(_)
            | Self::OpenSession { .. }
            | Self::CloseSession { .. }
            | Self::GrantLease { .. }
            | Self::RenewLease { .. }
            | Self::RevokeLease { .. }
            | Self::Expire
            | Self::SetQuota { .. } => 2,
            Self::Migrate { .. } => 3,
            Self::AskModel { want, .. } if want.disk_free_bytes_min > 0 => DISK_FREE_VERSION,
            Self::AskModel { unsaid: true, .. } => UNSAID_VERSION,
            Self::AskModel { away, .. } if !away.is_empty() => UNSAID_VERSION,
            Self::DropCopies { unless_pinned: true, .. } => UNLESS_PINNED_VERSION,
            Self::ForgetWish { round: Some(_), .. } => FORGET_ROUND_VERSION,
            Self::BindBlobs { .. }
            | Self::AskModel { .. }
            | Self::PlanPull { .. }
            | Self::ResolveWish { .. }
            | Self::ForgetWish { .. }
            | Self::FixVersion { .. }
            | Self::NoteVersion { .. }
            | Self::PinModel { .. }
            | Self::SetPhase { .. }
            | Self::DropCopies { .. }
            | Self::NoteUse { .. }
            | Self::ForgetBlobs { .. }
            | Self::SetLabels { .. }
            | Self::SetCordon { .. }
            | Self::NoteCopy { .. } => 4,
            Self::TellPull { code, .. } => told_since(*code),
            Self::ForgetNames { .. } => NAMES_VERSION,
            Self::EndTask { outcome: TaskOutcome::Failed { code, .. }, .. } => told_since(*code).max(TASKS_VERSION),
            Self::OpenTask { .. }
            | Self::DecideTask { .. }
            | Self::AssignTask { .. }
            | Self::TellTasks { .. }
            | Self::EndTask { .. }
            | Self::CancelTask { .. }
            | Self::RetryTask { .. } => TASKS_VERSION,
            Self::AddStateKey { .. } => STATE_KEYS_VERSION,
        }
    }
}

/// What a joiner says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMember {
    /// For people; a taken name gets `-2`, `-3`, …
    pub name: String,
    /// Its key, proved by TLS.
    pub peer_id: PeerId,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// As in [`super::Member`].
    pub peer_addresses: Vec<String>,
    /// As in [`super::Member`].
    pub p2p_addresses: Vec<String>,
    /// As in [`super::Member`].
    pub api_addresses: Vec<String>,
}

/// What a command answers. The index of the entry is the revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done,
    /// Done, and this is the member.
    Member {
        /// Its id.
        node: NodeId,
        /// Its name after conflicts were resolved.
        name: String,
        /// It was a member before.
        already: bool,
    },
    /// Done in part; send the same command again.
    More,
    /// What a transaction did.
    Txn {
        /// Whether its conditions held.
        held: bool,
        /// One for each operation of the list that was done.
        effects: Vec<Effect>,
    },
    /// A client session began.
    Session {
        /// Its id.
        session: u64,
    },
    /// A lease began or was renewed.
    Lease {
        /// Its id.
        lease: u64,
        /// Its length, milliseconds.
        ttl_ms: u64,
    },
    /// A migration after this step.
    Migration(Box<Migration>),
    /// A model is asked for.
    Wish {
        /// The round that does it: a new one, or one that runs.
        round: u64,
    },
    /// A name stands for a version, as a request with a key asked: who repeats it hears of the same version.
    Pinned {
        /// Its digest.
        digest: Digest,
    },
    /// Refused; nothing was changed.
    Refused(Refusal),
}
