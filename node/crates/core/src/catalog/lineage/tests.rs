//! A cluster that was lived in goes on with a newcomer, and one with models with a survivor.

use std::collections::BTreeMap;

use ollamax_types::{
    Digest, ErrorCode, Incarnation, ModelName, ModelRecord, PeerId, RequestId, Root, SecretKey, TaskId, TokenId,
};

use super::*;
use crate::catalog::command::{Command, Entry};
use crate::catalog::mem::MemView;
use crate::catalog::{
    Answer, Blob, CLUSTER_VERSION, Drop, Failure, Location, Model, Once, Replicas, Setting, StateKey, StateKeys, Task,
    TaskProgress, Token,
};

const OLD: ClusterId = ClusterId([1; 16]);
const NEW: ClusterId = ClusterId([9; 16]);
const NOW: Timestamp = Timestamp(9_000);

fn founder(leads: Leads) -> Founder {
    Founder { cluster: NEW, public_key: [8; 32], leads }
}

/// Takes every step; says how many there were, and what the last one said.
fn go_on(view: &mut MemView, founder: &Founder) -> (usize, Founded) {
    let (mut sweep, mut steps) = (Sweep::of(founder), 0);
    while let Some(mutations) = sweep.step(&*view).expect("readable") {
        view.write(&mutations);
        steps += 1;
    }
    let founded = found(&*view, founder, NOW).expect("readable");
    view.write(&founded.mutations);
    (steps, founded)
}

fn new_member(number: u8) -> NewMember {
    NewMember {
        name: format!("n{number}"),
        peer_id: PeerId(format!("p{number}")),
        incarnation: Incarnation([number; 16]),
        peer_addresses: vec![format!("10.0.0.{number}:11436")],
        p2p_addresses: vec![],
        api_addresses: vec![],
    }
}

/// Applies one command after the other, and wants none refused.
struct World {
    view: MemView,
    index: u64,
}

impl World {
    fn apply(&mut self, session: Option<(u64, u64)>, command: Command) -> u64 {
        self.index += 1;
        let entry = Entry {
            least_version: 1,
            log_time: Timestamp(1_000 + self.index),
            request: RequestId::default(),
            principal: "node/1".to_owned(),
            namespace: String::new(),
            session,
            fence_term: None,
            once: None,
            command,
        };
        let answer = self.view.apply(self.index, 1, &entry).expect("no fault");
        assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
        self.index
    }
}

fn lived_in() -> World {
    let mut world = World { view: MemView::default(), index: 0 };
    let (name, public_key) = ("lab".to_owned(), [2; 32]);
    let first = new_member(1);
    world.apply(None, Command::InitCluster { cluster: OLD, name, public_key, first, version: CLUSTER_VERSION });
    for number in 2..=3 {
        let (token, secret_sha256, role) = (TokenId(format!("t{number}")), [number; 32], Role::Voter);
        let create = Command::CreateToken { id: token.clone(), secret_sha256, role, uses: 2, ttl_ms: 60_000 };
        world.apply(None, create);
        world.apply(None, Command::AddMember { token, secret_sha256, role, member: new_member(number) });
    }
    for _ in 0..40 {
        let session = world.apply(None, Command::OpenSession { ttl_ms: 60_000, window: 4 });
        for sequence in 1..=6 {
            let set = Command::SetSetting { key: "b".to_owned(), value: b"2".to_vec() };
            world.apply(Some((session, sequence)), set);
        }
        world.apply(None, Command::GrantLease { ttl_ms: 60_000 });
    }
    world.apply(None, Command::SetSetting { key: "a".to_owned(), value: b"1".to_vec() });
    world
}

