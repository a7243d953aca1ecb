//! Traces that are walked by hand, and any order of events by chance.

use proptest::prelude::*;

use super::requests::{COPIES_MAX, Request};
use super::*;

mod simulated;

const OWN: NodeId = NodeId(9);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const ALONE: Stripe = Stripe { rank: 0, of: 1, ingester: ONE };

fn swarm(stripe: Stripe, len: u32) -> Swarm {
    Swarm::new(Rules::default(), OWN, stripe, Bits::new(len), 7, 0)
}

fn extent(first: u32, count: u32) -> Extent {
    Extent { first, count }
}

fn has(peer: NodeId, first: u32, count: u32) -> Event {
    Event::Has { peer, extent: extent(first, count) }
}

fn arrived(request: u64, index: u32) -> Event {
    Event::Arrived { request, index }
}

fn ask(request: u64, peer: NodeId, first: u32, count: u32) -> Action {
    Action::Ask { request, peer, extent: extent(first, count) }
}

/// Applies each event at its moment and compares what is to be done.
fn walk(swarm: &mut Swarm, steps: &[(u64, Event, &[Action])]) {
    for (number, (now_ms, event, expected)) in steps.iter().enumerate() {
        assert_eq!(swarm.apply(*now_ms, *event), *expected, "step {number}: {event:?} at {now_ms}");
        check_books(swarm);
    }
}

/// What always holds.
fn check_books(swarm: &Swarm) {
    for index in 0..swarm.have.len() {
        let requests = swarm.requests.of_chunk(index).len();
        let places = [swarm.have.get(index), requests > 0, swarm.wanted.holds(index)];
        let places = places.into_iter().filter(|is_there| *is_there).count();
        let is_in_window = !swarm.have.is_full() && index < swarm.prefix + swarm.rules.window;
        assert!(places == 1 || (places == 0 && !is_in_window), "chunk {index} is in {places} places");
        assert!(requests <= COPIES_MAX, "chunk {index} is in {requests} requests");
        let holders = swarm.peers.values().filter(|peer| !peer.is_source && peer.has.get(index));
        assert_eq!(usize::from(swarm.wanted.spread(index)), holders.count(), "spread of {index}");
    }
    for (id, peer) in &swarm.peers {
        let asked: Vec<(u64, Request)> = swarm.requests.all().filter(|(_, asked)| asked.peer == *id).collect();
        assert!(peer.open.iter().eq(asked.iter().map(|(number, _)| number)), "open requests of {id}");
        assert!(asked.iter().all(|(_, asked)| asked.open_chunks().next().is_some()), "an empty request of {id}");
        let expected: usize = asked.iter().map(|(_, asked)| asked.open_chunks().count()).sum();
        assert_eq!(peer.expected as usize, expected, "chunks expected of {id}");
        assert!(peer.open.len() <= swarm.rules.per_peer_max as usize, "too much asked of {id}");
        let is_idle = peer.is_free(swarm.now_ms, swarm.share) && !swarm.have.is_full();
        assert!(!is_idle || swarm.find_wanted(peer).is_none(), "{id} is idle, and there is something for it");
    }
}

#[test]
fn one_source_gives_all_and_a_chunk_that_it_cannot_give_is_asked_for_when_it_can() {
    let mut swarm = swarm(ALONE, 4);
    walk(
        &mut swarm,
        &[
            (0, Event::Tick, &[]),
            (1, Event::Joined { peer: ONE }, &[]),
            (2, has(ONE, 0, 4), &[ask(1, ONE, 0, 2), ask(2, ONE, 2, 2)]),
            (10, arrived(1, 0), &[]),
            (11, arrived(1, 1), &[]),
            (11, Event::Ended { request: 1 }, &[]),
            // Chunk 2 could not be given, so that 3 is asked for after a rest.
            (20, Event::Broken { request: 2 }, &[]),
            (269, Event::Tick, &[]),
            (270, Event::Tick, &[ask(3, ONE, 3, 1)]),
            (275, arrived(3, 3), &[]),
            (280, has(ONE, 2, 1), &[ask(4, ONE, 2, 1)]),
            (290, arrived(4, 2), &[Action::Complete]),
            (300, Event::Tick, &[]),
            (310, Event::Lost { index: 1 }, &[ask(5, ONE, 1, 1)]),
            (311, Event::Lost { index: 1 }, &[]),
            (320, arrived(5, 1), &[Action::Complete]),
        ],
    );
    assert!(swarm.have().is_full() && swarm.strikes().next().is_none());
}

