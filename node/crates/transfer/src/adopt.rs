//! Knows what lies in the store beside this node, and hashes it when nothing else is to be done.
//!
//! The list comes first: of a model only manifest and configuration are read, so it is there while the runtime is still
//! coming up. The hashes follow: one file at a time, the smallest first, no faster than the configuration allows, and
//! not what is on record for the very same file; while a model is pulled it rests. A file that a wish of the cluster
//! names is hashed before all others and at once. When all is hashed, what was not read for long is read again
//! (`scrub`); what another node doubts is read before anything else, unless it was read and found sound within the last
//! hour: no member can keep this node busy with large files. All that runs on threads that have stepped back.
//! Always holds: nothing in the store is changed here. A file whose bytes are not what its name says is told as
//! suspect; whether it is mended is decided elsewhere (`pull/repair`). A manifest that is damaged is told as such, with
//! its name. What cannot be read is told once and tried again later; nothing here can fail the node.

mod files;
pub(crate) mod job;
mod pace;
pub(crate) mod trees;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{Access, BlobSpec, Fault, FileIdentity, Index, Scan, Scanned, Store};
use ollamax_types::{Clock, Digest, ErrorCode, ModelName, Root, Timestamp};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::ports::{Place, Runtime};
use crate::quiet::{BrokenDown, quietly};
use crate::scrub::Rota;

use files::{Files, Sight};
use job::{Job, Stepped};
use pace::Pace;

pub(crate) use trees::Trees;

/// Time between two looks at the store although nobody said that it has changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time between two looks, however often somebody says that it has changed.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time between two questions for a store while there is none: at boot the runtime may be chosen after us.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two news of files that were hashed; what reads them need not wake for each.
const NEWS_INTERVAL: Duration = Duration::from_secs(1);
/// Wait before a file is read again that could not be read to its end.
const RETRY_WAIT: Duration = Duration::from_secs(600);
/// Time in which nobody's doubt has a file read again that was just read and is sound.
const DOUBT_INTERVAL: Duration = Duration::from_secs(3_600);
/// Most files of a store that are hashed.
const FILES_MAX: usize = 262_144;
/// Most troubles with a store that one look writes to the log.
const TOLD_MAX: usize = 32;

/// What lies in the store beside this node, as far as it was looked through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adopted {
    /// Whether `models` is what the store holds; false before its first look, and while there is no store.
    pub scanned: bool,
    /// Where the store is; `None` while there is none.
    pub store: Option<PathBuf>,
    /// Whether this node can publish into it.
    pub access: Option<Access>,
    /// The models, those that lack a file among them. The same list as long as the store holds the same.
    pub models: Arc<Vec<Scanned>>,
    /// The files that were hashed and are what their name says.
    pub hashed: BTreeMap<Digest, Root>,
    /// Bytes that are not hashed yet, as of the last file that was.
    pub left_bytes: u64,
    /// The files that are not what their name says, and what they are.
    pub suspect: BTreeMap<Digest, String>,
    /// The files that could not be read to their end and are not tried again for a while, which ones those are, and
    /// why.
    pub unreadable: BTreeMap<Digest, (FileIdentity, String)>,
    /// The names whose manifest is damaged, and where it lies and why. The runtime does not list these models.
    pub damaged: BTreeMap<ModelName, String>,
}

/// What adoption is tied to.
pub(crate) struct Ties {
    /// Wall time, by which files become old.
    pub(crate) clock: Clock,
    /// Whose store it is.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Where hash trees are kept.
    pub(crate) trees: Trees,
    /// How many pulls have the disk to do with just now.
    pub(crate) pulling: watch::Receiver<usize>,
    /// The files that somebody waits for: they are hashed first, whatever else goes on.
    pub(crate) urgent: watch::Receiver<BTreeSet<BlobSpec>>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Where it is told.
    pub(crate) adopted: watch::Sender<Arc<Adopted>>,
    /// Wakes it for a look.
    pub(crate) look: Arc<Notify>,
}

