//! Where the version and the files of a pull come from: a registry, or the nodes that have them.
//!
//! A pull that somebody asked of this node alone takes all from the registry. One that the cluster wishes either finds
//! out for all what the name stands for, and fetches what no node has, or gets all of it from other nodes and never
//! asks the registry. One that somebody sent in a bundle asks nobody (`bundled`). Always holds: what comes from nodes
//! is compared with a hash before it is written; that is proved by a root on record, or while there is none told by the
//! node that fetches for all, and then the file's own digest decides in the end, here as anywhere. So others receive
//! while that node still downloads, and need no majority for it. Whoever has nothing to do yet waits and says for what;
//! it ends when whoever fetches for all has failed and nobody takes its place. Who takes that place keeps what it has,
//! and asks others before the registry for what they have of the rest.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use ollamax_blobs::{BlobSpec, Manifest, Part, Space, Store, Tree};
use ollamax_core::catalog::{Failure, Wish};
use ollamax_core::placement::is_of_the_node;
use ollamax_core::rates::Urgency;
use ollamax_types::{Digest, ErrorCode, NodeId};

use crate::bundle::Bundled;
use crate::class::Class;
use crate::error::PullError;
use crate::limits::Gate;
use crate::ports::{Assignment, Duty, OriginError, OriginTrouble};
use crate::progress::{PullProgress, Stage, Wait};

use super::chase::Chaser;
use super::told::{Proof, Told};
use super::{Ground, Pull, Turn, blocking, fetch, resume, swarm, tree};

/// Time between two looks whether what is waited for is on record.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks why it is not.
const REASON_INTERVAL: Duration = Duration::from_secs(5);
/// How long another node may take to say one thing that helps, and without which it goes on as well.
const HINT_WAIT: Duration = Duration::from_secs(2);
/// How long the leader may take to plan anew where another node may do what one could not.
pub(crate) const PLAN_WAIT: Duration = Duration::from_secs(5);
/// Most files whose hashes are kept as they were told.
const HINTS_MAX: usize = 64;

/// On whose behalf a model is pulled.
pub(crate) enum Course {
    /// Somebody asked this node.
    Asked,
    /// The cluster decided it.
    Wished(Wished),
    /// Somebody sent it.
    Bundled(Box<Bundled>),
}

/// What the cluster decided for this node, as far as one pull is concerned.
pub(crate) struct Wished {
    /// What is to be done. It is told anew when more is known of it.
    pub(crate) assignment: watch::Receiver<Assignment>,
    /// A version that was put under the name after this moment is newer than the wish; milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// What an earlier process had chosen for this name.
    pub(crate) kept: Option<Manifest>,
    /// The registry gave no version, and what nodes have is spread.
    pub(crate) is_spread: AtomicBool,
    /// No node had a file whose root is on record; so none is asked for the next one.
    is_alone: AtomicBool,
    hints: Hints,
}

/// What was told of the files of a model that are not whole here, for whoever fetches them next on this node. Clones
/// are the same.
#[derive(Clone, Default)]
pub(crate) struct Hints(Arc<Mutex<BTreeMap<Digest, Told>>>);

/// Why no version is on record.
struct Reason {
    wait: Wait,
    looked_at: Instant,
}

// === impl Wished ===

impl Wished {
    pub(crate) fn new(
        assignment: watch::Receiver<Assignment>,
        since_ms: u64,
        kept: Option<Manifest>,
        hints: Hints,
    ) -> Self {
        let (is_spread, is_alone) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { assignment, since_ms, kept, is_spread, is_alone, hints }
    }

    fn now(&self) -> Assignment {
        self.assignment.borrow().clone()
    }

    /// Whether the record knows nothing of it: other nodes have it, and this one gets it all the same.
    fn is_unplanned(&self) -> bool {
        self.assignment.borrow().round == 0
    }

    /// Whether the registry is not asked for files.
    pub(super) fn is_from_nodes(&self) -> bool {
        self.is_spread.load(Ordering::Relaxed) || self.assignment.borrow().duty == Duty::Receive
    }
}

// === impl Hints ===

impl Hints {
    /// Another node brings this file: what that one tells is kept.
    fn begin(&self, blob: BlobSpec) -> Told {
        let (told, mut hints) = (Told::new(blob), self.lock());
        if hints.len() >= HINTS_MAX && !hints.contains_key(&blob.sha256) {
            hints.pop_first();
        }
        hints.insert(blob.sha256, told.clone());
        told
    }

