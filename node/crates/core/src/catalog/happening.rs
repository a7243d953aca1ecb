//! What happened in the cluster, told from what committed entries changed.
//!
//! Always holds: the same entry tells the same on every node, for nothing but its command and its mutations is looked
//! at; what was refused, or changed nothing, tells nothing. How far a copy is changes nothing either: its wish is
//! written as it was, so that it is told. No secret is told: of tokens their public half, of settings their names.
//! Values have their own watch, and only what ended by itself is counted here.

use std::collections::BTreeSet;

use ollamax_types::{ModelName, NodeId, Timestamp, TokenId};

use super::command::{Command, CopyCourse, Entry};
use super::record::{Cordon, Key, Member, MigrationStatus, Model, Record, Replicas, Task, TaskState, Wish};
use super::view::Mutation;

/// Something that happened in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEvent {
    /// Index of the entry that did it.
    pub revision: u64,
    /// Log time; of an entry without one that of the last before it, 0 before the first.
    pub at: Timestamp,
    /// What kind of thing it is.
    pub kind: EventKind,
    /// What it happened to: `node/3`, a model, a token's id, a setting's name.
    pub subject: String,
    /// The rest, for people.
    pub text: String,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// Kinds of what may happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for it. Never changed, and never used for anything else.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $word,)* } }

            /// Finds a kind by its word.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
            }
        }
    };
}

kinds! {
    /// The cluster was made.
    ClusterMade = "cluster_made",
    /// The cluster version went up.
    VersionRaised = "version_raised",
    /// A node became a member.
    MemberJoined = "member_joined",
    /// A member was removed, or left.
    MemberLeft = "member_left",
    /// A member takes no new requests.
    MemberDrained = "member_drained",
    /// A member takes requests again.
    MemberUndrained = "member_undrained",
    /// A member is reached at other addresses.
    MemberMoved = "member_moved",
    /// Others vote, or follow without a vote.
    VotersChanged = "voters_changed",
    /// A term began under a leader that a majority has voted for.
    LeaderElected = "leader_elected",
    /// A node has a model, or another version of it.
    ModelAppeared = "model_appeared",
    /// A node does not have a model any more.
    ModelVanished = "model_vanished",
    /// A configuration key was set.
    SettingChanged = "setting_changed",
    /// A configuration key was removed.
    SettingDeleted = "setting_deleted",
    /// A join token was made.
    TokenCreated = "token_created",
    /// Somebody joined with a token.
    TokenRedeemed = "token_redeemed",
    /// A join token was withdrawn.
    TokenRevoked = "token_revoked",
    /// Values under a prefix may take more or less.
    QuotaSet = "quota_set",
    /// Leases and client sessions have passed their time.
    Expired = "expired",
    /// A migration has come to its end.
    MigrationApplied = "migration_applied",
    /// A migration was taken back.
    MigrationReverted = "migration_reverted",
    /// A migration met records that contradict each other.
    MigrationFailed = "migration_failed",
    /// Somebody asked for a model on some nodes, and a round began.
    ModelAsked = "model_asked",
    /// The leader has said which nodes fetch a model.
    PullPlanned = "pull_planned",
    /// A node could not do its part for a model.
    PullFailed = "pull_failed",
    /// A model is not asked for any more.
    WishForgotten = "wish_forgotten",
    /// A name has come to another version.
    VersionNoted = "version_noted",
    /// A name stands for one version.
    ModelPinned = "model_pinned",
    /// A name stands for its newest version again.
    ModelUnpinned = "model_unpinned",
    /// A model is in another phase of its life.
    PhaseSet = "phase_set",
    /// The record of a name that nobody has any more is gone.
    NameForgotten = "name_forgotten",
    /// Copies of a model shall go.
    CopiesDropped = "copies_dropped",
    /// A node has other labels.
    LabelsSet = "labels_set",
    /// A node takes new copies, or does not.
    CordonSet = "cordon_set",
    /// A large copy is a quarter further.
    CopyProgressed = "copy_progressed",
    /// A copy is all there.
    CopyCame = "copy_came",
    /// Somebody asked for long work, or for it once more.
    TaskOpened = "task_opened",
    /// A node works at a task.
    TaskBegun = "task_begun",
    /// A task is over.
    TaskEnded = "task_ended",
}

/// Kind, subject, text.
type Told = (EventKind, String, String);