#[test]
fn a_source_is_asked_for_the_own_stripe_and_for_another_when_its_owner_is_silent() {
    let mut swarm = swarm(Stripe { rank: 0, of: 2, ingester: ONE }, 4);
    walk(&mut swarm, &[(0, Event::Joined { peer: ONE }, &[]), (0, Event::Joined { peer: TWO }, &[])]);
    // Chance decides which of the own chunks comes first.
    let mut asked = swarm.apply(0, has(ONE, 0, 4));
    asked.sort_by_key(|action| if let Action::Ask { extent, .. } = action { extent.first } else { 0 });
    let requests: Vec<u64> = swarm.requests.all().map(|(number, _)| number).collect();
    let [Action::Ask { request: zero, .. }, Action::Ask { request: two, .. }] = asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(asked, [ask(zero, ONE, 0, 1), ask(two, ONE, 2, 1)]);
    assert_eq!(requests, [1, 2]);
    walk(
        &mut swarm,
        &[
            // What another has got of its stripe is asked of it, and not of the source.
            (5, has(TWO, 1, 1), &[ask(3, TWO, 1, 1)]),
            (10, arrived(zero, 0), &[]),
            (10, arrived(two, 2), &[]),
            (20, arrived(3, 1), &[]),
            (30, Event::Tick, &[]),
            (249, Event::Tick, &[]),
            (250, Event::Tick, &[ask(4, ONE, 3, 1)]),
            // Its owner has got it after all: the next one is left to it again.
            (260, has(TWO, 3, 1), &[]),
        ],
    );
    assert_eq!(swarm.reach, 0);
    walk(&mut swarm, &[(270, arrived(4, 3), &[Action::Complete])]);
}

#[test]
fn where_everybody_else_has_the_whole_file_no_stripe_is_left_to_others() {
    let mut swarm = swarm(Stripe { rank: 1, of: 3, ingester: ONE }, 2);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 2), &[ask(1, ONE, 1, 1)]),
            (1, has(TWO, 0, 2), &[]),
            (10, arrived(1, 1), &[]),
            (249, Event::Tick, &[]),
        ],
    );
    assert_eq!(swarm.apply(250, Event::Tick).len(), 1);
    assert_eq!((swarm.reach, swarm.requests.of_chunk(0)), (2, [2].as_slice()));
    walk(&mut swarm, &[(260, arrived(2, 0), &[Action::Complete])]);
}

#[test]
fn what_all_others_have_is_asked_of_them_at_once() {
    let mut swarm = swarm(Stripe { rank: 1, of: 2, ingester: ONE }, 2);
    walk(&mut swarm, &[(0, has(ONE, 0, 2), &[ask(1, ONE, 1, 1)]), (1, Event::Joined { peer: TWO }, &[])]);
    assert_eq!(swarm.apply(2, has(TWO, 0, 2)).len(), 1);
    walk(&mut swarm, &[(9, arrived(1, 1), &[]), (9, arrived(2, 0), &[Action::Complete])]);
}

#[test]
fn a_file_of_one_chunk_is_asked_of_whoever_has_it() {
    let mut swarm = swarm(Stripe { rank: 4, of: 6, ingester: ONE }, 1);
    walk(&mut swarm, &[(0, has(ONE, 0, 1), &[ask(1, ONE, 0, 1)]), (9, arrived(1, 0), &[Action::Complete])]);
}

