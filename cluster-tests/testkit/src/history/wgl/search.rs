//! The search for an order of one key's operations.
//!
//! It places the first operation that fits, and goes back to the last one placed when none does. A set of placed
//! operations that left the same state before is not entered again. The longest order is kept for the explanation.

use std::collections::HashSet;

use super::agenda::{Agenda, Event};
use super::bits::{Bits, Short};
use super::model::{Candidate, Model, State};
use super::{Budget, Why};
use crate::history::record::{Call, Operation};
use crate::history::writes::Writes;

/// Operations shown of the longest order, from its end.
const LAST_SHOWN_MAX: usize = 8;
/// Operations shown of those that could not follow it.
const NEXT_SHOWN_MAX: usize = 16;

/// How a search ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// All that happened stands in an order.
    Ordered,
    /// There is no order, and this is how far one gets.
    Stuck(String),
    GaveUp(Why),
}

/// The search.
#[derive(Debug)]
pub(super) struct Search<'a> {
    model: Model,
    candidates: Vec<Candidate<'a>>,
    /// Of each candidate: its number among those that may be left out, or among the others.
    numbers: Vec<usize>,
    /// Of each candidate: the one that must be used before it.
    elder: Vec<Option<usize>>,
    agenda: Agenda,
    state: State,
    path: Vec<Placed>,
    required: Bits,
    optional: Bits,
    /// Candidates that are not placed and may not be left out.
    left: usize,
    memory: HashSet<Situation>,
    longest: Option<Longest>,
}

/// A candidate in the order, in which way, and what the key held before it.
#[derive(Debug, Clone, Copy)]
struct Placed {
    candidate: usize,
    choice: usize,
    before: State,
}

/// All on which the rest of the search depends.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Situation {
    required: Short,
    optional: Short,
    state: State,
}

/// The longest order so far, where nothing could follow.
#[derive(Debug)]
struct Longest {
    placed: usize,
    left: usize,
    state: State,
    last: Vec<usize>,
    next: Vec<usize>,
}

// === impl Search ===

impl<'a> Search<'a> {
    /// Prepares the search for one key, given by the places of its operations in the history.
    pub(super) fn new(history: &'a [Operation], mut members: Vec<usize>, writes: &Writes) -> Self {
        members.sort_by_key(|index| history[*index].invoked_ns);
        let candidates: Vec<Candidate<'a>> =
            members.into_iter().filter_map(|index| Candidate::of(&history[index], writes.revision(index))).collect();
        let (mut required, mut optional) = (0, 0);
        let number = |candidate: &Candidate<'_>| {
            let count = if candidate.optional { &mut optional } else { &mut required };
            *count += 1;
            *count - 1
        };
        let numbers = candidates.iter().map(number).collect();
        Self {
            model: Model::of(&candidates, writes),
            numbers,
            elder: elders(&candidates),
            agenda: Agenda::of(&candidates),
            candidates,
            state: State::default(),
            path: Vec::new(),
            required: Bits::new(required),
            optional: Bits::new(optional),
            left: required,
            memory: HashSet::new(),
            longest: None,
        }
    }

    /// Searches until an order is found, none can be, or the budget is spent.
    pub(super) fn run(mut self, budget: &mut Budget) -> Ended {
        let (mut place, mut choice) = (self.agenda.first(), 0);
        while self.left > 0 {
            if let Err(why) = budget.spend() {
                return Ended::GaveUp(why);
            }
            (place, choice) = match self.agenda.event(place) {
                Some(Event::Call(candidate)) if self.place(candidate, choice) => (self.agenda.first(), 0),
                Some(Event::Call(_)) => (self.agenda.after(place), 0),
                Some(Event::Return) | None => {
                    self.keep_longest();
                    let Some(last) = self.take_back() else { return Ended::Stuck(self.explanation()) };
                    (self.agenda.call(last.candidate), last.choice + 1)
                }
            };
        }
        Ended::Ordered
    }

    /// Places a candidate next, in the first way from `choice` on that leads somewhere new.
    fn place(&mut self, candidate: usize, choice: usize) -> bool {
        if self.elder[candidate].is_some_and(|elder| !self.optional.has(self.numbers[elder])) {
            return false;
        }
        for choice in choice..self.model.choices(&self.candidates[candidate]) {
            let Some(state) = self.model.step(self.state, &self.candidates[candidate], choice) else { continue };
            self.mark(candidate, true);
            let situation = Situation { required: self.required.short(), optional: self.optional.short(), state };
            if self.memory.insert(situation) {
                self.path.push(Placed { candidate, choice, before: self.state });
                self.state = state;
                self.agenda.lift(candidate);
                return true;
            }
            self.mark(candidate, false);
        }
        false
    }

    /// Takes the last placed candidate back.
    fn take_back(&mut self) -> Option<Placed> {
        let last = self.path.pop()?;
        self.agenda.put_back(last.candidate);
        self.mark(last.candidate, false);
        self.state = last.before;
        Some(last)
    }

    fn mark(&mut self, candidate: usize, placed: bool) {
        let number = self.numbers[candidate];
        let optional = self.candidates[candidate].optional;
        let bits = if optional { &mut self.optional } else { &mut self.required };
        if placed {
            bits.set(number);
        } else {
            bits.clear(number);
        }
        if !optional {
            self.left = if placed { self.left - 1 } else { self.left + 1 };
        }
    }

    fn keep_longest(&mut self) {
        if self.longest.as_ref().is_some_and(|longest| longest.placed >= self.path.len()) {
            return;
        }
        let shown = self.path.len().saturating_sub(LAST_SHOWN_MAX);
        self.longest = Some(Longest {
            placed: self.path.len(),
            left: self.left,
            state: self.state,
            last: self.path[shown..].iter().map(|placed| placed.candidate).collect(),
            next: self.agenda.next_ones().take(NEXT_SHOWN_MAX).collect(),
        });
    }

    fn explanation(&self) -> String {
        let longest = self.longest.as_ref().expect("it is kept before anything is taken back");
        let Longest { placed, left, state, .. } = longest;
        let mut lines =
            vec![format!("{placed} operations stand in an order, {left} that happened are left. The last:")];
        lines.extend(longest.last.iter().map(|candidate| self.show(*candidate)));
        lines.push(format!("Then it holds {state}, and none of these can follow:"));
        lines.extend(longest.next.iter().map(|candidate| self.show(*candidate)));
        lines.join("\n")
    }

    fn show(&self, candidate: usize) -> String {
        format!("  {}", self.candidates[candidate].operation)
    }
}

/// Of each put and delete that may be left out: the one called before it. Nobody can tell them apart, so that one is
/// used first.
fn elders(candidates: &[Candidate<'_>]) -> Vec<Option<usize>> {
    let (mut last_put, mut last_delete) = (None, None);
    let elder = |(index, candidate): (usize, &Candidate<'_>)| match candidate.operation.call {
        Call::Put { .. } if candidate.optional => last_put.replace(index),
        Call::Delete if candidate.optional => last_delete.replace(index),
        _ => None,
    };
    candidates.iter().enumerate().map(elder).collect()
}
