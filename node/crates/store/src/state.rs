//! The replicated state on disk: reading it, and writing what `apply` decided.
//!
//! One column family per generation. It holds the records (`family.rs`) and, beside them, how far the state is
//! (`state/applied.rs`): both change in one write, so that the disk never holds one without the other. Writes go to
//! memory only, until a flush; after a crash the log is replayed from the flushed index. A new generation comes with
//! each installed snapshot. There is one writer.

pub(crate) mod applied;
pub(crate) mod batch;
pub(crate) mod hash;
#[expect(clippy::disallowed_methods, reason = "the macro of self_cell guards against leaks with mem::forget")]
mod pinned;
pub(crate) mod view;

use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::WriteBatch;

use crate::error::{CommitError, DiskError, ExportError, ImportError, WriteError};
use crate::flush;
use crate::shared::{Inner, Shared};
use crate::snapshot::{Export, Import, SnapshotId, clear_unless_busy};
pub use applied::AppliedMeta;
use applied::Standing;
pub use batch::Batch;
pub use view::StateView;

/// Which state is read and written.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) standing: Standing,
    /// The index that the state on disk reaches at least.
    pub(crate) flushed: Option<u64>,
    /// Entries and bytes since the last flush was asked for.
    pub(crate) unflushed_entries: u64,
    pub(crate) unflushed_bytes: u64,
}

/// A cheap handle on the state.
#[derive(Debug, Clone)]
pub struct State {
    inner: Arc<Inner>,
}

// === impl State ===

impl State {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The state of this moment. It does not change, and costs little to hold for a short while.
    #[must_use]
    pub fn view(&self) -> StateView {
        let current = self.current();
        StateView::take(&self.shared().database, current.generation, current.standing.clone())
    }

    /// Begins a batch: changes that see each other and become visible together.
    #[must_use]
    pub fn begin(&self) -> Batch {
        Batch::new(self.view())
    }

    /// Writes a batch together with how far the state now is. Visible on return, durable after the next flush.
    ///
    /// # Errors
    /// When somebody else wrote since the batch began, the index does not go forward, or the store has stopped.
    pub fn commit(&self, batch: Batch, meta: AppliedMeta) -> Result<(), CommitError> {
        let shared = self.shared();
        shared.health.check()?;
        let mut current = self.current_mut();
        let began = batch.view().standing().index();
        if batch.view().generation() != current.generation || began != current.standing.index() {
            return Err(CommitError::Stale { began, now: current.standing.index() });
        }
        if let Some(applied) = began.filter(|applied| *applied >= meta.index) {
            return Err(CommitError::NotForward { index: meta.index, applied });
        }
        let fail = |cause| WriteError::Stopped(shared.health.fail(cause));
        let family = shared.database.state_family(current.generation).map_err(fail)?;
        let mut write = WriteBatch::default();
        let (hash, count) = batch.outcome().map_err(fail)?;
        let mut bytes = 0;
        for (key, new) in batch.changes() {
            bytes += key.len() + new.as_ref().map_or(0, Vec::len);
            match new {
                Some(value) => write.put_cf(&family, key, value),
                None => write.delete_cf(&family, key),
            }
        }
        let entries = meta.index - began.unwrap_or(meta.index);
        let standing = Standing { meta: Some(Arc::new(meta)), hash, count };
        write.put_cf(&family, applied::KEY, standing.seal());
        shared.database.write_unlogged(write, "write the state").map_err(fail)?;
        current.standing = standing;
        current.unflushed_entries += entries.max(1);
        current.unflushed_bytes += bytes as u64;
        shared.metrics.state_commits_total.inc();
        self.ring_when_due(&mut current);
        Ok(())
    }

    /// How far the state is; `None` before the first commit.
    #[must_use]
    pub fn applied(&self) -> Option<AppliedMeta> {
        self.current().standing.meta.as_deref().cloned()
    }

    /// The additive hash of all records. Equal states have equal hashes, however they came about.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 16] {
        self.current().standing.hash.to_bytes()
    }

    /// How far the state is and its hash, of one moment.
    #[must_use]
    pub fn applied_and_hash(&self) -> (Option<AppliedMeta>, [u8; 16]) {
        let current = self.current();
        (current.standing.meta.as_deref().cloned(), current.standing.hash.to_bytes())
    }

    /// The index that the state on disk reaches at least: a restart replays the log from there.
    #[must_use]
    pub fn flushed_index(&self) -> Option<u64> {
        self.current().flushed
    }

    /// Writes the state to disk. Waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses; the store has stopped then.
    pub fn flush(&self) -> Result<(), DiskError> {
        flush::flush(self.shared()).map_err(|cause| self.shared().health.fail(cause).cause)
    }

    /// Begins to export the state of this moment. Constant time; later changes are not seen.
    ///
    /// # Errors
    /// When nothing was ever applied.
    pub fn export(&self) -> Result<Export, ExportError> {
        Export::new(self.view(), self.shared().config.snapshot_chunk_bytes)
    }

    /// Begins to install a snapshot beside the state, which stays in use until the end. Dropped before, it leaves
    /// nothing.
    ///
    /// # Errors
    /// When another one is under way, or the disk refuses.
    pub fn import(&self) -> Result<Import, ImportError> {
        Import::new(Arc::clone(&self.inner))
    }

    /// The same for one that says beforehand which state it is: it goes on with what an earlier import of that state
    /// has left, and leaves what it has when it is dropped half-way. Reads that once, to see that it is whole.
    ///
    /// # Errors
    /// As [`State::import`].
    pub fn resume_import(&self, id: &SnapshotId) -> Result<Import, ImportError> {
        Import::resume(Arc::clone(&self.inner), id)
    }

    /// Deletes what is left of a snapshot that was cut, unless an import is running. For a disk that needs the room.
    pub fn discard_incoming(&self) {
        clear_unless_busy(self.shared());
    }

    fn ring_when_due(&self, current: &mut Current) {
        let config = &self.shared().config;
        let due = current.unflushed_entries >= config.flush_entries_max;
        if due || current.unflushed_bytes >= config.flush_bytes_max {
            (current.unflushed_entries, current.unflushed_bytes) = (0, 0);
            self.inner.flusher.ring();
        }
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.shared().current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_mut(&self) -> RwLockWriteGuard<'_, Current> {
        self.shared().current.write().unwrap_or_else(PoisonError::into_inner)
    }
}
