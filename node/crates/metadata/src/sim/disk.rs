//! A disk in memory that forgets what was never synced: openraft's log, and the state below it.
//!
//! Writes go through one queue, as the store's go through one write-ahead log. A sync makes a prefix of the queue
//! durable and only then says so; a crash keeps what is durable and any prefix of what is not. The state is flushed now
//! and then, together with everything written before, and a crash takes it back to its last flush.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, oneshot};

use ollamax_core::catalog::mem::MemView;
use ollamax_types::Incarnation;

use super::facts::Facts;
use super::types::{Bug, SimTypes};
use crate::alone::INCARNATION;
use crate::envelope;
use crate::logtime::Stamper;
use crate::raft::{Entry, LogId, Payload, Vote};
use crate::record::Applied;

/// Longest sync, milliseconds.
const SYNC_MS_MAX: u64 = 9;

/// A state with how far it reaches.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) view: MemView,
    pub(super) applied: Applied,
    /// Sum of the hashes of all records.
    pub(super) hash: u64,
}

/// The disk of one node. Clones share it; it outlives the node's crashes.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug)]
pub(super) struct Inner {
    node: u64,
    /// What a crash leaves at least.
    durable: Held,
    /// What reads see.
    seen: Held,
    /// Writes that were never synced, oldest first.
    unsynced: VecDeque<Write>,
    /// How many writes there were, ever.
    written: u64,
    /// Who waits for which of them.
    waiting: VecDeque<(u64, Waiter)>,
    /// The state in memory, and on disk.
    pub(super) state: Image,
    flushed: Image,
    pub(super) snapshot: Option<Arc<Image>>,
    /// Drawn when the data directory was made.
    pub(super) incarnation: Incarnation,
    /// Whether it is another one than the node became a member with.
    pub(super) wiped: bool,
    chance: StdRng,
    stamper: Option<Arc<Stamper>>,
    pub(super) bug: Option<Bug>,
    pub(super) facts: Facts,
}

/// A log with its marks.
#[derive(Debug, Clone, Default)]
struct Held {
    vote: Option<Vote>,
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    committed: Option<LogId>,
}

#[derive(Debug, Clone)]
enum Write {
    Vote(Vote),
    Entry(Entry),
    Truncate(Option<u64>),
    Purge(LogId),
    Committed(Option<LogId>),
}

enum Waiter {
    Entries(IOFlushed<SimTypes>),
    Vote(oneshot::Sender<()>),
}

impl Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Entries(_) => "Entries",
            Self::Vote(_) => "Vote",
        })
    }
}

// === impl Held ===

impl Held {
    fn carry_out(&mut self, write: Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Entry(entry) => drop(self.entries.insert(entry.log_id.index, entry)),
            Write::Truncate(None) => self.entries.clear(),
            Write::Truncate(Some(last)) => self.entries.retain(|index, _| *index <= last),
            Write::Purge(upto) => {
                self.entries.retain(|index, _| *index > upto.index);
                self.purged = Some(upto);
            }
            Write::Committed(committed) => self.committed = committed,
        }
    }
}

// === impl Disk ===

