//! What each command tells of itself, row by row, applied as on every node.

use ollamax_types::{ClusterId, Digest, ErrorCode, Incarnation, ModelRecord, PeerId, RequestId, Role, Root, TaskId};

use super::*;
use crate::catalog::command::{BoundBlob, NewMember};
use crate::catalog::mem::MemView;
use crate::catalog::txn::{Op, Txn};
use crate::catalog::{CLUSTER_VERSION, How, PhaseWord, TaskOutcome, TaskProgress, TaskTold, apply};

/// What nobody may read anywhere.
const SECRET: &str = "secret";

fn newcomer(name: &str, key: u8, address: &str) -> NewMember {
    NewMember {
        name: name.to_owned(),
        peer_id: PeerId(format!("peer-{key}")),
        incarnation: Incarnation([key; 16]),
        peer_addresses: vec![address.to_owned()],
        p2p_addresses: vec![],
        api_addresses: vec![],
    }
}

fn join(name: &str, key: u8, address: &str) -> Command {
    let member = newcomer(name, key, address);
    Command::AddMember { token: TokenId("t".to_owned()), secret_sha256: [5; 32], role: Role::Learner, member }
}

fn addresses(node: u64, key: u8, peer: &[&str]) -> Command {
    Command::SetAddresses {
        node: NodeId(node),
        incarnation: Incarnation([key; 16]),
        peer_addresses: peer.iter().map(|address| (*address).to_owned()).collect(),
        p2p_addresses: vec![],
        api_addresses: vec![],
    }
}

fn report(node: u64, present: &[&str], absent: &[&str]) -> Command {
    let model = |name: &&str| ModelRecord {
        name: name.parse().expect("valid"),
        digest: Digest([7; 32]),
        weights: Digest([7; 32]),
        size_bytes: 1,
        modified_at: Timestamp(1),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    };
    let key = |name: &&str| name.parse::<ModelName>().expect("valid").key();
    let (present, absent) = (present.iter().map(model).collect(), absent.iter().map(key).collect());
    Command::ReportModels { node: NodeId(node), present, absent, removed: vec![] }
}

fn drain(drained: bool) -> Command {
    Command::SetDrained { node: NodeId(2), drained }
}

/// A cluster that commands are applied to, one index each.
struct World {
    view: MemView,
    index: u64,
}

impl World {
    fn new() -> Self {
        Self { view: MemView::default(), index: 0 }
    }

    fn applied(&mut self, log_time: u64, session: Option<(u64, u64)>, command: Command) -> Vec<ClusterEvent> {
        self.index += 1;
        let entry = Entry {
            least_version: 1,
            log_time: Timestamp(log_time),
            request: RequestId::default(),
            principal: "admin".to_owned(),
            namespace: String::new(),
            session,
            fence_term: None,
            once: None,
            command,
        };
        let applied = apply(&self.view, self.index, 1, &entry).expect("no fault");
        self.view.write(&applied.mutations);
        events_of(self.index, &entry, &applied.mutations)
    }

    /// Applies a command and compares what it tells: kind, subject, text.
    fn check(&mut self, log_time: u64, command: Command, expected: &[(&str, &str, &str)]) {
        let shown = format!("{command:?}");
        let events = self.applied(log_time, None, command);
        let told: Vec<_> = events.iter().map(|event| (event.kind.as_str(), &*event.subject, &*event.text)).collect();
        assert_eq!(told, expected, "{shown}");
        assert!(events.iter().all(|event| (event.revision, event.at.0) == (self.index, log_time)), "{events:?}");
        assert!(!format!("{events:?}").contains(SECRET), "{events:?}");
    }
}

fn cluster() -> World {
    let mut world = World::new();
    let first = newcomer("n1", 1, "10.0.0.1:1");
    let (name, version) = ("lab".to_owned(), CLUSTER_VERSION);
    world.check(
        7,
        Command::InitCluster { cluster: ClusterId([9; 16]), name, public_key: [3; 32], first, version },
        &[("cluster_made", "cluster", "cluster lab was made"), ("member_joined", "node/1", "n1 joined as voter")],
    );
    world
}

