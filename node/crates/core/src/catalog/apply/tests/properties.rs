//! `apply` over random logs: the same state in any batching, ids used once, and the invariants after every entry.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use ollamax_types::{ErrorCode, Root, SecretKey, TaskId};

use super::*;
use crate::catalog::OnceKey;
use crate::catalog::command::BoundBlob;
use crate::catalog::record::{
    Cordon, Counts, Due, Failure, How, MigrationStatus, Model, PhaseWord, PlanKind, Replicas, Task, TaskOutcome,
    TaskProgress, TaskState, TaskTold, Version, Want,
};
use crate::catalog::txn::{Condition, Op, Operand, Relation, Txn};

const NAMES: [&str; 4] = ["a", "B", "b", "c:tag"];

fn any_member() -> impl Strategy<Value = NewMember> {
    (0..3_usize, 1..6_u8, 1..3_u8).prop_map(|(name, key, directory)| newcomer(["n1", "n2", "N1"][name], key, directory))
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![4 => Just(Role::Voter), 2 => Just(Role::Learner), 1 => Just(Role::Gateway)]
}

fn any_command() -> impl Strategy<Value = Command> {
    let node = || (1..8_u64).prop_map(NodeId);
    let id = || (0..3_u8).prop_map(|id| format!("t{id}"));
    let key = || (0..3_u8).prop_map(|key| format!("k{key}"));
    prop_oneof![
        1 => Just(init()),
        3 => (id(), any_role(), 0..4_u32, 1..2_000_u64)
            .prop_map(|(id, role, uses, ttl)| token_with(&id, role, uses, ttl)),
        6 => (id(), any_role(), any_member()).prop_map(|(id, role, member)| join_as(&id, role, member)),
        1 => id().prop_map(|id| Command::RevokeToken { id: TokenId(id) }),
        1 => (node(), any::<bool>()).prop_map(|(node, drained)| Command::SetDrained { node, drained }),
        2 => node().prop_map(|node| Command::RemoveMember { node }),
        2 => (node(), 0..3_u32).prop_map(|(node, limit)| Command::ForgetModels { node, limit }),
        4 => (node(), vec((0..4_usize, 1..3_u8), 0..4), vec(0..4_usize, 0..3)).prop_map(|(node, present, absent)| {
            let present: Vec<_> = present.into_iter().map(|(name, digest)| (NAMES[name], digest)).collect();
            let absent: Vec<_> = absent.into_iter().map(|name| NAMES[name]).collect();
            report(node.0, &present, &absent)
        }),
        1 => (key(), vec(any::<u8>(), 0..3)).prop_map(|(key, value)| Command::SetSetting { key, value }),
        1 => key().prop_map(|key| Command::DeleteSetting { key }),
        8 => any_txn().prop_map(Command::Txn),
        2 => (1_000..4_000_u64).prop_map(|ttl_ms| Command::GrantLease { ttl_ms }),
        1 => any_id().prop_map(|lease| Command::RenewLease { lease }),
        1 => any_id().prop_map(|lease| Command::RevokeLease { lease }),
        2 => (10_000..12_000_u64, 1..4_u32).prop_map(|(ttl_ms, window)| Command::OpenSession { ttl_ms, window }),
        1 => any_id().prop_map(|session| Command::CloseSession { session }),
        3 => Just(Command::Expire),
        1 => (0..60_u64).prop_map(|bytes_max| Command::SetQuota { prefix: "user/".to_owned(), bytes_max }),
        1 => (3..=CLUSTER_VERSION).prop_map(|version| Command::RaiseVersion { version }),
        12 => any_wish(),
        12 => any_registry(),
        12 => any_task(),
        1 => any::<u8>().prop_map(|byte| Command::AddStateKey { secret: SecretKey::new([byte; 32]) }),
        4 => (1..3_u32, any::<bool>(), any::<bool>())
            .prop_map(|(number, down, force)| Command::Migrate { number, down, force }),
        1 => (node(), 1..3_u8, 0..3_u8).prop_map(|(node, directory, address)| Command::SetAddresses {
            node,
            incarnation: Incarnation([directory; 16]),
            peer_addresses: vec![format!("h{address}:1")],
            p2p_addresses: vec![],
            api_addresses: vec![],
        }),
    ]
}

