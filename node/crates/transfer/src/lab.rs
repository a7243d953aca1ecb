//! What this node gives to machines that are no members: files of its store, and those on their way to it, in order.
//!
//! A version that this node does not have it makes its own first: from the nodes that have it, else by a wish, for
//! which the registry is asked once. So there is one way for bytes into a node and one out of it, and whoever asks next
//! is served from the disk. Always holds: nothing is given that lies neither in the store nor in a file on its way, and
//! a file that does not come to its end breaks off. Whoever asks and leaves ends nothing. What people want stays on
//! record as they said it: where they named other nodes, this one pulls for itself. A machine's wish for what does not
//! exist is taken back, and of those that stay machines have so many at most that people have room for theirs.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use ollamax_blobs::{BlobFile, BlobSpec, Manifest, Part};
use ollamax_core::catalog::{Refusal, Replicas, Wish};
use ollamax_types::limits::PULL_WATCHERS_MAX;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::error::PullError;
use crate::handle::{Handle, PullSpec};
use crate::library::Library;
use crate::overview::{Overview, OverviewWatch};
use crate::ports::{Ask, LedgerError, OriginError, OriginTrouble};
use crate::progress::{Board, Stage};
use crate::pull::blocking;
use crate::service::Service;

use self::reading::Reading;

mod reading;

/// Most chunks of files on their way that are held for machines that read them, of all of them.
const CHUNKS_HELD_MAX: usize = 32;
/// Most machines that wait for a wish at once: people who watch wishes have their places, too.
const WAITING_MAX: usize = PULL_WATCHERS_MAX / 2;
/// Most wishes of the cluster that stand because a machine asked: people have room for theirs.
const LENT_MAX: usize = 256;
/// What the name of a machine begins with where it is told who asked.
const MACHINE: &str = "registry/";
/// Time between two looks how far a wish is.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks whether a wish came to nothing. Whoever waits for it has seen so by then.
const IN_VAIN_INTERVAL: Duration = Duration::from_secs(10);
/// So often it is looked at.
const IN_VAIN_LOOKS: u32 = 60;

/// What a machine asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The model.
    pub name: ModelName,
    /// The version that the cluster has.
    pub served: Option<Digest>,
    /// The nodes that hold that version, as far as they are alive.
    pub holders: Vec<NodeId>,
    /// Whether it is pulled where the cluster does not have it.
    pub fetch: bool,
    /// Who asks, for people.
    pub asked_by: String,
}

/// A version that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Which one.
    pub digest: Digest,
    /// Its manifest, byte for byte.
    pub manifest: Bytes,
}

/// A range of a file, piece by piece.
pub type Pieces = BoxStream<'static, io::Result<Bytes>>;

/// What a node gives. Clones are the same.
#[derive(Clone)]
pub struct Lab {
    handle: Handle,
    service: Arc<Service>,
    library: Library,
    places: Places,
}

/// Who may wait, of all machines that ask this node.
#[derive(Clone)]
pub(crate) struct Places {
    /// Who may hold a chunk of a file on its way.
    chunks: Arc<Semaphore>,
    /// Who may wait for a wish.
    wishes: Arc<Semaphore>,
}

/// Where a file is.
enum Kept {
    /// In the store.
    Store(Arc<BlobFile>),
    /// On its way.
    Part(Part),
    /// Nothing of it is here yet, and a pull will fetch it.
    Coming,
}

impl fmt::Debug for Lab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lab").field("library", &self.library).finish_non_exhaustive()
    }
}

// === impl Lab ===

impl Lab {
    pub(crate) fn new(handle: Handle, service: Arc<Service>, library: Library, places: Places) -> Self {
        Self { handle, service, library, places }
    }

