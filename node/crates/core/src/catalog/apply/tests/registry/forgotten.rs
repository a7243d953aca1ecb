//! Names that nobody has any more: noted when that is seen, gone with their history when it was so for long, and kept
//! when they come back.

use super::*;
use crate::catalog::record::{Counts, Version, Want};

const EVER: Timestamp = Timestamp(u64::MAX);

fn forget_of(before: Timestamp, names: &[String]) -> Command {
    Command::ForgetNames { before, names: names.to_vec() }
}

fn forget(before: Timestamp) -> Command {
    forget_of(before, &[name().key()])
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp(self.index)
    }
}

#[test]
fn a_name_that_nobody_has_for_long_goes_with_its_history() {
    let mut world = World::after([note(7), note(8)]);
    world.check_idle(forget(EVER));
    world.check_taken([gone(1)]);
    world.check_idle(forget(EVER));
    world.check_taken([gone(2)]);
    world.check(forget(EVER), Answer::Done);
    let since = world.now();
    assert_eq!((world.model().unheld_since, world.history()), (Some(since), vec![(1, 7), (2, 8)]));
    world.check_idle(forget(since));
    // Twice named is once gone.
    world.check(forget_of(Timestamp(since.0 + 1), &[name().key(), name().key()]), Answer::Done);
    assert_eq!((read::model(&world.view, &name()), world.history()), (Ok(None), vec![]));
    assert_eq!(read::counts(&world.view), Ok(Counts::default()));
    world.check_idle(forget(EVER));
    world.check_taken([held(1, 8), note(8)]);
    assert_eq!(world.history(), [(1, 8)], "it begins anew");
}

#[test]
fn a_name_that_comes_back_on_its_way_out_stays_and_is_counted_anew() {
    for back in [held(3, 7), ask(Replicas::Count(1)), pin(7), set_phase(PhaseWord::Disabled, "")] {
        let shown = format!("{back:?}");
        let mut world = World::after([note(7), gone(1), gone(2), forget(EVER), back]);
        world.check(forget(EVER), Answer::Done);
        assert_eq!((world.model().unheld_since, world.history()), (None, vec![(1, 7)]), "{shown}");
        world.check_idle(forget(EVER));
    }
    let mut world = World::after([note(7), gone(1), gone(2), forget(EVER), note(8)]);
    let noted = world.now();
    world.check_idle(forget(noted));
    world.check(forget(Timestamp(noted.0 + 1)), Answer::Done);
    assert_eq!(read::model(&world.view, &name()), Ok(None), "what was done with it last counts");
}

#[test]
fn a_model_that_was_removed_as_a_whole_is_counted_from_then_and_is_in_use_again_when_it_is_back() {
    let removed = || World::after([note(7), drop_at(&[], true, true)]);
    let mut world = removed();
    let since = world.now();
    world.check_idle(forget(EVER));
    world.check_taken([gone(1), gone(2)]);
    world.check_idle(forget(since));
    world.check(forget(Timestamp(since.0 + 1)), Answer::Done);
    assert_eq!(read::model(&world.view, &name()), Ok(None));

    let mut world = removed();
    world.check_taken([held(3, 7)]);
    world.check_idle(forget(EVER));
    world.check_taken([gone(1), gone(2)]);
    world.check(forget(EVER), Answer::Done);
    assert_eq!(world.model().phase, Phase::Active, "node 3 got it afterwards");
}

#[test]
fn what_is_forgotten_at_once_is_bounded() {
    let mut world = World::new();
    let names: Vec<ModelName> =
        (0..=FORGET_NAMES_MAX).map(|number| format!("m{number}").parse().expect("a name")).collect();
    for name in &names {
        let (head, unheld_since) = (VERSIONS_MAX as u64, Some(Timestamp(1)));
        let model = Model { head, first: 1, unheld_since, ..Model::new(name.clone(), Timestamp(1)) };
        world.view.write(&[put(Key::Model(name.key()), Record::Model(Box::new(model)))]);
        for number in 1..=head {
            let (at, how, by) = (Timestamp(1), How::Found, "admin".to_owned());
            let version = Version { number, digest: digest(7), size_bytes: 1, at, how, by };
            world.view.write(&[put(Key::Version(name.key(), number), Record::Version(Box::new(version)))]);
        }
    }
    let counts = Counts { models: names.len() as u64, ..Counts::default() };
    world.view.write(&[put(Key::Counts, Record::Counts(counts))]);
    let keys: Vec<String> = names.iter().map(ModelName::key).collect();
    let text = invalid_text(&world.view, forget_of(EVER, &keys));
    assert_eq!(text, "the list of names has 13 items; the limit is 12");
    assert_eq!(invalid_text(&world.view, forget_of(EVER, &[String::new()])), "a model key is empty");
    world.check(forget_of(EVER, &keys[1..]), Answer::Done);
    assert_eq!(read::counts(&world.view), Ok(Counts { models: 1, ..counts }));
    let left = world.view.records().filter(|(key, _)| matches!(key, Key::Model(_) | Key::Version(..))).count();
    assert_eq!(left, 1 + VERSIONS_MAX, "of the one that was not named");
    world.view.write(&[put(Key::Counts, Record::Counts(Counts::default()))]);
    let fault = apply(&world.view, 99, 1, &entry(99, forget_of(EVER, &keys[..1])));
    assert_eq!(fault, Err(Fault::Invariant("more names than counted".to_owned())));
}

#[test]
fn an_older_cluster_forgets_no_name_and_keeps_nothing_free_of_disks() {
    let Command::InitCluster { cluster, name: lab, public_key, first, .. } = init() else {
        unreachable!("init is one")
    };
    let old = Command::InitCluster { cluster, name: lab, public_key, first, version: 4 };
    let asked = |disk_free_bytes_min| Command::AskModel {
        name: name(),
        replicas: Replicas::Count(1),
        insecure: false,
        want: Want { disk_free_bytes_min, ..Want::default() },
        declared: false,
        unsaid: false,
        away: Default::default(),
    };
    let too_low = || refused(Refusal::VersionTooLow { needed: 5, actual: 4 });
    let mut view = check(vec![
        (0, old, member_answer(1, "n1", false)),
        (0, forget(EVER), too_low()),
        (0, asked(1), too_low()),
        (0, asked(0), Answer::Wish { round: 4 }),
    ]);
    assert_eq!(view.apply(5, 1, &entry(0, Command::RaiseVersion { version: 5 })), Ok(Answer::Done));
    assert_eq!(view.apply(6, 1, &entry(0, forget(EVER))), Ok(Answer::Done));
    assert_eq!(view.apply(7, 1, &entry(0, asked(1))), Ok(Answer::Wish { round: 7 }));
    let wish = read::wish(&view, &name()).expect("readable").expect("asked for");
    assert_eq!(wish.want.disk_free_bytes_min, 1);
}
