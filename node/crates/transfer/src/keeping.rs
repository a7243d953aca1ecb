//! Which versions are kept here, until when, and what goes when room is needed.
//!
//! A version is kept when this node puts another one under its name, and while it is pinned, for each name that stood
//! for it. It goes when it is old, when each of its names stands for it again or is gone, or, the oldest first, when
//! something else needs the room; a pinned one goes only when nobody pins it any more, or the cluster removes it here
//! for the last of its names. Where it is not sure what the models of the store are, no name counts as gone, and
//! nothing makes way.
//!
//! The files of a version that no model of the store names lose their names there while it is kept and not pinned, as
//! soon as that is safe ([`Store::withdraw`]): so its room is free when it goes. A model that names one later gets it
//! back at the next look. What is let go before that waits with its files until it is, and so does what a model may
//! name by then ([`Store::staying`]).
//!
//! Always holds: nothing is let go before this node has heard what is pinned; nothing loses its name on which a pull of
//! this node counts ([`counted`]). What is kept, and what waits, is found on the disk, not remembered, so a restart
//! changes nothing; what is kept is offered to other nodes like what the store has. What cannot be kept is told once in
//! the log, and ends no pull.

mod counted;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::keep::{Clearing, Haste, across, first_that_frees, held_bytes, held_bytes_but};
use ollamax_blobs::{
    BlobSpec, Fault, Indexed, Keep, KeepError, Kept, Manifest, Part, PublishError, Replaced, Scanned, Store,
};
use ollamax_core::retention::{Sharing, sharing};
use ollamax_types::{Clock, Digest, ModelName, Timestamp};

use crate::adopt::Trees;
use crate::config::Config;
use crate::library::{KeptFile, Library};
use crate::metrics::Metrics;
use crate::pull::blocking;
use crate::pull::publishing::put_tree;

use self::counted::{Counted, Counts};

/// Time between two looks at what is kept although nothing changed: it becomes old.
const LOOK_INTERVAL: Duration = Duration::from_secs(600);
/// Most versions that are kept; beyond it the oldest goes that is not pinned.
const KEPT_MAX: usize = 256;
const HOUR_MS: u64 = 3_600_000;

/// A version that is kept on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptVersion {
    /// The name that stood for it.
    pub name: ModelName,
    /// Which version.
    pub digest: Digest,
    /// Bytes of all its files.
    pub size_bytes: u64,
    /// Since when, by that node's clock.
    pub kept_at: Timestamp,
    /// Until when; `None`: for as long as it is pinned.
    pub until: Option<Timestamp>,
}

/// What keeping is tied to.
pub(crate) struct Ties {
    clock: Clock,
    /// The trees of the store's files.
    trees: Trees,
    /// The trees of the files of kept versions: those of the store go with its names.
    kept_trees: Trees,
    library: Library,
    metrics: Metrics,
}

/// The versions that are kept. Clones are the same.
#[derive(Clone)]
pub(crate) struct Keeping(Arc<Inner>);

struct Inner {
    ties: Ties,
    /// For how long a version is kept that was replaced, hours.
    hours: u32,
    /// The versions that are pinned; `None` until this node has heard it.
    pins: watch::Sender<Option<BTreeSet<Digest>>>,
    /// Held while names of files change for the sake of a version.
    work: Mutex<()>,
    counts: Counts,
    told: Mutex<Told>,
}

/// What was found at the last look.
#[derive(Default)]
struct Told {
    kept: Vec<KeptVersion>,
    /// Bytes that would be free if all went that may go.
    spare_bytes: u64,
    /// Why a version could not be kept, as last told in the log.
    trouble: Option<String>,
    /// Whether it was sure what models name when somebody asked last; `None`: nobody has since the last look began.
    is_sure: Option<bool>,
    /// Why files that no model seems to name keep their room, as last told in the log.
    unsure: Option<String>,
    /// The file by which a runtime seems to bring a model, as last told in the log.
    restless: Option<PathBuf>,
}

// === impl Ties ===

impl Ties {
    /// `kept_trees` is the folder of the trees of kept files.
    pub(crate) fn new(clock: &Clock, library: &Library, metrics: &Metrics, kept_trees: PathBuf) -> Self {
        let (clock, library, metrics) = (clock.clone(), library.clone(), metrics.clone());
        Self { clock, trees: library.trees(), kept_trees: Trees::new(kept_trees), library, metrics }
    }
}