    /// The manifest of a model that this node has, or makes its own: it answers when its files may be read, also those
    /// that are still to come. That may take as long as another node takes to fetch the model. Dropping it ends no
    /// pull.
    ///
    /// # Errors
    /// When the model cannot be had, or this node has no place for it.
    pub async fn manifest(&self, asked: Asked) -> Result<Offered, PullError> {
        if let Some(served) = asked.served
            && let Some(offered) = self.here(served).await?
        {
            return Ok(offered);
        }
        if let Some(board) = self.service.running(&asked.name)
            && let Some(offered) = unless_cancelled(offered_by(&board).await)?
        {
            return Ok(offered);
        }
        if let Some(served) = asked.served {
            let own = self.service.node;
            let holders: Vec<NodeId> = asked.holders.iter().copied().filter(|node| *node != own).collect();
            if !holders.is_empty() {
                return self.ask_nodes(&asked, served, holders).await;
            }
        }
        let waiting = Arc::clone(&self.places.wishes).try_acquire_owned();
        let waiting = Arc::new(waiting.map_err(|_| PullError::TooMany(WAITING_MAX, WAITING_MAX))?);
        let goes_on = |wish: &Wish| is_under_way(wish) && !is_lost(&asked, wish);
        let wish = self.service.means.ledger.plan(&asked.name).filter(goes_on);
        if let Some(wish) = wish.and_then(|wish| self.handle.overview(&wish.name)) {
            return self.of_wish(&asked, wish).await;
        }
        if asked.fetch { self.ask_outside(&asked, &waiting).await } else { Err(absent()) }
    }

    /// The size of a file that may be read. `None`: it is not here, or not any more.
    pub async fn size(&self, sha256: Digest) -> Option<u64> {
        let blob = self.service.blob(sha256)?;
        self.kept(blob).await.map(|_| blob.size_bytes)
    }

    /// A range of a file, which ends at the end of the file at the latest. `None` as [`Lab::size`].
    pub async fn read(&self, sha256: Digest, range: Range<u64>) -> Option<Pieces> {
        let blob = self.service.blob(sha256)?;
        let kept = self.kept(blob).await?;
        Some(Reading::new(self.clone(), blob, range, kept).pieces())
    }

    /// A version of which every file is here or on its way.
    async fn here(&self, digest: Digest) -> Result<Option<Offered>, PullError> {
        let lab = self.clone();
        blocking(move || {
            let bytes = lab.library.manifest(digest)?;
            let manifest = Manifest::read(&bytes).ok()?;
            let has_all = manifest.blobs().into_iter().all(|blob| lab.find(blob).is_some());
            has_all.then_some(Offered { digest, manifest: bytes })
        })
        .await
    }

    async fn kept(&self, blob: BlobSpec) -> Option<Kept> {
        let lab = self.clone();
        blocking(move || lab.find(blob)).await.ok().flatten()
    }

    /// Where a file is. Blocks on the disk.
    fn find(&self, blob: BlobSpec) -> Option<Kept> {
        if let Some(file) = self.library.file(blob) {
            return Some(Kept::Store(Arc::new(file)));
        }
        if let Some(part) = self.library.part(blob.sha256) {
            return Some(Kept::Part(part));
        }
        self.service.is_coming(blob.sha256).then_some(Kept::Coming)
    }

    /// Gets a version from the nodes that have it.
    async fn ask_nodes(&self, asked: &Asked, digest: Digest, holders: Vec<NodeId>) -> Result<Offered, PullError> {
        self.note(asked, "peers");
        let board = self.service.receive_unplanned(spec_of(asked), digest, holders).await?;
        offered_by(&board).await
    }

