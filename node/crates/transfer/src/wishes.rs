//! Does what the cluster has decided for this node.
//!
//! Owns one task for each model that this node has to fetch, for as long as the cluster says so. Each does a pull to
//! its end; beside it, the version that it stands for and the hashes of its files are put on record, again and again
//! while there is no quorum. What the record refuses ends the pull. Always holds: a round that differs ends the work of
//! the one before it, what came stays for the next one, and what was published is put on record also when nobody waits
//! for it any more. A failure is told to the cluster, which may ask another node; this one does not try again before it
//! is asked again. A pull that the end of the node cut off begins anew when the assignment is seen at the next start,
//! with what lies in staging and the manifest that was chosen, where that is the version on record; jobs that no
//! assignment has claimed for a week go.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{BlobSpec, Fault, Jobs, Manifest, Store};
use ollamax_core::catalog::{Refusal, Wish};
use ollamax_types::{Digest, ModelName, Root, Timestamp};

use crate::adopt::Adopted;
use crate::error::PullError;
use crate::handle::PullSpec;
use crate::milestones;
use crate::ports::{Assignment, Duty, LedgerError, Place};
use crate::progress::{Board, PullProgress, Stage};
use crate::pull::blocking;
use crate::pull::course::{Hints, Wished};
use crate::service::{Begun, JOBS_RETRY, PARTS_KEPT_MS, Service};

/// Most files that are put on record at once.
const BIND_MAX: usize = 256;
/// Time between two looks whether the files that are being hashed are still there.
const STORE_INTERVAL: Duration = Duration::from_secs(10);
/// Who asked, where that is not on record any more.
const ASKED_BY: &str = "the cluster";

/// The loop.
pub(crate) struct Wishes {
    service: Arc<Service>,
    doing: BTreeMap<ModelName, Doing>,
    /// When this process began with it.
    started: Instant,
}

/// A model that this node has to fetch.
struct Doing {
    assignment: watch::Sender<Assignment>,
    gone: CancellationToken,
}

/// The task of one model.
struct Doer {
    service: Arc<Service>,
    jobs: Jobs,
    name: ModelName,
    assignment: watch::Receiver<Assignment>,
    /// The cluster wants nothing of this any more.
    gone: CancellationToken,
    /// The version that an earlier process had chosen.
    kept: Option<Manifest>,
    /// When this process began to do what the cluster wishes.
    started: Instant,
    /// What nodes told of its files while they brought them.
    hints: Hints,
    /// When the work of the round before this one ended; milliseconds since 1970.
    ended_ms: u64,
}

/// How the work of a round ended.
enum Ended {
    /// Nothing more is to be done for it.
    Settled,
    /// Another node was faster: the round stands for another version.
    Moved,
}

/// Files that are hashed before all others, for as long as somebody waits for them.
struct Hurry<'a> {
    urgent: &'a watch::Sender<BTreeSet<BlobSpec>>,
    blobs: &'a [BlobSpec],
}

// === impl Wishes ===

impl Wishes {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service, doing: BTreeMap::new(), started: Instant::now() }
    }

    /// Follows what the cluster decides until the node ends.
    pub(crate) async fn run(mut self) {
        let service = Arc::clone(&self.service);
        service.stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let (jobs, mut kept) = self.jobs().await;
        let mut assignments = self.service.means.ledger.assignments();
        loop {
            let list = Arc::clone(&assignments.borrow_and_update());
            self.take(&list, &jobs, &mut kept);
            if assignments.changed().await.is_err() {
                return;
            }
        }
    }

    /// The folder of jobs, and the versions that were chosen.
    async fn jobs(&self) -> (Jobs, BTreeMap<ModelName, Manifest>) {
        loop {
            let (root, now) = (self.service.wishes_root.clone(), self.service.means.clock.now());
            match blocking(move || read_jobs(&root, now)).await {
                Ok(Ok(read)) => return read,
                Ok(Err(error)) => tracing::warn!(%error, "read what was fetched for wishes; tried again"),
                Err(error) => tracing::warn!(%error, "read what was fetched for wishes; tried again"),
            }
            sleep(JOBS_RETRY).await;
        }
    }

    /// Begins what is new, tells what has changed, and ends what nobody wishes any more.
    fn take(&mut self, list: &[Assignment], jobs: &Jobs, kept: &mut BTreeMap<ModelName, Manifest>) {
        let is_wanted = |name: &ModelName| list.iter().any(|assignment| assignment.name == *name);
        self.doing.retain(|name, doing| {
            let stays = is_wanted(name) && !doing.assignment.is_closed();
            if !stays {
                doing.gone.cancel();
            }
            stays
        });
        for assignment in list {
            if let Some(doing) = self.doing.get(&assignment.name) {
                doing.assignment.send_if_modified(|known| {
                    let differs = *known != *assignment;
                    known.clone_from(assignment);
                    differs
                });
                continue;
            }
            let (sender, receiver) = watch::channel(assignment.clone());
            let gone = CancellationToken::new();
            let doer = Doer {
                service: Arc::clone(&self.service),
                jobs: jobs.clone(),
                name: assignment.name.clone(),
                assignment: receiver,
                gone: gone.clone(),
                kept: kept.remove(&assignment.name),
                started: self.started,
                hints: Hints::default(),
                ended_ms: 0,
            };
            self.doing.insert(assignment.name.clone(), Doing { assignment: sender, gone });
            // It ends with its assignment or with the node; what it could not do is told to the cluster.
            self.service.tasks.spawn(doer.run());
        }
    }
}

