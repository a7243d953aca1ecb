//! The registry of names, row by row: versions, pins, phases, use, and copies that go.

use std::collections::BTreeMap;

use ollamax_types::{ErrorCode, ModelName};

use super::*;
use crate::catalog::record::{
    Cordon, Counts, Drop, Failure, How, Member, Model, Phase, PhaseWord, Plan, Replicas, Since, Version, Want, Wish,
};

/// Entries before the first of a test.
const START: u64 = 8;

fn name() -> ModelName {
    "m".parse().expect("a name")
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn on(nodes: &[u64]) -> Replicas {
    Replicas::Nodes(ids(nodes))
}

fn held(node: u64, digest: u8) -> Command {
    report(node, &[("m", digest)], &[])
}

fn gone(node: u64) -> Command {
    report(node, &[], &["m"])
}

fn note(byte: u8) -> Command {
    Command::NoteVersion { name: name(), digest: digest(byte), size_bytes: 5, how: How::Pulled }
}

fn fix(byte: u8, replicas: Option<Replicas>, how: How) -> Command {
    Command::FixVersion { name: name(), digest: digest(byte), size_bytes: 5, replicas, how }
}

fn pin(byte: u8) -> Command {
    Command::PinModel { name: name(), digest: Some(digest(byte)) }
}

fn unpin() -> Command {
    Command::PinModel { name: name(), digest: None }
}

fn set_phase(phase: PhaseWord, note: &str) -> Command {
    Command::SetPhase { name: name(), phase, note: note.to_owned() }
}

fn drop_at(nodes: &[u64], forget: bool, force: bool) -> Command {
    Command::DropCopies { name: name(), nodes: ids(nodes), forget, force }
}

fn ask(replicas: Replicas) -> Command {
    Command::AskModel { name: name(), replicas, insecure: false, want: Default::default(), declared: false }
}

fn plan(round: u64, ingester: u64, targets: &[u64]) -> Command {
    let (ingester, targets) = (NodeId(ingester), ids(targets));
    Command::PlanPull { name: name(), round, ingester, targets, kind: Default::default() }
}

fn resolve(round: u64, node: u64, byte: u8) -> Command {
    Command::ResolveWish { node: NodeId(node), name: name(), round, digest: digest(byte), size_bytes: 5 }
}

fn cordon(node: u64, cordon: Cordon) -> Command {
    Command::SetCordon { node: NodeId(node), cordon }
}

fn pinned(byte: u8) -> Answer {
    refused(Refusal::Pinned { name: name(), digest: digest(byte) })
}

fn no_version(version: &str) -> Answer {
    refused(Refusal::VersionNotFound { name: name(), version: version.to_owned() })
}

fn last_copy() -> Answer {
    refused(Refusal::LastCopy { name: name() })
}

fn below(wanted: u32, left: u32) -> Answer {
    refused(Refusal::BelowWish { name: name(), wanted, left })
}

/// Nodes 1 to 3, and node 4, a gateway. Nodes 1 and 2 have version 7. Log time goes with the index.
struct World {
    view: MemView,
    index: u64,
}

impl World {
    fn new() -> Self {
        let view = check_in_cluster(vec![
            (0, join("t", "n2", 2), member_answer(2, "n2", false)),
            (0, join("t", "n3", 3), member_answer(3, "n3", false)),
            (0, token_with("g", Role::Gateway, 1, HOUR_MS), Answer::Done),
            (0, join_as("g", Role::Gateway, newcomer("n4", 4, 4)), member_answer(4, "n4", false)),
            (0, held(1, 7), Answer::Done),
            (0, held(2, 7), Answer::Done),
        ]);
        Self { view, index: START }
    }

    /// After some commands that are done.
    fn after(commands: impl IntoIterator<Item = Command>) -> Self {
        let mut world = Self::new();
        for command in commands {
            let shown = format!("{command:?}");
            let answer = world.apply(command).answer;
            assert!(!matches!(answer, Answer::Refused(_)), "{shown}: {answer:?}");
        }
        world
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let applied = apply(&self.view, self.index, 1, &entry(self.index, command)).expect("no fault");
        if matches!(applied.answer, Answer::Refused(_)) {
            assert_eq!(applied.mutations, vec![], "a refusal changes nothing");
        }
        self.view.write(&applied.mutations);
        applied
    }

    fn check(&mut self, command: Command, expected: Answer) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command).answer, expected, "{shown}");
    }

    /// It is done, and changes nothing.
    fn check_idle(&mut self, command: Command) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command), Applied::done(vec![]), "{shown}");
    }

    /// Asks, and gives the round.
    fn ask(&mut self, command: Command) -> u64 {
        match self.apply(command).answer {
            Answer::Wish { round } => round,
            other => unreachable!("{other:?}"),
        }
    }

    /// The same question is answered with the same round, and changes nothing.
    fn check_goes_on(&mut self, command: Command, round: u64) {
        let shown = format!("{command:?}");
        assert_eq!(self.apply(command), Applied::new(vec![], Answer::Wish { round }), "{shown}");
    }

    fn wish(&self) -> Wish {
        read::wish(&self.view, &name()).expect("readable").expect("asked for")
    }

    fn model(&self) -> Model {
        read::model(&self.view, &name()).expect("readable").expect("on record")
    }

    fn member(&self, node: u64) -> Member {
        read::member(&self.view, NodeId(node)).expect("readable").expect("a member")
    }

    fn dropped(&self) -> Vec<u64> {
        self.model().drops.keys().map(|node| node.0).collect()
    }

    /// Who has failed in the round, and whether a person did that.
    fn failed(&self) -> Vec<(u64, bool)> {
        self.wish().failures.iter().map(|(node, failure)| (node.0, failure.by_hand)).collect()
    }

    /// Numbers and versions of the history.
    fn history(&self) -> Vec<(u64, u8)> {
        let noted = read::versions(&self.view, &name()).expect("readable");
        noted.iter().map(|version| (version.number, version.digest.0[0])).collect()
    }

    /// Nodes 1 and 2 shall have the model, and have it; node 1 asked the registry.
    fn spread(replicas: Replicas) -> (Self, u64) {
        let mut world = Self::new();
        let round = world.ask(ask(replicas));
        world.check(plan(round, 1, &[1, 2]), Answer::Done);
        world.check(resolve(round, 1, 7), Answer::Done);
        (world, round)
    }
}