// === impl Keeping ===

impl Keeping {
    /// Begins to look after what is kept, until `stop`.
    pub(crate) fn start(config: &Config, ties: Ties, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let (pins, hours) = (watch::Sender::new(None), config.keep_previous_hours);
        let (work, counts, told) = (Mutex::default(), Counts::default(), Mutex::default());
        let keeping = Self(Arc::new(Inner { ties, hours, pins, work, counts, told }));
        // If it fails, what is kept stays until the next start, or until room is needed; it ends with `stop`.
        tasks.spawn(keeping.clone().run(stop.clone()));
        keeping
    }

    /// Looks at what is kept when something changes, until `stop`.
    async fn run(self, stop: CancellationToken) {
        let mut adopted = self.0.ties.library.adopted();
        let mut pins = self.0.pins.subscribe();
        loop {
            let now = Arc::clone(&adopted.borrow_and_update());
            pins.borrow_and_update();
            if let Some(root) = now.store.clone().filter(|_| now.scanned) {
                let keeping = self.clone();
                if let Err(error) = blocking(move || keeping.look(&root, &now.models)).await {
                    tracing::warn!(code = %error.code(), %error, "look at the versions that are kept");
                }
            }
            let woken = async {
                tokio::select! {
                    changed = adopted.changed() => changed.is_ok(),
                    changed = pins.changed() => changed.is_ok(),
                    () = sleep(LOOK_INTERVAL) => true,
                }
            };
            if stop.run_until_cancelled(woken).await != Some(true) {
                return;
            }
        }
    }

    pub(crate) fn set_pins(&self, digests: BTreeSet<Digest>) {
        self.0.pins.send_if_modified(|pins| {
            let is_other = pins.as_ref() != Some(&digests);
            if is_other {
                *pins = Some(digests);
            }
            is_other
        });
    }

    /// What was kept at the last look.
    pub(crate) fn list(&self) -> Vec<KeptVersion> {
        self.told().kept.clone()
    }