// === impl Doer ===

impl Doer {
    /// Round after round, until the cluster wants nothing any more.
    async fn run(mut self) {
        let service = Arc::clone(&self.service);
        let stop = &service.stop;
        while !self.gone.is_cancelled() && !stop.is_cancelled() {
            let assignment = self.assignment.borrow_and_update().clone();
            let ended = self.work_on(&assignment).await;
            // What was published until now is not newer than it.
            self.ended_ms = service.means.clock.now().0.saturating_add(1);
            let is_new = |now: &Assignment| match ended {
                None => true,
                Some(Ended::Settled) => is_another(&assignment, now),
                Some(Ended::Moved) => is_another(&assignment, now) || now.digest.is_some(),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.gone.cancelled() => {}
                () = until(self.assignment.clone(), is_new) => {}
            }
        }
    }

    /// Works until it is over, or until something else is to be done: `None`.
    async fn work_on(&self, assignment: &Assignment) -> Option<Ended> {
        let cancel = CancellationToken::new();
        let mut work = Box::pin(self.work(assignment, &cancel));
        let (mut known, mut limit) = (assignment.clone(), None);
        let is_anew = move |now: &Assignment| {
            let goes_on = goes_on(&known, now);
            known.digest = known.digest.or(now.digest);
            !goes_on
        };
        tokio::select! {
            biased;
            // The pull sees that itself, and stays for the next start.
            () = self.service.stop.cancelled() => {}
            () = self.gone.cancelled() => cancel.cancel(),
            () = until(self.assignment.clone(), is_anew) => {
                limit = self.service.means.limits.limit_of_pull(&self.name);
                cancel.cancel();
            }
            ended = &mut work => return Some(ended),
        }
        work.await;
        if limit.is_some() {
            // It was meant for whatever this node fetches of the model.
            self.service.means.limits.limit_pull(&self.name, limit, false);
        }
        None
    }

    /// One round, to its end or until it is cancelled.
    async fn work(&self, assignment: &Assignment, cancel: &CancellationToken) -> Ended {
        let halt = cancel.child_token();
        let outcome = match self.begin(assignment, &halt).await {
            Ok(board) => self.see_through(assignment, &board, cancel, &halt).await,
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return Ended::Settled };
        if matches!(error, PullError::Ledger(LedgerError::Refused(Refusal::VersionMoved { .. }))) {
            return Ended::Moved;
        }
        if !cancel.is_cancelled() && is_ours(&error) {
            self.tell(error, cancel).await;
        }
        Ended::Settled
    }

    /// Begins the pull. One that runs on another behalf is waited for, so that what it fetched need not come again.
    async fn begin(&self, assignment: &Assignment, halt: &CancellationToken) -> Result<Arc<Board>, PullError> {
        let wish = self.service.means.ledger.plan(&self.name);
        let asked_at_ms = self.asked_at_ms(wish.as_ref());
        let asked_by = wish.map_or_else(|| ASKED_BY.to_owned(), |wish| wish.asked_by);
        let spec = PullSpec { name: self.name.clone(), insecure: assignment.insecure, asked_by };
        loop {
            let since_ms = asked_at_ms.max(self.ended_ms);
            let wished = Wished::new(self.assignment.clone(), since_ms, self.kept.clone(), self.hints.clone());
            match self.service.begin_wish(spec.clone(), wished, &self.jobs, halt.clone())? {
                Begun::Ours(board) => return Ok(board),
                Begun::Other(board) => {
                    let over = until_state(&board, |_| false);
                    halt.run_until_cancelled(over).await.ok_or(PullError::Cancelled)?;
                }
            }
        }
    }

