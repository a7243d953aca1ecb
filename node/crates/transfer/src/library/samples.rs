//! A library over real files, for tests: one file that is on its way, published, or damaged.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::watch;

use ollamax_blobs::{BlobSpec, ChunkHash, Indexed, Part, Staging, Store, Tree, chunk_hash};
use ollamax_types::{CHUNK_BYTES, Digest, chunk_count, chunk_range};

use crate::adopt::{Adopted, Trees};

use super::Library;

/// A node's disk, and the file that matters.
pub(crate) struct Disk {
    pub(crate) library: Library,
    pub(crate) spec: BlobSpec,
    pub(crate) bytes: Vec<u8>,
    pub(crate) trees: Trees,
    pub(crate) store: Store,
    staging: Staging,
    adopted: watch::Sender<Arc<Adopted>>,
    _folder: TempDir,
}

/// Bytes that another seed makes others.
pub(crate) fn bytes(seed: u64, length: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    for place in bytes.chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
    }
    bytes
}

// === impl Disk ===

impl Disk {
    /// Nothing is there yet of a file of so many chunks, the last of which is short.
    pub(crate) fn new(seed: u64, chunks: u64) -> Self {
        Self::of(bytes(seed, (chunks - 1) * CHUNK_BYTES + 5))
    }

    /// Nothing is there yet of this file.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let folder = tempfile::tempdir().expect("temp");
        let models = folder.path().join("models");
        fs::create_dir_all(models.join("blobs")).expect("a folder");
        let store = Store::open(&models).expect("a folder");
        let staging = Staging::open(&folder.path().join("staging"), None).expect("ours");
        let trees = Trees::new(folder.path().join("trees"));
        let adopted = Adopted { store: Some(store.root().to_owned()), ..Adopted::default() };
        let (sender, receiver) = watch::channel(Arc::new(adopted));
        let library = Library::new(trees.clone(), receiver);
        let spec = BlobSpec { sha256: Digest(Sha256::digest(&bytes).into()), size_bytes: bytes.len() as u64 };
        Self { library, spec, bytes, trees, store, staging, adopted: sender, _folder: folder }
    }

    pub(crate) fn chunks(&self) -> u32 {
        chunk_count(self.spec.size_bytes)
    }

    pub(crate) fn chunk(&self, index: u32) -> &[u8] {
        let range = chunk_range(self.spec.size_bytes, index);
        let place = |at: u64| usize::try_from(at).expect("small");
        &self.bytes[place(range.start)..place(range.end)]
    }

    pub(crate) fn tree(&self) -> Tree {
        let hash = |index: u32| chunk_hash(self.spec.size_bytes, index, self.chunk(index));
        let hashes: Vec<ChunkHash> = (0..self.chunks()).map(hash).collect();
        Tree::of(self.spec.size_bytes, hashes).expect("a hash for each chunk")
    }

    /// The file on its way.
    pub(crate) fn part(&self) -> Part {
        self.staging.begin(self.spec).expect("there is room")
    }

    /// The part goes; whoever holds it keeps bytes without a name.
    pub(crate) fn forget(&self) {
        self.staging.forget(self.spec.sha256).expect("ours");
    }

    /// Where the bytes of the part lie.
    pub(crate) fn data_path(&self) -> PathBuf {
        self.staging.root().join(format!("parts/sha256-{}.part", self.spec.sha256))
    }

    /// Lets a chunk arrive.
    pub(crate) fn write(&self, part: &Part, index: u32) {
        let chunk = self.chunk(index);
        part.write(index, chunk, chunk_hash(self.spec.size_bytes, index, chunk)).expect("there is room");
    }

    /// The whole file lies in the store, and its tree is on record.
    pub(crate) fn publish(&self) {
        self.publish_as(&self.bytes);
    }

    /// A file with these bytes lies in the store, and the tree that the right one has is on record for it.
    pub(crate) fn publish_as(&self, bytes: &[u8]) {
        let path = self.store.blob_path(self.spec.sha256);
        let new = path.with_extension("new");
        fs::write(&new, bytes).expect("there is room");
        fs::rename(&new, &path).expect("ours");
        self.index();
    }

    /// Puts the tree on record for what lies in the store.
    pub(crate) fn index(&self) {
        let file = self.store.blob(self.spec).expect("readable").expect("it is there");
        let indexed = Indexed { identity: file.identity, tree: self.tree() };
        self.trees.open().expect("ours").put(self.spec.sha256, &indexed).expect("there is room");
    }

    /// Adoption looks through the store.
    pub(crate) fn look(&self) {
        let models = Arc::new(self.store.scan().expect("readable").models);
        self.adopted.send_modify(|adopted| *adopted = Arc::new(Adopted { models, ..Adopted::clone(adopted) }));
    }
}
