//! The loop that owns all pulls of this node and takes up those that a restart cut off.
//!
//! A name is pulled once at a time, however many ask for it. Each pull is a task of its own; its job file lies on disk
//! from the moment when it is promised to somebody until it is over, and stays when the node ends before that. A pull
//! that failed is listed for a while, for those who did not wait for it. What the cluster wishes begins in `wishes` and
//! runs here like all others, with job files in a folder of their own. What came of a pull that is over without its
//! model stays, and the room of the rest is given back; what nobody has asked for since goes after a week.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::{BlobSpec, Fault, JobFile, Jobs, Manifest, Scanned, Staging};
use ollamax_types::{Digest, ModelName, NodeId, Rate, Timestamp};

use crate::error::PullError;
use crate::handle::PullSpec;
use crate::progress::{BlobProgress, Board, PullProgress, Source, SourceProgress, Stage, Watch, millis};
use crate::pull::course::{Course, Wished};
use crate::pull::repair::Repairs;
use crate::pull::turns::Turns;
use crate::pull::{Chosen, Means, Pull, blocking};

mod bundled;
mod unplanned;

/// How long a part is kept that nobody writes to.
pub(crate) const PARTS_KEPT_MS: u64 = 7 * 24 * 3_600_000;
/// Time between two looks for such parts.
const CLEAR_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// Wait before the folder of jobs is tried again that could not be read.
pub(crate) const JOBS_RETRY: Duration = Duration::from_secs(10);
/// How long a pull that failed is listed.
const FAILED_KEPT: Duration = Duration::from_secs(3_600);
/// Most failed pulls that are listed.
const FAILED_MAX: usize = 64;
/// Most pulls of which it is remembered how they went.
const BOARDS_MAX: usize = 256;
/// Most files that are hashed before others because other nodes ask for them.
const URGENT_MAX: usize = 64;