    /// When a wish was asked for, by this node's clock, as the times of files are told.
    fn asked_at_ms(&self, wish: Option<&Wish>) -> u64 {
        let means = &self.service.means;
        let now = means.clock.now();
        let Some(asked_at) = wish.map(|wish| wish.asked_at).filter(|asked_at| asked_at.0 > 0) else {
            return now.0.saturating_add(1);
        };
        let ago_ms = means.ledger.log_time().ms_since(asked_at);
        let is_of_before = self.kept.is_some() || Duration::from_millis(ago_ms) > self.started.elapsed();
        by_own_clock(now, asked_at, ago_ms, is_of_before)
    }

    /// Waits for the end of the pull, and puts on record what it finds out.
    async fn see_through(
        &self,
        assignment: &Assignment,
        board: &Board,
        cancel: &CancellationToken,
        halt: &CancellationToken,
    ) -> Result<(), PullError> {
        let pulled = async {
            let end = until_state(board, |_| false).await;
            match &end.stage {
                Stage::Done => Ok(()),
                Stage::Failed(error) => Err(error.clone()),
                _ => Err(PullError::Stopping),
            }
        };
        let recorded = async {
            let outcome = self.record(assignment, board, cancel).await;
            if outcome.is_err() {
                // What is published already stays.
                halt.cancel();
            }
            outcome
        };
        let told = milestones::tell(Arc::clone(&self.service), self.assignment.clone(), board.watch_anyway());
        // It ends with the pull or with the node; that nobody can be told is no failure.
        self.service.tasks.spawn(told);
        let (pulled, recorded) = tokio::join!(pulled, recorded);
        recorded.and(pulled)
    }

    /// Which version it is, as soon as that is known, and then the hashes of its files.
    async fn record(
        &self,
        assignment: &Assignment,
        board: &Board,
        cancel: &CancellationToken,
    ) -> Result<(), PullError> {
        until_state(board, |state| state.digest.is_some()).await;
        let Some(manifest) = board.manifest() else { return Ok(()) };
        let (digest, size_bytes) = (manifest.digest(), manifest.size_bytes());
        let ledger = &self.service.means.ledger;
        if assignment.duty == Duty::Ingest && assignment.digest.is_none() {
            let (name, round) = (&self.name, assignment.round);
            let resolve = || ledger.resolve(name.clone(), round, digest, size_bytes);
            self.insist(resolve, cancel).await?;
        }
        let published = until_state(board, |state| state.stage == Stage::Settling).await;
        let is_stored =
            |error: &PullError| matches!(error, PullError::NotListed { .. } | PullError::RuntimeDown { .. });
        if matches!(published.stage, Stage::Failed(ref error) if !is_stored(error)) {
            return Ok(());
        }
        let unbound = |blob: &BlobSpec| ledger.bound(blob.sha256).is_none();
        let missing: Vec<BlobSpec> = manifest.blobs().into_iter().filter(unbound).collect();
        for blobs in missing.chunks(BIND_MAX) {
            let Some(roots) = self.roots(board, blobs, cancel).await? else { return Ok(()) };
            self.insist(|| ledger.bind(roots.clone()), cancel).await?;
        }
        Ok(())
    }

