//! Wishes for models, row by row: asked for, planned, resolved, failed, forgotten, and all that is told too late or by
//! the wrong node.

use std::collections::BTreeMap;

use ollamax_types::{ErrorCode, ModelName};

use super::world::{World, ids, on};
use super::*;
use crate::catalog::command::CopyCourse;
use crate::catalog::record::{Cordon, Counts, Failure, How, PhaseWord, Plan, Replicas, Wish};

fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

fn ask(model: &str, replicas: Replicas) -> Command {
    Command::AskModel {
        name: name(model),
        replicas,
        insecure: false,
        want: Default::default(),
        declared: false,
        unsaid: false,
        away: Default::default(),
    }
}

fn plan(model: &str, round: u64, ingester: u64, targets: &[u64]) -> Command {
    Command::PlanPull {
        name: name(model),
        round,
        ingester: NodeId(ingester),
        targets: ids(targets),
        kind: Default::default(),
    }
}

fn resolve(node: u64, model: &str, round: u64, digest: u8) -> Command {
    let (node, digest, size_bytes) = (NodeId(node), Digest([digest; 32]), 5);
    Command::ResolveWish { node, name: name(model), round, digest, size_bytes }
}

fn fail(node: u64, model: &str, round: u64, code: ErrorCode) -> Command {
    Command::TellPull { node: NodeId(node), name: name(model), round, code, text: code.as_str().to_owned() }
}

fn forget(model: &str) -> Command {
    Command::ForgetWish { name: name(model), round: None }
}

fn passed(model: &str, round: u64) -> Answer {
    refused(Refusal::RoundPassed { name: name(model), round })
}

fn not_planned(model: &str, node: u64) -> Answer {
    refused(Refusal::NotPlanned { name: name(model), node: NodeId(node) })
}

fn no_node(node: u64) -> Answer {
    refused(Refusal::NodeNotFound(NodeId(node)))
}

impl World {
    fn counted(&self) -> u64 {
        read::counts(&self.view).expect("readable").wishes
    }
}

#[test]
fn a_round_is_on_record_from_the_question_to_the_version() {
    let mut world = World::new();
    let round = world.ask(ask("Demo", Replicas::Count(2)));
    assert_eq!(round, world.index);
    let begun = Wish {
        name: name("demo"),
        round,
        insecure: false,
        replicas: Replicas::Count(2),
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: BTreeMap::new(),
        asked_at: Timestamp(round),
        asked_by: "admin".to_owned(),
        want: Default::default(),
        declared: false,
        surplus: Default::default(),
        shared: false,
    };
    assert_eq!(world.wish("demo"), begun);
    assert_eq!(world.wish("demo").name.to_string(), "Demo:latest", "spelled as it was asked for");
    world.check(plan("demo", round, 1, &[1, 2]), Answer::Done);
    let planned =
        Plan { ingester: NodeId(1), targets: ids(&[1, 2]), made_at: Timestamp(world.index), kind: Default::default() };
    world.check(resolve(1, "demo", round, 9), Answer::Done);
    let resolved = Wish { plan: Some(planned), digest: Some(Digest([9; 32])), size_bytes: 5, ..begun };
    assert_eq!(world.wish("demo"), resolved);
    assert_eq!(read::wishes(&world.view), Ok(vec![resolved]));
    assert_eq!(world.counted(), 1);

    world.check_idle(plan("demo", round, 1, &[1, 2]));
    world.check_idle(resolve(1, "demo", round, 9));
    world.check(forget("demo"), Answer::Done);
    assert_eq!((read::wish(&world.view, &name("demo")), world.counted()), (Ok(None), 0));
    world.check(forget("demo"), refused(Refusal::WishNotFound(name("demo"))));
}

#[test]
fn a_wish_is_forgotten_in_its_round_and_what_was_asked_for_since_stays() {
    let mut world = World::new();
    let within = |round: u64| Command::ForgetWish { name: name("m"), round: Some(round) };
    assert_eq!((within(1).least_version(), forget("m").least_version()), (5, 4));
    let first = world.ask(ask("m", Replicas::Count(2)));
    let second = world.ask(ask("m", Replicas::Count(1)));
    world.check(within(first), passed("m", first));
    assert_eq!((world.wish("m").round, world.counted()), (second, 1));
    world.check(within(second), Answer::Done);
    assert_eq!((read::wish(&world.view, &name("m")), world.counted()), (Ok(None), 0));
    world.check(within(second), refused(Refusal::WishNotFound(name("m"))));
}

