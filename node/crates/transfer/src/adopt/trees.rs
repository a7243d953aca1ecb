//! The hash trees of this process, and the files that are not what they were when they were hashed.
//!
//! Adoption writes the trees, pulls add those of what they published, and whoever hands out files reads them. Whoever
//! reads a file and finds that it is another one says so here: its tree goes at once, and adoption calls it suspect.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use ollamax_blobs::{Fault, FileIdentity, Index};
use ollamax_types::Digest;

/// Most files that are remembered as damaged.
const DOUBTS_MAX: usize = 65_536;

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
    files: Mutex<BTreeMap<Digest, (FileIdentity, String)>>,
    /// Wakes adoption.
    told: Notify,
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
    /// next start; until then adoption calls it suspect. Blocks on the disk.
    pub(crate) fn doubt(&self, sha256: Digest, identity: FileIdentity, what: String) {
        let removed = self.open().and_then(|index| index.remove(sha256));
        if let Err(error) = removed {
            tracing::warn!(%error, %sha256, "forget the hash tree of a file that is damaged");
        }
        let mut files = self.doubts.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < DOUBTS_MAX || files.contains_key(&sha256) {
            files.insert(sha256, (identity, what));
        }
        drop(files);
        self.look();
    }

    /// Whether somebody found this very file to be another.
    pub(crate) fn is_doubted(&self, sha256: Digest, identity: FileIdentity) -> bool {
        let files = self.doubts.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(&sha256).is_some_and(|(doubted, _)| *doubted == identity)
    }

    /// A file that was hashed is not there any more, or is another one. Does not wait for the look at the store.
    pub(crate) fn look(&self) {
        self.doubts.told.notify_one();
    }

    /// Waits until somebody wants the store to be looked at.
    pub(super) async fn told(&self) {
        self.doubts.told.notified().await;
    }

    pub(super) fn doubts(&self) -> BTreeMap<Digest, (FileIdentity, String)> {
        self.doubts.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