#[test]
fn who_fetched_is_no_source_when_it_has_all_and_is_linked_anew() {
    let mut swarm = swarm(Stripe { rank: 1, of: 3, ingester: ONE }, 6);
    assert_eq!(swarm.apply(0, has(TWO, 0, 1)).len(), 1);
    assert_eq!(swarm.apply(1, Event::Gone { peer: TWO }), []);
    assert_eq!(swarm.apply(2, Event::Joined { peer: TWO }), []);
    // All of it, of whichever stripe.
    let asked = swarm.apply(3, has(TWO, 0, 6)).into_iter().map(|action| match action {
        Action::Ask { peer: TWO, extent, .. } => extent.count,
        other => panic!("{other:?}"),
    });
    assert!(asked.sum::<u32>() > 2, "more than the own stripe");
    check_books(&swarm);
    // Who is first heard of as whole may be another source.
    let three = NodeId(3);
    for event in [Event::Joined { peer: three }, has(three, 0, 6)] {
        let _asked = swarm.apply(5, event);
    }
    assert!(swarm.is_source(three) && !swarm.is_source(TWO));
}

#[test]
fn what_a_source_got_just_now_is_left_to_its_owner_however_long_nothing_else_came() {
    let mut swarm = swarm(Stripe { rank: 0, of: 2, ingester: ONE }, 4);
    walk(
        &mut swarm,
        &[
            (0, Event::Joined { peer: ONE }, &[]),
            (0, Event::Joined { peer: TWO }, &[]),
            (5_000, Event::Tick, &[]),
            (5_000, has(ONE, 1, 1), &[]),
            (28_999, Event::Tick, &[]),
            (29_000, Event::Tick, &[ask(1, ONE, 1, 1)]),
        ],
    );
    assert_eq!(swarm.reach, 1);
}

#[test]
fn who_fetches_alone_from_now_on_asks_for_all() {
    let mut swarm = swarm(Stripe { rank: 0, of: 2, ingester: ONE }, 4);
    assert_eq!(swarm.apply(0, has(ONE, 0, 4)).len(), 2);
    swarm.set_stripe(Stripe { rank: 0, of: 1, ingester: ONE });
    let mut asked: Vec<u32> = Vec::new();
    for action in swarm.apply(1, Event::Tick) {
        let Action::Ask { extent, .. } = action else { panic!("{action:?}") };
        asked.extend(extent.chunks());
    }
    asked.sort_unstable();
    assert_eq!(asked, [1, 3]);
}

#[test]
fn what_is_late_is_asked_of_another_and_the_slower_one_is_cancelled() {
    let mut swarm = swarm(ALONE, 2);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 2), &[ask(1, ONE, 0, 2)]),
            (0, has(TWO, 0, 2), &[]),
            (100, arrived(1, 0), &[]),
            (11_999, Event::Tick, &[]),
            (12_000, Event::Tick, &[ask(2, TWO, 1, 1)]),
            (13_000, Event::Tick, &[]),
            (13_100, arrived(2, 1), &[Action::Cancel { request: 1 }, Action::Complete]),
            (13_200, arrived(1, 1), &[]),
        ],
    );
}

#[test]
fn who_does_not_answer_for_twice_the_time_is_left_alone_for_a_while() {
    let mut swarm = swarm(ALONE, 2);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 2), &[ask(1, ONE, 0, 2)]),
            (15_000, has(TWO, 0, 2), &[]),
            (20_000, Event::Tick, &[ask(2, TWO, 0, 2)]),
            (24_000, Event::Tick, &[Action::Cancel { request: 1 }]),
            (24_100, arrived(2, 0), &[]),
            (24_200, arrived(2, 1), &[Action::Complete]),
        ],
    );
}

#[test]
fn damaged_chunks_are_asked_of_others_and_too_many_of_them_end_in_distrust() {
    let rules = Rules { strikes_max: 2, ..Rules::default() };
    let mut swarm = Swarm::new(rules, OWN, ALONE, Bits::new(3), 7, 0);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 3), &[ask(1, ONE, 0, 2), ask(2, ONE, 2, 1)]),
            (1, Event::Damaged { request: 1, index: 0 }, &[]),
            (2, has(ONE, 0, 1), &[]),
            (3, Event::Damaged { request: 2, index: 2 }, &[Action::Distrust { peer: ONE }, Action::Stuck]),
            (4, Event::Damaged { request: 1, index: 1 }, &[]),
            (5, Event::Joined { peer: ONE }, &[]),
            (5, has(ONE, 0, 3), &[]),
            (6, has(TWO, 0, 3), &[ask(3, TWO, 0, 2), ask(4, TWO, 2, 1)]),
            (7, arrived(3, 0), &[]),
            (8, arrived(4, 2), &[]),
            (9, arrived(3, 1), &[Action::Complete]),
        ],
    );
    assert_eq!(swarm.strikes().collect::<Vec<_>>(), [(ONE, 2)]);
}

