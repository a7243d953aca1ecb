//! Puts a sound file in the place of a damaged one of the same name.
//!
//! A file that adoption calls suspect is made anew in staging: its good pieces are copied from it, the others come from
//! nodes that have the model, else from the registry of a name that it belongs to. SHA-256 of all of it is what counts,
//! and only then the new file takes the name (`Store::replace`). Damaged pieces are kept aside. Always holds: under the
//! name lies the old file or the new one; one file is mended at a time, in the background where limits know the
//! difference, and hashing rests meanwhile. While limits let nothing come from anywhere it takes no place. When nobody
//! has a sound one the file stays as it is, suspect and not offered, and it is tried again after ten minutes, then
//! after twice as long each time, a day at most; one that is damaged again as soon as it was mended waits as long. What
//! somebody else put in its place meanwhile stays. For a store that this node may not write, and for a file that is a
//! link, nothing is fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::{
    Access, Aside, BlobFile, BlobSpec, Fault, FileIdentity, Part, PartError, Promise, Replaced, Staging, Store, Tree,
    chunk_hash,
};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, chunk_count};

use crate::adopt::Adopted;
use crate::class::Class;
use crate::config::Config;
use crate::error::PullError;
use crate::metrics::Metrics;
use crate::progress::{Board, Stage};

use super::chase::Chaser;
use super::publishing::put_tree;
use super::told::Proof;
use super::{Fetcher, Means, Turn, Unroomy, blocking, fetch, resume, swarm, tree};

/// Most who may have files of one node read again, and mended, at once.
pub(crate) const CHECKS_MAX: usize = 4;
/// Wait before a file is tried again of which nobody had a sound one; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(600);
/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Most names under which a registry is asked for one file.
const NAMES_MAX: usize = 8;
/// Time without a gained byte after which a source is given up: nobody waits, and there may be others.
const SILENCE_MS: u64 = 30_000;
/// Silence after which one answer of a registry is given up.
const STALL_MS: u64 = 10_000;
/// Time between two looks whether limits let something come.
const CLOSED_INTERVAL: Duration = Duration::from_secs(60);
/// How long nodes may take to give the tree of a file of which there is none here.
const TREE_WAIT: Duration = Duration::from_secs(10);

/// The repairs of a node.
pub(crate) struct Repairs {
    means: Arc<Means>,
    aside: Aside,
    /// Patient for as long as a repair is.
    config: Config,
    /// Whoever mends.
    one: tokio::sync::Mutex<()>,
    /// Who may have files read again.
    pub(crate) checking: Arc<Semaphore>,
}

/// What became of a file that was to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mended {
    /// There is a sound one in its place.
    Done,
    /// It is not damaged any more, or not there.
    Needless,
}

/// A file that is not tried again before a moment.
struct Rest {
    until: Instant,
    wait: Duration,
}

/// A damaged file, and where it lies.
struct Patient {
    spec: BlobSpec,
    file: Arc<BlobFile>,
    /// Its name leads elsewhere.
    is_link: bool,
    identity: FileIdentity,
    /// What its pieces were, where that is known.
    tree: Option<Tree>,
    store: Store,
    access: Access,
    /// The store, for people.
    place: String,
    /// The names that it belongs to, and their versions.
    names: Vec<(ModelName, Digest)>,
}

// === impl Repairs ===

impl Repairs {
    /// Begins to mend what is damaged, where that is allowed, until `stop`. `folder` is that of transfer.
    pub(crate) fn start(means: &Arc<Means>, folder: &Path, tasks: &TaskTracker, stop: &CancellationToken) -> Arc<Self> {
        let repairs = Arc::new(Self::new(Arc::clone(means), Aside::new(folder.join("damaged"))));
        if means.config.repair {
            // If it fails, what is damaged stays so until the next start; it ends with `stop`, in the middle of a file.
            tasks.spawn(Arc::clone(&repairs).run(stop.clone()));
        }
        repairs
    }

