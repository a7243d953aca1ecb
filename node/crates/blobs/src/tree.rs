//! The hash tree of a file: one value per chunk, which together prove each other against the file's plain BLAKE3.
//!
//! A chunk is an aligned subtree of BLAKE3's own tree, so merging the values of all chunks gives what any tool computes
//! of the whole file. Whoever has the root on record therefore needs to trust nobody for the values: a list that makes
//! another root is refused as a whole, and a list that makes this one says of each chunk whether it is right.

use std::fmt;
use std::sync::Arc;

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use ollamax_types::Root;
use ollamax_types::chunk::{chunk_count, chunk_range};

/// What a chunk must hash to.
pub type ChunkHash = [u8; 32];

/// Hash of chunk `index` of a file of `size_bytes`. A file of one chunk: its BLAKE3; else the value of the aligned
/// subtree.
///
/// # Panics
/// When `bytes` is not the whole chunk (`chunk_range`): a defect of the caller. A chunk is never empty.
#[must_use]
pub fn chunk_hash(size_bytes: u64, index: u32, bytes: &[u8]) -> ChunkHash {
    let range = chunk_range(size_bytes, index);
    let is_whole = !bytes.is_empty() && bytes.len() as u64 == range.end - range.start;
    assert!(is_whole, "chunk {index} of {size_bytes} bytes is {range:?}, not {} bytes", bytes.len());
    if chunk_count(size_bytes) == 1 { *blake3::hash(bytes).as_bytes() } else { subtree(range.start, bytes) }
}

/// The hashes of all chunks of one file, and the root that they make. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    size_bytes: u64,
    hashes: Arc<[ChunkHash]>,
    root: Root,
}

/// Hashes that are no tree of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There are too few or too many.
    #[error("a file of {size_bytes} bytes has {wanted} chunks, not {found}")]
    Length {
        /// Size of the file.
        size_bytes: u64,
        /// Chunks of such a file.
        wanted: u32,
        /// Hashes that were given.
        found: usize,
    },
    /// They are not those of the file with this root.
    #[error("the hashes make {found}, not {wanted}")]
    Root {
        /// The root on record.
        wanted: Root,
        /// What they make.
        found: Root,
    },
}

// === impl Tree ===

impl Tree {
    /// The tree of hashes that this node made itself.
    ///
    /// # Errors
    /// When there is not one hash for each chunk.
    pub fn of(size_bytes: u64, hashes: Vec<ChunkHash>) -> Result<Self, TreeError> {
        let wanted = chunk_count(size_bytes);
        if hashes.len() != wanted as usize {
            return Err(TreeError::Length { size_bytes, wanted, found: hashes.len() });
        }
        let root = merge_root(&hashes);
        Ok(Self { size_bytes, hashes: hashes.into(), root })
    }

    /// The tree of hashes that somebody else gave.
    ///
    /// # Errors
    /// When there is not one hash for each chunk, or when they do not make the root.
    pub fn proved(size_bytes: u64, root: Root, hashes: Vec<ChunkHash>) -> Result<Self, TreeError> {
        let tree = Self::of(size_bytes, hashes)?;
        if tree.root == root { Ok(tree) } else { Err(TreeError::Root { wanted: root, found: tree.root }) }
    }

    /// Size of the file.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The BLAKE3 of the file.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    /// The hash of each chunk, in order.
    #[must_use]
    pub fn hashes(&self) -> &[ChunkHash] {
        &self.hashes
    }

    /// Whether these bytes are chunk `index` of the file: right length and hash.
    #[must_use]
    pub fn holds(&self, index: u32, bytes: &[u8]) -> bool {
        let range = chunk_range(self.size_bytes, index);
        let wanted = self.hashes.get(index as usize).filter(|_| bytes.len() as u64 == range.end - range.start);
        wanted.is_some_and(|wanted| chunk_hash(self.size_bytes, index, bytes) == *wanted)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tree({} bytes, {} chunks, {:?})", self.size_bytes, self.hashes.len(), self.root)
    }
}

/// The value of the subtree that these bytes are, from `offset` on, of a file that has more.
fn subtree(offset: u64, bytes: &[u8]) -> ChunkHash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The BLAKE3 of the file whose pieces of equal length (a power of two, the last may be shorter) have these hashes.
fn merge_root(hashes: &[ChunkHash]) -> Root {
    let root = match hashes {
        [] => *blake3::hash(&[]).as_bytes(),
        [only] => *only,
        many => {
            let (left, right) = split(many);
            *merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
        }
    };
    Root(root)
}