#[test]
fn the_last_copy_stays_unless_forced() {
    let check = |before: Vec<Command>, command: Command, expected: Answer| {
        World::after(before).check(command, expected);
    };
    check(vec![], drop_at(&[1], false, false), Answer::Done);
    check(vec![], drop_at(&[], false, false), last_copy());
    check(vec![], drop_at(&[1, 2], true, false), last_copy());
    check(vec![drop_at(&[1], false, false)], drop_at(&[2], false, false), last_copy());
    check(vec![held(3, 8)], drop_at(&[3], false, false), last_copy());
    check(vec![], drop_at(&[], false, true), Answer::Done);
    check(vec![ask(Replicas::Count(2))], drop_at(&[1], true, false), Answer::Done);
    let disabled = || set_phase(PhaseWord::Disabled, "");
    check(vec![disabled()], drop_at(&[], false, false), last_copy());
    check(vec![disabled()], drop_at(&[], true, false), Answer::Done);
    check(vec![disabled()], ask(Replicas::Count(1)), refused(Refusal::Disabled(name())));
    check(vec![pin(7), disabled()], drop_at(&[], true, false), pinned(7));
    let crowd: Vec<u64> = (1..=WISH_TARGETS_MAX as u64 + 1).collect();
    let text = invalid_text(&World::new().view, drop_at(&crowd, false, false));
    assert_eq!(text, "the list of nodes has 65 items; the limit is 64");
}

#[test]
fn only_where_somebody_insists_or_the_whole_model_goes_the_last_copy_may_go() {
    let check = |commands: Vec<Command>, expected: &[(u64, bool)]| {
        let shown = format!("{commands:?}");
        let drops = World::after(commands).model().drops;
        let found: Vec<(u64, bool)> = drops.iter().map(|(node, dropped)| (node.0, dropped.insisted)).collect();
        assert_eq!(found, expected, "{shown}");
    };
    let first = || drop_at(&[1], false, false);
    check(vec![first()], &[(1, false)]);
    check(vec![first(), drop_at(&[2], false, true)], &[(1, false), (2, true)]);
    check(vec![first(), drop_at(&[1], false, true)], &[(1, true)]);
    check(vec![first(), set_phase(PhaseWord::Disabled, ""), drop_at(&[], true, false)], &[(1, true), (2, true)]);
    check(vec![ask(Replicas::Count(1)), drop_at(&[1], true, false)], &[(1, false)]);
}

#[test]
fn no_wish_is_left_with_fewer_copies_than_it_says() {
    let check = |before: Vec<Command>, node: u64, expected: Answer| {
        World::after([vec![held(3, 7)], before].concat()).check(drop_at(&[node], false, false), expected);
    };
    check(vec![ask(Replicas::Count(2))], 3, Answer::Done);
    check(vec![ask(Replicas::Count(3))], 3, below(3, 2));
    check(vec![ask(Replicas::Count(2)), drop_at(&[1], false, false)], 2, below(2, 1));
    check(vec![ask(on(&[1, 2]))], 3, Answer::Done);
    check(vec![ask(on(&[1, 2]))], 2, below(2, 1));
    check(vec![ask(Replicas::All)], 2, below(3, 2));
    check(vec![ask(Replicas::All), cordon(2, Cordon::Cordoned)], 2, below(3, 2));
    check(vec![ask(Replicas::All), cordon(2, Cordon::Emptying)], 2, Answer::Done);
    check(vec![ask(Replicas::All), cordon(2, Cordon::Emptying)], 1, below(3, 2));
    let all_but = |want: Want| Command::AskModel {
        name: name(),
        replicas: Replicas::All,
        insecure: false,
        want,
        declared: false,
    };
    let avoiding = || all_but(Want { avoid: [NodeId(2)].into(), ..Want::default() });
    check(vec![avoiding()], 2, Answer::Done);
    check(vec![avoiding()], 1, below(3, 2));
    let labels = BTreeMap::from([("room".to_owned(), "a".to_owned())]);
    let set = Command::SetLabels { node: NodeId(1), own: false, set: labels.clone(), unset: vec![] };
    let labelled = vec![set, all_but(Want { labels, ..Want::default() })];
    check(labelled.clone(), 2, Answer::Done);
    check(labelled, 1, below(3, 2));
    // A copy that does not belong there makes up for none that does.
    let emptied = |count: u32, nodes: &[u64]| {
        let cordons = nodes.iter().map(|node| cordon(*node, Cordon::Emptying));
        std::iter::once(ask(Replicas::Count(count))).chain(cordons).collect::<Vec<_>>()
    };
    check(emptied(2, &[3]), 3, Answer::Done);
    check(emptied(2, &[3]), 1, below(2, 1));
    check(emptied(1, &[3]), 1, Answer::Done);
    check(emptied(2, &[2, 3]), 3, Answer::Done);
    check(vec![pin(7)], 3, Answer::Done);
    check(vec![pin(7), ask(Replicas::Count(2)), drop_at(&[1], false, false)], 2, pinned(7));
}

