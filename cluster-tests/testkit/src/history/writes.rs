//! Which operation wrote a value, and at which revision: what all records of a history together tell of its writes.
//!
//! A write whose client was told nothing has the revision that any read showed with its value. It is then as certain
//! as any other. One that no read showed stays without a revision: it may have happened or not. Where reads contradict
//! each other the first one counts, and the checkers find that the others do not fit.

use std::collections::BTreeMap;

use super::record::{Operation, Outcome};

/// The writes of a history. Operations are named by their place in it.
#[derive(Debug)]
pub(super) struct Writes {
    by_value: BTreeMap<u64, usize>,
    revisions: Vec<Option<u64>>,
    /// All revisions that some operation is known to have, sorted.
    taken: Vec<u64>,
}

// === impl Writes ===

impl Writes {
    pub(super) fn of(history: &[Operation]) -> Self {
        let mut by_value = BTreeMap::new();
        for (index, operation) in history.iter().enumerate() {
            if let Some(value) = operation.value() {
                by_value.entry(value).or_insert(index);
            }
        }
        let mut revisions: Vec<Option<u64>> = history.iter().map(Operation::entry).collect();
        for read in history {
            let Outcome::Read { value: Some(value), modified, .. } = read.outcome else { continue };
            let Some(&writer) = by_value.get(&value) else { continue };
            let write = &history[writer];
            if write.outcome == Outcome::Unknown && write.key == read.key {
                revisions[writer] = revisions[writer].or(Some(modified));
            }
        }
        let mut taken: Vec<u64> = revisions.iter().flatten().copied().collect();
        taken.sort_unstable();
        taken.dedup();
        Self { by_value, revisions, taken }
    }

    /// The operation that puts a value; of several, the first.
    pub(super) fn writer(&self, value: u64) -> Option<usize> {
        self.by_value.get(&value).copied()
    }

    /// The index of an operation's log entry, as its client was told or a read showed.
    pub(super) fn revision(&self, index: usize) -> Option<u64> {
        self.revisions[index]
    }

    /// Whether an operation is known to have this revision.
    pub(super) fn is_taken(&self, revision: u64) -> bool {
        self.taken.binary_search(&revision).is_ok()
    }

    /// Whether a revision above `low`, at most `high`, is left for an operation that is not known to have one.
    pub(super) fn has_gap(&self, low: u64, high: u64) -> bool {
        let up_to = |limit: u64| self.taken.partition_point(|revision| *revision <= limit);
        low < high && high - low > (up_to(high) - up_to(low)) as u64
    }
}