/// What a committed command did, from its entry and its mutations, in order.
#[must_use]
pub fn events_of(index: u64, entry: &Entry, mutations: &[Mutation]) -> Vec<ClusterEvent> {
    let event = |(kind, subject, text)| ClusterEvent { revision: index, at: entry.log_time, kind, subject, text };
    told(entry, mutations).into_iter().map(event).collect()
}

/// The first entry of a leader was committed.
#[must_use]
pub fn leader_elected(index: u64, at: Timestamp, term: u64) -> ClusterEvent {
    let (subject, text) = (format!("term/{term}"), "a majority follows a new leader".to_owned());
    ClusterEvent { revision: index, at, kind: EventKind::LeaderElected, subject, text }
}

/// A membership of the Raft group was committed: who votes, more than one set while it changes, and who only follows.
#[must_use]
pub fn voters_changed(index: u64, at: Timestamp, voters: &[BTreeSet<NodeId>], learners: &[NodeId]) -> ClusterEvent {
    let sets: Vec<String> = voters.iter().map(|set| listed(set.iter())).collect();
    let mut text = format!("voting: {}", sets.join(", changing to "));
    if !learners.is_empty() {
        text += &format!("; following: {}", listed(learners.iter()));
    }
    ClusterEvent { revision: index, at, kind: EventKind::VotersChanged, subject: "voters".to_owned(), text }
}

fn told(entry: &Entry, mutations: &[Mutation]) -> Vec<Told> {
    match &entry.command {
        Command::InitCluster { name, .. } => founded(name, mutations),
        Command::AddMember { token, .. } => admitted(token, mutations),
        Command::SetAddresses { .. } => members(mutations).map(moved).collect(),
        Command::SetDrained { drained: true, .. } => {
            about(mutations, EventKind::MemberDrained, "takes no new requests")
        }
        Command::SetDrained { drained: false, .. } => {
            about(mutations, EventKind::MemberUndrained, "takes requests again")
        }
        Command::RemoveMember { .. } => about(mutations, EventKind::MemberLeft, "is no member any more"),
        Command::ReportModels { .. } | Command::ForgetModels { .. } => mutations.iter().filter_map(model).collect(),
        Command::CreateToken { .. } | Command::RevokeToken { .. } => mutations.iter().filter_map(token).collect(),
        Command::SetSetting { .. } | Command::DeleteSetting { .. } => mutations.iter().filter_map(setting).collect(),
        Command::SetQuota { .. } => mutations.iter().filter_map(quota).collect(),
        Command::RaiseVersion { .. } => mutations.iter().filter_map(version).collect(),
        Command::Expire => expired(mutations).into_iter().chain(tasks(mutations).filter_map(ended)).collect(),
        Command::Migrate { .. } => mutations.iter().filter_map(migration).collect(),
        Command::AskModel { .. } => wishes(mutations).map(asked).collect(),
        Command::PlanPull { .. } => wishes(mutations).filter_map(planned).collect(),
        Command::TellPull { node, .. } => wishes(mutations).filter_map(|wish| failed(wish, *node)).collect(),
        Command::ForgetWish { .. } => mutations.iter().filter_map(forgotten).collect(),
        Command::FixVersion { .. } => wishes(mutations).map(asked).chain(mutations.iter().filter_map(noted)).collect(),
        Command::NoteVersion { .. } => mutations.iter().filter_map(noted).collect(),
        Command::PinModel { .. } => models(mutations).map(pinned).collect(),
        Command::SetPhase { .. } => models(mutations).map(phased).collect(),
        Command::DropCopies { .. } => {
            let dropped = models(mutations).filter_map(|model| dropped(model, entry.log_time));
            dropped.chain(mutations.iter().filter_map(forgotten)).collect()
        }
        Command::ForgetNames { .. } => unknown_again(mutations),
        Command::SetLabels { own, .. } => members(mutations).map(|member| labelled(member, *own)).collect(),
        Command::SetCordon { .. } => members(mutations).map(cordoned).collect(),
        Command::NoteCopy { node, course, .. } => wishes(mutations).map(|wish| went(wish, *node, course)).collect(),
        Command::OpenTask { .. } | Command::RetryTask { .. } => tasks(mutations).map(opened).collect(),
        Command::AssignTask { .. } => tasks(mutations).filter_map(begun).collect(),
        Command::DecideTask { .. } | Command::EndTask { .. } | Command::CancelTask { .. } => {
            tasks(mutations).filter_map(ended).collect()
        }
        Command::TellTasks { .. }
        | Command::AddStateKey { .. }
        | Command::NoteUse { .. }
        | Command::ForgetBlobs { .. }
        | Command::BindBlobs { .. }
        | Command::ResolveWish { .. }
        | Command::Txn(_)
        | Command::OpenSession { .. }
        | Command::CloseSession { .. }
        | Command::GrantLease { .. }
        | Command::RenewLease { .. }
        | Command::RevokeLease { .. } => Vec::new(),
    }
}