#[test]
fn a_report_ends_the_drop_that_it_fulfils() {
    let mut world = World::after([drop_at(&[1], false, false)]);
    let (at, by) = (Timestamp(START + 1), "admin".to_owned());
    let dropped = Drop { digest: digest(7), at, by, insisted: false };
    assert_eq!(world.model().drops, BTreeMap::from([(NodeId(1), dropped)]));
    world.check_idle(drop_at(&[1], false, false));
    world.check(gone(1), Answer::Done);
    assert_eq!(world.dropped(), [0_u64; 0]);
    let mut world = World::after([drop_at(&[2], false, false)]);
    world.check(Command::ForgetModels { node: NodeId(2), limit: 9 }, Answer::Done);
    assert_eq!(world.dropped(), [0_u64; 0], "it goes with the copies of a member that leaves");
}

#[test]
fn a_copy_that_became_another_version_is_not_to_go_any_more() {
    let mut world = World::after([drop_at(&[1], false, false)]);
    world.check(held(1, 8), Answer::Done); // a person has put another version there
    assert_eq!(world.dropped(), [0_u64; 0]);
    world.check(held(1, 7), Answer::Done); // and goes back
    assert_eq!(world.dropped(), [0_u64; 0], "nobody asked for that one to go");
}

#[test]
fn a_plan_ends_the_drops_of_its_targets() {
    let mut world = World::after([held(3, 7), drop_at(&[2, 3], false, false)]);
    assert_eq!(world.dropped(), [2, 3]);
    let round = world.ask(ask(Replicas::Count(2)));
    world.check(plan(round, 1, &[1, 2]), Answer::Done);
    assert_eq!(world.dropped(), [3]);
    assert_eq!(world.wish().plan.map(|plan| plan.targets), Some(ids(&[1, 2])));
}

#[test]
fn a_drop_takes_its_node_out_of_the_plan() {
    let check = |targets: &[u64], ingester: u64, dropped: u64, expected: Option<(u64, &[u64])>| {
        let mut world = World::after([held(3, 7)]);
        let round = world.ask(ask(Replicas::Count(1)));
        world.check(plan(round, ingester, targets), Answer::Done);
        world.check(resolve(round, ingester, 7), Answer::Done);
        world.check(drop_at(&[dropped], false, false), Answer::Done);
        let left = world.wish().plan.map(|plan| (plan.ingester.0, plan.targets));
        assert_eq!(left, expected.map(|(ingester, targets)| (ingester, ids(targets))), "{targets:?} {dropped}");
        assert!(world.failed().is_empty(), "nobody insisted");
    };
    check(&[1, 2], 1, 2, Some((1, &[1])));
    check(&[1, 2], 1, 1, Some((2, &[2])));
    check(&[1, 2], 3, 3, Some((1, &[1, 2])));
    check(&[1, 2], 1, 3, Some((1, &[1, 2])));
    check(&[1], 1, 1, None);
}

#[test]
fn who_insists_leaves_the_node_out_of_that_round_only() {
    let (mut world, round) = World::spread(Replicas::Count(2));
    world.check(drop_at(&[2], false, false), below(2, 1));
    world.check(drop_at(&[2], false, true), Answer::Done);
    let (code, at) = (ErrorCode::PullCancelled, Timestamp(world.index));
    let text = "somebody insisted that it goes from there".to_owned();
    let failures = || BTreeMap::from([(NodeId(2), Failure { code, text: text.clone(), at, by_hand: false })]);
    assert_eq!(world.wish().failures, failures());
    assert_eq!(world.wish().plan.map(|plan| plan.targets), Some(ids(&[1])));
    world.check(gone(2), Answer::Done);
    assert_eq!((world.wish().failures, world.dropped()), (failures(), vec![]), "the cluster did it, not a person");
    let next = world.ask(ask(Replicas::Count(2)));
    assert_ne!(next, round);
    assert!(world.failed().is_empty(), "somebody wants it again, wherever there is room");
}