    /// Changes the record, again and again while that cannot be done. Once it is tried also when nobody wants it.
    async fn insist<T: Future<Output = Result<(), LedgerError>>>(
        &self,
        change: impl Fn() -> T,
        cancel: &CancellationToken,
    ) -> Result<(), PullError> {
        let patience = self.service.means.config.patience();
        let mut failures = 0;
        loop {
            let error = match self.service.stop.run_until_cancelled(change()).await {
                None | Some(Ok(())) => return Ok(()),
                Some(Err(error @ (LedgerError::NoQuorum(_) | LedgerError::Failed { .. }))) => error,
                Some(Err(error)) => return Err(PullError::Ledger(error)),
            };
            tracing::debug!(model = %self.name, %error, "put on record what a pull found out; tried again");
            let wait = Duration::from_millis(patience.wait_ms(failures));
            failures += 1;
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = self.service.stop.cancelled() => return Ok(()),
                () = sleep(wait) => {}
            }
        }
    }

    /// The roots of files of the store. What is not hashed yet is hashed before all else. `None`: nobody waits for it.
    async fn roots(
        &self,
        board: &Board,
        blobs: &[BlobSpec],
        cancel: &CancellationToken,
    ) -> Result<Option<Vec<(BlobSpec, Root)>>, PullError> {
        let mut roots = self.roots_on_disk(blobs).await?;
        let on_its_way = |blob: &BlobSpec| Some((blob.sha256, board.root_of(blob.sha256)?));
        roots.extend(blobs.iter().filter_map(on_its_way));
        let missing: Vec<BlobSpec> = blobs.iter().copied().filter(|blob| !roots.contains_key(&blob.sha256)).collect();
        if !missing.is_empty() {
            let hashed = tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = self.service.stop.cancelled() => return Ok(None),
                hashed = self.hashed(&missing) => hashed,
            };
            roots.extend(hashed?);
        }
        let known = |blob: &BlobSpec| Some((*blob, *roots.get(&blob.sha256)?));
        Ok(Some(blobs.iter().filter_map(known).collect()))
    }

    /// What was hashed before, of exactly these files.
    async fn roots_on_disk(&self, blobs: &[BlobSpec]) -> Result<BTreeMap<Digest, Root>, PullError> {
        let (blobs, means) = (blobs.to_vec(), Arc::clone(&self.service.means));
        blocking(move || {
            let Place::Store(place) = means.runtime.place() else { return BTreeMap::new() };
            let (Ok(store), Ok(index)) = (Store::open(&place), means.trees.open()) else { return BTreeMap::new() };
            let root_of = |blob: BlobSpec| {
                let file = store.blob(blob).ok().flatten()?;
                let indexed = index.get(blob.sha256).ok().flatten()?;
                (indexed.identity == file.identity).then(|| (blob.sha256, indexed.tree.root()))
            };
            blobs.into_iter().filter_map(root_of).collect()
        })
        .await
    }

    /// Has files of the store hashed at once. One that has gone or cannot be read is waited for by nobody.
    async fn hashed(&self, missing: &[BlobSpec]) -> Result<BTreeMap<Digest, Root>, PullError> {
        let means = &self.service.means;
        let hurry = Hurry::new(&means.urgent, missing);
        let (mut adopted, mut urgent) = (means.adopted.clone(), means.urgent.subscribe());
        loop {
            let known = Arc::clone(&adopted.borrow_and_update());
            if let Some((blob, what)) = missing.iter().find_map(|blob| Some((blob, known.suspect.get(&blob.sha256)?))) {
                let blob = blob.sha256.short();
                return Err(PullError::Disk(format!("{blob} in the store is not what its name says: {what}")));
            }
            let root_of = |blob: &BlobSpec| Some((blob.sha256, *known.hashed.get(&blob.sha256)?));
            let roots: BTreeMap<Digest, Root> = missing.iter().filter_map(root_of).collect();
            if roots.len() == missing.len() {
                drop(hurry);
                return Ok(roots);
            }
            let unhashed = missing.iter().copied().filter(|blob| !roots.contains_key(&blob.sha256)).collect();
            self.look_for(unhashed, known).await?;
            let changed = tokio::select! {
                changed = adopted.changed() => changed,
                changed = urgent.changed() => changed,
                () = sleep(STORE_INTERVAL) => Ok(()),
            };
            if changed.is_err() {
                return Err(PullError::Stopping);
            }
            hurry.renew();
        }
    }

    /// An error where one of these files will not be hashed. While there is no store it is waited for.
    async fn look_for(&self, unhashed: Vec<BlobSpec>, known: Arc<Adopted>) -> Result<(), PullError> {
        let runtime = Arc::clone(&self.service.means.runtime);
        let why = blocking(move || {
            let store = runtime.place().store().ok()?;
            unhashed.into_iter().find_map(|blob| out_of_reach(&store, blob, &known))
        });
        why.await?.map_or(Ok(()), |why| Err(PullError::Disk(why)))
    }

    /// Tells the cluster why this node does not do its part.
    async fn tell(&self, error: PullError, cancel: &CancellationToken) {
        let round = self.assignment.borrow().round;
        let ledger = &self.service.means.ledger;
        let told = self.insist(|| ledger.tell(self.name.clone(), round, error.clone()), cancel).await;
        if let Err(refused) = told {
            tracing::debug!(model = %self.name, error = %refused, "the cluster does not want to know of a failure");
        }
    }
}