/// What is asked and told of models that are wished for.
fn any_wish() -> impl Strategy<Value = Command> {
    let node = || (1..5_u64).prop_map(NodeId);
    let name = || (0..3_usize).prop_map(|name| model(NAMES[name], 0).name);
    let digest = || (1..3_u8).prop_map(|byte| Digest([byte; 32]));
    let replicas = prop_oneof![
        (0..4_u32).prop_map(Replicas::Count),
        Just(Replicas::All),
        vec(node(), 0..3).prop_map(Replicas::Nodes),
    ];
    let code = prop_oneof![Just(ErrorCode::DiskFull), Just(ErrorCode::OriginFailed)];
    let blob = (1..4_u8, 1..3_u8).prop_map(|(sha256, root)| BoundBlob {
        sha256: Digest([sha256; 32]),
        size_bytes: 1,
        root: Root([root; 32]),
    });
    prop_oneof![
        4 => (name(), replicas, any::<bool>(), any::<bool>())
            .prop_map(|(name, replicas, insecure, unsaid)| {
                let bytes = u64::from(insecure);
                let want = Want { gpu_memory_bytes_min: bytes, disk_free_bytes_min: bytes, ..Want::default() };
                let away = if insecure { [NodeId(2)].into() } else { Default::default() };
                Command::AskModel { name, replicas, insecure, want, declared: insecure, unsaid, away }
            }),
        4 => (name(), any_id(), node(), vec(node(), 0..3)).prop_map(|(name, round, ingester, targets)| {
            let kind = if targets.len() > 1 { PlanKind::Repair } else { PlanKind::Asked };
            Command::PlanPull { name, round, ingester, targets, kind }
        }),
        2 => (node(), name(), any_id(), digest())
            .prop_map(|(node, name, round, digest)| Command::ResolveWish { node, name, round, digest, size_bytes: 1 }),
        2 => (node(), name(), any_id(), code).prop_map(|(node, name, round, code)| {
            Command::TellPull { node, name, round, code, text: String::new() }
        }),
        1 => (name(), proptest::option::of(any_id())).prop_map(|(name, round)| Command::ForgetWish { name, round }),
        1 => (node(), vec(blob, 0..3)).prop_map(|(node, blobs)| Command::BindBlobs { node, blobs }),
    ]
}

/// What is done to names, and said of nodes for placement.
fn any_registry() -> impl Strategy<Value = Command> {
    let node = || (1..5_u64).prop_map(NodeId);
    let name = || (0..3_usize).prop_map(|name| model(NAMES[name], 0).name);
    let digest = || (1..3_u8).prop_map(|byte| Digest([byte; 32]));
    let how = || {
        let tagged = name().prop_map(|from| How::Tagged { from });
        prop_oneof![Just(How::Found), Just(How::Pulled), (1..4_u64).prop_map(|to| How::RolledBack { to }), tagged]
    };
    let replicas = prop_oneof![Just(None::<Replicas>), (1..3_u32).prop_map(|count| Some(Replicas::Count(count)))];
    let phase = prop_oneof![Just(PhaseWord::Active), Just(PhaseWord::Deprecated), Just(PhaseWord::Disabled)];
    let cordon = prop_oneof![Just(Cordon::Open), Just(Cordon::Cordoned), Just(Cordon::Emptying)];
    prop_oneof![
        3 => (name(), digest(), replicas, how()).prop_map(|(name, digest, replicas, how)| {
            Command::FixVersion { name, digest, size_bytes: 1, replicas, how }
        }),
        3 => (name(), digest(), how())
            .prop_map(|(name, digest, how)| Command::NoteVersion { name, digest, size_bytes: 1, how }),
        2 => (name(), proptest::option::of(digest())).prop_map(|(name, digest)| Command::PinModel { name, digest }),
        1 => (name(), phase).prop_map(|(name, phase)| Command::SetPhase { name, phase, note: String::new() }),
        6 => (name(), vec(node(), 0..3), any::<[bool; 3]>()).prop_map(|(name, nodes, [forget, force, unless_pinned])| {
            Command::DropCopies { name, nodes, forget, force, unless_pinned }
        }),
        1 => (node(), 0..2_u32, name())
            .prop_map(|(node, day, name)| Command::NoteUse { node, day, names: vec![name.key()] }),
        1 => (0..9_000_u64, proptest::option::of(digest()), 1..3_u32).prop_map(|(before, after, limit)| {
            Command::ForgetBlobs { before: Timestamp(before), after, limit }
        }),
        4 => (0..9_000_u64, vec(name(), 0..3)).prop_map(|(before, names)| {
            let names = names.iter().map(|name| name.key()).collect();
            Command::ForgetNames { before: Timestamp(before), names }
        }),
        1 => (node(), any::<bool>(), any::<bool>()).prop_map(|(node, own, set)| {
            let (key, value) = ("k".to_owned(), "v".to_owned());
            let (set, unset) = if set { ([(key, value)].into(), vec![]) } else { (BTreeMap::new(), vec![key]) };
            Command::SetLabels { node, own, set, unset }
        }),
        2 => (node(), cordon).prop_map(|(node, cordon)| Command::SetCordon { node, cordon }),
    ]
}