#[test]
fn a_copy_that_was_to_go_is_nobodys_failure() {
    // Node 3 is no target, so its copy is to go still when it is asked for the bytes.
    let mut world = World::after([held(3, 7), drop_at(&[3], false, false)]);
    let round = world.ask(ask(Replicas::Count(1)));
    world.check(plan(round, 3, &[1]), Answer::Done);
    world.check(resolve(round, 3, 7), Answer::Done);
    world.check(gone(3), Answer::Done);
    assert_eq!((world.failed(), world.dropped()), (vec![], vec![]));
    // Another version than the one that was to go is a person's.
    let mut world = World::after([held(3, 8), held(2, 8), drop_at(&[3], false, false), held(3, 7)]);
    let round = world.ask(ask(Replicas::Count(1)));
    world.check(plan(round, 3, &[1]), Answer::Done);
    world.check(resolve(round, 3, 7), Answer::Done);
    world.check(gone(3), Answer::Done);
    assert_eq!((world.failed(), world.dropped()), (vec![(3, true)], vec![]));
}

#[test]
fn a_person_who_removed_a_model_is_respected_over_rounds() {
    let removed = || {
        let (mut world, _) = World::spread(Replicas::Count(2));
        world.check(gone(2), Answer::Done);
        assert_eq!(world.failed(), [(2, true)]);
        world
    };
    for (replicas, expected) in [
        (Replicas::Count(2), vec![(2, true)]),
        (Replicas::All, vec![(2, true)]),
        (Replicas::Count(3), vec![]), // too few are left
        (on(&[1, 2]), vec![]),        // somebody names it
    ] {
        let mut world = removed();
        let round = world.ask(ask(replicas.clone()));
        assert_eq!((round, world.failed()), (world.index, expected), "{replicas:?}");
        world.check_goes_on(ask(replicas.clone()), round);
        world.check_goes_on(ask(replicas), round);
    }
    let mut world = removed();
    world.ask(ask(Replicas::Count(2)));
    world.check(Command::RemoveMember { node: NodeId(3) }, Answer::Done);
    world.ask(ask(Replicas::Count(2)));
    assert!(world.failed().is_empty(), "node 1 alone is not enough");
    // What a node merely says is not a person's doing, whatever its words.
    let (mut world, round) = World::spread(Replicas::Count(2));
    let text = removed().wish().failures[&NodeId(2)].text.clone();
    let (node, code) = (NodeId(2), ErrorCode::PullCancelled);
    world.check(Command::TellPull { node, name: name(), round, code, text }, Answer::Done);
    world.ask(ask(Replicas::Count(2)));
    assert!(world.failed().is_empty());
}

#[test]
fn a_node_whose_copy_is_back_is_not_left_out_any_more() {
    let removed = || {
        let (mut world, _) = World::spread(Replicas::Count(2));
        world.check(gone(2), Answer::Done);
        assert_eq!(world.failed(), [(2, true)]);
        world
    };
    let mut world = removed();
    world.check(held(2, 7), Answer::Done); // its store was away, or the person changed their mind
    assert!(world.failed().is_empty());
    let mut world = removed();
    world.check(held(2, 8), Answer::Done); // another version does not meet this round
    assert_eq!(world.failed(), [(2, true)]);
    let round = world.ask(ask(Replicas::Count(2)));
    assert!(world.failed().is_empty(), "but it is to have the newest with the next one");
    world.check_goes_on(ask(Replicas::Count(2)), round);
    // What a node has failed with itself stays.
    let (mut world, round) = World::spread(Replicas::Count(3));
    world.check(plan(round, 1, &[1, 2, 3]), Answer::Done);
    let (node, code) = (NodeId(3), ErrorCode::DiskFull);
    world.check(Command::TellPull { node, name: name(), round, code, text: String::new() }, Answer::Done);
    world.check(held(3, 7), Answer::Done);
    assert_eq!(world.failed(), [(3, false)]);
}

#[test]
fn a_pin_outlives_pulls() {
    let mut world = World::after([pin(7), note(8)]);
    let round = world.ask(ask(Replicas::Count(1)));
    assert_eq!((world.wish().digest, world.wish().size_bytes), (Some(digest(7)), 0));
    world.check_goes_on(ask(Replicas::Count(1)), round);
    world.check(unpin(), Answer::Done);
    world.check_idle(unpin());
    assert_eq!(world.ask(ask(Replicas::Count(1))), world.index, "whatever the registry has");
    assert_eq!(world.wish().digest, None);
    world.check(pin(9), no_version(&digest(9).short()));
    world.check(pin(8), Answer::Done); // it had that one
    world.check_idle(pin(8));
    world.ask(ask(Replicas::Count(1)));
    assert_eq!((world.wish().digest, world.wish().size_bytes), (Some(digest(8)), 5));
}

#[test]
fn a_fixed_version_is_a_round_that_knows_it_from_the_start() {
    let mut world = World::new();
    world.check(fix(7, None, How::Found), refused(Refusal::WishNotFound(name())));
    let round = world.ask(fix(7, Some(on(&[2, 1])), How::Found));
    let wish = world.wish();
    assert_eq!((wish.round, wish.replicas, wish.plan), (round, on(&[1, 2]), None));
    assert_eq!((wish.digest, wish.size_bytes), (Some(digest(7)), 5));
    assert_eq!(read::counts(&world.view), Ok(Counts { wishes: 1, models: 1, ..Counts::default() }));
    world.check_goes_on(fix(7, Some(on(&[1, 2])), How::Found), round);
    world.check_goes_on(fix(7, None, How::Found), round);
    world.check(plan(round, 1, &[1, 2, 3]), Answer::Done);
    world.check_goes_on(fix(7, None, How::Found), round); // node 3 is busy
    let next = world.ask(fix(8, None, How::Pulled));
    assert_eq!((next, world.wish().digest), (world.index, Some(digest(8))));
    world.ask(fix(7, None, How::RolledBack { to: 1 }));
    assert_eq!(world.history(), [(1, 7), (2, 8), (3, 7)]);
    assert_eq!(world.ask(ask(on(&[1, 2]))), world.index, "a question without a version wants what there is today");
    assert_eq!(world.wish().digest, None);
}