/// The loop, and all that it knows.
pub(crate) struct Adoption {
    ties: Ties,
    pace: Pace,
    /// What is told but for its files.
    list: Adopted,
    store: Option<Store>,
    index: Option<Index>,
    files: Files,
    job: Option<Box<Job>>,
    /// What is read again, and when.
    rota: Rota,
    /// The files that were read again and are sound, and when, for as long as they are not to be doubted.
    cleared: BTreeMap<Digest, Instant>,
    scrub_pace: Pace,
    scrub: Option<Box<Job>>,
    urgent: BTreeSet<BlobSpec>,
    /// Why there is no store, as last told in the log.
    nowhere: Option<String>,
    /// What was wrong with the store at the last look.
    troubles: BTreeSet<String>,
    /// When the last look began.
    looked_at: Instant,
    /// When the next one begins.
    look_at: Instant,
    /// Files were hashed since the last news.
    has_news: bool,
    news_at: Instant,
}

/// What the loop does next.
enum Due {
    Look,
    Hash,
    Scrub,
}

/// What a look at the place of the store showed.
enum Looked {
    Nowhere(String),
    There { store: Store, access: Access, scan: Result<Scan, Fault> },
}

/// What a look at the files of the models showed.
struct Seen {
    index: Index,
    files: Vec<(BlobSpec, Sight)>,
    /// Why hash trees that nobody needs are still there.
    trouble: Option<Fault>,
}

// === impl Adoption ===

impl Adoption {
    pub(crate) fn new(config: &Config, ties: Ties) -> Self {
        let now = Instant::now();
        Self {
            ties,
            pace: Pace { bytes_per_second_max: config.hash_bytes_per_second_max, next: now },
            rota: Rota::new(config.scrub_days),
            scrub_pace: Pace { bytes_per_second_max: config.scrub_bytes_per_second_max, next: now },
            scrub: None,
            cleared: BTreeMap::new(),
            list: Adopted::default(),
            store: None,
            index: None,
            files: Files::default(),
            job: None,
            urgent: BTreeSet::new(),
            nowhere: None,
            troubles: BTreeSet::new(),
            looked_at: now,
            look_at: now,
            has_news: false,
            news_at: now,
        }
    }

