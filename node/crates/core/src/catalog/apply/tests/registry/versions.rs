//! Versions of a name: pinned, fixed, gone back to, and their history.

use ollamax_types::ErrorCode;

use super::*;
use crate::catalog::record::{Counts, PlanKind, Version, Want};

#[test]
fn a_pin_outlives_pulls() {
    let mut world = World::after([pin(7), note(8)]);
    let round = world.ask(ask(Replicas::Count(1)));
    assert_eq!((world.wish("m").digest, world.wish("m").size_bytes), (Some(digest(7)), 0));
    world.check_goes_on(ask(Replicas::Count(1)), round);
    world.check(unpin(), Answer::Done);
    world.check_idle(unpin());
    assert_eq!(world.ask(ask(Replicas::Count(1))), world.index, "whatever the registry has");
    assert_eq!(world.wish("m").digest, None);
    world.check(pin(9), no_version(&digest(9).short()));
    world.check(pin(8), Answer::Done); // it had that one
    world.check_idle(pin(8));
    world.ask(ask(Replicas::Count(1)));
    assert_eq!((world.wish("m").digest, world.wish("m").size_bytes), (Some(digest(8)), 5));
}

#[test]
fn a_fixed_version_is_a_round_that_knows_it_from_the_start() {
    let mut world = World::with_copies();
    world.check(fix(7, None, How::Found), refused(Refusal::WishNotFound(name())));
    let round = world.ask(fix(7, Some(on(&[2, 1])), How::Found));
    let wish = world.wish("m");
    assert_eq!((wish.round, wish.replicas, wish.plan), (round, on(&[1, 2]), None));
    assert_eq!((wish.digest, wish.size_bytes), (Some(digest(7)), 5));
    assert_eq!(read::counts(&world.view), Ok(Counts { wishes: 1, models: 1, ..Counts::default() }));
    world.check_goes_on(fix(7, Some(on(&[1, 2])), How::Found), round);
    world.check_goes_on(fix(7, None, How::Found), round);
    world.check(plan(round, 1, &[1, 2, 3]), Answer::Done);
    world.check_goes_on(fix(7, None, How::Found), round); // node 3 is busy
    let next = world.ask(fix(8, None, How::Pulled));
    assert_eq!((next, world.wish("m").digest), (world.index, Some(digest(8))));
    world.ask(fix(7, None, How::RolledBack { to: 1 }));
    assert_eq!(world.history(), [(1, 7), (2, 8), (3, 7)]);
    assert_eq!(world.ask(ask(on(&[1, 2]))), world.index, "a question without a version wants what there is today");
    assert_eq!(world.wish("m").digest, None);
}