#[test]
fn a_copy_is_told_of_by_who_makes_it_in_its_round_and_leaves_the_record_as_it_is() {
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(2)));
    let note = |node, round, members: usize, verified_bytes| {
        let members = vec![(NodeId(1), 1); members];
        let course = CopyCourse { verified_bytes, size_bytes: 5, members, ..Default::default() };
        Command::NoteCopy { node: NodeId(node), name: name("m"), round, course: Box::new(course) }
    };
    assert_eq!(note(1, round, 0, 1).least_version(), 4);
    world.check(note(1, round, 0, 1), not_planned("m", 1));
    world.check(plan("m", round, 1, &[1]), Answer::Done);
    let before = world.wish("m");
    for members in [0, COPY_SOURCES_MAX] {
        world.check(note(1, round, members, 5), Answer::Done);
    }
    assert_eq!((world.wish("m"), world.counted()), (before, 1));
    world.check(note(2, round, 0, 1), not_planned("m", 2));
    world.check(note(1, round - 1, 0, 1), passed("m", round - 1));
    for (members, verified_bytes) in [(COPY_SOURCES_MAX + 1, 1), (0, 6)] {
        let answer = world.apply(note(1, round, members, verified_bytes)).answer;
        assert!(matches!(answer, Answer::Refused(Refusal::Invalid(_))), "{answer:?}");
    }
    world.check(forget("m"), Answer::Done);
    world.check(note(1, round, 0, 1), refused(Refusal::WishNotFound(name("m"))));
}

/// Whether the same question is answered with the same round, after some commands about it.
fn goes_on(story: &dyn Fn(u64) -> Vec<Command>) -> bool {
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(2)));
    world.check_taken(story(round));
    let before = world.wish("m");
    let again = world.ask(ask("M", Replicas::Count(2)));
    if again == round {
        assert_eq!(world.wish("m"), before, "what goes on stays as it is");
        return true;
    }
    let wish = world.wish("m");
    assert_eq!((again, wish.round), (world.index, world.index));
    assert_eq!((wish.digest, wish.plan, wish.failures.len()), (None, None, 0), "a new round begins with nothing");
    assert_eq!(world.counted(), 1, "it is the same wish");
    false
}

#[test]
fn the_same_question_keeps_a_round_that_somebody_is_busy_with() {
    let planned = |round| plan("m", round, 1, &[1, 2]);
    let resolved = |round| resolve(1, "m", round, 9);
    let holds = |node| report(node, &[("m", 9)], &[]);
    let fails = |node, round| fail(node, "m", round, ErrorCode::DiskFull);
    let remove = |node| Command::RemoveMember { node: NodeId(node) };
    let drain = Command::SetDrained { node: NodeId(1), drained: true };
    assert!(goes_on(&|_| vec![]), "nothing has happened yet");
    assert!(goes_on(&|round| vec![planned(round)]));
    assert!(goes_on(&|round| vec![planned(round), resolved(round)]));
    assert!(goes_on(&|round| vec![planned(round), resolved(round), holds(1)]), "2 is busy");
    assert!(!goes_on(&|round| vec![planned(round), resolved(round), holds(1), holds(2)]), "all have it");
    assert!(!goes_on(&|round| vec![planned(round), fails(1, round)]), "nobody asks the registry");
    assert!(!goes_on(&|round| vec![planned(round), resolved(round), fails(1, round)]));
    assert!(goes_on(&|round| vec![planned(round), resolved(round), fails(1, round), holds(1)]), "it came through");
    assert!(goes_on(&|round| vec![planned(round), resolved(round), fails(2, round)]), "1 is busy");
    assert!(!goes_on(&|round| vec![planned(round), resolved(round), fails(2, round), holds(1)]));
    assert!(!goes_on(&|round| vec![planned(round), resolved(round), fails(2, round), holds(1), holds(2)]));
    assert!(goes_on(&|round| {
        vec![planned(round), resolved(round), holds(1), report(2, &[("m", 8)], &[])] // an old version
    }));
    assert!(!goes_on(&|round| vec![planned(round), resolved(round), holds(1), remove(2)]), "2 is gone");
    assert!(!goes_on(&|round| vec![planned(round), remove(1)]), "who asked the registry is gone");
    assert!(goes_on(&|round| vec![planned(round), drain.clone()]), "it takes no requests, and goes on fetching");
    let copied = |round| vec![report(3, &[("m", 9)], &[]), plan("m", round, 3, &[1]), resolve(3, "m", round, 9)];
    assert!(goes_on(&copied), "1 is busy");
    assert!(!goes_on(&|round| [copied(round), vec![holds(1)]].concat()), "3 was no target");
}

