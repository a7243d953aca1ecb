//! `apply`: the one function through which the state changes.
//!
//! Always holds: the same state and entry give the same mutations and answer, on every node and in every release that
//! knows the command; a refusal changes nothing, save that a client session remembers it; no command reads more than
//! `COMMAND_KEYS_MAX` keys. What ends by itself goes by the entry's log time. A command that would read more, or meets
//! a record that cannot be, is a [`Fault`].

mod blobs;
mod draft;
mod drops;
mod expire;
mod leases;
mod limit;
mod members;
mod migrations;
mod models;
mod names;
mod once;
mod places;
mod reader;
mod registry;
mod sessions;
mod settings;
mod state_keys;
mod tasks;
mod tokens;
mod values;
mod version;
mod wishes;

pub use values::{bytes_max_of, prefixes, quotas, value_prefix};

use ollamax_types::Timestamp;

use super::command::{Answer, Command, Entry, Refusal};
use super::record::{Cluster, Key, Record};
use super::view::{Fault, Mutation, View};
use reader::Reader;

/// The highest cluster version that this release applies. 1: members, models, tokens, settings. 2: values,
/// transactions, leases and client sessions. 3: migrations; leases and sessions that end take their deadline along. 4:
/// wishes for models, the BLAKE3 of their files, what models can do; versions, phases, removals and placement of
/// models. 5: names that nobody has any more are forgotten; wishes say what stays free of disks; a pinned name that
/// gets the version of another stands for its pinned one; where a wish names nodes, only copies there count for it;
/// copies go unless their name is pinned; a round for more copies goes on with those that are on their way; whoever
/// says nothing of places leaves them as they are; tasks, and requests with a key have effect once; keys for what
/// clients carry; a wish says whether others asked for it before.
pub const CLUSTER_VERSION: u32 = 5;

/// The cluster version from which on leases and sessions note where their deadline stands.
const NOTED_DEADLINES_VERSION: u32 = 3;
/// The cluster version from which on a pin says what a name stands for that gets the version of another.
const PINS_VERSION: u32 = 5;
/// The cluster version from which on copies count for a wish that names nodes only there.
pub const NAMED_VERSION: u32 = 5;
/// The cluster version from which on a round for more copies of a version keeps the targets that are at it.
const COMING_VERSION: u32 = 5;
/// The cluster version from which on a wish says whether others asked for it before.
const ASKERS_VERSION: u32 = 5;

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// To be written in one batch, in this order.
    pub mutations: Vec<Mutation>,
    /// For the proposer.
    pub answer: Answer,
    /// Index and term of the entry that had this effect, when it was an earlier one of the same client session, or with
    /// the same key.
    pub before: Option<(u64, u64)>,
}

/// Why a step ends early: refused (an answer) or faulty (halts the node).
enum Stop {
    Refused(Refusal),
    Fault(Fault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What every command sees beside its own fields.
struct Scene<'a> {
    view: &'a dyn View,
    entry: &'a Entry,
    index: u64,
    cluster: Cluster,
}

type Step = Result<Applied, Stop>;

// === impl Scene ===

impl Scene<'_> {
    /// What a lease or session notes of its deadline.
    fn noted(&self, due_at: Timestamp) -> Option<Timestamp> {
        (self.cluster.version >= NOTED_DEADLINES_VERSION).then_some(due_at)
    }

    /// Whether pins count here where they did not before.
    const fn minds_pins(&self) -> bool {
        self.cluster.version >= PINS_VERSION
    }

    /// Whether a round for more copies of a version goes on with those that are on their way.
    const fn minds_coming(&self) -> bool {
        self.cluster.version >= COMING_VERSION
    }

    /// Whether a wish says that others asked for it before.
    const fn minds_askers(&self) -> bool {
        self.cluster.version >= ASKERS_VERSION
    }

    /// Whether nodes that a wish names are told from the others.
    const fn minds_named(&self) -> bool {
        self.cluster.version >= NAMED_VERSION
    }
}

impl Applied {
    fn new(mutations: Vec<Mutation>, answer: Answer) -> Self {
        Self { mutations, answer, before: None }
    }

    fn done(mutations: Vec<Mutation>) -> Self {
        Self::new(mutations, Answer::Done)
    }
}

fn put(key: Key, record: Record) -> Mutation {
    Mutation::Put(key, record)
}

fn invalid(text: impl Into<String>) -> Stop {
    Stop::Refused(Refusal::Invalid(text.into()))
}

