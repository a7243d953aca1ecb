//! What this node can hand out: chunks of parts and of published files, each with the hash that it must have.
//!
//! A part is offered for as long as somebody holds its [`Offered`]: those of its chunks that have a hash on record. A
//! published file is offered when its tree is on record for the very file that lies there. Always holds: no chunk
//! leaves that does not hash to what is on record. A published file that is damaged becomes suspect and is not offered
//! any more; one that was replaced is not offered before it is hashed again. Files of kept versions are offered
//! like published ones. Whatever fails here fails one chunk for one asker, who gets it elsewhere. Everything blocks on
//! the disk but for offering, showing and learning.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use ollamax_blobs::keep::blob_at;
use ollamax_blobs::{
    BlobFile, BlobSpec, ChunkHash, Fault, Indexed, Manifest, Part, PartError, Store, Tree, chunk_hash,
};
use ollamax_core::transfer_plan::Extent;
use ollamax_types::{Bits, Digest, chunk_count};

use crate::adopt::trees::Doubted;
use crate::adopt::{Adopted, Trees};

/// Most trees of published files that are kept in memory; when there are more, all are read again.
const TREES_MAX: usize = 256;
/// Most manifests that are kept beside those of the store.
const MANIFESTS_MAX: usize = 256;

/// What this node can hand out. Clones are the same.
#[derive(Clone)]
pub(crate) struct Library(Arc<Inner>);

struct Inner {
    trees: Trees,
    adopted: watch::Receiver<Arc<Adopted>>,
    shelves: Mutex<Shelves>,
    /// Something is there that was not there before, or is not any more.
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Shelves {
    /// The parts that are offered.
    parts: BTreeMap<Digest, Growing>,
    /// The trees of files that were looked at.
    published: BTreeMap<Digest, Indexed>,
    /// The latest last.
    manifests: VecDeque<(Digest, Bytes)>,
    /// The files of versions that are kept, with their trees as soon as somebody wanted them.
    kept: BTreeMap<Digest, (KeptFile, Option<Indexed>)>,
    /// Their manifests.
    kept_manifests: BTreeMap<Digest, Bytes>,
    /// The store that was opened last.
    store: Option<Store>,
}

/// A file of a version that is kept.
#[derive(Debug, Clone)]
pub(crate) struct KeptFile {
    /// Where it lies.
    pub(crate) path: PathBuf,
    pub(crate) blob: BlobSpec,
    /// Where its tree is.
    pub(crate) trees: Trees,
}

/// A file of which all is here.
struct Whole {
    tree: Tree,
    file: BlobFile,
    /// It is not in the store.
    kept: Option<KeptFile>,
}

/// A file on its way.
struct Growing {
    /// The latest.
    part: Part,
    /// How often one of it is offered.
    times: usize,
    /// How often by whoever brings the file into the cluster.
    firsts: usize,
}

/// What is here of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) size_bytes: u64,
    /// Which of its chunks.
    pub(crate) bits: Bits,
    /// This node brings it into the cluster just now: what it says of hashes counts.
    pub(crate) is_first: bool,
}

/// A part is offered for as long as this is held.
pub(crate) struct Offered {
    library: Library,
    sha256: Digest,
    is_first: bool,
}

/// Why a chunk is not handed out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryError {
    /// It is not here.
    #[error("it is not there")]
    Absent,
    /// Its bytes are not what they were.
    #[error("chunk {index} is damaged")]
    Damaged {
        /// Which chunk.
        index: u32,
    },
    /// Another file lies there.
    #[error("the file was changed since it was hashed")]
    Changed,
    /// The disk does not give it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

// === impl Library ===

impl Library {
    /// Of the files of the store that `adopted` tells of, and of those that are offered.
    pub(crate) fn new(trees: Trees, adopted: watch::Receiver<Arc<Adopted>>) -> Self {
        let (shelves, changes) = (Mutex::default(), watch::Sender::new(()));
        Self(Arc::new(Inner { trees, adopted, shelves, changes }))
    }

    /// Offers what is there of a file on its way, and what comes.
    #[must_use]
    pub(crate) fn offer(&self, part: Part) -> Offered {
        self.put(part, false)
    }

    /// The same, where this node brings the file into the cluster: what it says of hashes counts.
    #[must_use]
    pub(crate) fn offer_first(&self, part: Part) -> Offered {
        self.put(part, true)
    }

