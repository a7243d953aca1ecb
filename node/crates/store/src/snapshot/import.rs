//! The receiving side: table files beside the state, then one switch.
//!
//! Chunks are checked and written to sorted table files under `raft/incoming`. At the end everything is verified, the
//! files go into a fresh generation in one step, and one synced write makes that generation the state; the old one is
//! dropped afterwards. A crash before the switch leaves the old state, a crash after it the new one; the other
//! generation is dropped at the next start. Dropping an import removes what it made, save for one that can be gone on
//! with ([`Import::resume`]) and was cut: its whole files stay for the next attempt. Whatever does not fit removes all.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rocksdb::{Options, SstFileWriter, WriteBatch};

use super::SnapshotId;
use super::check::{Check, Pairs};
use super::staging::{self, Fingerprint, Mark, Reached, Start};
use crate::database::META;
use crate::error::{DiskError, ImportError, WriteError};
use crate::marks;
use crate::shared::{Inner, Shared};
use crate::state::AppliedMeta;
use crate::state::applied::{KEY as APPLIED_KEY, Standing};

/// Records of as many full chunks are gathered before they become a table file.
const FILE_CHUNKS: usize = 8;
const WRITE: &str = "write the snapshot";

/// A state on its way in. One at a time.
pub struct Import {
    inner: Arc<Inner>,
    check: Check,
    pending: Pairs,
    pending_bytes: usize,
    files: Vec<Fingerprint>,
    /// The state that is coming, when the files shall stay for another attempt if this one breaks off.
    kept_for: Option<Standing>,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("count", &self.check.count()).finish_non_exhaustive()
    }
}

// === impl Import ===

impl Import {
    /// Begins with nothing and leaves nothing.
    pub(crate) fn new(inner: Arc<Inner>) -> Result<Self, ImportError> {
        let import = Self::take_folder(inner)?;
        import.empty_folder()?;
        Ok(import)
    }

    /// Goes on with what an earlier import of the same snapshot has left, or begins anew.
    pub(crate) fn resume(inner: Arc<Inner>, id: &SnapshotId) -> Result<Self, ImportError> {
        let mut import = Self::take_folder(inner)?;
        let wanted = id.standing();
        let reached = match staging::choose_start(&wanted, staging::find(import.folder())) {
            Start::Behind { reached, files } if staging::are_whole(import.folder(), &files) => {
                import.files = files;
                reached
            }
            _ => {
                import.empty_folder()?;
                Reached::default()
            }
        };
        import.check = Check::behind(wanted.clone(), reached);
        import.kept_for = Some(wanted);
        Ok(import)
    }

    fn take_folder(inner: Arc<Inner>) -> Result<Self, ImportError> {
        inner.shared.health.check()?;
        if inner.shared.importing.swap(true, Ordering::AcqRel) {
            return Err(ImportError::Busy);
        }
        let (check, pending, files) = (Check::default(), Vec::new(), Vec::new());
        Ok(Self { inner, check, pending, pending_bytes: 0, files, kept_for: None })
    }

    fn empty_folder(&self) -> Result<(), ImportError> {
        let emptied = staging::clear(self.folder()).and_then(|()| fs::create_dir_all(self.folder()));
        emptied.map_err(|error| DiskError::io("prepare for a snapshot", &error).into())
    }

    /// Takes the next message of the stream. Waits for the disk now and then.
    ///
    /// # Errors
    /// When the message is damaged, out of order or not understood, or the disk refuses: the import cannot go on, and
    /// nothing is left for another.
    pub fn add(&mut self, message: &[u8]) -> Result<(), ImportError> {
        let added = self.take(message);
        if added.is_err() {
            self.kept_for = None;
        }
        added
    }

    fn take(&mut self, message: &[u8]) -> Result<(), ImportError> {
        for (key, value) in self.check.take(message)? {
            self.pending_bytes += key.len() + value.len();
            self.pending.push((key, value));
        }
        let full = FILE_CHUNKS * self.shared().config.snapshot_chunk_bytes;
        if self.pending_bytes >= full { self.write_file() } else { Ok(()) }
    }

    /// The last key that has come, with those of earlier attempts; empty before the first.
    #[must_use]
    pub fn last_key(&self) -> &[u8] {
        self.check.last_key()
    }

    /// Ends it and leaves nothing for another.
    pub fn discard(mut self) {
        self.kept_for = None;
    }

    /// How far the coming state is; known after the first message.
    #[must_use]
    pub fn meta(&self) -> Option<&AppliedMeta> {
        self.check.meta()
    }

    /// Whether everything that was announced has arrived and fits; [`Import::finish`] would refuse it otherwise.
    ///
    /// # Errors
    /// When something is missing or does not fit. What came whole and does not fit leaves nothing for another import.
    pub fn verify(&mut self) -> Result<(), ImportError> {
        let outcome = self.check.verify();
        if outcome.is_err() && self.check.is_over() {
            self.kept_for = None;
        }
        outcome
    }

    /// Verifies the whole and makes it the state. Waits for the disk.
    ///
    /// # Errors
    /// When something is missing or does not fit, is not the state that `meta` names, or the disk refuses. The old
    /// state stays in use then.
    pub fn finish(mut self, meta: &AppliedMeta) -> Result<(), ImportError> {
        self.kept_for = None;
        let standing = self.check.verified()?;
        let found = self.meta().map_or(0, |found| found.index);
        if self.meta() != Some(meta) {
            return Err(ImportError::OtherMeta { found, wanted: meta.index });
        }
        self.write_file()?;
        self.pending = vec![(APPLIED_KEY.to_vec(), standing.seal())];
        self.write_file()?;
        let files = (0..self.files.len()).map(|number| staging::file(self.folder(), number)).collect();
        switch(self.shared(), &standing, files)
    }

    /// Makes a table file of what is pending; durable on return.
    fn write_file(&mut self) -> Result<(), ImportError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = staging::file(self.folder(), self.files.len());
        let options = self.shared().database.state_options();
        write_table(&path, &options, &self.pending).map_err(|error| DiskError::rocks(WRITE, &error))?;
        let refused = |error: std::io::Error| DiskError::io(WRITE, &error);
        self.files.push(staging::fingerprint(&path).map_err(refused)?);
        self.pending.clear();
        self.pending_bytes = 0;
        if let Some(standing) = self.kept_for.clone() {
            let mark = Mark { standing, reached: self.check.reached(), files: self.files.clone() };
            staging::note(self.folder(), &mark).map_err(refused)?;
        }
        Ok(())
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    fn folder(&self) -> &Path {
        &self.shared().incoming
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        let cleared = if self.kept_for.is_some() { Ok(()) } else { staging::clear(self.folder()) };
        if let Err(error) = cleared {
            tracing::warn!(%error, "remove the files of an unfinished snapshot");
        }
        self.shared().importing.store(false, Ordering::Release);
    }
}

fn write_table(path: &Path, options: &Options, pairs: &Pairs) -> Result<(), rocksdb::Error> {
    let mut writer = SstFileWriter::create(options);
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