    /// Bytes that make way when room is needed.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.told().spare_bytes
    }

    /// What would go at a look now, or has gone at one.
    pub(crate) fn sweep(&self, store: &Store, dry_run: bool) -> Result<Vec<KeptVersion>, Fault> {
        let _work = self.work();
        let Some(keep) = Keep::of(store) else { return Ok(Vec::new()) };
        let due = self.due(store, keep.all()?);
        if !dry_run {
            for kept in &due {
                let_go(&keep, kept)?;
            }
            self.clear_up(store, &keep, Haste::Calm)?;
            self.tell(store, &keep);
        }
        Ok(due.iter().flat_map(|kept| self.shown(kept)).collect())
    }

    /// From now on a pull counts on the files of this version, until the answer is dropped.
    pub(crate) fn count_on(&self, wanted: &Manifest) -> Counted {
        self.0.counts.on(wanted)
    }

    /// Another version is about to get this name: what it stands for is kept, if it is whole. That it is not to be kept
    /// for any time changes nothing: its files go in the same way. The names of files are this caller's to change for
    /// as long as the answer is held. Blocks on the disk.
    pub(crate) fn before(&self, store: &Store, name: &ModelName, next: &Manifest) -> Option<MutexGuard<'_, ()>> {
        let (_, stands) = store.manifest(name).ok().flatten()?;
        if stands.digest() == next.digest() {
            return None;
        }
        let work = self.work();
        let keep = Keep::of(store)?;
        self.keep_for(store, &keep, slice::from_ref(name), &stands);
        self.tell(store, &keep);
        Some(work)
    }

    /// Gives the files of a version that are kept here, with it or with another one, their names in the store again.
    /// Blocks on the disk.
    pub(crate) fn bring_back(&self, store: &Store, wanted: &Manifest) -> Result<(), PublishError> {
        let _work = self.work();
        let Some(keep) = Keep::of(store) else { return Ok(()) };
        self.link_back(store, &keep, &wanted.blobs())?;
        if let Some(kept) = keep.get(wanted.digest())? {
            self.bring_trees_back(store, &kept);
        }
        Ok(())
    }

    /// Lets `replace` give the name of a damaged file of the store to this part; the versions that have the damaged one
    /// get the sound one, and its tree. Blocks on the disk.
    pub(crate) fn mend(
        &self,
        store: &Store,
        part: &Part,
        replace: impl FnOnce() -> Result<Replaced, PublishError>,
    ) -> Result<Replaced, PublishError> {
        let _work = self.work();
        let replaced = replace()?;
        if replaced == Replaced::Done
            && let Some(keep) = Keep::of(store)
        {
            let sha256 = part.spec().sha256;
            if let Err(error) = keep.renew(store, part.spec()) {
                tracing::warn!(%error, %sha256, "a version keeps a file that is damaged");
            }
            if let Err(error) = self.0.ties.kept_trees.open().and_then(|own| put_tree(&own, store, part)) {
                tracing::warn!(%error, %sha256, "keep the hash tree of a kept file that was mended");
            }
        }
        Ok(replaced)
    }

    /// Lets versions go that are not pinned, the oldest first, until so many bytes are free; none where all of them
    /// together would not be enough, or while it is not sure what models name. A file on which a pull counts makes no
    /// room. The version `wanted` stays, and so does one that a model lacks, and one with which no byte becomes free
    /// just now, as one that a pull brings. Blocks on the disk.
    pub(crate) fn make_room(&self, store: &Store, bytes: u64, wanted: Digest) -> Result<u64, Fault> {
        let _work = self.work();
        let Some(keep) = Keep::of(store).filter(|_| self.0.pins.borrow().is_some()) else { return Ok(0) };
        let mut freed_bytes = sum(&self.clear_up(store, &keep, Haste::Calm)?);
        let (mut spare, going) = (keep.all()?, keep.going()?);
        spare.retain(|kept| kept.manifest.digest() != wanted && self.may_go(kept.manifest.digest()));
        let held = |spare: &[Kept]| {
            let all: Vec<&Kept> = spare.iter().chain(&going).collect();
            held_bytes_but(&all, &|sha256| self.0.counts.has(sha256))
        };
        let named = if held(&spare) > 0 { self.named(store)? } else { None };
        if let Some(named) = named {
            spare.retain(|kept| !is_missed(store, kept, &named));
            if freed_bytes.saturating_add(held(&spare)) >= bytes {
                let missing_bytes = bytes.saturating_sub(freed_bytes);
                freed_bytes = freed_bytes.saturating_add(self.free(store, &keep, spare, missing_bytes)?);
            }
        }
        self.tell(store, &keep);
        Ok(freed_bytes)
    }

    /// Lets so many of these versions go, the oldest first, that these bytes become free, after what waits.
    fn free(&self, store: &Store, keep: &Keep, mut spare: Vec<Kept>, bytes: u64) -> Result<u64, Fault> {
        let mut freed_bytes = sum(&self.clear_up(store, keep, Haste::Room)?);
        while freed_bytes < bytes {
            let chosen = choose(&mut spare, bytes - freed_bytes, &|sha256| self.0.counts.has(sha256));
            if chosen.is_empty() {
                break;
            }
            for kept in &chosen {
                let_go(keep, kept)?;
            }
            freed_bytes = freed_bytes.saturating_add(sum(&self.clear_up(store, keep, Haste::Room)?));
        }
        Ok(freed_bytes)
    }

    /// What models name, as far as that is sure; else the log says why not.
    fn named(&self, store: &Store) -> Result<Option<BTreeSet<Digest>>, Fault> {
        match store.named()? {
            Ok(named) => {
                self.note_unsure(None);
                Ok(Some(named))
            }
            Err(reason) => {
                self.note_unsure(Some(reason));
                Ok(None)
            }
        }
    }

    /// Takes the manifest of this version out of a store whose runtime is not there to do it. Its files are kept, for
    /// [`Keeping::give_up`] to let go as those of any version. False where the name does not stand for it. Blocks on
    /// the disk.
    pub(crate) fn take_out(&self, store: &Store, name: &ModelName, digest: Digest) -> Result<bool, Fault> {
        let _work = self.work();
        let stands = store.manifest(name).ok().flatten().filter(|(_, stands)| stands.digest() == digest);
        if let Some((_, manifest)) = stands
            && let Some(keep) = Keep::of(store)
            && let Err(error) = self.take(store, &keep, name, &manifest)
        {
            tracing::warn!(model = %name, %digest, %error, "files of a removed model stay until its runtime starts");
        }
        store.remove(name, digest)
    }

    /// The cluster removes a version of a model here: it is not kept for that name, nor is any other of that name that
    /// is not pinned. What is kept for another name as well stays for that one. Gives the bytes that these versions
    /// gave back. Blocks on the disk.
    pub(crate) fn give_up(&self, store: &Store, name: &ModelName, digest: Digest, haste: Haste) -> Result<u64, Fault> {
        let _work = self.work();
        let Some(keep) = Keep::of(store) else { return Ok(0) };
        let mut gone = BTreeSet::new();
        for kept in keep.all()? {
            let found = kept.manifest.digest();
            if !kept.names.contains(name) || found != digest && self.is_pinned(found) {
                continue;
            }
            if kept.names.len() > 1 {
                keep.forget_name(&kept, name)?;
            } else {
                let_go(&keep, &kept)?;
                gone.insert(found);
            }
        }
        let mut freed = self.clear_up(store, &keep, haste)?;
        freed.retain(|digest, _| gone.contains(digest));
        self.tell(store, &keep);
        Ok(sum(&freed))
    }

    /// Keeps what is pinned, lets go what is due, and tells what there is.
    fn look(&self, root: &Path, models: &[Scanned]) {
        let _work = self.work();
        let Ok(store) = Store::open(root) else { return };
        self.told().is_sure = None;
        self.0.ties.metrics.show_sharing(sharing_of(models));
        let Some(keep) = Keep::of(&store) else {
            self.show(&store, &[], &[]);
            return;
        };
        let looked = || -> Result<(), Fault> {
            let going: Vec<BlobSpec> = keep.going()?.iter().flat_map(|kept| kept.manifest.blobs()).collect();
            across(&self.0.ties.trees.open()?, &store, &going, || keep.sweep())?;
            self.put_back(&store, &keep, models);
            for (manifest, names) in self.unkept(&store, &keep, models)? {
                self.keep_for(&store, &keep, &names, &manifest);
            }
            for kept in self.due(&store, keep.all()?) {
                let_go(&keep, &kept)?;
            }
            if !keep.going()?.is_empty() || has_unnamed(&store, &self.making_way(&keep)?, models) {
                self.clear_up(&store, &keep, Haste::Calm)?;
            }
            Ok(())
        };
        if let Err(error) = looked() {
            tracing::warn!(%error, "look after the versions that are kept");
        }
        self.tell(&store, &keep);
    }

    /// The pinned versions that are not kept yet for names that stand for them: of each all these names, as one change
    /// of what is kept.
    fn unkept(&self, store: &Store, keep: &Keep, models: &[Scanned]) -> Result<Vec<(Manifest, Vec<ModelName>)>, Fault> {
        let mut known: BTreeMap<Digest, BTreeSet<ModelName>> = BTreeMap::new();
        let mut unkept: BTreeMap<Digest, (Manifest, Vec<ModelName>)> = BTreeMap::new();
        for scanned in models.iter().filter(|scanned| scanned.complete && self.is_pinned(scanned.model.digest)) {
            let (name, digest) = (&scanned.model.name, scanned.model.digest);
            let stands = store.manifest(name).ok().flatten().filter(|(_, stands)| stands.digest() == digest);
            let Some((_, manifest)) = stands else { continue };
            let names = match known.entry(digest) {
                Entry::Occupied(names) => names.into_mut(),
                Entry::Vacant(place) => {
                    let kept = keep.get(digest)?.map(|kept| kept.names).unwrap_or_default();
                    place.insert(kept.into_iter().collect())
                }
            };
            if names.insert(name.clone()) {
                unkept.entry(digest).or_insert_with(|| (manifest, Vec::new())).1.push(name.clone());
            }
        }
        Ok(unkept.into_values().collect())
    }

    fn put(&self, store: &Store, keep: &Keep, names: &[ModelName], manifest: &Manifest) -> Result<(), KeepError> {
        let (ties, blobs) = (&self.0.ties, manifest.blobs());
        let was_kept = keep.get(manifest.digest())?.is_some();
        let kept = || keep.put(store, names, manifest, ties.clock.now());
        across(&ties.trees.open()?, store, &blobs, kept)?;
        if !was_kept {
            return Ok(self.keep_trees(store, &blobs)?);
        }
        if let Err(error) = self.renew(store, keep, manifest) {
            tracing::warn!(%error, digest = %manifest.digest(), "a version keeps the files that it had");
        }
        Ok(())
    }

    /// Keeps a version as the store has it. What is kept for another name is kept from when it was.
    fn take(&self, store: &Store, keep: &Keep, name: &ModelName, manifest: &Manifest) -> Result<(), KeepError> {
        match keep.get(manifest.digest())? {
            Some(_) => self.renew(store, keep, manifest),
            None => self.put(store, keep, slice::from_ref(name), manifest),
        }
    }

    /// What is kept of a version becomes what the store has, as far as that was read and is sound: a runtime may have
    /// brought its files anew since, and what is kept may be damaged. What nobody has read may be damaged as well, for
    /// all its size: it only takes a place that is free.
    fn renew(&self, store: &Store, keep: &Keep, manifest: &Manifest) -> Result<(), KeepError> {
        let (index, blobs) = (self.0.ties.trees.open()?, manifest.blobs());
        let mut here = Vec::new();
        for blob in &blobs {
            let Ok(Some(file)) = store.blob(*blob) else { continue };
            let is_sound = index.get(blob.sha256)?.is_some_and(|indexed| indexed.identity == file.identity);
            here.push((*blob, is_sound));
        }
        let renewed = || {
            let mut renewed = Ok(());
            for (blob, is_sound) in here {
                // One that refuses keeps no other from it.
                let given = if is_sound { keep.renew(store, blob) } else { keep.fill(store, blob) };
                renewed = renewed.and(given);
            }
            renewed
        };
        across(&index, store, &blobs, renewed)?;
        Ok(self.keep_trees(store, &blobs)?)
    }

    /// Keeps the trees of these files of the store.
    fn keep_trees(&self, store: &Store, blobs: &[BlobSpec]) -> Result<(), Fault> {
        let (index, own) = (self.0.ties.trees.open()?, self.0.ties.kept_trees.open()?);
        for blob in blobs {
            let (Some(indexed), Some(file)) = (index.get(blob.sha256)?, store.blob(*blob)?) else { continue };
            if indexed.identity == file.identity {
                own.put(blob.sha256, &indexed)?;
            }
        }
        Ok(())
    }

    /// Keeps a version for these names, and says so, or why not, where somebody wants to come back to it.
    fn keep_for(&self, store: &Store, keep: &Keep, names: &[ModelName], manifest: &Manifest) {
        let kept = self.put(store, keep, names, manifest);
        if self.0.hours == 0 && !self.is_pinned(manifest.digest()) {
            return;
        }
        for name in names.iter().filter(|_| kept.is_ok()) {
            tracing::info!(model = %name, digest = %manifest.digest(), "a version is kept");
        }
        self.note(kept, names.first());
    }

    /// Gives what models name and the store lacks its names again: a runtime found it before it lost them.
    fn put_back(&self, store: &Store, keep: &Keep, models: &[Scanned]) {
        for scanned in models.iter().filter(|scanned| !scanned.complete) {
            if let Err(error) = self.link_back(store, keep, &scanned.blobs) {
                tracing::warn!(model = %scanned.model.name, %error, "put back the files of a model that are kept");
            }
        }
    }

    /// Gives those of these files that the store lacks and a version has here their names in the store.
    fn link_back(&self, store: &Store, keep: &Keep, blobs: &[BlobSpec]) -> Result<(), PublishError> {
        let is_missing = |blob: &BlobSpec| matches!(store.blob(*blob), Ok(None));
        let missing: Vec<BlobSpec> = blobs.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut linked = Ok(());
        for kept in keep.all()?.into_iter().chain(keep.going()?) {
            if kept.manifest.blobs().iter().any(|blob| missing.contains(blob)) {
                linked = linked.and(store.link_kept(&kept, &missing));
                self.bring_trees_back(store, &kept);
            }
        }
        linked
    }

    fn bring_trees_back(&self, store: &Store, kept: &Kept) {
        if let Err(error) = self.record_trees(store, kept) {
            tracing::warn!(%error, "put the hash trees of a kept version on record");
        }
    }

    fn record_trees(&self, store: &Store, kept: &Kept) -> Result<(), Fault> {
        let (index, own) = (self.0.ties.trees.open()?, self.0.ties.kept_trees.open()?);
        for blob in kept.manifest.blobs() {
            let (Some(indexed), Some(file)) = (own.get(blob.sha256)?, store.blob(blob)?) else { continue };
            let is_known = index.get(blob.sha256)?.is_some_and(|known| known.identity == file.identity);
            if file.identity.has_bytes_of(&indexed.identity) && !is_known {
                index.put(blob.sha256, &Indexed { identity: file.identity, ..indexed })?;
            }
        }
        Ok(())
    }

    /// Takes from the store what only versions name that make way or were let go, and removes the files of the latter,
    /// as far as that is safe. Gives the bytes that became free with each.
    fn clear_up(&self, store: &Store, keep: &Keep, haste: Haste) -> Result<BTreeMap<Digest, u64>, Fault> {
        let going = keep.going()?;
        let (mut versions, stays): (Vec<Kept>, Vec<Kept>) =
            keep.all()?.into_iter().partition(|kept| self.may_go(kept.manifest.digest()));
        versions.extend(going.iter().cloned());
        let pinned: BTreeSet<Digest> = digests(&stays).collect();
        let is_wanted = |sha256: Digest| self.0.counts.has(sha256);
        let keeps_name = |sha256: Digest| pinned.contains(&sha256) || is_wanted(sha256);
        let unsure = |why: Option<String>| self.note_unsure(why);
        let restless = |path: Option<&Path>| self.note_restless(path);
        let now = self.0.ties.clock.now();
        let is_kept = &keeps_name;
        let clearing = Clearing { now, haste, is_wanted: &is_wanted, is_kept, unsure: &unsure, restless: &restless };
        let mut left = store.withdraw(&versions, &Clearing { is_wanted: &keeps_name, ..clearing })?;
        // The pinned version has them still.
        left.retain(|sha256| !pinned.contains(sha256));
        let stay = store.staying(&going, left, &clearing)?;
        let mut freed = BTreeMap::new();
        for kept in going {
            let (digest, blobs) = (kept.manifest.digest(), kept.manifest.blobs());
            if !blobs.is_empty() && blobs.iter().all(|blob| stay.contains(&blob.sha256)) {
                continue;
            }
            let index = self.0.ties.trees.open()?;
            let bytes = across(&index, store, &blobs, || keep.release(&kept, &stay))?;
            if bytes > 0 {
                tracing::info!(%digest, freed_bytes = bytes, "files of a version that was let go are gone");
            }
            freed.insert(digest, bytes);
        }
        Ok(freed)
    }

    /// The versions that are kept and may go. That the files of a pinned one have names in the store takes no room from
    /// anybody, and a runtime that is asked for it finds them there.
    fn making_way(&self, keep: &Keep) -> Result<Vec<Kept>, Fault> {
        let mut kept = keep.all()?;
        kept.retain(|kept| self.may_go(kept.manifest.digest()));
        Ok(kept)
    }

    /// Those that go now. None before it is known what is pinned.
    fn due(&self, store: &Store, kept: Vec<Kept>) -> Vec<Kept> {
        if self.0.pins.borrow().is_none() {
            return Vec::new();
        }
        let (now, kept_ms) = (self.0.ties.clock.now(), u64::from(self.0.hours) * HOUR_MS);
        let free = kept.iter().filter(|kept| !self.is_pinned(kept.manifest.digest())).count();
        let mut above = free.saturating_sub(KEPT_MAX);
        // Where the manifests are away no name stands for anything, as it seems.
        let mut is_sure = None;
        let mut is_sure = || *is_sure.get_or_insert_with(|| matches!(self.named(store), Ok(Some(_))));
        let mut is_due = |kept: &Kept| {
            if self.is_pinned(kept.manifest.digest()) {
                return false;
            }
            let is_above = above > 0;
            above = above.saturating_sub(1);
            let is_old = kept_ms == 0 || now.ms_since(kept.kept_at) > kept_ms;
            is_above || is_old || is_of_no_use(store, kept) && is_sure()
        };
        kept.into_iter().filter(|kept| is_due(kept)).collect()
    }

    fn is_pinned(&self, digest: Digest) -> bool {
        self.0.pins.borrow().as_ref().is_some_and(|pins| pins.contains(&digest))
    }

    /// Whether it is known that nobody pins it.
    fn may_go(&self, digest: Digest) -> bool {
        self.0.pins.borrow().as_ref().is_some_and(|pins| !pins.contains(&digest))
    }

    /// What is kept, once for each of its names.
    fn shown(&self, kept: &Kept) -> Vec<KeptVersion> {
        let (digest, kept_at) = (kept.manifest.digest(), kept.kept_at);
        let until = kept_at.plus_ms(u64::from(self.0.hours) * HOUR_MS);
        let of = |name: &ModelName| KeptVersion {
            name: name.clone(),
            digest,
            size_bytes: kept.manifest.size_bytes(),
            kept_at,
            until: (!self.is_pinned(digest)).then_some(until),
        };
        kept.names.iter().map(of).collect()
    }

    /// Tells what is kept now.
    fn tell(&self, store: &Store, keep: &Keep) {
        let listed = keep.all().and_then(|kept| Ok((kept, keep.going()?)));
        let (kept, going) = listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "list the versions that are kept");
            (Vec::new(), Vec::new())
        });
        self.show(store, &kept, &going);
    }

    fn show(&self, store: &Store, kept: &[Kept], going: &[Kept]) {
        let ties = &self.0.ties;
        let manifest = |kept: &Kept| (kept.manifest.digest(), Bytes::copy_from_slice(kept.manifest.bytes()));
        ties.library.show_kept(self.files(kept, going), kept.iter().map(manifest).collect());
        let knows_pins = self.0.pins.borrow().is_some();
        let all: Vec<&Kept> = kept.iter().chain(going).collect();
        let is_spare = |kept: &&Kept| !self.is_pinned(kept.manifest.digest());
        let spare: Vec<&Kept> = kept.iter().filter(is_spare).chain(going).collect();
        let spare_bytes = if knows_pins { held_bytes(&spare) } else { 0 };
        // While it is not sure what models name nothing makes way.
        let makes_way = spare_bytes > 0 && self.is_sure(store);
        ties.metrics.show_kept(held_bytes(&all));
        let shown = kept.iter().flat_map(|kept| self.shown(kept)).collect();
        let mut told = self.told();
        (told.kept, told.spare_bytes) = (shown, if makes_way { spare_bytes } else { 0 });
        if spare.is_empty() {
            told.restless = None;
        }
        // Where nothing waits for it nobody asks.
        if spare.is_empty() || spare_bytes == 0 && told.is_sure.is_none() {
            told.unsure = None;
        }
    }

    /// Whether it is sure what models name: as whoever asked has heard since the last look began. To find it out is
    /// much to read, and each pull that publishes is shown.
    fn is_sure(&self, store: &Store) -> bool {
        let heard = self.told().is_sure;
        heard.unwrap_or_else(|| matches!(self.named(store), Ok(Some(_))))
    }

    /// The files of kept versions. The trees of those that are not here any more go.
    fn files(&self, kept: &[Kept], going: &[Kept]) -> BTreeMap<Digest, KeptFile> {
        let trees = &self.0.ties.kept_trees;
        let Ok(own) = trees.open() else { return BTreeMap::new() };
        let mut files = BTreeMap::new();
        for kept in kept {
            for blob in kept.manifest.blobs() {
                let file = KeptFile { path: kept.blob_path(blob.sha256), blob, trees: trees.clone() };
                files.insert(blob.sha256, file);
            }
        }
        let going: BTreeSet<Digest> = digests(going).collect();
        let is_here = |sha256: &Digest| files.contains_key(sha256) || going.contains(sha256);
        for sha256 in own.all().unwrap_or_default().into_iter().filter(|sha256| !is_here(sha256)) {
            if let Err(error) = own.remove(sha256) {
                tracing::warn!(%error, "forget the hash tree of a file that is not kept any more");
            }
        }
        files
    }

    /// Writes to the log why a version could not be kept, once.
    fn note(&self, kept: Result<(), KeepError>, name: Option<&ModelName>) {
        let trouble = kept.err().map(|error| error.to_string());
        let mut told = self.told();
        if let Some(reason) = trouble.as_ref().filter(|trouble| told.trouble.as_ref() != Some(*trouble)) {
            let model = name.map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%model, reason, "a version is not kept; there is no way back to it");
        }
        told.trouble = trouble;
    }

    /// Writes to the log why nothing becomes free, once until it is sure again.
    fn note_unsure(&self, reason: Option<String>) {
        let mut told = self.told();
        if let Some(reason) = reason.as_ref().filter(|reason| told.unsure.as_ref() != Some(*reason)) {
            tracing::warn!(reason, "files of replaced versions keep their room: it is not sure what models name");
        }
        (told.is_sure, told.unsure) = (Some(reason.is_none()), reason);
    }

    /// Writes to the log by which file a runtime seems to bring a model, once for as long as it does: which of several
    /// files shows it may be another one at each look.
    fn note_restless(&self, path: Option<&Path>) {
        let mut told = self.told();
        match path {
            None => told.restless = None,
            Some(path) if told.restless.is_none() => {
                told.restless = Some(path.to_owned());
                let path = path.display();
                tracing::info!(%path, "files of replaced versions keep their room: a runtime seems to bring a model");
            }
            Some(_) => {}
        }
    }

    fn work(&self) -> MutexGuard<'_, ()> {
        self.0.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What these models take.
