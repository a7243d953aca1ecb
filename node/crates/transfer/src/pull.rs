//! One pull from its name to a visible model, step by step.
//!
//! Where the version and the files come from is its course: a registry, the nodes that have them (`pull/course`), or a
//! bundle (`pull/bundled`).
//! Each step may be done again: a pull that was cut off anywhere begins with its first step and finds what is done. The
//! manifest that was chosen is kept with the job, so a name that moves meanwhile does not change what is fetched. Until
//! the job is kept nothing was promised to anybody; from then on only its end, told to whoever asks, takes it away.
//! Nothing of a model is visible before all of it is there and is what its name says.

pub(crate) mod aside;
mod bundled;
pub(crate) mod chase;
pub(crate) mod course;
pub(crate) mod fetch;
mod loopback;
pub(crate) mod publishing;
pub(crate) mod repair;
pub(crate) mod resume;
pub(crate) mod swarm;
pub(crate) mod told;
pub(crate) mod tree;
pub(crate) mod turns;
pub(crate) mod upkeep;
mod window;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, FutureExt as _, select};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use ollamax_blobs::{
    Access, BlobSpec, Fault, FileIdentity, JOB_VERSION, JobFile, Jobs, Manifest, Need, NoRoom, Owner, Part, PartError,
    Promise, Promises, PublishError, Space, Staging, Store,
};
use ollamax_types::{CHUNK_BYTES, Clock, Digest, ErrorCode, ModelName, NodeId};

use crate::adopt::{Adopted, Trees};
use crate::buffers::Buffers;
use crate::bulk::link::Links;
use crate::config::Config;
use crate::error::PullError;
use crate::handle::PullSpec;
use crate::keeping::Keeping;
use crate::library::{Library, Offered};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::ports::{Ledger, Listing, Origin, OriginError, OriginTrouble, Peers, Runtime};
use crate::progress::{Board, Stage, Wait};
use crate::trust::Trusting;

use self::aside::{Aside, SetAside, given_bytes};
use self::course::Course;
use self::loopback::Way;
use self::turns::{Turn, Turns};

/// How often a manifest is asked for.
const MANIFEST_TRIES_MAX: u32 = 3;
/// How often a model is completed again of which the store lost files while the rest came.
const PRUNED_ROUNDS_MAX: u32 = 3;
/// Time between two questions for a store, of a job that was taken on while there was one.
const SEEK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a store is asked for that is not there, for a wish.
const SEEKS_MAX: u32 = 60;
/// How often a runtime that is down is asked whether it lists a model.
const LISTING_INTERVAL: Duration = Duration::from_millis(250);
/// Most pulls for wishes that ask a registry for a manifest at once.
pub(crate) const ASKING_MAX: usize = 8;

/// What all pulls of a node share.
pub(crate) struct Means {
    pub(crate) node: NodeId,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Where chance begins.
    pub(crate) seed: u64,
    pub(crate) links: Links,
    pub(crate) library: Library,
    pub(crate) keeping: Keeping,
    pub(crate) limits: Limits,
    /// Who may be asked.
    pub(crate) trust: Trusting,
    pub(crate) metrics: Metrics,
    pub(crate) buffers: Buffers,
    pub(crate) promises: Promises,
    /// What has its room of what the cluster sends here.
    pub(crate) aside: Aside,
    /// Who may fetch.
    pub(crate) places: Arc<Semaphore>,
    /// Who may read or write a bundle.
    pub(crate) bundles: Arc<Semaphore>,
    /// Who may ask a registry for a manifest, of those whom the cluster asks.
    pub(crate) asking: Semaphore,
    pub(crate) trees: Trees,
    /// What adoption hashes first.
    pub(crate) urgent: watch::Sender<BTreeSet<BlobSpec>>,
    /// What adoption knows.
    pub(crate) adopted: watch::Receiver<Arc<Adopted>>,
    /// Wakes adoption for a look at the store.
    pub(crate) look: Arc<Notify>,
    /// How many pulls fetch just now.
    pub(crate) fetching: watch::Sender<usize>,
    /// Where files grow for a store into which this node may not link.
    pub(crate) own_staging: PathBuf,
    /// The staging folders that were opened, by their place. One of each for all, since a part is open once in it.
    pub(crate) staging: tokio::sync::Mutex<BTreeMap<PathBuf, Staging>>,
    /// The turns of the files that somebody wants.
    pub(crate) turns: Turns,
    /// Held by whoever of this process gives a name another version, or takes a version away: between the look at
    /// what a name stands for and the change nobody else changes it.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
}