#[test]
fn only_places_or_fewer_copies_are_no_question_for_what_the_registry_has_today() {
    let declared = |replicas: Replicas| Command::AskModel {
        name: name(),
        replicas,
        insecure: false,
        want: Want::default(),
        declared: true,
    };
    let check = |what: &str, before: &[Command], command: Command, version: Option<u8>, targets: &[u64]| {
        let (mut world, first) = World::spread(Replicas::Count(2));
        for command in before {
            world.apply(command.clone());
        }
        assert!(world.ask(command) > first, "{what}: a new round");
        let wish = world.wish();
        let planned = wish.plan.map(|plan| (plan.ingester, plan.targets));
        assert_eq!(wish.digest, version.map(digest), "{what}");
        let expected = (!targets.is_empty()).then(|| (ids(targets)[0], ids(targets)));
        assert_eq!(planned, expected, "{what}");
    };
    check("a file wants more", &[], declared(Replicas::Count(3)), Some(7), &[]);
    check("a file names nodes", &[], declared(on(&[3])), Some(7), &[]);
    check("a file wants the same", &[], declared(Replicas::Count(2)), Some(7), &[]);
    check("a file wants fewer: the last is too many", &[], declared(Replicas::Count(1)), Some(7), &[1, 2]);
    check("a person wants fewer", &[], ask(Replicas::Count(1)), Some(7), &[1, 2]);
    check("a person wants more", &[], ask(Replicas::Count(3)), None, &[]);
    check("the same", &[], ask(Replicas::Count(2)), None, &[]);
    let other = held(1, 8);
    check("one has another version", std::slice::from_ref(&other), ask(Replicas::Count(1)), Some(7), &[]);
    check("nobody has it any more", &[other, held(2, 8)], declared(Replicas::Count(1)), None, &[]);
    check("it is pinned to another", &[held(3, 8), pin(8)], ask(Replicas::Count(1)), Some(8), &[]);
    check("it is pinned to this one", &[pin(7)], ask(Replicas::Count(1)), Some(7), &[1, 2]);
}

#[test]
fn a_round_with_a_version_keeps_how_the_model_is_wished_for() {
    let want = Want { avoid: [NodeId(3)].into(), ..Want::default() };
    let asked = Command::AskModel {
        name: name(),
        replicas: Replicas::Count(2),
        insecure: true,
        want: want.clone(),
        declared: true,
    };
    let mut world = World::after([asked]);
    world.ask(fix(7, None, How::Found));
    let wish = world.wish();
    assert_eq!((wish.insecure, wish.want, wish.declared), (true, want, true));
    world.ask(ask(Replicas::Count(2)));
    let wish = world.wish();
    assert_eq!((wish.insecure, wish.want, wish.declared), (false, Want::default(), true), "the file says it still");
}

#[test]
fn not_every_version_can_be_given_to_a_name() {
    let tagged = || How::Tagged { from: "other".parse().expect("a name") };
    let taken = refused(Refusal::NameTaken { name: name(), held: digest(7) });
    let one = || Some(Replicas::Count(1));
    let huge = Command::FixVersion {
        name: name(),
        digest: digest(7),
        size_bytes: MODEL_BYTES_MAX + 1,
        replicas: one(),
        how: How::Found,
    };
    let text = format!("m:latest has {} bytes; the limit is {MODEL_BYTES_MAX}", MODEL_BYTES_MAX + 1);
    let gateway = refused(Refusal::Invalid("node 4 is a gateway and holds no models".to_owned()));
    let rows = [
        (vec![note(8)], fix(8, one(), How::RolledBack { to: 2 }), no_version("2")),
        (vec![note(8)], fix(7, one(), How::RolledBack { to: 1 }), no_version("1")),
        (vec![], fix(8, one(), tagged()), taken),
        (vec![pin(7)], fix(8, one(), How::Found), pinned(7)),
        (vec![set_phase(PhaseWord::Disabled, "")], fix(7, one(), How::Found), refused(Refusal::Disabled(name()))),
        (vec![], huge, refused(Refusal::Invalid(text))),
        (vec![], fix(7, Some(on(&[4])), How::Found), gateway),
    ];
    for (before, command, expected) in rows {
        World::after(before).check(command, expected);
    }
    let mut world = World::after([note(8), pin(7)]);
    world.ask(fix(7, one(), tagged()));
    world.ask(fix(7, one(), How::Found));
}

#[test]
fn a_history_counts_on_and_notes_no_version_twice_in_a_row() {
    let mut world = World::new();
    for (byte, is_new) in [(7, true), (7, false), (8, true), (8, false), (7, true)] {
        let applied = world.apply(note(byte));
        assert_eq!((applied.answer, applied.mutations.is_empty()), (Answer::Done, !is_new), "{byte}");
    }
    assert_eq!(world.history(), [(1, 7), (2, 8), (3, 7)]);
    assert_eq!((world.model().first, world.model().head, world.model().noted_at), (1, 3, Timestamp(world.index)));
    let noted = Version {
        number: 2,
        digest: digest(8),
        size_bytes: 5,
        at: Timestamp(START + 3),
        how: How::Pulled,
        by: "admin".to_owned(),
    };
    assert_eq!(read::version(&world.view, &name(), 2), Ok(Some(noted)));
}

