//! One file that is read to its end, piece by piece: hashed for the first time, or compared with its tree again.
//!
//! Always holds: what comes of it is told of the very file that was opened. Every so many pieces and at the end it is
//! looked whether that one still lies there; when not, nothing is told of it. What is sound is put on record, and what
//! is damaged is doubted, before it is told. Everything here blocks on the disk.

use ollamax_blobs::{
    BlobFile, BlobSpec, Fault, FileIdentity, Hashed, Hashing, Index, Indexed, Progress, Scrubbed, Scrubbing, Store,
    Tree,
};
use ollamax_types::{Digest, Root, Timestamp};

use super::trees::{Doubted, Trees};

/// Pieces of a file between two looks whether the same file still lies there.
const CHECK_CHUNKS: u32 = 64;
/// Most pieces that are told one by one.
const PIECES_TOLD_MAX: usize = 8;

/// A file that is being read.
pub(crate) struct Job {
    store: Store,
    spec: BlobSpec,
    identity: FileIdentity,
    work: Work,
    chunks: u32,
    done_bytes: u64,
}

/// What is done with its pieces.
enum Work {
    Hash(Hashing),
    Scrub(Scrubbing),
}

/// What came of one piece of a file.
pub(crate) enum Stepped {
    /// There is more of it.
    More(Box<Job>),
    /// It is what its name says.
    Sound(Root),
    /// It is this instead.
    Other(Digest),
    /// It was what its name says, and these pieces are not any more.
    Damaged(Vec<u32>),
    /// Another file lies there now, or none.
    Moved,
    /// It could not be read.
    Broken(Fault),
}

/// How far the work on one piece led.
enum Done {
    More(u64),
    Hashed(Hashed),
    Scrubbed(Vec<u32>),
}

// === impl Job ===

impl Job {
    /// Hashes a file. `None` when another file lies there now, or none.
    pub(crate) fn open(store: Store, spec: BlobSpec, identity: FileIdentity) -> Result<Option<Box<Self>>, Fault> {
        let file = store.blob(spec)?.filter(|file| file.identity == identity);
        Ok(file.map(|file| Self::hash(store, spec, file)))
    }

    /// Compares a file with its tree. `None` when another file lies there now than that which has the tree, or none.
    pub(crate) fn again(
        store: Store,
        index: &Index,
        spec: BlobSpec,
        identity: FileIdentity,
    ) -> Result<Option<Box<Self>>, Fault> {
        let Some(file) = store.blob(spec)?.filter(|file| file.identity == identity) else { return Ok(None) };
        let indexed = index.get(spec.sha256)?.filter(|indexed| indexed.identity == identity);
        Ok(indexed.map(|indexed| Self::scrub(store, spec, file, indexed.tree)))
    }

    /// One or the other, whatever lies there; `None` when nothing does.
    pub(crate) fn whatever(store: Store, index: &Index, spec: BlobSpec) -> Result<Option<Box<Self>>, Fault> {
        let Some(file) = store.blob(spec)? else { return Ok(None) };
        let indexed = index.get(spec.sha256)?.filter(|indexed| indexed.identity == file.identity);
        Ok(Some(match indexed {
            Some(indexed) => Self::scrub(store, spec, file, indexed.tree),
            None => Self::hash(store, spec, file),
        }))
    }

    fn hash(store: Store, spec: BlobSpec, file: BlobFile) -> Box<Self> {
        let (identity, work) = (file.identity, Work::Hash(Hashing::new(file.file, spec.size_bytes)));
        Box::new(Self { store, spec, identity, work, chunks: 0, done_bytes: 0 })
    }

    fn scrub(store: Store, spec: BlobSpec, file: BlobFile, tree: Tree) -> Box<Self> {
        let (identity, work) = (file.identity, Work::Scrub(Scrubbing::new(file.file, tree)));
        Box::new(Self { store, spec, identity, work, chunks: 0, done_bytes: 0 })
    }

    pub(crate) const fn spec(&self) -> BlobSpec {
        self.spec
    }

    pub(crate) const fn identity(&self) -> FileIdentity {
        self.identity
    }