fn founded(name: &str, mutations: &[Mutation]) -> Vec<Told> {
    let mut told: Vec<Told> = members(mutations).map(joined).collect();
    if !told.is_empty() {
        told.insert(0, (EventKind::ClusterMade, "cluster".to_owned(), format!("cluster {name} was made")));
    }
    told
}

/// A new member, and who came again with other addresses.
fn admitted(token: &TokenId, mutations: &[Mutation]) -> Vec<Told> {
    let is_new = mutations.iter().any(|mutation| matches!(mutation, Mutation::Put(Key::MemberByPeer(_), _)));
    let Some(member) = members(mutations).next() else { return Vec::new() };
    if !is_new {
        return vec![moved(member)];
    }
    vec![joined(member), (EventKind::TokenRedeemed, token.0.clone(), format!("by {}", node(member.id)))]
}

/// What is written of members.
fn members(mutations: &[Mutation]) -> impl Iterator<Item = &Member> {
    mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put(Key::Member(_), Record::Member(member)) => Some(member),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    })
}

fn about(mutations: &[Mutation], kind: EventKind, text: &str) -> Vec<Told> {
    members(mutations).map(|member| (kind, node(member.id), format!("{} {text}", member.name))).collect()
}

fn joined(member: &Member) -> Told {
    (EventKind::MemberJoined, node(member.id), format!("{} joined as {}", member.name, member.role))
}

fn moved(member: &Member) -> Told {
    let addresses = &member.peer_addresses;
    let place = addresses.first().map_or("no address", String::as_str);
    let more = match addresses.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    (EventKind::MemberMoved, node(member.id), format!("{} is reached at {place}{more}", member.name))
}

/// Each copy is written twice; by node is enough.
fn model(mutation: &Mutation) -> Option<Told> {
    match mutation {
        Mutation::Put(Key::NodeModel(holder, key), Record::Location(location)) => {
            let (digest, bytes) = (location.model.digest.short(), location.model.size_bytes);
            let text = format!("at {}, digest {digest}, {bytes} bytes", node(*holder));
            Some((EventKind::ModelAppeared, model_name(key), text))
        }
        Mutation::Delete(Key::NodeModel(holder, key)) => {
            Some((EventKind::ModelVanished, model_name(key), format!("from {}", node(*holder))))
        }
        Mutation::Put(..) | Mutation::Delete(_) => None,
    }
}

/// The name as people write it.
fn model_name(key: &str) -> String {
    key.parse::<ModelName>().map_or_else(|_| key.to_owned(), |name| name.to_string())
}

/// A token that was made or withdrawn; spent ones that make room are nobody's concern.
fn token(mutation: &Mutation) -> Option<Told> {
    let Mutation::Put(Key::Token(id), Record::Token(token)) = mutation else { return None };
    if token.revoked {
        return Some((EventKind::TokenRevoked, id.0.clone(), "nobody can join with it any more".to_owned()));
    }
    let joins = if token.uses_left == 1 { "1 join".to_owned() } else { format!("{} joins", token.uses_left) };
    Some((EventKind::TokenCreated, id.0.clone(), format!("for {joins} as {}", token.role)))
}

fn setting(mutation: &Mutation) -> Option<Told> {
    match mutation {
        Mutation::Put(Key::Setting(key), _) => Some((EventKind::SettingChanged, key.clone(), "was set".to_owned())),
        Mutation::Delete(Key::Setting(key)) => Some((EventKind::SettingDeleted, key.clone(), "was removed".to_owned())),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    }
}

fn quota(mutation: &Mutation) -> Option<Told> {
    let Mutation::Put(Key::Usage(_, prefix), Record::Usage(usage)) = mutation else { return None };
    Some((EventKind::QuotaSet, prefix.clone(), format!("may take {} bytes", usage.bytes_max)))
}

fn version(mutation: &Mutation) -> Option<Told> {
    let Mutation::Put(Key::Cluster, Record::Cluster(cluster)) = mutation else { return None };
    Some((EventKind::VersionRaised, "cluster".to_owned(), format!("runs version {}", cluster.version)))
}