#[test]
fn a_newcomer_leads_and_nothing_of_the_old_cluster_lets_anybody_in() {
    let World { mut view, .. } = lived_in();
    let (steps, founded) = go_on(&mut view, &founder(Leads::Newcomer(new_member(9))));
    assert!(steps > 3, "{steps} steps");
    let (made, ids) = (founded.member, founded.departed);

    let cluster = read::cluster(&view).expect("readable").expect("there");
    assert_eq!((cluster.id, cluster.public_key, cluster.next_node_id), (NEW, [8; 32], 517));
    assert_eq!((cluster.name.as_str(), cluster.version), ("lab", CLUSTER_VERSION));
    assert_eq!((made.id, made.role, made.name.as_str()), (NodeId(516), Role::Voter, "n9"));
    assert_eq!(ids, [NodeId(1), NodeId(2), NodeId(3)]);
    let members = read::members(&view).expect("readable");
    let standing: Vec<NodeId> = members.iter().filter(|member| member.is_standing()).map(|m| m.id).collect();
    assert_eq!((members.len(), standing), (4, vec![NodeId(516)]));
    for (peer, expected) in [("p1", None), ("p2", None), ("p3", None), ("p9", Some(NodeId(516)))] {
        assert_eq!(read::member_by_peer(&view, &PeerId(peer.to_owned())), Ok(expected), "{peer}");
    }
    assert!(read::tokens(&view).expect("readable").is_empty());
    let counts = read::counts(&view).expect("readable");
    assert_eq!((counts.sessions, counts.leases), (0, 40));
    let families = |wanted: fn(&Key) -> bool| view.records().filter(|(key, _)| wanted(key)).count();
    assert_eq!(families(|key| matches!(key, Key::Session(_) | Key::SessionAnswer(..))), 0);
    assert_eq!(families(|key| matches!(key, Key::Lease(_) | Key::Deadline(..))), 80);
    assert_eq!(read::setting(&view, "a").expect("readable").expect("kept").value, b"1");
}

fn member(id: u64, role: Role) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("p{id}")),
        incarnation: Incarnation([id as u8; 16]),
        role,
        state: MemberState::Active,
        peer_addresses: vec![],
        p2p_addresses: vec![],
        api_addresses: vec![],
        joined_at: Timestamp(1),
        labels: Default::default(),
        own_labels: Default::default(),
        cordon: Default::default(),
    }
}

/// A cluster of a voter and a learner with a model each, and one member that has departed long ago.
fn with_models() -> MemView {
    let mut view = MemView::default();
    let cluster = Cluster {
        id: OLD,
        name: "lab".to_owned(),
        public_key: [1; 32],
        created_at: Timestamp(1),
        next_node_id: 4,
        version: 2,
    };
    let token = Token {
        id: TokenId("t".to_owned()),
        secret_sha256: [0; 32],
        role: Role::Voter,
        uses_left: 1,
        created_at: Timestamp(1),
        expires_at: Timestamp(9),
        revoked: false,
    };
    let gone = Member { state: MemberState::Departed { at: Timestamp(2) }, ..member(3, Role::Voter) };
    let mut mutations = vec![
        Mutation::Put(Key::Cluster, Record::Cluster(cluster)),
        Mutation::Put(Key::Member(NodeId(3)), Record::Member(gone)),
        Mutation::Put(Key::Token(token.id.clone()), Record::Token(token)),
        Mutation::Put(
            Key::Setting("kept".to_owned()),
            Record::Setting(Setting { value: b"yes".to_vec(), revision: 7 }),
        ),
    ];
    for (id, role) in [(1, Role::Voter), (2, Role::Learner)] {
        let member = member(id, role);
        mutations.push(Mutation::Put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)));
        mutations.push(Mutation::Put(Key::Member(member.id), Record::Member(member)));
        let model = ModelRecord {
            name: "demo".parse().expect("a name"),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let (key, node) = (model.name.key(), NodeId(id));
        let location = Record::Location(Location { node, model });
        mutations.push(Mutation::Put(Key::Location(key.clone(), node), location.clone()));
        mutations.push(Mutation::Put(Key::NodeModel(node, key), location));
    }
    view.write(&mutations);
    view
}