/// Works out what one committed entry changes and answers.
///
/// # Errors
/// When the state cannot be read or trusted; the node must halt then.
pub fn apply(view: &dyn View, index: u64, term: u64, entry: &Entry) -> Result<Applied, Fault> {
    let beside = if entry.once.is_some() { once::KEYS } else { 0 };
    let reader = Reader::new(view, beside);
    match step(&reader, index, term, entry) {
        Ok(applied) => Ok(applied),
        Err(Stop::Refused(refusal)) => Ok(Applied::new(Vec::new(), Answer::Refused(refusal))),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

fn step(view: &dyn View, index: u64, term: u64, entry: &Entry) -> Step {
    let cluster = super::read::cluster(view)?;
    check_envelope(entry, term, cluster.as_ref().map_or(CLUSTER_VERSION, |cluster| cluster.version))?;
    let Some(cluster) = cluster else {
        let Command::InitCluster { cluster, name, public_key, first, version } = &entry.command else {
            return Err(Refusal::NotInitialised.into());
        };
        return members::init(entry, (*cluster, name, *public_key, *version), first);
    };
    let scene = Scene { view, entry, index, cluster };
    match entry.session {
        Some(of) => sessions::once(&scene, of, term),
        None => once::keyed(&scene, term),
    }
}

fn execute(scene: &Scene<'_>) -> Step {
    match &scene.entry.command {
        Command::InitCluster { .. } => Err(Refusal::AlreadyInitialised.into()),
        Command::AddMember { token, secret_sha256, role, member } => {
            members::add(scene, &members::Ticket { token, secret_sha256, role: *role }, member)
        }
        Command::SetAddresses { node, incarnation, peer_addresses, p2p_addresses, api_addresses } => {
            let addresses = members::Addresses { peer: peer_addresses, p2p: p2p_addresses, api: api_addresses };
            members::set_addresses(scene, *node, *incarnation, &addresses)
        }
        Command::SetDrained { node, drained } => members::set_drained(scene, *node, *drained),
        Command::RemoveMember { node } => members::remove(scene, *node),
        Command::ForgetModels { node, limit } => models::forget(scene, *node, *limit),
        Command::CreateToken { id, secret_sha256, role, uses, ttl_ms } => {
            let wish = tokens::Wish { id, secret_sha256, role: *role, uses: *uses, ttl_ms: *ttl_ms };
            tokens::create(scene, &wish)
        }
        Command::RevokeToken { id } => tokens::revoke(scene, id),
        Command::ReportModels { node, present, absent, removed } => {
            models::report(scene, *node, models::Told { present, absent, removed })
        }
        Command::SetSetting { key, value } => settings::set(scene, key, value),
        Command::DeleteSetting { key } => settings::delete(scene, key),
        Command::Txn(txn) => values::txn(scene, txn),
        Command::OpenSession { ttl_ms, window } => sessions::open(scene, *ttl_ms, *window),
        Command::CloseSession { session } => sessions::close(scene, *session),
        Command::GrantLease { ttl_ms } => leases::grant(scene, *ttl_ms),
        Command::RenewLease { lease } => leases::renew(scene, *lease),
        Command::RevokeLease { lease } => leases::revoke(scene, *lease),
        Command::Expire => expire::expire(scene),
        Command::SetQuota { prefix, bytes_max } => values::set_quota(scene, prefix, *bytes_max),
        Command::RaiseVersion { version } => version::raise(scene, *version),
        Command::Migrate { number, down, force } => {
            migrations::migrate(scene, migrations::Wish { number: *number, down: *down, force: *force })
        }
        Command::BindBlobs { node, blobs } => blobs::bind(scene, *node, blobs),
        Command::AskModel { name, replicas, insecure, want, declared, unsaid, away } => {
            let (insecure, declared, unsaid) = (*insecure, *declared, *unsaid);
            wishes::ask(scene, wishes::Asked { name, replicas, insecure, want, declared, unsaid, away })
        }
        Command::PlanPull { name, round, ingester, targets, kind } => {
            let planned = wishes::Planned { ingester: *ingester, targets, kind: *kind };
            wishes::plan(scene, wishes::Round { name, number: *round }, planned)
        }
        Command::ResolveWish { node, name, round, digest, size_bytes } => {
            wishes::resolve(scene, *node, wishes::Round { name, number: *round }, *digest, *size_bytes)
        }
        Command::TellPull { node, name, round, code, text } => {
            wishes::tell(scene, *node, wishes::Round { name, number: *round }, *code, text)
        }
        Command::ForgetWish { name, round } => wishes::forget(scene, name, *round),
        Command::ForgetBlobs { before, after, limit } => blobs::forget(scene, *before, *after, *limit),
        Command::ForgetNames { before, names } => names::forget(scene, *before, names),
        Command::SetLabels { node, own, set, unset } => places::set_labels(scene, *node, *own, set, unset),
        Command::SetCordon { node, cordon } => places::set_cordon(scene, *node, *cordon),
        Command::NoteCopy { node, name, round, course } => {
            wishes::note_copy(scene, *node, wishes::Round { name, number: *round }, course)
        }
        Command::FixVersion { name, digest, size_bytes, replicas, how } => {
            let fixed = registry::Fixed { name, digest: *digest, size_bytes: *size_bytes, how };
            registry::fix(scene, fixed, replicas.as_ref())
        }
        Command::NoteVersion { name, digest, size_bytes, how } => {
            registry::note(scene, registry::Fixed { name, digest: *digest, size_bytes: *size_bytes, how })
        }
        Command::PinModel { name, digest } => registry::pin(scene, name, *digest),
        Command::SetPhase { name, phase, note } => registry::set_phase(scene, name, *phase, note),
        Command::NoteUse { node, day, names } => registry::note_use(scene, *node, *day, names),
        Command::DropCopies { name, nodes, forget, force, unless_pinned } => {
            let (forget, force, unless_pinned) = (*forget, *force, *unless_pinned);
            drops::drop_copies(scene, drops::Order { name, nodes, forget, force, unless_pinned })
        }
        Command::OpenTask { .. }
        | Command::DecideTask { .. }
        | Command::AssignTask { .. }
        | Command::TellTasks { .. }
        | Command::EndTask { .. }
        | Command::CancelTask { .. }
        | Command::RetryTask { .. } => tasks::step(scene),
        Command::AddStateKey { secret } => state_keys::add(scene, *secret),
    }
}

fn check_envelope(entry: &Entry, term: u64, version: u32) -> Result<(), Stop> {
    let needed = entry.needed_version();
    if needed > version {
        return Err(Refusal::VersionTooLow { needed, actual: version }.into());
    }
    if let Some(expected) = entry.fence_term.filter(|expected| *expected != term) {
        return Err(Refusal::Fenced { expected, actual: term }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