/// Only what has ended is told; steps on the way are not.
fn migration(mutation: &Mutation) -> Option<Told> {
    let Mutation::Put(key, Record::Migration(row)) = mutation else { return None };
    let counted = || format!("{}: {} of {} records changed", row.name, row.changed, row.looked_at);
    let (kind, text) = match row.status {
        MigrationStatus::Applying | MigrationStatus::Reverting => return None,
        MigrationStatus::Applied => (EventKind::MigrationApplied, counted()),
        MigrationStatus::Reverted => (EventKind::MigrationReverted, counted()),
        MigrationStatus::Failed => (EventKind::MigrationFailed, format!("{}: {}", row.name, row.error)),
    };
    Some((kind, key.to_string(), text))
}

/// What is written of wishes.
fn wishes(mutations: &[Mutation]) -> impl Iterator<Item = &Wish> {
    mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put(Key::Wish(_), Record::Wish(wish)) => Some(&**wish),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    })
}

fn asked(wish: &Wish) -> Told {
    let place = match &wish.replicas {
        Replicas::Count(1) => "on 1 node".to_owned(),
        Replicas::Count(count) => format!("on {count} nodes"),
        Replicas::All => "on all nodes".to_owned(),
        Replicas::Nodes(nodes) => format!("on {}", those(nodes)),
    };
    (EventKind::ModelAsked, wish.name.to_string(), format!("{place}, by {}", wish.asked_by))
}

fn planned(wish: &Wish) -> Option<Told> {
    let plan = wish.plan.as_ref()?;
    let text = format!("{} fetches it, for {}", node(plan.ingester), those(&plan.targets));
    Some((EventKind::PullPlanned, wish.name.to_string(), text))
}

fn failed(wish: &Wish, teller: NodeId) -> Option<Told> {
    let failure = wish.failures.get(&teller)?;
    let text = format!("at {}, {}: {}", node(teller), failure.code, failure.text);
    Some((EventKind::PullFailed, wish.name.to_string(), text))
}

/// How far a copy is. Its wish is written as it was.
fn went(wish: &Wish, holder: NodeId, course: &CopyCourse) -> Told {
    let CopyCourse { verified_bytes, size_bytes, took_ms, bytes_per_second, .. } = course;
    let (kind, far) = if course.is_whole {
        (EventKind::CopyCame, format!("{size_bytes} bytes in {}.{:03} s", took_ms / 1000, took_ms % 1000))
    } else {
        (EventKind::CopyProgressed, format!("{verified_bytes} of {size_bytes} bytes"))
    };
    let members = course.members.iter().map(|(member, bytes)| (node(*member), *bytes));
    let ends = [("origin", course.origin_bytes), ("here", course.here_bytes), ("others", course.other_bytes)];
    let all = ends.into_iter().map(|(word, bytes)| (word.to_owned(), bytes)).chain(members);
    let from: Vec<String> =
        all.filter(|(_, bytes)| *bytes > 0).map(|(source, bytes)| format!("{source} {bytes}")).collect();
    let from = if from.is_empty() { "nowhere yet".to_owned() } else { from.join(", ") };
    // To a copy whose files were on the node already nothing came.
    let rate = match *bytes_per_second {
        0 if course.is_whole => String::new(),
        rate => format!(", {rate} bytes a second"),
    };
    let text = format!("at {}: {far}{rate}; from {from}", node(holder));
    (kind, wish.name.to_string(), text)
}

fn forgotten(mutation: &Mutation) -> Option<Told> {
    let Mutation::Delete(Key::Wish(key)) = mutation else { return None };
    Some((EventKind::WishForgotten, model_name(key), "is not asked for any more".to_owned()))
}

/// What is written of names.
fn models(mutations: &[Mutation]) -> impl Iterator<Item = &Model> {
    mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put(Key::Model(_), Record::Model(model)) => Some(&**model),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    })
}

fn noted(mutation: &Mutation) -> Option<Told> {
    let Mutation::Put(Key::Version(key, _), Record::Version(version)) = mutation else { return None };
    let text = format!("version {}, digest {}, by {}", version.number, version.digest.short(), version.by);
    Some((EventKind::VersionNoted, model_name(key), text))
}

fn pinned(model: &Model) -> Told {
    let name = model.name.to_string();
    match &model.pin {
        Some(pin) => (EventKind::ModelPinned, name, format!("at {}, by {}", pin.digest.short(), pin.by)),
        None => (EventKind::ModelUnpinned, name, "stands for its newest version".to_owned()),
    }
}