/// One pull.
pub(crate) struct Pull {
    pub(crate) means: Arc<Means>,
    pub(crate) jobs: Jobs,
    pub(crate) board: Arc<Board>,
    pub(crate) spec: PullSpec,
    /// What was chosen for a job that was taken on before.
    pub(crate) chosen: Option<Chosen>,
    /// On whose behalf.
    pub(crate) course: Course,
    /// What other nodes may have of it meanwhile.
    pub(crate) offers: Mutex<Vec<Offered>>,
    pub(crate) cancel: CancellationToken,
    pub(crate) stop: CancellationToken,
}

/// What a job says that a restart cut off.
pub(crate) struct Chosen {
    /// The version that is pulled.
    pub(crate) manifest: Manifest,
    /// When it was asked for, in milliseconds since 1970.
    pub(crate) asked_at_ms: u64,
}

/// What stands between a name and its model.
enum Prepared {
    /// Nothing: this version is in the store.
    Published,
    /// Files are missing, and there is room for them.
    Missing(Ground),
}

/// Where a model is put, and what is missing there.
struct Ground {
    store: Store,
    staging: Staging,
    /// How what grows in staging gets into the store.
    way: Way,
    /// The place where the files grow, for people.
    place: String,
    /// The largest first.
    missing: Vec<(BlobSpec, Turn)>,
    /// Promised to nobody else meanwhile.
    room: Vec<Promise>,
    /// What the disk has given of the model's room, where the cluster counts what is on its way.
    aside: Option<SetAside>,
}

/// Where room is set aside, and for what.
#[derive(Clone, Copy)]
struct Target<'a> {
    store: &'a Store,
    staging: &'a Staging,
    /// For people.
    place: &'a str,
    manifest: &'a Manifest,
}

/// A pull that may fetch.
struct Fetcher {
    means: Arc<Means>,
    _place: OwnedSemaphorePermit,
}

/// Why no room could be set aside.
enum Unroomy {
    NoRoom(NoRoom),
    /// On the one disk on which staging and store lie.
    Twice(NoRoom),
    /// On the disk of the store, for what the runtime writes.
    Copy(NoRoom),
    Part(PartError),
    Fault(Fault),
}

/// Does something that waits for the disk, on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PullError> {
    spawn_blocking(work).await.map_err(|error| {
        tracing::error!(code = %ErrorCode::Internal, %error, "work on the files of a pull");
        PullError::Disk("work on the files of the pull broke down".to_owned())
    })
}

// === impl Pull ===

impl Pull {
    /// All of it. What is kept of the job is the caller's to remove.
    pub(crate) async fn run(&self) -> Result<(), PullError> {
        let manifest = self.resolve().await?;
        // Before it is looked what is there.
        let _counted = self.means.keeping.count_on(&manifest);
        let Prepared::Missing(mut ground) = self.prepare(&manifest).await? else {
            return self.settle(&manifest, None).await;
        };
        if self.chosen.is_none() && self.course.is_kept() {
            self.keep(&manifest).await?;
        }
        self.await_start(&ground).await?;
        let fetcher = self.await_place(&ground).await?;
        self.tell_beginning(&ground);
        let (mut round, mut parts) = (0, Vec::new());
        loop {
            round += 1;
            let mut fetched = match self.fetch_all(&ground).await {
                Ok(fetched) => fetched,
                Err(error) => return Err(self.let_go(&ground, error).await),
            };
            // What an earlier round sealed is held, so that it need not be read again; the latest goes first.
            fetched.append(&mut parts);
            parts = fetched;
            self.board.begin(Stage::Publishing);
            let error = match self.publish(&ground, &manifest, parts.clone()).await {
                Ok(Ok(())) => break,
                // What was in the store at the start was removed from it meanwhile.
                Ok(Err(PublishError::Missing { sha256 })) if round < PRUNED_ROUNDS_MAX => {
                    tracing::warn!(model = %self.spec.name, %sha256, "the store lost a file of a model on its way");
                    None
                }
                Ok(Err(error)) => Some(PullError::of_publish(&ground.place, &error)),
                Err(error) => Some(error),
            };
            if let Some(error) = error {
                return Err(self.let_go(&ground, error).await);
            }
            // It is asked for anew.
            ground.room.clear();
            let aside = ground.aside.take();
            ground = match self.prepare(&manifest).await? {
                Prepared::Missing(ground) => {
                    drop(aside);
                    ground
                }
                Prepared::Published => {
                    drop((ground, fetcher, parts));
                    return self.settle(&manifest, aside).await;
                }
            };
            self.await_start(&ground).await?;
        }
        self.index(&ground.store, parts).await?;
        self.hand_on(&ground.store).await;
        let aside = ground.aside.take();
        drop((ground, fetcher));
        self.settle(&manifest, aside).await
    }