#[test]
fn only_places_or_fewer_copies_are_no_question_for_what_the_registry_has_today() {
    let declared = |replicas: Replicas| Command::AskModel {
        name: name(),
        replicas,
        insecure: false,
        want: Want::default(),
        declared: true,
        unsaid: false,
        away: Default::default(),
    };
    let check = |what: &str, before: &[Command], command: Command, version: Option<u8>, targets: &[u64]| {
        let (mut world, first) = World::spread(Replicas::Count(2));
        for command in before {
            world.apply(command.clone());
        }
        assert!(world.ask(command) > first, "{what}: a new round");
        let wish = world.wish("m");
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
fn whoever_says_nothing_of_places_leaves_them_and_asks_for_what_there_is_today() {
    assert_eq!(plain().least_version(), 5);
    let check = |what: &str, before: Replicas, story: &[Command], replicas: Replicas, targets: &[u64]| {
        let (mut world, first) = World::spread(before);
        world.check_taken(story.to_vec());
        let round = world.ask(plain());
        assert!(round > first, "{what}: a new round");
        let wish = world.wish("m");
        let planned = wish.plan.map_or_else(Vec::new, |plan| plan.targets);
        assert_eq!((wish.replicas, wish.digest, planned), (replicas, None, ids(targets)), "{what}");
        world.check_goes_on(plain(), round);
    };
    let named = || on(&[1, 2]);
    check("two", Replicas::Count(2), &[], Replicas::Count(2), &[]);
    check("three, which need not be there just now", Replicas::Count(3), &[], Replicas::Count(3), &[1, 2]);
    check("one", Replicas::Count(1), &[], Replicas::Count(1), &[]);
    check("all", Replicas::All, &[], Replicas::All, &[]);
    check("named nodes", named(), &[], named(), &[1, 2]);
    let (node, limit) = (NodeId(2), 9);
    let left = [Command::ForgetModels { node, limit }, Command::RemoveMember { node }];
    check("one of them has left", named(), &left, on(&[1]), &[1]);
    check("somebody insisted that one removes it", named(), &[drop_at(&[2], false, true)], named(), &[1]);
    check("a person removed one", named(), &[gone(2)], named(), &[1]);
    check("and all others", named(), &[gone(2), gone(1)], named(), &[]);
    let emptied = [cordon(2, Cordon::Emptying)];
    check("one of three is emptied", Replicas::Count(3), &emptied, Replicas::Count(3), &[1]);
    check("a named one is emptied", named(), &emptied, named(), &[1, 2]);

    let mut world = World::with_copies();
    let round = world.ask(ask(Replicas::Count(3)));
    world.check_goes_on(plain(), round); // nobody has planned, and nobody has failed
    let mut world = World::with_copies();
    world.ask(plain());
    assert_eq!(world.wish("m").replicas, Replicas::Count(2), "nothing was on record");
    let mut world = World::after([pin(7)]);
    world.ask(ask(Replicas::Count(3)));
    let round = world.ask(plain());
    assert_eq!((world.wish("m").replicas, world.wish("m").digest), (Replicas::Count(3), Some(digest(7))));
    world.check_goes_on(plain(), round);
}

/// A pull in Ollama's words once brought back what a person had removed, or an administrator with `--force`.
#[test]
fn whoever_says_nothing_of_places_brings_nothing_back_that_was_removed() {
    let check = |what: &str, replicas: Replicas, story: &[Command], targets: &[u64], left_out: &[(u64, bool)]| {
        let mut world = World::with_copies();
        world.check_taken([held(3, 7)]);
        let round = world.ask(ask(replicas.clone()));
        world.check_taken([plan(round, 1, &[1, 2, 3]), resolve(round, 1, 7)]);
        world.check_taken(story.to_vec());
        let round = world.ask(plain());
        let wish = world.wish("m");
        let planned = wish.plan.map(|plan| plan.targets).unwrap_or_default();
        assert_eq!((wish.replicas, planned), (replicas, ids(targets)), "{what}");
        assert_eq!(world.failed(), left_out, "{what}");
        world.check_goes_on(plain(), round);
        let dropped = read::model(&world.view, &name()).expect("readable").is_some_and(|model| !model.drops.is_empty());
        let is_going = story.iter().any(|command| matches!(command, Command::DropCopies { .. })) && story.len() == 1;
        assert_eq!(dropped, is_going, "{what}: the removal stands");
    };
    let (three, named) = (|| Replicas::Count(3), || on(&[1, 2, 3]));
    let insisted = || drop_at(&[3], false, true);
    check("by a person, of named ones", named(), &[gone(3)], &[1, 2], &[(3, true)]);
    check("by a person, of a number", three(), &[gone(3)], &[1, 2], &[(3, true)]);
    check("with force, of named ones", named(), &[insisted(), gone(3)], &[1, 2], &[(3, false)]);
    check("with force, of a number", three(), &[insisted(), gone(3)], &[1, 2], &[(3, false)]);
    check("with force, of named ones, still to go", named(), &[insisted()], &[1, 2], &[(3, false)]);
    check("with force, of a number, still to go", three(), &[insisted()], &[1, 2], &[(3, false)]);
    check("it is there again", named(), &[gone(3), held(3, 8)], &[1, 2, 3], &[]);
    check("by a person, of all", Replicas::All, &[gone(3)], &[], &[(3, true)]);
}

/// A node that was off once kept the others from a version of the registry for ten minutes.
#[test]
fn whoever_says_nothing_of_places_asks_the_registry_soon_although_a_node_is_off() {
    let kept_ms = u64::try_from(ROUND_KEPT_UNSAID_FOR.as_millis()).expect("a minute");
    // Of two that nobody named, another one takes the place of who is off.
    for (replicas, is_soon) in [(on(&[1, 2]), true), (Replicas::Count(3), true), (Replicas::Count(2), false)] {
        let (mut world, _) = World::spread(replicas.clone());
        let round = world.ask(plain()); // its log time is its index
        // Node 2 stays with the version of before.
        world.check_taken([plan(round, 1, &[1, 2]), resolve(round, 1, 8), held(1, 8)]);
        for (passed_ms, goes_on) in [(kept_ms - 1, true), (kept_ms, !is_soon)] {
            let answer = world.apply_at(round + passed_ms, plain()).answer;
            let expected = if goes_on { round } else { world.index };
            assert_eq!(answer, Answer::Wish { round: expected }, "{replicas:?}, after {passed_ms} ms");
        }
        let planned = world.wish("m").plan.map(|plan| plan.targets);
        assert_eq!(planned, Some(ids(&[1, 2])), "who is off stays wanted");
    }
}

/// A second pull within a minute once got the version of the first one, for the sake of a node that is off.
#[test]
fn whoever_says_nothing_of_places_asks_the_registry_at_once_where_only_who_is_away_lacks_the_version() {
    let without = |away: &[u64]| Command::AskModel {
        name: name(),
        replicas: Replicas::Count(2),
        insecure: false,
        want: Want::default(),
        declared: false,
        unsaid: true,
        away: ids(away).into_iter().collect(),
    };
    for (away, is_anew) in [(&[2][..], true), (&[][..], false), (&[3][..], false)] {
        let (mut world, _) = World::spread(on(&[1, 2]));
        let round = world.ask(plain());
        world.check_taken([plan(round, 1, &[1, 2]), resolve(round, 1, 8)]);
        world.check_goes_on(without(away), round); // node 1 is at it
        world.check_taken([held(1, 8)]);
        assert_eq!(world.ask(without(away)) > round, is_anew, "{away:?}");
    }
}

/// A version of the registry that failed everywhere once took a copy of the one before away.
#[test]
fn an_update_that_fails_lowers_no_number() {
    for replicas in [Replicas::Count(3), on(&[1, 2])] {
        for is_known in [true, false] {
            let (mut world, _) = World::spread(replicas.clone());
            let round = world.ask(plain());
            let (node, code, text) = (NodeId(1), ErrorCode::DigestMismatch, "another file".to_owned());
            let failed = Command::TellPull { node, name: name(), round, code, text };
            let known = is_known.then(|| resolve(round, 1, 8));
            world.check_taken(known.into_iter().chain([failed]));
            assert!(world.ask(plain()) > round, "it is tried again");
            assert_eq!(world.wish("m").replicas, replicas, "{is_known}");
        }
    }
}

/// A pinned model whose nodes are not all there was once refused.
#[test]
fn a_pinned_model_goes_on_where_it_was_to_be_without_a_word_of_places() {
    let (mut world, _) = World::spread(Replicas::Count(3));
    world.check(pin(7), Answer::Done);
    let round = world.wish("m").round;
    world.check_goes_on(plain(), round); // all that are planned have it
    world.check_taken([plan(round, 1, &[1, 2, 3])]);
    world.check_goes_on(plain(), round); // node 3 is at it
    let later = u64::try_from(ROUND_KEPT_UNSAID_FOR.as_millis()).expect("a minute");
    assert_eq!(world.apply_at(round + later, plain()).answer, Answer::Wish { round }, "there is nothing to ask");
    let (node, code, text) = (NodeId(3), ErrorCode::DiskFull, "full".to_owned());
    world.check_taken([Command::TellPull { node, name: name(), round, code, text }]);
    let next = world.ask(plain());
    let wish = world.wish("m");
    assert!(next > round && wish.failures.is_empty(), "it is tried again");
    assert_eq!((wish.digest, wish.plan.map(|plan| plan.targets)), (Some(digest(7)), Some(ids(&[1, 2, 3]))));
    world.check_goes_on(plain(), next);
}

#[test]
fn a_file_that_wants_more_copies_keeps_those_that_are_on_their_way() {
    let declared = |replicas: Replicas, want: Want| Command::AskModel {
        name: name(),
        replicas,
        insecure: false,
        want,
        declared: true,
        unsaid: false,
        away: Default::default(),
    };
    let more = || declared(Replicas::Count(3), Want::default());
    // Node 1 has the version, and node 2 is at it.
    let check = |what: &str, version: u32, before: &[Command], command: Command, targets: &[u64]| {
        let mut world = World::new().at_version(version);
        world.check_taken([held(1, 7)]);
        let round = world.ask(ask(Replicas::Count(2)));
        world.check_taken([plan(round, 1, &[1, 2]), resolve(round, 1, 7)]);
        world.check_taken(before.to_vec());
        assert!(world.ask(command) > round, "{what}: a new round");
        let wish = world.wish("m");
        let planned = wish.plan.map(|plan| (plan.ingester, plan.targets));
        let expected = (!targets.is_empty()).then(|| (ids(targets)[0], ids(targets)));
        assert_eq!((wish.digest, planned), (Some(digest(7)), expected), "{what}");
    };
    check("one more", 5, &[], more(), &[1, 2]);
    check("all", 5, &[], declared(Replicas::All, Want::default()), &[1, 2]);
    check("it has come", 5, &[held(2, 7)], more(), &[]);
    check("a person removed it", 5, &[held(2, 7), gone(2)], more(), &[]);
    let elsewhere = Want { avoid: [NodeId(2)].into(), ..Want::default() };
    check("it shall not be there", 5, &[], declared(Replicas::Count(3), elsewhere), &[]);
    check("named nodes are planned anew", 5, &[], declared(on(&[1, 2, 3]), Want::default()), &[]);
    check("in an older cluster", 4, &[], more(), &[]);
}

#[test]
fn a_file_that_is_applied_again_because_a_node_failed_keeps_the_version() {
    let declared = || Command::AskModel {
        name: name(),
        replicas: on(&[1, 2]),
        insecure: false,
        want: Want::default(),
        declared: true,
        unsaid: false,
        away: Default::default(),
    };
    // Both are planned from the start: who is away keeps nobody from trying again.
    for (version, expected, targets) in [(5, Some(digest(7)), ids(&[1, 2])), (4, None, vec![])] {
        let mut world = World::new().at_version(version);
        world.check_taken([held(1, 7)]);
        let round = world.ask(declared());
        let (node, code, text) = (NodeId(2), ErrorCode::DiskFull, "full".to_owned());
        let failed = Command::TellPull { node, name: name(), round, code, text };
        world.check_taken([plan(round, 1, &[1, 2]), resolve(round, 1, 7), failed]);
        let again = world.ask(declared());
        assert!(again > round, "it is tried again");
        let wish = world.wish("m");
        let planned = wish.plan.map(|plan| plan.targets).unwrap_or_default();
        assert_eq!((wish.digest, planned, wish.failures.len()), (expected, targets, 0), "{version}");
        world.check_goes_on(declared(), again);
    }
}

#[test]
fn a_round_that_began_with_those_on_their_way_goes_on_as_it_began() {
    let more = Command::AskModel {
        name: name(),
        replicas: Replicas::Count(3),
        insecure: false,
        want: Want::default(),
        declared: true,
        unsaid: false,
        away: Default::default(),
    };
    let mut world = World::new();
    world.check_taken([held(1, 7)]);
    let round = world.ask(ask(Replicas::Count(2)));
    world.check_taken([plan(round, 1, &[1, 2]), resolve(round, 1, 7)]);
    let round = world.ask(more);
    let began_at = world.wish("m").asked_at;
    let made_at = |world: &World| world.wish("m").plan.map(|plan| plan.made_at);
    assert_eq!(made_at(&world), Some(began_at));
    world.check(plan(round, 1, &[1, 2, 3]), Answer::Done);
    assert_eq!(made_at(&world), Some(began_at), "what was asked for is planned further");
    world.check(plan(round, 2, &[1, 2, 3]), Answer::Done);
    assert_eq!(made_at(&world), Some(Timestamp(world.index)), "another ingester has something new to try");
    let (ingester, targets, kind) = (NodeId(1), ids(&[1, 3]), PlanKind::Repair);
    world.check(Command::PlanPull { name: name(), round, ingester, targets, kind }, Answer::Done);
    assert_eq!(made_at(&world), Some(Timestamp(world.index)), "a repair is another thing");
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
        unsaid: false,
        away: Default::default(),
    };
    let mut world = World::after([asked]);
    world.ask(fix(7, None, How::Found));
    let wish = world.wish("m");
    assert_eq!((wish.insecure, wish.want, wish.declared), (true, want, true));
    world.ask(ask(Replicas::Count(2)));
    let wish = world.wish("m");
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
fn a_pinned_name_gets_its_version_from_another_although_somebody_has_a_newer_one() {
    let tag = || fix(7, Some(Replicas::Count(1)), How::Tagged { from: "other".parse().expect("a name") });
    let taken = || refused(Refusal::NameTaken { name: name(), held: digest(8) });
    let newer = || vec![held(3, 8)];
    let pinned = || vec![pin(7), held(3, 8)];
    let without_a_copy = || vec![pin(7), held(1, 8), held(2, 8)];
    for (before, version) in [(newer(), 5), (newer(), 4), (pinned(), 4), (without_a_copy(), 5)] {
        World::after(before).at_version(version).check(tag(), taken());
    }
    let mut world = World::after(pinned()).at_version(5);
    world.ask(tag());
    assert_eq!(world.wish("m").digest, Some(digest(7)));
}

#[test]
fn a_history_counts_on_and_notes_no_version_twice_in_a_row() {
    let mut world = World::with_copies();
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
fn a_version_is_by_the_node_that_brought_it_and_not_by_the_leader_that_notes_it() {
    let check = |mut world: World, expected: &str| {
        world.check(note(8), Answer::Done);
        let noted = read::version(&world.view, &name(), 1).expect("readable").expect("it is noted");
        assert_eq!(noted.by, expected);
    };
    check(World::after([held(3, 8)]).at_version(5), "node/3");
    check(World::after([held(3, 8)]).at_version(4), "admin");
    check(World::with_copies().at_version(5), "admin");
    let mut world = World::with_copies();
    let round = world.ask(ask(Replicas::Count(2)));
    world.check_taken([plan(round, 2, &[1, 2]), resolve(round, 2, 8), held(1, 8), held(2, 8)]);
    check(world.at_version(5), "node/2");
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
