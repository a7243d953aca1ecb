//! What the registry keeps is bounded, and so is what its commands read.

use ollamax_types::ErrorCode;

use super::*;
use crate::catalog::record::{Counts, Drop, Failure, Plan, Wish};

#[test]
fn names_are_counted_and_bounded() {
    let mut world = World::with_copies();
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

/// As many members, departed ones and copies as there can be; a wish that everything is on record for.
fn crowded() -> World {
    let mut world = World::after((1..=u8::try_from(VERSIONS_MAX).expect("few")).map(note));
    world.check(pin(1), Answer::Done);
    world.ask(ask(Replicas::Count(1)));
    let (one, wish) = (world.member(1), world.wish("m"));
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
        surplus: (101..=100 + WISH_SURPLUS_MAX as u64).map(NodeId).collect(),
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
        plain(),
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
    assert_eq!(world.wish("m").failures.len(), WISH_FAILURES_MAX, "what is kept of them is bounded too");
    world.check(note(98), Answer::Done);
    world.check(fix(98, Some(Replicas::All), How::Pulled), pinned(1));
    world.ask(fix(1, Some(Replicas::All), How::RolledBack { to: 1 }));
}

#[test]
fn the_largest_report_ends_drops_and_wishes_within_the_keys_of_a_command() {
    let mut world = World::with_copies();
    let names: Vec<String> = (0..2 * REPORT_MODELS_MAX).map(|number| format!("m{number}")).collect();
    let round = world.ask(ask(Replicas::Count(1)));
    world.check(plan(round, 1, &[1]), Answer::Done);
    let wish = Wish { digest: Some(digest(7)), ..world.wish("m") };
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
