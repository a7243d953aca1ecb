//! Who works and who waits at each runner of this node: a plain state machine, without time and tasks.
//!
//! A runner belongs to one set of weights, whatever the number of models made from it. Always holds: at most `slots`
//! requests of it run; those that wait run in the order they came; a ticket leaves once, and whatever it held is then
//! free. Speeds outlive the requests they were measured on, and are forgotten with the last model of the weights.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Digest, RunnerLoad};

use crate::timings::Timings;

/// One request's place in a queue. Smaller tickets came earlier.
pub(crate) type Ticket = u64;

/// What became of a request that entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    Runs(Ticket),
    Waits(Ticket),
}

/// As many wait for this runner as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug, Default)]
struct Runner {
    running: BTreeSet<Ticket>,
    waiting: BTreeSet<Ticket>,
    service_ms: u32,
    load_ms: u32,
}

/// The queues of all runners.
#[derive(Debug)]
pub(crate) struct Queue {
    slots: usize,
    waiting_max: usize,
    runners: BTreeMap<Digest, Runner>,
    next: Ticket,
}

// === impl Queue ===

impl Queue {
    pub(crate) const fn new(slots: usize, waiting_max: usize) -> Self {
        Self { slots, waiting_max, runners: BTreeMap::new(), next: 0 }
    }

    /// A request for a model of these weights comes.
    pub(crate) fn enter(&mut self, weights: Digest) -> Result<Entered, Full> {
        let runner = self.runners.entry(weights).or_default();
        let ticket = self.next;
        let entered = if runner.running.len() < self.slots {
            runner.running.insert(ticket);
            Entered::Runs(ticket)
        } else if runner.waiting.len() < self.waiting_max {
            runner.waiting.insert(ticket);
            Entered::Waits(ticket)
        } else {
            return Err(Full);
        };
        self.next += 1;
        Ok(entered)
    }

    /// A request goes, from whichever place it has. Returns the one that runs in its stead.
    pub(crate) fn leave(&mut self, weights: Digest, ticket: Ticket) -> Option<Ticket> {
        let runner = self.runners.get_mut(&weights)?;
        runner.waiting.remove(&ticket);
        if !runner.running.remove(&ticket) || runner.running.len() >= self.slots {
            return None;
        }
        let next = runner.waiting.pop_first()?;
        runner.running.insert(next);
        Some(next)
    }

    /// A request ended; its times are smoothed into the runner's.
    pub(crate) fn measured(&mut self, weights: Digest, timings: Timings) {
        let Some(runner) = self.runners.get_mut(&weights) else { return };
        runner.service_ms = smoothed(runner.service_ms, timings.service_ms);
        runner.load_ms = timings.load_ms.unwrap_or(runner.load_ms);
    }

    /// Forgets the speeds of weights that no model has any more. Runners with requests stay.
    pub(crate) fn retain(&mut self, known: &BTreeSet<Digest>) {
        self.runners.retain(|weights, runner| {
            known.contains(weights) || !runner.running.is_empty() || !runner.waiting.is_empty()
        });
    }

    pub(crate) fn load(&self, weights: Digest) -> RunnerLoad {
        let idle = Runner::default();
        self.shown(weights, self.runners.get(&weights).unwrap_or(&idle))
    }

    pub(crate) fn loads(&self) -> Vec<RunnerLoad> {
        self.runners.iter().map(|(weights, runner)| self.shown(*weights, runner)).collect()
    }

    fn shown(&self, weights: Digest, runner: &Runner) -> RunnerLoad {
        RunnerLoad {
            weights,
            running: count(runner.running.len()),
            waiting: count(runner.waiting.len()),
            slots: count(self.slots),
            service_ms: runner.service_ms,
            load_ms: runner.load_ms,
        }
    }

    /// All running and all waiting requests.
    pub(crate) fn totals(&self) -> (usize, usize) {
        self.runners
            .values()
            .fold((0, 0), |(running, waiting), runner| (running + runner.running.len(), waiting + runner.waiting.len()))
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A quarter of the way from the old value to the new one; the first value counts whole. Never 0, which says unknown.
fn smoothed(old_ms: u32, new_ms: u32) -> u32 {
    let smoothed = if old_ms == 0 { u64::from(new_ms) } else { (u64::from(old_ms) * 3 + u64::from(new_ms)) / 4 };
    u32::try_from(smoothed).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Entered::{Runs, Waits};

    const A: Digest = Digest([1; 32]);
    const B: Digest = Digest([2; 32]);

    #[test]
    fn runs_up_to_the_slots_then_waits_in_order_then_is_full() {
        let mut queue = Queue::new(2, 2);
        let entered: Vec<_> = (0..5).map(|_| queue.enter(A)).collect();
        assert_eq!(entered, [Ok(Runs(0)), Ok(Runs(1)), Ok(Waits(2)), Ok(Waits(3)), Err(Full)]);
        assert_eq!(queue.enter(B), Ok(Runs(4)), "another runner has its own slots");
        assert_eq!(queue.leave(A, 1), Some(2));
        assert_eq!(queue.leave(A, 0), Some(3));
        assert_eq!(queue.leave(A, 2), None);
        assert_eq!(queue.totals(), (2, 0));
    }

    #[test]
    fn a_ticket_leaves_once_from_whichever_place_it_has() {
        let mut queue = Queue::new(1, 9);
        for _ in 0..4 {
            assert!(queue.enter(A).is_ok());
        }
        assert_eq!(queue.leave(A, 2), None, "a waiting one goes: nobody moves up");
        assert_eq!(queue.leave(A, 0), Some(1));
        assert_eq!(queue.leave(A, 0), None, "it has left before");
        assert_eq!(queue.leave(A, 2), None, "it has left before");
        assert_eq!(queue.leave(A, 1), Some(3));
        assert_eq!(queue.leave(A, 3), None);
        assert_eq!(queue.totals(), (0, 0));
    }

    #[test]
    fn speeds_are_smoothed_and_forgotten_with_the_model() {
        let mut queue = Queue::new(1, 1);
        assert_eq!(queue.enter(A), Ok(Runs(0)));
        for (service_ms, load_ms, expected) in
            [(800, Some(50), (800, 50)), (400, None, (700, 50)), (0, Some(9), (525, 9))]
        {
            queue.measured(A, Timings { service_ms, load_ms });
            let load = queue.load(A);
            assert_eq!((load.service_ms, load.load_ms), expected);
        }
        queue.retain(&BTreeSet::new());
        assert_eq!(queue.loads().len(), 1, "a running one is kept");
        assert_eq!(queue.leave(A, 0), None);
        queue.retain(&BTreeSet::from([A]));
        assert_eq!(queue.load(A).service_ms, 525);
        queue.retain(&BTreeSet::new());
        assert_eq!(queue.loads(), vec![]);
    }
}