    /// What was told of a file, if anything was.
    fn of(&self, sha256: Digest) -> Option<Told> {
        self.lock().get(&sha256).filter(|told| !told.is_empty()).cloned()
    }

    /// All of it is here, or what was told of it is wrong.
    fn forget(&self, sha256: Digest) {
        self.lock().remove(&sha256);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Course ===

impl Course {
    /// Whether this node brings the files into the cluster, so that what it says of them counts.
    pub(super) fn brings(&self) -> bool {
        matches!(self, Self::Wished(wished) if wished.assignment.borrow().duty == Duty::Ingest)
    }

    /// Whether somebody waits for it.
    fn urgency(&self) -> Urgency {
        match self {
            Self::Wished(wished) if wished.assignment.borrow().in_background => Urgency::Background,
            Self::Asked | Self::Wished(_) | Self::Bundled(_) => Urgency::Asked,
        }
    }

    /// What of the disk stays free beside the model, whatever this node is configured to keep.
    pub(super) fn disk_free_bytes_min(&self) -> u64 {
        match self {
            Self::Wished(wished) => wished.assignment.borrow().disk_free_bytes_min,
            Self::Asked | Self::Bundled(_) => 0,
        }
    }

    /// Whether it goes on after a restart.
    pub(crate) const fn is_kept(&self) -> bool {
        !matches!(self, Self::Bundled(_))
    }

    /// How it ended. What does not go on by itself says so.
    pub(crate) fn ended(&self, outcome: Result<(), PullError>) -> Result<(), PullError> {
        match outcome {
            Err(PullError::Stopping) if !self.is_kept() => Err(PullError::Bundle {
                code: ErrorCode::Draining,
                text: "this node is stopping; import the bundle again when it has started".to_owned(),
            }),
            outcome => outcome,
        }
    }
}

// === impl Pull ===

impl Pull {
    /// Since when another version under the name is newer than what is pulled; `None` where it was asked for just now.
    pub(super) fn asked_at_ms(&self) -> Option<u64> {
        match &self.course {
            Course::Asked => self.chosen.as_ref().map(|chosen| chosen.asked_at_ms),
            Course::Wished(wished) => Some(wished.since_ms),
            Course::Bundled(bundled) => Some(bundled.since_ms),
        }
    }

    /// Which version a wish stands for.
    pub(super) async fn resolve_wish(&self, wished: &Wished) -> Result<Manifest, PullError> {
        let Assignment { digest, duty, .. } = wished.now();
        match (digest, duty) {
            (Some(digest), duty) => self.recall(wished, digest, duty).await,
            (None, Duty::Ingest) => self.choose(wished).await,
            (None, Duty::Receive) => {
                let digest = self.unless_ended(self.until_resolved(wished)).await?;
                self.recall(wished, digest, Duty::Receive).await
            }
        }
    }

    /// What the registry says; where it has no answer, what this node or another has.
    async fn choose(&self, wished: &Wished) -> Result<Manifest, PullError> {
        let asked = async {
            let turn = self.means.asking.acquire().await.expect("it is never closed");
            let answer = self.ask_for_manifest().await;
            drop(turn);
            answer
        };
        let error = match self.unless_ended(asked).await {
            Ok(bytes) => return Manifest::read(&bytes).map_err(PullError::BadManifest),
            Err(PullError::Manifest(error)) => error,
            Err(error) => return Err(error),
        };
        let Some(manifest) = self.unless_ended(self.served(wished)).await? else {
            return Err(PullError::Manifest(error));
        };
        let OriginError { code, text, .. } = error;
        let (model, digest) = (&self.spec.name, manifest.digest());
        // What somebody made in the cluster is in no registry. One that does not answer hides what is newer.
        if code == ErrorCode::ModelNotFound {
            tracing::info!(%model, %digest, "the registry has none; a version of nodes is spread");
        } else {
            tracing::warn!(%model, %code, reason = text, "no answer of the registry; what nodes have is spread");
            self.board.remark(&unanswered(code, &text, digest));
        }
        wished.is_spread.store(true, Ordering::Relaxed);
        Ok(manifest)
    }

    /// The version that this node has, all of it; else one that another has and that is on record, file by file.
    async fn served(&self, wished: &Wished) -> Result<Option<Manifest>, PullError> {
        if let Some((store, manifest)) = self.stored().await? {
            let wanted = manifest.clone();
            let lacks = move || wanted.blobs().into_iter().any(|blob| !matches!(store.blob(blob), Ok(Some(_))));
            if !blocking(lacks).await? {
                return Ok(Some(manifest));
            }
        }
        for node in wished.now().others {
            let Some(digest) = self.had_by(node).await else { continue };
            let Some(manifest) = self.manifest_of(&[node], digest).await else { continue };
            let is_on_record = |blob: BlobSpec| self.means.ledger.bound(blob.sha256).is_some();
            if manifest.blobs().into_iter().all(is_on_record) {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }

    /// What the name stands for in the store beside this node.
    pub(super) async fn stored(&self) -> Result<Option<(Store, Manifest)>, PullError> {
        let (runtime, name) = (Arc::clone(&self.means.runtime), self.spec.name.clone());
        blocking(move || {
            let store = runtime.place().store().ok()?;
            let (_, manifest) = store.manifest(&name).ok().flatten()?;
            Some((store, manifest))
        })
        .await
    }

    /// The version, if any name of the store beside this node stands for it now. The runtime tells the cluster of what
    /// somebody made there before adoption has looked, and then another name is wished for it.
    async fn stored_as(&self, digest: Digest) -> Result<Option<Manifest>, PullError> {
        let runtime = Arc::clone(&self.means.runtime);
        blocking(move || {
            let store = runtime.place().store().ok()?;
            store.manifest_among(&store.scan().ok()?.models, digest)
        })
        .await
    }

    /// Which version of the model another node says it has.
    async fn had_by(&self, node: NodeId) -> Option<Digest> {
        let mut told = self.means.peers.watch(node, self.spec.name.clone());
        let first = timeout(HINT_WAIT, told.next()).await.ok()??.ok()?;
        first.digest.filter(|_| first.stage == Stage::Done)
    }

    /// The manifest of a version, if one of these nodes gives it soon.
    async fn manifest_of(&self, nodes: &[NodeId], digest: Digest) -> Option<Manifest> {
        let patience = self.means.config.patience();
        let found = tree::find_manifest(&*self.means.peers, nodes, digest, patience);
        timeout(HINT_WAIT, found).await.ok()?.ok()
    }

    /// The manifest of a version that was chosen before, here or by another node.
    async fn recall(&self, wished: &Wished, digest: Digest, duty: Duty) -> Result<Manifest, PullError> {
        if let Some(kept) = wished.kept.as_ref().filter(|kept| kept.digest() == digest) {
            return Ok(kept.clone());
        }
        if let Some((_, stored)) = self.stored().await?
            && stored.digest() == digest
        {
            return Ok(stored);
        }
        // Whoever takes the place of another that fetched for all has heard of it before.
        let library = self.means.library.clone();
        let known = blocking(move || library.manifest(digest)).await?;
        if let Some(known) = known.and_then(|bytes| Manifest::read(&bytes).ok()) {
            return Ok(known);
        }
        if let Some(stored) = self.stored_as(digest).await? {
            return Ok(stored);
        }
        match duty {
            Duty::Ingest => self.unless_ended(self.ask_again(wished, digest)).await,
            Duty::Receive => {
                let others = wished.now().others;
                let patience = self.means.config.patience();
                let found = tree::find_manifest(&*self.means.peers, &others, digest, patience);
                self.unless_ended(self.unless_in_vain(wished, found)).await
            }
        }
    }

    /// Nodes may have the manifest still, or keep it; the registry may stand for another version by now, and have this
    /// one by its digest all the same.
    async fn ask_again(&self, wished: &Wished, digest: Digest) -> Result<Manifest, PullError> {
        if let Some(manifest) = self.manifest_of(&wished.now().others, digest).await {
            return Ok(manifest);
        }
        let named = self.ask_for_manifest().await;
        let named = named.ok().and_then(|bytes| Manifest::read(&bytes).ok());
        if let Some(named) = named.filter(|named| named.digest() == digest) {
            return Ok(named);
        }
        let origin = &self.means.origin;
        let bytes = origin.manifest_of(&self.spec.name, digest, self.spec.insecure).await;
        let bytes = bytes.map_err(|error| PullError::Manifest(self.nobody_keeps(digest, error)))?;
        let manifest = Manifest::read(&bytes).map_err(PullError::BadManifest)?;
        let found = manifest.digest();
        if found == digest { Ok(manifest) } else { Err(PullError::Digest { wanted: digest, found }) }
    }

    /// No node has a version any more. A registry that does not have it by its digest says no more than that.
    fn nobody_keeps(&self, digest: Digest, error: OriginError) -> OriginError {
        if error.kind != OriginTrouble::Absent {
            return error;
        }
        let text = format!("nobody keeps version {} of {}", digest.short(), self.spec.name);
        OriginError { text, ..error }
    }

    /// Waits until whoever fetches for all has found out what the name stands for, and that is on record.
    async fn until_resolved(&self, wished: &Wished) -> Result<Digest, PullError> {
        let mut assignment = wished.assignment.clone();
        let resolved = async move {
            let mut reason = Reason { wait: Wait::FirstCopy, looked_at: Instant::now() };
            loop {
                let digest = assignment.borrow_and_update().digest;
                if let Some(digest) = digest {
                    return Ok(digest);
                }
                reason.look(self, wished).await;
                self.board.wait_for(reason.wait.clone());
                tokio::select! {
                    changed = assignment.changed() => if changed.is_err() {
                        // It is about to be cancelled.
                        pending::<()>().await;
                    },
                    () = sleep(RECORD_INTERVAL) => {}
                }
            }
        };
        self.unless_in_vain(wished, resolved).await
    }

    /// Waits until there is something to fetch from other nodes, and says so. Whoever fetches may stand in the way of
    /// another pull here for which others wait, so nobody begins before the node that all wait for.
    pub(super) async fn await_start(&self, ground: &Ground) -> Result<(), PullError> {
        let Course::Wished(wished) = &self.course else { return Ok(()) };
        if !wished.is_from_nodes() || wished.is_unplanned() {
            return Ok(());
        }
        let is_on_record = || ground.missing.iter().all(|(blob, _)| self.means.ledger.bound(blob.sha256).is_some());
        let begun = async {
            while !is_on_record() {
                self.board.wait_for(Wait::FirstCopy);
                let Assignment { ingester, digest, .. } = wished.now();
                let mut told = self.means.peers.watch(ingester, self.spec.name.clone());
                let heard = async {
                    while let Some(Ok(state)) = told.next().await {
                        if has_begun(&state, digest) {
                            return true;
                        }
                    }
                    // It is not there, or has not heard of it yet.
                    sleep(RECORD_INTERVAL).await;
                    false
                };
                let recorded = async {
                    while !is_on_record() {
                        sleep(RECORD_INTERVAL).await;
                    }
                };
                tokio::select! {
                    has_begun = heard => if has_begun {
                        break;
                    },
                    () = recorded => {}
                }
            }
            Ok(())
        };
        self.unless_ended(self.unless_in_vain(wished, begun)).await
    }

    /// Writes to the log that a copy begins, and how much there is to fetch for it.
    pub(super) fn tell_beginning(&self, ground: &Ground) {
        let (model, now) = (&self.spec.name, self.board.now());
        let digest = now.digest.map(|digest| digest.to_string()).unwrap_or_default();
        let bytes = now.total_bytes();
        let missing_bytes = ground.missing.iter().fold(0_u64, |sum, (blob, _)| sum.saturating_add(blob.size_bytes));
        tracing::info!(%model, digest, bytes, missing_bytes, "a copy begins");
    }

    /// What becomes of what a pull has when it fails, and what is said of that. Where a file of a wish is not what its
    /// name says, nothing says what is right of the others, so all goes that is not on record, whole by its own digest,
    /// or wanted by another pull here.
    pub(super) async fn let_go(&self, ground: &Ground, error: PullError) -> PullError {
        let error = self.in_numbers(ground, error).await;
        let is_wrong =
            matches!(error, PullError::Digest { .. } | PullError::Elsewhere { code: ErrorCode::DigestMismatch, .. });
        let Course::Wished(wished) = &self.course else { return error };
        if !is_wrong {
            return error;
        }
        let is_sealed = |sha256: Digest| self.means.library.part(sha256).is_some_and(|part| part.is_sealed());
        // This pull waits for no file any more, so one share of the turn is its own, and each other that of another.
        let is_ours = |turn: &Turn| Arc::strong_count(turn) == 1;
        let all = ground.missing.iter().filter(|(_, turn)| is_ours(turn)).map(|(blob, _)| blob.sha256);
        let is_unproved = |sha256: &Digest| self.means.ledger.bound(*sha256).is_none() && !is_sealed(*sha256);
        let unproved: Vec<Digest> = all.filter(is_unproved).collect();
        unproved.iter().for_each(|sha256| wished.hints.forget(*sha256));
        let (staging, means) = (ground.staging.clone(), Arc::clone(&self.means));
        // Another may begin one meanwhile.
        let forget = move |sha256| means.turns.unless_wanted(sha256, 1, || staging.forget(sha256)).unwrap_or(Ok(()));
        let gone = blocking(move || unproved.into_iter().try_for_each(forget));
        if let Ok(Err(fault)) = gone.await {
            tracing::warn!(error = %fault, "remove what was fetched of files that are not what their names say");
        }
        error
    }

    /// A disk that is full in the midst is told in numbers, as one that was too small before the first byte.
    async fn in_numbers(&self, ground: &Ground, error: PullError) -> PullError {
        let (place, reason) = match error {
            PullError::DiskFull { place, reason } => (place, reason),
            error => return error,
        };
        self.board.refresh();
        let now = self.board.now();
        let missing_bytes = now.total_bytes().saturating_sub(now.verified_bytes());
        let root = ground.staging.root().to_owned();
        let space = blocking(move || Space::of(&root)).await.ok().flatten();
        let free = space.map_or_else(|| "nobody knows how many".to_owned(), |space| space.free_bytes.to_string());
        let reason = format!("{reason}; {missing_bytes} bytes of {} were still to come, {free} are free", now.name);
        PullError::DiskFull { place, reason }
    }

    /// Does something for which another node is needed, unless that one has failed.
    async fn unless_in_vain<T>(
        &self,
        wished: &Wished,
        work: impl Future<Output = Result<T, PullError>>,
    ) -> Result<T, PullError> {
        tokio::select! {
            biased;
            done = work => done,
            error = self.until_in_vain(wished) => Err(error),
        }
    }

    /// Resolves when whoever fetches for all has failed, and nobody takes its place.
    async fn until_in_vain(&self, wished: &Wished) -> PullError {
        let mut failed: Option<(NodeId, Instant)> = None;
        loop {
            let wish = self.means.ledger.plan(&self.spec.name);
            let round = wished.assignment.borrow().round;
            let found = wish.as_ref().filter(|wish| wish.round == round).and_then(failure_of_ingester);
            failed = match found {
                Some((node, failure)) if node != self.means.node => {
                    let since = failed.filter(|(before, _)| *before == node).map_or_else(Instant::now, |(_, at)| at);
                    if !is_of_the_node(failure.code) || since.elapsed() >= PLAN_WAIT {
                        return PullError::Elsewhere { node, code: failure.code, text: failure.text.clone() };
                    }
                    Some((node, since))
                }
                _ => None,
            };
            sleep(RECORD_INTERVAL).await;
        }
    }

    /// The same for a file. One whose root is on record comes from whoever has it.
    async fn until_file_in_vain(&self, wished: &Wished, sha256: Digest) -> PullError {
        loop {
            let error = self.until_in_vain(wished).await;
            if self.means.ledger.bound(sha256).is_none() {
                return error;
            }
            sleep(RECORD_INTERVAL).await;
        }
    }

    /// Fetches what is missing of a part, and gives the digest of the whole file.
    pub(super) async fn fetch_part(&self, part: &Part, place: &str, chaser: Chaser) -> Result<Digest, PullError> {
        let Course::Wished(wished) = &self.course else { return self.fetch_from_origin(part, place, chaser).await };
        let have = part.have();
        if have.ones() == have.len() {
            // Nobody is asked for anything: it is hashed to its end.
            return self.fetch_from_origin(part, place, chaser).await;
        }
        let sha256 = part.spec().sha256;
        if wished.is_from_nodes() {
            let proof = self.proof(wished, part.spec()).await?;
            let came = tokio::select! {
                biased;
                came = self.fetch_from_nodes(wished, part, proof, place, chaser) => came,
                error = self.until_file_in_vain(wished, sha256) => Err(error),
            };
            if came.is_ok() {
                wished.hints.forget(sha256);
            }
            return came;
        }
        let proof = match self.tree_soon(wished, part.spec()).await {
            Some(tree) => Proof::Tree(tree),
            None => match wished.hints.of(sha256) {
                Some(told) => Proof::Told(told),
                None => return self.fetch_from_origin(part, place, chaser).await,
            },
        };
        let is_told = proof.told().is_some();
        let came = self.fetch_from_nodes(wished, part, proof, place, chaser);
        let came = tokio::select! {
            came = came => came,
            // Of what was only told nobody need have the rest.
            () = until_no_gain(part), if is_told => Err(self.nothing_came(sha256)),
        };
        let error = match came {
            Ok(digest) => return Ok(digest),
            Err(error) if error.code() == ErrorCode::OriginFailed => error,
            Err(error) => return Err(error),
        };
        wished.hints.forget(sha256);
        let blob = sha256.short();
        tracing::info!(model = %self.spec.name, blob, %error, "no node has all of a file; the registry is asked");
        let chaser = resume::look_through(part, place, &self.board, &self.means.metrics).await?;
        self.fetch_from_origin(part, place, chaser).await
    }

    fn nothing_came(&self, sha256: Digest) -> PullError {
        let last = "nobody has the rest".to_owned();
        PullError::Silent { blob: sha256.short(), silence: HINT_WAIT, last }
    }

    /// The way of its bytes into this node.
    fn gate(&self, class: Class) -> Gate {
        let gate = self.means.limits.gate(class, self.spec.name.clone(), Arc::clone(&self.board));
        gate.with_urgency(self.course.urgency())
    }

    async fn fetch_from_origin(&self, part: &Part, place: &str, chaser: Chaser) -> Result<Digest, PullError> {
        let means = &self.means;
        let source = fetch::Source {
            origin: Arc::clone(&means.origin),
            name: self.spec.name.clone(),
            insecure: self.spec.insecure,
            part: part.clone(),
            place: place.to_owned(),
            buffers: means.buffers.clone(),
            library: means.library.clone(),
            board: Arc::clone(&self.board),
            gate: self.gate(Class::Origin),
            metrics: means.metrics.clone(),
        };
        Box::pin(fetch::fetch(source, &means.config, chaser)).await
    }

    /// What says which hash a chunk must have: the tree, where it is at hand; else the word of whoever fetches for all.
    async fn proof(&self, wished: &Wished, blob: BlobSpec) -> Result<Proof, PullError> {
        if wished.is_unplanned() || wished.is_spread.load(Ordering::Relaxed) {
            return self.proved_tree(wished, blob).await.map(Proof::Tree);
        }
        if self.means.ledger.bound(blob.sha256).is_some() {
            tree::bound(&*self.means.ledger, blob)?;
            if let Ok(Ok(tree)) = timeout(HINT_WAIT, self.proved_tree(wished, blob)).await {
                return Ok(Proof::Tree(tree));
            }
        }
        Ok(Proof::Told(wished.hints.begin(blob)))
    }

    /// The hash tree of a file whose root is on record. Where none need be, that of whoever has the file: what it leads
    /// to is proved by the file's own digest, before anybody sees it.
    async fn proved_tree(&self, wished: &Wished, blob: BlobSpec) -> Result<Tree, PullError> {
        let (others, patience) = (wished.now().others, self.means.config.patience());
        if wished.is_unplanned() && self.means.ledger.bound(blob.sha256).is_none() {
            return tree::hear(&*self.means.peers, &others, blob, patience).await;
        }
        let bound = tree::bound(&*self.means.ledger, blob)?;
        tree::find(&*self.means.peers, &others, blob, bound.root, patience).await
    }

    /// The same, where there is a root and another node has the tree at hand.
    async fn tree_soon(&self, wished: &Wished, blob: BlobSpec) -> Option<Tree> {
        self.means.ledger.bound(blob.sha256)?;
        if wished.is_alone.load(Ordering::Relaxed) || wished.assignment.borrow().others.is_empty() {
            return None;
        }
        let found = timeout(HINT_WAIT, self.proved_tree(wished, blob)).await.ok().and_then(Result::ok);
        wished.is_alone.store(found.is_none(), Ordering::Relaxed);
        found
    }

    async fn fetch_from_nodes(
        &self,
        wished: &Wished,
        part: &Part,
        proof: Proof,
        place: &str,
        chaser: Chaser,
    ) -> Result<Digest, PullError> {
        let (means, Assignment { rank, of, ingester, others, .. }) = (&self.means, wished.now());
        let receiving = swarm::Receiving {
            name: self.spec.name.clone(),
            rank,
            of,
            ingester,
            own: means.node,
            others,
            has_registry: !wished.is_from_nodes(),
            part: part.clone(),
            proof,
            links: means.links.clone(),
            peers: Arc::clone(&means.peers),
            ledger: Arc::clone(&means.ledger),
            library: means.library.clone(),
            place: place.to_owned(),
            board: Arc::clone(&self.board),
            trust: means.trust.clone(),
            gate: self.gate(Class::Receive),
            metrics: means.metrics.clone(),
            seed: means.seed,
        };
        Box::pin(swarm::receive(receiving, &means.config, chaser)).await
    }
}

// === impl Reason ===

impl Reason {
    /// Asks from time to time whether whoever fetches for all knows the version.
    async fn look(&mut self, pull: &Pull, wished: &Wished) {
        if self.looked_at.elapsed() < REASON_INTERVAL {
            return;
        }
        let mut told = pull.means.peers.watch(wished.now().ingester, pull.spec.name.clone());
        let first = timeout(HINT_WAIT, told.next()).await;
        let is_known = matches!(first, Ok(Some(Ok(state))) if state.digest.is_some());
        self.wait = if is_known { Wait::Quorum } else { Wait::FirstCopy };
        self.looked_at = Instant::now();
    }
}

/// Whether a node that tells this has begun to fetch a version, or has it. It may have had another one before.
fn has_begun(told: &PullProgress, wanted: Option<Digest>) -> bool {
    let is_at_it = match &told.stage {
        Stage::Waiting | Stage::Resolving | Stage::Failed(_) => false,
        Stage::Checking | Stage::Fetching | Stage::Verifying | Stage::Publishing | Stage::Settling | Stage::Done => {
            true
        }
    };
    is_at_it && told.digest == wanted
}

/// Resolves when nothing has come of a file for a while.
async fn until_no_gain(part: &Part) {
    let mut before = None;
    loop {
        let now = part.have().ones();
        if before.replace(now) == Some(now) {
            return;
        }
        sleep(HINT_WAIT).await;
    }
}

/// What whoever fetches for all told of its failure.
fn failure_of_ingester(wish: &Wish) -> Option<(NodeId, &Failure)> {
    let ingester = wish.plan.as_ref()?.ingester;
    Some((ingester, wish.failures.get(&ingester)?))
}

/// What whoever asked is told where the registry did not answer, or answered with no version.
fn unanswered(code: ErrorCode, reason: &str, digest: Digest) -> String {
    let what = if code == ErrorCode::OriginFailed { "did not answer" } else { "gave no version" };
    format!("the registry {what}, so version {} of nodes is spread: {reason}", digest.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_refuses_has_answered() {
        let check = |code: ErrorCode, expected: &str| assert_eq!(unanswered(code, "why", Digest([1; 32])), expected);
        let version = "so version 010101010101 of nodes is spread: why";
        check(ErrorCode::OriginFailed, &format!("the registry did not answer, {version}"));
        check(ErrorCode::OriginRefused, &format!("the registry gave no version, {version}"));
        check(ErrorCode::ManifestInvalid, &format!("the registry gave no version, {version}"));
    }

    #[test]
    fn who_has_another_version_does_not_have_this_one() {
        let [one, two] = [1, 2].map(|byte| Some(Digest([byte; 32])));
        let told = |digest: Option<Digest>, stage: Stage| PullProgress {
            name: "tiny".parse().expect("a name"),
            node: NodeId(1),
            stage,
            wait: None,
            digest,
            blobs: Arc::default(),
            sources: Vec::new(),
            bytes_per_second: None,
            left: None,
            remark: None,
        };
        let stages = [(Stage::Waiting, false), (Stage::Fetching, true), (Stage::Settling, true), (Stage::Done, true)];
        for (stage, expected) in stages {
            assert_eq!(has_begun(&told(one, stage.clone()), one), expected, "{stage:?}");
            assert!(!has_begun(&told(two, stage.clone()), one), "{stage:?}");
        }
    }
}