    /// Ends with the node and with whoever cancels; only what may be left at any moment runs in here.
    async fn unless_ended<T>(&self, work: impl Future<Output = Result<T, PullError>>) -> Result<T, PullError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(PullError::Stopping),
            () = self.cancel.cancelled() => Err(PullError::Cancelled),
            done = work => done,
        }
    }

    /// Step 1: which version the name stands for.
    async fn resolve(&self) -> Result<Manifest, PullError> {
        let manifest = match (&self.chosen, &self.course) {
            (Some(chosen), _) => chosen.manifest.clone(),
            (None, Course::Wished(wished)) => self.resolve_wish(wished).await?,
            (None, Course::Bundled(bundled)) => self.resolve_bundle(bundled).await?,
            (None, Course::Asked) => {
                let bytes = self.unless_ended(self.ask_for_manifest()).await?;
                Manifest::read(&bytes).map_err(PullError::BadManifest)?
            }
        };
        self.board.resolved(&manifest);
        self.means.library.learn(&manifest);
        Ok(manifest)
    }

    async fn ask_for_manifest(&self) -> Result<Bytes, PullError> {
        let patience = self.means.config.patience();
        let mut failures = 0;
        loop {
            let error = match self.means.origin.manifest(&self.spec.name, self.spec.insecure).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let wait_ms = patience.wait_ms(failures);
            failures += 1;
            match retry_after(&error, wait_ms) {
                Some(wait_ms) if failures < MANIFEST_TRIES_MAX => {
                    sleep(Duration::from_millis(wait_ms.min(patience.wait_ms_max))).await;
                }
                _ => return Err(PullError::Manifest(error)),
            }
        }
    }

    /// Steps 2 to 4: where it goes, what is missing there, and room for it.
    async fn prepare(&self, manifest: &Manifest) -> Result<Prepared, PullError> {
        let store = self.find_store().await?;
        let (name, manifest) = (self.spec.name.clone(), manifest.clone());
        let (asked, wanted, keeping) = (store.clone(), manifest.clone(), self.means.keeping.clone());
        let asked_at_ms = self.asked_at_ms();
        let found = blocking(move || {
            if asked_at_ms.is_some_and(|asked_at_ms| is_overtaken(&asked, &name, &wanted, asked_at_ms)) {
                return Err(PullError::Overtaken { name });
            }
            // What cannot be brought back is fetched.
            if let Err(error) = keeping.bring_back(&asked, &wanted) {
                tracing::warn!(model = %name, %error, "bring back the files of a version that is kept");
            }
            let is_published = is_published(&asked, &name, &wanted);
            let missing = missing_in(&asked, &wanted);
            Ok((is_published, missing, asked.access(), asked.closed_folder(&name)))
        });
        let (is_published, missing, access, closed) = found.await??;
        if is_published {
            self.leave(&store, &access, &manifest).await?;
            return Ok(Prepared::Published);
        }
        let way = self.way(&store, &access, closed.as_deref())?;
        let place = way.place(&store, &self.means.staging_place(&store, &access));
        let staging = self.means.staging(&store, &access, &place).await?;
        let missing = missing.map_err(|error| PullError::of_publish(&place, &error))?;
        for blob in manifest.blobs().into_iter().filter(|blob| !missing.contains(blob)) {
            self.board.found(blob.sha256, blob.size_bytes);
        }
        let missing: Vec<(BlobSpec, Turn)> =
            missing.into_iter().map(|blob| (blob, self.means.turns.of(blob.sha256))).collect();
        let target = Target { store: &store, staging: &staging, place: &place, manifest: &manifest };
        let room = self.set_room_aside(target, &missing, way.copied_to(&store)).await?;
        // What a runtime writes into its store is promised only, and the disk shows it when it comes.
        let aside = if matches!(way, Way::Linked) { self.set_aside(&manifest, &room) } else { None };
        Ok(Prepared::Missing(Ground { store, staging, way, place, missing, room, aside }))
    }

    /// What is free where models lie lacks this one but for what is promised still, as far as the cluster counts what
    /// is on its way.
    fn set_aside(&self, manifest: &Manifest, room: &[Promise]) -> Option<SetAside> {
        let bytes = given_bytes(manifest.size_bytes(), room);
        matches!(self.course, Course::Wished(_)).then(|| self.means.aside.add(bytes))
    }

    /// The store beside this node. A job that was taken on waits for one that is not there: at boot the runtime may be
    /// chosen and its disk mounted after us. A wish waits for a while: another node may have a store.
    async fn find_store(&self) -> Result<Store, PullError> {
        let mut seeks_left = match (&self.chosen, &self.course) {
            (Some(_), _) => None,
            (None, Course::Asked | Course::Bundled(_)) => Some(0),
            (None, Course::Wished(_)) => Some(SEEKS_MAX),
        };
        let mut told: Option<String> = None;
        loop {
            let runtime = Arc::clone(&self.means.runtime);
            let found = blocking(move || runtime.place().store());
            match found.await? {
                Ok(store) => {
                    if told.is_some() {
                        self.board.begin(Stage::Resolving);
                    }
                    return Ok(store);
                }
                Err(why) if seeks_left == Some(0) => return Err(PullError::NoStore(why)),
                Err(why) => {
                    seeks_left = seeks_left.map(|left| left - 1);
                    if told.as_ref() != Some(&why) {
                        tracing::info!(model = %self.spec.name, reason = why, "a pull waits for the model store");
                        self.board.wait_for(Wait::Store { reason: why.clone() });
                        told = Some(why);
                    }
                    let wait = async {
                        sleep(SEEK_INTERVAL).await;
                        Ok(())
                    };
                    self.unless_ended(wait).await?;
                }
            }
        }
    }

    /// This version is in the store. What is staged of it is of no use any more.
    async fn leave(&self, store: &Store, access: &Access, manifest: &Manifest) -> Result<(), PullError> {
        for blob in manifest.blobs() {
            self.board.found(blob.sha256, blob.size_bytes);
        }
        let place = store.root().display().to_string();
        let root = self.means.staging_place(store, access);
        let is_staged = blocking(move || root.is_dir()).await?;
        if is_staged && let Ok(staging) = self.means.staging(store, access, &place).await {
            let manifest = manifest.clone();
            blocking(move || forget(&staging, &manifest)).await?;
        }
        Ok(())
    }

    /// Promises room and lets the parts take it, so that a disk that is too small is met before the first byte.
    async fn set_room_aside(
        &self,
        target: Target<'_>,
        missing: &[(BlobSpec, Turn)],
        copied_to: Option<PathBuf>,
    ) -> Result<Vec<Promise>, PullError> {
        let Target { store: kept_beside, staging, place, manifest } = target;
        let (means, staging, missing) = (Arc::clone(&self.means), staging.clone(), missing.to_vec());
        let store = copied_to.as_deref().unwrap_or(Path::new("")).display().to_string();
        let (kept_beside, wanted) = (kept_beside.clone(), manifest.digest());
        let spare_bytes_min = self.course.disk_free_bytes_min();
        let made = blocking(move || {
            let take = || means.set_room_aside(&staging, &missing, copied_to.as_deref(), spare_bytes_min);
            let made = take();
            let Err(Unroomy::NoRoom(room) | Unroomy::Twice(room)) = &made else { return made };
            // What is kept for people to come back to makes way for what somebody wants now.
            let lacking = room.needed_bytes.saturating_sub(room.free_bytes.saturating_sub(room.promised_bytes));
            match means.keeping.make_room(&kept_beside, lacking, wanted) {
                Ok(1..) => take(),
                Ok(0) => made,
                Err(fault) => Err(Unroomy::Fault(fault)),
            }
        });
        let made = made.await?;
        let no_room = |place: String, room: NoRoom| PullError::NoRoom { model: self.spec.name.clone(), place, room };
        made.map_err(|error| match error {
            Unroomy::NoRoom(room) => no_room(place.to_owned(), room),
            Unroomy::Twice(room) => no_room(format!("{place}, where it lies twice while the runtime copies it"), room),
            Unroomy::Copy(room) => no_room(store, room),
            Unroomy::Part(error) => PullError::of_part(place, &error),
            Unroomy::Fault(fault) => PullError::of_fault(place, &fault),
        })
    }

    /// Keeps the job: from here on the pull goes on, whatever happens to this process.
    async fn keep(&self, manifest: &Manifest) -> Result<(), PullError> {
        let job = JobFile {
            version: JOB_VERSION,
            name: self.spec.name.to_string(),
            insecure: self.spec.insecure,
            manifest_hex: hex::encode(manifest.bytes()),
            asked_by: self.spec.asked_by.clone(),
            asked_at_ms: self.means.clock.now().0,
        };
        let jobs = self.jobs.clone();
        let written = blocking(move || jobs.write(&job)).await?;
        written.map_err(|fault| PullError::of_fault("the data directory", &fault))
    }

    /// Steps 5 and 6, file by file. Small ones that come from nodes need not wait for each other.
    async fn fetch_all(&self, ground: &Ground) -> Result<Vec<Part>, PullError> {
        if let Course::Bundled(bundled) = &self.course {
            return Box::pin(self.take_bundle(ground, bundled)).await;
        }
        let (mut parts, mut under_way) = (Vec::new(), FuturesUnordered::new());
        for (at, (blob, turn)) in ground.missing.iter().enumerate() {
            let is_last = at + 1 == ground.missing.len();
            under_way.push(Box::pin(self.fetch_in_turn(ground, *blob, turn, is_last)));
            if under_way.len() >= self.at_once(*blob) {
                parts.extend(under_way.next().await.transpose()?.flatten());
            }
        }
        while let Some(fetched) = under_way.next().await {
            parts.extend(fetched?);
        }
        Ok(parts)
    }

    /// How many files are fetched at once, the last of them being this one.
    fn at_once(&self, blob: BlobSpec) -> usize {
        let is_small = blob.size_bytes < CHUNK_BYTES;
        match &self.course {
            Course::Wished(_) if is_small => self.means.config.blobs_at_once as usize,
            Course::Wished(_) | Course::Asked | Course::Bundled(_) => 1,
        }
    }

    /// One file, when nobody else fetches it. What the store has got meanwhile is left out.
    async fn fetch_in_turn(
        &self,
        ground: &Ground,
        blob: BlobSpec,
        turn: &Turn,
        is_last: bool,
    ) -> Result<Option<Part>, PullError> {
        let taken = async { Ok(Arc::clone(turn).lock_owned().await) };
        let turn = self.unless_ended(taken).await?;
        let fetched = self.fetch_one(ground, blob, is_last).await;
        drop(turn);
        fetched
    }

    async fn fetch_one(&self, ground: &Ground, blob: BlobSpec, is_last: bool) -> Result<Option<Part>, PullError> {
        let part = match self.begin_part(ground, blob).await? {
            Some(part) if !part.is_sealed() => part,
            sealed => {
                self.board.found(blob.sha256, blob.size_bytes);
                return Ok(sealed);
            }
        };
        let means = &self.means;
        if part.have().ones() > 0 {
            self.board.begin(Stage::Checking);
        }
        let looked = resume::look_through(&part, &ground.place, &self.board, &means.metrics);
        let chaser = self.unless_ended(looked).await?;
        self.board.begin(Stage::Fetching);
        let digest = self.unless_ended(Box::pin(self.fetch_part(&part, &ground.place, chaser))).await?;
        if is_last {
            self.board.begin(Stage::Verifying);
        }
        self.seal(ground, part, digest).await.map(Some)
    }

    /// What lies there of a file. Another pull may have published or sealed it while this one waited for its turn.
    async fn begin_part(&self, ground: &Ground, blob: BlobSpec) -> Result<Option<Part>, PullError> {
        let (store, staging) = (ground.store.clone(), ground.staging.clone());
        let begun = blocking(move || match store.blob(blob) {
            Ok(Some(_)) => Ok(None),
            Ok(None) => staging.begin(blob).map(Some),
            Err(fault) => Err(PartError::Fault(fault)),
        });
        let begun = begun.await?.map_err(|error| PullError::of_part(&ground.place, &error))?;
        self.offer(begun.as_ref());
        Ok(begun)
    }

    /// Lets other nodes have what is there of a file.
    fn offer(&self, part: Option<&Part>) {
        let (library, is_first) = (&self.means.library, self.course.brings());
        let offer = |part: Part| if is_first { library.offer_first(part) } else { library.offer(part) };
        let offered = part.cloned().map(offer);
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).extend(offered);
    }

    /// Other nodes have it from the store, or not at all.
    pub(crate) fn withdraw(&self) {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The file is what its name says, or goes.
    async fn seal(&self, ground: &Ground, part: Part, digest: Digest) -> Result<Part, PullError> {
        let staging = ground.staging.clone();
        let sealed = blocking(move || {
            let sealed = part.seal(digest);
            if let Err(PartError::Digest { wanted, .. }) = &sealed
                && let Err(error) = staging.forget(*wanted)
            {
                tracing::warn!(%error, "remove a file that is not what its name says");
            }
            sealed.map(|()| part)
        });
        sealed.await?.map_err(|error| PullError::of_part(&ground.place, &error))
    }

    /// Step 8: until the runtime lists it and the cluster knows. The model is there: nobody cancels it any more.
    async fn settle(&self, manifest: &Manifest, aside: Option<SetAside>) -> Result<(), PullError> {
        self.board.begin(Stage::Settling);
        // It lies in the store, all of it. Until that is on record, whoever plans takes it for one that comes.
        drop(aside);
        let aside = self.set_aside(manifest, &[]);
        let digest = manifest.digest();
        let (means, name) = (&self.means, &self.spec.name);
        means.look.notify_one();
        means.runtime.look();
        let wait = Duration::from_millis(means.config.settle_ms);
        let settled = async {
            let listed = pin!(timeout(wait, self.listed(digest)));
            let known = means.runtime.known(name, digest).map(move |()| drop(aside)).boxed();
            let (listed, known) = match select(listed, known).await {
                Either::Left((listed, known)) => (listed, Some(known)),
                Either::Right(((), listed)) => (listed.await, None),
            };
            match listed {
                Ok(()) => {}
                Err(_) if means.runtime.lists(name, digest).now_or_never() == Some(Listing::Down) => {
                    return Err(PullError::RuntimeDown { name: name.clone() });
                }
                Err(_) => return Err(PullError::NotListed { name: name.clone() }),
            }
            if let Some(known) = known
                && timeout(wait, known).await.is_err()
            {
                tracing::warn!(model = %name, %digest, "a model was pulled, and the cluster does not know of it yet");
            }
            Ok(())
        };
        self.stop.run_until_cancelled(settled).await.unwrap_or(Err(PullError::Stopping))
    }

    /// Until the runtime lists this version. One that is down may be about to start.
    async fn listed(&self, digest: Digest) {
        while self.means.runtime.lists(&self.spec.name, digest).await == Listing::Down {
            self.board.settle_later();
            sleep(LISTING_INTERVAL).await;
        }
    }
}

