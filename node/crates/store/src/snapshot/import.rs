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

use prost::Message;
use rocksdb::{Options, SstFileWriter, WriteBatch};

use ollamax_proto::disk;
use ollamax_proto::disk::snapshot_part::Part;

use super::FORMAT;
use crate::database::META;
use crate::error::{DiskError, ImportError, WriteError};
use crate::family;
use crate::marks;
use crate::shared::{Inner, Shared};
use crate::state::AppliedMeta;
use crate::state::applied::{KEY as APPLIED_KEY, Standing};
use crate::state::hash::StateHash;

/// Bytes of records that are gathered before they become a table file.
const FILE_BYTES: usize = 8 << 20;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A state on its way in. One at a time.
pub struct Import {
    inner: Arc<Inner>,
    header: Option<Standing>,
    trailer: Option<disk::SnapshotTrailer>,
    pending: Pairs,
    pending_bytes: usize,
    files: Vec<PathBuf>,
    last_key: Vec<u8>,
    chunks: u64,
    count: u64,
    hash: StateHash,
    hasher: blake3::Hasher,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("chunks", &self.chunks).field("count", &self.count).finish_non_exhaustive()
    }
}

fn invalid(reason: impl Into<String>) -> ImportError {
    ImportError::Invalid(reason.into())
}

// === impl Import ===

impl Import {
    pub(crate) fn new(inner: Arc<Inner>) -> Result<Self, ImportError> {
        inner.shared.health.check()?;
        if inner.shared.importing.swap(true, Ordering::AcqRel) {
            return Err(ImportError::Busy);
        }
        let import = Self {
            inner,
            header: None,
            trailer: None,
            pending: Vec::new(),
            pending_bytes: 0,
            files: Vec::new(),
            last_key: Vec::new(),
            chunks: 0,
            count: 0,
            hash: StateHash::default(),
            hasher: blake3::Hasher::new(),
        };
        import.clear().and_then(|()| fs::create_dir_all(&import.shared().incoming)).map_err(refused)?;
        Ok(import)
    }

    /// Takes the next message of the stream. Waits for the disk now and then.
    ///
    /// # Errors
    /// When the message is damaged, out of order or not understood, or the disk refuses: the import cannot go on.
    pub fn add(&mut self, chunk: &[u8]) -> Result<(), ImportError> {
        let part = disk::SnapshotPart::decode(chunk).map_err(|error| invalid(error.to_string()))?;
        match part.part {
            Some(Part::Header(header)) => self.add_header(header),
            Some(Part::Chunk(chunk)) => self.add_chunk(&chunk),
            Some(Part::Trailer(trailer)) => self.add_trailer(trailer),
            None => Err(invalid("a message of a kind that this release does not know")),
        }
    }

    /// How far the coming state is; known after the first message.
    #[must_use]
    pub fn meta(&self) -> Option<&AppliedMeta> {
        self.header.as_ref()?.meta.as_deref()
    }

    /// Whether everything that was announced has arrived and fits; [`Import::finish`] would refuse it otherwise.
    ///
    /// # Errors
    /// When something is missing or does not fit.
    pub fn verify(&self) -> Result<(), ImportError> {
        self.verified().map(drop)
    }

    /// Verifies the whole and makes it the state. Waits for the disk.
    ///
    /// # Errors
    /// When something is missing or does not fit, is not the state that `meta` names, or the disk refuses. The old
    /// state stays in use then.
    pub fn finish(mut self, meta: &AppliedMeta) -> Result<(), ImportError> {
        let standing = self.verified()?;
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

    fn add_header(&mut self, header: disk::SnapshotHeader) -> Result<(), ImportError> {
        if self.header.is_some() {
            return Err(invalid("a second header"));
        }
        if header.format != FORMAT {
            return Err(invalid(format!("format {}, and this release knows {FORMAT}", header.format)));
        }
        let applied = header.applied.ok_or_else(|| invalid("a header without its mark"))?;
        self.header = Some(Standing::from_message(applied).map_err(|malformed| invalid(malformed.to_string()))?);
        Ok(())
    }

    fn add_chunk(&mut self, chunk: &disk::SnapshotChunk) -> Result<(), ImportError> {
        let number = chunk.number;
        if self.header.is_none() || self.trailer.is_some() || number != self.chunks {
            return Err(invalid(format!("chunk {number} is out of order")));
        }
        if crc32c::crc32c(&chunk.body) != chunk.crc32c {
            return Err(invalid(format!("chunk {number} does not fit its checksum")));
        }
        let body = disk::SnapshotPairs::decode(&chunk.body[..]).map_err(|error| invalid(error.to_string()))?;
        let ends = (body.pairs.first().map(|pair| &pair.key), body.pairs.last().map(|pair| &pair.key));
        if ends != (Some(&chunk.first_key), Some(&chunk.last_key)) {
            return Err(invalid(format!("chunk {number} does not hold the keys that it names")));
        }
        self.hasher.update(&chunk.body);
        self.chunks += 1;
        body.pairs.into_iter().try_for_each(|pair| self.add_pair(pair))
    }

    fn add_pair(&mut self, pair: disk::SnapshotPair) -> Result<(), ImportError> {
        let disk::SnapshotPair { key, value } = pair;
        if key <= self.last_key {
            return Err(invalid("its keys are not in order"));
        }
        let known = family::decode_key(&key).and_then(|key| family::decode_record(&key, &value));
        known.map_err(|malformed| invalid(malformed.to_string()))?;
        self.hash.replace(&key, None, Some(&value));
        self.count += 1;
        self.pending_bytes += key.len() + value.len();
        self.last_key.clone_from(&key);
        self.pending.push((key, value));
        if self.pending_bytes >= FILE_BYTES { self.write_file() } else { Ok(()) }
    }

    fn add_trailer(&mut self, trailer: disk::SnapshotTrailer) -> Result<(), ImportError> {
        if self.header.is_none() || self.trailer.is_some() {
            return Err(invalid("a trailer out of order"));
        }
        self.trailer = Some(trailer);
        Ok(())
    }

    fn verified(&self) -> Result<Standing, ImportError> {
        let (Some(standing), Some(trailer)) = (&self.header, &self.trailer) else {
            return Err(invalid("the stream ended early"));
        };
        if trailer.chunks != self.chunks || trailer.count != self.count || standing.count != self.count {
            return Err(invalid("chunks or records are missing"));
        }
        if trailer.blake3 != self.hasher.finalize().as_bytes() {
            return Err(invalid("the records do not fit the trailer"));
        }
        if standing.hash != self.hash {
            return Err(invalid("the records do not fit the state hash"));
        }
        Ok(standing.clone())
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
