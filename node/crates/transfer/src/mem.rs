//! The ports in memory: an origin with faults, a runtime that is a folder, other nodes by their handles, and the record
//! that they share.
//!
//! For tests and simulations. Time is tokio's, so a paused clock plays hours in moments. Clones are the same.

mod fetching;
mod ledger;
mod peers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;
use tokio::time::sleep;

use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::error::PullError;
use crate::handle::{Handle, PullLimit, PullSpec};
use crate::keeping::KeptVersion;
use crate::ports::{
    FetchStep, Listing, Opened, Origin, OriginError, OriginTrouble, Others, Place, PullStream, Runtime, RuntimeTrouble,
    Wanted,
};
use crate::progress::{PullProgress, Watch};
use crate::shelf::Shelf;
use crate::verify::{self, VerifyOrder, VerifyStream};

use fetching::Fetching;

pub use fetching::{FetchFault, MemOffer};
pub use ledger::{MemCluster, MemLedger};
pub use peers::{MemPeers, PeerFault};

/// Longest piece of a body.
const PIECE_BYTES: u64 = 256 << 10;
/// How long a call to a runtime takes that says nothing.
const SILENCE: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Instead(OriginTrouble),
    /// It breaks off after so many bytes.
    CutAfter(u64),
    /// It falls silent after so many bytes, and nobody says so.
    SilentAfter(u64),
}

/// An origin that has what was put into it.
#[derive(Debug, Clone)]
pub struct MemOrigin {
    shop: Arc<Mutex<Shop>>,
    /// How many bytes it sends in all.
    limit: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Shop {
    manifests: BTreeMap<ModelName, Bytes>,
    /// Those that can be had by their digests.
    versions: BTreeMap<Digest, Bytes>,
    files: BTreeMap<Digest, Bytes>,
    manifest_faults: VecDeque<OriginTrouble>,
    faults: VecDeque<Fault>,
    knows_no_ranges: bool,
    manifests_asked: u32,
    asked: Vec<Wanted>,
    sent: BTreeMap<Digest, u64>,
    open: usize,
    open_max: usize,
}

/// A body on its way out.
struct Sending {
    origin: MemOrigin,
    sha256: Digest,
    rest: Bytes,
    fault: Option<Fault>,
    sent: u64,
}

/// A runtime that says where its folder is, and counts how often it is asked to list again.
#[derive(Debug, Clone)]
pub struct MemRuntime {
    state: Arc<Mutex<Folder>>,
}

#[derive(Debug)]
struct Folder {
    place: Place,
    looks: u32,
    /// `None`: it never lists what is new.
    listing: Option<Listing>,
    is_known: bool,
    is_down: bool,
    /// It runs, and does not say in time what it has.
    is_mute: bool,
    /// It is asked to delete, and does not do so in time.
    is_late: bool,
    /// Whether it does what it is asked to delete; else it takes its time.
    deletes: watch::Sender<bool>,
    fetching: Fetching,
}

/// Other nodes, by their handles.
#[derive(Debug, Clone, Default)]
pub struct MemOthers {
    nodes: Arc<Mutex<BTreeMap<NodeId, Handle>>>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
}

// === impl MemOrigin ===

impl Default for MemOrigin {
    fn default() -> Self {
        Self { shop: Arc::default(), limit: watch::Sender::new(u64::MAX) }
    }
}

impl MemOrigin {
    /// Lets a name stand for a manifest.
    pub fn put_manifest(&self, name: ModelName, manifest: impl Into<Bytes>) {
        lock(&self.shop).manifests.insert(name, manifest.into());
    }

    /// Gives a manifest to whoever asks for it by its digest.
    pub fn put_version(&self, digest: Digest, manifest: impl Into<Bytes>) {
        lock(&self.shop).versions.insert(digest, manifest.into());
    }

    /// Has these bytes for a file, whatever their digest is.
    pub fn put_file(&self, sha256: Digest, bytes: impl Into<Bytes>) {
        lock(&self.shop).files.insert(sha256, bytes.into());
    }

    /// Lets the next questions for a manifest fail, one after the other.
    pub fn fail_manifests(&self, troubles: impl IntoIterator<Item = OriginTrouble>) {
        lock(&self.shop).manifest_faults.extend(troubles);
    }

    /// Lets the next answers for files fail, one after the other.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.shop).faults.extend(faults);
    }

    /// Sends whole files from now on, whatever range is asked for.
    pub fn forget_ranges(&self) {
        lock(&self.shop).knows_no_ranges = true;
    }