    /// Looks, hashes and reads again until `stop`. What is on its way then is finished by its thread and forgotten.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let is_pulling = *self.ties.pulling.borrow_and_update() > 0;
            self.urgent.clone_from(&self.ties.urgent.borrow_and_update());
            let next = self.next(is_pulling);
            let read_at = next.as_ref().map_or_else(Instant::now, |(_, at)| *at);
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.ties.look.notified() => {
                    self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL_MIN);
                    continue;
                }
                () = self.ties.trees.told() => {
                    self.hear();
                    continue;
                }
                Ok(()) = self.ties.pulling.changed() => continue,
                Ok(()) = self.ties.urgent.changed() => continue,
                () = sleep_until(self.look_at) => Due::Look,
                () = sleep_until(read_at), if next.is_some() => next.map_or(Due::Look, |(due, _)| due),
            };
            let done = async {
                match due {
                    Due::Look => self.look().await,
                    Due::Hash => self.hash().await,
                    Due::Scrub => self.scrub().await,
                }
            };
            if stop.run_until_cancelled(done).await.is_none() {
                return;
            }
        }
    }

    /// What is read next, and when: what somebody doubts, what somebody waits for, then, while nobody pulls, what is
    /// not hashed yet, and at last what was not read for long.
    fn next(&self, is_pulling: bool) -> Option<(Due, Instant)> {
        self.index.as_ref()?;
        if self.rota.doubted().is_some() {
            Some((Due::Scrub, Instant::now()))
        } else if self.files.first_of(&self.urgent).is_some() {
            Some((Due::Hash, Instant::now()))
        } else if is_pulling {
            None
        } else if self.files.first().is_some() {
            Some((Due::Hash, self.pace.next))
        } else {
            self.rota.due(self.ties.clock.now()).map(|_| (Due::Scrub, self.scrub_pace.next))
        }
    }

    /// Somebody found a file damaged, doubts one, or wants the store to be looked at.
    fn hear(&mut self) {
        self.take_doubts();
        self.cleared.retain(|_, at| at.elapsed() < DOUBT_INTERVAL);
        for sha256 in self.ties.trees.take_suspicions() {
            if self.files.sound.contains_key(&sha256) && !self.cleared.contains_key(&sha256) {
                self.rota.doubt(sha256);
            }
        }
        self.tell();
        self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL_MIN);
    }

    async fn look(&mut self) {
        let started = Instant::now();
        self.looked_at = started;
        self.look_at = started + LOOK_INTERVAL;
        let runtime = Arc::clone(&self.ties.runtime);
        let (store, access, scan) = match spawn_blocking(move || look_at(&*runtime)).await {
            Ok(Looked::There { store, access, scan }) => (store, access, scan),
            Ok(Looked::Nowhere(why)) => return self.leave(why),
            Err(error) => {
                tracing::error!(code = %ErrorCode::Internal, %error, "look through the model store");
                return;
            }
        };
        self.arrive(&store, access);
        let scan = match scan {
            Ok(scan) => scan,
            // What was known stays.
            Err(fault) => {
                self.tell();
                return self.complain(BTreeSet::from([fault.to_string()]));
            }
        };
        let mut troubles: BTreeSet<String> =
            scan.skipped.into_iter().map(|(path, why)| format!("{path}: {why}")).collect();
        self.list.damaged = scan.damaged;
        self.take_list(&store, scan.models, started);
        let (wanted, total) = files_of(&self.list.models);
        if total > wanted.len() {
            troubles.insert(format!("the models are made of {total} files; {} of them are hashed", wanted.len()));
        }
        self.files.announce(&wanted);
        // The list is told at once; what is on record of the files takes longer to read.
        self.tell();
        self.sort_files(store, wanted, &mut troubles).await;
        self.tell();
        self.complain(troubles);
    }

    /// There is no store: nothing is known.
    fn leave(&mut self, why: String) {
        self.look_at = self.looked_at + SEEK_INTERVAL;
        if self.nowhere.as_ref() != Some(&why) {
            tracing::info!(reason = why, "no model store beside this node");
            self.nowhere = Some(why);
        }
        self.forget();
        self.tell();
    }

    /// There is a store. What is known of another one is forgotten.
    fn arrive(&mut self, store: &Store, access: Access) {
        self.nowhere = None;
        if self.list.store.as_deref() != Some(store.root()) {
            self.forget();
            self.list.store = Some(store.root().to_owned());
        }
        self.list.access = Some(access);
        self.store = Some(store.clone());
    }

    fn forget(&mut self) {
        self.list = Adopted::default();
        self.store = None;
        self.files = Files::default();
        self.rota.keep(&BTreeMap::new());
        self.cleared.clear();
        self.job = None;
        self.scrub = None;
        self.troubles.clear();
    }

    fn take_list(&mut self, store: &Store, models: Vec<Scanned>, started: Instant) {
        let was_scanned = std::mem::replace(&mut self.list.scanned, true);
        if was_scanned && *self.list.models == models {
            return;
        }
        tracing::info!(
            store = %store.root().display(),
            models = models.len(),
            incomplete = models.iter().filter(|model| !model.complete).count(),
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "the models of the store beside this node are known"
        );
        self.list.models = Arc::new(models);
        if was_scanned {
            self.ties.runtime.look();
        }
    }

    /// Finds out which of the files are to be hashed.
    async fn sort_files(&mut self, store: Store, wanted: BTreeSet<BlobSpec>, troubles: &mut BTreeSet<String>) {
        let (index, trees, known) = (self.index.clone(), self.ties.trees.clone(), self.files.identities());
        let see = move || -> Result<Seen, Fault> {
            let index = index.map_or_else(|| trees.open(), Ok)?;
            Ok(see_files(&store, index, wanted, &known))
        };
        let Seen { index, files, trouble } = match spawn_blocking(see).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(fault)) => {
                troubles.insert(fault.to_string());
                return;
            }
            Err(error) => {
                tracing::error!(code = %ErrorCode::Internal, %error, "look at the files of the model store");
                return;
            }
        };
        troubles.extend(trouble.map(|fault| fault.to_string()));
        troubles.extend(files.iter().filter_map(|(_, sight)| match sight {
            Sight::Shut(fault) => Some(fault.to_string()),
            Sight::Gone | Sight::There(..) => None,
        }));
        self.index = Some(index);
        self.files.take(files, Instant::now());
        self.take_doubts();
        if self.job.as_ref().is_some_and(|job| !self.files.wants(job.spec(), job.identity())) {
            self.job = None;
        }
        // One that was removed takes its room for as long as it is open.
        if self.scrub.as_ref().is_some_and(|job| !self.files.is_sound(job.spec().sha256, job.identity())) {
            self.scrub = None;
        }
        self.sort_rota().await;
    }

    /// Finds out when the files were read last that are sound.
    async fn sort_rota(&mut self) {
        let unknown = self.rota.keep(&self.files.identities());
        let Some(index) = self.index.clone().filter(|_| !unknown.is_empty()) else { return };
        let read = spawn_blocking(move || {
            let read_at = |(sha256, identity): (Digest, FileIdentity)| {
                let at = index.checked_at(sha256).ok().flatten()?;
                Some((sha256, identity, at))
            };
            unknown.into_iter().filter_map(read_at).collect::<Vec<_>>()
        });
        // What cannot be found out is asked for at the next look.
        for (sha256, identity, at) in read.await.unwrap_or_default() {
            self.rota.set(sha256, identity, at);
        }
    }

    /// Reads the next piece of the file that is being hashed, or of the next one.
    async fn hash(&mut self) {
        let (Some(store), Some(index)) = (self.store.clone(), self.index.clone()) else { return };
        let urgent = self.files.first_of(&self.urgent);
        // What nobody waits for begins anew behind what somebody waits for.
        let job = self.job.take().filter(|job| urgent.is_none() || self.urgent.contains(&job.spec()));
        let next = job.as_ref().map(|job| (job.spec(), job.identity())).or(urgent);
        let Some((spec, identity)) = next.or_else(|| self.files.first()) else { return };
        let started = Instant::now();
        let open = move |_: &Index| Job::open(store, spec, identity);
        let at = (self.ties.trees.clone(), self.ties.clock.now());
        let (stepped, read_bytes) = read_on(spec, job, open, index, at).await;
        self.ties.metrics.hashed(read_bytes);
        self.pace.spend(started, read_bytes);
        self.take_step(spec, identity, stepped);
        self.ties.metrics.show_unhashed(self.left_bytes());
        let is_last_urgent = urgent.is_some() && self.files.first_of(&self.urgent).is_none();
        let is_last = is_last_urgent || self.files.first().is_none();
        if self.has_news && (is_last || self.news_at.elapsed() >= NEWS_INTERVAL) {
            self.tell();
        }
    }

    fn take_step(&mut self, spec: BlobSpec, identity: FileIdentity, stepped: Stepped) {
        let BlobSpec { sha256, size_bytes } = spec;
        match stepped {
            Stepped::More(job) => {
                self.job = Some(job);
                return;
            }
            Stepped::Sound(root) => {
                tracing::debug!(%sha256, %root, size_bytes, "a file of the model store is hashed");
                self.files.set_sound(spec, identity, root);
            }
            Stepped::Other(found) => {
                tracing::warn!(%sha256, %found, size_bytes, "a file of the model store is not what its name says");
                self.files.set_suspect(spec, identity, format!("its bytes make {found}"));
            }
            // The next look shows what lies there now. What was hashed before is not hashed here.
            Stepped::Moved | Stepped::Damaged(_) => self.files.drop_moved(spec),
            Stepped::Broken(fault) => {
                tracing::warn!(%sha256, error = %fault, "a file of the model store cannot be read; tried again later");
                self.files.rest(spec, identity, Instant::now() + RETRY_WAIT, fault.to_string());
            }
        }
        self.has_news = true;
    }

    /// Reads the next piece of the file that is read again, or of the next one.
    async fn scrub(&mut self) {
        let (Some(store), Some(index)) = (self.store.clone(), self.index.clone()) else { return };
        let (doubted, now) = (self.rota.doubted(), self.ties.clock.now());
        let Some(sha256) = doubted.or_else(|| self.rota.due(now)) else { return };
        let Some(identity) = self.files.sound.get(&sha256).map(|(identity, _)| *identity) else {
            return self.rota.forget(sha256);
        };
        // What is only old begins anew behind what somebody doubts.
        let job = self.scrub.take().filter(|job| job.spec().sha256 == sha256 && job.identity() == identity);
        let spec = BlobSpec { sha256, size_bytes: identity.size };
        let started = Instant::now();
        let open = move |index: &Index| Job::again(store, index, spec, identity);
        let (stepped, read_bytes) = read_on(spec, job, open, index, (self.ties.trees.clone(), now)).await;
        self.ties.metrics.scrubbed(read_bytes);
        self.scrub_pace.spend(started, read_bytes);
        self.take_scrubbed(spec, identity, stepped);
    }

    fn take_scrubbed(&mut self, spec: BlobSpec, identity: FileIdentity, stepped: Stepped) {
        let (sha256, now) = (spec.sha256, self.ties.clock.now());
        match stepped {
            Stepped::More(job) => self.scrub = Some(job),
            Stepped::Sound(_) => {
                tracing::debug!(%sha256, size_bytes = spec.size_bytes, "a file of the model store was read again");
                self.rota.set(sha256, identity, now);
                self.cleared.retain(|_, at| at.elapsed() < DOUBT_INTERVAL);
                self.cleared.insert(sha256, Instant::now());
            }
            // Whoever found it has told it already.
            Stepped::Damaged(_) | Stepped::Other(_) => {
                self.rota.forget(sha256);
                self.take_doubts();
                self.tell();
            }
            Stepped::Moved => {
                self.rota.forget(sha256);
                self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL_MIN);
            }
            Stepped::Broken(fault) => {
                tracing::warn!(%sha256, error = %fault, "a file of the model store cannot be read; tried again later");
                self.rota.put_off(sha256, identity, now);
            }
        }
    }

    /// What others found to be damaged is suspect.
    fn take_doubts(&mut self) {
        for (sha256, trees::Doubted { identity, what, .. }) in self.ties.trees.doubts() {
            if self.files.doubt(sha256, identity, &what) {
                let path = self.store.as_ref().map(|store| store.blob_path(sha256)).unwrap_or_default();
                tracing::warn!(%sha256, path = %path.display(), reason = what, "a file of the model store is damaged");
            }
        }
    }

    fn left_bytes(&self) -> u64 {
        self.files.left_bytes().saturating_sub(self.job.as_ref().map_or(0, |job| job.done_bytes()))
    }

    /// Tells what is known, where it differs from what was told.
    fn tell(&mut self) {
        self.has_news = false;
        self.news_at = Instant::now();
        let sound = self.files.sound.iter().map(|(sha256, (_, root))| (*sha256, *root));
        let suspect = self.files.suspect.iter().map(|(sha256, (_, what))| (*sha256, what.clone()));
        let told = Adopted {
            hashed: sound.collect(),
            left_bytes: self.left_bytes(),
            suspect: suspect.collect(),
            unreadable: self.files.unreadable(),
            ..self.list.clone()
        };
        let complete = told.models.iter().filter(|model| model.complete).count();
        self.ties.metrics.show(complete, told.suspect.len());
        self.ties.metrics.show_unhashed(told.left_bytes);
        self.ties.adopted.send_if_modified(|current| {
            let differs = **current != told;
            if differs {
                *current = Arc::new(told);
            }
            differs
        });
    }

    /// Writes to the log what is wrong with the store and was not wrong at the last look.
    fn complain(&mut self, troubles: BTreeSet<String>) {
        for trouble in troubles.difference(&self.troubles).take(TOLD_MAX) {
            tracing::warn!(error = trouble, "a part of the model store is left out");
        }
        self.troubles = troubles;
    }
}