#[test]
fn a_long_history_loses_its_oldest_version_that_is_not_pinned() {
    let most = u8::try_from(VERSIONS_MAX).expect("few");
    let mut world = World::after((1..=most).map(note));
    world.check(pin(1), Answer::Done);
    let numbers = |world: &World| world.history().into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    let last = u64::from(most);
    assert_eq!(numbers(&world), (1..=last).collect::<Vec<_>>());
    world.check(note(most + 1), Answer::Done);
    world.check(note(most + 2), Answer::Done);
    assert_eq!(numbers(&world), std::iter::once(1).chain(4..=last + 2).collect::<Vec<_>>());
    assert_eq!((world.model().first, world.model().head), (1, last + 2));
    world.check(unpin(), Answer::Done);
    world.check(note(most + 3), Answer::Done);
    assert_eq!(numbers(&world), (4..=last + 3).collect::<Vec<_>>());
    assert_eq!((world.model().first, world.model().head), (4, last + 3));
    world.check(fix(1, Some(Replicas::Count(1)), How::RolledBack { to: 1 }), no_version("1"));
}

#[test]
fn a_name_that_comes_back_to_its_pinned_version_again_and_again_has_a_bounded_history() {
    let mut world = World::after([note(1), pin(1)]);
    for _ in 0..VERSIONS_MAX {
        world.check(note(2), Answer::Done);
        world.check(note(1), Answer::Done);
    }
    let numbers: Vec<u64> = world.history().into_iter().map(|(number, _)| number).collect();
    let last = 1 + 2 * VERSIONS_MAX as u64;
    assert_eq!(numbers, (last + 1 - VERSIONS_MAX as u64..=last).collect::<Vec<_>>());
}

#[test]
fn a_model_goes_through_the_phases_of_its_life() {
    let mut world = World::new();
    let other =
        Command::SetPhase { name: "other".parse().expect("a name"), phase: PhaseWord::Disabled, note: String::new() };
    world.check(other, refused(Refusal::WishNotFound("other".parse().expect("a name"))));
    world.check(set_phase(PhaseWord::Deprecated, "old"), Answer::Done);
    let since =
        |world: &World, note: &str| Since { at: Timestamp(world.index), by: "admin".to_owned(), note: note.to_owned() };
    assert_eq!(world.model().phase, Phase::Deprecated(since(&world, "old")));
    world.check_idle(set_phase(PhaseWord::Deprecated, "old"));
    world.check(set_phase(PhaseWord::Deprecated, "older"), Answer::Done);
    world.check(set_phase(PhaseWord::Disabled, ""), Answer::Done);
    assert_eq!(world.model().phase, Phase::Disabled(since(&world, "")));
    let text = invalid_text(&world.view, set_phase(PhaseWord::Disabled, &"x".repeat(PHASE_NOTE_BYTES_MAX + 1)));
    assert_eq!(text, "the note has 257 bytes; the limit is 256");
    world.check(drop_at(&[], true, false), Answer::Done);
    assert_eq!(world.model().phase, Phase::Deleted(since(&world, "")));
    assert_eq!(world.dropped(), [1, 2]);
    world.ask(ask(Replicas::Count(1)));
    assert_eq!(world.model().phase, Phase::Active, "somebody wants it again");
}

#[test]
fn the_last_day_of_use_is_kept_of_names_that_have_a_record() {
    let used = |day: u32, keys: &[String]| Command::NoteUse { node: NodeId(1), day, names: keys.to_vec() };
    let keys = [name().key(), "nobody/knows/it:latest".to_owned()];
    let mut world = World::new();
    world.check_idle(used(1, &keys));
    world.check(pin(7), Answer::Done);
    world.check(used(1, &keys), Answer::Done);
    assert_eq!(world.model().used_on, 1);
    world.check_idle(used(1, &keys));
    world.check_idle(used(0, &keys));
    // Log time is some milliseconds after the first day began.
    assert_eq!(invalid_text(&world.view, used(2, &keys)), "day 2 is not here yet; it is day 0");
    assert_eq!(invalid_text(&world.view, used(1, &[String::new()])), "a model key is empty");
    let many = vec![name().key(); REPORT_MODELS_MAX + 1];
    assert_eq!(invalid_text(&world.view, used(1, &many)), "the list of used models has 201 items; the limit is 200");
    let node = NodeId(9);
    world.check(Command::NoteUse { node, day: 1, names: vec![] }, refused(Refusal::NodeNotFound(node)));
}