impl Disk {
    pub(super) fn new(node: u64, seed: u64, bug: Option<Bug>, facts: Facts) -> Self {
        let inner = Inner {
            node,
            durable: Held::default(),
            seen: Held::default(),
            unsynced: VecDeque::new(),
            written: 0,
            waiting: VecDeque::new(),
            state: Image::default(),
            flushed: Image::default(),
            snapshot: None,
            incarnation: INCARNATION,
            wiped: false,
            chance: StdRng::seed_from_u64(seed ^ node.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            stamper: None,
            bug,
            facts,
        };
        Self(Arc::new(Shared { inner: Mutex::new(inner), wake: Notify::new() }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("no holder of this lock can panic")
    }

    /// The node starts: its log-time keeper sees what the disk holds.
    pub(super) fn start(&self, stamper: &Arc<Stamper>) {
        let mut inner = self.lock();
        stamper.observe(inner.state.applied.log_time);
        inner.seen.entries.values().for_each(|entry| observe(stamper, entry));
        inner.stamper = Some(stamper.clone());
    }

    /// The power goes: what is durable stays, and as much of the rest as chance says.
    pub(super) fn cut_power(&self) {
        let mut inner = self.lock();
        let unsynced = inner.unsynced.len();
        let kept = inner.chance.random_range(0..=unsynced);
        inner.settle(kept);
        inner.unsynced.clear();
        inner.waiting.clear();
        inner.seen = inner.durable.clone();
        inner.state = inner.flushed.clone();
        inner.snapshot = None;
        inner.stamper = None;
    }

    /// Everything goes, synced or not: the node finds an empty data directory, and makes it anew.
    pub(super) fn wipe(&self) {
        let mut inner = self.lock();
        inner.durable = Held::default();
        inner.seen = Held::default();
        inner.unsynced.clear();
        inner.waiting.clear();
        inner.state = Image::default();
        inner.flushed = Image::default();
        inner.snapshot = None;
        inner.stamper = None;
        inner.wiped = true;
        if inner.bug != Some(Bug::WipedAsBefore) {
            inner.incarnation = Incarnation(inner.chance.random());
        }
        inner.facts.wiped(inner.node);
    }

    /// Syncs whatever is written, for ever.
    pub(super) async fn sync(self) {
        loop {
            let (upto, takes) = {
                let mut inner = self.lock();
                let takes = inner.chance.random_range(0..=SYNC_MS_MAX);
                (inner.written, Duration::from_millis(takes))
            };
            tokio::time::sleep(takes).await;
            let idle = self.lock().complete(upto);
            if idle {
                self.0.wake.notified().await;
            }
        }
    }

    /// Everything written so far becomes durable, the state included.
    pub(super) fn flush(&self) {
        let mut inner = self.lock();
        let all = inner.unsynced.len();
        inner.settle(all);
        let behind = inner.flushed.applied.clone();
        inner.flushed = inner.state.clone();
        if inner.bug == Some(Bug::MarkBehindState) {
            inner.flushed.applied = behind;
        }
    }

    /// How many entries a crash would take from the state.
    pub(super) fn unflushed(&self) -> u64 {
        let inner = self.lock();
        let index = |image: &Image| image.applied.last.map_or(0, |id| id.index);
        index(&inner.state).saturating_sub(index(&inner.flushed))
    }

    /// Some milliseconds that chance says.
    pub(super) fn pause(&self, most: u64) -> Duration {
        Duration::from_millis(self.lock().chance.random_range(0..=most))
    }

    fn write(&self, writes: impl IntoIterator<Item = Write>, waiter: Option<Waiter>) {
        let mut inner = self.lock();
        for write in writes {
            inner.seen.carry_out(write.clone());
            inner.unsynced.push_back(write);
            inner.written += 1;
        }
        let upto = inner.written;
        inner.waiting.extend(waiter.map(|waiter| (upto, waiter)));
        drop(inner);
        self.0.wake.notify_one();
    }
}

fn observe(stamper: &Stamper, entry: &Entry) {
    if let Payload::Normal(sealed) = &entry.payload {
        stamper.observe(envelope::log_time(&sealed.0));
    }
}

// === impl Inner ===

impl Inner {
    /// Makes the oldest `count` writes durable.
    fn settle(&mut self, count: usize) {
        for write in self.unsynced.drain(..count) {
            self.durable.carry_out(write);
        }
    }

    /// A sync of all writes up to `upto` is over. Returns whether nothing is left to sync.
    fn complete(&mut self, upto: u64) -> bool {
        let left = usize::try_from(self.written - upto).unwrap_or(usize::MAX);
        let done = self.unsynced.len().saturating_sub(left);
        self.settle(done);
        while self.waiting.front().is_some_and(|(needs, _)| *needs <= upto) {
            match self.waiting.pop_front() {
                Some((_, Waiter::Entries(callback))) => callback.io_completed(Ok(())),
                Some((_, Waiter::Vote(tell))) => drop(tell.send(())),
                None => {}
            }
        }
        self.unsynced.is_empty() && self.waiting.is_empty()
    }
}

impl RaftLogReader<SimTypes> for Disk {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.lock().seen.entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().seen.vote)
    }
}

impl RaftLogStorage<SimTypes> for Disk {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<SimTypes>, io::Error> {
        let inner = self.lock();
        let last_purged_log_id = inner.seen.purged;
        let last = inner.seen.entries.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        {
            let mut inner = self.lock();
            let (node, before) = (inner.node, inner.seen.vote);
            inner.facts.voted(node, before.as_ref(), vote);
            if inner.bug == Some(Bug::VoteInMemory) {
                inner.seen.vote = Some(*vote);
                return Ok(());
            }
        }
        let (tell, hear) = oneshot::channel();
        self.write([Write::Vote(*vote)], Some(Waiter::Vote(tell)));
        hear.await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.write([Write::Committed(committed)], None);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().seen.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<SimTypes>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let (stamper, bug) = {
            let inner = self.lock();
            (inner.stamper.clone(), inner.bug)
        };
        if let Some(stamper) = stamper {
            entries.iter().for_each(|entry| observe(&stamper, entry));
        }
        let entries = entries.into_iter().map(Write::Entry);
        if bug == Some(Bug::DurableBeforeSync) {
            self.write(entries, None);
            callback.io_completed(Ok(()));
        } else {
            self.write(entries, Some(Waiter::Entries(callback)));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.write([Write::Truncate(last_log_id.map(|id| id.index))], None);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // As the store: never above what the state on disk holds.
        self.flush();
        self.write([Write::Purge(log_id)], None);
        Ok(())
    }
}
