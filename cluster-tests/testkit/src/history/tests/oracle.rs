//! The oracle for tiny histories: it tries every order of the operations, every subset of those that may be left out
//! and every number that a revision may be, and knows none of the short cuts of the checkers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Call, Operation, Outcome};

/// What is tried.
struct Oracle<'a> {
    operations: Vec<&'a Operation>,
    /// All numbers that some client named as a revision.
    named: BTreeSet<u64>,
    /// Whether reads stand in the order of the log, too, where they say that they do.
    judges_at: bool,
}

#[derive(Clone, Default)]
struct State<'a> {
    /// Values and their revisions; `None`: one that nobody named.
    held: BTreeMap<&'a str, (u64, Option<u64>)>,
    newest: u64,
}

/// Whether a store can have left this history: one of a single key, or one without unknown outcomes. There are no
/// stale reads in it.
pub(super) fn is_legal(history: &[Operation], judges_at: bool) -> bool {
    let operations: Vec<&Operation> = history.iter().filter(|operation| counts(operation)).collect();
    let mut named = BTreeSet::new();
    for operation in &operations {
        if let Call::Cas { expected_modified, .. } = operation.call {
            named.insert(expected_modified);
        }
        match operation.outcome {
            Outcome::Read { modified, .. } => named.extend([modified]),
            Outcome::Written { observed_modified, .. } => named.extend(observed_modified),
            _ => {}
        }
    }
    let mut placed = vec![false; operations.len()];
    Oracle { operations, named, judges_at }.can_end(&mut placed, &State::default())
}

/// Whether it has an effect, or an answer.
fn counts(operation: &Operation) -> bool {
    let is_read = matches!(operation.call, Call::Get { .. });
    operation.outcome != Outcome::Refused && !(is_read && operation.outcome == Outcome::Unknown)
}

// === impl Oracle ===

impl<'a> Oracle<'a> {
    /// Whether an order that begins like this can be completed.
    fn can_end(&self, placed: &mut [bool], state: &State<'a>) -> bool {
        let open = |index: &usize| !placed[*index];
        if (0..placed.len()).filter(open).all(|index| self.operations[index].outcome == Outcome::Unknown) {
            return true;
        }
        let candidates: Vec<usize> =
            (0..placed.len()).filter(open).filter(|index| self.may_be_next(placed, *index)).collect();
        for index in candidates {
            for next in self.effects(state, self.operations[index]) {
                placed[index] = true;
                let ends = self.can_end(placed, &next);
                placed[index] = false;
                if ends {
                    return true;
                }
            }
        }
        false
    }

    /// Whether nothing that is not placed was over before this began.
    fn may_be_next(&self, placed: &[bool], index: usize) -> bool {
        let invoked_ns = self.operations[index].invoked_ns;
        self.operations.iter().zip(placed).all(|(other, placed)| {
            *placed
                || other.outcome == Outcome::Unknown
                || other.returned_ns.is_none_or(|returned| returned >= invoked_ns)
        })
    }

    /// What the store may hold after an operation with the effect that its client saw.
    fn effects(&self, state: &State<'a>, operation: &'a Operation) -> Vec<State<'a>> {
        let key = operation.key.as_str();
        let held = state.held.get(key).copied();
        let is_at = |modified: u64| held.map_or(modified == 0, |(_, now)| now == Some(modified));
        let fits = match (operation.call, operation.outcome) {
            (Call::Get { .. }, Outcome::Read { value, modified, at, .. }) => {
                let shown = value.map(|value| (value, Some(modified)));
                held == shown && (held.is_some() || modified == 0) && (!self.judges_at || at >= state.newest)
            }
            (Call::Put { .. } | Call::Delete, Outcome::Unknown) => true,
            (Call::Put { .. }, Outcome::Written { happened, .. }) => happened,
            (Call::Cas { expected_modified, .. }, Outcome::Unknown) => is_at(expected_modified),
            (Call::Cas { expected_modified, .. }, Outcome::Written { happened, observed_modified, .. }) => {
                let observed = happened || observed_modified.is_none_or(is_at);
                is_at(expected_modified) == happened && observed
            }
            (Call::Delete, Outcome::Deleted { existed, .. }) => held.is_some() == existed,
            _ => false,
        };
        if !fits {
            return Vec::new();
        }
        self.entries(state, operation).into_iter().map(|entry| self.after(state, operation, entry)).collect()
    }

    /// The revisions that an operation's entry may have; `None`: it has none, or one that nobody named.
    fn entries(&self, state: &State<'a>, operation: &Operation) -> Vec<Option<u64>> {
        match operation.outcome {
            Outcome::Written { revision, .. } | Outcome::Deleted { revision, .. } => {
                Some(Some(revision)).filter(|_| revision > state.newest).into_iter().collect()
            }
            Outcome::Unknown if operation.call != Call::Delete => {
                let later = self.named.iter().copied().filter(|revision| *revision > state.newest);
                std::iter::once(None).chain(later.map(Some)).collect()
            }
            _ => vec![None],
        }
    }

    fn after(&self, state: &State<'a>, operation: &'a Operation, entry: Option<u64>) -> State<'a> {
        let mut next = state.clone();
        next.newest = entry.unwrap_or(next.newest);
        match (operation.call, operation.outcome) {
            (Call::Get { .. }, Outcome::Read { at, .. }) if self.judges_at => next.newest = at,
            (Call::Get { .. }, _) | (_, Outcome::Written { happened: false, .. }) => {}
            (Call::Put { value } | Call::Cas { value, .. }, _) => {
                next.held.insert(operation.key.as_str(), (value, entry));
            }
            (Call::Delete, _) => {
                next.held.remove(operation.key.as_str());
            }
        }
        next
    }
}