/// What is done with tasks, by leaders and nodes that may know better or worse where they stand.
fn any_task() -> impl Strategy<Value = Command> {
    let id = || (0..3_u8).prop_map(|id| TaskId([id; 16]));
    let node = || (1..5_u64).prop_map(NodeId);
    let attempt = || 0..3_u32;
    let outcome = prop_oneof![
        Just(TaskOutcome::Completed { result_json: "1".to_owned() }),
        Just(TaskOutcome::Cancelled { text: "t".to_owned() }),
        Just(TaskOutcome::Failed { code: ErrorCode::DiskFull, text: String::new(), next: String::new() }),
    ];
    let told = (id(), attempt(), 0..9_u64).prop_map(|(id, attempt, done)| {
        let progress = TaskProgress { done, ..TaskProgress::default() };
        TaskTold { id, attempt, progress }
    });
    prop_oneof![
        4 => (id(), any::<bool>(), any::<bool>()).prop_map(|(id, repeatable, needs_approval)| {
            let (tool, arguments_json, subject) = ("t".to_owned(), "{}".to_owned(), "uid/0".to_owned());
            let (priority, plan) = (5, if needs_approval { "n1: m goes".to_owned() } else { String::new() });
            Command::OpenTask { id, tool, arguments_json, subject, priority, repeatable, needs_approval, plan }
        }),
        1 => (id(), any::<bool>(), proptest::option::of(attempt()))
            .prop_map(|(id, approved, attempt)| Command::DecideTask { id, approved, attempt }),
        4 => (id(), node()).prop_map(|(id, node)| Command::AssignTask { id, node }),
        4 => (node(), vec(told, 0..3)).prop_map(|(node, tasks)| Command::TellTasks { node, tasks }),
        3 => (node(), id(), attempt(), outcome)
            .prop_map(|(node, id, attempt, outcome)| Command::EndTask { node, id, attempt, outcome }),
        1 => id().prop_map(|id| Command::CancelTask { id }),
        1 => id().prop_map(|id| Command::RetryTask { id, plan: "n2: m goes".to_owned() }),
    ]
}

/// A few keys, each with content that may differ.
fn any_once() -> impl Strategy<Value = Option<OnceKey>> {
    let key = (0..3_u8, 0..2_u8).prop_map(|(key, digest)| OnceKey { key: [key; 32], digest: [digest; 32] });
    proptest::option::weighted(0.1, key)
}

/// The index of an entry that may have opened a session, granted a lease or begun a round.
fn any_id() -> impl Strategy<Value = u64> {
    2..30_u64
}