#[test]
fn names_are_counted_and_bounded() {
    let mut world = World::new();
    let full = Counts { models: MODELS_MAX, ..Counts::default() };
    world.view.write(&[put(Key::Counts, Record::Counts(full))]);
    let (what, unit) = ("this cluster".to_owned(), "models".to_owned());
    let exceeded = refused(Refusal::QuotaExceeded { what, needed: MODELS_MAX + 1, limit: MODELS_MAX, unit });
    for command in [note(7), pin(7), set_phase(PhaseWord::Disabled, ""), drop_at(&[1], false, false)] {
        world.check(command, exceeded.clone());
    }
    world.view.write(&[put(Key::Counts, Record::Counts(Counts { models: MODELS_MAX - 1, ..full }))]);
    world.check(note(7), Answer::Done);
    world.check(pin(7), Answer::Done);
    assert_eq!(read::counts(&world.view), Ok(full), "once each");
}

#[test]
fn people_and_nodes_label_a_node_apart() {
    let set = |own: bool, set: &[(&str, &str)], unset: &[&str]| Command::SetLabels {
        node: NodeId(4),
        own,
        set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    };
    let mut world = World::new();
    world.check(set(false, &[("room", "a"), ("disk", "ssd")], &[]), Answer::Done);
    world.check(set(true, &[("room", "b"), ("os", "")], &["disk"]), Answer::Done);
    world.check_idle(set(true, &[("room", "b")], &["never-there"]));
    world.check(set(false, &[("room", "c")], &["room", "disk"]), Answer::Done);
    let shown = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    };
    let member = world.member(4);
    assert_eq!((shown(&member.labels), shown(&member.own_labels)), ("room=c".to_owned(), "os= room=b".to_owned()));

    let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("k{number}")).collect();
    let pairs: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
    let keys: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    let value = |key: &str| format!("the value of label {key} is longer than 63 bytes or holds a control character");
    for (command, expected) in [
        (set(false, &pairs, &[]), "the list of labels has 33 items; the limit is 32".to_owned()),
        (set(false, &pairs[1..], &[]), "the list of labels has 33 items; the limit is 32".to_owned()), // one was there
        (set(false, &[], &keys), "the list of labels has 33 items; the limit is 32".to_owned()),
        (set(false, &[("", "v")], &[]), "a label is empty".to_owned()),
        (set(false, &[(long.as_str(), "v")], &[]), "a label has 64 bytes; the limit is 63".to_owned()),
        (
            set(false, &[("Room", "v")], &[]),
            "label \"Room\" holds more than a-z, 0-9, dots, dashes and underscores".to_owned(),
        ),
        (set(false, &[("k", long.as_str())], &[]), value("k")),
        (set(false, &[("k", "a\nb")], &[]), value("k")),
    ] {
        assert_eq!(invalid_text(&world.view, command), expected);
    }
    world.check(set(false, &pairs[1..], &["room"]), Answer::Done);
    let node = NodeId(9);
    let unknown = Command::SetLabels { node, own: false, set: BTreeMap::new(), unset: vec![] };
    world.check(unknown, refused(Refusal::NodeNotFound(node)));
}

#[test]
fn a_node_that_may_hold_models_is_cordoned_and_opened() {
    let mut world = World::new();
    world.check_idle(cordon(2, Cordon::Open));
    for state in [Cordon::Cordoned, Cordon::Emptying, Cordon::Open] {
        world.check(cordon(2, state), Answer::Done);
        assert_eq!(world.member(2).cordon, state);
        world.check_idle(cordon(2, state));
    }
    let gateway = "node 4 is a gateway and holds no models";
    assert_eq!(invalid_text(&world.view, cordon(4, Cordon::Cordoned)), gateway);
    world.check(Command::RemoveMember { node: NodeId(3) }, Answer::Done);
    world.check(cordon(3, Cordon::Cordoned), refused(Refusal::NodeNotFound(NodeId(3))));
}

#[test]
fn a_wish_says_which_nodes_come_into_question_within_limits() {
    let wanting = |want: Want| Command::AskModel {
        name: name(),
        replicas: Replicas::Count(1),
        insecure: false,
        want,
        declared: false,
    };
    let world = World::new();
    let labels = BTreeMap::from([("Room".to_owned(), "a".to_owned())]);
    let text = invalid_text(&world.view, wanting(Want { labels, ..Want::default() }));
    assert_eq!(text, "label \"Room\" holds more than a-z, 0-9, dots, dashes and underscores");
    let avoid = (0..=WISH_TARGETS_MAX as u64).map(NodeId).collect();
    let text = invalid_text(&world.view, wanting(Want { avoid, ..Want::default() }));
    assert_eq!(text, "the list of nodes to avoid has 65 items; the limit is 64");
    let mut world = World::new();
    let placed = || Want { gpu_memory_bytes_min: 1, avoid: [NodeId(9)].into(), ..Want::default() };
    let round = world.ask(wanting(placed()));
    assert_eq!(world.wish().want, placed(), "whom it avoids need not be a member");
    world.check_goes_on(wanting(placed()), round);
    assert_eq!(world.ask(wanting(Want::default())), world.index);
}