/// Blocks on the disk.
fn look_at(runtime: &dyn Runtime) -> Looked {
    let place = match runtime.place() {
        Place::Store(place) => place,
        Place::None(why) => return Looked::Nowhere(why),
    };
    match Store::open(&place) {
        Ok(store) => Looked::There { access: store.access(), scan: store.scan(), store },
        Err(fault) => Looked::Nowhere(fault.to_string()),
    }
}

/// The files that models are made of, at most `FILES_MAX`, and how many there are.
fn files_of(models: &[Scanned]) -> (BTreeSet<BlobSpec>, usize) {
    let mut files: BTreeSet<BlobSpec> = models.iter().flat_map(|model| model.blobs.iter().copied()).collect();
    let total = files.len();
    while files.len() > FILES_MAX {
        files.pop_last();
    }
    (files, total)
}

/// Looks at each of these files, and forgets the hash trees of those that the store does not have any more. Blocks on
/// the disk.
fn see_files(store: &Store, index: Index, wanted: BTreeSet<BlobSpec>, known: &BTreeMap<Digest, FileIdentity>) -> Seen {
    let trouble = forget_trees(store, &index, &wanted).err();
    let files = wanted.into_iter().map(|spec| (spec, see_file(store, &index, spec, known))).collect();
    Seen { index, files, trouble }
}

