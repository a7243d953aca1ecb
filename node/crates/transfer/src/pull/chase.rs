//! Follows a growing file with SHA-256, without a gap.
//!
//! A chunk is read back from disk, compared with its own hash, and only then goes on into the digest, so that what is
//! published is what the disk has. The state of SHA-256 cannot be kept over a restart: a new chaser begins with the
//! first chunk.

use sha2::{Digest as _, Sha256};

use ollamax_blobs::{Part, PartError};
use ollamax_types::Digest;

/// How far a file is hashed.
#[derive(Clone)]
pub(crate) struct Chaser {
    sha256: Sha256,
    next: u32,
    buffer: Vec<u8>,
}

// === impl Chaser ===

impl Chaser {
    pub(crate) fn new() -> Self {
        Self { sha256: Sha256::new(), next: 0, buffer: Vec::new() }
    }

    /// The first chunk that is not hashed.
    pub(crate) const fn next(&self) -> u32 {
        self.next
    }

    /// Checks a chunk, and hashes it if it is the next one. False: it is not there any more. Blocks on the disk.
    pub(crate) fn take(&mut self, part: &Part, index: u32) -> Result<bool, PartError> {
        let is_sound = part.check(index, &mut self.buffer)?;
        if is_sound && index == self.next {
            self.sha256.update(&self.buffer);
            self.next += 1;
        }
        Ok(is_sound)
    }

    /// The digest of what was hashed.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.sha256.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use ollamax_blobs::{BlobSpec, Staging, chunk_hash};
    use ollamax_types::CHUNK_BYTES;

    use super::*;

    fn part(folder: &TempDir, bytes: &[u8]) -> Part {
        let staging = Staging::open(&folder.path().join("staging"), None).expect("ours");
        let spec = BlobSpec { sha256: Digest(Sha256::digest(bytes).into()), size_bytes: bytes.len() as u64 };
        staging.begin(spec).expect("there is room")
    }

    #[test]
    fn chunks_are_hashed_in_order_however_they_are_looked_at() {
        let folder = tempfile::tempdir().expect("temp");
        let length = usize::try_from(CHUNK_BYTES).expect("small");
        let bytes: Vec<u8> = (0..2 * length + 7).map(|at| (at % 253) as u8).collect();
        let part = part(&folder, &bytes);
        for (index, chunk) in (0..).zip(bytes.chunks(length)) {
            part.write(index, chunk, chunk_hash(bytes.len() as u64, index, chunk)).expect("there is room");
        }
        let mut chaser = Chaser::new();
        assert!(chaser.take(&part, 2).expect("readable"), "it is sound, and not its turn");
        assert_eq!(chaser.next(), 0);
        for index in 0..3 {
            assert!(chaser.take(&part, index).expect("readable"));
        }
        assert!(!chaser.take(&part, 3).expect("there is none"));
        assert_eq!((chaser.next(), chaser.finish()), (3, part.spec().sha256));
    }

    #[test]
    fn nothing_hashes_to_the_digest_of_nothing() {
        let folder = tempfile::tempdir().expect("temp");
        let part = part(&folder, b"");
        part.seal(Chaser::new().finish()).expect("it is whole");
    }
}