pub(crate) fn sharing_of(models: &[Scanned]) -> Sharing {
    let files = |scanned: &Scanned| scanned.blobs.iter().map(|blob| (blob.sha256, blob.size_bytes)).collect();
    let complete = models.iter().filter(|scanned| scanned.complete);
    let all: Vec<Vec<(Digest, u64)>> = complete.map(files).collect();
    sharing(&all)
}

/// It is kept no longer; its files go when that is safe.
fn let_go(keep: &Keep, kept: &Kept) -> Result<(), Fault> {
    let digest = kept.manifest.digest();
    keep.let_go(digest)?;
    for name in &kept.names {
        tracing::info!(model = %name, %digest, "a version is not kept any more");
    }
    Ok(())
}

/// Whether a model names a file of a version that the store lacks.
fn is_missed(store: &Store, kept: &Kept, named: &BTreeSet<Digest>) -> bool {
    let is_missing = |blob: &BlobSpec| named.contains(&blob.sha256) && matches!(store.blob(*blob), Ok(None));
    kept.manifest.blobs().iter().any(is_missing)
}

/// Takes the oldest of these versions, until together they free so many bytes beside the files that stay.
fn choose(spare: &mut Vec<Kept>, bytes: u64, stays: &dyn Fn(Digest) -> bool) -> Vec<Kept> {
    let mut chosen: Vec<Kept> = Vec::new();
    while held_bytes_but(&chosen.iter().collect::<Vec<_>>(), stays) < bytes {
        let Some(at) = first_that_frees(&spare.iter().collect::<Vec<_>>(), stays) else { break };
        chosen.push(spare.remove(at));
    }
    chosen
}