/// All pulls of this node.
pub(crate) struct Service {
    pub(crate) node: NodeId,
    pub(crate) means: Arc<Means>,
    pub(crate) repairs: Arc<Repairs>,
    pub(crate) jobs_root: PathBuf,
    /// Empty until the jobs of before were taken up.
    pub(crate) jobs: OnceCell<Jobs>,
    /// Where the jobs of wishes lie.
    pub(crate) wishes_root: PathBuf,
    pub(crate) pulls: Mutex<BTreeMap<ModelName, Entry>>,
    /// How the last pull of each name went or goes.
    pub(crate) boards: Mutex<BTreeMap<ModelName, Arc<Board>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// One of them.
pub(crate) struct Entry {
    board: Arc<Board>,
    cancel: CancellationToken,
    /// When it failed.
    failed_at: Option<Instant>,
}

/// What became of a wish that was to begin.
pub(crate) enum Begun {
    /// It has begun.
    Ours(Arc<Board>),
    /// The model is pulled already, on another behalf.
    Other(Arc<Board>),
}

// === impl Service ===

impl Service {
    /// Takes up what was cut off, and clears away what nobody needs, until the node ends.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.keep_house() => {}
        }
    }

    async fn keep_house(self: &Arc<Self>) {
        while let Err(error) = self.take_up().await {
            tracing::warn!(code = %error.code(), %error, "read which pulls were cut off; tried again");
            sleep(JOBS_RETRY).await;
        }
        loop {
            self.clear_parts().await;
            sleep(CLEAR_INTERVAL).await;
        }
    }

    /// Pulls a model, or joins the pull of that name. It answers when the pull is promised or has failed.
    pub(crate) async fn pull(self: &Arc<Self>, spec: PullSpec) -> Result<Watch, PullError> {
        let jobs = self.take_up().await?;
        let mut watch = self.begin(spec, None, jobs)?.watch()?;
        loop {
            match &watch.now().stage {
                Stage::Failed(error) => return Err(error.clone()),
                Stage::Resolving => {}
                _ => return Ok(watch),
            }
            if !watch.changed().await {
                return Err(PullError::Stopping);
            }
        }
    }

    /// Ends a pull and waits until it has ended. False when there is none, and when it ended otherwise: its model is
    /// there, it failed, or it goes on at the next start.
    pub(crate) async fn cancel(&self, name: &ModelName) -> bool {
        let found = self.lock().get(name).filter(|entry| entry.failed_at.is_none()).map(|entry| {
            entry.cancel.cancel();
            Arc::clone(&entry.board)
        });
        let Some(board) = found else { return false };
        // One more than others may have: whoever cancels is not kept from it by those who watch.
        let mut watch = board.watch_anyway();
        while !watch.now().is_over() && watch.changed().await {}
        matches!(watch.now().stage, Stage::Failed(PullError::Cancelled))
    }

    /// Slows a pull down, or lets it go as fast as it can, until it is over. False when there is none, and none that
    /// was announced; `ahead`: then one is about to begin.
    pub(crate) fn limit_pull(&self, name: &ModelName, rate: Option<Rate>, ahead: bool) -> bool {
        let pulls = self.lock();
        let runs = pulls.get(name).is_some_and(|entry| entry.failed_at.is_none());
        let is_known = runs || ahead || self.means.limits.is_slowed(name);
        if is_known {
            self.means.limits.limit_pull(name, rate, runs);
        }
        is_known
    }

    /// The pulls that are not over, and those that failed lately.
    pub(crate) fn pulls(&self) -> Vec<Arc<PullProgress>> {
        let mut pulls = self.lock();
        forget_old(&mut pulls);
        pulls.values().map(|entry| entry.board.now()).collect()
    }

    /// The manifest of a version that is pulled just now.
    pub(crate) fn manifest(&self, digest: Digest) -> Option<Bytes> {
        let boards: Vec<Arc<Board>> = self.lock().values().map(|entry| Arc::clone(&entry.board)).collect();
        let manifest = boards.iter().find(|board| board.now().digest == Some(digest))?.manifest()?;
        Some(Bytes::copy_from_slice(manifest.bytes()))
    }

    /// How the last pull of a name goes or went; that of a model which is in the store is done.
    pub(crate) fn watch(&self, name: &ModelName) -> Option<Watch> {
        let board = self.lock_boards().get(name).cloned();
        let models = Arc::clone(&self.means.adopted.borrow().models);
        let stored = models.iter().find(|scanned| scanned.complete && scanned.model.name == *name);
        match (board, stored) {
            (Some(board), stored) if says_more(&board.now(), stored) => board.watch().ok(),
            (_, Some(stored)) => Some(self.watch_stored(stored)),
            (_, None) => None,
        }
    }

    /// A pull that is over, of a model that was there.
    fn watch_stored(&self, stored: &Scanned) -> Watch {
        let blobs = stored.blobs.iter().map(|blob| BlobProgress { blob: *blob, verified_bytes: blob.size_bytes });
        let mut progress = PullProgress {
            name: stored.model.name.clone(),
            node: self.node,
            stage: Stage::Done,
            wait: None,
            digest: Some(stored.model.digest),
            blobs: blobs.collect(),
            sources: Vec::new(),
            bytes_per_second: None,
            left: None,
            remark: None,
        };
        progress.sources.push(SourceProgress { source: Source::Here, bytes: progress.total_bytes() });
        Watch::new(watch::channel(Arc::new(progress)).1)
    }

    /// Has a file of the store hashed before others, since another node wants it. What is hashed by now makes room.
    pub(crate) fn hurry(&self, sha256: Digest) {
        let adopted = Arc::clone(&self.means.adopted.borrow());
        let is_open =
            |blob: &BlobSpec| !adopted.hashed.contains_key(&blob.sha256) && !adopted.suspect.contains_key(&blob.sha256);
        let mut blobs = adopted.models.iter().flat_map(|scanned| &scanned.blobs);
        let Some(blob) = blobs.find(|blob| blob.sha256 == sha256).filter(|blob| is_open(blob)) else { return };
        self.means.urgent.send_if_modified(|urgent| {
            urgent.retain(is_open);
            urgent.len() < URGENT_MAX && urgent.insert(*blob)
        });
    }

    /// Begins what the cluster wishes, unless the model is pulled already. It is not refused: the cluster decided it.
    /// Of an assignment of round 0 the record knows nothing: its version and nodes are as it says, and nobody is waited
    /// for.
    pub(crate) fn begin_wish(
        self: &Arc<Self>,
        spec: PullSpec,
        wished: Wished,
        jobs: &Jobs,
        cancel: CancellationToken,
    ) -> Result<Begun, PullError> {
        let mut pulls = self.lock();
        forget_old(&mut pulls);
        if let Some(entry) = pulls.get(&spec.name).filter(|entry| entry.failed_at.is_none()) {
            return Ok(Begun::Other(Arc::clone(&entry.board)));
        }
        if self.stop.is_cancelled() {
            return Err(PullError::Stopping);
        }
        let board = self.board(&spec.name, Stage::Resolving);
        let pull = Pull {
            means: Arc::clone(&self.means),
            jobs: jobs.clone(),
            board: Arc::clone(&board),
            spec,
            chosen: None,
            course: Course::Wished(wished),
            offers: Mutex::default(),
            cancel,
            stop: self.stop.clone(),
        };
        self.launch(pulls, pull);
        Ok(Begun::Ours(board))
    }

    /// The folder of jobs; the first call begins those that lie there.
    async fn take_up(self: &Arc<Self>) -> Result<&Jobs, PullError> {
        self.jobs.get_or_try_init(|| self.read_jobs()).await
    }

    async fn read_jobs(self: &Arc<Self>) -> Result<Jobs, PullError> {
        let root = self.jobs_root.clone();
        let read = blocking(move || -> Result<(Jobs, Vec<JobFile>), Fault> {
            let jobs = Jobs::open(&root)?;
            let all = jobs.all()?;
            Ok((jobs, all))
        });
        let read = read.await?.map_err(|fault| PullError::of_fault("the data directory", &fault));
        let (jobs, all) = read?;
        for job in all {
            self.take_up_one(&job, &jobs).await;
        }
        Ok(jobs)
    }

    async fn take_up_one(self: &Arc<Self>, job: &JobFile, jobs: &Jobs) {
        let bytes = hex::decode(&job.manifest_hex).unwrap_or_default();
        let (Ok(name), Ok(manifest)) = (job.name.parse::<ModelName>(), Manifest::read(&bytes)) else {
            tracing::warn!(model = job.name, "a job has no manifest that can be used; it is dropped");
            if let Ok(name) = job.name.parse::<ModelName>() {
                self.remove_job(jobs, &name).await;
            }
            return;
        };
        let (digest, bytes) = (manifest.digest(), manifest.size_bytes());
        let spec = PullSpec { name, insecure: job.insecure, asked_by: job.asked_by.clone() };
        tracing::info!(model = %spec.name, %digest, bytes, asked_by = spec.asked_by, "a pull goes on");
        let chosen = Chosen { manifest, asked_at_ms: job.asked_at_ms };
        if let Err(error) = self.begin(spec, Some(chosen), jobs) {
            tracing::warn!(model = job.name, code = %error.code(), %error, "go on with a pull");
        }
    }

    /// The pull of this name: the one that runs, else a new one. One that was promised before is not refused.
    fn begin(self: &Arc<Self>, spec: PullSpec, chosen: Option<Chosen>, jobs: &Jobs) -> Result<Arc<Board>, PullError> {
        let mut pulls = self.lock();
        forget_old(&mut pulls);
        if let Some(entry) = pulls.get(&spec.name).filter(|entry| entry.failed_at.is_none()) {
            return Ok(Arc::clone(&entry.board));
        }
        if self.stop.is_cancelled() {
            return Err(PullError::Stopping);
        }
        let config = &self.means.config;
        let (at_once, waiting_max) = (config.pulls_max as usize, config.pulls_waiting_max as usize);
        let running = pulls.values().filter(|entry| entry.failed_at.is_none()).count();
        if chosen.is_none() && running >= at_once + waiting_max {
            return Err(PullError::TooMany(running - at_once, waiting_max));
        }
        let stage = if chosen.is_some() { Stage::Waiting } else { Stage::Resolving };
        let board = self.board(&spec.name, stage);
        if let Some(chosen) = &chosen {
            board.resolved(&chosen.manifest);
        }
        let pull = Pull {
            means: Arc::clone(&self.means),
            jobs: jobs.clone(),
            board: Arc::clone(&board),
            spec,
            chosen,
            course: Course::Asked,
            offers: Mutex::default(),
            cancel: CancellationToken::new(),
            stop: self.stop.clone(),
        };
        self.launch(pulls, pull);
        Ok(board)
    }

    fn board(&self, name: &ModelName, stage: Stage) -> Arc<Board> {
        Arc::new(Board::new(name.clone(), self.node, stage, self.means.metrics.clone()))
    }

    /// Begins a pull in a task of its own.
    fn launch(self: &Arc<Self>, mut pulls: MutexGuard<'_, BTreeMap<ModelName, Entry>>, pull: Pull) {
        let (name, board) = (pull.spec.name.clone(), Arc::clone(&pull.board));
        let entry = Entry { board: Arc::clone(&board), cancel: pull.cancel.clone(), failed_at: None };
        pulls.insert(name.clone(), entry);
        self.means.limits.pull_begins(&name);
        drop(pulls);
        remember(&mut self.lock_boards(), name, board);
        // It ends with the node, between two chunks; what it could not do is told on its board.
        self.tasks.spawn(Arc::clone(self).carry_out(pull));
    }

    /// Does a pull to its end, and tells of it.
    async fn carry_out(self: Arc<Self>, pull: Pull) {
        let (name, asked_by) = (pull.spec.name.clone(), pull.spec.asked_by.clone());
        if pull.chosen.is_none() {
            tracing::info!(model = %name, asked_by, "a pull begins");
        }
        let outcome = pull.course.ended(Box::pin(pull.run()).await);
        pull.withdraw();
        if !matches!(outcome, Err(PullError::Stopping)) {
            self.remove_job(&pull.jobs, &name).await;
        }
        if !matches!(outcome, Ok(()) | Err(PullError::Stopping)) {
            self.give_back_room(&pull.board.now()).await;
        }
        self.show_staged().await;
        self.note(&pull.board.now(), &outcome, millis(pull.board.elapsed()));
        self.end(&name, &pull.board, outcome);
    }

    /// Writes to the log and counts how a pull ended.
    fn note(&self, progress: &PullProgress, outcome: &Result<(), PullError>, took_ms: u64) {
        let (model, bytes, from) = (&progress.name, progress.total_bytes(), progress.sources_in_words());
        let digest = progress.digest.map(|digest| digest.to_string()).unwrap_or_default();
        let metrics = &self.means.metrics;
        match outcome {
            Ok(()) => {
                metrics.pull_over("done");
                tracing::info!(%model, digest, bytes, took_ms, from, "a model was pulled");
            }
            Err(PullError::Stopping) => {
                tracing::info!(%model, digest, bytes, took_ms, from, "a pull goes on when this node starts again");
            }
            Err(PullError::Cancelled) => {
                metrics.pull_over("cancelled");
                tracing::info!(%model, digest, bytes, took_ms, from, "a pull was cancelled");
            }
            Err(error) => {
                metrics.pull_over("failed");
                let code = error.code();
                tracing::info!(%model, digest, bytes, took_ms, from, %code, %error, "a pull failed");
            }
        }
    }

    /// Whoever asks for the name from here on begins anew.
    fn end(&self, name: &ModelName, board: &Arc<Board>, outcome: Result<(), PullError>) {
        let mut pulls = self.lock();
        self.means.limits.limit_pull(name, None, true);
        let is_listed = matches!(&outcome, Err(error) if !is_an_answer(error));
        if is_listed {
            let failed_at = Some(Instant::now());
            let entry = Entry { board: Arc::clone(board), cancel: CancellationToken::new(), failed_at };
            pulls.insert(name.clone(), entry);
        } else {
            pulls.remove(name);
        }
        board.begin(outcome.map_or_else(Stage::Failed, |()| Stage::Done));
    }

    async fn remove_job(&self, jobs: &Jobs, name: &ModelName) {
        let (jobs, key) = (jobs.clone(), name.key());
        if let Ok(Err(error)) = blocking(move || jobs.remove(&key)).await {
            tracing::warn!(model = %name, %error, "remove the job of a pull that is over; a restart does it again");
        }
    }

    /// Gives back the room of what did not come, but for files that another pull wants. What came stays.
    async fn give_back_room(&self, over: &PullProgress) {
        let wanted = self.wanted_beside(&over.name);
        let blobs = over.blobs.iter().map(|blob| blob.blob);
        let left: Vec<BlobSpec> = blobs.filter(|blob| !wanted.contains(&blob.sha256)).collect();
        if left.is_empty() {
            return;
        }
        let Some(staging) = self.staging().await else { return };
        let means = Arc::clone(&self.means);
        let given = blocking(move || {
            // Another pull may have begun one meanwhile.
            let give = |blob: BlobSpec| means.turns.unless_wanted(blob.sha256, 0, || staging.give_back_room(blob));
            for error in left.into_iter().filter_map(give).filter_map(Result::err) {
                tracing::warn!(%error, "give back the room of a file that did not come");
            }
        });
        if let Err(error) = given.await {
            tracing::warn!(code = %error.code(), %error, "give back the room of files that did not come");
        }
    }

    /// The files of all pulls that go on, but for this one.
    fn wanted_beside(&self, name: &ModelName) -> BTreeSet<Digest> {
        let pulls = self.lock();
        let others = pulls.iter().filter(|(other, entry)| *other != name && entry.failed_at.is_none());
        let boards = others.map(|(_, entry)| entry.board.now());
        boards.flat_map(|progress| progress.blobs.iter().map(|blob| blob.blob.sha256).collect::<Vec<_>>()).collect()
    }

    /// Removes parts that nobody wrote to for long and that no pull wants.
    async fn clear_parts(&self) {
        let mut folders: Vec<Staging> = self.staging().await.into_iter().collect();
        // What grew there stays behind when the store was opened to this node meanwhile.
        let own = self.means.own_staging().await;
        folders.extend(own.filter(|own| folders.iter().all(|staging| staging.root() != own.root())));
        if folders.is_empty() {
            return;
        }
        let boards: Vec<Arc<PullProgress>> = self.lock().values().map(|entry| entry.board.now()).collect();
        let wanted: BTreeSet<Digest> =
            boards.iter().flat_map(|progress| progress.blobs.iter().map(|blob| blob.blob.sha256)).collect();
        let now = self.means.clock.now();
        let means = Arc::clone(&self.means);
        let cleared = blocking(move || folders.iter().for_each(|staging| clear(staging, &means.turns, &wanted, now)));
        if cleared.await.is_ok() {
            self.show_staged().await;
        }
    }

    /// The staging folder for the store beside this node, if it has one already.
    async fn staging(&self) -> Option<Staging> {
        let runtime = Arc::clone(&self.means.runtime);
        let found = blocking(move || runtime.place().store().ok().map(|store| (store.access(), store)));
        let (access, store) = found.await.ok()??;
        let root = self.means.staging_place(&store, &access);
        let is_there = blocking(move || root.is_dir()).await.ok()?;
        if !is_there {
            return None;
        }
        let place = store.root().display().to_string();
        self.means.staging(&store, &access, &place).await.ok()
    }

    async fn show_staged(&self) {
        let Some(staging) = self.staging().await else { return self.means.metrics.show_staged(0) };
        let taken = blocking(move || {
            let parts = staging.parts().unwrap_or_default();
            parts.into_iter().map(|part| staging.allocated_bytes(part)).fold(0, u64::saturating_add)
        });
        if let Ok(bytes) = taken.await {
            self.means.metrics.show_staged(bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelName, Entry>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_boards(&self) -> MutexGuard<'_, BTreeMap<ModelName, Arc<Board>>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a pull says more of its model than that it lies in the store. One that ended before its version was known
/// does not: the cluster may have found out meanwhile that nothing was to be fetched.
fn says_more(pull: &PullProgress, stored: Option<&Scanned>) -> bool {
    let Some(stored) = stored else { return true };
    let is_stored = Some(stored.model.digest) == pull.digest;
    match pull.stage {
        Stage::Done => is_stored,
        // It is in the store, and no copy that counts.
        Stage::Failed(PullError::RuntimeDown { .. }) if is_stored => true,
        Stage::Failed(_) => !is_stored && pull.digest.is_some(),
        _ => true,
    }
}

/// Keeps in mind how a pull goes, in place of one that is long over.
fn remember(boards: &mut BTreeMap<ModelName, Arc<Board>>, name: ModelName, board: Arc<Board>) {
    if boards.len() >= BOARDS_MAX {
        let over = boards.iter().filter(|(_, board)| board.now().is_over());
        let oldest = over.max_by_key(|(_, board)| board.elapsed()).map(|(name, _)| name.clone());
        if let Some(oldest) = oldest {
            boards.remove(&oldest);
        }
    }
    boards.insert(name, board);
}

/// Whether this is the end that somebody wanted, and no failure to be shown to others.
const fn is_an_answer(error: &PullError) -> bool {
    matches!(error, PullError::Cancelled | PullError::Stopping)
}

/// Failed pulls are listed for a while, and not all of them.
fn forget_old(pulls: &mut BTreeMap<ModelName, Entry>) {
    pulls.retain(|_, entry| entry.failed_at.is_none_or(|at| at.elapsed() < FAILED_KEPT));
    while pulls.values().filter(|entry| entry.failed_at.is_some()).count() > FAILED_MAX {
        let failed = pulls.iter().filter_map(|(name, entry)| Some((entry.failed_at?, name.clone())));
        let Some((_, oldest)) = failed.min() else { return };
        pulls.remove(&oldest);
    }
}

/// Removes old parts. Blocks on the disk.
fn clear(staging: &Staging, turns: &Turns, wanted: &BTreeSet<Digest>, now: Timestamp) {
    let parts = staging.parts().unwrap_or_else(|error| {
        tracing::warn!(%error, "look for files on their way that nobody wants");
        Vec::new()
    });
    for part in parts.into_iter().filter(|part| !wanted.contains(&part.sha256)) {
        let written_at = staging.written_at(part.sha256).ok().flatten();
        if written_at.is_none_or(|written_at| now.ms_since(written_at) <= PARTS_KEPT_MS) {
            continue;
        }
        match turns.unless_wanted(part.sha256, 0, || staging.forget(part.sha256)) {
            Some(Ok(())) => {
                let (sha256, bytes) = (part.sha256, part.size_bytes);
                tracing::info!(%sha256, bytes, "a file on its way was removed that nobody asked for any more");
            }
            Some(Err(error)) => tracing::warn!(%error, "remove a file on its way that nobody wants"),
            // Somebody has begun it just now.
            None => {}
        }
    }
}