    /// Sends no more than so many bytes in all; the rest waits until the limit is another.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.send_replace(bytes);
    }

    /// How often a manifest was asked for.
    #[must_use]
    pub fn manifests_asked(&self) -> u32 {
        lock(&self.shop).manifests_asked
    }

    /// The ranges that were asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<Wanted> {
        lock(&self.shop).asked.clone()
    }

    /// Bytes of a file that were sent.
    #[must_use]
    pub fn sent(&self, sha256: Digest) -> u64 {
        lock(&self.shop).sent.get(&sha256).copied().unwrap_or_default()
    }

    /// Bodies that are open.
    #[must_use]
    pub fn open_now(&self) -> usize {
        lock(&self.shop).open
    }

    /// Most bodies that were open at once.
    #[must_use]
    pub fn open_max(&self) -> usize {
        lock(&self.shop).open_max
    }

    fn answer(&self, wanted: Wanted) -> Result<Opened, OriginError> {
        let mut shop = lock(&self.shop);
        let sha256 = wanted.blob.sha256;
        let range = if shop.knows_no_ranges { 0..wanted.blob.size_bytes } else { wanted.from..wanted.until };
        shop.asked.push(wanted);
        let fault = shop.faults.pop_front();
        if let Some(Fault::Instead(kind)) = fault {
            return Err(trouble(kind));
        }
        let file = shop.files.get(&sha256).cloned().ok_or_else(|| trouble(OriginTrouble::Absent))?;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(file.len());
        let rest = file.slice(place(range.start)..place(range.end));
        shop.open += 1;
        shop.open_max = shop.open_max.max(shop.open);
        let whole = shop.knows_no_ranges;
        let sending = Sending { origin: self.clone(), sha256, rest, fault, sent: 0 };
        let body = stream::try_unfold(sending, Sending::next).boxed();
        Ok(Opened { whole, body })
    }
}

impl Origin for MemOrigin {
    fn manifest(&self, name: &ModelName, _insecure: bool) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let mut shop = lock(&self.shop);
        shop.manifests_asked += 1;
        let answer = match shop.manifest_faults.pop_front() {
            Some(kind) => Err(trouble(kind)),
            None => shop.manifests.get(name).cloned().ok_or_else(|| trouble(OriginTrouble::Absent)),
        };
        async { answer }.boxed()
    }

    fn manifest_of(
        &self,
        _name: &ModelName,
        digest: Digest,
        _insecure: bool,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let mut shop = lock(&self.shop);
        shop.manifests_asked += 1;
        let answer = shop.versions.get(&digest).cloned().ok_or_else(|| trouble(OriginTrouble::Absent));
        async { answer }.boxed()
    }

    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OriginError>> {
        let answer = self.answer(wanted);
        async { answer }.boxed()
    }
}

/// In the words of a registry.
fn trouble(kind: OriginTrouble) -> OriginError {
    let (code, text) = match kind {
        OriginTrouble::Absent => (ErrorCode::ModelNotFound, "file does not exist"),
        OriginTrouble::Refused => (ErrorCode::OriginRefused, "models.lan wants a login that this node does not have"),
        OriginTrouble::Busy { .. } => (ErrorCode::OriginFailed, "models.lan is busy (status 429)"),
        OriginTrouble::Cut => (ErrorCode::OriginFailed, "models.lan broke off"),
        OriginTrouble::Stalled => (ErrorCode::OriginFailed, "models.lan sent no byte for 30 s"),
        OriginTrouble::Unreachable => (ErrorCode::OriginFailed, "models.lan cannot be reached"),
        OriginTrouble::Garbled => (ErrorCode::ManifestInvalid, "models.lan answers something else"),
    };
    OriginError { kind, code, text: text.to_owned() }
}

// === impl Sending ===

impl Sending {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, OriginError> {
        let left = match self.fault {
            Some(Fault::CutAfter(bytes)) if self.sent >= bytes => return Err(trouble(OriginTrouble::Cut)),
            Some(Fault::SilentAfter(bytes)) if self.sent >= bytes => return pending().await,
            Some(Fault::CutAfter(bytes) | Fault::SilentAfter(bytes)) => bytes - self.sent,
            Some(Fault::Instead(_)) | None => u64::MAX,
        };
        let bytes = left.min(PIECE_BYTES).min(self.rest.len() as u64);
        if bytes == 0 {
            return Ok(None);
        }
        self.wait_for_leave(bytes).await;
        let piece = self.rest.split_to(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.sent += bytes;
        Ok(Some((piece, self)))
    }