// === impl Hurry ===

impl<'a> Hurry<'a> {
    fn new(urgent: &'a watch::Sender<BTreeSet<BlobSpec>>, blobs: &'a [BlobSpec]) -> Self {
        urgent.send_modify(|urgent| urgent.extend(blobs));
        Self { urgent, blobs }
    }

    /// Whoever else waited for one of them may have taken it away when he left.
    fn renew(&self) {
        let insert = |urgent: &mut BTreeSet<BlobSpec>| {
            let before = urgent.len();
            urgent.extend(self.blobs);
            urgent.len() > before
        };
        self.urgent.send_if_modified(insert);
    }
}

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.urgent.send_modify(|urgent| urgent.retain(|blob| !self.blobs.contains(blob)));
    }
}

/// When something was asked for, by this node's clock: the record's time may be days behind it, and is only asked how
/// long ago that was. It stands still while all nodes are off, so what an earlier process may have heard of was asked
/// for at the earlier of both moments: what somebody put there meanwhile stays.
fn by_own_clock(now: Timestamp, asked_at: Timestamp, ago_ms: u64, is_of_before: bool) -> u64 {
    // What was put there within this very millisecond was there.
    let counted_ms = now.0.saturating_sub(ago_ms).saturating_add(1);
    if is_of_before { counted_ms.min(asked_at.0) } else { counted_ms }
}

/// Whether what is done for one assignment is what the other asks for. What somebody waits for from now on begins anew
/// with what has come, and goes faster.
fn goes_on(known: &Assignment, now: &Assignment) -> bool {
    if known.duty != now.duty || known.in_background && !now.in_background {
        return false;
    }
    let is_same_version = known.digest.is_some() && known.digest == now.digest;
    if known.round != now.round {
        // Who receives hears later whether the new round stands for another version.
        let is_same = is_same_version && known.ingester == now.ingester;
        return is_same || known.digest.is_some() && now.digest.is_none() && now.duty == Duty::Receive;
    }
    known.ingester == now.ingester && (is_same_version || known.digest.is_none())
}

/// Whether it is to be done although the other is over.
fn is_another(over: &Assignment, now: &Assignment) -> bool {
    (over.round, over.duty, over.ingester) != (now.round, now.duty, now.ingester)
}

/// Whether the cluster does not know of a failure yet.
const fn is_ours(error: &PullError) -> bool {
    !matches!(error, PullError::Stopping | PullError::Elsewhere { .. })
}

/// Resolves when an assignment is so, and never when nobody tells any more.
async fn until(mut assignment: watch::Receiver<Assignment>, is_so: impl FnMut(&Assignment) -> bool) {
    let is_closed = assignment.wait_for(is_so).await.is_err();
    if is_closed {
        pending::<()>().await;
    }
}

/// Why a file of the store will not be hashed: it is not there any more, or cannot be read. Blocks on the disk.
fn out_of_reach(store: &Store, blob: BlobSpec, known: &Adopted) -> Option<String> {
    let short = blob.sha256.short();
    let file = match store.blob(blob) {
        Ok(Some(file)) => file,
        Ok(None) => return Some(format!("{short} is not in the store any more")),
        Err(fault) => return Some(format!("{short} in the store cannot be read: {fault}")),
    };
    let (_, why) = known.unreadable.get(&blob.sha256).filter(|(identity, _)| *identity == file.identity)?;
    Some(format!("{short} in the store cannot be read: {why}"))
}

/// Waits until a pull is so, or over.
async fn until_state(board: &Board, is_so: impl Fn(&PullProgress) -> bool) -> Arc<PullProgress> {
    let mut watch = board.watch_anyway();
    loop {
        let now = watch.now();
        if now.is_over() || is_so(&now) || !watch.changed().await {
            return now;
        }
    }
}