#[test]
fn a_busy_peer_is_asked_again_when_it_is_through_or_has_rested() {
    let mut swarm = swarm(ALONE, 4);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 4), &[ask(1, ONE, 0, 2), ask(2, ONE, 2, 2)]),
            (10, Event::Busy { request: 2 }, &[]),
            (20, Event::Busy { request: 1 }, &[]),
            (144, Event::Tick, &[]),
            (270, Event::Tick, &[ask(3, ONE, 0, 2)]),
            (280, arrived(3, 0), &[]),
            (290, arrived(3, 1), &[ask(4, ONE, 2, 2)]),
            (300, arrived(4, 2), &[]),
            (310, arrived(4, 3), &[Action::Complete]),
        ],
    );
}

#[test]
fn what_a_peer_leaves_behind_is_asked_of_others() {
    let mut swarm = swarm(ALONE, 4);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 4), &[ask(1, ONE, 0, 2), ask(2, ONE, 2, 2)]),
            (1, has(TWO, 0, 4), &[]),
            (2, Event::Gone { peer: ONE }, &[ask(3, TWO, 0, 2), ask(4, TWO, 2, 2)]),
            (3, Event::Gone { peer: ONE }, &[]),
            // What was under way came all the same.
            (4, arrived(1, 0), &[]),
            (5, arrived(3, 1), &[]),
            // It says that it is done, and has not sent all: it does not have the rest.
            (6, Event::Ended { request: 4 }, &[]),
            (7, has(TWO, 2, 2), &[ask(5, TWO, 2, 2)]),
            (8, arrived(5, 2), &[]),
            (9, arrived(5, 3), &[Action::Complete]),
        ],
    );
}

#[test]
fn silence_is_told_once_until_there_is_news() {
    let mut swarm = swarm(ALONE, 1);
    walk(
        &mut swarm,
        &[
            (299_999, Event::Tick, &[]),
            (300_000, Event::Tick, &[Action::Stuck]),
            (300_001, Event::Tick, &[]),
            (400_000, has(ONE, 0, 1), &[ask(1, ONE, 0, 1)]),
            (699_999, Event::Tick, &[]),
            (700_000, Event::Tick, &[Action::Stuck]),
            (700_001, arrived(1, 0), &[Action::Complete]),
        ],
    );
}

#[test]
fn a_file_that_is_there_or_empty_is_complete_at_once() {
    for len in [0, 3] {
        let mut swarm = Swarm::new(Rules::default(), OWN, ALONE, Bits::full(len), 7, 0);
        walk(&mut swarm, &[(0, Event::Tick, &[Action::Complete]), (1, has(ONE, 0, len), &[])]);
    }
}

#[test]
fn the_rarest_is_asked_for_first() {
    let rules = Rules { window: 4, extent_max: 1, per_peer_max: 1, ..Rules::default() };
    let stripe = Stripe { rank: 0, of: 2, ingester: NodeId(77) };
    let mut swarm = Swarm::new(rules, OWN, stripe, Bits::new(6), 7, 0);
    // Of equally rare ones each node has its own order.
    let mut order = [0, 1, 2, 3];
    order.sort_by_key(|index| mix(mix(OWN.0) ^ u64::from(*index)));
    let [first, second, third, fourth] = order;
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 4), &[ask(1, ONE, first, 1)]),
            (1, has(TWO, fourth, 1), &[ask(2, TWO, fourth, 1)]),
            (2, has(TWO, second, 1), &[]),
            (3, arrived(1, first), &[ask(3, ONE, third, 1)]),
        ],
    );
}