#[test]
fn a_survivor_leads_under_its_id_and_keeps_what_it_has_on_record() {
    let mut view = with_models();
    let (_, founded) = go_on(&mut view, &founder(Leads::Survivor(NodeId(2))));
    assert_eq!((founded.member.id, founded.departed), (NodeId(2), vec![NodeId(1)]));
    let cluster = read::cluster(&view).expect("readable").expect("there");
    assert_eq!((cluster.id, cluster.public_key, cluster.name.as_str()), (NEW, [8; 32], "lab"));
    assert_eq!(cluster.next_node_id, 4 + MEMBERS_MAX as u64);
    let members = read::members(&view).expect("readable");
    let states: Vec<_> = members.iter().map(|member| (member.id.0, member.role, member.state)).collect();
    let departed = |at| MemberState::Departed { at };
    assert_eq!(
        states,
        [
            (1, Role::Voter, departed(NOW)),
            (2, Role::Voter, MemberState::Active),
            (3, Role::Voter, departed(Timestamp(2))),
        ]
    );
    assert_eq!(read::member_by_peer(&view, &PeerId("p1".to_owned())), Ok(None));
    assert_eq!(read::member_by_peer(&view, &PeerId("p2".to_owned())), Ok(Some(NodeId(2))));
    let locations = read::locations(&view).expect("readable");
    assert_eq!(locations.iter().map(|location| location.node.0).collect::<Vec<_>>(), [2]);
    assert!(read::models_of(&view, NodeId(1)).expect("readable").is_empty());
    assert_eq!(read::models_of(&view, NodeId(2)).expect("readable").len(), 1);
    assert!(read::tokens(&view).expect("readable").is_empty());
    assert_eq!(read::setting(&view, "kept").expect("readable").map(|setting| setting.value), Some(b"yes".to_vec()));
}

#[test]
fn of_a_newcomer_no_model_is_on_record_until_it_tells() {
    let mut view = with_models();
    go_on(&mut view, &founder(Leads::Newcomer(new_member(9))));
    assert!(read::locations(&view).expect("readable").is_empty());
    for node in [1, 2] {
        assert!(read::models_of(&view, NodeId(node)).expect("readable").is_empty(), "{node}");
    }
}

/// Who asks the registry, and who receives.
type Parts<'a> = Option<(u64, &'a [u64])>;

fn wish(model: &str, plan: Parts<'_>, failed: &[u64]) -> Wish {
    let failure = || Failure { code: ErrorCode::DiskFull, text: String::new(), at: Timestamp(2), by_hand: false };
    Wish {
        name: model.parse().expect("a name"),
        round: 5,
        insecure: false,
        replicas: Replicas::Nodes(vec![NodeId(1), NodeId(2)]),
        digest: Some(Digest([1; 32])),
        size_bytes: 1,
        plan: plan.map(|(ingester, targets)| Plan {
            ingester: NodeId(ingester),
            targets: targets.iter().copied().map(NodeId).collect(),
            made_at: Timestamp(2),
            kind: Default::default(),
        }),
        failures: failed.iter().map(|node| (NodeId(*node), failure())).collect::<BTreeMap<_, _>>(),
        asked_at: Timestamp(1),
        asked_by: "node/1".to_owned(),
        want: Default::default(),
        declared: false,
        surplus: Default::default(),
        shared: false,
    }
}