    fn put(&self, part: Part, is_first: bool) -> Offered {
        let (sha256, mut shelves) = (part.spec().sha256, self.lock());
        let new = || Growing { part: part.clone(), times: 0, firsts: 0 };
        let growing = shelves.parts.entry(sha256).or_insert_with(new);
        growing.times += 1;
        growing.firsts += usize::from(is_first);
        // The file may have been begun anew since it was offered first.
        let before = std::mem::replace(&mut growing.part, part);
        drop(shelves);
        drop(before);
        self.stir();
        Offered { library: self.clone(), sha256, is_first }
    }

    /// Chunks of a part came or went.
    pub(crate) fn stir(&self) {
        self.0.changes.send_replace(());
    }

    /// Follows whether there is anything else than before.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// The trees of files of the store.
    pub(crate) fn trees(&self) -> Trees {
        self.0.trees.clone()
    }

    /// Follows what lies in the store.
    pub(crate) fn adopted(&self) -> watch::Receiver<Arc<Adopted>> {
        self.0.adopted.clone()
    }

    /// A manifest may be given to whoever asks for it.
    pub(crate) fn learn(&self, manifest: &Manifest) {
        let (digest, mut shelves) = (manifest.digest(), self.lock());
        if shelves.manifests.iter().any(|(known, _)| *known == digest) {
            return;
        }
        if shelves.manifests.len() >= MANIFESTS_MAX {
            shelves.manifests.pop_front();
        }
        shelves.manifests.push_back((digest, Bytes::copy_from_slice(manifest.bytes())));
    }

    /// What is kept from now on.
    pub(crate) fn show_kept(&self, files: BTreeMap<Digest, KeptFile>, manifests: BTreeMap<Digest, Bytes>) {
        let mut shelves = self.lock();
        let before = std::mem::take(&mut shelves.kept);
        let is_same = before.keys().eq(files.keys());
        let with_tree = |(sha256, file): (Digest, KeptFile)| {
            let known = before.get(&sha256).filter(|(known, _)| known.path == file.path);
            let indexed = known.and_then(|(_, indexed)| indexed.clone());
            (sha256, (file, indexed))
        };
        shelves.kept = files.into_iter().map(with_tree).collect();
        shelves.kept_manifests = manifests;
        drop(shelves);
        if !is_same {
            self.stir();
        }
    }

    /// What can be had here of a file, and whether it is on its way into the cluster.
    pub(crate) fn held(&self, sha256: Digest) -> Option<Held> {
        let (growing, tree) = self.look(sha256, || {});
        if let Some(tree) = tree {
            let (size_bytes, bits) = (tree.size_bytes(), Bits::full(chunk_count(tree.size_bytes())));
            return Some(Held { size_bytes, bits, is_first: false });
        }
        let (part, is_first) = growing?;
        Some(Held { size_bytes: part.spec().size_bytes, bits: part.have(), is_first })
    }

    /// What is on its way of a file, and whether it is so into the cluster; and the tree of what is published or kept.
    /// In this order: a pull withdraws what it offers when all of it can be had from the store, so whoever does not
    /// find the one finds the other. `between` is done between the two looks.
    fn look(&self, sha256: Digest, between: impl FnOnce()) -> (Option<(Part, bool)>, Option<Tree>) {
        let growing = {
            let shelves = self.lock();
            shelves.parts.get(&sha256).map(|growing| (growing.part.clone(), growing.firsts > 0))
        };
        between();
        let whole = self.whole(sha256).ok().flatten();
        (growing, whole.map(|Whole { tree, .. }| tree))
    }

    /// The hashes of these chunks, all of which are here, of a file that this node brings into the cluster.
    pub(crate) fn first_hashes(&self, sha256: Digest, extent: Extent) -> Option<Vec<ChunkHash>> {
        let part = {
            let shelves = self.lock();
            shelves.parts.get(&sha256).filter(|growing| growing.firsts > 0)?.part.clone()
        };
        extent.chunks().map(|index| part.hash_of(index)).collect()
    }

    /// The hashes of a file of which all is here.
    pub(crate) fn tree(&self, sha256: Digest) -> Option<Tree> {
        let (growing, tree) = self.look(sha256, || {});
        tree.or_else(|| growing?.0.tree().ok())
    }