/// Whether the store has a file of one of these versions that none of these models names.
fn has_unnamed(store: &Store, kept: &[Kept], models: &[Scanned]) -> bool {
    let named: BTreeSet<Digest> = models.iter().flat_map(|model| model.blobs.iter().map(|blob| blob.sha256)).collect();
    let is_unnamed = |blob: BlobSpec| !named.contains(&blob.sha256) && matches!(store.blob(blob), Ok(Some(_)));
    kept.iter().any(|kept| kept.manifest.blobs().into_iter().any(is_unnamed))
}

/// The files of versions.
fn digests(kept: &[Kept]) -> impl Iterator<Item = Digest> {
    kept.iter().flat_map(|kept| kept.manifest.blobs()).map(|blob| blob.sha256)
}

/// Bytes that became free with all of these versions.
fn sum(freed: &BTreeMap<Digest, u64>) -> u64 {
    freed.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
}

/// Each of its names stands for it again, or for nothing, as far as the manifests are there. What cannot be read is of
/// use.
fn is_of_no_use(store: &Store, kept: &Kept) -> bool {
    kept.names.iter().all(|name| match store.manifest(name) {
        Ok(Some((_, stands))) => stands.digest() == kept.manifest.digest(),
        Ok(None) => true,
        Err(_) => false,
    })
}

#[cfg(test)]
mod tests;
