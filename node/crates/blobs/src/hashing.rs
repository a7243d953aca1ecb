//! Hashes a file that lies there, once, in steps that can be left at any time.
//!
//! One reading gives both names of a file: the SHA-256 under which a store keeps it, and the tree of BLAKE3 by which
//! nodes prove its chunks to each other. A step reads one chunk and tells the system that it need not keep it. A step
//! that failed has changed nothing and may be tried again. Whether the file is still the same is the caller's to ask
//! ([`crate::FileIdentity`]) before and after.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use ollamax_types::Digest;
use ollamax_types::chunk::{chunk_count, chunk_range};

use crate::fault::Fault;
use crate::staging::disk;
use crate::tree::{ChunkHash, Tree, chunk_hash};

/// A file that is being hashed.
pub struct Hashing {
    file: fs::File,
    size_bytes: u64,
    /// Chunks that were hashed.
    done: u32,
    sha256: Sha256,
    hashes: Vec<ChunkHash>,
    buffer: Vec<u8>,
}

/// Both names of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// Its SHA-256.
    pub sha256: Digest,
    /// Its tree of BLAKE3.
    pub tree: Tree,
}

/// How far a hashing is.
#[derive(Debug)]
pub enum Progress {
    /// There is more to read.
    More {
        /// Bytes that were hashed.
        done_bytes: u64,
    },
    /// It is done, and stays so.
    Done(Hashed),
}

// === impl Hashing ===

impl Hashing {
    /// Begins with the first `size_bytes` of a file, wherever its own position is. Reads nothing yet.
    #[must_use]
    pub fn new(file: fs::File, size_bytes: u64) -> Self {
        let sha256 = Sha256::new();
        Self { file, size_bytes, done: 0, sha256, hashes: Vec::new(), buffer: Vec::new() }
    }

    /// Reads and hashes one chunk; of an empty file none.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than was said.
    pub fn step(&mut self) -> Result<Progress, Fault> {
        let count = chunk_count(self.size_bytes);
        if self.done < count {
            self.take_chunk()?;
        }
        if self.done < count {
            return Ok(Progress::More { done_bytes: chunk_range(self.size_bytes, self.done).start });
        }
        let sha256 = Digest(self.sha256.clone().finalize().into());
        let tree = Tree::of(self.size_bytes, self.hashes.clone()).expect("each chunk left its hash");
        Ok(Progress::Done(Hashed { sha256, tree }))
    }

    fn take_chunk(&mut self) -> Result<(), Fault> {
        let range = chunk_range(self.size_bytes, self.done);
        self.buffer.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
        let read = self.file.read_exact_at(&mut self.buffer, range.start);
        read.map_err(|error| Fault::at("hash", &disk::path_of(&self.file))(error))?;
        self.hashes.push(chunk_hash(self.size_bytes, self.done, &self.buffer));
        self.sha256.update(&self.buffer);
        self.done += 1;
        disk::leave_cache(&self.file, &range);
        Ok(())
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hashing({} of {} chunks)", self.done, chunk_count(self.size_bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write as _};

    use ollamax_types::Root;
    use ollamax_types::chunk::CHUNK_BYTES;

    use super::*;

    fn file(bytes: &[u8]) -> fs::File {
        let mut file = tempfile::tempfile().expect("temp");
        file.write_all(bytes).expect("room");
        file
    }

    fn finish(hashing: &mut Hashing) -> (Vec<u64>, Hashed) {
        let mut told = Vec::new();
        loop {
            match hashing.step().expect("readable") {
                Progress::More { done_bytes } => told.push(done_bytes),
                Progress::Done(hashed) => return (told, hashed),
            }
        }
    }

    #[test]
    fn one_reading_gives_both_names_and_tells_how_far_it_is() {
        let bytes: Vec<u8> = (0..2 * CHUNK_BYTES + 5).map(|at| (at % 251) as u8).collect();
        let check = |size: u64, told: &[u64]| {
            let bytes = &bytes[..usize::try_from(size).expect("small")];
            let mut hashing = Hashing::new(file(bytes), size);
            let (found, hashed) = finish(&mut hashing);
            assert_eq!(found, told, "{size}");
            assert_eq!(hashed.sha256, Digest(Sha256::digest(bytes).into()), "{size}");
            assert_eq!(hashed.tree.root(), Root(*blake3::hash(bytes).as_bytes()), "{size}");
            assert_eq!(hashed.tree.size_bytes(), size);
            assert_eq!(finish(&mut hashing), (vec![], hashed), "done stays done");
        };
        check(0, &[]);
        check(1, &[]);
        check(CHUNK_BYTES, &[]);
        check(CHUNK_BYTES + 1, &[CHUNK_BYTES]);
        check(2 * CHUNK_BYTES + 5, &[CHUNK_BYTES, 2 * CHUNK_BYTES]);
    }

    #[test]
    fn a_file_that_is_too_short_is_a_fault_and_may_grow_and_be_tried_again() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("short");
        fs::write(&path, b"abc").expect("room");
        let mut hashing = Hashing::new(fs::File::open(&path).expect("it is there"), 5);
        let fault = hashing.step().expect_err("two bytes are missing");
        assert_eq!(fault.source.kind(), io::ErrorKind::UnexpectedEof);
        assert!(fault.path.ends_with("/short"), "{fault}");
        fs::write(&path, b"abcde").expect("room");
        assert_eq!(finish(&mut hashing).1.sha256, Digest(Sha256::digest(b"abcde").into()));
    }
}