    /// Waits until so many bytes more may be sent, and counts them.
    async fn wait_for_leave(&self, bytes: u64) {
        let mut limit = self.origin.limit.subscribe();
        loop {
            let most = *limit.borrow_and_update();
            {
                let mut shop = lock(&self.origin.shop);
                let sum = shop.sent.values().fold(bytes, |sum, sent| sum.saturating_add(*sent));
                if sum <= most {
                    *shop.sent.entry(self.sha256).or_default() += bytes;
                    return;
                }
            }
            if limit.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.origin.shop).open -= 1;
    }
}

// === impl MemRuntime ===

impl MemRuntime {
    /// A runtime that keeps its models there, and lists at once what is new.
    #[must_use]
    pub fn at(place: Place) -> Self {
        let listing = Some(Listing::Listed);
        let (deletes, fetching) = (watch::Sender::new(true), Fetching::default());
        let (is_down, is_mute, is_late) = (false, false, false);
        let folder = Folder { place, looks: 0, listing, is_known: true, is_down, is_mute, is_late, deletes, fetching };
        Self { state: Arc::new(Mutex::new(folder)) }
    }

    /// Moves it.
    pub fn set_place(&self, place: Place) {
        self.lock().place = place;
    }

    /// What it says of new models from now on; `None` is nothing, ever.
    pub fn set_listing(&self, listing: Option<Listing>) {
        self.lock().listing = listing;
    }

    /// Whether the cluster knows of new models from now on.
    pub fn set_known(&self, is_known: bool) {
        self.lock().is_known = is_known;
    }

    /// Whether it says nothing of what it has from now on, and removes nothing: it does not run.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// Whether it runs from now on and does not say in time what it has.
    pub fn set_mute(&self, is_mute: bool) {
        self.lock().is_mute = is_mute;
    }

    /// Whether from now on it does not do in time what it is asked to delete.
    pub fn set_late(&self, is_late: bool) {
        self.lock().is_late = is_late;
    }

    /// Whether it does what it is asked to delete; until it does, it does not answer.
    pub fn set_deleting(&self, deletes: bool) {
        self.lock().deletes.send_replace(deletes);
    }

    /// From which shelf it fetches from now on.
    pub fn set_shelf(&self, shelf: Shelf) {
        self.lock().fetching.shelf = Some(shelf);
    }

    /// What goes wrong with its next fetches, in order.
    pub fn add_fetch_fault(&self, fault: FetchFault) {
        self.lock().fetching.faults.push_back(fault);
    }

    /// The names under which it was asked to fetch, in order.
    #[must_use]
    pub fn fetched(&self) -> Vec<ModelName> {
        self.lock().fetching.asked.clone()
    }

    /// How often it was asked to list its models again.
    #[must_use]
    pub fn looks(&self) -> u32 {
        self.lock().looks
    }

    fn lock(&self) -> MutexGuard<'_, Folder> {
        lock(&self.state)
    }
}

impl Runtime for MemRuntime {
    fn place(&self) -> Place {
        self.lock().place.clone()
    }

    fn look(&self) {
        self.lock().looks += 1;
    }

