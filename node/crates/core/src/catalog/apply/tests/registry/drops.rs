//! Copies that go: told to, with the guards that hold them back, or removed by a person.

use std::collections::BTreeMap;

use ollamax_types::ErrorCode;

use super::*;
use crate::catalog::record::{Drop, Failure, Want};

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
    let text = invalid_text(&World::with_copies().view, drop_at(&crowd, false, false));
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
        unsaid: false,
        away: Default::default(),
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
fn a_pin_is_told_before_the_last_copy() {
    let check = |version: u32, command: Command, expected: Answer| {
        World::after([pin(7), held(3, 8)]).at_version(version).check(command, expected);
    };
    check(CLUSTER_VERSION, drop_at(&[], true, false), pinned(7));
    check(4, drop_at(&[], true, false), last_copy());
    check(CLUSTER_VERSION, drop_at(&[3], false, false), last_copy());
    check(CLUSTER_VERSION, drop_at(&[], true, true), Answer::Done);
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
    assert_eq!(world.wish("m").plan.map(|plan| plan.targets), Some(ids(&[1, 2])));
}

#[test]
fn a_drop_takes_its_node_out_of_the_plan() {
    let check = |targets: &[u64], ingester: u64, dropped: u64, expected: Option<(u64, &[u64])>| {
        let mut world = World::after([held(3, 7)]);
        let round = world.ask(ask(Replicas::Count(1)));
        world.check(plan(round, ingester, targets), Answer::Done);
        world.check(resolve(round, ingester, 7), Answer::Done);
        world.check(drop_at(&[dropped], false, false), Answer::Done);
        let left = world.wish("m").plan.map(|plan| (plan.ingester.0, plan.targets));
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
    assert_eq!(world.wish("m").failures, failures());
    assert_eq!(world.wish("m").plan.map(|plan| plan.targets), Some(ids(&[1])));
    world.check(gone(2), Answer::Done);
    assert_eq!((world.wish("m").failures, world.dropped()), (failures(), vec![]), "the cluster did it, not a person");
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
fn a_copy_that_was_taken_back_while_its_node_removed_it_is_missing_and_no_more() {
    let gone = |is_told_so: bool| Command::ReportModels {
        node: NodeId(3),
        present: vec![],
        absent: vec![name().key()],
        removed: is_told_so.then(|| name().key()).into_iter().collect(),
    };
    for (is_told_so, failed) in [(true, vec![]), (false, vec![(3, true)])] {
        let (mut world, round) = World::spread(Replicas::Count(2));
        world.check_taken([held(3, 7), drop_at(&[3], false, false)]);
        world.check(plan(round, 1, &[1, 3]), Answer::Done); // node 2 is lost, and node 3 has looked a moment before
        assert_eq!(world.dropped(), [0_u64; 0]);
        world.check(gone(is_told_so), Answer::Done);
        assert_eq!(world.failed(), failed, "{is_told_so}");
        assert_eq!(world.wish("m").plan.map(|plan| plan.targets), Some(ids(&[1, 3])), "it may come back");
        world.ask(ask(Replicas::Count(2)));
        assert_eq!(world.failed(), failed, "{is_told_so}: in the next round");
    }
}

#[test]
fn a_pin_that_went_on_record_meanwhile_holds_also_against_who_insists_where_that_is_asked_for() {
    let drop = |unless_pinned: bool| {
        let (nodes, forget, force) = (vec![], true, true);
        Command::DropCopies { name: name(), nodes, forget, force, unless_pinned }
    };
    assert_eq!((drop(true).least_version(), drop(false).least_version()), (5, 4));
    let mut world = World::after([pin(7)]);
    world.check(drop(true), pinned(7));
    world.check(unpin(), Answer::Done);
    world.check(drop(true), Answer::Done);
    assert_eq!(world.dropped(), [1, 2]);
    World::after([pin(7)]).check(drop(false), Answer::Done);
    let too_low = refused(Refusal::VersionTooLow { needed: 5, actual: 4 });
    World::with_copies().at_version(4).check(drop(true), too_low);
    World::with_copies().at_version(4).check(drop(false), Answer::Done);
}

/// Three copies that were wished for, of which two are too many by now.
fn lowered() -> (World, u64) {
    let mut world = World::after([held(3, 7)]);
    let round = world.ask(ask(Replicas::Count(3)));
    world.check_taken([plan(round, 1, &[1, 2, 3]), resolve(round, 1, 7)]);
    let round = world.ask(ask(Replicas::Count(1)));
    assert_eq!(surplus(&world), [0_u64; 0], "all are targets still: the last ones go");
    (world, round)
}

fn surplus(world: &World) -> Vec<u64> {
    world.wish("m").surplus.into_iter().map(|node| node.0).collect()
}

#[test]
fn copies_that_are_too_many_are_known_as_such_in_later_rounds() {
    let check = |what: &str, commands: &[Command], expected: &[u64]| {
        let (mut world, _) = lowered();
        world.check_taken(commands.to_vec());
        assert_eq!(surplus(&world), expected, "{what}");
    };
    let again = || ask(Replicas::Count(1));
    check("which of them stay is planned anew", &[again()], &[1, 2, 3]);
    check("whatever is asked for", &[ask(on(&[2]))], &[1, 3]);
    check("also a version of before", &[note(8), fix(8, None, How::RolledBack { to: 1 })], &[1, 2, 3]);
    check("more of them", &[ask(Replicas::Count(2))], &[1, 2, 3]);
    check("all of them", &[again(), ask(Replicas::All)], &[]);
    check("one has gone", &[drop_at(&[3], false, false), gone(3), again()], &[1, 2]);
    check("one is about to go", &[drop_at(&[3], false, false), again()], &[1, 2, 3]);
    check("for good", &[drop_at(&[3], false, true), again()], &[1, 2]);
    check("over rounds", &[again(), ask(Replicas::Count(2)), again()], &[1, 2, 3]);
    check("as long as it is there", &[again(), gone(2), again()], &[1, 3]);
    check("and as it was", &[again(), held(3, 9)], &[1, 2]);
    check("not one that was found", &[drop_at(&[3], false, false), gone(3), held(3, 7), again()], &[1, 2]);
    let (mut world, _) = lowered();
    let round = world.ask(again());
    world.check(plan(round, 2, &[2]), Answer::Done);
    assert_eq!(surplus(&world), [1, 3], "a target is none too many");
    let (mut world, _) = World::spread(Replicas::Count(2));
    world.ask(ask(Replicas::Count(2)));
    assert_eq!(surplus(&world), [0_u64; 0], "there are no more than are wanted");
}

#[test]
fn who_had_a_model_for_a_number_and_is_not_named_instead_has_a_copy_too_many() {
    let check = |what: &str, version: u32, commands: &[Command], expected: &[u64]| {
        let mut world = World::spread(Replicas::Count(2)).0.at_version(version);
        world.check_taken(commands.to_vec());
        assert_eq!(surplus(&world), expected, "{what}");
    };
    check("another", 5, &[ask(on(&[3]))], &[1, 2]);
    check("one of them, and another", 5, &[ask(on(&[2, 3]))], &[1]);
    check("both", 5, &[ask(on(&[1, 2]))], &[]);
    check("it is named later", 5, &[ask(on(&[3])), ask(on(&[1, 3]))], &[2]);
    check("it was named before", 5, &[ask(on(&[1])), ask(on(&[3]))], &[2]);
    check("what was found is nobody's", 5, &[held(3, 7), ask(on(&[2]))], &[1]);
    check("nor is another version", 5, &[held(1, 8), ask(on(&[3]))], &[2]);
    check("a number names nobody", 5, &[ask(Replicas::Count(1))], &[]);
    check("where a version is names nobody", 5, &[fix(7, Some(on(&[1])), How::Found)], &[]);
    check("in an older cluster", 4, &[ask(on(&[2, 3]))], &[]);
}

#[test]
fn what_is_too_many_stays_until_the_named_nodes_have_the_version_of_now() {
    // Node 3 has the last copy of version 7, and node 1 has version 8, which node 2 is to have.
    let named = |version: u32| {
        let mut world = lowered().0.at_version(version);
        let round = world.ask(ask(on(&[2])));
        world.check_taken([plan(round, 2, &[2]), resolve(round, 2, 8), held(1, 8), gone(2)]);
        assert_eq!(surplus(&world), [3]);
        world
    };
    named(4).check(drop_at(&[3], false, false), Answer::Done);
    let mut world = named(5);
    world.check(drop_at(&[3], false, false), last_copy());
    world.check(held(2, 8), Answer::Done);
    world.check(drop_at(&[3], false, false), Answer::Done);
}

#[test]
fn the_last_copy_of_a_version_goes_where_it_is_too_many_and_enough_have_the_one_of_now() {
    // Node 1 has got version 8; nodes 2 and 3 have version 7 and are too many.
    let moved_on = |replicas: Replicas| {
        let (mut world, _) = lowered();
        let round = world.ask(ask(replicas));
        world.check_taken([plan(round, 1, &[1]), resolve(round, 1, 8), held(1, 8)]);
        world
    };
    let mut world = moved_on(Replicas::Count(1));
    assert_eq!(surplus(&world), [2, 3]);
    world.check(drop_at(&[3], false, false), Answer::Done);
    world.check(drop_at(&[2], false, false), Answer::Done);
    assert_eq!(world.dropped(), [2, 3]);
    world.check_taken([gone(2), gone(3)]);
    assert_eq!((surplus(&world), world.failed()), (vec![], vec![]));
    world.check(drop_at(&[1], false, false), last_copy());
    // What nobody had too many of is the last of its version still.
    let mut world = moved_on(Replicas::Count(1));
    world.check_taken([gone(2), gone(3), held(3, 7)]);
    world.check(drop_at(&[3], false, false), last_copy());
    // Nor does it go while this round lacks copies, or they are about to go themselves.
    let mut world = moved_on(Replicas::Count(2));
    world.check(drop_at(&[2, 3], false, false), last_copy());
    world.check(drop_at(&[3], false, false), Answer::Done);
    world.check(drop_at(&[2], false, false), last_copy());
    let mut world = moved_on(Replicas::Count(1));
    world.check(drop_at(&[1, 2, 3], false, false), last_copy());
    world.check(drop_at(&[1], false, true), Answer::Done);
    world.check(drop_at(&[2, 3], false, false), last_copy());
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
    let text = removed().wish("m").failures[&NodeId(2)].text.clone();
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
