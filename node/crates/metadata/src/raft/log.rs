//! openraft's log over the store: entries, vote, and the committed mark.
//!
//! A callback comes only after the store has synced; a vote is durable when `save_vote` returns. Reads for followers
//! are cut by bytes; the end of the log is read from memory. Every record that is written passes the node's log-time
//! keeper, so that a new leader goes on from the last stamp in its log. Any error of the store or of a record stops
//! consensus on this node.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use ollamax_store as store;

use crate::envelope;
use crate::logtime::Stamper;
use crate::raft::tail::Tail;
use crate::raft::{Entry, LogId, Payload, Types, Vote};
use crate::record::{decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote};

/// The log of this node. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    log: store::Log,
    tail: Tail,
    stamper: Arc<Stamper>,
    append_bytes_max: usize,
}

impl LogStore {
    pub(crate) fn new(log: store::Log, stamper: Arc<Stamper>, append_bytes_max: usize) -> Self {
        Self { log, tail: Tail::default(), stamper, append_bytes_max }
    }

    /// Lets the log-time keeper see the last envelope that the log holds above `applied`.
    pub(crate) fn observe_tail(&self, applied: Option<u64>) -> io::Result<()> {
        const WINDOW: u64 = 64;
        let held = self.log.state();
        let (Some(first), Some(last)) = (held.first, held.last) else { return Ok(()) };
        let floor = first.max(applied.map_or(0, |index| index.saturating_add(1)));
        let mut end = last.saturating_add(1);
        while end > floor {
            let start = end.saturating_sub(WINDOW).max(floor);
            let entries = self.read(start..end, usize::MAX)?;
            if let Some(time) = entries.iter().rev().find_map(log_time_of) {
                self.stamper.observe(time);
                return Ok(());
            }
            end = start;
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.tail.read(&range, bytes_max) {
            return Ok(entries);
        }
        let records = self.log.read(range, bytes_max).map_err(io::Error::other)?;
        records.into_iter().map(|(index, record)| Ok(decode_entry(index, record.into())?)).collect()
    }
}

fn log_time_of(entry: &Entry) -> Option<ollamax_types::Timestamp> {
    match &entry.payload {
        Payload::Normal(sealed) => Some(envelope::log_time(&sealed.0)),
        Payload::Blank | Payload::Membership(_) => None,
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

/// Runs what waits for the disk where waiting is allowed.
pub(crate) async fn on_disk<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?.map_err(io::Error::other)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(bounds(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().map(|bytes| decode_vote(&bytes)).transpose()?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, self.append_bytes_max)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let held = self.log.state();
        let last_purged_log_id = held.purged.map(|(_, mark)| decode_log_id(&mark)).transpose()?;
        let last = match held.last {
            Some(last) => self.read(last..last.saturating_add(1), usize::MAX)?.pop().map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (log, bytes) = (self.log.clone(), encode_vote(vote));
        on_disk(move || log.save_vote(bytes)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(encode_log_id)).map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let stored = self.log.committed().map_err(io::Error::other)?;
        Ok(stored.map(|bytes| decode_log_id(&bytes)).transpose()?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut newest, mut records, mut written) = (None, Vec::new(), Vec::new());
        for entry in entries {
            newest = log_time_of(&entry).or(newest);
            let record = encode_entry(&entry);
            let (index, bytes) = (entry.log_id.index, record.len());
            records.push((index, record));
            written.push((entry, bytes));
        }
        if let Some(time) = newest {
            self.stamper.observe(time);
        }
        let done = Box::new(move |result: Result<(), store::SyncError>| {
            callback.io_completed(result.map_err(io::Error::other));
        });
        self.log.append(records, done).map_err(io::Error::other)?;
        self.tail.append(written);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.tail.truncate_after(last_log_id.map(|id| id.index));
        let log = self.log.clone();
        on_disk(move || log.truncate_after(last_log_id.map(|id| id.index))).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.tail.purge_upto(log_id.index);
        let log = self.log.clone();
        on_disk(move || log.purge_upto(log_id.index, encode_log_id(&log_id))).await
    }
}
