//! A file on its way: its bytes, which chunks are there, and their hashes.
//!
//! A chunk counts from the moment when its bytes, then its hash, then a slot with its bit were written. Nothing waits
//! for the disk then, so kill -9 costs what was not written yet. Every [`SYNC_BYTES`], and when it is asked for, all of
//! it is made durable, so a power cut costs little more. What a power cut took of a chunk that counts is found by
//! [`Part::check`]. Any number of threads write and read at once; of two that write the same chunk the second waits and
//! then has nothing to do. Chunks that a disk took and could not make durable do not count any more, and the part takes
//! no others: what the system forgot of them would not be found by reading. A part is sealed only by the digest of all
//! of its bytes, and only for as long as this process holds it: nobody publishes what another process believed.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use ollamax_types::Digest;
use ollamax_types::chunk::{Bits, chunk_range};

use crate::fault::Fault;
use crate::store::BlobSpec;
use crate::tree::{ChunkHash, Tree, chunk_hash};

use super::HeldParts;
use super::disk;
use super::slots::{Layout, encode_slot};

/// After so many bytes of chunks a part is made durable.
pub const SYNC_BYTES: u64 = 64 << 20;

/// Most chunks whose room is given back at once: nobody else works on them meanwhile.
const HOLE_CHUNKS_MAX: usize = 256;
/// Rights of a file that is what it should be.
const SEALED_MODE: u32 = 0o644;

/// A file on its way. Clones are the same part.
#[derive(Debug, Clone)]
pub struct Part(Arc<Inner>);

/// Why a part does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The disk did not.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The chunk has not arrived, or the file has no such chunk.
    #[error("chunk {index} of {sha256} is not there")]
    Absent {
        /// The file.
        sha256: Digest,
        /// The chunk.
        index: u32,
    },
    /// These bytes are no whole chunk.
    #[error("chunk {index} of {sha256} has {found} bytes, not {wanted}")]
    Length {
        /// The file.
        sha256: Digest,
        /// The chunk.
        index: u32,
        /// Its length.
        wanted: u64,
        /// The length of what was given.
        found: usize,
    },
    /// The file is another one.
    #[error("{wanted} was promised, and the bytes make {found}")]
    Digest {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// Chunks are missing.
    #[error("{0} is not complete")]
    Incomplete(Digest),
}

/// The two files of a part, held for this process alone.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) data: File,
    pub(super) data_path: PathBuf,
    pub(super) state: File,
    pub(super) state_path: PathBuf,
}

/// What is known of a part.
#[derive(Debug)]
pub(super) struct Known {
    /// Which chunks are there.
    bits: Bits,
    /// The hash of each chunk that is there.
    hashes: Vec<ChunkHash>,
    /// Epoch of the slot that counts.
    epoch: u64,
    /// Number of the slot that counts.
    slot: u8,
    /// Chunks that somebody writes or checks just now.
    busy: BTreeSet<u32>,
    /// Chunks that may be lost when the power goes.
    unsynced: Vec<u32>,
    /// Bytes of those that came since somebody last undertook to make them durable.
    unsynced_bytes: u64,
    /// The whole file was found to be what it should be, by this process.
    sealed: bool,
    /// What the system said when it could not make something durable.
    lost: Option<i32>,
}

#[derive(Debug)]
pub(super) struct Inner {
    spec: BlobSpec,
    layout: Layout,
    files: Files,
    known: Mutex<Known>,
    /// Somebody is done with a chunk.
    freed: Condvar,
    /// Held by whoever makes the part durable: the system tells one asker alone of what it could not write.
    syncing: Mutex<()>,
    held: Arc<HeldParts>,
}

/// The right to write or check a chunk; nobody else has it meanwhile.
struct Turn<'a> {
    inner: &'a Inner,
    index: u32,
}

// === impl Part ===

impl Part {
    pub(super) fn new(spec: BlobSpec, files: Files, known: Known, held: Arc<HeldParts>) -> Self {
        let layout = Layout::of(spec.size_bytes);
        let (known, freed, syncing) = (Mutex::new(known), Condvar::new(), Mutex::new(()));
        Self(Arc::new(Inner { spec, layout, files, known, freed, syncing, held }))
    }

    pub(super) fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Which file it becomes.
    #[must_use]
    pub fn spec(&self) -> BlobSpec {
        self.0.spec
    }

    /// Which chunks are there.
    #[must_use]
    pub fn have(&self) -> Bits {
        self.0.known().bits.clone()
    }