    fn new(means: Arc<Means>, aside: Aside) -> Self {
        let before = &means.config;
        let config = Config {
            silence_ms: before.silence_ms.min(SILENCE_MS),
            stall_ms: before.stall_ms.min(STALL_MS),
            ..before.clone()
        };
        let checking = Arc::new(Semaphore::new(CHECKS_MAX));
        Self { means, aside, config, one: tokio::sync::Mutex::default(), checking }
    }

    /// Mends what adoption finds damaged, until `stop`. Dropping it in the middle leaves a part that the next attempt
    /// goes on with.
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.mend_all()).await;
    }

    async fn mend_all(&self) {
        let mut adopted = self.means.adopted.clone();
        let mut rests: BTreeMap<Digest, Rest> = BTreeMap::new();
        loop {
            let (known, now) = (Arc::clone(&adopted.borrow_and_update()), Instant::now());
            // A disk that damages what it was just given is not given it again at once.
            rests.retain(|sha256, rest| known.suspect.contains_key(sha256) || rest.until > now);
            let next = next_of(&known, &rests, now);
            let is_closed = next.is_some() && self.is_closed();
            if let Some(spec) = next.filter(|_| !is_closed) {
                // Until adoption has seen that it is another file, it is not tried again.
                rest(&mut rests, spec.sha256);
                if let Err(error) = self.mend(spec, pending()).await {
                    tracing::debug!(sha256 = %spec.sha256, %error, "mend a file; tried again later");
                }
                continue;
            }
            // What is due and yet not next belongs to no model just now: news of the store show when it does.
            let due_at = rests.values().map(|rest| rest.until).filter(|until| *until > now).min();
            let wake_at = if is_closed { Some(now + CLOSED_INTERVAL) } else { due_at };
            let due = async {
                match wake_at.filter(|_| is_ours(&known)) {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            if has_ended(&mut adopted, due).await {
                return;
            }
        }
    }

    /// Mends a file of which somebody has found that it is damaged, when no other is being mended; until whoever waits
    /// for it `leaves`.
    ///
    /// # Errors
    /// When nobody has a sound one, when the store may not be written, when there is no room, when the disk fails, when
    /// nobody waits any more.
    pub(crate) async fn mend(
        &self,
        spec: BlobSpec,
        leaves: impl Future<Output = ()> + Send,
    ) -> Result<Mended, PullError> {
        let mut leaves = pin!(leaves);
        let _alone = tokio::select! {
            biased;
            () = &mut leaves => return Err(PullError::Cancelled),
            alone = self.one.lock() => alone,
        };
        let Some(patient) = self.examine(spec).await? else { return Ok(Mended::Needless) };
        let board = Arc::new(Board::new(patient.name()?, self.means.node, Stage::Fetching, Metrics::default()));
        let mended = self.treat(&patient, &board, leaves).await;
        let (sha256, name) = (spec.sha256, &patient.names[0].0);
        match &mended {
            Ok(Mended::Done) => {
                board.refresh();
                let from = board.now().sources_in_words();
                tracing::info!(%sha256, %name, from, "a damaged file was replaced by a sound one");
                self.means.metrics.repaired(true);
            }
            Ok(Mended::Needless) | Err(PullError::Cancelled) => {}
            Err(error) if error.code() == ErrorCode::OriginFailed || error.code() == ErrorCode::ModelNotFound => {
                tracing::warn!(%sha256, %name, %error, "no sound copy of a damaged file was found");
                self.means.metrics.repaired(false);
            }
            Err(error) => {
                tracing::warn!(%sha256, %name, code = %error.code(), %error, "a damaged file was not replaced");
                self.means.metrics.repaired(false);
            }
        }
        mended
    }

    /// The damaged file, if it is there and damaged.
    async fn examine(&self, spec: BlobSpec) -> Result<Option<Patient>, PullError> {
        let adopted = Arc::clone(&self.means.adopted.borrow());
        let has_it = |blobs: &[BlobSpec]| blobs.contains(&spec);
        let named = adopted.models.iter().filter(|scanned| has_it(&scanned.blobs));
        let names: Vec<_> = named.map(|scanned| (scanned.model.name.clone(), scanned.model.digest)).collect();
        let (runtime, trees) = (Arc::clone(&self.means.runtime), self.means.trees.clone());
        let found = blocking(move || -> Result<Option<Patient>, PullError> {
            let store = runtime.place().store().map_err(PullError::NoStore)?;
            let place = store.root().display().to_string();
            let of_fault = |fault: Fault| PullError::of_fault(&place, &fault);
            let Some(file) = store.blob(spec).map_err(of_fault)? else { return Ok(None) };
            let doubted = trees.doubted(spec.sha256).filter(|doubted| doubted.identity == file.identity);
            let on_record = trees.open().and_then(|index| index.get(spec.sha256)).map_err(of_fault)?;
            if doubted.is_none() && on_record.is_some_and(|indexed| indexed.identity == file.identity) {
                return Ok(None);
            }
            let (identity, tree, access) = (file.identity, doubted.and_then(|doubted| doubted.tree), store.access());
            let (file, is_link) = (Arc::new(file), store.leads_elsewhere(spec.sha256));
            Ok(Some(Patient { spec, file, is_link, identity, tree, store, access, place, names }))
        });
        let Some(patient) = found.await?? else { return Ok(None) };
        match &patient.access {
            Access::Direct { .. } => Ok(Some(patient)),
            Access::Locked { reason, remedy, .. } | Access::Hidden { reason, remedy } => {
                let (reason, remedy) = (reason.clone(), remedy.clone());
                Err(PullError::NotWritable { place: patient.place, reason, remedy })
            }
        }
    }

    /// Makes the file anew, and lets it take the name. What is staged of it goes, whatever comes of it.
    async fn treat(
        &self,
        patient: &Patient,
        board: &Arc<Board>,
        mut leaves: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Mended, PullError> {
        let Patient { spec, store, access, place, .. } = patient;
        if patient.is_link {
            let reason = format!("sha256-{} is a link, which is not replaced", spec.sha256);
            let remedy = "put a sound file where it leads to".to_owned();
            return Err(PullError::NotWritable { place: place.clone(), reason, remedy });
        }
        if self.is_closed() {
            return Err(nobody(patient, true));
        }
        let turn = self.means.turns.of(spec.sha256);
        let waiting = async {
            let fetcher = Fetcher::wait(&self.means).await?;
            Ok::<_, PullError>((fetcher, Arc::clone(&turn).lock_owned().await))
        };
        let held = tokio::select! {
            biased;
            () = &mut leaves => return Err(PullError::Cancelled),
            held = waiting => held?,
        };
        let staging = self.means.staging(store, access, place).await?;
        let treated = tokio::select! {
            biased;
            () = &mut leaves => Err(PullError::Cancelled),
            treated = self.treat_in(patient, board, &staging, Arc::clone(&turn)) => treated,
        };
        let sha256 = spec.sha256;
        if let Err(error) = blocking(move || staging.forget(sha256)).await? {
            tracing::warn!(%error, %sha256, "remove what was staged of a file that was mended");
        }
        drop(held);
        treated
    }

    async fn treat_in(
        &self,
        patient: &Patient,
        board: &Arc<Board>,
        staging: &Staging,
        turn: Turn,
    ) -> Result<Mended, PullError> {
        let Patient { spec, store, identity, place, .. } = patient;
        let (means, setting, spec) = (Arc::clone(&self.means), staging.clone(), *spec);
        let set = blocking(move || -> Result<(Vec<Promise>, Part), Unroomy> {
            let room = means.set_room_aside(&setting, &[(spec, turn)], None, 0)?;
            setting.begin(spec).map(|part| (room, part)).map_err(Unroomy::Part)
        });
        let (room, part) = set.await?.map_err(|error| patient.of_unroomy(error))?;
        let tree = self.tree_of(patient).await;
        if let Some(tree) = &tree {
            self.copy_good(patient, &part, tree).await?;
        }
        let digest = Box::pin(self.complete(patient, &part, tree, board)).await?;
        let (store, was, now) = (store.clone(), *identity, self.means.clock.now());
        let (trees, sealed, at) = (self.means.trees.clone(), part.clone(), place.clone());
        let keeping = self.means.keeping.clone();
        let replaced = blocking(move || -> Result<Replaced, PullError> {
            sealed.seal(digest).map_err(|error| PullError::of_part(&at, &error))?;
            let replace = || store.replace(&sealed, was, now);
            let replaced = keeping.mend(&store, &sealed, replace);
            let replaced = replaced.map_err(|error| PullError::of_publish(&at, &error))?;
            if replaced == Replaced::Done {
                // Without its tree it is hashed again.
                if let Err(error) = trees.open().and_then(|index| put_tree(&index, &store, &sealed)) {
                    tracing::warn!(%error, sha256 = %spec.sha256, "keep the hash tree of a file");
                }
                trees.trust_again(spec.sha256);
            }
            Ok(replaced)
        });
        let replaced = replaced.await??;
        drop((room, part));
        self.means.library.stir();
        Ok(match replaced {
            Replaced::Done => Mended::Done,
            Replaced::Moved => Mended::Needless,
        })
    }

    /// Whether limits of this node let nothing come just now, neither from nodes nor from a registry.
    fn is_closed(&self) -> bool {
        [Class::Receive, Class::Origin].into_iter().all(|class| self.means.limits.is_closed(class))
    }

    /// What its pieces must be: what they were, else what other nodes say. Where no root is on record that is no more
    /// than a hint; the file's own digest decides.
    async fn tree_of(&self, patient: &Patient) -> Option<Tree> {
        if patient.tree.is_some() {
            return patient.tree.clone();
        }
        let (means, spec, others) = (&self.means, patient.spec, self.holders(patient));
        if others.is_empty() {
            return None;
        }
        let patience = self.config.patience();
        let asked = async {
            match tree::bound(&*means.ledger, spec) {
                Ok(bound) => tree::find(&*means.peers, &others, spec, bound.root, patience).await,
                Err(_) => tree::hear(&*means.peers, &others, spec, patience).await,
            }
        };
        timeout(TREE_WAIT, asked).await.ok()?.ok()
    }

    /// The other nodes that have a model which the file belongs to.
    fn holders(&self, patient: &Patient) -> Vec<NodeId> {
        let holders = patient.names.iter().flat_map(|(name, digest)| self.means.ledger.holders(name, *digest));
        let others: BTreeSet<NodeId> = holders.filter(|node| *node != self.means.node).collect();
        others.into_iter().collect()
    }

    /// Takes the good pieces of a damaged file, and keeps the others aside.
    async fn copy_good(&self, patient: &Patient, part: &Part, tree: &Tree) -> Result<(), PullError> {
        let (begun, known) = (part.clone(), tree.clone());
        let agreed = blocking(move || begun.agree_with(&known)).await?;
        agreed.map_err(|error| PullError::of_part(&patient.place, &error))?;
        let mut buffer = Vec::new();
        for index in 0..chunk_count(patient.spec.size_bytes) {
            let (file, part, tree, aside) = (Arc::clone(&patient.file), part.clone(), tree.clone(), self.aside.clone());
            let copied = blocking(move || {
                let copied = copy_one(&file, &part, &tree, index, (&aside, &mut buffer));
                (copied, buffer)
            });
            let (copied, back) = copied.await?;
            buffer = back;
            copied.map_err(|error| PullError::of_part(&patient.place, &error))?;
        }
        Ok(())
    }

    /// Fetches what is missing of the file, and gives the digest of all of it.
    async fn complete(
        &self,
        patient: &Patient,
        part: &Part,
        tree: Option<Tree>,
        board: &Arc<Board>,
    ) -> Result<Digest, PullError> {
        let chaser = self.look_through(patient, part, board).await?;
        if part.have().is_full() {
            return Ok(chaser.finish());
        }
        let (others, limits) = (self.holders(patient), &self.means.limits);
        // Whoever waited for them would keep a place from pulls whose bytes may come.
        let [no_nodes, no_registry] = [Class::Receive, Class::Origin].map(|class| limits.is_closed(class));
        let (mut last, mut chaser) = (nobody(patient, no_nodes || no_registry), Some(chaser));
        if let Some(tree) = tree.filter(|_| !others.is_empty() && !no_nodes) {
            let behind = self.chaser(&mut chaser, patient, part, board).await?;
            let receiving = self.receiving(patient, part, tree, others, board)?;
            match Box::pin(swarm::receive(receiving, &self.config, behind)).await {
                Ok(digest) => return Ok(digest),
                Err(error) if error.code() == ErrorCode::OriginFailed => last = error,
                Err(error) => return Err(error),
            }
        }
        for (name, _) in patient.names.iter().take(if no_registry { 0 } else { NAMES_MAX }) {
            let behind = self.chaser(&mut chaser, patient, part, board).await?;
            let source = self.source(patient, part, name, board);
            match Box::pin(fetch::fetch(source, &self.config, behind)).await {
                Ok(digest) => return Ok(digest),
                Err(error @ (PullError::Blob { .. } | PullError::Silent { .. })) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The chaser that is at hand, else one that has read what is there by now.
    async fn chaser(
        &self,
        at_hand: &mut Option<Chaser>,
        patient: &Patient,
        part: &Part,
        board: &Board,
    ) -> Result<Chaser, PullError> {
        match at_hand.take() {
            Some(chaser) => Ok(chaser),
            None => self.look_through(patient, part, board).await,
        }
    }

    async fn look_through(&self, patient: &Patient, part: &Part, board: &Board) -> Result<Chaser, PullError> {
        resume::look_through(part, &patient.place, board, &self.means.metrics).await
    }

    fn receiving(
        &self,
        patient: &Patient,
        part: &Part,
        tree: Tree,
        others: Vec<NodeId>,
        board: &Arc<Board>,
    ) -> Result<swarm::Receiving, PullError> {
        let (means, name) = (&self.means, patient.name()?);
        Ok(swarm::Receiving {
            name: name.clone(),
            rank: 0,
            of: 1,
            ingester: others.first().copied().unwrap_or(means.node),
            own: means.node,
            others,
            has_registry: true,
            part: part.clone(),
            proof: Proof::Tree(tree),
            links: means.links.clone(),
            peers: Arc::clone(&means.peers),
            ledger: Arc::clone(&means.ledger),
            library: means.library.clone(),
            place: patient.place.clone(),
            board: Arc::clone(board),
            gate: means.limits.gate(Class::Receive, name, Arc::clone(board)).in_background(),
            trust: means.trust.clone(),
            metrics: means.metrics.clone(),
            seed: means.seed,
        })
    }

    fn source(&self, patient: &Patient, part: &Part, name: &ModelName, board: &Arc<Board>) -> fetch::Source {
        let means = &self.means;
        fetch::Source {
            origin: Arc::clone(&means.origin),
            name: name.clone(),
            insecure: false,
            part: part.clone(),
            place: patient.place.clone(),
            buffers: means.buffers.clone(),
            library: means.library.clone(),
            board: Arc::clone(board),
            gate: means.limits.gate(Class::Origin, name.clone(), Arc::clone(board)).in_background(),
            metrics: means.metrics.clone(),
        }
    }
}

// === impl Patient ===

impl Patient {
    /// A name that the file belongs to. What belongs to none is nobody's business.
    fn name(&self) -> Result<ModelName, PullError> {
        let first = self.names.first().map(|(name, _)| name.clone());
        let text = || format!("sha256-{} belongs to no model", self.spec.sha256);
        first.ok_or_else(|| PullError::Disk(text()))
    }

    fn of_unroomy(&self, error: Unroomy) -> PullError {
        let place = self.place.clone();
        match error {
            Unroomy::NoRoom(room) | Unroomy::Twice(room) | Unroomy::Copy(room) => match self.name() {
                Ok(model) => PullError::NoRoom { model, place, room },
                Err(error) => error,
            },
            Unroomy::Part(error) => PullError::of_part(&place, &error),
            Unroomy::Fault(fault) => PullError::of_fault(&place, &fault),
        }
    }
}

/// Takes one piece if it is good, else keeps it aside. One that the disk does not give is neither.
fn copy_one(
    file: &BlobFile,
    part: &Part,
    tree: &Tree,
    index: u32,
    (aside, buffer): (&Aside, &mut Vec<u8>),
) -> Result<(), PartError> {
    if part.hash_of(index).is_some() || file.read_chunk(index, buffer).is_err() {
        return Ok(());
    }
    let sha256 = part.spec().sha256;
    if tree.holds(index, buffer) {
        return part.write(index, buffer, chunk_hash(part.spec().size_bytes, index, buffer));
    }
    match aside.keep(sha256, index, buffer) {
        Ok(is_kept) => tracing::info!(%sha256, piece = index, is_kept, "a piece of a damaged file is another"),
        Err(error) => tracing::warn!(%error, %sha256, piece = index, "keep a damaged piece aside"),
    }
    Ok(())
}

/// Nobody gives a sound file, maybe since nobody was asked.
fn nobody(patient: &Patient, is_closed: bool) -> PullError {
    let text = if is_closed { "limits of this node let nothing come just now" } else { "nobody has it" };
    PullError::Peers { blob: patient.spec.sha256.short(), text: text.to_owned() }
}

/// Whether this node may replace files of the store.
fn is_ours(adopted: &Adopted) -> bool {
    matches!(adopted.access, Some(Access::Direct { .. }))
}

/// The next file that is tried to be mended.
fn next_of(adopted: &Adopted, rests: &BTreeMap<Digest, Rest>, now: Instant) -> Option<BlobSpec> {
    if !is_ours(adopted) {
        return None;
    }
    let is_due = |sha256: &Digest| rests.get(sha256).is_none_or(|rest| rest.until <= now);
    let is_next = |blob: &&BlobSpec| adopted.suspect.contains_key(&blob.sha256) && is_due(&blob.sha256);
    adopted.models.iter().flat_map(|scanned| &scanned.blobs).filter(is_next).min().copied()
}

/// The file is not tried again for a while, each time for longer.
fn rest(rests: &mut BTreeMap<Digest, Rest>, sha256: Digest) {
    let before = rests.get(&sha256).map(|rest| rest.wait);
    let wait = before.map_or(FIRST_WAIT, |wait| (wait * 2).min(WAIT_MAX));
    rests.insert(sha256, Rest { until: Instant::now() + wait, wait });
}

/// Waits for news of the store, or until something is due. True: there will be none.
async fn has_ended(adopted: &mut watch::Receiver<Arc<Adopted>>, due: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        changed = adopted.changed() => changed.is_err(),
        () = due => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_nobody_has_is_tried_less_and_less_often() {
        let (mut rests, sha256) = (BTreeMap::new(), Digest([1; 32]));
        let mut waits = Vec::new();
        for _ in 0..10 {
            rest(&mut rests, sha256);
            waits.push((rests[&sha256].until - Instant::now()).as_secs());
        }
        assert_eq!(waits, [600, 1_200, 2_400, 4_800, 9_600, 19_200, 38_400, 76_800, 86_400, 86_400]);
    }
}