    /// The size of a file of which all is here, and the hashes of its chunks, one behind the other.
    pub(crate) fn hashes(&self, sha256: Digest) -> Option<(u64, Bytes)> {
        let tree = self.tree(sha256)?;
        Some((tree.size_bytes(), tree.hashes().as_flattened().to_vec().into()))
    }

    /// The manifest with this digest.
    pub(crate) fn manifest(&self, digest: Digest) -> Option<Bytes> {
        let known = {
            let shelves = self.lock();
            let learnt = shelves.manifests.iter().find(|(known, _)| *known == digest).map(|(_, bytes)| bytes);
            learnt.or_else(|| shelves.kept_manifests.get(&digest)).cloned()
        };
        if known.is_some() {
            return known;
        }
        let models = Arc::clone(&self.0.adopted.borrow().models);
        let manifest = self.store()?.manifest_among(&models, digest)?;
        Some(Bytes::copy_from_slice(manifest.bytes()))
    }

    /// A file of the store, whether or not it was hashed.
    pub(crate) fn file(&self, blob: BlobSpec) -> Option<BlobFile> {
        self.store()?.blob(blob).ok().flatten()
    }

    /// Reads a chunk, and compares it with its hash.
    pub(crate) fn read(&self, sha256: Digest, index: u32, into: &mut Vec<u8>) -> Result<(), LibraryError> {
        match self.part(sha256) {
            Some(part) if part.hash_of(index).is_some() => read_part(&part, index, into),
            _ => self.read_published(sha256, index, into),
        }
    }

    fn read_published(&self, sha256: Digest, index: u32, into: &mut Vec<u8>) -> Result<(), LibraryError> {
        let Whole { tree, file, kept } = self.whole(sha256)?.ok_or(LibraryError::Absent)?;
        if index >= chunk_count(tree.size_bytes()) {
            return Err(LibraryError::Absent);
        }
        match file.read_chunk(index, into) {
            Ok(()) => {}
            // It was cut off while it was open.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                self.drop_changed(sha256);
                return Err(LibraryError::Changed);
            }
            Err(error) => return Err(self.fault(sha256)(error).into()),
        }
        if tree.holds(index, into) {
            return Ok(());
        }
        if let Some(kept) = kept {
            self.drop_kept(sha256, &kept)?;
            return Err(LibraryError::Damaged { index });
        }
        let what = format!("chunk {index} is not what it was when it was hashed");
        self.0.trees.doubt(sha256, Doubted { identity: file.identity, tree: Some(tree), what });
        self.lock().published.remove(&sha256);
        self.stir();
        Err(LibraryError::Damaged { index })
    }

    /// A file of the store, else of a version that is kept.
    fn whole(&self, sha256: Digest) -> Result<Option<Whole>, LibraryError> {
        let published = self.published(sha256).map(|found| found.map(|(tree, file)| Whole { tree, file, kept: None }));
        if matches!(published, Ok(Some(_))) {
            return published;
        }
        match self.kept(sha256)? {
            Some(kept) => Ok(Some(kept)),
            None => published,
        }
    }

    /// A file of a version that is kept, if its tree was made of its bytes. How many names it has changes.
    fn kept(&self, sha256: Digest) -> Result<Option<Whole>, LibraryError> {
        let found = self.lock().kept.get(&sha256).cloned();
        let Some((kept, known)) = found else { return Ok(None) };
        let Some(file) = blob_at(&kept.path, kept.blob)? else { return Ok(None) };
        let fits = |indexed: &Indexed| file.identity.has_bytes_of(&indexed.identity);
        let indexed = match known.filter(fits) {
            Some(known) => Some(known),
            // Another file may have taken its place since.
            None => kept.trees.open()?.get(sha256)?.filter(fits),
        };
        let Some(indexed) = indexed else { return Ok(None) };
        if let Some((_, known)) = self.lock().kept.get_mut(&sha256)
            && !known.as_ref().is_some_and(fits)
        {
            *known = Some(indexed.clone());
        }
        Ok(Some(Whole { tree: indexed.tree, file, kept: Some(kept) }))
    }

    /// A kept file is damaged: it is not offered any more.
    fn drop_kept(&self, sha256: Digest, kept: &KeptFile) -> Result<(), LibraryError> {
        tracing::warn!(path = %kept.path.display(), "a file of a version that is kept is damaged");
        self.lock().kept.remove(&sha256);
        self.stir();
        Ok(kept.trees.open()?.remove(sha256)?)
    }

    /// A published file and its tree, if the tree was made of this very file, and nobody found that to be damaged.
    fn published(&self, sha256: Digest) -> Result<Option<(Tree, BlobFile)>, LibraryError> {
        let Some(store) = self.store() else { return Ok(None) };
        // A tree that is kept in memory may be older than the one on record.
        let kept = self.lock().published.get(&sha256).cloned();
        let was_kept = kept.is_some();
        let on_record = match kept {
            Some(kept) => Some(kept),
            None => self.0.trees.open()?.get(sha256)?,
        };
        let Some(indexed) = on_record else { return Ok(None) };
        match store.blob(BlobSpec { sha256, size_bytes: indexed.tree.size_bytes() })? {
            Some(file) if file.identity == indexed.identity => {
                self.keep(sha256, &indexed);
                let is_sound = !self.0.trees.is_doubted(sha256, file.identity);
                Ok(is_sound.then_some((indexed.tree, file)))
            }
            _ if was_kept => {
                self.drop_changed(sha256);
                self.published(sha256)
            }
            Some(_) => {
                // Somebody has changed it: what it is now shall be known before the next look in its turn.
                self.0.trees.suspicion(sha256);
                Err(LibraryError::Changed)
            }
            None => Ok(None),
        }
    }

    /// Keeps a tree in memory.
    fn keep(&self, sha256: Digest, indexed: &Indexed) {
        let mut shelves = self.lock();
        if shelves.published.contains_key(&sha256) {
            return;
        }
        if shelves.published.len() >= TREES_MAX {
            shelves.published.clear();
        }
        shelves.published.insert(sha256, indexed.clone());
    }

    /// What was hashed does not lie there any more. Adoption finds out what does.
    fn drop_changed(&self, sha256: Digest) {
        if self.lock().published.remove(&sha256).is_some() {
            self.0.trees.look();
            self.stir();
        }
    }

    fn fault(&self, sha256: Digest) -> impl FnOnce(std::io::Error) -> Fault + use<> {
        let store = self.store();
        let path = store.map(|store| store.blob_path(sha256)).unwrap_or_default();
        Fault::at("read", &path)
    }

    /// The store beside this node.
    fn store(&self) -> Option<Store> {
        let root = self.0.adopted.borrow().store.clone()?;
        let mut shelves = self.lock();
        if let Some(store) = shelves.store.as_ref().filter(|store| store.root() == root) {
            return Some(store.clone());
        }
        shelves.published.clear();
        shelves.store = open(&root);
        shelves.store.clone()
    }

    /// A file on its way, for as long as it is offered.
    pub(crate) fn part(&self, sha256: Digest) -> Option<Part> {
        self.lock().parts.get(&sha256).map(|growing| growing.part.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.0.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shelves = self.lock();
        let (parts, manifests) = (shelves.parts.len(), shelves.manifests.len());
        f.debug_struct("Library").field("parts", &parts).field("manifests", &manifests).finish_non_exhaustive()
    }
}