    /// The hash of a chunk that is there.
    #[must_use]
    pub fn hash_of(&self, index: u32) -> Option<ChunkHash> {
        let known = self.0.known();
        known.bits.get(index).then(|| known.hashes[index as usize])
    }

    /// Takes a chunk whose hash is known or was just computed. A chunk that is there already stays as it is.
    ///
    /// # Errors
    /// When the bytes are no whole chunk, and when the disk does not take them: then the chunk is not there.
    pub fn write(&self, index: u32, bytes: &[u8], hash: ChunkHash) -> Result<(), PartError> {
        let (inner, files) = (&*self.0, &self.0.files);
        let range = inner.range(index)?;
        let wanted = range.end - range.start;
        if bytes.len() as u64 != wanted {
            return Err(PartError::Length { sha256: inner.spec.sha256, index, wanted, found: bytes.len() });
        }
        let turn = inner.take_turn(index);
        if inner.known().bits.get(index) {
            return Ok(());
        }
        files.data.write_all_at(bytes, range.start).map_err(Fault::at("write", &files.data_path))?;
        let hash_at = inner.layout.hash_at(index);
        files.state.write_all_at(&hash, hash_at).map_err(Fault::at("write", &files.state_path))?;
        let is_due = inner.claim(index, hash, wanted)?;
        drop(turn);
        if is_due { self.sync() } else { Ok(()) }
    }