#[test]
fn a_receiver_that_is_away_keeps_a_round_for_some_time_only() {
    let kept_ms = u64::try_from(ROUND_KEPT_FOR.as_millis()).expect("minutes");
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(2))); // its log time is its index
    world.check(plan("m", round, 1, &[1, 2]), Answer::Done);
    world.check(resolve(1, "m", round, 9), Answer::Done);
    let check_after = |world: &mut World, passed_ms: u64, goes_on: bool| {
        let answer = world.apply_at(round + passed_ms, ask("m", Replicas::Count(2))).answer;
        let expected = if goes_on { round } else { world.index };
        assert_eq!(answer, Answer::Wish { round: expected }, "after {passed_ms} ms");
    };
    check_after(&mut world, kept_ms + 5, true); // the ingester is at it still
    world.check(report(1, &[("m", 9)], &[]), Answer::Done);
    check_after(&mut world, kept_ms - 1, true);
    check_after(&mut world, kept_ms, false);
}

#[test]
fn another_wish_for_the_same_model_begins_a_new_round() {
    let others = [
        (Replicas::Count(3), false),
        (Replicas::All, false),
        (on(&[1, 2]), false),
        (Replicas::Count(2), true), // without TLS
    ];
    for (replicas, insecure) in others {
        let mut world = World::new();
        let first = world.ask(ask("m", Replicas::Count(2)));
        let second = world.ask(Command::AskModel {
            name: name("m"),
            replicas: replicas.clone(),
            insecure,
            want: Default::default(),
            declared: false,
            unsaid: false,
            away: Default::default(),
        });
        assert_eq!((second, world.counted()), (first + 1, 1), "{replicas:?}");
        let wish = world.wish("m");
        assert_eq!((wish.round, wish.replicas, wish.insecure), (second, replicas, insecure));
        world.check(plan("m", first, 1, &[1, 2]), passed("m", first));
    }
}

#[test]
fn what_is_told_late_or_by_the_wrong_node_is_refused() {
    let (unknown, full) = (|| refused(Refusal::WishNotFound(name("other"))), ErrorCode::DiskFull);
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(2)));
    world.check(resolve(1, "m", round, 9), not_planned("m", 1)); // nothing is planned
    world.check(fail(1, "m", round, full), not_planned("m", 1));
    world.check(plan("m", round, 1, &[1, 2]), Answer::Done);
    world.check(resolve(2, "m", round, 9), not_planned("m", 2)); // it only receives
    world.check(fail(3, "m", round, full), not_planned("m", 3)); // it has no part
    world.check(fail(4, "m", round, full), not_planned("m", 4));
    world.check(resolve(9, "m", round, 9), no_node(9));
    world.check(fail(9, "m", round, full), no_node(9));
    for command in [plan("other", round, 1, &[1]), resolve(1, "other", round, 9), fail(1, "other", round, full)] {
        world.check(command, unknown());
    }
    world.check(forget("other"), unknown());
    for other in [round - 1, round + 1] {
        for command in [plan("m", other, 1, &[1]), resolve(1, "m", other, 9), fail(2, "m", other, full)] {
            world.check(command, passed("m", other));
        }
    }

    // The plan went on without node 1.
    world.check(plan("m", round, 2, &[2, 3]), Answer::Done);
    world.check(resolve(1, "m", round, 9), not_planned("m", 1));
    world.check(fail(1, "m", round, full), not_planned("m", 1));
    world.check(resolve(2, "m", round, 9), Answer::Done);

    let next = world.ask(ask("m", Replicas::All));
    for command in [plan("m", round, 2, &[2]), resolve(2, "m", round, 9), fail(2, "m", round, full)] {
        world.check(command, passed("m", round));
    }
    world.check(forget("m"), Answer::Done);
    let gone = refused(Refusal::WishNotFound(name("m")));
    world.check(fail(2, "m", next, full), gone);
}