fn any_txn() -> impl Strategy<Value = Txn> {
    let key = || (0..4_u8).prop_map(|key| format!("user/{key}"));
    let op = prop_oneof![
        1 => key().prop_map(|key| Op::Get { key }),
        4 => (key(), 0..9_usize, proptest::option::weighted(0.5, any_id()))
            .prop_map(|(key, bytes, lease)| Op::Put { key, bytes: vec![1; bytes], lease }),
        2 => key().prop_map(|key| Op::Delete { key }),
    ];
    let condition = (key(), 0..2_u64).prop_map(|(key, version)| Condition {
        key,
        operand: Operand::Version(version),
        relation: Relation::Equal,
    });
    (vec(condition, 0..2), vec(op.clone(), 0..4), vec(op, 0..3)).prop_map(|(conditions, then, otherwise)| Txn {
        conditions,
        then,
        otherwise,
    })
}

fn any_session() -> impl Strategy<Value = Option<(u64, u64)>> {
    proptest::option::weighted(0.3, (any_id(), 0..8_u64))
}

fn any_log() -> impl Strategy<Value = Vec<Entry>> {
    let fence = proptest::option::weighted(0.1, 0..3_u64);
    // Now and then long enough for a lease to end.
    let passed = prop_oneof![19 => 0..400_u64, 1 => 5_000..12_000_u64];
    let entries = vec((any_command(), passed, fence, any_session(), any_once()), 1..80);
    (2..=CLUSTER_VERSION, entries).prop_map(|(version, entries)| {
        let mut now = 0;
        let Command::InitCluster { cluster, name, public_key, first, .. } = init() else { unreachable!("init is one") };
        let founding = entry(0, Command::InitCluster { cluster, name, public_key, first, version });
        let rest = entries.into_iter().map(|(command, passed, fence_term, session, once)| {
            now += passed;
            Entry { fence_term, session, once, ..entry(now, command) }
        });
        std::iter::once(founding).chain(rest).collect()
    })
}

/// A view of one batch: what was changed in it over what was there before.
struct Overlay<'a> {
    base: &'a MemView,
    changed: BTreeMap<Key, Option<Record>>,
}

impl View for Overlay<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        self.changed.get(key).map_or_else(|| self.base.get(key), |changed| Ok(changed.clone()))
    }

    fn scan(
        &self,
        range: &crate::catalog::record::KeyRange,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Record)>, Fault> {
        let mut merged = self.base.clone();
        let put = |(key, record): (&Key, &Option<Record>)| match record {
            Some(record) => Mutation::Put(key.clone(), record.clone()),
            None => Mutation::Delete(key.clone()),
        };
        merged.write(&self.changed.iter().map(put).collect::<Vec<_>>());
        merged.scan(range, after, limit)
    }
}

/// Applies a log in batches of the given sizes (the last one is used again and again).
fn run(log: &[Entry], batches: &[usize]) -> (MemView, Vec<Answer>) {
    let mut view = MemView::default();
    let mut answers = Vec::new();
    let mut sizes = batches.iter().copied().chain(std::iter::repeat(batches.last().copied().unwrap_or(1)));
    let mut rest = log;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
        let mut overlay = Overlay { base: &view, changed: BTreeMap::new() };
        let mut mutations = Vec::new();
        for entry in batch {
            let applied = apply(&overlay, answers.len() as u64 + 1, 1, entry).expect("no fault");
            for mutation in &applied.mutations {
                match mutation {
                    Mutation::Put(key, record) => overlay.changed.insert(key.clone(), Some(record.clone())),
                    Mutation::Delete(key) => overlay.changed.insert(key.clone(), None),
                };
            }
            mutations.extend(applied.mutations);
            answers.push(applied.answer);
        }
        view.write(&mutations);
        rest = after;
    }
    (view, answers)
}

