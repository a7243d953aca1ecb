//! The one thread that syncs: group commit without a timer.
//!
//! It takes everything that waits, syncs the WAL once, and answers in the order of the writes, only after the sync. It
//! also keeps the high-water file up to date: at once for votes, at most once a second otherwise. A failed sync ends
//! the store: whoever waits, and whoever comes later, is told so. When the last handle goes, the queue is emptied and
//! synced first.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_types::ErrorCode;

use crate::error::{DiskError, SyncError, WriteError};
use crate::high_water::HighWater;
use crate::shared::Shared;

/// Called once, after the sync that made the write durable, on the sync thread: it must not block.
pub type SyncDone = Box<dyn FnOnce(Result<(), SyncError>) + Send>;

/// Least time between two rewrites of the high-water file for synced entries.
const HIGH_WATER_INTERVAL: Duration = Duration::from_secs(1);

/// One write that waits for the disk.
pub(crate) struct Request {
    /// Where the log ends with this write, and the truncations that had happened.
    pub(crate) reached: Option<Reached>,
    /// Number and bytes of a vote.
    pub(crate) vote: Option<(u64, Vec<u8>)>,
    /// The high-water file must be up to date before the answer.
    pub(crate) mark_now: bool,
    /// Who waits.
    pub(crate) done: SyncDone,
}

/// An end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) truncations: u64,
    pub(crate) index: u64,
}

/// The queue to the thread; joins it when dropped.
#[derive(Debug)]
pub(crate) struct SyncThread {
    sender: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

// === impl SyncThread ===

impl SyncThread {
    pub(crate) fn start(shared: Arc<Shared>) -> Result<Self, DiskError> {
        let (sender, receiver) = sync_channel(shared.config.sync_queue_max);
        let group_max = shared.config.sync_queue_max;
        let thread = std::thread::Builder::new()
            .name("ollamax-sync".to_owned())
            .spawn(move || Syncer { shared, group_max, written_at: None }.run(&receiver))
            .map_err(|error| DiskError::io("start the sync thread", &error))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Puts a write into the queue; blocks while it is full.
    pub(crate) fn push(&self, request: Request) -> Result<(), WriteError> {
        let Some(sender) = &self.sender else { return Err(WriteError::Closed) };
        sender.send(request).map_err(|_| WriteError::Closed)
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.sender = None;
        join(self.thread.take());
    }
}

/// Waits for a thread, unless it is the one that asks.
pub(crate) fn join(thread: Option<JoinHandle<()>>) {
    let Some(thread) = thread else { return };
    if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
        tracing::error!(code = %ErrorCode::Internal, error = "it panicked", "a thread of the store has ended");
    }
}

/// How long syncs take, for whoever asks from time to time.
#[derive(Debug, Default)]
pub(crate) struct SyncTimes(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    /// When the sync that runs began.
    began_at: Option<Instant>,
    /// The longest since somebody asked.
    longest: Option<Duration>,
}

struct Syncer {
    shared: Arc<Shared>,
    group_max: usize,
    /// When the high-water file was last written.
    written_at: Option<Instant>,
}

// === impl SyncTimes ===

impl SyncTimes {
    fn begin(&self) {
        self.lock().began_at = Some(Instant::now());
    }

    fn end(&self) {
        let mut times = self.lock();
        let took = times.began_at.take().map(|at| at.elapsed());
        times.longest = times.longest.max(took);
    }

    /// The longest since the last call, one that still runs included; `None`: there was none.
    pub(crate) fn take_longest(&self) -> Option<Duration> {
        let mut times = self.lock();
        let running = times.began_at.map(|at| at.elapsed());
        times.longest.take().max(running)
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Syncer ===

impl Syncer {
    fn run(mut self, receiver: &Receiver<Request>) {
        loop {
            let first = match self.due_in() {
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => receiver.recv_timeout(wait),
            };
            match first {
                Ok(first) => {
                    let mut group = vec![first];
                    group.extend(receiver.try_iter().take(self.group_max));
                    self.sync(group);
                }
                Err(RecvTimeoutError::Timeout) => self.write_mark_or_fail(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.due_in().is_some() {
            self.write_mark_or_fail();
        }
    }

    /// How long the high-water file may still wait; `None` when it is up to date or the store has failed.
    fn due_in(&self) -> Option<Duration> {
        if !self.mark().is_dirty() || self.shared.health.failure().is_some() {
            return None;
        }
        let age = self.written_at.map_or(HIGH_WATER_INTERVAL, |at| at.elapsed());
        Some(HIGH_WATER_INTERVAL.saturating_sub(age))
    }

    fn sync(&mut self, group: Vec<Request>) {
        let outcome = match self.shared.health.failure() {
            Some(error) => Err(error),
            None => self.make_durable(&group).map_err(|cause| self.shared.health.fail(cause)),
        };
        for request in group {
            (request.done)(outcome.clone());
        }
    }

    fn make_durable(&mut self, group: &[Request]) -> Result<(), DiskError> {
        let metrics = &self.shared.metrics;
        let timer = metrics.sync_seconds.start_timer();
        self.shared.sync_times.begin();
        let synced = self.shared.database.sync_wal();
        self.shared.sync_times.end();
        synced?;
        timer.observe_duration();
        metrics.syncs_total.inc();
        metrics.sync_group_size.observe(f64::from(u32::try_from(group.len()).unwrap_or(u32::MAX)));
        let mut mark = self.mark();
        for request in group {
            if let Some(reached) = request.reached {
                mark.raise(reached.truncations, reached.index);
            }
            if let Some((number, vote)) = &request.vote {
                mark.voted(*number, vote.clone());
            }
        }
        drop(mark);
        let now = group.iter().any(|request| request.mark_now);
        if now || self.due_in() == Some(Duration::ZERO) { self.write_mark() } else { Ok(()) }
    }

    fn write_mark(&mut self) -> Result<(), DiskError> {
        let mut mark = self.mark();
        if mark.is_dirty() {
            mark.save()?;
            self.shared.metrics.high_water_writes_total.inc();
        }
        drop(mark);
        self.written_at = Some(Instant::now());
        Ok(())
    }

    fn write_mark_or_fail(&mut self) {
        if let Err(cause) = self.write_mark() {
            self.shared.health.fail(cause);
        }
    }

    fn mark(&self) -> MutexGuard<'_, HighWater> {
        self.shared.high_water.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sync_is_told_once_and_one_that_runs_at_any_time() {
        let times = SyncTimes::default();
        assert_eq!(times.take_longest(), None);
        times.begin();
        let running = times.take_longest();
        assert!(running.is_some() && times.take_longest() >= running, "it goes on");
        times.end();
        assert!(times.take_longest() >= running);
        assert_eq!(times.take_longest(), None);
    }
}