// === impl Means ===

impl Means {
    /// Where files grow that belong into a store: beside it, else in the data directory.
    pub(crate) fn staging_place(&self, store: &Store, access: &Access) -> PathBuf {
        match access {
            Access::Direct { .. } => store.staging_place(),
            Access::Locked { .. } | Access::Hidden { .. } => self.own_staging.clone(),
        }
    }

    /// The staging folder of a store.
    pub(crate) async fn staging(&self, store: &Store, access: &Access, place: &str) -> Result<Staging, PullError> {
        let owner = match access {
            Access::Direct { owner, .. } => Some(*owner),
            Access::Locked { .. } | Access::Hidden { .. } => None,
        };
        self.open_staging(self.staging_place(store, access), owner, place).await
    }

    async fn open_staging(&self, root: PathBuf, owner: Option<Owner>, place: &str) -> Result<Staging, PullError> {
        let mut opened = self.staging.lock().await;
        let (known, at) = (opened.get(&root).cloned(), root.clone());
        let found = blocking(move || match known {
            // Somebody may have removed it.
            Some(staging) if at.is_dir() => Ok(staging),
            _ => Staging::open(&at, owner),
        });
        let staging = found.await?.map_err(|fault| PullError::of_fault(place, &fault))?;
        opened.insert(root, staging.clone());
        Ok(staging)
    }