#[test]
fn members_come_move_drain_and_go() {
    let mut world = cluster();
    let token = |uses| Command::CreateToken {
        id: TokenId("t".to_owned()),
        secret_sha256: [5; 32],
        role: Role::Learner,
        uses,
        ttl_ms: 3_600_000,
    };
    world.check(8, token(2), &[("token_created", "t", "for 2 joins as learner")]);
    world.check(8, token(2), &[]);
    world.check(
        9,
        join("n2", 2, "10.0.0.2:1"),
        &[("member_joined", "node/2", "n2 joined as learner"), ("token_redeemed", "t", "by node/2")],
    );
    world.check(9, join("n2", 2, "10.0.0.2:1"), &[]);
    world.check(9, join("n2", 2, "10.0.0.9:1"), &[("member_moved", "node/2", "n2 is reached at 10.0.0.9:1")]);
    world.check(
        9,
        addresses(2, 2, &["a:1", "b:1", "c:1"]),
        &[("member_moved", "node/2", "n2 is reached at a:1 and 2 more")],
    );
    world.check(9, addresses(2, 2, &["a:1", "b:1", "c:1"]), &[]);
    world.check(9, drain(true), &[("member_drained", "node/2", "n2 takes no new requests")]);
    world.check(9, drain(true), &[]);
    world.check(9, drain(false), &[("member_undrained", "node/2", "n2 takes requests again")]);
    let revoke = Command::RevokeToken { id: TokenId("t".to_owned()) };
    world.check(9, revoke.clone(), &[("token_revoked", "t", "nobody can join with it any more")]);
    world.check(9, revoke, &[]);
    let remove = |node| Command::RemoveMember { node: NodeId(node) };
    world.check(9, remove(1), &[]);
    world.check(9, remove(2), &[("member_left", "node/2", "n2 is no member any more")]);
}

#[test]
fn models_appear_and_vanish_under_the_names_that_people_write() {
    let mut world = cluster();
    let at = "at node/1, digest 070707070707, 1 bytes";
    world.check(
        1,
        report(1, &["demo", "Lab/other:Q4"], &[]),
        &[("model_appeared", "lab/other:q4", at), ("model_appeared", "demo:latest", at)],
    );
    world.check(1, report(1, &["demo"], &[]), &[]);
    world.check(1, report(1, &[], &["demo"]), &[("model_vanished", "demo:latest", "from node/1")]);
    let forget = Command::ForgetModels { node: NodeId(1), limit: 9 };
    world.check(1, forget, &[("model_vanished", "lab/other:q4", "from node/1")]);
}

#[test]
fn settings_and_quotas_are_told_without_what_they_hold() {
    let mut world = cluster();
    let set = Command::SetSetting { key: "k".to_owned(), value: SECRET.as_bytes().to_vec() };
    world.check(1, set, &[("setting_changed", "k", "was set")]);
    let delete = Command::DeleteSetting { key: "k".to_owned() };
    world.check(1, delete.clone(), &[("setting_deleted", "k", "was removed")]);
    world.check(1, delete, &[]);
    let quota = Command::SetQuota { prefix: "user/".to_owned(), bytes_max: 9 };
    world.check(1, quota, &[("quota_set", "user/", "may take 9 bytes")]);
    world.check(1, Command::RaiseVersion { version: CLUSTER_VERSION }, &[]);
    let put = Op::Put { key: "user/a".to_owned(), bytes: vec![], lease: None };
    world.check(1, Command::Txn(Txn { then: vec![put], ..Txn::default() }), &[]);
}

#[test]
fn a_version_that_went_up_is_told() {
    let mut world = World::new();
    let first = newcomer("n1", 1, "10.0.0.1:1");
    let name = "lab".to_owned();
    world.applied(
        1,
        None,
        Command::InitCluster { cluster: ClusterId([9; 16]), name, public_key: [3; 32], first, version: 1 },
    );
    world.check(1, Command::RaiseVersion { version: 2 }, &[("version_raised", "cluster", "runs version 2")]);
}

#[test]
fn a_migration_is_told_when_it_has_ended() {
    let mut world = cluster();
    world.check(0, Command::GrantLease { ttl_ms: 60_000 }, &[]);
    let migrate = |down| Command::Migrate { number: 1, down, force: false };
    for _ in 0..2 {
        world.check(1, migrate(false), &[]);
    }
    let text = "noted_deadlines: 0 of 2 records changed";
    world.check(1, migrate(false), &[("migration_applied", "migration/001", text)]);
    world.check(1, migrate(false), &[]);
    world.check(2, migrate(true), &[]);
    let text = "noted_deadlines: 1 of 1 records changed";
    world.check(2, migrate(true), &[("migration_reverted", "migration/001", text)]);
    let lost = world.view.records().find_map(|(key, _)| matches!(key, Key::Deadline(..)).then(|| key.clone()));
    world.view.write(&[Mutation::Delete(lost.expect("there"))]);
    world.check(3, migrate(false), &[]);
    let text = "noted_deadlines: lease/2 has no deadline: it would never end";
    world.check(3, migrate(false), &[("migration_failed", "migration/001", text)]);
}

