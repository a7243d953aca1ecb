//! What one key does: the state, and which operation may come next with the effect that its client saw.
//!
//! A key holds nothing, or a value and the revision of its write; the entries of the key have growing revisions. A
//! write without an answer that no read showed may be left out, and its revision is open. It is either one of the few
//! numbers that a compare-and-swap named and nobody has, or one that nobody named; each is a choice of its own.
//!
//! Two rules keep choices few and lose no order. Such a write is followed by an operation that looks, because one that
//! overwrites it unseen could as well come without it. And of several such puts, or deletes, the one that was called
//! first is used first, because nobody can tell them apart.

use std::collections::BTreeSet;
use std::fmt;

use crate::history::record::{Call, Operation, Outcome};
use crate::history::writes::Writes;

/// An operation that has its place in an order, or may have.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    pub(super) operation: &'a Operation,
    pub(super) invoked_ns: u64,
    /// `None`: nothing waits for it to be over.
    pub(super) returned_ns: Option<u64>,
    /// Of its log entry, if it is known.
    revision: Option<u64>,
    /// Whether it may be left out.
    pub(super) optional: bool,
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct State {
    held: Option<Held>,
    /// The greatest known revision of an entry so far.
    newest: u64,
    /// The last operation could have been left out, and nobody has looked since.
    unseen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    value: u64,
    /// `None`: a revision that nobody names.
    modified: Option<u64>,
}

/// The numbers that a write with an open revision may have.
#[derive(Debug)]
pub(super) struct Model {
    open: Vec<u64>,
}

// === impl Candidate ===

impl<'a> Candidate<'a> {
    /// `None`: it has no effect and promises nothing.
    pub(super) fn of(operation: &'a Operation, revision: Option<u64>) -> Option<Self> {
        let unknown = operation.outcome == Outcome::Unknown;
        let is_read = matches!(operation.call, Call::Get { .. });
        if operation.outcome == Outcome::Refused || operation.is_stale() || is_read && unknown {
            return None;
        }
        let returned_ns = operation.returned_ns.filter(|_| !unknown);
        let optional = unknown && revision.is_none();
        Some(Self { operation, invoked_ns: operation.invoked_ns, returned_ns, revision, optional })
    }
}

// === impl Model ===

impl Model {
    pub(super) fn of(candidates: &[Candidate<'_>], writes: &Writes) -> Self {
        let mut named = BTreeSet::new();
        for candidate in candidates {
            if let Call::Cas { expected_modified, .. } = candidate.operation.call {
                named.insert(expected_modified);
            }
            if let Outcome::Written { observed_modified: Some(observed), .. } = candidate.operation.outcome {
                named.insert(observed);
            }
        }
        Self { open: named.into_iter().filter(|number| *number != 0 && !writes.is_taken(*number)).collect() }
    }

    /// In how many ways a candidate may have its effect.
    pub(super) fn choices(&self, candidate: &Candidate<'_>) -> usize {
        if candidate.optional && candidate.operation.value().is_some() { 1 + self.open.len() } else { 1 }
    }

    /// What the key holds after a candidate; `None`: it cannot come next, or not in this way.
    pub(super) fn step(&self, state: State, candidate: &Candidate<'_>, choice: usize) -> Option<State> {
        let open = choice.checked_sub(1).and_then(|choice| self.open.get(choice).copied());
        let revision = candidate.revision.or(open);
        if revision.is_some_and(|revision| revision <= state.newest) {
            return None;
        }
        let newest = revision.unwrap_or(state.newest);
        let leaves = |held| Some(State { held, newest, unseen: candidate.optional });
        let puts = |value| leaves(Some(Held { value, modified: revision }));
        match (candidate.operation.call, candidate.operation.outcome) {
            (Call::Get { .. }, Outcome::Read { value, modified, .. }) if state.shows(value, modified) => {
                leaves(state.held)
            }
            (Call::Put { value }, Outcome::Written { happened: true, .. } | Outcome::Unknown) if !state.unseen => {
                puts(value)
            }
            (Call::Cas { expected_modified, value }, Outcome::Written { happened: true, .. } | Outcome::Unknown)
                if state.is_at(expected_modified) =>
            {
                puts(value)
            }
            (Call::Cas { expected_modified, .. }, Outcome::Written { happened: false, observed_modified, .. })
                if !state.is_at(expected_modified) && observed_modified.is_none_or(|found| state.is_at(found)) =>
            {
                leaves(state.held)
            }
            (Call::Delete, Outcome::Deleted { existed, .. }) if existed == state.held.is_some() => leaves(None),
            (Call::Delete, Outcome::Unknown) if state.held.is_some() && !state.unseen => leaves(None),
            _ => None,
        }
    }
}

// === impl State ===

impl State {
    fn shows(&self, value: Option<u64>, modified: u64) -> bool {
        match (self.held, value) {
            (Some(held), Some(value)) => held == Held { value, modified: Some(modified) },
            (None, None) => modified == 0,
            _ => false,
        }
    }

    /// Whether the key was changed last at this revision; 0: whether it holds nothing.
    fn is_at(&self, modified: u64) -> bool {
        self.held.map_or(modified == 0, |held| held.modified == Some(modified))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held {
            None => f.write_str("nothing"),
            Some(Held { value, modified: Some(modified) }) => write!(f, "{value} of {modified}"),
            Some(Held { value, modified: None }) => write!(f, "{value} of a revision that nobody names"),
        }
    }
}