#[test]
fn nothing_beyond_the_window_is_asked_for() {
    let rules = Rules { window: 1, ..Rules::default() };
    let mut swarm = Swarm::new(rules, OWN, ALONE, Bits::new(3), 7, 0);
    walk(
        &mut swarm,
        &[
            (0, has(ONE, 0, 3), &[ask(1, ONE, 0, 1)]),
            (1, arrived(1, 0), &[ask(2, ONE, 1, 1)]),
            (2, arrived(2, 1), &[ask(3, ONE, 2, 1)]),
            (3, arrived(3, 2), &[Action::Complete]),
        ],
    );
}

/// What may happen to a swarm; requests are named by their place among those that are open.
#[derive(Debug, Clone, Copy)]
enum Step {
    Joined(u64),
    Has(u64, u32, u32),
    Gone(u64),
    Arrived(usize, usize),
    Damaged(usize, usize),
    Busy(usize),
    Ended(usize),
    Broken(usize),
    Stray(u64, u32),
    Lost(u32),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..5_u64).prop_map(Step::Joined),
        6 => (0..5_u64, 0..30_u32, 0..30_u32).prop_map(|(peer, first, count)| Step::Has(peer, first, count)),
        1 => (0..5_u64).prop_map(Step::Gone),
        12 => (0..40_usize, 0..8_usize).prop_map(|(place, chunk)| Step::Arrived(place, chunk)),
        2 => (0..40_usize, 0..8_usize).prop_map(|(place, chunk)| Step::Damaged(place, chunk)),
        2 => (0..40_usize).prop_map(Step::Busy),
        2 => (0..40_usize).prop_map(Step::Ended),
        2 => (0..40_usize).prop_map(Step::Broken),
        1 => (0..60_u64, 0..40_u32).prop_map(|(request, index)| Step::Stray(request, index)),
        1 => (0..30_u32).prop_map(Step::Lost),
        4 => (0..60_000_u64).prop_map(Step::Later),
    ]
}

impl Step {
    fn event(self, swarm: &Swarm) -> Event {
        match self {
            Self::Joined(peer) => Event::Joined { peer: NodeId(peer) },
            Self::Has(peer, first, count) => has(NodeId(peer), first, count),
            Self::Gone(peer) => Event::Gone { peer: NodeId(peer) },
            Self::Arrived(place, chunk) => {
                let (request, index) = open(swarm, place, chunk);
                arrived(request, index)
            }
            Self::Damaged(place, chunk) => {
                let (request, index) = open(swarm, place, chunk);
                Event::Damaged { request, index }
            }
            Self::Busy(place) => Event::Busy { request: open(swarm, place, 0).0 },
            Self::Ended(place) => Event::Ended { request: open(swarm, place, 0).0 },
            Self::Broken(place) => Event::Broken { request: open(swarm, place, 0).0 },
            Self::Stray(request, index) => arrived(request, index),
            Self::Lost(index) => Event::Lost { index },
            Self::Later(_) => Event::Tick,
        }
    }
}

/// An open request and a chunk that it expects; numbers that do not exist when nothing is open.
fn open(swarm: &Swarm, place: usize, chunk: usize) -> (u64, u32) {
    let requests: Vec<(u64, Request)> = swarm.requests.all().collect();
    let Some((number, asked)) = requests.get(place % requests.len().max(1)) else { return (u64::MAX, u32::MAX) };
    let chunks: Vec<u32> = asked.open_chunks().collect();
    (*number, chunks[chunk % chunks.len()])
}

/// Whether all that is asked is asked of a peer that has it, and is not there.
fn check_asks(swarm: &Swarm, actions: &[Action]) {
    for action in actions {
        if let Action::Ask { request, peer, extent } = *action {
            let is_sound = |index| !swarm.have.get(index) && swarm.peers[&peer].has.get(index);
            assert!(extent.chunks().all(is_sound), "request {request}: {extent:?} of {peer}");
            assert!(extent.count >= 1 && extent.count <= swarm.rules.extent_max, "request {request}: {extent:?}");
        }
    }
}

