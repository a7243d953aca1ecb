//! Random histories of a store that is simulated one operation after the other: legal ones, which both checkers
//! accept, and tiny ones with one read changed, of which they say what the oracle says.

use std::ops::Range;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Call, Level, Operation, Outcome, oracle, revisions, search, texts};

/// Nanoseconds from the effect of one operation to that of the next.
const STEP_NS: u64 = 10;
/// How much earlier an operation may be invoked, and how much later it may return.
const SLACK_NS: u64 = 35;
const KEYS: [&str; 2] = ["a", "b"];

/// What chance decides of one operation.
#[derive(Debug, Clone, Copy)]
struct Draw {
    kind: u8,
    key: usize,
    early_ns: u64,
    late_ns: u64,
    fate: u8,
    pick: u8,
}

fn draws(keys: usize, count: Range<usize>) -> impl Strategy<Value = Vec<Draw>> {
    let draw = (0_u8..10, 0..keys, 0..SLACK_NS, 0..SLACK_NS, 0_u8..10, 0_u8..6)
        .prop_map(|(kind, key, early_ns, late_ns, fate, pick)| Draw { kind, key, early_ns, late_ns, fate, pick });
    prop::collection::vec(draw, count)
}

/// What of a store is simulated.
#[derive(Debug, Clone, Copy)]
struct Scope {
    /// Writes may lose their answers.
    unknown: bool,
    /// There are stale reads.
    stale: bool,
}

/// Values and their revisions.
type Held = [Option<(u64, u64)>; KEYS.len()];

/// The simulated store and what its clients saw.
#[derive(Debug, Default)]
struct World {
    revision: u64,
    held: Held,
    /// Every state that there was, with the revision up to which it was applied.
    past: Vec<(u64, Held)>,
    history: Vec<Operation>,
    /// Of each operation: the revision at which its value was put, if it was.
    put_at: Vec<Option<u64>>,
}

// === impl World ===

impl World {
    fn of(draws: &[Draw], scope: Scope) -> Self {
        let mut world = Self { past: vec![(0, Held::default())], ..Self::default() };
        for draw in draws {
            // Now and then the log holds what is none of this history's.
            world.revision += u64::from(draw.pick % 2);
            let (call, outcome) = world.perform(*draw, scope);
            let moment_ns = 100 + STEP_NS * world.history.len() as u64;
            let lost = outcome == Outcome::Unknown;
            let invoked_ns = moment_ns - draw.early_ns;
            // Who waits for an answer that does not come may give up before the effect, or never.
            let gives_up_ns = if draw.pick < 3 { Some(invoked_ns + draw.late_ns) } else { None };
            let returned_ns = if lost { gives_up_ns } else { Some(moment_ns + draw.late_ns) };
            let (client, key) = (u32::from(draw.pick), KEYS[draw.key].to_owned());
            world.history.push(Operation { client, key, call, invoked_ns, returned_ns, outcome });
            world.past.push((world.revision, world.held));
        }
        world
    }

    /// Performs one operation. `put_at` grows by one.
    fn perform(&mut self, draw: Draw, scope: Scope) -> (Call, Outcome) {
        match draw.kind {
            0..=5 => self.write(draw, scope),
            6..=8 => (read_call(draw), self.read(draw)),
            _ if scope.stale => self.stale_read(draw),
            _ => (read_call(draw), self.read(draw)),
        }
    }

    fn write(&mut self, draw: Draw, scope: Scope) -> (Call, Outcome) {
        let value = 1000 + self.history.len() as u64;
        let found = self.held[draw.key].map_or(0, |(_, modified)| modified);
        let call = match (draw.kind, draw.pick) {
            (0..=2, _) => Call::Put { value },
            (3, _) => Call::Delete,
            (_, 0..=2) => Call::Cas { expected_modified: found, value },
            (_, pick) => Call::Cas { expected_modified: self.revision / 2 * u64::from(pick - 3), value },
        };
        // 0: refused; 1: it happens without an answer; 2: neither happens.
        let lost = scope.unknown && matches!(draw.fate, 1 | 2);
        if draw.fate == 0 || lost && draw.fate == 2 {
            self.put_at.push(None);
            return (call, if lost { Outcome::Unknown } else { Outcome::Refused });
        }
        self.revision += 1;
        let revision = self.revision;
        let happened = !matches!(call, Call::Cas { expected_modified, .. } if expected_modified != found);
        let puts = happened && call != Call::Delete;
        if happened {
            self.held[draw.key] = puts.then_some((value, revision));
        }
        self.put_at.push(puts.then_some(revision));
        let outcome = match call {
            _ if lost => Outcome::Unknown,
            Call::Delete => Outcome::Deleted { revision, existed: found != 0 },
            _ => {
                let told = !happened && draw.pick.is_multiple_of(2);
                Outcome::Written { revision, happened, observed_modified: told.then_some(found) }
            }
        };
        (call, outcome)
    }

