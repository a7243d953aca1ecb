//! The end of the log in memory: what followers and the state machine read a moment after it was written.
//!
//! Always: it holds consecutive entries as the store has them, up to the last one that was appended, and no more than
//! its limits allow. What it does not hold is read from the store.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::Entry;

/// Most entries and bytes that it holds; the last entry is held however long it is.
const ENTRIES_MAX: usize = 1_024;
const BYTES_MAX: usize = 1 << 20;

/// The end of a log. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Entries and the bytes of their records.
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

// === impl Tail ===

impl Tail {
    /// Entries that the store has taken behind the last one.
    pub(crate) fn append(&self, entries: Vec<(Entry, usize)>) {
        let Some((first, _)) = entries.first() else { return };
        let mut held = self.held();
        let follows = held.entries.back().is_some_and(|(last, _)| last.log_id.index + 1 == first.log_id.index);
        if !follows {
            *held = Held::default();
        }
        for (entry, bytes) in entries {
            held.bytes += bytes;
            held.entries.push_back((entry, bytes));
        }
        while held.entries.len() > ENTRIES_MAX || (held.bytes > BYTES_MAX && held.entries.len() > 1) {
            held.drop_first();
        }
    }

    /// Lets go what stands behind an index, all with `None`. To be called before the store removes it.
    pub(crate) fn truncate_after(&self, index: Option<u64>) {
        let mut held = self.held();
        while held.entries.back().is_some_and(|(last, _)| index.is_none_or(|index| last.log_id.index > index)) {
            let bytes = held.entries.pop_back().map_or(0, |(_, bytes)| bytes);
            held.bytes -= bytes;
        }
    }

    /// Lets go what stands up to and including an index. To be called before the store removes it.
    pub(crate) fn purge_upto(&self, index: u64) {
        let mut held = self.held();
        while held.entries.front().is_some_and(|(first, _)| first.log_id.index <= index) {
            held.drop_first();
        }
    }

    /// The entries of a range, clipped to its end, up to about `bytes_max` and at least one. `None`: it does not begin
    /// here.
    pub(crate) fn read(&self, range: &Range<u64>, bytes_max: usize) -> Option<Vec<Entry>> {
        let held = self.held();
        let (first, _) = held.entries.front()?;
        let skipped = usize::try_from(range.start.checked_sub(first.log_id.index)?).ok()?;
        if skipped >= held.entries.len() {
            return None;
        }
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (entry, own) in held.entries.range(skipped..).take_while(|(entry, _)| entry.log_id.index < range.end) {
            bytes += own;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn drop_first(&mut self) {
        self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::{Payload, log_id};

    fn entries(range: Range<u64>, bytes: usize) -> Vec<(Entry, usize)> {
        range.map(|index| (Entry { log_id: log_id(1, index), payload: Payload::Blank }, bytes)).collect()
    }

    fn read(tail: &Tail, range: Range<u64>, bytes_max: usize) -> Option<Vec<u64>> {
        tail.read(&range, bytes_max).map(|found| found.iter().map(|entry| entry.log_id.index).collect())
    }

    #[test]
    fn what_it_has_is_read_and_nothing_else() {
        let tail = Tail::default();
        assert_eq!(read(&tail, 0..9, usize::MAX), None);
        tail.append(entries(5..9, 10));
        assert_eq!(read(&tail, 4..9, usize::MAX), None, "it begins before");
        assert_eq!(read(&tail, 9..10, usize::MAX), None, "it begins behind");
        assert_eq!(read(&tail, 6..100, usize::MAX), Some(vec![6, 7, 8]));
        assert_eq!(read(&tail, 5..7, usize::MAX), Some(vec![5, 6]));
        assert_eq!(read(&tail, 5..9, 25), Some(vec![5, 6]));
        assert_eq!(read(&tail, 5..9, 1), Some(vec![5]), "one always fits");
        tail.append(entries(9..10, 10));
        assert_eq!(read(&tail, 8..10, usize::MAX), Some(vec![8, 9]));
    }

    #[test]
    fn what_the_log_loses_it_loses() {
        let tail = Tail::default();
        tail.append(entries(5..10, 10));
        tail.purge_upto(6);
        tail.truncate_after(Some(8));
        assert_eq!((read(&tail, 6..9, 99), read(&tail, 7..99, 99)), (None, Some(vec![7, 8])));
        tail.append(entries(20..22, 10));
        assert_eq!((read(&tail, 7..9, 99), read(&tail, 20..99, 99)), (None, Some(vec![20, 21])), "no hole");
        tail.truncate_after(None);
        assert_eq!(read(&tail, 20..22, 99), None);
        assert_eq!(tail.held().bytes, 0);
        tail.append(entries(20..22, 10));
        tail.purge_upto(99);
        assert_eq!(read(&tail, 20..22, 99), None);
    }

    #[test]
    fn it_stays_within_its_limits() {
        let tail = Tail::default();
        tail.append(entries(0..ENTRIES_MAX as u64 + 3, 1));
        assert_eq!((read(&tail, 2..3, 9), read(&tail, 3..4, 9)), (None, Some(vec![3])));
        tail.append(entries(ENTRIES_MAX as u64 + 3..ENTRIES_MAX as u64 + 5, BYTES_MAX));
        let held = tail.held();
        assert_eq!((held.entries.len(), held.bytes), (1, BYTES_MAX));
    }
}
