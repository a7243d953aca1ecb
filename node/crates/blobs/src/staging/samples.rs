//! Files of models for tests: bytes that differ from place to place, and what is known of them.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use ollamax_types::Digest;
use ollamax_types::chunk::{chunk_count, chunk_range};

use crate::store::BlobSpec;
use crate::tree::{ChunkHash, chunk_hash};

use super::{Part, Staging};

/// A file.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) bytes: Vec<u8>,
    pub(crate) spec: BlobSpec,
}

// === impl Sample ===

impl Sample {
    /// A file that another seed makes another.
    pub(crate) fn new(seed: u64, size_bytes: u64) -> Self {
        let mut bytes = vec![0; usize::try_from(size_bytes).expect("small")];
        let mut word = seed.wrapping_mul(2).wrapping_add(1);
        for place in bytes.chunks_mut(size_of::<u64>()) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
        }
        Self::of(bytes)
    }

    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let spec = BlobSpec { sha256: Digest(Sha256::digest(&bytes).into()), size_bytes: bytes.len() as u64 };
        Self { bytes, spec }
    }

    pub(crate) fn chunks(&self) -> u32 {
        chunk_count(self.spec.size_bytes)
    }

    pub(crate) fn chunk(&self, index: u32) -> &[u8] {
        let range = chunk_range(self.spec.size_bytes, index);
        let place = |at: u64| usize::try_from(at).expect("small");
        &self.bytes[place(range.start)..place(range.end)]
    }

    pub(crate) fn hash(&self, index: u32) -> ChunkHash {
        chunk_hash(self.spec.size_bytes, index, self.chunk(index))
    }

    /// Lets a chunk arrive.
    pub(crate) fn write(&self, part: &Part, index: u32) {
        part.write(index, self.chunk(index), self.hash(index)).expect("there is room");
    }

    /// The whole file, as it is before it is published.
    pub(crate) fn sealed(&self, staging: &Staging) -> Part {
        let part = staging.begin(self.spec).expect("there is room");
        for index in 0..self.chunks() {
            self.write(&part, index);
        }
        part.seal(self.spec.sha256).expect("it is whole");
        part
    }
}

/// Whether this process can make what lies in a folder another user's (65534, who is nobody).
pub(crate) fn may_give(folder: &Path) -> bool {
    let probe = folder.join("probe");
    fs::write(&probe, b"").expect("there is room");
    let given = chown(&probe, Some(65_534), Some(65_534)).is_ok();
    fs::remove_file(&probe).expect("ours");
    given
}