fn see_file(store: &Store, index: &Index, spec: BlobSpec, known: &BTreeMap<Digest, FileIdentity>) -> Sight {
    let identity = match store.blob(spec) {
        Ok(Some(file)) => file.identity,
        Ok(None) => return Sight::Gone,
        Err(fault) => return Sight::Shut(fault),
    };
    if known.get(&spec.sha256) == Some(&identity) {
        return Sight::There(identity, None);
    }
    let on_record = index.get(spec.sha256).unwrap_or_else(|error| {
        tracing::warn!(%error, "read a hash tree; the file is hashed again");
        None
    });
    let same = on_record.filter(|indexed| indexed.identity == identity);
    Sight::There(identity, same.map(|indexed| indexed.tree.root()))
}

/// One that no manifest names is kept as long as it is there: it may be named again.
fn forget_trees(store: &Store, index: &Index, wanted: &BTreeSet<BlobSpec>) -> Result<(), Fault> {
    let named: BTreeSet<Digest> = wanted.iter().map(|spec| spec.sha256).collect();
    for sha256 in index.all()?.into_iter().filter(|sha256| !named.contains(sha256)) {
        if matches!(store.blob_path(sha256).try_exists(), Ok(false)) {
            index.remove(sha256)?;
        }
    }
    Ok(())
}