    /// Has the cluster ask the registry. A wish that is on record stays as it is; where it names other nodes, which
    /// cannot give it, this one pulls by itself.
    async fn ask_outside(&self, asked: &Asked, place: &Arc<OwnedSemaphorePermit>) -> Result<Offered, PullError> {
        self.note(asked, "origin");
        let ledger = &self.service.means.ledger;
        let before = ledger.plan(&asked.name);
        let insecure = before.as_ref().is_some_and(|wish| wish.insecure);
        let (replicas, is_said) = match before.as_ref().map(|wish| wish.replicas.clone()) {
            Some(Replicas::Nodes(nodes)) if !nodes.contains(&self.service.node) => {
                return self.pull_alone(asked, insecure).await;
            }
            Some(replicas) if replicas != self.here_alone() => (replicas, false),
            Some(_) | None => {
                if before.is_none() {
                    self.check_lent()?;
                }
                if before.as_ref().is_none_or(is_lent) {
                    self.take_back_in_vain(asked.name.clone(), Arc::clone(place));
                }
                (self.here_alone(), true)
            }
        };
        let (name, asked_by) = (asked.name.clone(), asked.asked_by.clone());
        let ask = Ask { name, replicas, is_said, want: None, insecure, version: None, asked_by, once: None };
        match self.handle.ask(ask).await {
            Ok(wish) => self.of_wish(asked, wish).await,
            // Nobody knows wishes.
            Err(PullError::Ledger(LedgerError::NeedsVersion { .. })) => self.pull_alone(asked, insecure).await,
            Err(error) => Err(error),
        }
    }

    /// This node pulls by itself, and nothing goes on record.
    async fn pull_alone(&self, asked: &Asked, insecure: bool) -> Result<Offered, PullError> {
        let spec = PullSpec { insecure, ..spec_of(asked) };
        let digest = self.service.pull(spec).await?.now().digest;
        let found = match digest {
            Some(digest) => self.here(digest).await?,
            None => None,
        };
        found.ok_or(PullError::Stopping)
    }

    /// Whether machines may have one wish more.
    fn check_lent(&self) -> Result<(), PullError> {
        let lent = self.service.means.ledger.wishes().iter().filter(|wish| is_lent(wish)).count();
        if lent < LENT_MAX {
            return Ok(());
        }
        let (what, unit) = ("what machines of the lab have asked for".to_owned(), "wishes".to_owned());
        let (needed, limit) = (lent as u64 + 1, LENT_MAX as u64);
        Err(LedgerError::Refused(Refusal::QuotaExceeded { what, needed, limit, unit }).into())
    }

    /// Takes back a wish that comes to nothing, whether or not the machine still waits for it: else the record would
    /// fill with names that do not exist. Until then it holds the machine's place.
    fn take_back_in_vain(&self, name: ModelName, place: Arc<OwnedSemaphorePermit>) {
        let (lab, stop) = (self.clone(), self.service.stop.clone());
        // It ends with the wish and with the node; if it fails the wish stays on record.
        self.service.tasks.spawn(async move {
            stop.run_until_cancelled(lab.until_in_vain(&name)).await;
            drop(place);
        });
    }

    async fn until_in_vain(&self, name: &ModelName) {
        let is_open = |wish: &Wish| wish.replicas == self.here_alone() && wish.digest.is_none();
        let mut failed = None;
        for _ in 0..IN_VAIN_LOOKS {
            sleep(IN_VAIN_INTERVAL).await;
            let Some(wish) = self.service.means.ledger.plan(name).filter(is_open) else { return };
            let round = (!is_under_way(&wish)).then_some(wish.round);
            if round.is_some() && round == failed {
                if let Err(error) = self.handle.forget(name).await {
                    tracing::debug!(model = %name, %error, "take back a wish that came to nothing");
                }
                return;
            }
            failed = round;
        }
    }

    /// One copy, on this node.
    fn here_alone(&self) -> Replicas {
        Replicas::Nodes(vec![self.service.node])
    }