#[test]
fn wishes_and_files_go_along_without_the_parts_of_others() {
    let rows: [(&str, Parts<'_>, &[u64]); 6] = [
        ("unplanned", None, &[]),
        ("of-others", Some((1, &[1])), &[1]),
        ("shared", Some((2, &[2, 1])), &[1, 2]),
        ("from-another", Some((1, &[2])), &[2]),
        ("alone", Some((2, &[2])), &[2]),
        ("failed-elsewhere", Some((2, &[2])), &[1]),
    ];
    let blob = Blob { size_bytes: 1, root: Root([3; 32]), bound_by: NodeId(1), bound_at: Timestamp(1) };
    let left_by = |leads: Leads| {
        let mut view = with_models();
        view.write(&[Mutation::Put(Key::Blob(Digest([2; 32])), Record::Blob(blob))]);
        for (model, plan, failed) in rows {
            let wish = Wish { surplus: [NodeId(1), NodeId(2)].into(), ..wish(model, plan, failed) };
            view.write(&[Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)))]);
        }
        go_on(&mut view, &founder(leads));
        assert_eq!(read::blob(&view, &Digest([2; 32])), Ok(Some(blob)));
        view
    };
    let check = |view: &MemView, model: &str, plan: Parts<'_>, failed: &[u64]| {
        let name: ModelName = model.parse().expect("a name");
        assert_eq!(read::wish(view, &name), Ok(Some(wish(model, plan, failed))), "{model}");
    };
    let view = left_by(Leads::Survivor(NodeId(2)));
    check(&view, "unplanned", None, &[]);
    check(&view, "of-others", None, &[]);
    check(&view, "shared", None, &[2]);
    check(&view, "from-another", None, &[2]);
    check(&view, "alone", Some((2, &[2])), &[2]);
    check(&view, "failed-elsewhere", Some((2, &[2])), &[]);
    let view = left_by(Leads::Newcomer(new_member(9)));
    for (model, ..) in rows {
        check(&view, model, None, &[]);
    }
}

#[test]
fn many_wishes_are_gone_through_in_steps() {
    let mut view = with_models();
    let others: [u64; 1] = [1];
    for number in 0..=RECORDS_PER_STEP {
        let wish = wish(&format!("m{number}"), Some((1, &others)), &[]);
        view.write(&[Mutation::Put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)))]);
    }
    go_on(&mut view, &founder(Leads::Survivor(NodeId(2))));
    let wishes = read::wishes(&view).expect("readable");
    assert_eq!(wishes.len(), RECORDS_PER_STEP + 1);
    assert!(wishes.iter().all(|wish| wish.plan.is_none()), "every one of them");
}

#[test]
fn names_go_along_and_of_copies_that_were_to_go_only_the_survivors() {
    let drop_of = |node: u64| {
        let by = "node/1".to_owned();
        (NodeId(node), Drop { digest: Digest([1; 32]), at: Timestamp(2), by, insisted: false })
    };
    let model = |number: usize, drops: &[u64]| {
        let name = format!("m{number}").parse::<ModelName>().expect("a name");
        Model { head: 3, drops: drops.iter().map(|node| drop_of(*node)).collect(), ..Model::new(name, Timestamp(2)) }
    };
    let left_by = |leads: Leads| {
        let mut view = with_models();
        // More than one step looks at.
        for number in 0..=RECORDS_PER_STEP {
            let model = model(number, if number % 2 == 0 { &[1, 2] } else { &[] });
            view.write(&[Mutation::Put(Key::Model(model.name.key()), Record::Model(Box::new(model)))]);
        }
        go_on(&mut view, &founder(leads));
        view
    };
    for (leads, kept) in [(Leads::Survivor(NodeId(2)), vec![2_u64]), (Leads::Newcomer(new_member(9)), vec![])] {
        let view = left_by(leads);
        for number in 0..=RECORDS_PER_STEP {
            let expected = model(number, if number % 2 == 0 { &kept } else { &[] });
            assert_eq!(read::model(&view, &expected.name), Ok(Some(expected)), "{number}");
        }
    }
}

