//! Walks of plans by hand, and any order of events by chance.

use proptest::prelude::*;

use super::*;

const PATIENCE: Patience = Patience { first_wait_ms: 500, wait_ms_max: 30_000, silence_ms: 300_000 };

fn extent(first: u32, count: u32) -> Extent {
    Extent { first, count }
}

fn plan(len: u32, have: &[u32], extent_max: u32) -> OriginPlan {
    let mut bits = Bits::new(len);
    for index in have {
        bits.set(*index);
    }
    OriginPlan::new(bits, extent_max, PATIENCE, 0)
}

#[test]
fn lowest_chunks_come_first_and_none_twice() {
    let mut plan = plan(12, &[0, 1, 5], 3);
    assert_eq!((plan.prefix(), plan.is_done()), (2, false));
    assert_eq!(plan.next(0), Some(extent(2, 3)));
    assert_eq!(plan.next(1), Some(extent(6, 3)));
    assert_eq!(plan.next(2), Some(extent(9, 3)));
    assert_eq!(plan.next(3), None, "everything is on its way");
    // What a stream leaves behind is the lowest again, as far as it did not come.
    plan.arrived(2, 1);
    assert_eq!(plan.ended(0, End::Cut, 1), Verdict::WaitMs(500));
    assert_eq!(plan.next(3), Some(extent(3, 2)));
    plan.arrived(3, 2);
    plan.arrived(4, 2);
    assert_eq!(plan.ended(3, End::Whole, 2), Verdict::Next);
    assert_eq!(plan.prefix(), 6);
    assert_eq!(plan.next(3), None);
    // A chunk that a check found damaged is fetched again.
    plan.lost(1);
    assert_eq!((plan.next(3), plan.prefix()), (Some(extent(1, 1)), 1));
    for index in [1, 6, 7, 8, 9, 10, 11] {
        plan.arrived(index, 3);
    }
    assert!(plan.is_done() && plan.next(3).is_none());
}

#[test]
fn an_extent_ends_where_another_stream_or_what_is_there_begins() {
    let mut plan = plan(10, &[], 4);
    assert_eq!((plan.next(0), plan.next(1)), (Some(extent(0, 4)), Some(extent(4, 4))));
    plan.arrived(0, 1);
    plan.ended(0, End::Cut, 1);
    assert_eq!(plan.next(2), Some(extent(1, 3)));
    plan.ended(1, End::Cut, 1);
    plan.arrived(6, 1);
    assert_eq!(plan.next(0), Some(extent(4, 2)));
    assert_eq!(plan.next(1), Some(extent(7, 3)));
}

#[test]
fn a_file_that_is_there_or_empty_is_done() {
    for mut plan in [plan(0, &[], 3), plan(2, &[0, 1], 3)] {
        assert!(plan.is_done() && plan.next(0).is_none());
        plan.one_stream();
        assert!(plan.next(0).is_none());
    }
}

#[test]
fn waits_double_and_a_gain_forgets_them() {
    let mut plan = plan(8, &[], 1);
    let fail = |plan: &mut OriginPlan, stream| {
        plan.next(stream);
        plan.ended(stream, End::Stalled, 0)
    };
    for wait_ms in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        assert_eq!(fail(&mut plan, 0), Verdict::WaitMs(wait_ms));
    }
    assert_eq!(fail(&mut plan, 1), Verdict::WaitMs(500), "each stream has its own");
    plan.arrived(7, 0);
    assert_eq!(fail(&mut plan, 0), Verdict::WaitMs(500));
    assert_eq!(PATIENCE.wait_ms(u32::MAX), 30_000);
}

#[test]
fn silence_ends_it_and_told_waits_do_not() {
    let mut silent = plan(2, &[], 1);
    assert_eq!(silent.ended(0, End::Cut, 299_999), Verdict::WaitMs(500));
    assert_eq!(silent.ended(0, End::Cut, 300_000), Verdict::GiveUp);
    silent.arrived(0, 300_000);
    assert_eq!(silent.ended(0, End::Cut, 599_999), Verdict::WaitMs(500));
    // A chunk that was there is no gain.
    silent.arrived(0, 599_999);
    assert_eq!(silent.ended(0, End::Cut, 600_000), Verdict::GiveUp);

    let mut busy = plan(2, &[], 1);
    let told = End::Busy { after_ms: Some(200_000) };
    let mut now_ms = 0;
    for _ in 0..TOLD_WAITS_MAX {
        assert_eq!(busy.ended(0, told, now_ms), Verdict::WaitMs(TOLD_WAIT_MS_MAX));
        now_ms += TOLD_WAIT_MS_MAX;
    }
    assert_eq!(busy.ended(0, told, now_ms + 299_999), Verdict::WaitMs(TOLD_WAIT_MS_MAX));
    assert_eq!(busy.ended(0, told, now_ms + 300_000), Verdict::GiveUp);
    let soon = End::Busy { after_ms: Some(0) };
    assert_eq!(plan(2, &[], 1).ended(0, soon, 0), Verdict::WaitMs(500));
    assert_eq!(plan(2, &[], 1).ended(0, End::Busy { after_ms: None }, 300_000), Verdict::GiveUp);
}