    fn lists(&self, _name: &ModelName, _digest: Digest) -> BoxFuture<'static, Listing> {
        match self.lock().listing {
            Some(listing) => async move { listing }.boxed(),
            None => pending().boxed(),
        }
    }

    fn known(&self, _name: &ModelName, _digest: Digest) -> BoxFuture<'static, ()> {
        if self.lock().is_known { async {}.boxed() } else { pending().boxed() }
    }

    fn shelf(&self) -> Result<Shelf, String> {
        self.lock().fetching.shelf.clone().ok_or_else(|| "it fetches nothing".to_owned())
    }

    fn fetch(&self, name: &ModelName) -> BoxStream<'static, Result<FetchStep, RuntimeTrouble>> {
        let mut folder = self.lock();
        folder.fetching.asked.push(name.clone());
        let (fault, shelf) = (folder.fetching.faults.pop_front(), folder.fetching.shelf.clone());
        fetching::fetch(&folder.place, shelf, name, fault)
    }

    fn holds(&self, name: &ModelName) -> BoxFuture<'static, Result<Option<Digest>, RuntimeTrouble>> {
        let folder = self.lock();
        let is_silent = folder.is_mute && !folder.is_down;
        let held = match (folder.is_down, folder.is_mute) {
            (true, _) => Err(fetching::down()),
            (false, true) => Err(fetching::mute()),
            (false, false) => fetching::holds(&folder.place, name),
        };
        async move {
            if is_silent {
                sleep(SILENCE).await;
            }
            held
        }
        .boxed()
    }

    fn copy(&self, from: &ModelName, to: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>> {
        let copied = fetching::copy(&self.lock().place, from, to);
        async { copied }.boxed()
    }

    fn delete(&self, name: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>> {
        let (runtime, name) = (self.clone(), name.clone());
        let mut deletes = self.lock().deletes.subscribe();
        async move {
            let is_gone = deletes.wait_for(|deletes| *deletes).await.is_err();
            let folder = runtime.lock();
            match (is_gone || folder.is_down, folder.is_late) {
                (true, _) => Err(fetching::down()),
                (false, true) => Err(fetching::mute()),
                (false, false) => fetching::delete(&folder.place, &name),
            }
        }
        .boxed()
    }
}

// === impl MemOthers ===

impl MemOthers {
    /// Makes a node reachable, in place of one that had its id before.
    pub fn link(&self, node: NodeId, handle: Handle) {
        lock(&self.nodes).insert(node, handle);
    }

    /// Makes a node unreachable for new questions.
    pub fn unlink(&self, node: NodeId) {
        lock(&self.nodes).remove(&node);
    }

    /// Cuts all connections that are open.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn handle(&self, node: NodeId) -> Result<Handle, PullError> {
        lock(&self.nodes).get(&node).cloned().ok_or_else(|| unreachable_node(node))
    }
}

impl Others for MemOthers {
    fn pull(&self, to: NodeId, spec: PullSpec) -> BoxFuture<'static, Result<PullStream, PullError>> {
        let (handle, cuts) = (self.handle(to), self.cuts.subscribe());
        let ask = async move {
            let watch = handle?.pull(spec).await.map_err(|error| told_by(to, &error))?;
            Ok::<PullStream, PullError>(
                stream::unfold(Some((watch, cuts, true)), move |state| next_told(to, state)).boxed(),
            )
        };
        ask.boxed()
    }

    fn cancel(&self, to: NodeId, name: ModelName) -> BoxFuture<'static, Result<bool, PullError>> {
        let handle = self.handle(to);
        async move { Ok::<bool, PullError>(handle?.cancel(&name).await) }.boxed()
    }

    fn verify(&self, to: NodeId, order: VerifyOrder) -> VerifyStream {
        match self.handle(to) {
            Ok(handle) => handle.verify(order),
            Err(error) => verify::refused(error),
        }
    }

    fn limit(&self, to: NodeId, limit: PullLimit) -> BoxFuture<'static, Result<bool, PullError>> {
        let limited = self.handle(to).map(|handle| handle.limit_pull(&limit.name, limit.rate, limit.ahead));
        async { limited }.boxed()
    }

    fn kept(&self, to: NodeId, name: Option<ModelName>) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let kept = self.handle(to).map(|handle| handle.kept_of(name.as_ref()));
        async { kept }.boxed()
    }

    fn sweep(&self, to: NodeId, dry_run: bool) -> BoxFuture<'static, Result<Vec<KeptVersion>, PullError>> {
        let handle = self.handle(to);
        async move { handle?.sweep(dry_run).await }.boxed()
    }
}

/// A watch, the cuts, and whether nothing was told yet.
type Telling = Option<(Watch, watch::Receiver<u64>, bool)>;

async fn next_told(node: NodeId, telling: Telling) -> Option<(Result<PullProgress, PullError>, Telling)> {
    let (mut watch, mut cuts, is_first) = telling?;
    if !is_first {
        let changed = tokio::select! {
            biased;
            _ = cuts.changed() => return Some((Err(unreachable_node(node)), None)),
            changed = watch.changed() => changed,
        };
        if !changed {
            return None;
        }
    }
    let now = PullProgress::clone(&watch.now());
    Some((Ok(now), Some((watch, cuts, false))))
}

fn told_by(node: NodeId, error: &PullError) -> PullError {
    PullError::Elsewhere { node, code: error.code(), text: error.to_string() }
}

fn unreachable_node(node: NodeId) -> PullError {
    PullError::Elsewhere { node, code: ErrorCode::PeerUnreachable, text: "no connection".to_owned() }
}
