//! The Raft log, the vote, and the marks beside them.
//!
//! Column family `log`: key is the index, 8 bytes big endian; value as in `log/entry.rs`. Writes happen in the order of
//! the calls and are readable on return; an append is durable when its callback says so. There is never a hole: an
//! append that would leave one is refused, truncation removes from the end, purging from the front, and what a crash
//! left below the purge mark is removed at the next start. A failed write ends the store.

pub(crate) mod entry;
pub(crate) mod recovery;

use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::{ReadOptions, WriteBatch};

use crate::database::{LOG, META};
use crate::error::{DiskError, PurgeError, ReadError, SyncError, WriteError};
use crate::flush;
use crate::high_water::HighWater;
use crate::marks;
use crate::shared::Inner;
use crate::sync::{Reached, Request, SyncDone};

/// Entries that one batch removes.
const REMOVE_BATCH: u64 = 1_024;

/// Where the log begins and ends, and the vote: the memory of what the disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Positions {
    pub(crate) first: Option<u64>,
    pub(crate) last: Option<u64>,
    pub(crate) purged: Option<(u64, Vec<u8>)>,
    pub(crate) vote: Option<(u64, Vec<u8>)>,
}

/// Where the log begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    /// First entry that is held.
    pub first: Option<u64>,
    /// Last entry that is held.
    pub last: Option<u64>,
    /// Index up to which the log was purged, and the bytes that were given with it.
    pub purged: Option<(u64, Vec<u8>)>,
}

/// A cheap handle on the log.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

// === impl Log ===

impl Log {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Appends entries, which must follow the last one without a gap. They can be read on return, and are durable when
    /// `done` is called with `Ok`, on the sync thread; callbacks come in the order of the appends.
    ///
    /// # Errors
    /// When the entries do not follow, or the store has stopped. `done` is then never called.
    pub fn append(&self, entries: Vec<(u64, Vec<u8>)>, done: SyncDone) -> Result<(), WriteError> {
        self.check()?;
        let mut positions = self.positions_mut();
        let mut next = positions.next();
        let (mut batch, mut bytes, mut first) = (WriteBatch::default(), 0, None);
        let family = self.inner.shared.database.fixed_family(LOG);
        for (index, payload) in &entries {
            if next.is_some_and(|next| next != *index) {
                return Err(WriteError::NotConsecutive { expected: next.unwrap_or_default(), found: *index });
            }
            bytes += payload.len();
            batch.put_cf(&family, index.to_be_bytes(), entry::seal(*index, payload));
            first = first.or(Some(*index));
            next = Some(index + 1);
        }
        if let Some((last, _)) = entries.last() {
            self.write(batch, "append to the log")?;
            positions.first = positions.first.or(first);
            positions.last = Some(*last);
        }
        let truncations = self.high_water().truncations();
        let reached = positions.last.map(|index| Reached { truncations, index });
        let metrics = &self.inner.shared.metrics;
        metrics.appended_entries_total.inc_by(entries.len() as u64);
        metrics.appended_bytes_total.inc_by(bytes as u64);
        self.inner.sync.push(Request { reached, vote: None, mark_now: false, done })
    }