    /// Reads a chunk that is there, as the disk gives it.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    pub fn read(&self, index: u32, into: &mut Vec<u8>) -> Result<(), PartError> {
        let inner = &*self.0;
        if !inner.known().bits.get(index) {
            return Err(PartError::Absent { sha256: inner.spec.sha256, index });
        }
        let read = inner.read_chunk(index, into);
        Ok(read.map_err(Fault::at("read", &inner.files.data_path))?)
    }

    /// Reads a chunk and compares it with its hash. False: it is not there, or is not any more, because what the disk
    /// has is not what was written; then `buffer` is empty.
    ///
    /// # Errors
    /// When the disk cannot be asked, or does not take that the chunk is gone.
    pub fn check(&self, index: u32, buffer: &mut Vec<u8>) -> Result<bool, PartError> {
        let (inner, path) = (&*self.0, &self.0.files.data_path);
        let _turn = inner.take_turn(index);
        let Some(wanted) = self.hash_of(index) else {
            buffer.clear();
            return Ok(false);
        };
        let is_sound = match inner.read_chunk(index, buffer) {
            Ok(()) => chunk_hash(inner.spec.size_bytes, index, buffer) == wanted,
            // It ends before the chunk does, or this place of the disk is gone: in both cases the chunk is lost.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof || disk::is(&error, Errno::EIO) => false,
            Err(error) => return Err(Fault::at("read", path)(error).into()),
        };
        if !is_sound {
            buffer.clear();
            tracing::warn!(path = %path.display(), chunk = index, "a chunk on its way is damaged; it is fetched again");
            inner.withdraw(index)?;
        }
        Ok(is_sound)
    }

    /// Keeps of what is there the chunks that belong into a file with this tree, and says how many went. What an
    /// earlier process took from somewhere else may be those of another file.
    ///
    /// # Errors
    /// When the tree is that of a file of another size, and when the disk does not take that a chunk is gone.
    pub fn agree_with(&self, tree: &Tree) -> Result<u32, PartError> {
        let (inner, path) = (&*self.0, &self.0.files.data_path);
        if tree.size_bytes() != inner.spec.size_bytes {
            return Err(disk::fault("agree with a tree", path, ErrorKind::InvalidInput, "it is of another size").into());
        }
        let gone =
            self.agree_with_told(0..inner.layout.chunks(), &|index| tree.hashes().get(index as usize).copied())?;
        Ok(u32::try_from(gone.len()).unwrap_or(u32::MAX))
    }

    /// Keeps of some chunks those that are there with the hash that they must have, and says which went. A chunk of
    /// which `told` knows no hash stays.
    ///
    /// # Errors
    /// When the disk does not take that a chunk is gone.
    pub fn agree_with_told(
        &self,
        chunks: Range<u32>,
        told: &dyn Fn(u32) -> Option<ChunkHash>,
    ) -> Result<Vec<u32>, PartError> {
        let (inner, mut gone) = (&*self.0, Vec::new());
        for index in chunks {
            let Some(wanted) = told(index) else { continue };
            if self.hash_of(index).is_none_or(|hash| hash == wanted) {
                continue;
            }
            let _turn = inner.take_turn(index);
            if self.hash_of(index).is_some_and(|hash| hash != wanted) {
                inner.withdraw(index)?;
                gone.push(index);
            }
        }
        Ok(gone)
    }

    /// Makes durable what is there.
    ///
    /// # Errors
    /// When the disk does not: then the chunks since the last time are gone, and the part takes no others.
    pub fn sync(&self) -> Result<(), PartError> {
        let (inner, files) = (&*self.0, &self.0.files);
        let _alone = inner.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = {
            let mut known = inner.known();
            known.check_whole(&files.data_path)?;
            known.unsynced_bytes = 0;
            known.unsynced.len()
        };
        let synced = files.data.sync_data().map_err(|error| (error, &files.data_path));
        match synced.and_then(|()| files.state.sync_data().map_err(|error| (error, &files.state_path))) {
            Ok(()) => {
                // What came meanwhile stays for the next time.
                inner.known().unsynced.drain(..count);
                Ok(())
            }
            Err((error, path)) => {
                inner.lose_unsynced(&error);
                Err(Fault::at("sync", path)(error).into())
            }
        }
    }

    /// All chunks are there, and `sha256` is the digest of their bytes: if it is the promised one, the file is durable
    /// and may be shown to others from now on.
    ///
    /// # Errors
    /// When chunks are missing, when the digest is another, when the disk does not make it durable.
    pub fn seal(&self, sha256: Digest) -> Result<(), PartError> {
        let (inner, files) = (&*self.0, &self.0.files);
        let wanted = inner.spec.sha256;
        if sha256 != wanted {
            return Err(PartError::Digest { wanted, found: sha256 });
        }
        self.check_full()?;
        if self.is_sealed() {
            return Ok(());
        }
        self.sync()?;
        let readable = files.data.set_permissions(Permissions::from_mode(SEALED_MODE));
        readable.map_err(Fault::at("widen the rights of", &files.data_path))?;
        inner.mark_sealed()?;
        self.sync()
    }

    /// The hash tree of a file whose chunks are all there.
    ///
    /// # Errors
    /// When chunks are missing.
    pub fn tree(&self) -> Result<Tree, PartError> {
        self.check_full()?;
        let hashes = self.0.known().hashes.clone();
        Ok(Tree::of(self.0.spec.size_bytes, hashes).expect("there is one hash for each chunk"))
    }

    /// Whether this process found all of it to be what it should be.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.0.known().sealed
    }

    /// Gives back the room of the chunks that are not there. One that somebody writes just now is waited for, since
    /// its bytes are not to fall into a hole.
    pub(super) fn give_back_room(&self) -> Result<(), Fault> {
        let inner = &*self.0;
        let mut absent: Vec<Turn<'_>> = Vec::new();
        for index in 0..inner.layout.chunks() {
            let turn = if inner.known().bits.get(index) { None } else { Some(inner.take_turn(index)) };
            match turn.filter(|_| !inner.known().bits.get(index)) {
                Some(turn) => absent.push(turn),
                None => inner.give_back_room(std::mem::take(&mut absent))?,
            }
            if absent.len() >= HOLE_CHUNKS_MAX {
                inner.give_back_room(std::mem::take(&mut absent))?;
            }
        }
        inner.give_back_room(absent)
    }

    /// Its bytes.
    pub(crate) fn data(&self) -> &File {
        &self.0.files.data
    }

    /// The name of its bytes, for as long as nobody took it away.
    pub(crate) fn data_path(&self) -> &Path {
        &self.0.files.data_path
    }

    fn check_full(&self) -> Result<(), PartError> {
        if self.0.known().bits.is_full() { Ok(()) } else { Err(PartError::Incomplete(self.0.spec.sha256)) }
    }
}

// === impl Known ===

impl Known {
    /// What a slot and the hashes say. `slot` is the number of the slot that counts. Nobody knows how much of it an
    /// earlier process made durable.
    pub(super) fn new(bits: Bits, hashes: Vec<ChunkHash>, epoch: u64, slot: u8) -> Self {
        let (busy, unsynced) = (BTreeSet::new(), bits.runs().flatten().collect());
        Self { bits, hashes, epoch, slot, busy, unsynced, unsynced_bytes: 0, sealed: false, lost: None }
    }

    /// Nothing of a file of so many chunks.
    pub(super) fn nothing(chunks: u32) -> Self {
        // The first slot that is written is the other one.
        Self::new(Bits::new(chunks), vec![ChunkHash::default(); chunks as usize], 0, 1)
    }

    /// A part of which the disk lost something takes no more.
    fn check_whole(&self, path: &Path) -> Result<(), Fault> {
        match self.lost {
            None => Ok(()),
            Some(errno) => Err(Fault::at("sync", path)(io::Error::from_raw_os_error(errno))),
        }
    }
}