/// Reads the next piece of a file, which `open` opens where it is not being read yet. What came of it, and how many
/// bytes that were.
async fn read_on(
    spec: BlobSpec,
    job: Option<Box<Job>>,
    open: impl FnOnce(&Index) -> Result<Option<Box<Job>>, Fault> + Send + 'static,
    index: Index,
    (trees, now): (Trees, Timestamp),
) -> (Stepped, u64) {
    let done_before = job.as_ref().map_or(0, |job| job.done_bytes());
    let step = move || match job.map_or_else(|| open(&index), |job| Ok(Some(job))) {
        Ok(Some(job)) => job.step(&index, &trees, now),
        Ok(None) => Stepped::Moved,
        Err(fault) => Stepped::Broken(fault),
    };
    let stepped = quietly(step).await.unwrap_or_else(|error| broken_down(spec.sha256, &error));
    let read_bytes = read_to(&stepped, spec, done_before).saturating_sub(done_before);
    (stepped, read_bytes)
}

/// A defect: the file is let go, and the next look finds it again.
fn broken_down(sha256: Digest, error: &BrokenDown) -> Stepped {
    tracing::error!(code = %ErrorCode::Internal, %error, %sha256, "read a file of the store");
    Stepped::Moved
}

/// How far a file is read behind a step.
fn read_to(stepped: &Stepped, spec: BlobSpec, before: u64) -> u64 {
    match stepped {
        Stepped::More(job) => job.done_bytes(),
        Stepped::Sound(_) | Stepped::Other(_) | Stepped::Damaged(_) => spec.size_bytes,
        Stepped::Moved | Stepped::Broken(_) => before,
    }
}
