//! The plan by itself: the same from the same, complete, and within its bounds.

use super::*;

fn rounds(seed: u64, nodes: usize, families: &[Family], count: usize) -> Vec<Round> {
    Plan::new(Seed(seed), nodes, families).take(count).collect()
}

#[test]
fn the_same_seed_makes_the_same_plan_and_another_makes_another() {
    for nodes in [3, 5] {
        let plan = |seed| rounds(seed, nodes, &Family::ALL, 60);
        assert_eq!(plan(7), plan(7), "{nodes} nodes");
        assert_ne!(plan(7), plan(8), "{nodes} nodes");
    }
    let longer = rounds(7, 3, &Family::ALL, 100);
    assert_eq!(longer[..60], rounds(7, 3, &Family::ALL, 60), "a longer run begins as a shorter one");
}

#[test]
fn one_of_each_family_comes_first_and_only_those_that_were_asked_for() {
    for seed in 0..50 {
        let families = |rounds: &[Round]| rounds.iter().map(|round| round.fault.family()).collect::<BTreeSet<_>>();
        let all = rounds(seed, 3, &Family::ALL, Family::ALL.len());
        assert_eq!(families(&all), Family::ALL.into_iter().collect(), "seed {seed}");
        let two = rounds(seed, 3, &[Family::F5, Family::F3], 40);
        assert_eq!(families(&two), BTreeSet::from([Family::F3, Family::F5]), "seed {seed}");
        assert_eq!(families(&two[..2]).len(), 2, "seed {seed}");
    }
    assert_eq!(rounds(1, 3, &[], 5), []);
}

#[test]
fn each_deck_has_every_card_once_and_a_bridge_takes_five_nodes() {
    let check = |nodes: usize, expected: usize, bridges: usize| {
        let mut plan = Plan::new(Seed(3), nodes, &Family::ALL);
        assert_eq!(plan.deck.len(), expected);
        for deck in 0..3 {
            let drawn: Vec<Fault> = plan.by_ref().take(expected).map(|round| round.fault).collect();
            let found = drawn.iter().filter(|fault| matches!(fault, Fault::Part { split: Split::Bridge, .. }));
            assert_eq!(found.count(), bridges, "deck {deck}");
            let kills = drawn.iter().filter(|fault| fault.family() == Family::F1);
            assert_eq!(kills.count(), 3, "deck {deck}");
        }
    };
    check(3, 37, 0);
    check(5, 38, 1);
}

#[test]
fn every_fault_lasts_as_long_as_it_may_and_no_longer() {
    for round in rounds(11, 5, &Family::ALL, 400) {
        let bounds = match round.fault {
            Fault::Kill(_) => 200..=1_500,
            Fault::Crash { scene: Scene::CatchingUp, .. } | Fault::Lag => 20_000..=20_000,
            Fault::BadDisk { ailment: Ailment::Short, .. } => 2_000..=3_000,
            Fault::Crash { .. } | Fault::CutPower(_) | Fault::BadDisk { .. } => 200..=1_000,
            Fault::Pause(_) => 300..=3_000,
            Fault::Part { .. } => 1_500..=3_500,
            Fault::Trouble(_) => 2_000..=3_000,
            Fault::HalfOpen | Fault::Overload(_) => 3_000..=5_000,
            Fault::SlowSyncs(_, delay) => {
                assert!((50..=2_000).contains(&delay.as_millis()), "{round:?}");
                3_000..=3_000
            }
            Fault::Contention => 4_000..=6_000,
            Fault::JumpClock { .. } => 2_000..=3_000,
            Fault::Transfer => 500..=1_000,
            Fault::Replace(_) | Fault::Damage(_) => 100..=500,
        };
        assert!(bounds.contains(&round.time.as_millis()), "{round:?}");
    }
}

#[test]
fn crashes_meet_every_point_and_only_writes_are_half_done() {
    let (mut met, mut losses) = (BTreeSet::new(), BTreeSet::new());
    for round in rounds(5, 3, &[Family::F2], 2_000) {
        let Fault::Crash { scene, point, loss } = round.fault else { unreachable!("{round:?}") };
        assert!(point.moment != Moment::Within || point.call == Call::Write, "{point}");
        assert!(point.number >= 1, "{point}");
        met.insert(format!("{scene} {:?} {} {:?}", point.call, point.names, point.moment));
        losses.insert(loss.is_some());
    }
    // Three moments of a write and two of any other call; ten points that leaders and followers share.
    assert_eq!((met.len(), losses.len()), (2 * (10 * 2 + 3) + (3 * 2 + 1) + (3 * 2 + 1), 2), "{met:?}");
}

#[test]
fn every_card_draws_a_fault_of_its_own_family() {
    let mut chance = Seed(1).generator(1);
    for card in Card::ALL {
        assert_eq!(card.draw(&mut chance).0.family(), card.family(), "{card:?}");
    }
}

#[test]
fn families_are_found_by_their_numbers() {
    for family in Family::ALL {
        assert_eq!(Family::parse(family.id()), Ok(family));
        assert_eq!(Family::parse(&family.id().to_lowercase()), Ok(family));
    }
    let problem = Family::parse("F17").expect_err("there is none");
    assert!(problem.contains("F17") && problem.contains("F1, F2, F3"), "{problem}");
}

#[test]
fn only_what_holds_bytes_back_makes_words_old() {
    let second = Duration::from_secs(1);
    let check = |fault: Fault, expected: Duration| assert_eq!(fault.holds_back(second), expected, "{fault}");
    check(Fault::Kill(Whom::Leader), Duration::ZERO);
    check(Fault::Overload(3), Duration::ZERO);
    check(Fault::Pause(Whom::Follower), second);
    check(Fault::Part { split: Split::OneLink, silent: true }, second);
    check(Fault::Part { split: Split::OneLink, silent: false }, Duration::ZERO);
    check(Fault::Lag, Duration::ZERO);
    check(Fault::Trouble(Trouble::Stalls), second);
    check(Fault::JumpClock { whom: Whom::Leader, ahead: true }, Duration::ZERO);
}
