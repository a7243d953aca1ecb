//! Removes from this node what the cluster has removed here.
//!
//! The runtime does it, by its own words, as for a person; only where it does not answer, and this node may write its
//! store, the manifest is taken out by hand. The files go then as those of a version do that is let go: at once where
//! no runtime runs at all, and else when that is safe. Always holds: only the version that is meant goes. Just before,
//! the runtime is asked what the name stands for; another version, or none, is left alone, and no pull of this node
//! puts one there in between. A runtime that was asked and does not answer may do it later: for a while that is waited
//! for. With the model goes what is kept of its name. Who asks again after a failure does what is left to do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use ollamax_blobs::keep::Haste;
use ollamax_blobs::{Access, BlobSpec, Fault, Store};
use ollamax_types::{Digest, ModelName};

use crate::error::PullError;
use crate::keeping::{Keeping, KeptVersion};
use crate::ports::RuntimeTrouble;
use crate::pull::{Means, blocking};

/// How long it is waited for that a runtime that did not answer takes a name away after all.
const LATE: Duration = Duration::from_secs(30);
/// Time between two looks at that.
const LATE_INTERVAL: Duration = Duration::from_secs(5);

/// What a version takes in a store.
struct Taken {
    store: Store,
    /// The name stands for another version there.
    is_other: bool,
    /// Its files, and what the disk gets back when they go.
    files: Vec<(BlobSpec, u64)>,
}

// === impl Means ===

impl Means {
    /// Removes this version of a model, and gives the bytes that became free.
    pub(crate) async fn remove(&self, name: &ModelName, digest: Digest) -> Result<u64, PullError> {
        let _changing = self.changing.lock().await;
        let taken = self.taken(name, digest).await?;
        if taken.as_ref().is_some_and(|taken| taken.is_other) {
            return Ok(0);
        }
        let silent = match self.runtime.holds(name).await {
            Ok(Some(held)) if held == digest => {
                self.delete(name, digest).await?;
                None
            }
            Ok(Some(_)) => return Ok(0),
            // What is kept of it may be left.
            Ok(None) => None,
            Err(trouble) if trouble.may_pass && taken.is_some() => Some(trouble),
            Err(trouble) => return Err(of_runtime(name, trouble)),
        };
        let Some(taken) = taken else {
            self.runtime.look();
            return Ok(0);
        };
        let (keeping, name) = (self.keeping.clone(), name.clone());
        let freed = blocking(move || {
            let haste = match silent {
                Some(trouble) => take_out_by_hand(&keeping, &taken.store, &name, digest, trouble)?,
                None => Haste::Calm,
            };
            let Taken { store, files, .. } = taken;
            let gone = files.into_iter().filter(|(blob, _)| matches!(store.blob(*blob), Ok(None)));
            let gone_bytes = gone.fold(0, |sum: u64, (_, bytes)| sum.saturating_add(bytes));
            let kept = keeping.give_up(&store, &name, digest, haste);
            kept.map(|bytes| gone_bytes.saturating_add(bytes)).map_err(|fault| of_fault(&store, &fault))
        });
        let freed = freed.await?;
        self.look.notify_one();
        self.runtime.look();
        freed
    }

    /// The runtime takes the name away. Where it does not answer it may do so yet, whatever the name stands for by
    /// then.
    async fn delete(&self, name: &ModelName, digest: Digest) -> Result<(), PullError> {
        let Err(trouble) = self.runtime.delete(name).await else { return Ok(()) };
        if trouble.may_pass && !trouble.is_down {
            let gone = async {
                sleep(LATE_INTERVAL).await;
                while !self.is_gone(name, digest).await {
                    sleep(LATE_INTERVAL).await;
                }
            };
            if timeout(LATE, gone).await.is_ok() {
                return Ok(());
            }
        }
        Err(of_runtime(name, trouble))
    }

    /// Whether the runtime says that a name does not stand for this version, or for none.
    pub(crate) async fn is_gone(&self, name: &ModelName, digest: Digest) -> bool {
        matches!(self.runtime.holds(name).await, Ok(held) if held != Some(digest))
    }

    /// Lets the kept versions go that are due; `dry_run`: only tells which.
    pub(crate) async fn sweep(&self, dry_run: bool) -> Result<Vec<KeptVersion>, PullError> {
        let (runtime, keeping) = (Arc::clone(&self.runtime), self.keeping.clone());
        let swept = blocking(move || {
            let store = runtime.place().store().map_err(PullError::NoStore)?;
            keeping.sweep(&store, dry_run).map_err(|fault| of_fault(&store, &fault))
        });
        swept.await?
    }

    /// What a version takes in the store beside this node, if it is there.
    async fn taken(&self, name: &ModelName, digest: Digest) -> Result<Option<Taken>, PullError> {
        let (runtime, name) = (Arc::clone(&self.runtime), name.clone());
        blocking(move || {
            let store = runtime.place().store().ok()?;
            let stands = store.manifest(&name).ok().flatten().map(|(_, stands)| stands);
            let is_other = stands.as_ref().is_some_and(|stands| stands.digest() != digest);
            let blobs = stands.map(|stands| stands.blobs()).unwrap_or_default();
            let files = blobs.into_iter().map(|blob| (blob, store.frees_bytes(blob))).collect();
            Some(Taken { store, is_other, files })
        })
        .await
    }
}

/// The runtime is not there to do it. Gives how fast the files may go. Blocks on the disk.
fn take_out_by_hand(
    keeping: &Keeping,
    store: &Store,
    name: &ModelName,
    digest: Digest,
    trouble: RuntimeTrouble,
) -> Result<Haste, PullError> {
    let is_down = trouble.is_down;
    match store.access() {
        Access::Direct { .. } => {}
        Access::Locked { .. } | Access::Hidden { .. } => return Err(of_runtime(name, trouble)),
    }
    let is_out = keeping.take_out(store, name, digest).map_err(|fault| of_fault(store, &fault))?;
    Ok(if is_out && is_down { Haste::Alone } else { Haste::Calm })
}

fn of_fault(store: &Store, fault: &Fault) -> PullError {
    PullError::of_fault(&store.root().display().to_string(), fault)
}

fn of_runtime(name: &ModelName, RuntimeTrouble { code, text, .. }: RuntimeTrouble) -> PullError {
    PullError::NotRemoved { name: name.clone(), code, text }
}
