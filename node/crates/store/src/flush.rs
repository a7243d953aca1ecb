//! Flushing the state: the only way in which it becomes durable.
//!
//! A thread flushes when the writer has put enough into memory, so that applying does not wait for the disk. After a
//! flush up to index n, a restart replays the log from n, and only entries up to n may be purged.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use ollamax_types::ErrorCode;

use crate::error::DiskError;
use crate::shared::Shared;
use crate::snapshot::sweep_unless_busy;
use crate::sync::join;

/// The thread's bell; joins it when dropped.
#[derive(Debug)]
pub(crate) struct Flusher {
    bell: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Flusher ===

impl Flusher {
    pub(crate) fn start(shared: Arc<Shared>) -> Result<Self, DiskError> {
        let (bell, rings) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ollamax-flush".to_owned())
            .spawn(move || run(&shared, &rings))
            .map_err(|error| DiskError::io("start the flush thread", &error))?;
        Ok(Self { bell: Some(bell), thread: Some(thread) })
    }

    /// Asks for a flush soon; asking twice is asking once.
    pub(crate) fn ring(&self) {
        let Some(bell) = &self.bell else { return };
        if let Err(error @ TrySendError::Disconnected(())) = bell.try_send(()) {
            tracing::error!(code = %ErrorCode::Internal, %error, "the flush thread has ended");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.bell = None;
        join(self.thread.take());
    }
}

fn run(shared: &Shared, rings: &Receiver<()>) {
    while rings.recv().is_ok() {
        if let Err(cause) = flush(shared) {
            shared.health.fail(cause);
        }
    }
}

/// Flushes all families at one point; the state on disk then reaches at least what was applied before the call. What
/// there is of a snapshot that would not lead further goes.
pub(crate) fn flush(shared: &Shared) -> Result<(), DiskError> {
    let _alone = shared.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
    let (generation, index) = {
        let current = shared.current.read().unwrap_or_else(PoisonError::into_inner);
        (current.generation, current.standing.index())
    };
    shared.database.flush(generation)?;
    shared.metrics.state_flushes_total.inc();
    {
        let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
        current.flushed = current.flushed.max(index);
    }
    sweep_unless_busy(shared, index);
    Ok(())
}
