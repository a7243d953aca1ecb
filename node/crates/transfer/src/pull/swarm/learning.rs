//! How the tasks of one file learn which hash a chunk must have.
//!
//! The node that brings the file into the cluster tells it with each chunk that it has; what others tell counts for
//! nothing. As soon as the root is on record, the tree that it proves takes the place of what was told. Always holds:
//! what is there of a chunk when its hash becomes known has that hash, or goes. A node that tells what cannot be, or
//! two things of one chunk, ends the file.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use ollamax_blobs::ChunkHash;
use ollamax_core::transfer_plan::Extent;
use ollamax_types::NodeId;

use crate::error::PullError;
use crate::pull::told::{Contradiction, Proof};
use crate::pull::{blocking, tree};

use super::{News, Receiving, Shared};

/// Time between two looks whether the root of a file is on record.
const ROOT_INTERVAL: Duration = Duration::from_millis(250);

// === impl Shared ===

impl Shared {
    /// Takes away what is there of these chunks and is not what it must be. The chunks that went.
    pub(super) async fn agree(&self, chunks: Range<u32>) -> Result<Vec<u32>, PullError> {
        let (part, proof) = (self.receiving.part.clone(), self.proof());
        let gone = blocking(move || part.agree_with_told(chunks, &|index| proof.hash_of(index))).await?;
        let gone = gone.map_err(|error| PullError::of_part(&self.receiving.place, &error))?;
        if !gone.is_empty() {
            self.is_rewound.store(true, Ordering::Relaxed);
        }
        Ok(gone)
    }

    /// It is known what these chunks must be.
    async fn tell_known(&self, chunks: Vec<u32>, within: Range<u32>) {
        let news = match self.agree(within).await {
            Ok(gone) => News::Known { chunks, gone },
            Err(error) => News::Failed(error),
        };
        // Where nobody listens any more the file ends anyway.
        drop(self.news.send(news).await);
    }

    /// Waits until the root is on record, and puts the tree in the place of what was told.
    pub(super) async fn prove(self: Arc<Self>) {
        let (blob, Receiving { peers, ledger, others, ingester, own, .. }) = (self.blob(), &self.receiving);
        let from: BTreeSet<NodeId> = others.iter().copied().chain([*ingester]).filter(|node| node != own).collect();
        let from: Vec<NodeId> = from.into_iter().collect();
        let found = loop {
            sleep(ROOT_INTERVAL).await;
            if ledger.bound(blob.sha256).is_none() {
                continue;
            }
            let bound = match tree::bound(&**ledger, blob) {
                Ok(bound) => bound,
                Err(error) => {
                    // Where nobody listens any more the file ends anyway.
                    drop(self.news.send(News::Failed(error)).await);
                    return;
                }
            };
            match tree::find(&**peers, &from, blob, bound.root, self.patience).await {
                Ok(found) => break found,
                Err(error) => tracing::debug!(sha256 = %blob.sha256, %error, "find the hash tree of a file"),
            }
        };
        *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = Proof::Tree(found);
        self.tell_known((0..self.count()).collect(), 0..self.count()).await;
    }

    /// Takes in what the node that brings the file says of its chunks. Once begun it is to be done to its end: what is
    /// known is told once.
    pub(super) async fn learn(&self, peer: NodeId, extent: Extent, hashes: &[ChunkHash]) {
        let Some(told) = self.told().filter(|_| peer == self.receiving.ingester && !hashes.is_empty()) else { return };
        if hashes.len() != extent.count as usize {
            self.catch(peer, extent.first, "told the hashes of other chunks").await;
            return;
        }
        match told.learn(extent, hashes) {
            Ok(new) if new.is_empty() => {}
            Ok(new) => self.tell_known(new, extent.chunks()).await,
            Err(Contradiction { index }) => self.catch(peer, index, &format!("told two hashes of chunk {index}")).await,
        }
    }

    /// What the node that brings the file says cannot be, and nobody else knows: that ends the file.
    async fn catch(&self, peer: NodeId, index: u32, what: &str) {
        let sha256 = self.blob().sha256;
        tracing::warn!(%peer, %sha256, reason = what, "a node that brings a file tells what cannot be");
        self.receiving.metrics.struck(peer);
        self.receiving.trust.strike(peer, sha256, index);
        let error = PullError::Peers { blob: sha256.short(), text: format!("node {peer} {what}") };
        // Where nobody listens any more the file ends anyway.
        drop(self.news.send(News::Failed(error)).await);
    }

    /// Whoever brings the file has all of it: it is asked for the hashes, unless each was told. Else why it is left.
    pub(super) async fn ask_for_all(&self, peer: NodeId) -> Result<Vec<ChunkHash>, String> {
        let is_known = self.told().is_none_or(|told| told.is_full());
        if is_known || peer != self.receiving.ingester {
            return Ok(Vec::new());
        }
        let asked = tree::hear(&*self.receiving.peers, &[peer], self.blob(), self.patience).await;
        asked.map(|tree| tree.hashes().to_vec()).map_err(|error| error.to_string())
    }
}