/// As many members, departed ones and copies as there can be; a wish that everything is on record for.
fn crowded() -> World {
    let mut world = World::after((1..=u8::try_from(VERSIONS_MAX).expect("few")).map(note));
    world.check(pin(1), Answer::Done);
    world.ask(ask(Replicas::Count(1)));
    let (one, wish) = (world.member(1), world.wish());
    let members = (1..=MEMBERS_MAX as u64).map(|id| (id, MemberState::Active));
    let departed = (1..=DEPARTED_MEMBERS_MAX as u64).map(|id| (1_000 + id, MemberState::Departed { at: Timestamp(1) }));
    for (id, state) in members.chain(departed) {
        let member = Member { id: NodeId(id), name: format!("n{id}"), state, ..one.clone() };
        world.view.write(&[put(Key::Member(NodeId(id)), Record::Member(member))]);
        if state == MemberState::Active {
            let location = Location { node: NodeId(id), model: model("m", 1) };
            let key = Key::NodeModel(NodeId(id), name().key());
            world.view.write(&[put(key, Record::Location(location.clone()))]);
            let key = Key::Location(name().key(), NodeId(id));
            world.view.write(&[put(key, Record::Location(location))]);
        }
    }
    let (code, text, at) = (ErrorCode::PullCancelled, String::new(), Timestamp(1));
    let failure = Failure { code, text, at, by_hand: true };
    let targets: Vec<NodeId> = (1..=WISH_TARGETS_MAX as u64).map(NodeId).collect();
    let (ingester, made_at, kind) = (NodeId(1), Timestamp(1), Default::default());
    let wish = Wish {
        replicas: Replicas::Count(64),
        failures: (300..300 + WISH_FAILURES_MAX as u64).map(|id| (NodeId(id), failure.clone())).collect(),
        plan: Some(Plan { ingester, targets, made_at, kind }),
        ..wish
    };
    world.view.write(&[put(Key::Wish(name().key()), Record::Wish(Box::new(wish)))]);
    world
}

#[test]
fn no_command_reads_more_keys_than_it_may() {
    let tagged = How::Tagged { from: "other".parse().expect("a name") };
    let some: Vec<u64> = (101..=100 + WISH_TARGETS_MAX as u64).collect();
    for command in [
        ask(Replicas::Count(64)),
        ask(Replicas::All),
        ask(on(&(1..=64).collect::<Vec<u64>>())),
        fix(1, None, tagged),
        fix(1, Some(Replicas::Count(64)), How::RolledBack { to: 1 }),
        note(99),
        pin(64),
        drop_at(&some, false, false),
        drop_at(&[], true, true),
        Command::ForgetModels { node: NodeId(1), limit: 512 },
    ] {
        let shown = format!("{command:?}");
        let answer = crowded().apply(command).answer;
        assert!(!matches!(answer, Answer::Refused(_)), "{shown}: {answer:?}");
    }
    let mut world = crowded();
    world.check(drop_at(&[], false, true), Answer::Done);
    assert_eq!(world.model().drops.len(), DROPS_MAX);
    assert_eq!(world.wish().failures.len(), WISH_FAILURES_MAX, "what is kept of them is bounded too");
    world.check(note(98), Answer::Done);
    world.check(fix(98, Some(Replicas::All), How::Pulled), pinned(1));
    world.ask(fix(1, Some(Replicas::All), How::RolledBack { to: 1 }));
}

#[test]
fn the_largest_report_ends_drops_and_wishes_within_the_keys_of_a_command() {
    let mut world = World::new();
    let names: Vec<String> = (0..2 * REPORT_MODELS_MAX).map(|number| format!("m{number}")).collect();
    let round = world.ask(ask(Replicas::Count(1)));
    world.check(plan(round, 1, &[1]), Answer::Done);
    let wish = Wish { digest: Some(digest(7)), ..world.wish() };
    for (number, text) in names.iter().enumerate() {
        let name: ModelName = text.parse().expect("a name");
        let location = Location { node: NodeId(1), model: model(text, 7) };
        let wish = Wish { name: name.clone(), ..wish.clone() };
        // Every other copy that vanishes was to go; the others were a person's.
        let (drop, by) = (number % 2 == 0, "admin".to_owned());
        let at = Timestamp(1);
        let dropped = drop.then(|| (NodeId(1), Drop { digest: digest(7), at, by, insisted: false }));
        let kept = Model { drops: dropped.into_iter().collect(), ..Model::new(name.clone(), Timestamp(1)) };
        world.view.write(&[
            put(Key::NodeModel(NodeId(1), name.key()), Record::Location(location.clone())),
            put(Key::Location(name.key(), NodeId(1)), Record::Location(location)),
            put(Key::Wish(name.key()), Record::Wish(Box::new(wish))),
            put(Key::Model(name.key()), Record::Model(Box::new(kept))),
        ]);
    }
    let (exchanged, removed) = names.split_at(REPORT_MODELS_MAX);
    let present: Vec<(&str, u8)> = exchanged.iter().map(|name| (name.as_str(), 8)).collect();
    let absent: Vec<&str> = removed.iter().map(String::as_str).collect();
    world.check(report(1, &present, &absent), Answer::Done);
    let failed = |names: &[String]| {
        let wish = |text: &String| read::wish(&world.view, &text.parse().expect("a name")).expect("readable");
        names.iter().filter_map(wish).filter(|wish| wish.failures.contains_key(&NodeId(1))).count()
    };
    assert_eq!((failed(exchanged), failed(removed)), (REPORT_MODELS_MAX, REPORT_MODELS_MAX / 2));
    let models = read::models(&world.view).expect("readable");
    let waiting = models.iter().filter(|model| !model.drops.is_empty()).count();
    assert_eq!(waiting, REPORT_MODELS_MAX / 2, "of versions that were exchanged, as there are no keys left for them");
}