#[test]
fn a_wish_says_that_somebody_else_asked_for_it_before_until_it_is_forgotten() {
    let (admin, own, again) = ("node/1 for admin", "node/1 for uid/7", "node/2 for uid/7");
    // Each asks for one copy more; nobody: it is forgotten.
    let check = |version: u32, askers: &[&str], expected: bool| {
        let mut world = World::new();
        let cluster = read::cluster(&world.view).expect("readable").expect("there is one");
        world.view.write(&[put(Key::Cluster, Record::Cluster(Cluster { version, ..cluster }))]);
        for (asker, count) in askers.iter().zip(1..) {
            world.index += 1;
            let command = if asker.is_empty() { forget("m") } else { ask("m", Replicas::Count(count)) };
            let asked = Entry { principal: (*asker).to_owned(), ..entry(world.index, command) };
            let answer = world.view.apply(world.index, 1, &asked).expect("no fault");
            assert!(!matches!(answer, Answer::Refused(_)), "{asker}: {answer:?}");
        }
        assert_eq!(world.wish("m").shared, expected, "{version} {askers:?}");
    };
    check(CLUSTER_VERSION, &[own], false);
    check(CLUSTER_VERSION, &[own, again], false);
    check(CLUSTER_VERSION, &[admin, own], true);
    check(CLUSTER_VERSION, &["node/1", own], true);
    check(CLUSTER_VERSION, &[admin, own, again], true);
    check(CLUSTER_VERSION, &[own, admin, own], true);
    check(CLUSTER_VERSION, &[admin, own, "", own], false);
    check(4, &[admin, own], false);
}

#[test]
fn the_first_version_of_a_round_stays() {
    let moved = |wanted, found| {
        let (wanted, found) = (Digest([wanted; 32]), Digest([found; 32]));
        refused(Refusal::VersionMoved { name: name("m"), wanted, found })
    };
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(2)));
    world.check(plan("m", round, 1, &[1, 2]), Answer::Done);
    world.check(resolve(1, "m", round, 9), Answer::Done);
    world.check(resolve(1, "m", round, 8), moved(9, 8));
    // Also for the next ingester, who finds that the tag has moved; a new round begins with what is there now.
    world.check(plan("m", round, 2, &[2, 3]), Answer::Done);
    world.check(resolve(2, "m", round, 8), moved(9, 8));
    world.check_idle(resolve(2, "m", round, 9));
    world.check(fail(2, "m", round, ErrorCode::DigestConflict), Answer::Done);
    let next = world.ask(ask("m", Replicas::Count(2)));
    world.check(plan("m", next, 2, &[2, 3]), Answer::Done);
    world.check(resolve(2, "m", next, 8), Answer::Done);
    assert_eq!(world.wish("m").digest, Some(Digest([8; 32])));

    let (digest, size_bytes) = (Digest([8; 32]), MODEL_BYTES_MAX + 1);
    let huge = Command::ResolveWish { node: NodeId(2), name: name("m"), round: next, digest, size_bytes };
    let text = invalid_text(&world.view, huge);
    assert_eq!(text, format!("m:latest has {size_bytes} bytes; the limit is {MODEL_BYTES_MAX}"));
}