/// Blocks on the disk.
fn read_jobs(root: &Path, now: Timestamp) -> Result<(Jobs, BTreeMap<ModelName, Manifest>), Fault> {
    let (jobs, mut kept) = (Jobs::open(root)?, BTreeMap::new());
    for job in jobs.all()? {
        let Ok(name) = job.name.parse::<ModelName>() else { continue };
        let bytes = hex::decode(&job.manifest_hex).unwrap_or_default();
        let is_old = now.ms_since(Timestamp(job.asked_at_ms)) > PARTS_KEPT_MS;
        match Manifest::read(&bytes) {
            Ok(manifest) if !is_old => drop(kept.insert(name, manifest)),
            _ => jobs.remove(&name.key())?,
        }
    }
    Ok((jobs, kept))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ollamax_blobs::FileIdentity;
    use ollamax_types::NodeId;

    use super::*;

    fn assignment(round: u64, digest: Option<u8>, duty: Duty) -> Assignment {
        Assignment {
            name: "tiny".parse().expect("a name"),
            round,
            insecure: false,
            digest: digest.map(|byte| Digest([byte; 32])),
            duty,
            rank: 0,
            of: 1,
            ingester: NodeId(1),
            others: vec![NodeId(1)],
            in_background: false,
            disk_free_bytes_min: 0,
        }
    }

    #[test]
    fn work_goes_on_for_the_same_version_and_ends_for_another() {
        use Duty::{Ingest, Receive};
        let check = |known: (u64, Option<u8>, Duty), now: (u64, Option<u8>, Duty), expected: bool| {
            let [known, now] = [known, now].map(|(round, digest, duty)| assignment(round, digest, duty));
            assert_eq!(goes_on(&known, &now), expected, "{known:?} {now:?}");
        };
        check((1, None, Ingest), (1, None, Ingest), true);
        check((1, None, Receive), (1, Some(7), Receive), true);
        check((1, Some(7), Receive), (1, Some(7), Receive), true);
        check((1, Some(7), Receive), (1, Some(8), Receive), false);
        check((1, Some(7), Receive), (1, Some(7), Ingest), false);
        // A new round: the name may have moved, which only the ingester finds out.
        check((1, Some(7), Receive), (2, Some(7), Receive), true);
        check((1, Some(7), Receive), (2, None, Receive), true);
        check((1, Some(7), Receive), (2, Some(8), Receive), false);
        check((1, None, Receive), (2, None, Receive), false);
        check((1, Some(7), Ingest), (2, None, Ingest), false);
        check((1, Some(7), Ingest), (2, Some(7), Ingest), true);
        let known = assignment(1, Some(7), Receive);
        let now = Assignment { ingester: NodeId(2), ..assignment(2, Some(7), Receive) };
        assert!(!goes_on(&known, &now), "another node tells the hashes now");
        assert!(goes_on(&known, &Assignment { digest: None, ..now }), "it may stand for another version");
        let quiet = Assignment { in_background: true, ..known.clone() };
        assert!(goes_on(&quiet, &quiet) && goes_on(&known, &quiet), "it is on its way");
        assert!(!goes_on(&quiet, &known), "somebody waits for it from now on");
    }

    #[test]
    fn what_is_over_is_done_again_for_another_round_duty_or_ingester() {
        let over = assignment(1, None, Duty::Receive);
        let check = |now: Assignment, expected: bool| assert_eq!(is_another(&over, &now), expected, "{now:?}");
        check(over.clone(), false);
        check(Assignment { digest: Some(Digest([7; 32])), others: Vec::new(), ..over.clone() }, false);
        check(Assignment { round: 2, ..over.clone() }, true);
        check(Assignment { duty: Duty::Ingest, ..over.clone() }, true);
        check(Assignment { ingester: NodeId(2), ..over.clone() }, true);
        let elsewhere = |node| {
            let (code, text) = (ollamax_types::ErrorCode::DiskFull, String::new());
            PullError::Elsewhere { node, code, text }
        };
        assert!(is_ours(&PullError::Cancelled) && !is_ours(&PullError::Stopping) && !is_ours(&elsewhere(NodeId(1))));
        assert!(!goes_on(&over, &Assignment { ingester: NodeId(2), ..over.clone() }), "another may resolve otherwise");
    }

    #[test]
    fn a_file_that_two_wait_for_stays_urgent_when_one_of_them_leaves() {
        let [one, two] = [1, 2].map(|byte| BlobSpec { sha256: Digest([byte; 32]), size_bytes: 5 });
        let (urgent, mut news) = watch::channel(BTreeSet::new());
        let (first, second) = ([one, two], [two]);
        let (leaves, stays) = (Hurry::new(&urgent, &first), Hurry::new(&urgent, &second));
        drop(leaves);
        news.mark_unchanged();
        stays.renew();
        assert!(news.has_changed().expect("it is there"), "who hashes is told");
        assert_eq!(*news.borrow_and_update(), BTreeSet::from([two]));
        stays.renew();
        assert!(!news.has_changed().expect("it is there"), "once");
        drop(stays);
        assert_eq!(*news.borrow(), BTreeSet::new());
    }

    #[test]
    fn a_file_that_has_gone_or_cannot_be_read_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("temp");
        for place in ["blobs", "manifests"] {
            fs::create_dir(folder.path().join(place)).expect("a folder");
        }
        let store = Store::open(folder.path()).expect("it is there");
        let blob = BlobSpec { sha256: Digest([7; 32]), size_bytes: 4 };
        let check = |known: &Adopted, expected: Option<&str>| {
            let expected = expected.map(|end| format!("{} {end}", blob.sha256.short()));
            assert_eq!(out_of_reach(&store, blob, known), expected);
        };
        check(&Adopted::default(), Some("is not in the store any more"));
        fs::write(store.blob_path(blob.sha256), b"here").expect("room");
        check(&Adopted::default(), None);
        let identity = store.blob(blob).expect("readable").expect("it is there").identity;
        let unreadable = |identity: FileIdentity| Adopted {
            unreadable: BTreeMap::from([(blob.sha256, (identity, "no sector".to_owned()))]),
            ..Adopted::default()
        };
        check(&unreadable(identity), Some("in the store cannot be read: no sector"));
        // That was the file before this one.
        check(&unreadable(FileIdentity { ino: identity.ino + 1, ..identity }), None);
    }

    #[test]
    fn when_something_was_asked_for_is_counted_from_the_own_clock() {
        let day_ms = 24 * 3_600_000;
        let check = |asked_at_ms: u64, ago_ms: u64, is_of_before: bool, expected_ms: u64| {
            let counted_ms = by_own_clock(Timestamp(9 * day_ms), Timestamp(asked_at_ms), ago_ms, is_of_before);
            assert_eq!(counted_ms, expected_ms, "{asked_at_ms} {ago_ms} {is_of_before}");
        };
        // The record's time is two days behind, or one ahead.
        check(7 * day_ms, 5_000, false, 9 * day_ms - 4_999);
        check(10 * day_ms, 5_000, false, 9 * day_ms - 4_999);
        // It stood still for two days, as it did while all nodes were off.
        check(7 * day_ms, 5_000, true, 7 * day_ms);
        check(10 * day_ms, 5_000, true, 9 * day_ms - 4_999);
        check(1, u64::MAX, false, 1);
    }

    #[test]
    fn jobs_are_kept_for_a_week() {
        let folder = tempfile::tempdir().expect("temp");
        let layer = format!(r#"{{"mediaType":"application/x","digest":"sha256:{}","size":1}}"#, "a".repeat(64));
        let manifest = format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#);
        let day_ms = 24 * 3_600_000;
        let job = |name: &str, asked_at_ms: u64| ollamax_blobs::JobFile {
            version: ollamax_blobs::JOB_VERSION,
            name: name.to_owned(),
            insecure: false,
            manifest_hex: hex::encode(&manifest),
            asked_by: "a test".to_owned(),
            asked_at_ms,
        };
        let jobs = Jobs::open(folder.path()).expect("ours");
        for (name, day) in [("old:latest", 1), ("new:latest", 3)] {
            jobs.write(&job(name, day * day_ms)).expect("there is room");
        }
        let (jobs, kept) = read_jobs(folder.path(), Timestamp(9 * day_ms)).expect("readable");
        let names: Vec<String> = kept.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["new:latest"]);
        assert_eq!(kept.values().map(Manifest::bytes).collect::<Vec<_>>(), [manifest.as_bytes()]);
        assert_eq!(jobs.all().expect("readable").len(), 1);
    }
}
