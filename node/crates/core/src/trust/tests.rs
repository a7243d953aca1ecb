//! Traces of strikes and good pieces, by rows and by chance.

use proptest::collection::vec;
use proptest::prelude::*;

use ollamax_types::DAY_MS;

use super::*;

const TWO: NodeId = NodeId(2);
const MINUTE_MS: u64 = 60_000;

/// What happens to one node.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// It is struck, and so many of its strikes count then.
    Struck(u32),
    /// It is struck, and is in quarantine for so many minutes.
    Shut(u64),
    /// It sends good pieces.
    Good(u32),
    /// It may be asked.
    Asked,
    /// It may not.
    Left,
}

use Step::{Asked, Good, Left, Shut, Struck};

/// Plays steps, each at its minute.
fn check(what: &str, steps: &[(u64, Step)]) {
    let (rules, mut trust) = (Rules::default(), Trust::default());
    for (at, (minute, step)) in steps.iter().enumerate() {
        let now_ms = minute * MINUTE_MS;
        let place = format!("{what}: step {at}, {step:?}");
        match *step {
            Struck(strikes) => assert_eq!(trust.strike(&rules, now_ms, TWO), Verdict::Counted { strikes }, "{place}"),
            Shut(minutes) => {
                let until_ms = now_ms + minutes * MINUTE_MS;
                assert_eq!(trust.strike(&rules, now_ms, TWO), Verdict::Quarantined { until_ms }, "{place}");
            }
            Good(chunks) => trust.good(&rules, now_ms, TWO, chunks),
            Asked => assert!(trust.may_ask(now_ms, TWO), "{place}"),
            Left => assert!(!trust.may_ask(now_ms, TWO), "{place}"),
        }
    }
}

#[test]
fn three_strikes_are_ten_minutes_and_it_is_asked_again_afterwards() {
    check("three", &[(0, Asked), (0, Struck(1)), (1, Struck(2)), (1, Asked), (2, Shut(10)), (2, Left), (11, Left)]);
    check("afterwards", &[(0, Struck(1)), (0, Struck(2)), (0, Shut(10)), (9, Left), (10, Asked)]);
}

#[test]
fn after_a_quarantine_one_strike_is_enough_and_each_takes_twice_as_long_up_to_a_day() {
    let mut steps = vec![(0, Struck(1)), (0, Struck(2))];
    let mut minute = 0;
    for minutes in [10, 20, 40, 80, 160, 320, 640, 1_280, 1_440, 1_440] {
        steps.extend([(minute, Shut(minutes)), (minute + minutes - 1, Left), (minute + minutes, Asked)]);
        minute += minutes;
    }
    check("doubled", &steps);
}

#[test]
fn what_comes_during_a_quarantine_makes_it_no_longer() {
    let shut = [(0, Struck(1)), (0, Struck(2)), (0, Shut(10))];
    check("pieces that were asked before", &[&shut[..], &[(0, Struck(2)), (9, Struck(2)), (10, Asked)]].concat());
}

#[test]
fn strikes_are_forgiven_for_a_thousand_good_pieces_or_a_day() {
    let day = 24 * 60;
    check("pieces", &[(0, Struck(1)), (0, Struck(2)), (0, Good(999)), (0, Good(1)), (0, Struck(2)), (0, Shut(10))]);
    check("too few", &[(0, Struck(1)), (0, Struck(2)), (0, Good(999)), (0, Shut(10))]);
    check("in a row", &[(0, Struck(1)), (0, Good(999)), (0, Struck(2)), (0, Good(999)), (0, Shut(10))]);
    check("a day", &[(0, Struck(1)), (0, Struck(2)), (day, Struck(2)), (day, Shut(10))]);
    check("less", &[(0, Struck(1)), (0, Struck(2)), (day - 1, Shut(10))]);
    check("both", &[(0, Struck(1)), (0, Struck(2)), (0, Good(1_000)), (day, Struck(1))]);
    let shut = [(0, Struck(1)), (0, Struck(2)), (0, Shut(10))];
    check("probation", &[&shut[..], &[(10, Good(1_000)), (10, Struck(2)), (10, Shut(20))]].concat());
    check("time in quarantine", &[&shut[..], &[(day + 9, Shut(20))]].concat());
    check("time behind it", &[&shut[..], &[(day + 10, Struck(2))]].concat());
    check("all of it", &[&shut[..], &[(10, Good(2_000)), (10, Struck(1)), (10, Struck(2)), (10, Shut(10))]].concat());
}