fn check_invariants(view: &MemView) {
    let members = read::members(view).expect("readable");
    let standing: Vec<_> =
        members.iter().filter(|member| !matches!(member.state, MemberState::Departed { .. })).collect();
    let names: BTreeSet<String> = standing.iter().map(|member| member.name.to_lowercase()).collect();
    assert_eq!(names.len(), standing.len(), "names are unique");
    assert!(standing.iter().any(|member| member.role == Role::Voter), "there is always a voter");

    let by_peer: BTreeMap<String, NodeId> = view
        .records()
        .filter_map(|(key, record)| match (key, record) {
            (Key::MemberByPeer(peer), Record::NodeId(node)) => Some((peer.0.clone(), *node)),
            _ => None,
        })
        .collect();
    let expected: BTreeMap<String, NodeId> =
        standing.iter().map(|member| (member.peer_id.0.clone(), member.id)).collect();
    assert_eq!(by_peer, expected, "MemberByPeer holds exactly the standing members");

    let mut by_model = BTreeMap::new();
    let mut by_node = BTreeMap::new();
    for (key, record) in view.records() {
        match (key, record) {
            (Key::Location(model, node), Record::Location(location)) => {
                assert_eq!((model, node), (&location.model.name.key(), &location.node));
                by_model.insert((*node, model.clone()), location.clone());
            }
            (Key::NodeModel(node, model), Record::Location(location)) => {
                by_node.insert((*node, model.clone()), location.clone());
            }
            _ => {}
        }
    }
    assert_eq!(by_model, by_node, "each copy is on record twice, alike");
    check_values(view);
    let next = read::cluster(view).expect("readable").expect("founded").next_node_id;
    assert!(members.iter().all(|member| member.id.0 < next), "ids come from the counter");
}

/// Usage, leases, sessions, counts and deadlines all tell of the same values.
fn check_values(view: &MemView) {
    let (mut keys, mut bytes) = (0, 0);
    let (mut held, mut listed) = (BTreeSet::new(), BTreeSet::new());
    let (mut ending, mut deadlines, mut counts) = (BTreeSet::new(), BTreeSet::new(), Counts::default());
    for (key, record) in view.records() {
        match (key, record) {
            (Key::Value(_, key), Record::Value(value)) => {
                keys += 1;
                bytes += (key.len() + value.bytes.len()) as u64;
                held.extend(value.lease.map(|lease| (lease, key.clone())));
            }
            (Key::LeaseValue(lease, _, key), Record::Present) => drop(listed.insert((*lease, key.clone()))),
            (Key::Lease(id), Record::Lease(_)) => {
                counts.leases += 1;
                ending.insert(Due::Lease(*id));
            }
            (Key::Session(id), Record::Session(_)) => {
                counts.sessions += 1;
                ending.insert(Due::Session(*id));
            }
            (Key::Deadline(_, due), Record::Present) => assert!(deadlines.insert(*due), "one deadline each"),
            (Key::Wish(_), Record::Wish(_)) => counts.wishes += 1,
            (Key::Blob(_), Record::Blob(_)) => counts.blobs += 1,
            (Key::Model(_), Record::Model(_)) => counts.models += 1,
            (Key::Task(id), Record::Task(task)) => {
                assert_eq!(*id, task.id);
                counts.tasks += 1;
                ending.extend((task.due_at != Timestamp(0)).then_some(Due::Task(*id)));
            }
            (Key::Once(key), Record::Once(_)) => {
                counts.once += 1;
                ending.insert(Due::Once(*key));
            }
            _ => {}
        }
    }
    let usage = read::usage(view, "", "user/").expect("readable");
    assert_eq!(usage.map_or((0, 0), |usage| (usage.keys, usage.bytes)), (keys, bytes), "usage is the sum");
    assert_eq!(held, listed, "what goes with a lease is listed under it");
    for (id, lease) in read::leases(view, None, 999).expect("readable") {
        assert_eq!(lease.values as usize, held.iter().filter(|(of, _)| *of == id).count(), "lease {id}");
    }
    let kept = read::counts(view).expect("readable");
    // When a task changed last nothing else tells.
    assert_eq!(kept, Counts { tasks_changed_at: kept.tasks_changed_at, ..counts });
    assert!(ending.is_subset(&deadlines), "what ends by itself has a deadline");
    check_notes(view);
    check_wishes(view);
    check_names(view);
    for (key, _) in view.records() {
        if let Key::SessionAnswer(session, sequence) = key {
            let of = read::session(view, *session).expect("readable").expect("answers go with their session");
            assert!(*sequence <= of.highest && sequence + u64::from(of.window) > of.highest, "within the window");
        }
    }
}