/// What came of these events, one after the other.
fn played(swarm: &mut Swarm, steps: &[Step]) -> u64 {
    let mut now_ms = 0;
    for step in steps {
        now_ms += if let Step::Later(ms) = step { *ms } else { 1 };
        let event = step.event(swarm);
        let actions = swarm.apply(now_ms, event);
        check_asks(swarm, &actions);
        check_books(swarm);
    }
    now_ms
}

/// The rules under which chance plays.
fn small() -> Rules {
    Rules { window: 8, extent_max: 4, per_peer_max: 3, endgame_percent: 20, ..Rules::default() }
}

/// Found by chance: what two of three silent peers were asked for was passed on among them without end.
#[test]
fn what_silent_peers_do_not_give_is_asked_of_one_that_answers() {
    let steps = [
        Step::Stray(0, 0),
        Step::Has(4, 1, 14),
        Step::Joined(0),
        Step::Arrived(3, 0),
        Step::Has(2, 2, 8),
        Step::Damaged(22, 5),
        Step::Broken(35),
        Step::Later(37839),
        Step::Joined(0),
        Step::Later(11553),
        Step::Gone(0),
        Step::Arrived(11, 0),
        Step::Arrived(9, 0),
        Step::Ended(0),
        Step::Damaged(5, 0),
        Step::Stray(0, 11),
        Step::Joined(0),
        Step::Later(240),
        Step::Arrived(0, 0),
        Step::Arrived(0, 0),
        Step::Joined(2),
        Step::Arrived(0, 0),
        Step::Has(0, 0, 4),
        Step::Arrived(20, 0),
        Step::Joined(0),
        Step::Joined(0),
        Step::Lost(3),
        Step::Arrived(14, 0),
        Step::Later(35406),
        Step::Busy(3),
        Step::Arrived(2, 0),
    ];
    let stripe = Stripe { rank: 1, of: 2, ingester: ONE };
    let mut swarm = Swarm::new(small(), OWN, stripe, Bits::new(24), 4_029_207_863_365_656_349, 0);
    let now_ms = played(&mut swarm, &steps);
    finish(&mut swarm, now_ms);
    assert!(swarm.have().is_full(), "{:?}", swarm.have());
}

/// From here on one peer has everything and answers; whoever else is linked never does.
fn finish(swarm: &mut Swarm, mut now_ms: u64) {
    let honest = NodeId(50);
    let mut waiting = vec![has(honest, 0, swarm.have().len())];
    for _ in 0..4_000 {
        now_ms += 500;
        let event = waiting.pop().unwrap_or(Event::Tick);
        for action in swarm.apply(now_ms, event) {
            if let Action::Ask { request, peer, extent } = action
                && peer == honest
            {
                waiting.extend(extent.chunks().map(|index| arrived(request, index)));
            }
        }
        check_books(swarm);
        if swarm.have().is_full() {
            break;
        }
    }
}

proptest! {
    #[test]
    fn in_any_order_of_events_the_books_are_right_and_every_reachable_chunk_arrives(
        steps in prop::collection::vec(step(), 0..120),
        of in 0..4_u32,
        seed in any::<u64>(),
    ) {
        let stripe = Stripe { rank: of / 2, of, ingester: ONE };
        let mut swarm = Swarm::new(small(), OWN, stripe, Bits::new(24), seed, 0);
        let now_ms = played(&mut swarm, &steps);
        finish(&mut swarm, now_ms);
        prop_assert!(swarm.have().is_full(), "{:?}", swarm.have());
    }

    #[test]
    fn the_same_events_give_the_same_actions(
        steps in prop::collection::vec(step(), 0..80),
        of in 0..4_u32,
        seed in any::<u64>(),
    ) {
        let stripe = Stripe { rank: 0, of, ingester: ONE };
        let run = || {
            let mut swarm = Swarm::new(Rules::default(), OWN, stripe, Bits::new(24), seed, 0);
            let apply = |(now_ms, step): (u64, &Step)| {
                let event = step.event(&swarm);
                swarm.apply(now_ms * 100, event)
            };
            (0..).zip(&steps).map(apply).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}
