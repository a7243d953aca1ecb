//! The sending side: reads a view chunk by chunk, and checks on the way that the disk holds what was written.
//!
//! It may begin behind any key; two exports of one state give the same records, whichever node makes them.

use std::collections::BTreeMap;

use prost::Message;

use ollamax_proto::disk;
use ollamax_proto::disk::snapshot_part::Part;

use super::{FORMAT, SnapshotId};
use crate::error::ExportError;
use crate::family;
use crate::state::hash::StateHash;
use crate::state::{AppliedMeta, StateView};

/// Room in a message for what is not the body: first and last key, numbers.
const CHUNK_OVERHEAD_BYTES: usize = 8 << 10;
/// Room that one pair takes beside key and value.
const PAIR_OVERHEAD_BYTES: usize = 16;

enum Next {
    Header { after: Option<Vec<u8>> },
    Chunk { after: Option<Vec<u8>> },
    End,
}

/// A state on its way out.
pub struct Export {
    view: StateView,
    meta: AppliedMeta,
    body_bytes_max: usize,
    next: Next,
    /// It begins with the first record.
    is_whole: bool,
    chunks: u64,
    count: u64,
    families: BTreeMap<&'static str, u64>,
    hash: StateHash,
    hasher: blake3::Hasher,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("index", &self.meta.index).field("chunks", &self.chunks).finish_non_exhaustive()
    }
}

// === impl Export ===

impl Export {
    pub(crate) fn new(view: StateView, chunk_bytes_max: usize) -> Result<Self, ExportError> {
        let meta = view.applied().cloned().ok_or(ExportError::Empty)?;
        Ok(Self::begin(view, meta, chunk_bytes_max.saturating_sub(CHUNK_OVERHEAD_BYTES)))
    }

    fn begin(view: StateView, meta: AppliedMeta, body_bytes_max: usize) -> Self {
        Self {
            view,
            meta,
            body_bytes_max,
            next: Next::Header { after: None },
            is_whole: true,
            chunks: 0,
            count: 0,
            families: BTreeMap::new(),
            hash: StateHash::default(),
            hasher: blake3::Hasher::new(),
        }
    }

    /// The same state once more, from its beginning. What it sees takes room on disk as long as either lives.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::begin(self.view.clone(), self.meta.clone(), self.body_bytes_max)
    }

    /// Leaves out the records up to this key, which the receiver has already. Whether the whole is what was written is
    /// then for the receiver to say.
    #[must_use]
    pub fn behind(mut self, key: &[u8]) -> Self {
        self.is_whole = key.is_empty();
        self.next = Next::Header { after: Some(key.to_vec()).filter(|key| !key.is_empty()) };
        self
    }

    /// Which state it is.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        SnapshotId { meta: self.meta.clone(), state_hash: self.state_hash(), count: self.count() }
    }

    /// How far the exported state is.
    #[must_use]
    pub const fn meta(&self) -> &AppliedMeta {
        &self.meta
    }

    /// The exported state itself.
    #[must_use]
    pub const fn view(&self) -> &StateView {
        &self.view
    }

    /// How many records of each family went out so far.
    #[must_use]
    pub const fn families(&self) -> &BTreeMap<&'static str, u64> {
        &self.families
    }

    /// Hash of the exported state.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 16] {
        self.view.state_hash()
    }

    /// Records in the exported state.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.view.standing().count
    }

    /// The next message of the stream; `None` after the last.
    ///
    /// # Errors
    /// When the disk refuses, or holds something else than what was written.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, ExportError> {
        let part = match std::mem::replace(&mut self.next, Next::End) {
            Next::End => return Ok(None),
            Next::Header { after } => {
                self.next = Next::Chunk { after };
                Part::Header(disk::SnapshotHeader { format: FORMAT, applied: Some(self.view.standing().message()) })
            }
            Next::Chunk { after } => match self.chunk(after.as_deref())? {
                Some(chunk) => {
                    self.next = Next::Chunk { after: Some(chunk.last_key.clone()) };
                    Part::Chunk(chunk)
                }
                None => Part::Trailer(self.trailer()?),
            },
        };
        Ok(Some(disk::SnapshotPart { part: Some(part) }.encode_to_vec()))
    }

    fn chunk(&mut self, after: Option<&[u8]>) -> Result<Option<disk::SnapshotChunk>, ExportError> {
        let start = after.map_or_else(|| family::RECORDS_START.to_vec(), |after| [after, &[0]].concat());
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        let body_bytes_max = self.body_bytes_max;
        self.view.walk(&start, None, |key, value| {
            bytes += key.len() + value.len() + PAIR_OVERHEAD_BYTES;
            let fits = pairs.is_empty() || bytes <= body_bytes_max;
            if fits {
                pairs.push(disk::SnapshotPair { key: key.to_vec(), value: value.to_vec() });
            }
            fits
        })?;
        let (Some(first), Some(last)) = (pairs.first(), pairs.last()) else { return Ok(None) };
        let (first_key, last_key) = (first.key.clone(), last.key.clone());
        for pair in &pairs {
            self.hash.replace(&pair.key, None, Some(&pair.value));
            if let Some(family) = family::name_of(&pair.key) {
                *self.families.entry(family).or_default() += 1;
            }
        }
        self.count += pairs.len() as u64;
        let body = disk::SnapshotPairs { pairs }.encode_to_vec();
        self.hasher.update(&body);
        let number = self.chunks;
        self.chunks += 1;
        Ok(Some(disk::SnapshotChunk { number, first_key, last_key, crc32c: crc32c::crc32c(&body), body }))
    }

    fn trailer(&self) -> Result<disk::SnapshotTrailer, ExportError> {
        if self.is_whole && self.count != self.count() {
            let reason = format!("{} records were read, and {} were written", self.count, self.count());
            return Err(ExportError::Differs { reason });
        }
        if self.is_whole && self.hash.to_bytes() != self.state_hash() {
            let reason = "the hash of what was read is not the hash of what was written".to_owned();
            return Err(ExportError::Differs { reason });
        }
        let blake3 = self.hasher.finalize().as_bytes().to_vec();
        Ok(disk::SnapshotTrailer { chunks: self.chunks, count: self.count, blake3 })
    }
}
