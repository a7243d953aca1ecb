//! A file and its tree, compared piece by piece, from the disk.
//!
//! A step reads one chunk and compares it with its hash. What memory has of the chunk is put away first, so that the
//! disk is asked, and afterwards, so that nothing is pushed out that others read. A chunk that the disk does not give
//! because the place is gone is damaged like one that is another: it is no fault of the reading. Any other fault is,
//! and the step may be tried again. Whether the file is still the one that was hashed is the caller's to ask.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;

use ollamax_types::chunk::{chunk_count, chunk_range};

use crate::fault::Fault;
use crate::staging::disk;
use crate::tree::Tree;

/// A file that is read again.
pub struct Scrubbing {
    file: fs::File,
    tree: Tree,
    /// Chunks that were looked at.
    done: u32,
    damaged: Vec<u32>,
    buffer: Vec<u8>,
}

/// How far that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// There is more to read.
    More {
        /// Bytes that were looked at.
        done_bytes: u64,
    },
    /// It is done, and stays so.
    Done {
        /// The chunks that are not what they were, in order.
        damaged: Vec<u32>,
    },
}

// === impl Scrubbing ===

impl Scrubbing {
    /// Begins with the first chunk of a file that had this tree. Reads nothing yet.
    #[must_use]
    pub fn new(file: fs::File, tree: Tree) -> Self {
        Self { file, tree, done: 0, damaged: Vec::new(), buffer: Vec::new() }
    }

    /// The tree with which the file is compared.
    #[must_use]
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Looks at one chunk; of an empty file at none.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter.
    pub fn step(&mut self) -> Result<Scrubbed, Fault> {
        let size_bytes = self.tree.size_bytes();
        let count = chunk_count(size_bytes);
        if self.done < count {
            let range = chunk_range(size_bytes, self.done);
            self.look_at(&range)?;
            self.done += 1;
        }
        if self.done < count {
            return Ok(Scrubbed::More { done_bytes: chunk_range(size_bytes, self.done).start });
        }
        Ok(Scrubbed::Done { damaged: self.damaged.clone() })
    }

    fn look_at(&mut self, range: &Range<u64>) -> Result<(), Fault> {
        self.buffer.resize(usize::try_from(range.end - range.start).expect("a chunk fits into memory"), 0);
        disk::leave_cache(&self.file, range);
        let is_sound = match self.file.read_exact_at(&mut self.buffer, range.start) {
            Ok(()) => self.tree.holds(self.done, &self.buffer),
            Err(error) if is_damage(&error) => false,
            Err(error) => return Err(Fault::at("read again", &disk::path_of(&self.file))(error)),
        };
        disk::leave_cache(&self.file, range);
        if !is_sound {
            self.damaged.push(self.done);
        }
        Ok(())
    }
}

impl fmt::Debug for Scrubbing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scrubbing({} of {} chunks)", self.done, chunk_count(self.tree.size_bytes()))
    }
}

/// Whether the disk says that it has lost a place, or that what lies there does not fit its own checksum.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    [Errno::EIO, Errno::EBADMSG].into_iter().any(|errno| disk::is(error, errno))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tempfile::NamedTempFile;

    use ollamax_types::chunk::CHUNK_BYTES;

    use crate::staging::samples::Sample;

    use super::*;

    const SIZE: u64 = 2 * CHUNK_BYTES + 5;

    fn tree(sample: &Sample) -> Tree {
        let hashes = (0..sample.chunks()).map(|index| sample.hash(index)).collect();
        Tree::of(sample.spec.size_bytes, hashes).expect("a hash for each chunk")
    }

    fn file(bytes: &[u8]) -> NamedTempFile {
        let file = NamedTempFile::new().expect("temp");
        fs::write(file.path(), bytes).expect("room");
        file
    }

    fn scrubbing(file: &NamedTempFile, tree: &Tree) -> Scrubbing {
        Scrubbing::new(fs::File::open(file.path()).expect("it is there"), tree.clone())
    }

    /// How far it was told to be, and what was found.
    fn finish(scrubbing: &mut Scrubbing) -> (Vec<u64>, Vec<u32>) {
        let mut told = Vec::new();
        loop {
            match scrubbing.step().expect("readable") {
                Scrubbed::More { done_bytes } => told.push(done_bytes),
                Scrubbed::Done { damaged } => return (told, damaged),
            }
        }
    }

    #[test]
    fn exactly_the_chunks_are_found_in_which_a_bit_is_another() {
        let sample = Sample::new(7, SIZE);
        let tree = tree(&sample);
        let place = |at: u64| usize::try_from(at).expect("small");
        let check = |flipped: &[u64], expected: &[u32]| {
            let mut bytes = sample.bytes.clone();
            flipped.iter().for_each(|at| bytes[place(*at)] ^= 1);
            let file = file(&bytes);
            let mut scrubbing = scrubbing(&file, &tree);
            let (told, damaged) = finish(&mut scrubbing);
            assert_eq!((told.as_slice(), damaged.as_slice()), (&[CHUNK_BYTES, 2 * CHUNK_BYTES][..], expected));
            assert_eq!(finish(&mut scrubbing), (vec![], damaged), "done stays done");
        };
        check(&[], &[]);
        check(&[0], &[0]);
        check(&[CHUNK_BYTES - 1, CHUNK_BYTES], &[0, 1]);
        check(&[SIZE - 1], &[2]);
    }

    #[test]
    fn a_hole_in_a_file_is_damage_and_an_empty_file_has_none() {
        let sample = Sample::new(8, SIZE);
        let mut bytes = sample.bytes.clone();
        bytes[..usize::try_from(CHUNK_BYTES).expect("small")].fill(0);
        let holed = file(&bytes);
        assert_eq!(finish(&mut scrubbing(&holed, &tree(&sample))).1, [0]);
        let (empty, nothing) = (file(b""), Sample::new(8, 0));
        assert_eq!(finish(&mut scrubbing(&empty, &tree(&nothing))), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_became_shorter_is_a_fault_and_no_damage() {
        let sample = Sample::new(9, SIZE);
        let short = file(&sample.bytes[..10]);
        let fault = scrubbing(&short, &tree(&sample)).step().expect_err("most of it is missing");
        assert_eq!(fault.source.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_a_disk_lost_is_told_from_what_it_does_not_do() {
        let check = |errno: Errno, expected| assert_eq!(is_damage(&errno.into()), expected, "{errno}");
        check(Errno::EIO, true);
        check(Errno::EBADMSG, true);
        check(Errno::ESTALE, false);
        check(Errno::EACCES, false);
        assert!(!is_damage(&ErrorKind::UnexpectedEof.into()));
    }
}