/// The value of the subtree over these hashes, of which there is at least one. As deep as the number of its bits.
fn merge(hashes: &[ChunkHash]) -> ChunkHash {
    if let [only] = hashes {
        return *only;
    }
    let (left, right) = split(hashes);
    merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

/// Where BLAKE3 parts more than one piece: to the left the largest power of two that leaves something to the right.
fn split(hashes: &[ChunkHash]) -> (&[ChunkHash], &[ChunkHash]) {
    hashes.split_at(hashes.len().div_ceil(2).next_power_of_two())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use ollamax_types::chunk::CHUNK_BYTES;

    use super::*;

    /// BLAKE3's own piece, the shortest aligned subtree.
    const PIECE_BYTES: usize = 1 << 10;

    /// Bytes without a pattern that repeats within a chunk.
    fn filled(bytes: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut filled = Vec::with_capacity(bytes + 8);
        while filled.len() < bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            filled.extend_from_slice(&state.to_le_bytes());
        }
        filled.truncate(bytes);
        filled
    }

    /// Hashes the chunks of a file from the last to the first, as they might arrive.
    fn hashes(file: &[u8]) -> Vec<ChunkHash> {
        let size = file.len() as u64;
        let mut hashes = vec![[0; 32]; chunk_count(size) as usize];
        for index in (0..chunk_count(size)).rev() {
            let range = chunk_range(size, index);
            let bytes = &file[usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")];
            hashes[index as usize] = chunk_hash(size, index, bytes);
        }
        hashes
    }

    #[test]
    fn the_root_is_the_plain_blake3_of_the_file() {
        let chunk = usize::try_from(CHUNK_BYTES).expect("small");
        let bytes = filled(7 * chunk);
        let sizes = [
            0,
            1,
            1_023,
            1_024,
            1_025,
            chunk - 1,
            chunk,
            chunk + 1,
            2 * chunk - 1,
            2 * chunk,
            2 * chunk + 1,
            3 * chunk,
            3 * chunk + 5,
            4 * chunk + 1,
            5 * chunk,
            7 * chunk,
        ];
        for size in sizes {
            let file = &bytes[..size];
            let wanted = Root(*blake3::hash(file).as_bytes());
            let tree = Tree::of(size as u64, hashes(file)).expect("a hash for each chunk");
            assert_eq!(tree.root(), wanted, "{size}");
            let proved = Tree::proved(size as u64, wanted, tree.hashes().to_vec());
            assert_eq!(proved, Ok(tree), "{size}");
        }
    }

    proptest! {
        #[test]
        fn many_pieces_merge_to_the_plain_blake3(bytes in 0_usize..200_000) {
            let file = filled(bytes);
            let pieces = file.chunks(PIECE_BYTES).zip(0_u64..);
            let hashes: Vec<ChunkHash> = if bytes <= PIECE_BYTES {
                pieces.map(|(piece, _)| *blake3::hash(piece).as_bytes()).collect()
            } else {
                pieces.map(|(piece, index)| subtree(index * PIECE_BYTES as u64, piece)).collect()
            };
            prop_assert_eq!(merge_root(&hashes), Root(*blake3::hash(&file).as_bytes()));
        }
    }

    #[test]
    fn each_number_of_pieces_is_parted_as_blake3_parts_it() {
        let wanted = [(2, 1), (3, 2), (4, 2), (5, 4), (7, 4), (8, 4), (9, 8), (16, 8), (17, 16)];
        for (pieces, left) in wanted {
            assert_eq!(split(&vec![[0; 32]; pieces]).0.len(), left, "{pieces}");
        }
    }

    #[test]
    fn a_changed_hash_or_length_does_not_prove_the_root() {
        let size = 2 * CHUNK_BYTES + 7;
        let file = filled(usize::try_from(size).expect("small"));
        let sound = hashes(&file);
        let root = Tree::of(size, sound.clone()).expect("three hashes").root();
        for at in 0..sound.len() {
            let mut changed = sound.clone();
            changed[at][31] ^= 1;
            let refused = Tree::proved(size, root, changed).expect_err("another file");
            assert!(matches!(refused, TreeError::Root { wanted, .. } if wanted == root), "{at}");
        }
        let swapped = vec![sound[1], sound[0], sound[2]];
        assert!(matches!(Tree::proved(size, root, swapped), Err(TreeError::Root { .. })));
        let short = Tree::proved(size, root, sound[..2].to_vec());
        assert_eq!(short, Err(TreeError::Length { size_bytes: size, wanted: 3, found: 2 }));
        assert!(matches!(Tree::of(0, sound), Err(TreeError::Length { wanted: 0, found: 3, .. })));
    }

    #[test]
    fn a_chunk_is_held_only_at_its_place_and_as_a_whole() {
        let size = CHUNK_BYTES + 9;
        let file = filled(usize::try_from(size).expect("small"));
        let tree = Tree::of(size, hashes(&file)).expect("two hashes");
        let (first, last) = file.split_at(file.len() - 9);
        assert!(tree.holds(0, first) && tree.holds(1, last));
        assert!(!tree.holds(0, last) && !tree.holds(1, first), "another place");
        assert!(!tree.holds(1, &last[1..]) && !tree.holds(1, &[]), "cut");
        assert!(!tree.holds(2, &[]) && !tree.holds(u32::MAX, last), "beyond the end");
        let mut flipped = last.to_vec();
        flipped[4] ^= 0x10;
        assert!(!tree.holds(1, &flipped), "one bit");
    }

    #[test]
    #[should_panic(expected = "chunk 0 of 5 bytes is 0..5, not 0 bytes")]
    fn an_empty_chunk_is_a_defect() {
        let _ = chunk_hash(5, 0, &[]);
    }
}
