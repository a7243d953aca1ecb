//! The hashes of a file that is on its way into the cluster, as the node says that brings it.
//!
//! While no root of a file is on record, the word of that one node says which hash a chunk must have; chunks may come
//! from anybody. It is no proof: the file's own digest decides in the end, at each node for itself. Always holds: a
//! chunk of which no hash was told is not known, and what was told once is not forgotten, so that a lost connection
//! costs nothing. Whoever tells two hashes for one chunk without having been away lies. Clones are the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_blobs::{BlobSpec, ChunkHash, Tree};
use ollamax_core::transfer_plan::Extent;
use ollamax_types::{Bits, Root, chunk_count};

/// What says which hash a chunk must have.
#[derive(Clone)]
pub(crate) enum Proof {
    /// The tree that the root on record proves.
    Tree(Tree),
    /// The word of the node that brings the file.
    Told(Told),
}

/// What was told until now.
#[derive(Clone)]
pub(crate) struct Told(Arc<Mutex<Known>>);

struct Known {
    hashes: Vec<ChunkHash>,
    /// Of which chunks a hash was told.
    bits: Bits,
    /// Of which since the node was heard anew.
    fresh: Bits,
}

/// Two hashes were told for this chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) index: u32,
}

// === impl Proof ===

impl Proof {
    /// The hash that a chunk must have; `None` while nobody knows.
    pub(crate) fn hash_of(&self, index: u32) -> Option<ChunkHash> {
        match self {
            Self::Tree(tree) => tree.hashes().get(index as usize).copied(),
            Self::Told(told) => told.hash_of(index),
        }
    }

    /// Whether it is the tree that this root on record proves.
    pub(crate) fn is_proved_by(&self, root: Root) -> bool {
        matches!(self, Self::Tree(tree) if tree.root() == root)
    }

    /// Of these chunks those whose hash is known.
    pub(crate) fn known_of(&self, extent: Extent) -> Vec<u32> {
        match self {
            Self::Tree(tree) => extent.chunks().filter(|index| (*index as usize) < tree.hashes().len()).collect(),
            Self::Told(told) => {
                let known = told.lock();
                extent.chunks().filter(|index| known.bits.get(*index)).collect()
            }
        }
    }

    /// What was told, where it is no more than that.
    pub(crate) const fn told(&self) -> Option<&Told> {
        match self {
            Self::Tree(_) => None,
            Self::Told(told) => Some(told),
        }
    }
}

// === impl Told ===

impl Told {
    /// Nothing yet.
    pub(crate) fn new(blob: BlobSpec) -> Self {
        let count = chunk_count(blob.size_bytes);
        let hashes = vec![ChunkHash::default(); count as usize];
        Self(Arc::new(Mutex::new(Known { hashes, bits: Bits::new(count), fresh: Bits::new(count) })))
    }

    /// The node was away, or has something new to say of what it said: its next word counts.
    pub(crate) fn hear_anew(&self) {
        let mut known = self.lock();
        known.fresh = Bits::new(known.bits.len());
    }

    /// Takes in the hashes of chunks, one for each. The chunks of which another or no hash was known before.
    pub(crate) fn learn(&self, extent: Extent, hashes: &[ChunkHash]) -> Result<Vec<u32>, Contradiction> {
        let (mut known, mut new) = (self.lock(), Vec::new());
        let Known { hashes: all, bits, fresh } = &mut *known;
        for (index, hash) in extent.chunks().zip(hashes) {
            let Some(place) = all.get_mut(index as usize) else { continue };
            let is_other = *place != *hash;
            if is_other && fresh.get(index) {
                return Err(Contradiction { index });
            }
            *place = *hash;
            fresh.set(index);
            if bits.set(index) || is_other {
                new.push(index);
            }
        }
        Ok(new)
    }

    /// Whether nothing was told.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().bits.ones() == 0
    }

    /// Whether the hash of each chunk was told.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().bits.is_full()
    }

    fn hash_of(&self, index: u32) -> Option<ChunkHash> {
        let known = self.lock();
        known.bits.get(index).then(|| known.hashes[index as usize])
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::{CHUNK_BYTES, Digest};

    use super::*;

    /// Of a file of four chunks.
    fn told() -> Told {
        Told::new(BlobSpec { sha256: Digest([1; 32]), size_bytes: 3 * CHUNK_BYTES + 1 })
    }

    fn learn(told: &Told, first: u32, bytes: &[u8]) -> Result<Vec<u32>, Contradiction> {
        let count = u32::try_from(bytes.len()).expect("few");
        let hashes: Vec<ChunkHash> = bytes.iter().map(|byte| [*byte; 32]).collect();
        told.learn(Extent { first, count }, &hashes)
    }

    #[test]
    fn only_what_was_told_is_known() {
        let told = told();
        let proof = Proof::Told(told.clone());
        assert!(told.is_empty() && !told.is_full());
        assert_eq!(learn(&told, 1, &[7, 8]), Ok(vec![1, 2]));
        let known: Vec<Option<ChunkHash>> = (0..5).map(|index| proof.hash_of(index)).collect();
        assert_eq!(known, [None, Some([7; 32]), Some([8; 32]), None, None]);
        assert_eq!(proof.known_of(Extent { first: 0, count: 4 }), [1, 2]);
        assert_eq!(learn(&told, 2, &[8, 9, 9]), Ok(vec![3]), "the file has no fifth chunk");
        assert_eq!(learn(&told, 0, &[6]), Ok(vec![0]));
        assert!(told.is_full());
    }

    #[test]
    fn who_was_away_may_say_something_else_and_nobody_else_may() {
        let told = told();
        learn(&told, 0, &[1, 2]).expect("it is new");
        assert_eq!(learn(&told, 0, &[1, 3]), Err(Contradiction { index: 1 }));
        told.hear_anew();
        assert_eq!(Proof::Told(told.clone()).hash_of(1), Some([2; 32]), "it is not forgotten");
        assert_eq!(learn(&told, 0, &[1, 3]), Ok(vec![1]));
        assert_eq!(learn(&told, 1, &[2]), Err(Contradiction { index: 1 }));
    }

    #[test]
    fn a_tree_knows_all_chunks_of_its_file_and_no_others() {
        let tree = Tree::of(CHUNK_BYTES + 1, vec![[1; 32], [2; 32]]).expect("two hashes");
        let proof = Proof::Tree(tree);
        assert_eq!([proof.hash_of(1), proof.hash_of(2)], [Some([2; 32]), None]);
        assert_eq!(proof.known_of(Extent { first: 1, count: 5 }), [1]);
        assert!(proof.told().is_none());
    }
}