    pub(crate) const fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Reads one piece.
    pub(crate) fn step(mut self: Box<Self>, index: &Index, trees: &Trees, now: Timestamp) -> Stepped {
        let done = match self.work.step() {
            Ok(done) => done,
            // What fails at a file that somebody cuts off or puts another in the place of is no fault of the disk.
            Err(fault) => return if self.is_there().unwrap_or(true) { Stepped::Broken(fault) } else { Stepped::Moved },
        };
        self.chunks += 1;
        if !matches!(done, Done::More(_)) || self.chunks.is_multiple_of(CHECK_CHUNKS) {
            match self.is_there() {
                Ok(true) => {}
                Ok(false) => return Stepped::Moved,
                Err(fault) => return Stepped::Broken(fault),
            }
        }
        match done {
            Done::More(done_bytes) => {
                self.done_bytes = done_bytes;
                Stepped::More(self)
            }
            Done::Hashed(hashed) => self.judge(hashed, index, now),
            Done::Scrubbed(damaged) => self.weigh(damaged, index, trees, now),
        }
    }

    fn is_there(&self) -> Result<bool, Fault> {
        Ok(self.store.blob(self.spec)?.is_some_and(|file| file.identity == self.identity))
    }

    /// What the bytes are, and puts on record what is sound.
    fn judge(&self, hashed: Hashed, index: &Index, now: Timestamp) -> Stepped {
        let sha256 = self.spec.sha256;
        if hashed.sha256 != sha256 {
            return Stepped::Other(hashed.sha256);
        }
        let root = hashed.tree.root();
        // What is not on record is hashed again after a restart.
        if let Err(error) = index.put(sha256, &Indexed { identity: self.identity, tree: hashed.tree }) {
            tracing::warn!(%error, %sha256, "keep the hash tree of a file");
        }
        note(index, sha256, now);
        Stepped::Sound(root)
    }

    /// What is to be thought of a file of which these pieces are damaged.
    fn weigh(&self, damaged: Vec<u32>, index: &Index, trees: &Trees, now: Timestamp) -> Stepped {
        let (sha256, Work::Scrub(scrubbing)) = (self.spec.sha256, &self.work) else { return Stepped::Moved };
        let tree = scrubbing.tree();
        if damaged.is_empty() {
            note(index, sha256, now);
            return Stepped::Sound(tree.root());
        }
        let what = format!("{} of it: other bytes than when it was hashed", told(&damaged));
        trees.doubt(sha256, Doubted { identity: self.identity, tree: Some(tree.clone()), what });
        Stepped::Damaged(damaged)
    }
}

// === impl Work ===

impl Work {
    fn step(&mut self) -> Result<Done, Fault> {
        Ok(match self {
            Self::Hash(hashing) => match hashing.step()? {
                Progress::More { done_bytes } => Done::More(done_bytes),
                Progress::Done(hashed) => Done::Hashed(hashed),
            },
            Self::Scrub(scrubbing) => match scrubbing.step()? {
                Scrubbed::More { done_bytes } => Done::More(done_bytes),
                Scrubbed::Done { damaged } => Done::Scrubbed(damaged),
            },
        })
    }
}

/// A file that is not noted is read again sooner than it need be.
fn note(index: &Index, sha256: Digest, now: Timestamp) {
    if let Err(error) = index.note_checked(sha256, now) {
        tracing::debug!(%error, %sha256, "note when a file was read");
    }
}

/// Pieces of a file in words: `pieces 3, 17`.
fn told(pieces: &[u32]) -> String {
    let listed: Vec<String> = pieces.iter().take(PIECES_TOLD_MAX).map(u32::to_string).collect();
    let (word, listed) = (if pieces.len() == 1 { "piece" } else { "pieces" }, listed.join(", "));
    match pieces.len().saturating_sub(PIECES_TOLD_MAX) {
        0 => format!("{word} {listed}"),
        more => format!("{word} {listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_damaged_pieces_are_told_in_one_line() {
        let check = |count: u32, expected: &str| {
            let pieces: Vec<u32> = (0..count).collect();
            assert_eq!(told(&pieces), expected);
        };
        check(1, "piece 0");
        check(2, "pieces 0, 1");
        check(8, "pieces 0, 1, 2, 3, 4, 5, 6, 7");
        check(10, "pieces 0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
