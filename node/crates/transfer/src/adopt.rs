//! Knows what lies in the store beside this node, and hashes it when nothing else is to be done.
//!
//! The list comes first: of a model only manifest and configuration are read, so it is there while the runtime is still
//! coming up. The hashes follow: one file at a time, the smallest first, no faster than the configuration allows, and
//! not what is on record for the very same file; while a model is pulled it rests. A file that a wish of the cluster
//! names is hashed before all others and at once. Always holds: nothing in the store is changed. A file whose bytes are
//! not what its name says is told as suspect and stays: it is the user's. What cannot be read is told once and tried
//! again later; nothing here can fail the node.

mod trees;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{
    Access, BlobSpec, Fault, FileIdentity, Hashed, Hashing, Index, Indexed, Progress, Scan, Scanned, Store,
};
use ollamax_types::{Digest, ErrorCode, Root};

use crate::metrics::Metrics;
use crate::ports::{Place, Runtime};

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
/// Pieces of a file between two looks whether the same file still lies there.
const CHECK_CHUNKS: u32 = 64;
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
}

/// What adoption is tied to.
pub(crate) struct Ties {
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

/// What a look at one file showed.
#[derive(Debug)]
enum Sight {
    /// It is not there, or has another size.
    Gone,
    /// It could not be opened.
    Shut(Fault),
    /// It is there. The root is what is on record for exactly this file; not asked for where it is known already.
    There(FileIdentity, Option<Root>),
}

/// A file that is being hashed.
struct Job {
    store: Store,
    spec: BlobSpec,
    identity: FileIdentity,
    hashing: Hashing,
    chunks: u32,
    done_bytes: u64,
}

/// What came of one piece of a file.
enum Stepped {
    /// There is more of it.
    More(Box<Job>),
    /// It is what its name says.
    Sound(Root),
    /// It is this instead.
    Other(Digest),
    /// Another file lies there now, or none.
    Moved,
    /// It could not be read.
    Broken(Fault),
}

/// What is known of the files of a store, and which is hashed next. It does nothing by itself.
#[derive(Debug, Default)]
struct Files {
    /// To be hashed, the smallest first.
    queue: BTreeMap<(u64, Digest), FileIdentity>,
    /// Could not be read to the end; not to be tried before then.
    resting: BTreeMap<BlobSpec, (FileIdentity, Instant)>,
    /// Not looked at yet, or could not be opened.
    unseen: BTreeSet<BlobSpec>,
    sound: BTreeMap<Digest, (FileIdentity, Root)>,
    suspect: BTreeMap<Digest, (FileIdentity, String)>,
}

/// When the next bytes may be read, so that no more are than allowed.
#[derive(Debug)]
struct Pace {
    bytes_per_second_max: u64,
    next: Instant,
}

// === impl Adoption ===

impl Adoption {
    pub(crate) fn new(hash_bytes_per_second_max: u64, ties: Ties) -> Self {
        let now = Instant::now();
        Self {
            ties,
            pace: Pace { bytes_per_second_max: hash_bytes_per_second_max, next: now },
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

    /// Looks and hashes until `stop`. What is on its way then is finished by its thread and forgotten.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let is_pulling = *self.ties.pulling.borrow_and_update() > 0;
            self.urgent.clone_from(&self.ties.urgent.borrow_and_update());
            let is_urgent = self.files.first_of(&self.urgent).is_some();
            let may_hash = is_urgent || !is_pulling && self.files.first().is_some();
            let has_work = may_hash && self.index.is_some();
            let hash_at = if is_urgent { Instant::now() } else { self.pace.next };
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.ties.look.notified() => {
                    self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL_MIN);
                    continue;
                }
                () = self.ties.trees.told() => {
                    self.take_doubts();
                    self.tell();
                    self.look_at = self.look_at.min(self.looked_at + LOOK_INTERVAL_MIN);
                    continue;
                }
                Ok(()) = self.ties.pulling.changed() => continue,
                Ok(()) = self.ties.urgent.changed() => continue,
                () = sleep_until(self.look_at) => Due::Look,
                () = sleep_until(hash_at), if has_work => Due::Hash,
            };
            let done = async {
                match due {
                    Due::Look => self.look().await,
                    Due::Hash => self.hash().await,
                }
            };
            if stop.run_until_cancelled(done).await.is_none() {
                return;
            }
        }
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
        self.job = None;
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
        if self.job.as_ref().is_some_and(|job| !self.files.wants(job.spec, job.identity)) {
            self.job = None;
        }
    }

    /// Reads the next piece of the file that is being hashed, or of the next one.
    async fn hash(&mut self) {
        let (Some(store), Some(index)) = (self.store.clone(), self.index.clone()) else { return };
        let urgent = self.files.first_of(&self.urgent);
        // What nobody waits for begins anew behind what somebody waits for.
        let job = self.job.take().filter(|job| urgent.is_none() || self.urgent.contains(&job.spec));
        let next = job.as_ref().map(|job| (job.spec, job.identity)).or(urgent);
        let Some((spec, identity)) = next.or_else(|| self.files.first()) else { return };
        let done_before = job.as_ref().map_or(0, |job| job.done_bytes);
        let started = Instant::now();
        let step = move || match job.map_or_else(|| Job::open(store, spec, identity), |job| Ok(Some(job))) {
            Ok(Some(job)) => job.step(&index),
            Ok(None) => Stepped::Moved,
            Err(fault) => Stepped::Broken(fault),
        };
        let stepped = spawn_blocking(step).await.unwrap_or_else(|error| {
            tracing::error!(code = %ErrorCode::Internal, %error, sha256 = %spec.sha256, "hash a file of the store");
            Stepped::Moved
        });
        let done = match &stepped {
            Stepped::More(job) => job.done_bytes,
            Stepped::Sound(_) | Stepped::Other(_) => spec.size_bytes,
            Stepped::Moved | Stepped::Broken(_) => done_before,
        };
        let read_bytes = done.saturating_sub(done_before);
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
            // The next look shows what lies there now.
            Stepped::Moved => self.files.drop_moved(spec),
            Stepped::Broken(fault) => {
                tracing::warn!(%sha256, error = %fault, "a file of the model store cannot be read; tried again later");
                self.files.rest(spec, identity, Instant::now() + RETRY_WAIT);
            }
        }
        self.has_news = true;
    }

    /// What others found to be damaged is suspect.
    fn take_doubts(&mut self) {
        for (sha256, (identity, what)) in self.ties.trees.doubts() {
            if self.files.doubt(sha256, identity, &what) {
                tracing::warn!(%sha256, reason = what, "a file of the model store is not what it was");
            }
        }
    }

    fn left_bytes(&self) -> u64 {
        self.files.left_bytes().saturating_sub(self.job.as_ref().map_or(0, |job| job.done_bytes))
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

// === impl Job ===

impl Job {
    /// `None` when another file lies there now, or none. Blocks on the disk.
    fn open(store: Store, spec: BlobSpec, identity: FileIdentity) -> Result<Option<Box<Self>>, Fault> {
        let file = store.blob(spec)?.filter(|file| file.identity == identity);
        Ok(file.map(|file| {
            let hashing = Hashing::new(file.file, spec.size_bytes);
            Box::new(Self { store, spec, identity, hashing, chunks: 0, done_bytes: 0 })
        }))
    }

    /// Reads one piece. Blocks on the disk.
    fn step(mut self: Box<Self>, index: &Index) -> Stepped {
        let progress = match self.hashing.step() {
            Ok(progress) => progress,
            Err(fault) => return Stepped::Broken(fault),
        };
        self.chunks += 1;
        let is_over = matches!(progress, Progress::Done(_));
        if is_over || self.chunks.is_multiple_of(CHECK_CHUNKS) {
            match self.store.blob(self.spec) {
                Ok(Some(file)) if file.identity == self.identity => {}
                Ok(_) => return Stepped::Moved,
                Err(fault) => return Stepped::Broken(fault),
            }
        }
        match progress {
            Progress::More { done_bytes } => {
                self.done_bytes = done_bytes;
                Stepped::More(self)
            }
            Progress::Done(hashed) => self.judge(hashed, index),
        }
    }

    /// What the bytes are, and puts on record what is sound.
    fn judge(&self, hashed: Hashed, index: &Index) -> Stepped {
        let sha256 = self.spec.sha256;
        if hashed.sha256 != sha256 {
            return Stepped::Other(hashed.sha256);
        }
        let root = hashed.tree.root();
        // What is not on record is hashed again after a restart.
        if let Err(error) = index.put(sha256, &Indexed { identity: self.identity, tree: hashed.tree }) {
            tracing::warn!(%error, %sha256, "keep the hash tree of a file");
        }
        Stepped::Sound(root)
    }
}

// === impl Files ===

impl Files {
    /// The next to be hashed.
    fn first(&self) -> Option<(BlobSpec, FileIdentity)> {
        let ((size_bytes, sha256), identity) = self.queue.first_key_value()?;
        Some((BlobSpec { sha256: *sha256, size_bytes: *size_bytes }, *identity))
    }

    /// The first of these that is to be hashed.
    fn first_of(&self, urgent: &BTreeSet<BlobSpec>) -> Option<(BlobSpec, FileIdentity)> {
        urgent.iter().find_map(|spec| Some((*spec, *self.queue.get(&rank(*spec))?)))
    }

    fn wants(&self, spec: BlobSpec, identity: FileIdentity) -> bool {
        self.queue.get(&rank(spec)) == Some(&identity)
    }

    /// The files whose root is known.
    fn identities(&self) -> BTreeMap<Digest, FileIdentity> {
        self.sound.iter().map(|(sha256, (identity, _))| (*sha256, *identity)).collect()
    }

    /// Takes in which files models are made of, before anybody looked at them.
    fn announce(&mut self, wanted: &BTreeSet<BlobSpec>) {
        let known = |spec: &BlobSpec| {
            let is_hashed = self.sound.contains_key(&spec.sha256) || self.suspect.contains_key(&spec.sha256);
            is_hashed || self.queue.contains_key(&rank(*spec)) || self.resting.contains_key(spec)
        };
        self.unseen = wanted.iter().copied().filter(|spec| !known(spec)).collect();
    }

    /// Takes in a look at all files that models are made of; what was not seen is forgotten.
    fn take(&mut self, seen: Vec<(BlobSpec, Sight)>, now: Instant) {
        let before = std::mem::take(self);
        for (spec, sight) in seen {
            let sha256 = spec.sha256;
            let (identity, on_record) = match sight {
                Sight::Gone => continue,
                Sight::Shut(_) => {
                    self.unseen.insert(spec);
                    continue;
                }
                Sight::There(identity, on_record) => (identity, on_record),
            };
            let sound = before.sound.get(&sha256).filter(|(sound, _)| *sound == identity);
            let suspect = before.suspect.get(&sha256).filter(|(suspect, _)| *suspect == identity);
            let resting = before.resting.get(&spec).filter(|(resting, until)| *resting == identity && now < *until);
            if let Some(root) = on_record.or(sound.map(|(_, root)| *root)) {
                self.sound.insert(sha256, (identity, root));
            } else if let Some(suspect) = suspect {
                self.suspect.insert(sha256, suspect.clone());
            } else if let Some(resting) = resting {
                self.resting.insert(spec, *resting);
            } else {
                self.queue.insert(rank(spec), identity);
            }
        }
    }

    fn set_sound(&mut self, spec: BlobSpec, identity: FileIdentity, root: Root) {
        self.queue.remove(&rank(spec));
        self.sound.insert(spec.sha256, (identity, root));
    }

    fn set_suspect(&mut self, spec: BlobSpec, identity: FileIdentity, what: String) {
        self.queue.remove(&rank(spec));
        self.suspect.insert(spec.sha256, (identity, what));
    }

    /// A file is not what it was when it was hashed, if it is still that very file. True: nobody knew.
    fn doubt(&mut self, sha256: Digest, identity: FileIdentity, what: &str) -> bool {
        if self.sound.get(&sha256).is_none_or(|(sound, _)| *sound != identity) {
            return false;
        }
        self.sound.remove(&sha256);
        self.suspect.insert(sha256, (identity, what.to_owned()));
        true
    }

    fn drop_moved(&mut self, spec: BlobSpec) {
        self.queue.remove(&rank(spec));
    }

    fn rest(&mut self, spec: BlobSpec, identity: FileIdentity, until: Instant) {
        self.queue.remove(&rank(spec));
        self.resting.insert(spec, (identity, until));
    }

    /// Bytes of all files that are not hashed.
    fn left_bytes(&self) -> u64 {
        let queued = self.queue.keys().map(|(size_bytes, _)| *size_bytes);
        let others = self.resting.keys().chain(&self.unseen).map(|spec| spec.size_bytes);
        queued.chain(others).fold(0, u64::saturating_add)
    }
}

/// Where a file stands in the queue.
const fn rank(spec: BlobSpec) -> (u64, Digest) {
    (spec.size_bytes, spec.sha256)
}

// === impl Pace ===

impl Pace {
    /// Bytes were read from then on.
    fn spend(&mut self, from: Instant, bytes: u64) {
        let Some(nanos) = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(self.bytes_per_second_max)) else {
            return;
        };
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(from) + time;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LATER: Duration = Duration::from_secs(1);
    // Where a single file is kept, as the numbers of files in each list.
    const QUEUED: [usize; 5] = [1, 0, 0, 0, 0];
    const RESTING: [usize; 5] = [0, 1, 0, 0, 0];
    const UNSEEN: [usize; 5] = [0, 0, 1, 0, 0];
    const SOUND: [usize; 5] = [0, 0, 0, 1, 0];
    const SUSPECT: [usize; 5] = [0, 0, 0, 0, 1];

    fn spec(name: u8, size_bytes: u64) -> BlobSpec {
        BlobSpec { sha256: Digest([name; 32]), size_bytes }
    }

    fn identity(ino: u64) -> FileIdentity {
        FileIdentity { dev: 1, ino, size: 1, mtime_ns: 0, ctime_ns: 0 }
    }

    fn root(byte: u8) -> Root {
        Root([byte; 32])
    }

    fn there(ino: u64) -> Sight {
        Sight::There(identity(ino), None)
    }

    fn shut() -> Sight {
        Sight::Shut(Fault::at("open", Path::new("/x"))(std::io::ErrorKind::PermissionDenied.into()))
    }

    #[test]
    fn the_smallest_file_is_hashed_first_and_whatever_comes_of_it_takes_it_out() {
        let now = Instant::now();
        let mut files = Files::default();
        let names = [(1, 30), (2, 10), (3, 20), (4, 40)];
        files.take(names.iter().map(|(name, size)| (spec(*name, *size), there(u64::from(*name)))).collect(), now);
        let mut order = Vec::new();
        while let Some((spec, identity)) = files.first() {
            assert!(files.wants(spec, identity));
            match order.len() {
                0 => files.set_sound(spec, identity, root(2)),
                1 => files.set_suspect(spec, identity, "something else".to_owned()),
                2 => files.rest(spec, identity, now + LATER),
                _ => files.drop_moved(spec),
            }
            order.push((spec.sha256.0[0], files.left_bytes()));
        }
        // What rests is not hashed yet; of what moved only the next look knows.
        assert_eq!(order, [(2, 90), (3, 70), (1, 70), (4, 30)]);
    }

    #[test]
    fn what_is_known_of_a_file_holds_for_that_very_file_alone() {
        let now = Instant::now();
        let (file, ino) = (spec(1, 10), identity(1));
        let sound = || Files { sound: BTreeMap::from([(file.sha256, (ino, root(1)))]), ..Files::default() };
        let suspect = || {
            let what = "something else".to_owned();
            Files { suspect: BTreeMap::from([(file.sha256, (ino, what))]), ..Files::default() }
        };
        let resting = || Files { resting: BTreeMap::from([(file, (ino, now + LATER))]), ..Files::default() };
        let queued = || Files { queue: BTreeMap::from([(rank(file), ino)]), ..Files::default() };
        let check = |mut files: Files, sight: Sight, after: Duration, expected: [usize; 5]| {
            let told = format!("{files:?} {sight:?}");
            files.take(vec![(file, sight)], now + after);
            let Files { queue, resting, unseen, sound, suspect } = files;
            let found = [queue.len(), resting.len(), unseen.len(), sound.len(), suspect.len()];
            assert_eq!(found, expected, "{told}");
        };
        let soon = Duration::ZERO;
        check(Files::default(), there(1), soon, QUEUED);
        check(Files::default(), Sight::There(ino, Some(root(1))), soon, SOUND);
        check(queued(), there(1), soon, QUEUED);
        check(queued(), there(2), soon, QUEUED);
        check(sound(), there(1), soon, SOUND);
        check(sound(), there(2), soon, QUEUED);
        check(sound(), Sight::There(identity(2), Some(root(2))), soon, SOUND);
        check(suspect(), there(1), soon, SUSPECT);
        check(suspect(), there(2), soon, QUEUED);
        check(resting(), there(1), soon, RESTING);
        check(resting(), there(1), LATER, QUEUED);
        check(resting(), there(2), soon, QUEUED);
        for files in [queued(), sound(), suspect(), resting()] {
            check(files, shut(), soon, UNSEEN);
        }
        for files in [queued(), sound(), suspect(), resting()] {
            check(files, Sight::Gone, soon, [0; 5]);
        }
    }

    #[test]
    fn a_file_that_others_found_damaged_is_suspect_until_another_lies_there() {
        let now = Instant::now();
        let file = spec(1, 10);
        let mut files = Files::default();
        files.take(vec![(file, Sight::There(identity(1), Some(root(1))))], now);
        assert!(!files.doubt(file.sha256, identity(2), "damaged") && files.suspect.is_empty(), "another file");
        assert!(files.doubt(file.sha256, identity(1), "damaged"));
        assert!(!files.doubt(file.sha256, identity(1), "damaged"), "it is known");
        assert!(files.sound.is_empty());
        files.take(vec![(file, there(1))], now);
        assert_eq!(files.suspect.get(&file.sha256), Some(&(identity(1), "damaged".to_owned())));
        files.take(vec![(file, there(2))], now);
        assert_eq!((files.suspect.len(), files.queue.len()), (0, 1), "it was replaced");
    }

    #[test]
    fn what_nobody_has_looked_at_is_left_to_do() {
        let now = Instant::now();
        let mut files = Files::default();
        files.take(vec![(spec(1, 10), Sight::There(identity(1), Some(root(1)))), (spec(2, 20), there(2))], now);
        files.announce(&BTreeSet::from([spec(1, 10), spec(2, 20), spec(3, 40)]));
        assert_eq!(files.left_bytes(), 60);
        assert_eq!(files.first(), Some((spec(2, 20), identity(2))), "only what was seen is hashed");
    }

    #[test]
    fn no_more_bytes_are_read_than_allowed() {
        let start = Instant::now();
        let check = |rate: u64, spent: &[(u64, u64)], expected: u64| {
            let mut pace = Pace { bytes_per_second_max: rate, next: start };
            for (from_ms, bytes) in spent {
                pace.spend(start + Duration::from_millis(*from_ms), *bytes);
            }
            assert_eq!(pace.next - start, Duration::from_millis(expected), "{rate} {spent:?}");
        };
        check(1_000, &[], 0);
        check(1_000, &[(0, 500)], 500);
        check(1_000, &[(0, 500), (500, 250)], 750);
        check(1_000, &[(0, 500), (200, 250)], 750);
        // What was not used is not saved up.
        check(1_000, &[(0, 500), (9_000, 250)], 9_250);
        check(0, &[(0, u64::MAX)], 0);
    }
}
