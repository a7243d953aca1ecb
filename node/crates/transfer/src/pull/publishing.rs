//! The last steps in which a pull changes the store: the version that goes is kept, the new one becomes visible, its
//! hash trees go on record.
//!
//! One at a time in this process, and never while a model is removed: what a removal looks at is what it removes.
//!
//! What is offered to other nodes on its way is withdrawn when they can have it from the store, and not before.
//!
//! Where a runtime may be starting, all of it is done once more a while later. Killed anywhere, the pull begins with
//! its first step and comes here again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};

use ollamax_blobs::{Fault, Index, Indexed, Manifest, Part, Publication, PublishError, Store};

use crate::adopt::Adopted;
use crate::error::PullError;
use crate::ports::Listing;

use super::loopback::Way;
use super::{Ground, Pull, blocking, forget, is_overtaken};

/// Time that a runtime which starts may take to remove files that no manifest named when it looked.
const START_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for adoption to find the store into which a model was published.
const FOUND_WAIT: Duration = Duration::from_secs(5);

// === impl Pull ===

impl Pull {
    /// Step 7: makes the model visible, for good.
    pub(super) async fn publish(
        &self,
        ground: &Ground,
        manifest: &Manifest,
        parts: Vec<Part>,
    ) -> Result<Result<(), PublishError>, PullError> {
        if let Way::Handed(shelf) = &ground.way {
            return self.hand_over(ground, shelf, manifest, &parts).await;
        }
        if let Err(error) = self.publish_once(ground, manifest, parts.clone()).await? {
            return Ok(Err(error));
        }
        let listing = self.means.runtime.lists(&self.spec.name, manifest.digest()).now_or_never();
        if listing == Some(Listing::Down) && self.stop.run_until_cancelled(sleep(START_WAIT)).await.is_none() {
            return Err(PullError::Stopping);
        }
        self.publish_again(ground, manifest, parts).await
    }

    /// Puts back what a runtime removed that was starting: it may have looked for files without a manifest before ours
    /// was there. What is staged goes then. Whoever changed the name meanwhile is left alone.
    async fn publish_again(
        &self,
        ground: &Ground,
        manifest: &Manifest,
        parts: Vec<Part>,
    ) -> Result<Result<(), PublishError>, PullError> {
        let (store, staging, manifest) = (ground.store.clone(), ground.staging.clone(), manifest.clone());
        let (name, now) = (self.spec.name.clone(), self.means.clock.now());
        let changing = self.may_change().await?;
        blocking(move || {
            let _changing = changing;
            let stored = store.manifest(&name).ok().flatten();
            if stored.is_none_or(|(_, stored)| stored.digest() != manifest.digest()) {
                forget(&staging, &manifest);
                return Ok(());
            }
            let (name, manifest, parts, staging) = (&name, &manifest, &parts[..], &staging);
            store.publish(&Publication { name, manifest, parts, staging, now, clears: true }).map(drop)
        })
        .await
    }

    /// Makes the model visible. What is staged of it stays.
    async fn publish_once(
        &self,
        ground: &Ground,
        manifest: &Manifest,
        parts: Vec<Part>,
    ) -> Result<Result<(), PublishError>, PullError> {
        let (store, staging, manifest) = (ground.store.clone(), ground.staging.clone(), manifest.clone());
        let (name, now) = (self.spec.name.clone(), self.means.clock.now());
        let (asked_at_ms, keeping) = (self.asked_at_ms(), self.means.keeping.clone());
        // Who cancels while a model is removed wants nothing to become visible.
        let changing = self.unless_ended(self.may_change()).await?;
        let published = blocking(move || {
            let _changing = changing;
            if asked_at_ms.is_some_and(|asked_at_ms| is_overtaken(&store, &name, &manifest, asked_at_ms)) {
                return Err(PullError::Overtaken { name });
            }
            // Held until the name stands for the new version: what it stands for now is of use only then.
            let _kept = keeping.before(&store, &name, &manifest);
            let (name, manifest, parts, staging) = (&name, &manifest, &parts[..], &staging);
            Ok(store.publish(&Publication { name, manifest, parts, staging, now, clears: false }).map(drop))
        });
        published.await?
    }

    /// Waits until nobody else of this process changes what names stand for.
    pub(super) async fn may_change(&self) -> Result<OwnedMutexGuard<()>, PullError> {
        let changing = Arc::clone(&self.means.changing).lock_owned();
        self.stop.run_until_cancelled(changing).await.ok_or(PullError::Stopping)
    }

    /// Puts the hash trees on record, so that adoption need not read the files again.
    pub(super) async fn index(&self, store: &Store, parts: Vec<Part>) -> Result<(), PullError> {
        let (trees, store, board) = (self.means.trees.clone(), store.clone(), Arc::clone(&self.board));
        blocking(move || {
            for part in parts {
                if let Ok(tree) = part.tree() {
                    board.rooted(part.spec().sha256, tree.root());
                }
                if let Err(error) = trees.open().and_then(|index| put_tree(&index, &store, &part)) {
                    tracing::warn!(%error, sha256 = %part.spec().sha256, "keep the hash tree of a file");
                }
            }
        })
        .await
    }

    /// Other nodes have the files from the store from here on. Of a store that is new nothing is handed out before
    /// adoption has found it: what came is offered until then.
    pub(super) async fn hand_on(&self, store: &Store) {
        let mut adopted = self.means.adopted.clone();
        let is_found = |adopted: &Adopted| adopted.store.as_deref() == Some(store.root());
        let is_found_already = is_found(&adopted.borrow());
        if !is_found_already {
            self.means.look.notify_one();
            let found = async { adopted.wait_for(|adopted| is_found(adopted)).await.is_ok() };
            let found = self.stop.run_until_cancelled(timeout(FOUND_WAIT, found)).await;
            if !matches!(found, Some(Ok(true))) {
                let store = store.root().display();
                tracing::debug!(%store, "others have what was pulled when adoption has found its store");
            }
        }
        self.withdraw();
    }
}

/// The identity is that of the file after its other name is gone.
pub(crate) fn put_tree(index: &Index, store: &Store, part: &Part) -> Result<(), Fault> {
    let (spec, Ok(tree)) = (part.spec(), part.tree()) else { return Ok(()) };
    match store.blob(spec)? {
        Some(file) => index.put(spec.sha256, &Indexed { identity: file.identity, tree }),
        None => Ok(()),
    }
}