    /// The staging folder in the data directory, if there is one.
    pub(crate) async fn own_staging(&self) -> Option<Staging> {
        let root = self.own_staging.clone();
        let is_there = blocking(move || root.is_dir()).await.ok()?;
        let place = self.own_staging.display().to_string();
        if is_there { self.open_staging(self.own_staging.clone(), None, &place).await.ok() } else { None }
    }

    /// Blocks on the disk. What the runtime will write stays promised until all of it is over. On the disk of the store
    /// so much stays free at least.
    fn set_room_aside(
        &self,
        staging: &Staging,
        missing: &[(BlobSpec, Turn)],
        copied_to: Option<&Path>,
        spare_bytes_min: u64,
    ) -> Result<Vec<Promise>, Unroomy> {
        let _setting = self.turns.setting_aside();
        let before: Vec<u64> = missing.iter().map(|(blob, _)| staging.allocated_bytes(*blob)).collect();
        let sizes = missing.iter().map(|(blob, _)| blob.size_bytes);
        let bytes = sizes.zip(&before).fold(0_u64, |sum, (size, held)| sum.saturating_add(size.saturating_sub(*held)));
        let device = device_of(staging.root()).map_err(Unroomy::Fault)?;
        let space = Space::of(staging.root());
        if space.is_none() {
            let place = staging.root().display();
            tracing::warn!(%place, "the disk of the model store does not say what is free; the pull goes on");
        }
        let copy = copied_to.map(|place| self.set_copy_aside(missing, place, device, spare_bytes_min));
        let copy = copy.transpose()?.unwrap_or_default();
        let is_of_store = copy.elsewhere.is_none();
        let spare_bytes_min = if is_of_store { spare_bytes_min } else { 0 };
        let need = self.need(bytes.saturating_add(copy.here_bytes), spare_bytes_min);
        let refused = if copy.here_bytes > 0 { Unroomy::Twice } else { Unroomy::NoRoom };
        let mut room = self.promises.take(device, space, need).map_err(refused)?;
        for (at, (blob, _)) in missing.iter().enumerate() {
            match staging.begin(*blob) {
                Ok(part) => drop(part),
                Err(error) => {
                    take_back(staging, &missing[..at], &before);
                    return Err(Unroomy::Part(error));
                }
            }
            room.allocated(staging.allocated_bytes(*blob).saturating_sub(before[at]));
        }
        Ok([Some(room), copy.elsewhere].into_iter().flatten().collect())
    }