#[test]
fn a_plan_names_nodes_that_can_hold_the_model() {
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::All));
    let crowd: Vec<u64> = (1..=WISH_TARGETS_MAX as u64 + 1).collect();
    let rows: [(u64, &[u64], &str); 6] = [
        (1, &[], "the list of targets is empty"),
        (1, &crowd, "the list of targets has 65 items; the limit is 64"),
        (1, &[1, 2, 1], "the list of targets names node 1 twice"),
        (1, &[1, 4], "node 4 is a gateway and holds no models"),
        (4, &[1, 2], "node 4 is a gateway and holds no models"),
        (3, &[1, 2], "node 3 is no target and does not hold m:latest"),
    ];
    for (ingester, targets, expected) in rows {
        assert_eq!(invalid_text(&world.view, plan("m", round, ingester, targets)), expected);
    }
    world.check(plan("m", round, 1, &[1, 9]), no_node(9));
    world.check(plan("m", round, 9, &[1, 2]), no_node(9));
    world.check(report(3, &[("m", 7)], &[]), Answer::Done);
    world.check(plan("m", round, 3, &[1, 2]), Answer::Done); // it holds a version, which one the round will show
    world.check(Command::SetDrained { node: NodeId(2), drained: true }, Answer::Done);
    world.check(plan("m", round, 2, &[1, 2]), Answer::Done);
    world.check(Command::RemoveMember { node: NodeId(2) }, Answer::Done);
    world.check(fail(2, "m", round, ErrorCode::DiskFull), no_node(2));
    world.check(resolve(2, "m", round, 9), no_node(2));
    world.check(plan("m", round, 1, &[1, 2]), no_node(2));
    world.check(plan("m", round, 1, &[1, 3]), Answer::Done);

    let behind = Entry { fence_term: Some(7), ..entry(99, plan("m", round, 1, &[1])) };
    let answer = apply(&world.view, 99, 8, &behind).expect("no fault").answer;
    assert_eq!(answer, refused(Refusal::Fenced { expected: 7, actual: 8 }), "another leads by now");
}

#[test]
fn a_failure_stays_for_the_round_unless_its_node_becomes_the_ingester() {
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::All));
    world.check(plan("m", round, 1, &[1, 2, 3]), Answer::Done);
    world.check(fail(2, "m", round, ErrorCode::OriginFailed), Answer::Done);
    let told_at = world.index;
    world.check_idle(fail(2, "m", round, ErrorCode::OriginFailed));
    let failure =
        |code: ErrorCode, at| Failure { code, text: code.as_str().to_owned(), at: Timestamp(at), by_hand: false };
    let expected = BTreeMap::from([(NodeId(2), failure(ErrorCode::OriginFailed, told_at))]);
    assert_eq!(world.wish("m").failures, expected);
    world.check(fail(2, "m", round, ErrorCode::DiskFull), Answer::Done);
    let at = world.index;
    assert_eq!(world.wish("m").failures[&NodeId(2)], failure(ErrorCode::DiskFull, at), "the last word counts");
    world.check(fail(1, "m", round, ErrorCode::RuntimeUnavailable), Answer::Done);

    let failed = |world: &World| world.wish("m").failures.into_keys().map(|node| node.0).collect::<Vec<_>>();
    world.check(plan("m", round, 1, &[1, 3]), Answer::Done); // the same ingester, with others
    assert_eq!(failed(&world), [1, 2]);
    world.check(plan("m", round, 2, &[2, 3]), Answer::Done);
    assert_eq!(failed(&world), [1], "2 has something new to try, 1 would fail again");
    world.check(fail(2, "m", round, ErrorCode::DiskFull), Answer::Done);
    world.check_idle(plan("m", round, 2, &[2, 3]));
    assert_eq!(failed(&world), [1, 2]);
}

#[test]
fn a_person_who_removes_or_exchanges_a_copy_does_not_get_it_back() {
    for gone in [report(2, &[], &["m"]), report(2, &[("m", 8)], &[])] {
        let mut world = World::new();
        let round = world.ask(ask("m", Replicas::Count(2)));
        world.check(plan("m", round, 1, &[1, 2]), Answer::Done);
        world.check(report(2, &[("m", 7)], &[]), Answer::Done);
        world.check(report(2, &[("m", 9)], &[]), Answer::Done);
        world.check(resolve(1, "m", round, 9), Answer::Done);
        assert_eq!(world.wish("m").failures, BTreeMap::new(), "what it had before is not what the wish spreads");
        world.check(gone, Answer::Done);
        let failures = world.wish("m").failures;
        assert_eq!(failures.keys().collect::<Vec<_>>(), [&NodeId(2)]);
        assert_eq!(failures[&NodeId(2)].code, ErrorCode::PullCancelled);
        assert_eq!(failures[&NodeId(2)].at, Timestamp(world.index));
        let again = world.ask(ask("m", Replicas::Nodes(ids(&[1, 2]))));
        assert_eq!(world.wish("m").failures, BTreeMap::new(), "who asks anew wants it there again");
        assert_ne!(again, round);
    }
}