    fn read(&mut self, draw: Draw) -> Outcome {
        self.put_at.push(None);
        if draw.fate == 0 { Outcome::Unknown } else { answer(self.revision, self.held[draw.key]) }
    }

    fn stale_read(&mut self, draw: Draw) -> (Call, Outcome) {
        self.put_at.push(None);
        let back = usize::from(draw.fate).min(self.past.len() - 1);
        let (revision, held) = self.past[self.past.len() - 1 - back];
        (Call::Get { level: Level::Stale }, answer(revision, held[draw.key]))
    }

    /// Changes what one read shows to another value that was put, or to nothing. False: there is nothing to change.
    fn change_a_read(&mut self, change: Change) -> bool {
        let reads: Vec<usize> = (0..self.history.len())
            .filter(|index| matches!(self.history[*index].outcome, Outcome::Read { .. }))
            .collect();
        let mut shown = vec![(None, Some(0))];
        for (operation, put_at) in self.history.iter().zip(&self.put_at) {
            if let Call::Put { value } | Call::Cas { value, .. } = operation.call {
                shown.push((Some(value), *put_at));
            }
        }
        let (other, put_at) = shown[change.value % shown.len()];
        if reads.is_empty() {
            return false;
        }
        let read = &mut self.history[reads[change.read % reads.len()]];
        let Outcome::Read { value, modified, .. } = &mut read.outcome else { return false };
        if *value == other {
            return false;
        }
        *value = other;
        if change.revision_too {
            *modified = put_at.unwrap_or(*modified);
        }
        true
    }
}

fn read_call(draw: Draw) -> Call {
    Call::Get { level: if draw.pick == 0 { Level::Lease } else { Level::Linearizable } }
}

fn answer(at: u64, held: Option<(u64, u64)>) -> Outcome {
    let (value, modified) = held.map_or((None, 0), |(value, modified)| (Some(value), modified));
    Outcome::Read { value, modified, at, age_ms: None }
}

/// Which read is changed, and to what.
#[derive(Debug, Clone, Copy)]
struct Change {
    read: usize,
    value: usize,
    revision_too: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let change = (0_usize..6, 0_usize..7, prop::bool::weighted(0.8));
    change.prop_map(|(read, value, revision_too)| Change { read, value, revision_too })
}

/// Histories small enough for the oracle.
fn tiny(keys: usize) -> impl Strategy<Value = Vec<Draw>> {
    draws(keys, 1..7)
}

const ONE_KEY: Scope = Scope { unknown: true, stale: false };
const ANSWERED: Scope = Scope { unknown: false, stale: false };

proptest! {
    #[test]
    fn what_a_good_store_leaves_is_accepted_by_both(draws in draws(KEYS.len(), 1..60)) {
        let World { history, .. } = World::of(&draws, Scope { unknown: true, stale: true });
        let verdict = search(&history);
        prop_assert!(verdict.is_linearizable(), "{verdict}\n{history:#?}");
        let problems = revisions::check(&history, &revisions::Config::default());
        prop_assert!(problems.is_empty(), "{:#?}\n{history:#?}", texts(&problems));
    }

    #[test]
    fn the_search_agrees_with_the_oracle(draws in tiny(1), change in change()) {
        let mut world = World::of(&draws, ONE_KEY);
        prop_assert!(oracle::is_legal(&world.history, false), "{:#?}", world.history);
        world.change_a_read(change);
        let verdict = search(&world.history);
        let legal = oracle::is_legal(&world.history, false);
        prop_assert_eq!(verdict.is_linearizable(), legal, "{}\n{:#?}", verdict, world.history);
    }

    #[test]
    fn the_revision_check_agrees_with_the_oracle(draws in tiny(KEYS.len()), change in change()) {
        let mut world = World::of(&draws, ANSWERED);
        prop_assert!(oracle::is_legal(&world.history, true), "{:#?}", world.history);
        world.change_a_read(change);
        let problems = revisions::check(&world.history, &revisions::Config::default());
        let legal = oracle::is_legal(&world.history, true);
        prop_assert_eq!(problems.is_empty(), legal, "{:#?}\n{:#?}", texts(&problems), world.history);
    }
}

#[test]
fn changed_reads_are_often_legal_and_often_not() {
    let mut runner = TestRunner::deterministic();
    let strategy = (tiny(1), change());
    let mut verdicts = [0; 2];
    for _ in 0..2000 {
        let (draws, change) = strategy.new_tree(&mut runner).expect("nothing is filtered out").current();
        let mut world = World::of(&draws, ONE_KEY);
        if world.change_a_read(change) {
            verdicts[usize::from(oracle::is_legal(&world.history, false))] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 20), "{verdicts:?}");
}
