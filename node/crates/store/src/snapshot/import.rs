//! The receiving side: table files beside the state, then one switch.
//!
//! Chunks are checked and written to sorted table files under `raft/incoming`. At the end everything is verified, the
//! files go into a fresh generation in one step, and one synced write makes that generation the state; the old one is
//! dropped afterwards. A crash before the switch leaves the old state, a crash after it the new one; the other
//! generation is dropped at the next start. Dropping an import removes what it made.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rocksdb::{Options, SstFileWriter, WriteBatch};

use super::check::{Check, Pairs};
use crate::database::META;
use crate::error::{DiskError, ImportError, WriteError};
use crate::marks;
use crate::shared::{Inner, Shared};
use crate::state::AppliedMeta;
use crate::state::applied::{KEY as APPLIED_KEY, Standing};

/// Bytes of records that are gathered before they become a table file.
const FILE_BYTES: usize = 8 << 20;

/// A state on its way in. One at a time.
pub struct Import {
    inner: Arc<Inner>,
    check: Check,
    pending: Pairs,
    pending_bytes: usize,
    files: Vec<PathBuf>,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("count", &self.check.count()).finish_non_exhaustive()
    }
}

// === impl Import ===

impl Import {
    pub(crate) fn new(inner: Arc<Inner>) -> Result<Self, ImportError> {
        inner.shared.health.check()?;
        if inner.shared.importing.swap(true, Ordering::AcqRel) {
            return Err(ImportError::Busy);
        }
        let (pending, files) = (Vec::new(), Vec::new());
        let import = Self { inner, check: Check::default(), pending, pending_bytes: 0, files };
        import.clear().and_then(|()| fs::create_dir_all(&import.shared().incoming)).map_err(refused)?;
        Ok(import)
    }

    /// Takes the next message of the stream. Waits for the disk now and then.
    ///
    /// # Errors
    /// When the message is damaged, out of order or not understood, or the disk refuses: the import cannot go on.
    pub fn add(&mut self, message: &[u8]) -> Result<(), ImportError> {
        for (key, value) in self.check.take(message)? {
            self.pending_bytes += key.len() + value.len();
            self.pending.push((key, value));
            if self.pending_bytes >= FILE_BYTES {
                self.write_file()?;
            }
        }
        Ok(())
    }

    /// How far the coming state is; known after the first message.
    #[must_use]
    pub fn meta(&self) -> Option<&AppliedMeta> {
        self.check.meta()
    }

    /// Whether everything that was announced has arrived and fits; [`Import::finish`] would refuse it otherwise.
    ///
    /// # Errors
    /// When something is missing or does not fit.
    pub fn verify(&self) -> Result<(), ImportError> {
        self.check.verify()
    }

    /// Verifies the whole and makes it the state. Waits for the disk.
    ///
    /// # Errors
    /// When something is missing or does not fit, is not the state that `meta` names, or the disk refuses. The old
    /// state stays in use then.
    pub fn finish(mut self, meta: &AppliedMeta) -> Result<(), ImportError> {
        let standing = self.check.verified()?;
        let found = self.meta().map_or(0, |found| found.index);
        if self.meta() != Some(meta) {
            return Err(ImportError::OtherMeta { found, wanted: meta.index });
        }
        self.write_file()?;
        self.pending = vec![(APPLIED_KEY.to_vec(), standing.seal())];
        self.write_file()?;
        let files = std::mem::take(&mut self.files);
        switch(self.shared(), &standing, files)
    }

    /// Makes a table file of what is pending; durable on return.
    fn write_file(&mut self) -> Result<(), ImportError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = self.shared().incoming.join(format!("{}.sst", self.files.len()));
        write_table(&path, &self.pending).map_err(|error| DiskError::rocks("write the snapshot", &error))?;
        self.files.push(path);
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    fn clear(&self) -> std::io::Result<()> {
        let incoming = &self.shared().incoming;
        if incoming.exists() { fs::remove_dir_all(incoming) } else { Ok(()) }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "remove the files of an unfinished snapshot");
        }
        self.shared().importing.store(false, Ordering::Release);
    }
}

fn refused(error: std::io::Error) -> ImportError {
    DiskError::io("prepare for a snapshot", &error).into()
}

fn write_table(path: &PathBuf, pairs: &Pairs) -> Result<(), rocksdb::Error> {
    let options = Options::default();
    let mut writer = SstFileWriter::create(&options);
    writer.open(path)?;
    for (key, value) in pairs {
        writer.put(key, value)?;
    }
    writer.finish()
}

/// Takes the files in as a fresh generation and makes it the state.
fn switch(shared: &Shared, standing: &Standing, files: Vec<PathBuf>) -> Result<(), ImportError> {
    let _alone = shared.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
    let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
    let (old, new) = (current.generation, current.generation + 1);
    shared.database.create_state(new)?;
    if let Err(error) = shared.database.ingest(new, files) {
        shared.database.drop_state(new)?;
        return Err(error.into());
    }
    let mut batch = WriteBatch::default();
    batch.put_cf(&shared.database.fixed_family(META), marks::KEY_GENERATION, marks::seal_generation(new));
    shared
        .database
        .write_synced(batch, "switch to the snapshot")
        .map_err(|cause| WriteError::Stopped(shared.health.fail(cause)))?;
    current.generation = new;
    current.standing = standing.clone();
    current.flushed = standing.index();
    (current.unflushed_entries, current.unflushed_bytes) = (0, 0);
    shared.metrics.snapshots_installed_total.inc();
    drop(current);
    shared.database.drop_state(old)?;
    Ok(())
}