/// A wish lies under its name; what happened in its round came behind the question, and its plan is one that can be.
/// Only what a person removed, or insisted on, goes along from earlier rounds.
fn check_wishes(view: &MemView) {
    for (key, record) in view.records() {
        let (Key::Wish(key), Record::Wish(wish)) = (key, record) else { continue };
        assert_eq!(*key, wish.name.key());
        let came_along = |failure: &Failure| failure.code == ErrorCode::PullCancelled;
        let own = wish.failures.values().filter(|failure| !came_along(failure));
        let times = own.map(|failure| failure.at).chain(wish.plan.iter().map(|plan| plan.made_at));
        assert!(times.min().is_none_or(|earliest| earliest >= wish.asked_at), "{wish:?}");
        let Some(plan) = &wish.plan else {
            // A version without a plan was fixed, or the plan went with the copies: either leaves a record of the name.
            let is_fresh = wish.digest.is_none() && wish.failures.values().all(came_along);
            let has_record = read::model(view, &wish.name).expect("readable").is_some();
            assert!(is_fresh || has_record, "nobody has a part: {wish:?}");
            continue;
        };
        let targets: BTreeSet<NodeId> = plan.targets.iter().copied().collect();
        assert!(!targets.is_empty() && targets.len() == plan.targets.len(), "{wish:?}");
        for node in targets.iter().chain([&plan.ingester]) {
            let member = read::member(view, *node).expect("readable").expect("one that was");
            assert_ne!(member.role, Role::Gateway, "{wish:?}");
        }
    }
}

/// A name lies under its key; its history is whole, and what shall go is there and no target of a plan.
fn check_names(view: &MemView) {
    for (key, record) in view.records() {
        match (key, record) {
            (Key::Model(key), Record::Model(model)) => {
                assert_eq!(*key, model.name.key());
                check_history(model, &read::versions(view, &model.name).expect("readable"));
                check_drops(view, model);
            }
            (Key::Version(key, number), Record::Version(version)) => {
                assert_eq!(*number, version.number);
                assert!(view.get(&Key::Model(key.clone())).expect("readable").is_some(), "a version of nothing: {key}");
            }
            (Key::Member(_), Record::Member(member)) => {
                assert!(member.cordon == Cordon::Open || member.role != Role::Gateway, "{member:?}");
            }
            _ => {}
        }
    }
}

fn check_history(model: &Model, versions: &[Version]) {
    let ends = versions.first().zip(versions.last()).map_or((0, 0), |(first, last)| (first.number, last.number));
    assert_eq!((model.first, model.head), ends, "{model:?}");
    assert!(versions.len() <= VERSIONS_MAX);
    for pair in versions.windows(2) {
        let is_next = pair[0].number + 1 == pair[1].number;
        assert!(!is_next || pair[0].digest != pair[1].digest, "noted twice in a row: {pair:?}");
    }
}

fn check_drops(view: &MemView, model: &Model) {
    let wish = read::wish(view, &model.name).expect("readable");
    let targets = wish.and_then(|wish| wish.plan).map(|plan| plan.targets).unwrap_or_default();
    for node in model.drops.keys() {
        assert!(!targets.contains(node), "node {node} shall hold it and remove it: {model:?}");
        let held = read::node_model(view, *node, &model.name.key()).expect("readable");
        assert!(held.is_some(), "node {node} shall remove what it has not: {model:?}");
    }
}