#[test]
fn a_wish_tells_of_its_rounds_plans_failures_and_end() {
    let mut world = cluster();
    let token = Command::CreateToken {
        id: TokenId("t".to_owned()),
        secret_sha256: [5; 32],
        role: Role::Learner,
        uses: 1,
        ttl_ms: 3_600_000,
    };
    world.applied(0, None, token);
    world.applied(0, None, join("n2", 2, "10.0.0.2:1"));
    let name = || "Lab/Demo".parse::<ModelName>().expect("valid");
    let ask = |replicas| Command::AskModel {
        name: name(),
        replicas,
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    let rows = [
        (Replicas::Count(1), "on 1 node, by admin"),
        (Replicas::All, "on all nodes, by admin"),
        (Replicas::Nodes(vec![NodeId(2), NodeId(1)]), "on node/1 node/2, by admin"),
        (Replicas::Count(2), "on 2 nodes, by admin"),
    ];
    for (replicas, text) in rows {
        world.check(1, ask(replicas), &[("model_asked", "Lab/Demo:latest", text)]);
    }
    let round = world.index;
    world.check(1, ask(Replicas::Count(2)), &[]);
    let (node, ingester, targets) = (NodeId(1), NodeId(1), vec![NodeId(1), NodeId(2)]);
    let plan = Command::PlanPull { name: name(), round, ingester, targets, kind: Default::default() };
    let text = "node/1 fetches it, for node/1 node/2";
    world.check(2, plan.clone(), &[("pull_planned", "Lab/Demo:latest", text)]);
    world.check(2, plan, &[]);
    let digest = Digest([9; 32]);
    world.check(3, Command::ResolveWish { node, name: name(), round, digest, size_bytes: 1 }, &[]);
    let blob = BoundBlob { sha256: digest, size_bytes: 1, root: Root([1; 32]) };
    world.check(3, Command::BindBlobs { node, blobs: vec![blob] }, &[]);
    let (node, code, text) = (NodeId(2), ErrorCode::DiskFull, "3.0 GB free".to_owned());
    let failed = Command::TellPull { node, name: name(), round, code, text };
    let text = "at node/2, disk_full: 3.0 GB free";
    world.check(4, failed.clone(), &[("pull_failed", "Lab/Demo:latest", text)]);
    world.check(4, failed, &[]);
    let note = |round, course: CopyCourse| Command::NoteCopy { node, name: name(), round, course: Box::new(course) };
    let part = CopyCourse { verified_bytes: 3, size_bytes: 9, bytes_per_second: 2, ..Default::default() };
    let text = "at node/2: 3 of 9 bytes, 2 bytes a second; from nowhere yet";
    world.check(4, note(round, part.clone()), &[("copy_progressed", "Lab/Demo:latest", text)]);
    world.check(4, note(round - 1, part.clone()), &[]);
    let (origin_bytes, here_bytes, members, other_bytes) = (1, 2, vec![(NodeId(1), 5)], 1);
    let whole = CopyCourse { is_whole: true, verified_bytes: 9, took_ms: 4_050, ..part };
    let whole = CopyCourse { origin_bytes, here_bytes, members, other_bytes, ..whole };
    let text = "at node/2: 9 bytes in 4.050 s, 2 bytes a second; from origin 1, here 2, others 1, node/1 5";
    world.check(4, note(round, whole.clone()), &[("copy_came", "Lab/Demo:latest", text)]);
    let (took_ms, members) = (17, Vec::new());
    let at_once = CopyCourse { bytes_per_second: 0, took_ms, origin_bytes: 0, members, other_bytes: 0, ..whole };
    let text = "at node/2: 9 bytes in 0.017 s; from here 2";
    world.check(4, note(round, at_once), &[("copy_came", "Lab/Demo:latest", text)]);
    let forget = Command::ForgetWish { name: name(), round: None };
    world.check(5, forget.clone(), &[("wish_forgotten", "lab/demo:latest", "is not asked for any more")]);
    world.check(5, forget, &[]);
}

#[test]
fn a_name_tells_of_its_versions_its_pin_its_phase_and_copies_that_go() {
    let mut world = cluster();
    let (m, name) = ("m:latest", || "m".parse::<ModelName>().expect("valid"));
    world.applied(1, None, report(1, &["m"], &[]));
    let note =
        |byte| Command::NoteVersion { name: name(), digest: Digest([byte; 32]), size_bytes: 1, how: How::Pulled };
    world.check(2, note(7), &[("version_noted", m, "version 1, digest 070707070707, by node/1")]);
    world.check(2, note(7), &[]);
    let fix = Command::FixVersion {
        name: name(),
        digest: Digest([8; 32]),
        size_bytes: 1,
        replicas: Some(Replicas::Nodes(vec![NodeId(1)])),
        how: How::Found,
    };
    let noted = ("version_noted", m, "version 2, digest 080808080808, by admin");
    world.check(3, fix.clone(), &[("model_asked", m, "on node/1, by admin"), noted]);
    world.check(3, fix, &[]);
    let pin = |digest: Option<u8>| Command::PinModel { name: name(), digest: digest.map(|byte| Digest([byte; 32])) };
    world.check(4, pin(Some(7)), &[("model_pinned", m, "at 070707070707, by admin")]);
    world.check(4, pin(Some(7)), &[]);
    world.check(4, pin(None), &[("model_unpinned", m, "stands for its newest version")]);
    world.check(4, pin(None), &[]);
    let set = |phase| Command::SetPhase { name: name(), phase, note: "why".to_owned() };
    world.check(5, set(PhaseWord::Deprecated), &[("phase_set", m, "is deprecated, by admin")]);
    world.check(5, set(PhaseWord::Deprecated), &[]);
    world.check(5, set(PhaseWord::Active), &[("phase_set", m, "is active")]);
    let go = |forget| Command::DropCopies { name: name(), nodes: vec![], forget, force: true, unless_pinned: false };
    world.check(6, go(false), &[("copies_dropped", m, "from node/1, by admin")]);
    world.check(6, go(false), &[]);
    world.check(7, go(true), &[("wish_forgotten", m, "is not asked for any more")]);
    world.check(8, Command::NoteUse { node: NodeId(1), day: 1, names: vec![name().key()] }, &[]);
    world.check(8, Command::ForgetBlobs { before: Timestamp(9), after: None, limit: 1 }, &[]);
    let forget = |before| Command::ForgetNames { before: Timestamp(before), names: vec![name().key()] };
    world.check(9, forget(9), &[]);
    world.applied(9, None, report(1, &[], &[m]));
    let forgotten = ("name_forgotten", m, "nobody had it for long; its history had 2 versions");
    world.check(9, forget(8), &[forgotten]);
    world.check(9, forget(9), &[]);
}

#[test]
fn a_node_tells_of_its_labels_and_of_its_cordon() {
    let mut world = cluster();
    let set = |own, key: &str, value: &str| Command::SetLabels {
        node: NodeId(1),
        own,
        set: [(key.to_owned(), value.to_owned())].into(),
        unset: vec![],
    };
    world.check(1, set(false, "room", "a"), &[("labels_set", "node/1", "n1: its labels are room=a")]);
    world.check(1, set(false, "room", "a"), &[]);
    world.check(1, set(true, "os", "linux"), &[("labels_set", "node/1", "n1: its own labels are os=linux")]);
    let (node, own, unset) = (NodeId(1), false, vec!["room".to_owned()]);
    let unset = Command::SetLabels { node, own, set: Default::default(), unset };
    world.check(1, unset, &[("labels_set", "node/1", "n1: its labels are none")]);
    for (cordon, text) in [
        (Cordon::Cordoned, "n1 takes no new copies"),
        (Cordon::Emptying, "n1 takes no new copies, and what it has goes elsewhere"),
        (Cordon::Open, "n1 takes new copies"),
    ] {
        world.check(2, Command::SetCordon { node, cordon }, &[("cordon_set", "node/1", text)]);
        world.check(2, Command::SetCordon { node, cordon }, &[]);
    }
}

#[test]
fn a_task_tells_that_it_was_opened_begun_and_ended_and_not_what_it_was_about() {
    let mut world = cluster();
    let id = TaskId([7; 16]);
    let shown = id.to_string();
    let name = shown.as_str();
    let open = |needs_approval| Command::OpenTask {
        id,
        tool: "pull_model".to_owned(),
        arguments_json: format!("{{\"key\":\"{SECRET}\"}}"),
        subject: "uid/0".to_owned(),
        priority: 5,
        repeatable: false,
        needs_approval,
        plan: SECRET.to_owned(),
    };
    let opened = "pull_model, by admin; it waits for an approval";
    world.check(1, open(true), &[("task_opened", name, opened)]);
    world.check(1, open(true), &[]);
    world.check(1, Command::DecideTask { id, approved: true, attempt: None }, &[]);
    let secret = ollamax_types::SecretKey::new([7; 32]);
    world.check(2, Command::AddStateKey { secret }, &[]);
    let assign = Command::AssignTask { id, node: NodeId(1) };
    world.check(2, assign.clone(), &[("task_begun", name, "pull_model at node/1, attempt 1")]);
    world.check(2, assign.clone(), &[]);
    let progress = TaskProgress { done: 1, total: 2, text: SECRET.to_owned() };
    let told = TaskTold { id, attempt: 1, progress };
    world.check(3, Command::TellTasks { node: NodeId(1), tasks: vec![told] }, &[]);
    let (code, text, next) = (ErrorCode::DiskFull, SECRET.to_owned(), SECRET.to_owned());
    let outcome = TaskOutcome::Failed { code, text, next };
    let end = |outcome| Command::EndTask { node: NodeId(1), id, attempt: 1, outcome };
    world.check(4, end(outcome), &[("task_ended", name, "pull_model: failed, disk_full")]);
    let retry = || Command::RetryTask { id, plan: SECRET.to_owned() };
    world.check(5, retry(), &[("task_opened", name, opened)]);
    world.check(5, Command::DecideTask { id, approved: true, attempt: None }, &[]);
    world.check(5, assign.clone(), &[("task_begun", name, "pull_model at node/1, attempt 2")]);
    let lost = "pull_model: failed, outcome_unknown";
    world.check(100_000, Command::Expire, &[("task_ended", name, lost)]);
    world.check(100_000, retry(), &[("task_opened", name, opened)]);
    world.check(100_000, Command::CancelTask { id }, &[("task_ended", name, "pull_model: cancelled")]);
    world.check(100_000, Command::CancelTask { id }, &[]);
    world.check(1_000_000_000, Command::Expire, &[]);
}

#[test]
fn what_ends_by_itself_is_counted() {
    let mut world = cluster();
    for _ in 0..2 {
        world.check(0, Command::GrantLease { ttl_ms: 1_000 }, &[]);
    }
    world.check(0, Command::GrantLease { ttl_ms: 60_000 }, &[]);
    world.check(0, Command::OpenSession { ttl_ms: 10_000, window: 1 }, &[]);
    world.check(999, Command::Expire, &[]);
    world.check(1_000, Command::Expire, &[("expired", "cluster", "leases: 2, sessions: 0")]);
    world.check(10_000, Command::Expire, &[("expired", "cluster", "leases: 0, sessions: 1")]);
}

#[test]
fn a_command_that_a_session_sends_again_is_told_once() {
    let mut world = cluster();
    world.check(0, Command::OpenSession { ttl_ms: 10_000, window: 4 }, &[]);
    let session = world.index;
    let set = Command::SetSetting { key: "k".to_owned(), value: vec![1] };
    assert_eq!(world.applied(1, Some((session, 1)), set.clone()).len(), 1);
    assert_eq!(world.applied(1, Some((session, 1)), set), vec![]);
}

#[test]
fn the_raft_group_tells_who_votes_and_which_term_began() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let check = |voters: &[BTreeSet<NodeId>], learners: &[NodeId], expected: &str| {
        let event = voters_changed(5, Timestamp(6), voters, learners);
        assert_eq!((event.revision, event.at, event.kind), (5, Timestamp(6), EventKind::VotersChanged));
        assert_eq!(event.text, expected);
    };
    check(&[ids(&[1])], &[NodeId(2)], "voting: 1; following: 2");
    check(&[ids(&[1]), ids(&[1, 2, 3])], &[], "voting: 1, changing to 1 2 3");
    assert_eq!(leader_elected(5, Timestamp(6), 3).subject, "term/3");
}

#[test]
fn each_kind_has_a_word_of_its_own() {
    for kind in EventKind::ALL {
        assert_eq!(EventKind::from_text(kind.as_str()), Some(*kind));
    }
    assert_eq!(EventKind::from_text("nothing"), None);
}
