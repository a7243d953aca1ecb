//! The hash trees of this process, and the files that are not what they were when they were hashed.
//!
//! Adoption writes the trees, pulls add those of what they published, and whoever hands out files reads them. Whoever
//! reads a file and finds that it is another one says so here: its tree goes at once, and adoption calls it suspect. Of
//! some of those the tree is remembered: it says which pieces of them are still good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use ollamax_blobs::{Fault, FileIdentity, Index, Tree};
use ollamax_types::Digest;

/// Most files that are remembered as damaged.
const DOUBTS_MAX: usize = 65_536;
/// Of how many of them at most the tree is remembered.
const DOUBTED_TREES_MAX: usize = 64;
/// Most files that wait to be read because another node doubts them.
const SUSPICIONS_MAX: usize = 64;

/// The folder of hash trees of this process, opened when it is first needed. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Trees {
    root: PathBuf,
    index: Arc<Mutex<Option<Index>>>,
    doubts: Arc<Doubts>,
}

/// The files that somebody read and found to be others than they were when they were hashed.
#[derive(Debug, Default)]
struct Doubts {
    files: Mutex<BTreeMap<Digest, Doubted>>,
    /// The files that another node got other bytes of.
    suspicions: Mutex<BTreeSet<Digest>>,
    /// Wakes adoption.
    told: Notify,
}

/// A file that is not what it was when it was hashed.
#[derive(Debug, Clone)]
pub(crate) struct Doubted {
    /// Which file.
    pub(crate) identity: FileIdentity,
    /// What its pieces were.
    pub(crate) tree: Option<Tree>,
    /// What is wrong with it, for people.
    pub(crate) what: String,
}

// === impl Trees ===

impl Trees {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, index: Arc::default(), doubts: Arc::default() }
    }

    /// Opened once: whatever is half written then goes. Blocks on the disk.
    pub(crate) fn open(&self) -> Result<Index, Fault> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*index {
            return Ok(index.clone());
        }
        let opened = Index::open(&self.root)?;
        *index = Some(opened.clone());
        Ok(opened)
    }

    /// Somebody read this very file, and it is not what was hashed. Its tree goes, so that it is hashed anew at the
    /// next start; until then adoption calls it suspect. The tree of a file that lies in its place by now stays. Blocks
    /// on the disk.
    pub(crate) fn doubt(&self, sha256: Digest, mut doubted: Doubted) {
        let removed = self.open().and_then(|index| match index.get(sha256)? {
            Some(other) if other.identity != doubted.identity => Ok(()),
            _ => index.remove(sha256),
        });
        if let Err(error) = removed {
            tracing::warn!(%error, %sha256, "forget the hash tree of a file that is damaged");
        }
        let mut files = self.lock();
        if files.values().filter(|known| known.tree.is_some()).count() >= DOUBTED_TREES_MAX {
            doubted.tree = None;
        }
        if files.len() < DOUBTS_MAX || files.contains_key(&sha256) {
            files.insert(sha256, doubted);
        }
        drop(files);
        self.look();
    }

    /// Whether somebody found this very file to be another.
    pub(crate) fn is_doubted(&self, sha256: Digest, identity: FileIdentity) -> bool {
        self.lock().get(&sha256).is_some_and(|doubted| doubted.identity == identity)
    }

    /// What is known of a file that somebody found to be another.
    pub(crate) fn doubted(&self, sha256: Digest) -> Option<Doubted> {
        self.lock().get(&sha256).cloned()
    }

    /// There is another file now in the place of one that was damaged.
    pub(crate) fn trust_again(&self, sha256: Digest) {
        self.lock().remove(&sha256);
        self.look();
    }

    /// Another node got other bytes of a file than it should have: it is read before all others. That there are too
    /// many such files is nobody's trouble: each is read again in its time.
    pub(crate) fn suspicion(&self, sha256: Digest) {
        let mut suspicions = self.doubts.suspicions.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = suspicions.len() < SUSPICIONS_MAX && suspicions.insert(sha256);
        drop(suspicions);
        if is_new {
            self.look();
        }
    }

    /// The files that other nodes have doubted since this was asked last.
    pub(super) fn take_suspicions(&self) -> BTreeSet<Digest> {
        std::mem::take(&mut *self.doubts.suspicions.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A file that was hashed is not there any more, or is another one. Does not wait for the look at the store.
    pub(crate) fn look(&self) {
        self.doubts.told.notify_one();
    }

    /// Waits until somebody wants the store to be looked at.
    pub(super) async fn told(&self) {
        self.doubts.told.notified().await;
    }

    pub(super) fn doubts(&self) -> BTreeMap<Digest, Doubted> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Doubted>> {
        self.doubts.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use ollamax_blobs::Indexed;

    use super::*;

    fn trees() -> (TempDir, Trees) {
        let folder = tempfile::tempdir().expect("temp");
        let trees = Trees::new(folder.path().join("trees"));
        (folder, trees)
    }

    fn doubted(ino: u64) -> Doubted {
        let identity = FileIdentity { dev: 1, ino, size: 0, mtime_ns: 0, ctime_ns: 0 };
        let tree = Tree::of(0, Vec::new()).expect("an empty file has no chunks");
        Doubted { identity, tree: Some(tree), what: "damaged".to_owned() }
    }

    #[test]
    fn a_flood_of_suspicions_is_bounded_and_each_is_taken_once() {
        let (_folder, trees) = trees();
        for _ in 0..2 {
            (0..=255).for_each(|byte| trees.suspicion(Digest([byte; 32])));
        }
        assert_eq!(trees.take_suspicions().len(), SUSPICIONS_MAX);
        assert_eq!(trees.take_suspicions().len(), 0);
        trees.suspicion(Digest([255; 32]));
        assert_eq!(trees.take_suspicions(), BTreeSet::from([Digest([255; 32])]), "there is room again");
    }

    #[test]
    fn a_doubt_holds_for_one_file_until_another_takes_its_place() {
        let (_folder, trees) = trees();
        let sha256 = Digest([7; 32]);
        trees.doubt(sha256, doubted(1));
        let is_doubted = |ino| trees.is_doubted(sha256, doubted(ino).identity);
        assert_eq!((is_doubted(1), is_doubted(2)), (true, false));
        assert!(trees.doubted(sha256).is_some_and(|known| known.tree.is_some()));
        trees.trust_again(sha256);
        assert_eq!((is_doubted(1), trees.doubted(sha256).is_none()), (false, true));
    }

    #[test]
    fn who_was_still_reading_the_old_file_takes_no_tree_from_the_new_one() {
        let (_folder, trees) = trees();
        let (sha256, Doubted { identity, tree, .. }) = (Digest([7; 32]), doubted(2));
        let index = trees.open().expect("ours");
        index.put(sha256, &Indexed { identity, tree: tree.expect("it has one") }).expect("room");
        let has_tree = || index.get(sha256).expect("readable").is_some();
        trees.doubt(sha256, doubted(1));
        assert!(has_tree());
        trees.doubt(sha256, doubted(2));
        assert!(!has_tree());
    }

    #[test]
    fn of_many_damaged_files_only_some_trees_are_remembered() {
        let (_folder, trees) = trees();
        (0..=255).for_each(|byte| trees.doubt(Digest([byte; 32]), doubted(u64::from(byte))));
        let doubts = trees.doubts();
        let with_tree = doubts.values().filter(|doubted| doubted.tree.is_some()).count();
        assert_eq!((doubts.len(), with_tree), (256, DOUBTED_TREES_MAX));
    }
}
