//! The calls and returns that are still ahead, in order of time, as a list that gives back what was taken from it.
//!
//! An operation may be the next in an order as long as its call stands before every return: then nothing that is still
//! ahead was over before it began. Taking an operation out and putting it back costs the same however long the list
//! is, provided that what was taken last is put back first.

use std::iter;

use super::model::Candidate;

/// Where the list begins and ends.
const HEAD: usize = 0;

/// What may stand at a place of the list. Candidates are named by their place among those of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Call(usize),
    Return,
}

/// The list.
#[derive(Debug)]
pub(super) struct Agenda {
    /// What stands at each place but the head.
    events: Vec<Event>,
    before: Vec<usize>,
    after: Vec<usize>,
    calls: Vec<usize>,
    returns: Vec<Option<usize>>,
}

// === impl Agenda ===

impl Agenda {
    pub(super) fn of(candidates: &[Candidate<'_>]) -> Self {
        // At the same moment calls stand before returns: operations that touch overlap.
        let mut times: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * candidates.len());
        for (candidate, Candidate { invoked_ns, returned_ns, .. }) in candidates.iter().enumerate() {
            times.push((*invoked_ns, false, candidate));
            times.extend(returned_ns.map(|returned_ns| (returned_ns, true, candidate)));
        }
        times.sort_unstable();

        let count = times.len();
        let (mut calls, mut returns) = (vec![HEAD; candidates.len()], vec![None; candidates.len()]);
        let mut events = Vec::with_capacity(count);
        for (place, (_, is_return, candidate)) in (1..).zip(times) {
            if is_return {
                returns[candidate] = Some(place);
                events.push(Event::Return);
            } else {
                calls[candidate] = place;
                events.push(Event::Call(candidate));
            }
        }
        let before = ring(count, count);
        let after = ring(1, count);
        Self { events, before, after, calls, returns }
    }

    /// The first place.
    pub(super) fn first(&self) -> usize {
        self.after[HEAD]
    }

    /// The place behind this one.
    pub(super) fn after(&self, place: usize) -> usize {
        self.after[place]
    }

    /// What stands there; `None`: the list is over.
    pub(super) fn event(&self, place: usize) -> Option<Event> {
        place.checked_sub(1).map(|event| self.events[event])
    }

    /// Where a candidate's call stands, or stood.
    pub(super) fn call(&self, candidate: usize) -> usize {
        self.calls[candidate]
    }

    /// Takes a candidate out.
    pub(super) fn lift(&mut self, candidate: usize) {
        self.unlink(self.calls[candidate]);
        if let Some(place) = self.returns[candidate] {
            self.unlink(place);
        }
    }

    /// Puts the candidate back that was taken out last.
    pub(super) fn put_back(&mut self, candidate: usize) {
        if let Some(place) = self.returns[candidate] {
            self.relink(place);
        }
        self.relink(self.calls[candidate]);
    }

    /// The candidates that may be next, in order of their calls.
    pub(super) fn next_ones(&self) -> impl Iterator<Item = usize> {
        let places = iter::successors(Some(self.first()), move |place| Some(self.after(*place)));
        places.map_while(move |place| match self.event(place) {
            Some(Event::Call(candidate)) => Some(candidate),
            Some(Event::Return) | None => None,
        })
    }

    /// A place that is taken out keeps its neighbours, so that it finds back between them.
    fn unlink(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = after;
        self.before[after] = before;
    }

    fn relink(&mut self, place: usize) {
        let (before, after) = (self.before[place], self.after[place]);
        self.after[before] = place;
        self.before[after] = place;
    }
}

/// The places of a ring of `count` and the head, beginning with one of them.
fn ring(first: usize, count: usize) -> Vec<usize> {
    (0..=count).map(|step| (first + step) % (count + 1)).collect()
}