#[test]
fn tasks_that_somebody_worked_at_are_lost_and_all_others_go_along() {
    let task = |number: u16, repeatable: bool, state: TaskState| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let task = Task {
            id: TaskId(id),
            tool: "pull_model".to_owned(),
            arguments_json: "{}".to_owned(),
            subject: "uid/0".to_owned(),
            priority: 5,
            repeatable,
            needs_approval: false,
            plan: String::new(),
            state: TaskState::Queued,
            attempt: 1,
            losses: 0,
            cancel_asked: false,
            progress: TaskProgress::default(),
            asked_by: "node/1".to_owned(),
            created_at: Timestamp(1),
            begun_at: Timestamp(0),
            updated_at: Timestamp(1),
            due_at: Timestamp(0),
        };
        task.into_state(state, Timestamp(5))
    };
    let at = |node| TaskState::Working { node: NodeId(node) };
    let states = [at(1), at(2), TaskState::Queued, TaskState::Waiting, TaskState::Cancelled];
    // More than one step looks at.
    let count = 2 * TASKS_PER_STEP as u16 + 1;
    let tasks: Vec<Task> = (0..count)
        .map(|number| task(number, number % 2 == 0, states[usize::from(number) % states.len()].clone()))
        .collect();
    let (digest, answer, ends_at) = ([2; 32], Answer::Done, Timestamp(9));
    let once = Once { digest, revision: 3, term: 1, answer, ends_at };
    for leads in [Leads::Survivor(NodeId(2)), Leads::Newcomer(new_member(9))] {
        let mut view = with_models();
        view.write(&[Mutation::Put(Key::Once([1; 32]), Record::Once(once.clone()))]);
        for task in &tasks {
            view.write(&[Mutation::Put(Key::Task(task.id), Record::Task(Box::new(task.clone())))]);
            if !task.state.is_over() {
                view.write(&[Mutation::Put(Key::OpenTask(task.subject.clone(), task.id), Record::Present)]);
            }
            if task.due_at != Timestamp(0) {
                view.write(&[Mutation::Put(Key::Deadline(task.due_at, Due::Task(task.id)), Record::Present)]);
            }
        }
        go_on(&mut view, &founder(leads));
        let left = read::tasks(&view).expect("readable");
        assert_eq!(left.len(), tasks.len());
        let open: Vec<_> = left.iter().filter(|task| !task.state.is_over()).cloned().collect();
        assert_eq!(read::open_tasks(&view), Ok(open));
        for (task, before) in left.iter().zip(&tasks) {
            let expected = match (before.state.as_str(), before.repeatable) {
                ("working", true) => "queued",
                ("working", false) => "failed",
                (other, _) => other,
            };
            assert_eq!(task.state.as_str(), expected, "{before:?}");
        }
        let noted = left.iter().filter(|task| task.due_at != Timestamp(0)).map(|task| (task.due_at, task.id));
        let noted: std::collections::BTreeSet<_> = noted.collect();
        let deadlines = read::deadlines(&view, 999).expect("readable").into_iter();
        let found = deadlines.filter_map(|(at, due)| if let Due::Task(id) = due { Some((at, id)) } else { None });
        assert_eq!(found.collect::<std::collections::BTreeSet<_>>(), noted);
        assert_eq!(read::once(&view, &[1; 32]), Ok(Some(once.clone())), "its effect is in the state");
    }
}

#[test]
fn the_keys_of_what_clients_carry_do_not_go_along() {
    let key = StateKey { number: 3, secret: SecretKey::new([7; 32]), made_at: Timestamp(1) };
    for leads in [Leads::Survivor(NodeId(2)), Leads::Newcomer(new_member(9))] {
        let mut view = with_models();
        let keys = StateKeys::default().with(key);
        view.write(&[Mutation::Put(Key::StateKeys, Record::StateKeys(keys))]);
        go_on(&mut view, &founder(leads));
        assert_eq!(view.get(&Key::StateKeys), Ok(None));
    }
}

#[test]
fn a_state_without_a_cluster_or_the_survivor_cannot_go_on() {
    let empty = MemView::default();
    for leads in [Leads::Newcomer(new_member(9)), Leads::Survivor(NodeId(1))] {
        let founder = founder(leads);
        assert_eq!(Sweep::of(&founder).step(&empty), Ok(None));
        assert!(matches!(found(&empty, &founder, NOW), Err(Fault::Invariant(_))));
    }
    // One that has departed, and one that never was.
    for node in [3, 9] {
        let survivor = founder(Leads::Survivor(NodeId(node)));
        assert!(matches!(found(&with_models(), &survivor, NOW), Err(Fault::Invariant(_))), "{node}");
    }
}