#[test]
fn a_refusal_ends_it_at_once() {
    let mut plan = plan(2, &[], 1);
    plan.next(0);
    assert_eq!(plan.ended(0, End::Refused, 0), Verdict::GiveUp);
    assert_eq!(plan.next(1), Some(extent(0, 1)), "nothing stays taken");
}

#[test]
fn a_place_without_ranges_gives_everything_to_one_stream() {
    let mut plan = plan(5, &[0, 3], 1);
    assert_eq!((plan.next(0), plan.next(1)), (Some(extent(1, 1)), Some(extent(2, 1))));
    plan.one_stream();
    plan.one_stream();
    assert_eq!(plan.next(1), Some(extent(0, 5)));
    assert_eq!(plan.next(1), Some(extent(0, 5)), "it may be asked again");
    plan.one_stream();
    assert_eq!((plan.next(0), plan.next(2)), (None, None));
    assert!(plan.has(3) && !plan.has(1));
    assert_eq!(plan.ended(0, End::Whole, 0), Verdict::Next);
    assert_eq!(plan.next(0), None, "another stream's end frees nothing");
    plan.ended(1, End::Cut, 0);
    assert_eq!(plan.next(0), Some(extent(0, 5)));
}

/// What may happen to a plan: chunks that arrive or are lost, streams that end.
#[derive(Debug, Clone, Copy)]
enum Event {
    Next(u32),
    Arrived(u32),
    Lost(u32),
    Ended(u32, End),
    OneStream,
    Later(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let end = prop_oneof![
        Just(End::Whole),
        Just(End::Cut),
        Just(End::Stalled),
        Just(End::Busy { after_ms: None }),
        (0..200_000_u64).prop_map(|after_ms| End::Busy { after_ms: Some(after_ms) }),
        Just(End::Refused),
    ];
    prop_oneof![
        (0..4_u32).prop_map(Event::Next),
        (0..24_u32).prop_map(Event::Arrived),
        (0..24_u32).prop_map(Event::Lost),
        (0..4_u32, end).prop_map(|(stream, end)| Event::Ended(stream, end)),
        Just(Event::OneStream),
        (0..100_000_u64).prop_map(Event::Later),
    ]
}

proptest! {
    #[test]
    fn any_order_of_events_ends_done_or_given_up(events in prop::collection::vec(event(), 0..60), max in 1..6_u32) {
        let mut plan = plan(20, &[], max);
        let (mut now_ms, mut is_whole) = (0, false);
        for event in events {
            match event {
                Event::Next(stream) => {
                    let others: Vec<Extent> =
                        plan.taken.iter().filter(|(other, _)| **other != stream).map(|(_, taken)| *taken).collect();
                    if let Some(extent) = plan.next(stream).filter(|_| !is_whole) {
                        prop_assert!(extent.count >= 1 && extent.count <= max && extent.end() <= 20);
                        prop_assert!(extent.chunks().all(|index| !plan.has(index)), "what is there is not asked for");
                        let is_taken = |index| others.iter().any(|other| other.chunks().contains(&index));
                        prop_assert!(!extent.chunks().any(is_taken), "nor what another stream fetches");
                    }
                }
                Event::Arrived(index) => plan.arrived(index, now_ms),
                Event::Lost(index) => plan.lost(index),
                Event::Ended(stream, end) => {
                    plan.ended(stream, end, now_ms);
                }
                Event::OneStream => {
                    plan.one_stream();
                    is_whole = true;
                }
                Event::Later(ms) => now_ms += ms,
            }
        }
        // From here on streams that keep on failing give up, and streams that get their bytes finish.
        let mut failing = now_ms;
        for stream in 0..4 {
            plan.ended(stream, End::Cut, failing);
        }
        while plan.ended(0, End::Cut, failing) != Verdict::GiveUp {
            failing += 30_000;
            prop_assert!(failing < now_ms + 3_000_000);
        }
        while let Some(extent) = plan.next(0) {
            extent.chunks().for_each(|index| plan.arrived(index, now_ms));
            prop_assert_eq!(plan.ended(0, End::Whole, now_ms), Verdict::Next);
        }
        prop_assert!(plan.is_done());
    }
}