// === impl Inner ===

impl Inner {
    pub(super) fn spec(&self) -> BlobSpec {
        self.spec
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that are this chunk.
    fn range(&self, index: u32) -> Result<Range<u64>, PartError> {
        if index < self.layout.chunks() {
            Ok(chunk_range(self.spec.size_bytes, index))
        } else {
            Err(PartError::Absent { sha256: self.spec.sha256, index })
        }
    }

    /// Waits until nobody else is at work on this chunk.
    fn take_turn(&self, index: u32) -> Turn<'_> {
        let mut known = self.known();
        while !known.busy.insert(index) {
            known = self.freed.wait(known).unwrap_or_else(PoisonError::into_inner);
        }
        Turn { inner: self, index }
    }

    /// The bytes and the hash of a chunk are written: it counts. True when it is time to make everything durable.
    fn claim(&self, index: u32, hash: ChunkHash, length: u64) -> Result<bool, Fault> {
        let mut known = self.known();
        // While this chunk was on its way to the disk, the disk lost others, and may have lost this one.
        known.check_whole(&self.files.data_path)?;
        known.bits.set(index);
        if let Err(fault) = self.write_slot(&mut known) {
            known.bits.clear(index);
            return Err(fault);
        }
        known.hashes[index as usize] = hash;
        known.unsynced.push(index);
        known.unsynced_bytes += length;
        let is_due = known.unsynced_bytes >= SYNC_BYTES;
        if is_due {
            // Whoever writes next has not the same duty.
            known.unsynced_bytes = 0;
        }
        Ok(is_due)
    }

    /// A chunk is not there after all.
    fn withdraw(&self, index: u32) -> Result<(), Fault> {
        let mut known = self.known();
        known.bits.clear(index);
        known.sealed = false;
        self.write_slot(&mut known)
    }

    fn mark_sealed(&self) -> Result<(), PartError> {
        let mut known = self.known();
        known.check_whole(&self.files.data_path)?;
        if !known.bits.is_full() {
            return Err(PartError::Incomplete(self.spec.sha256));
        }
        known.sealed = true;
        let written = self.write_slot(&mut known);
        known.sealed = written.is_ok();
        Ok(written?)
    }

    /// The system could not make durable what it had taken. It may have let go of those bytes, in memory too, so
    /// neither reading them nor asking once more would tell.
    fn lose_unsynced(&self, error: &io::Error) {
        let mut known = self.known();
        known.lost = Some(error.raw_os_error().unwrap_or(Errno::EIO as i32));
        known.sealed = false;
        for index in std::mem::take(&mut known.unsynced) {
            known.bits.clear(index);
        }
        if let Err(fault) = self.write_slot(&mut known) {
            tracing::warn!(error = %fault, "take note of chunks that the disk lost");
        }
    }

    /// Gives back the room of chunks that follow each other.
    fn give_back_room(&self, absent: Vec<Turn<'_>>) -> Result<(), Fault> {
        let (Some(first), Some(last)) = (absent.first(), absent.last()) else { return Ok(()) };
        let start = chunk_range(self.spec.size_bytes, first.index).start;
        let end = chunk_range(self.spec.size_bytes, last.index).end;
        let given = disk::give_back_room(&self.files.data, &(start..end));
        drop(absent);
        given.map_err(Fault::at("give back the room of", &self.files.data_path))
    }

    /// Writes what is known over the slot that does not count; from then on it does.
    fn write_slot(&self, known: &mut Known) -> Result<(), Fault> {
        let (epoch, slot) = (known.epoch + 1, 1 - known.slot);
        let bytes = encode_slot(epoch, known.sealed, &known.bits);
        let written = self.files.state.write_all_at(&bytes, self.layout.slot_at(slot));
        written.map_err(Fault::at("write", &self.files.state_path))?;
        (known.epoch, known.slot) = (epoch, slot);
        Ok(())
    }

    fn read_chunk(&self, index: u32, into: &mut Vec<u8>) -> io::Result<()> {
        let range = chunk_range(self.spec.size_bytes, index);
        into.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
        self.files.data.read_exact_at(into, range.start)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever waits for the entry to go finds the file free then.
        drop(self.files.state.unlock());
        self.held.remove(self.spec.sha256, self);
    }
}

// === impl Turn ===

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.inner.known().busy.remove(&self.index);
        self.inner.freed.notify_all();
    }
}

#[cfg(test)]
mod tests;
