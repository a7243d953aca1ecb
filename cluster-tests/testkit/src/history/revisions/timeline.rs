//! One key over the revisions: the changes that are certain, and whether others may hide between them.
//!
//! A write without an answer that no read showed may have happened at any revision that nobody else has, above what
//! had been told before it began. Of all such writes the earliest has the most freedom, so it alone is kept; whether
//! one of them is used twice is not asked here.

use std::fmt;

use crate::history::record::{Call, Operation, Outcome};
use crate::history::writes::Writes;

/// The changes of one key.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// Sorted by revision once all are added.
    changes: Vec<Change>,
    put: Option<Maybe>,
    delete: Option<Maybe>,
}

/// A certain change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) revision: u64,
    /// Whether it left a value.
    puts: bool,
    /// Which operation made it.
    pub(super) by: usize,
}

/// The earliest of the writes that may have happened.
#[derive(Debug, Clone, Copy)]
struct Maybe {
    invoked_ns: u64,
    /// Its revision is above this.
    floor: u64,
}

// === impl Timeline ===

impl Timeline {
    /// Adds what an operation did to its key, or may have done. `floor` had been told before it began.
    pub(super) fn add(&mut self, index: usize, operation: &Operation, revision: Option<u64>, floor: u64) {
        let maybe = Maybe { invoked_ns: operation.invoked_ns, floor };
        let puts = operation.value().is_some();
        match (operation.call, operation.outcome, revision) {
            (Call::Get { .. }, ..) | (_, Outcome::Refused | Outcome::Written { happened: false, .. }, _) => {}
            (_, _, Some(revision)) => self.changes.push(Change { revision, puts, by: index }),
            (_, _, None) if puts => keep_earliest(&mut self.put, maybe),
            (_, _, None) => keep_earliest(&mut self.delete, maybe),
        }
    }

    pub(super) fn sort(&mut self) {
        self.changes.sort_unstable_by_key(|change| (change.revision, change.by));
    }
}

fn keep_earliest(kept: &mut Option<Maybe>, maybe: Maybe) {
    if kept.is_none_or(|kept| maybe.invoked_ns < kept.invoked_ns) {
        *kept = Some(maybe);
    }
}

/// A key as an answer must have found it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    timeline: &'a Timeline,
    writes: &'a Writes,
    /// The last revision that counts.
    up_to: u64,
    /// When the answer was there. What began later had no part in it.
    until_ns: u64,
}

// === impl View ===

impl<'a> View<'a> {
    pub(super) fn new(timeline: &'a Timeline, writes: &'a Writes, up_to: u64, until_ns: u64) -> Self {
        Self { timeline, writes, up_to, until_ns }
    }

    /// The last certain change that counts.
    pub(super) fn last(&self) -> Option<Change> {
        let changes = &self.timeline.changes;
        let count = changes.partition_point(|change| change.revision <= self.up_to);
        count.checked_sub(1).map(|last| changes[last])
    }

    /// Whether the key may have been changed last at this revision; 0: whether it may have been without a value.
    pub(super) fn may_hold(&self, modified: u64) -> bool {
        self.holds() == modified
            || if modified == 0 { self.may_hide(self.timeline.delete) } else { self.may_hide_put_at(modified) }
    }

    /// Whether the key may have had a value.
    pub(super) fn may_hold_something(&self) -> bool {
        self.holds() != 0 || self.may_hide(self.timeline.put)
    }

    /// Whether the key may have been changed last at any revision but this; 0: whether it may have had a value.
    pub(super) fn may_hold_other_than(&self, modified: u64) -> bool {
        self.holds() != modified
            || self.may_hide(self.timeline.put)
            || modified != 0 && self.may_hide(self.timeline.delete)
    }

    /// The revision of the value that the certain changes left; 0: they left none.
    fn holds(&self) -> u64 {
        self.last().filter(|change| change.puts).map_or(0, |change| change.revision)
    }

    /// Above which revision such a write may hide, if it had begun.
    fn above(&self, maybe: Option<Maybe>) -> Option<u64> {
        let maybe = maybe.filter(|maybe| maybe.invoked_ns <= self.until_ns)?;
        Some(self.last().map_or(0, |change| change.revision).max(maybe.floor))
    }

    fn may_hide(&self, maybe: Option<Maybe>) -> bool {
        self.above(maybe).is_some_and(|above| self.writes.has_gap(above, self.up_to))
    }

    fn may_hide_put_at(&self, revision: u64) -> bool {
        let above = self.above(self.timeline.put);
        above.is_some_and(|above| above < revision && revision <= self.up_to && !self.writes.is_taken(revision))
    }
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { up_to, .. } = self;
        match self.last() {
            None => write!(f, "up to {up_to} nothing had changed the key"),
            Some(Change { revision, puts: true, .. }) => {
                write!(f, "up to {up_to} the last change was a put at {revision}")
            }
            Some(Change { revision, .. }) => write!(f, "up to {up_to} the last change was a delete at {revision}"),
        }
    }
}