#[test]
fn a_copy_that_no_wish_spread_goes_without_a_word() {
    let mut world = World::new();
    let round = world.ask(ask("m", Replicas::Count(1)));
    world.check(plan("m", round, 1, &[1]), Answer::Done);
    world.check(resolve(1, "m", round, 9), Answer::Done);
    world.check(report(3, &[("m", 9), ("k", 4)], &[]), Answer::Done);
    world.check(report(3, &[], &["m", "k"]), Answer::Done);
    assert_eq!(world.wish("m").failures, BTreeMap::new(), "node 3 has no part in the plan");
}

#[test]
fn texts_of_failures_are_cut_and_failures_are_bounded() {
    let mut world = World::new();
    assert_eq!(world.apply(token_with("many", Role::Learner, TOKEN_USES_MAX, HOUR_MS)).answer, Answer::Done);
    let learners: Vec<u64> = (5..5 + WISH_FAILURES_MAX as u64 + 10).collect();
    for id in &learners {
        let member = NewMember { peer_id: PeerId(format!("many-{id}")), ..newcomer(&format!("m{id}"), 0, 0) };
        let joined = world.apply(join_as("many", Role::Learner, member)).answer;
        assert!(matches!(joined, Answer::Member { node, .. } if node.0 == *id), "{joined:?}");
    }
    let round = world.ask(ask("m", Replicas::All));
    for part in learners.chunks(WISH_TARGETS_MAX) {
        world.check(plan("m", round, part[0], part), Answer::Done);
        assert_eq!(world.ask(ask("m", Replicas::All)), round, "they are busy, and within the keys of a command");
        for node in part {
            world.check(fail(*node, "m", round, ErrorCode::DiskFull), Answer::Done);
        }
    }
    let kept: Vec<u64> = world.wish("m").failures.into_keys().map(|node| node.0).collect();
    assert_eq!(kept, learners[10..], "the earliest without a part made room");

    let last = *learners.last().expect("some");
    for (text, bytes) in [
        ("x".repeat(FAILURE_TEXT_BYTES_MAX), FAILURE_TEXT_BYTES_MAX),
        ("x".repeat(FAILURE_TEXT_BYTES_MAX + 1), FAILURE_TEXT_BYTES_MAX),
        ("x".repeat(FAILURE_TEXT_BYTES_MAX - 1) + "é", FAILURE_TEXT_BYTES_MAX - 1),
        (String::new(), 0),
    ] {
        let (node, code) = (NodeId(last), ErrorCode::DiskFull);
        let told = || Command::TellPull { node, name: name("m"), round, code, text: text.clone() };
        world.apply(told());
        assert_eq!(world.wish("m").failures[&node].text, text[..bytes]);
        world.check_idle(told()); // what was cut is what was told
    }
}

#[test]
fn a_wish_is_for_some_nodes_that_can_hold_models() {
    let mut world = World::new();
    let most = WISH_TARGETS_MAX as u32;
    for (replicas, nodes) in [
        (Replicas::Count(0), 0),
        (Replicas::Count(most + 1), 65),
        (on(&[]), 0),
        (on(&(1..=65).collect::<Vec<u64>>()), 65),
    ] {
        let text = invalid_text(&world.view, ask("m", replicas));
        assert_eq!(text, format!("a model is asked for on 1 to 64 nodes, not {nodes}"));
    }
    assert_eq!(invalid_text(&world.view, ask("m", on(&[1, 4]))), "node 4 is a gateway and holds no models");
    world.check(ask("m", on(&[1, 9])), no_node(9));
    world.check(Command::RemoveMember { node: NodeId(2) }, Answer::Done);
    world.check(ask("m", on(&[1, 2])), no_node(2));
    let round = world.ask(ask("m", on(&[3, 1, 3])));
    assert_eq!(world.wish("m").replicas, on(&[1, 3]), "in order, each once");
    assert_eq!(world.ask(ask("m", on(&[1, 3]))), round, "the same wish");
    for replicas in [Replicas::Count(1), Replicas::Count(most), Replicas::All] {
        world.ask(ask("m", replicas));
    }
}