    /// The version of a wish: what comes to this node as it comes, else when another node has it.
    async fn of_wish(&self, asked: &Asked, mut wish: OverviewWatch) -> Result<Offered, PullError> {
        loop {
            let now = wish.now();
            if let Some(digest) = now.digest
                && let Some(offered) = self.here(digest).await?
            {
                return Ok(offered);
            }
            // One that gave way to another round of the wish says nothing.
            if let Some(board) = self.service.running(&asked.name)
                && let Some(offered) = unless_cancelled(offered_by(&board).await)?
            {
                return Ok(offered);
            }
            let is_planned = now.copies.iter().any(|copy| copy.node == self.service.node);
            let holders = holders_of(&now);
            if let Some(digest) = now.digest
                && !is_planned
                && !holders.is_empty()
            {
                return self.ask_nodes(asked, digest, holders).await;
            }
            if now.is_over {
                return Err(self.failure(&now));
            }
            tokio::select! {
                goes_on = wish.changed() => {
                    if !goes_on {
                        return Err(PullError::Stopping);
                    }
                }
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Why a wish that is over gave this node nothing.
    fn failure(&self, over: &Overview) -> PullError {
        let own = over.copies.iter().find(|copy| copy.node == self.service.node);
        match own.map(|copy| &copy.progress.stage) {
            Some(Stage::Failed(error)) => error.clone(),
            _ => over.error().unwrap_or_else(absent),
        }
    }

    fn note(&self, asked: &Asked, source: &'static str) {
        let Asked { name, asked_by, .. } = asked;
        self.service.means.metrics.lent(source);
        tracing::info!(model = %name, asked_by, source, "a machine asks for a model that is not here");
    }
}

// === impl Places ===

impl Places {
    pub(crate) fn new() -> Self {
        let [chunks, wishes] = [CHUNKS_HELD_MAX, WAITING_MAX].map(|places| Arc::new(Semaphore::new(places)));
        Self { chunks, wishes }
    }
}

fn spec_of(asked: &Asked) -> PullSpec {
    PullSpec { name: asked.name.clone(), insecure: false, asked_by: asked.asked_by.clone() }
}

/// Whether a wish stands because a machine asked.
fn is_lent(wish: &Wish) -> bool {
    wish.asked_by.split_whitespace().last().is_some_and(|by| by.starts_with(MACHINE))
}

/// Whether something may still come of a wish.
fn is_under_way(wish: &Wish) -> bool {
    let has_failed = |node: &NodeId| wish.failures.contains_key(node);
    match &wish.plan {
        Some(plan) => !has_failed(&plan.ingester) && plan.targets.iter().any(|node| !has_failed(node)),
        None => wish.failures.is_empty(),
    }
}

/// Whether a wish has spread what the cluster has, where no node that has it is left to ask: nobody may ever tell more
/// of it.
fn is_lost(asked: &Asked, wish: &Wish) -> bool {
    asked.served.is_some() && wish.digest == asked.served
}

/// The nodes that have a wish done.
fn holders_of(overview: &Overview) -> Vec<NodeId> {
    let done = overview.copies.iter().filter(|copy| copy.progress.stage == Stage::Done);
    done.map(|copy| copy.node).collect()
}

/// The version that a pull stands for, once there is room for it; from then on its files come.
async fn offered_by(board: &Board) -> Result<Offered, PullError> {
    let mut watch = board.watch_anyway();
    loop {
        let now = watch.now();
        match (&now.stage, board.manifest()) {
            (Stage::Failed(error), _) => return Err(error.clone()),
            (Stage::Resolving, _) | (_, None) => {}
            (_, Some(manifest)) => {
                let bytes = Bytes::copy_from_slice(manifest.bytes());
                return Ok(Offered { digest: manifest.digest(), manifest: bytes });
            }
        }
        if !watch.changed().await {
            return Err(PullError::Stopping);
        }
    }
}

/// Nothing where somebody ended the pull: others may go on.
fn unless_cancelled(offered: Result<Offered, PullError>) -> Result<Option<Offered>, PullError> {
    match offered {
        Ok(offered) => Ok(Some(offered)),
        Err(PullError::Cancelled) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nobody has it.
fn absent() -> PullError {
    let (kind, code) = (OriginTrouble::Absent, ErrorCode::ModelNotFound);
    PullError::Manifest(OriginError { kind, code, text: "file does not exist".to_owned() })
}