fn phased(model: &Model) -> Told {
    let by = model.phase.since().map(|since| format!(", by {}", since.by)).unwrap_or_default();
    (EventKind::PhaseSet, model.name.to_string(), format!("is {}{by}", model.phase.as_str()))
}

/// Copies that were asked to go just now; others may wait since earlier.
fn dropped(model: &Model, at: Timestamp) -> Option<Told> {
    let new = model.drops.iter().filter(|(_, drop)| drop.at == at);
    let (holders, by): (Vec<NodeId>, Vec<&String>) = new.map(|(node, drop)| (*node, &drop.by)).unzip();
    let by = by.first()?;
    Some((EventKind::CopiesDropped, model.name.to_string(), format!("from {}, by {by}", those(&holders))))
}

/// Names without a record, each with how many versions its history had.
fn unknown_again(mutations: &[Mutation]) -> Vec<Told> {
    let deleted =
        || mutations.iter().filter_map(|mutation| if let Mutation::Delete(key) = mutation { Some(key) } else { None });
    let versions_of = |name: &String| deleted().filter(|key| matches!(key, Key::Version(of, _) if of == name)).count();
    let names = deleted().filter_map(|key| if let Key::Model(name) = key { Some(name) } else { None });
    let told = names.map(|name| {
        let text = match versions_of(name) {
            1 => "nobody had it for long; its history had 1 version".to_owned(),
            versions => format!("nobody had it for long; its history had {versions} versions"),
        };
        (EventKind::NameForgotten, model_name(name), text)
    });
    told.collect()
}

fn labelled(member: &Member, own: bool) -> Told {
    let labels = if own { &member.own_labels } else { &member.labels };
    let listed: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (whose, text) = (if own { "its own" } else { "its" }, listed.join(" "));
    let text = if text.is_empty() { "none".to_owned() } else { text };
    (EventKind::LabelsSet, node(member.id), format!("{}: {whose} labels are {text}", member.name))
}

fn cordoned(member: &Member) -> Told {
    let text = match member.cordon {
        Cordon::Open => "takes new copies",
        Cordon::Cordoned => "takes no new copies",
        Cordon::Emptying => "takes no new copies, and what it has goes elsewhere",
    };
    (EventKind::CordonSet, node(member.id), format!("{} {text}", member.name))
}

/// What is written of tasks.
fn tasks(mutations: &[Mutation]) -> impl Iterator<Item = &Task> {
    mutations.iter().filter_map(|mutation| match mutation {
        Mutation::Put(Key::Task(_), Record::Task(task)) => Some(&**task),
        Mutation::Put(..) | Mutation::Delete(_) => None,
    })
}

fn opened(task: &Task) -> Told {
    let waits = if task.state == TaskState::Waiting { "; it waits for an approval" } else { "" };
    (EventKind::TaskOpened, task.id.to_string(), format!("{}, by {}{waits}", task.tool, task.asked_by))
}

fn begun(task: &Task) -> Option<Told> {
    let TaskState::Working { node: holder } = &task.state else { return None };
    let text = format!("{} at {}, attempt {}", task.tool, node(*holder), task.attempt);
    Some((EventKind::TaskBegun, task.id.to_string(), text))
}

/// What a tool was given and answered is its callers' concern.
fn ended(task: &Task) -> Option<Told> {
    let word = task.state.as_str();
    let text = match &task.state {
        TaskState::Waiting | TaskState::Queued | TaskState::Working { .. } => return None,
        TaskState::Completed { .. } | TaskState::Cancelled => format!("{}: {word}", task.tool),
        TaskState::Failed { code, .. } => format!("{}: {word}, {code}", task.tool),
    };
    Some((EventKind::TaskEnded, task.id.to_string(), text))
}

fn those(nodes: &[NodeId]) -> String {
    nodes.iter().map(|id| node(*id)).collect::<Vec<_>>().join(" ")
}

/// How many ended; those that were renewed only have another deadline.
fn expired(mutations: &[Mutation]) -> Option<Told> {
    let (mut leases, mut sessions) = (0, 0);
    for mutation in mutations {
        match mutation {
            Mutation::Delete(Key::Lease(_)) => leases += 1,
            Mutation::Delete(Key::Session(_)) => sessions += 1,
            Mutation::Put(..) | Mutation::Delete(_) => {}
        }
    }
    let text = format!("leases: {leases}, sessions: {sessions}");
    (leases + sessions > 0).then(|| (EventKind::Expired, "cluster".to_owned(), text))
}

fn node(id: NodeId) -> String {
    format!("node/{id}")
}

fn listed<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> String {
    nodes.map(NodeId::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