#[test]
fn wishes_are_counted_and_bounded() {
    let mut world = World::new();
    world.ask(ask("a", Replicas::All));
    world.view.write(&[put(Key::Counts, Record::Counts(Counts { wishes: WISHES_MAX, ..Counts::default() }))]);
    let (what, unit) = ("this cluster".to_owned(), "wishes".to_owned());
    let exceeded = Refusal::QuotaExceeded { what, needed: WISHES_MAX + 1, limit: WISHES_MAX, unit };
    world.check(ask("b", Replicas::All), refused(exceeded));
    world.ask(ask("a", Replicas::Count(1))); // one that is there can begin anew
    assert_eq!(world.counted(), WISHES_MAX);
    world.check(forget("a"), Answer::Done);
    world.ask(ask("b", Replicas::All));
    assert_eq!(world.counted(), WISHES_MAX);
    world.view.write(&[Mutation::Delete(Key::Counts)]);
    let fault = apply(&world.view, 99, 1, &entry(99, forget("b")));
    assert_eq!(fault, Err(Fault::Invariant("more wishes than counted".to_owned())));
}

#[test]
fn an_older_cluster_takes_no_wish_no_version_no_place_and_nothing_that_models_can_do() {
    let Command::InitCluster { cluster, name: lab, public_key, first, .. } = init() else {
        unreachable!("init is one")
    };
    let old = Command::InitCluster { cluster, name: lab, public_key, first, version: 3 };
    let able = ModelRecord { capabilities: vec!["tools".to_owned()], ..model("m", 1) };
    let reported = |present| Command::ReportModels { node: NodeId(1), present, absent: vec![], removed: vec![] };
    let digest = Digest([9; 32]);
    let newer = || {
        [
            ask("m", Replicas::All),
            plan("m", 1, 1, &[1]),
            resolve(1, "m", 1, 9),
            fail(1, "m", 1, ErrorCode::DiskFull),
            forget("m"),
            Command::BindBlobs { node: NodeId(1), blobs: vec![] },
            Command::NoteVersion { name: name("m"), digest, size_bytes: 5, how: How::Found },
            Command::FixVersion { name: name("m"), digest, size_bytes: 5, replicas: None, how: How::Found },
            Command::PinModel { name: name("m"), digest: None },
            Command::SetPhase { name: name("m"), phase: PhaseWord::Disabled, note: String::new() },
            Command::DropCopies { name: name("m"), nodes: vec![], forget: false, force: false, unless_pinned: false },
            Command::NoteUse { node: NodeId(1), day: 0, names: vec![] },
            Command::ForgetBlobs { before: Timestamp(0), after: None, limit: 1 },
            Command::SetLabels { node: NodeId(1), own: false, set: BTreeMap::new(), unset: vec![] },
            Command::SetCordon { node: NodeId(1), cordon: Cordon::Open },
            reported(vec![model("a", 1), able.clone()]),
            Command::ReportModels {
                node: NodeId(1),
                present: vec![],
                absent: vec![],
                removed: vec![name("gone").key()],
            },
        ]
    };
    let too_low = |command| (0, command, refused(Refusal::VersionTooLow { needed: 4, actual: 3 }));
    let founded = vec![(0, old, member_answer(1, "n1", false)), (0, reported(vec![model("m", 1)]), Answer::Done)];
    let mut view = check(founded.into_iter().chain(newer().map(too_low)).collect());
    let raise = entry(0, Command::RaiseVersion { version: 4 });
    assert_eq!(view.apply(90, 1, &raise), Ok(Answer::Done));
    for (at, command) in newer().into_iter().enumerate() {
        let answer = view.apply(91 + at as u64, 1, &entry(0, command)).expect("no fault");
        assert!(!matches!(answer, Answer::Refused(Refusal::VersionTooLow { .. })), "{answer:?}");
    }
    let held = read::models_of(&view, NodeId(1)).expect("readable");
    let able: Vec<usize> = held.iter().map(|location| location.model.capabilities.len()).collect();
    assert_eq!(able, [0, 1]);
}