/// What a task's work goes by: in which attempt it began, whether it is to end, and what is said of it at its end.
fn check_task(task: &Task) {
    assert!(task.losses <= task.attempt, "{task:?}");
    match &task.state {
        TaskState::Waiting => assert!(!task.cancel_asked, "{task:?}"),
        TaskState::Queued => assert!(!task.cancel_asked || task.losses > 0, "nobody would end it: {task:?}"),
        TaskState::Working { .. } => assert!(task.first_attempt() > 0, "{task:?}"),
        TaskState::Completed { .. } | TaskState::Failed { .. } => assert_eq!(task.progress.text, "", "{task:?}"),
        TaskState::Cancelled => {}
    }
}

/// What is noted of a deadline is so; after the migration everything is noted, and no deadline is of nothing.
fn check_notes(view: &MemView) {
    let applied = read::migration(view, 1).expect("readable").map(|row| row.status);
    assert_ne!(applied, Some(MigrationStatus::Failed), "nothing contradicts itself");
    let applied = applied == Some(MigrationStatus::Applied);
    for (key, record) in view.records() {
        let (due, noted) = match (key, record) {
            (Key::Task(id), Record::Task(task)) => {
                let is_queued = task.state == TaskState::Queued;
                assert_eq!(task.due_at == Timestamp(0), is_queued, "{task:?}");
                let there = view.get(&Key::Deadline(task.due_at, Due::Task(*id))).expect("readable").is_some();
                assert_eq!(there, !is_queued, "{task:?}");
                let open = view.get(&Key::OpenTask(task.subject.clone(), *id)).expect("readable").is_some();
                assert_eq!(open, !task.state.is_over(), "{task:?}");
                check_task(task);
                continue;
            }
            (Key::Once(key), Record::Once(once)) => {
                let there = view.get(&Key::Deadline(once.ends_at, Due::Once(*key))).expect("readable").is_some();
                assert!(there, "{once:?} would never end");
                continue;
            }
            (Key::OpenTask(subject, id), _) => {
                let task = read::task(view, id).expect("readable").expect("one that is not over");
                assert_eq!(task.subject, *subject);
                continue;
            }
            (Key::Deadline(at, Due::Task(id)), _) => {
                let task = read::task(view, id).expect("readable").expect("a deadline is of something");
                assert_eq!(task.due_at, *at);
                continue;
            }
            (Key::Deadline(at, Due::Once(key)), _) => {
                let once = read::once(view, key).expect("readable").expect("a deadline is of something");
                assert_eq!(once.ends_at, *at);
                continue;
            }
            (Key::Lease(id), Record::Lease(lease)) => (Due::Lease(*id), lease.due_at),
            (Key::Session(id), Record::Session(session)) => (Due::Session(*id), session.due_at),
            (Key::Deadline(_, Due::Lease(id)), _) if applied => {
                assert!(read::lease(view, *id).expect("readable").is_some(), "{key} is of nothing");
                continue;
            }
            (Key::Deadline(_, Due::Session(id)), _) if applied => {
                assert!(read::session(view, *id).expect("readable").is_some(), "{key} is of nothing");
                continue;
            }
            _ => continue,
        };
        assert!(noted.is_some() || !applied, "{key} notes nothing");
        let there = noted.is_none_or(|at| view.get(&Key::Deadline(at, due)).expect("readable").is_some());
        assert!(there, "{key} notes what is not there");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_gives_the_same_state_in_any_batching(log in any_log(), batches in vec(1..9_usize, 1..6)) {
        let (state, answers) = run(&log, &[1]);
        prop_assert_eq!(&(state.clone(), answers.clone()), &run(&log, &[1]));
        prop_assert_eq!(&(state, answers), &run(&log, &batches));
    }

    #[test]
    fn ids_are_never_used_again_and_the_state_stays_sound(log in any_log()) {
        let mut view = MemView::default();
        let mut given = BTreeSet::new();
        for (index, entry) in log.iter().enumerate() {
            let Applied { mutations, answer, before } = apply(&view, index as u64 + 1, 1, entry).expect("no fault");
            view.write(&mutations);
            if let (Answer::Member { node, already: false, .. }, None) = (answer, before) {
                prop_assert!(given.insert(node), "{node} was given out before");
            }
            check_invariants(&view);
        }
    }

    #[test]
    fn a_question_that_is_repeated_at_once_is_answered_with_the_same_round(log in any_log()) {
        let mut view = MemView::default();
        for (index, entry) in log.iter().enumerate() {
            let index = 2 * index as u64 + 1;
            let answer = view.apply(index, 1, entry).expect("no fault");
            let asks = matches!(entry.command, Command::AskModel { .. } | Command::FixVersion { .. });
            let is_plain = entry.session.is_none() && entry.once.is_none();
            if let (true, Answer::Wish { round }) = (asks && is_plain, answer) {
                let again = apply(&view, index + 1, 1, entry).expect("no fault");
                prop_assert_eq!(again, Applied::new(vec![], Answer::Wish { round }), "{:?}", entry.command);
            }
        }
    }

    #[test]
    fn one_node_works_at_a_task_in_an_attempt_and_nothing_of_it_ends_before_its_time(log in any_log()) {
        let mut view = MemView::default();
        // Who has which attempt; it never counts back, also where a task is asked for again.
        let mut holders: BTreeMap<(TaskId, u32), NodeId> = BTreeMap::new();
        for (index, entry) in log.iter().enumerate() {
            let before = read::tasks(&view).expect("readable");
            view.apply(index as u64 + 1, 1, entry).expect("no fault");
            let after = read::tasks(&view).expect("readable");
            let changed_at = read::counts(&view).expect("readable").tasks_changed_at;
            let mut open = read::open_tasks(&view).expect("readable");
            open.sort_by_key(|task| task.id);
            prop_assert_eq!(open, after.iter().filter(|task| !task.state.is_over()).cloned().collect::<Vec<_>>());
            let mut shown = Vec::new();
            read::each_task(&view, &mut |task| shown.push(task)).expect("readable");
            prop_assert_eq!(&shown, &after);
            if before != after {
                prop_assert_eq!(changed_at, index as u64 + 1, "{:?}", entry.command);
            }
            for task in &after {
                if let TaskState::Working { node } = task.state {
                    let first = *holders.entry((task.id, task.attempt)).or_insert(node);
                    prop_assert_eq!(first, node, "{:?}", entry.command);
                }
            }
            if entry.command == Command::Expire {
                for task in before.iter().filter(|task| task.due_at > entry.log_time) {
                    prop_assert!(after.contains(task), "{task:?} ended before its time");
                }
            }
        }
    }

    #[test]
    fn nobody_loses_a_last_copy_who_does_not_insist(log in any_log()) {
        let mut view = MemView::default();
        for (index, entry) in log.iter().enumerate() {
            let before = staying(&view);
            view.apply(index as u64 + 1, 1, entry).expect("no fault");
            let Command::DropCopies { name, forget: false, force: false, .. } = &entry.command else { continue };
            let after = staying(&view);
            let wish = read::wish(&view, name).expect("readable");
            let spread = wish.as_ref().and_then(|wish| wish.digest).map(|digest| (name.key(), digest));
            let has_moved_on = |version: &(String, Digest)| {
                let is_surplus = wish.as_ref().is_some_and(|wish| !wish.surplus.is_empty());
                is_surplus && spread.as_ref().is_some_and(|spread| spread != version && after.contains(spread))
            };
            for version in before.iter().filter(|(key, _)| *key == name.key()) {
                let stays = after.contains(version) || has_moved_on(version);
                prop_assert!(stays, "{version:?} went by {:?}", entry.command);
            }
        }
    }
}

/// Versions under their names with a copy that shall not go.
fn staying(view: &MemView) -> BTreeSet<(String, Digest)> {
    let mut staying = BTreeSet::new();
    for location in read::locations(view).expect("readable") {
        let (key, digest) = (location.model.name.key(), location.model.digest);
        let model = read::model(view, &location.model.name).expect("readable");
        let dropped = model.and_then(|model| model.drops.get(&location.node).map(|dropped| dropped.digest));
        if dropped != Some(digest) {
            staying.insert((key, digest));
        }
    }
    staying
}