// === impl Offered ===

impl Drop for Offered {
    fn drop(&mut self) {
        let mut shelves = self.library.lock();
        let is_last = shelves.parts.get_mut(&self.sha256).is_some_and(|growing| {
            growing.times -= 1;
            growing.firsts -= usize::from(self.is_first);
            growing.times == 0
        });
        let part = if is_last { shelves.parts.remove(&self.sha256) } else { None };
        // The part goes when nobody waits for the shelves any more.
        drop(shelves);
        drop(part);
        self.library.stir();
    }
}

impl fmt::Debug for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offered({})", self.sha256.short())
    }
}

fn open(root: &Path) -> Option<Store> {
    Store::open(root).inspect_err(|error| tracing::debug!(%error, "open the store to hand out of it")).ok()
}

/// What is damaged of a part is its owner's to find: nothing of it is taken away here.
fn read_part(part: &Part, index: u32, into: &mut Vec<u8>) -> Result<(), LibraryError> {
    let (size_bytes, wanted) = (part.spec().size_bytes, part.hash_of(index).ok_or(LibraryError::Absent)?);
    match part.read(index, into) {
        Ok(()) if chunk_hash(size_bytes, index, into) == wanted => Ok(()),
        Ok(()) => Err(LibraryError::Damaged { index }),
        Err(PartError::Fault(fault)) => Err(LibraryError::Fault(fault)),
        Err(_) => Err(LibraryError::Absent),
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