#[test]
fn a_clock_that_goes_back_forgives_nothing() {
    check("back", &[(2_000, Struck(1)), (2_000, Struck(2)), (0, Shut(10))]);
}

#[test]
fn who_is_in_quarantine_is_told_with_all_its_strikes() {
    let (rules, mut trust) = (Rules::default(), Trust::default());
    for peer in [9, 2, 9, 2, 5, 9, 2, 2].map(NodeId) {
        trust.strike(&rules, 7, peer);
    }
    let until_ms = 600_007;
    let told = |peer, strikes| Quarantined { peer: NodeId(peer), until_ms, strikes };
    assert_eq!(trust.quarantined(until_ms - 1), [told(2, 4), told(9, 3)]);
    assert_eq!(trust.quarantined(until_ms), []);
}

#[test]
fn what_is_forgiven_is_remembered_no_longer() {
    let (rules, mut trust) = (Rules::default(), Trust::default());
    trust.strike(&rules, 0, NodeId(3));
    trust.strike(&rules, 0, TWO);
    trust.good(&rules, 0, TWO, 1_000);
    assert_eq!(trust.peers.keys().collect::<Vec<_>>(), [&NodeId(3)]);
    trust.strike(&rules, DAY_MS, TWO);
    assert_eq!(trust.peers.keys().collect::<Vec<_>>(), [&TWO], "a day has passed");
}

#[test]
fn rules_that_make_little_sense_are_kept_all_the_same() {
    let strict = Rules { strikes_max: 0, first_ms: 9, longest_ms: 5, forgive_chunks: 0, forgive_ms: 0 };
    let mut trust = Trust::default();
    assert_eq!(trust.strike(&strict, 0, TWO), Verdict::Quarantined { until_ms: 5 });
    assert!(!trust.may_ask(4, TWO) && trust.may_ask(5, TWO));
    trust.good(&strict, 6, TWO, 1);
    assert!(trust.peers.is_empty());
}

/// One thing that happens: after so many seconds, at which node, and whether it is a strike or so many good pieces.
fn any_event() -> impl Strategy<Value = (u64, u64, Option<u32>)> {
    let pause = prop_oneof![4 => 0..30_u64, 2 => 0..2_000_u64, 1 => 0..200_000_u64];
    let event = prop_oneof![3 => Just(None), 2 => (0..1_500_u32).prop_map(Some)];
    (pause, 1..4_u64, event)
}

/// Plays events, those of these nodes, and tells what became of each strike.
fn play(events: &[(u64, u64, Option<u32>)], is_played: impl Fn(u64) -> bool) -> Vec<(u64, u64, Verdict)> {
    let (rules, mut trust) = (Rules::default(), Trust::default());
    let (mut now_ms, mut verdicts) = (0, Vec::new());
    for (pause, node, event) in events {
        now_ms += pause * 1_000;
        if !is_played(*node) {
            continue;
        }
        match event {
            None => verdicts.push((now_ms, *node, trust.strike(&rules, now_ms, NodeId(*node)))),
            Some(chunks) => trust.good(&rules, now_ms, NodeId(*node), *chunks),
        }
    }
    verdicts
}

proptest! {
    #[test]
    fn one_node_is_judged_as_if_there_were_no_other(events in vec(any_event(), 0..120)) {
        let all = play(&events, |_| true);
        for node in 1..4 {
            let of_node: Vec<_> = all.iter().copied().filter(|(_, of, _)| *of == node).collect();
            prop_assert_eq!(of_node, play(&events, |played| played == node));
        }
    }

    #[test]
    fn a_quarantine_is_earned_and_ends_within_a_day(events in vec(any_event(), 0..120)) {
        let struck = |node: u64| events.iter().any(|(_, of, event)| *of == node && event.is_none());
        let (rules, mut trust) = (Rules::default(), Trust::default());
        let mut now_ms = 0;
        for (pause, node, event) in &events {
            now_ms += pause * 1_000;
            match event {
                None => {
                    trust.strike(&rules, now_ms, NodeId(*node));
                }
                Some(chunks) => trust.good(&rules, now_ms, NodeId(*node), *chunks),
            }
            for shut in trust.quarantined(now_ms) {
                prop_assert!(struck(shut.peer.0) && shut.strikes >= rules.strikes_max, "{:?}", shut);
                prop_assert!(shut.until_ms > now_ms && shut.until_ms <= now_ms + rules.longest_ms, "{:?}", shut);
                prop_assert!(trust.may_ask(shut.until_ms, shut.peer), "{:?}", shut);
            }
        }
    }
}