    /// So many bytes, and what stays free beside them: so much at least.
    fn need(&self, bytes: u64, spare_bytes_min: u64) -> Need {
        let config = &self.config;
        let spare_bytes_min = config.spare_bytes_min.max(spare_bytes_min);
        Need { bytes, spare_percent: config.spare_percent, spare_bytes_min }
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// Waits until this pull may fetch. Background hashing rests for as long.
    async fn wait(means: &Arc<Means>) -> Result<Self, PullError> {
        let place = Arc::clone(&means.places).acquire_owned().await.expect("it is never closed");
        means.fetching.send_modify(|count| *count += 1);
        Ok(Self { means: Arc::clone(means), _place: place })
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.means.fetching.send_modify(|count| *count = count.saturating_sub(1));
    }
}

fn device_of(place: &Path) -> Result<u64, Fault> {
    fs::metadata(place).map(|found| found.dev()).map_err(Fault::at("look at", place))
}

/// How long to wait before an origin is asked again; `None` where that is of no use.
fn retry_after(error: &OriginError, wait_ms: u64) -> Option<u64> {
    match error.kind {
        OriginTrouble::Absent | OriginTrouble::Refused | OriginTrouble::Garbled => None,
        OriginTrouble::Busy { after_ms } => Some(after_ms.unwrap_or_default().max(wait_ms)),
        OriginTrouble::Cut | OriginTrouble::Stalled | OriginTrouble::Unreachable => Some(wait_ms),
    }
}

/// Whether a name stands for this version, and all of it is there. What cannot be read is not.
fn is_published(store: &Store, name: &ModelName, manifest: &Manifest) -> bool {
    let stored = store.manifest(name).ok().flatten();
    stored.is_some_and(|(_, stored)| stored.digest() == manifest.digest())
        && manifest.blobs().into_iter().all(|blob| matches!(store.blob(blob), Ok(Some(_))))
}

/// Removes what is staged of the files of a model.
fn forget(staging: &Staging, manifest: &Manifest) {
    for error in manifest.blobs().into_iter().filter_map(|blob| staging.forget(blob.sha256).err()) {
        tracing::debug!(%error, "remove what was staged of a published file");
    }
}

/// Whether somebody gave the name another version after this moment. It is newer than what a job chose before.
fn is_overtaken(store: &Store, name: &ModelName, manifest: &Manifest, asked_at_ms: u64) -> bool {
    let Some((path, stored)) = store.manifest(name).ok().flatten() else { return false };
    let written = fs::metadata(path).is_ok_and(|found| {
        let asked_at_ns = i128::from(asked_at_ms) * 1_000_000;
        FileIdentity::of(&found).mtime_ns > asked_at_ns
    });
    written && stored.digest() != manifest.digest()
}

/// The files that a store lacks, the largest first. One that is there with another size is the runtime's own, and in
/// the way: that shows before anything is fetched.
fn missing_in(store: &Store, manifest: &Manifest) -> Result<Vec<BlobSpec>, PublishError> {
    let mut missing = Vec::new();
    for blob in manifest.blobs() {
        if store.blob(blob)?.is_some() {
            continue;
        }
        let found = fs::metadata(store.blob_path(blob.sha256)).ok();
        if let Some(found) = found.filter(|found| found.len() != blob.size_bytes) {
            let (sha256, wanted, found) = (blob.sha256, blob.size_bytes, found.len());
            return Err(PublishError::Size { sha256, wanted, found });
        }
        missing.push(blob);
    }
    missing.sort_by_key(|blob| (Reverse(blob.size_bytes), blob.sha256));
    Ok(missing)
}

/// A runtime made the folder of a model and lets nobody else in. The manifest comes last, so it is told first.
fn closed_to_us(place: String, folder: &Path) -> PullError {
    let folder = folder.display();
    let (reason, remedy) = (format!("{folder} cannot be written by this node"), format!("sudo chmod g+w {folder}"));
    PullError::NotWritable { place, reason, remedy }
}

/// Removes parts that were begun in vain, as far as nobody else wants them. Who comes now waits to set room aside.
fn take_back(staging: &Staging, begun: &[(BlobSpec, Turn)], before: &[u64]) {
    for ((blob, turn), held) in begun.iter().zip(before) {
        // One is `begun` itself, and one the list that it was cloned from.
        let is_ours = Arc::strong_count(turn) <= 2 && *held == 0;
        if is_ours && let Err(error) = staging.forget(blob.sha256) {
            tracing::warn!(%error, "remove a file that was begun in vain");
        }
    }
}