    /// Reads entries of a range, clipped to what is held, up to about `bytes_max`; at least one when the clipped range
    /// is not empty.
    ///
    /// # Errors
    /// When an entry is missing or damaged, or the disk refuses.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, ReadError> {
        let positions = self.positions();
        let (Some(first), Some(last)) = (positions.first, positions.last) else { return Ok(Vec::new()) };
        let (start, end) = (range.start.max(first), range.end.min(last.saturating_add(1)));
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if start >= end {
            return Ok(entries);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end.to_be_bytes());
        let database = &self.inner.shared.database;
        let mut cursor = database.rocks().raw_iterator_cf_opt(&database.fixed_family(LOG), options);
        cursor.seek(start.to_be_bytes());
        for wanted in start..end {
            let Some((key, value)) = cursor.item() else {
                cursor.status().map_err(|error| DiskError::rocks("read the log", &error))?;
                return Err(ReadError::Hole { index: wanted });
            };
            if key != wanted.to_be_bytes() {
                return Err(ReadError::Hole { index: wanted });
            }
            let payload =
                entry::unseal(wanted, value).map_err(|malformed| DiskError::malformed("read the log", &malformed))?;
            bytes += payload.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push((wanted, payload.to_vec()));
            cursor.next();
        }
        Ok(entries)
    }

    /// Saves a vote; durable on return, in the database and in the high-water file. Waits for the disk.
    ///
    /// # Errors
    /// When the store has stopped.
    pub fn save_vote(&self, vote: Vec<u8>) -> Result<(), WriteError> {
        self.check()?;
        let answer = {
            let mut positions = self.positions_mut();
            let number = positions.vote.as_ref().map_or(0, |(number, _)| *number) + 1;
            let mut batch = WriteBatch::default();
            let family = self.inner.shared.database.fixed_family(META);
            batch.put_cf(&family, marks::KEY_VOTE, marks::seal_vote(number, &vote));
            self.write(batch, "save the vote")?;
            positions.vote = Some((number, vote.clone()));
            self.push_and_hear(None, Some((number, vote)))?
        };
        answer.recv().map_err(|_| WriteError::Closed)?.map_err(WriteError::Stopped)
    }

    /// The last vote that was saved.
    #[must_use]
    pub fn vote(&self) -> Option<Vec<u8>> {
        self.positions().vote.as_ref().map(|(_, vote)| vote.clone())
    }

    /// Removes all entries behind an index; `None` removes all. Waits for the disk when synced entries go.
    ///
    /// # Errors
    /// When the store has stopped.
    pub fn truncate_after(&self, index: Option<u64>) -> Result<(), WriteError> {
        self.check()?;
        let mut positions = self.positions_mut();
        let (Some(first), Some(last)) = (positions.first, positions.last) else { return Ok(()) };
        let keep_below = index.map_or(first, |index| index.saturating_add(1)).max(first);
        if keep_below > last {
            return Ok(());
        }
        let new_last = if keep_below == first { None } else { Some(keep_below - 1) };
        self.promise_at_most(new_last.or(positions.purged_index()))?;
        let mut end = last;
        loop {
            let start = keep_below.max((end + 1).saturating_sub(REMOVE_BATCH));
            self.write(self.removal(start..end + 1), "truncate the log")?;
            if start == keep_below {
                break;
            }
            end = start - 1;
            positions.last = Some(end);
        }
        positions.last = new_last;
        positions.first = new_last.and(positions.first);
        Ok(())
    }

    /// Removes all entries up to and including an index, and keeps `mark` as what was there. The state is flushed first
    /// when it must be. An index beyond the log empties it; one that was purged already changes nothing.
    ///
    /// # Errors
    /// When a restart would need the entries, or the store has stopped.
    pub fn purge_upto(&self, index: u64, mark: Vec<u8>) -> Result<(), PurgeError> {
        self.check()?;
        self.reach_flushed(index)?;
        let mut positions = self.positions_mut();
        if positions.purged_index().is_some_and(|purged| purged >= index) {
            return Ok(());
        }
        let held = positions.first.filter(|first| *first <= index);
        let end = positions.last.map_or(index, |last| last.min(index));
        let mut start = held.unwrap_or(end + 1);
        let mut stop = (start + REMOVE_BATCH).min(end + 1);
        let mut batch = self.removal(start..stop);
        let meta = self.inner.shared.database.fixed_family(META);
        batch.put_cf(&meta, marks::KEY_PURGED, marks::seal_purged(index, &mark));
        self.write(batch, "purge the log")?;
        positions.purged = Some((index, mark));
        if held.is_some() {
            positions.first = (positions.last > Some(index)).then_some(index + 1);
        }
        if positions.first.is_none() {
            positions.last = None;
        }
        drop(positions);
        while stop <= end {
            start = stop;
            stop = (start + REMOVE_BATCH).min(end + 1);
            self.write(self.removal(start..stop), "purge the log")?;
        }
        if held.is_some() {
            self.settle()?;
            self.drop_old_files(index)?;
        }
        Ok(())
    }

    /// Where the log begins and ends.
    #[must_use]
    pub fn state(&self) -> LogState {
        let positions = self.positions();
        LogState { first: positions.first, last: positions.last, purged: positions.purged.clone() }
    }

    /// Notes how far the log is committed. Not synced: a restart may find an older note, never a wrong one.
    ///
    /// # Errors
    /// When the store has stopped.
    pub fn save_committed(&self, committed: Option<Vec<u8>>) -> Result<(), WriteError> {
        self.check()?;
        let mut batch = WriteBatch::default();
        let family = self.inner.shared.database.fixed_family(META);
        match committed {
            Some(bytes) => batch.put_cf(&family, marks::KEY_COMMITTED, marks::seal_committed(&bytes)),
            None => batch.delete_cf(&family, marks::KEY_COMMITTED),
        }
        self.write(batch, "note what is committed")
    }

    /// What [`Log::save_committed`] noted last.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn committed(&self) -> Result<Option<Vec<u8>>, ReadError> {
        Ok(marks::read_committed(&self.inner.shared.database)?)
    }

    /// Makes all that was written durable, the high-water file included. Waits for the disk.
    pub(crate) fn settle(&self) -> Result<(), WriteError> {
        let answer = {
            let positions = self.positions();
            let truncations = self.high_water().truncations();
            self.push_and_hear(positions.last.map(|index| Reached { truncations, index }), None)?
        };
        answer.recv().map_err(|_| WriteError::Closed)?.map_err(WriteError::Stopped)
    }

    fn push_and_hear(
        &self,
        reached: Option<Reached>,
        vote: Option<(u64, Vec<u8>)>,
    ) -> Result<std::sync::mpsc::Receiver<Result<(), SyncError>>, WriteError> {
        let (tell, hear) = sync_channel(1);
        let done: SyncDone = Box::new(move |outcome| drop(tell.send(outcome)));
        self.inner.sync.push(Request { reached, vote, mark_now: true, done })?;
        Ok(hear)
    }

    /// Lowers the high-water mark before entries go, so that their absence is not taken for a loss.
    fn promise_at_most(&self, index: Option<u64>) -> Result<(), WriteError> {
        let mut mark = self.high_water();
        mark.lower(index);
        if mark.is_dirty() {
            mark.save().map_err(|cause| self.inner.shared.health.fail(cause))?;
            self.inner.shared.metrics.high_water_writes_total.inc();
        }
        Ok(())
    }

    fn reach_flushed(&self, index: u64) -> Result<(), PurgeError> {
        let shared = &self.inner.shared;
        let read = || {
            let current = shared.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.flushed, current.standing.index())
        };
        let (mut flushed, applied) = read();
        if flushed < Some(index) && applied >= Some(index) {
            flush::flush(shared).map_err(|cause| WriteError::Stopped(shared.health.fail(cause)))?;
            flushed = read().0;
        }
        if shared.config.purge_only_flushed && flushed < Some(index) {
            return Err(PurgeError::AboveFlushed { index, flushed });
        }
        Ok(())
    }

    fn removal(&self, range: Range<u64>) -> WriteBatch {
        let family = self.inner.shared.database.fixed_family(LOG);
        let mut batch = WriteBatch::default();
        for index in range {
            batch.delete_cf(&family, index.to_be_bytes());
        }
        batch
    }

    /// Drops whole table files below the purge mark, which must be durable by then. Old values that may show up below
    /// it by that are never read, and are removed at the next start.
    fn drop_old_files(&self, index: u64) -> Result<(), WriteError> {
        let shared = &self.inner.shared;
        shared
            .database
            .rocks()
            .delete_file_in_range_cf(&shared.database.fixed_family(LOG), 0u64.to_be_bytes(), index.to_be_bytes())
            .map_err(|error| shared.health.fail(DiskError::rocks("purge the log", &error)).into())
    }

    fn write(&self, batch: WriteBatch, action: &'static str) -> Result<(), WriteError> {
        let shared = &self.inner.shared;
        shared.database.write(batch, action).map_err(|cause| WriteError::Stopped(shared.health.fail(cause)))
    }

    fn check(&self) -> Result<(), WriteError> {
        self.inner.shared.health.check()
    }

    fn positions(&self) -> RwLockReadGuard<'_, Positions> {
        self.inner.shared.positions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn positions_mut(&self) -> RwLockWriteGuard<'_, Positions> {
        self.inner.shared.positions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn high_water(&self) -> MutexGuard<'_, HighWater> {
        self.inner.shared.high_water.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Positions ===

impl Positions {
    /// The only index that may come next; `None` when any may.
    fn next(&self) -> Option<u64> {
        self.last.max(self.purged_index()).map(|index| index + 1)
    }

    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.purged.as_ref().map(|(index, _)| *index)
    }
}
