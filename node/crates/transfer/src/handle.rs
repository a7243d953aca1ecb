//! What the rest of the node holds of transfer: ask, watch, cancel, and hand out what other nodes want.
//!
//! A cheap clone. Pulls and adoption run in tasks of their own, which end with `stop`; dropping what is held here ends
//! none of them. Adoption cannot fail: what it cannot read is told in the log and looked at again. Without it the node
//! knows of its models only what the runtime lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{Notify, OnceCell, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::Promises;
use ollamax_core::retention::Sharing;
use ollamax_types::limits::PULL_WATCHERS_MAX;
use ollamax_types::{Clock, Digest, ErrorCode, ModelName, NodeId, Quarantine, Rate, SpareRule, Timestamp};

use crate::adopt::{Adopted, Adoption, Ties, Trees};
use crate::buffers::Buffers;
use crate::bulk;
use crate::bulk::link::Links;
use crate::bundle::{self, BUNDLES_MAX, ComeOrder, Leaving};
use crate::config::Config;
use crate::elsewhere::Remote;
use crate::error::PullError;
use crate::haves;
use crate::keeping::{self, Keeping, KeptVersion, sharing_of};
use crate::lab::{Lab, Places};
use crate::library::Library;
use crate::limits::{ClosedClass, Limits};
use crate::metrics::Metrics;
use crate::overview::{self, Follower, OverviewWatch};
use crate::ports::{Ask, ByteStream, Have, Ledger, LedgerError, Origin, Others, Peers, Runtime};
use crate::progress::{PullProgress, Stage, Watch};
use crate::pull::aside::Aside;
use crate::pull::repair::{CHECKS_MAX, Repairs};
use crate::pull::turns::Turns;
use crate::pull::{ASKING_MAX, Means, blocking};
use crate::service::Service;
use crate::trust::Trusting;
use crate::verify::{self, VerifyOrder, VerifyStream, Verifying};
use crate::wishes::Wishes;

/// What somebody wants to be pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSpec {
    /// The model.
    pub name: ModelName,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// Who asks, for people.
    pub asked_by: String,
}

/// How fast somebody wants a pull to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullLimit {
    /// The model.
    pub name: ModelName,
    /// At most so fast; `None`: as fast as it can.
    pub rate: Option<Rate>,
    /// It also holds for a pull that begins within ten minutes.
    pub ahead: bool,
}

/// The things, as opposed to the numbers, that transfer works with.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Wall time, for the stamps of files and jobs.
    pub clock: Clock,
    /// Where `transfer/` lies.
    pub data_dir: PathBuf,
    /// Where models come from.
    pub origin: Arc<dyn Origin>,
    /// The runtime beside this node.
    pub runtime: Arc<dyn Runtime>,
    /// The other nodes, asked for a pull of their own.
    pub others: Arc<dyn Others>,
    /// The other nodes, asked for files.
    pub peers: Arc<dyn Peers>,
    /// What the cluster has on record.
    pub ledger: Arc<dyn Ledger>,
    /// Where chance begins: what nodes choose by chance differs from node to node.
    pub seed: u64,
    /// The minute of the week on this machine's clock; 0 is Monday 00:00.
    pub minute_of_week: fn(Timestamp) -> u32,
    /// Whether the cluster's log waits for its disk.
    pub strain: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Metrics,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("node", &self.node).field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// Transfer, as callers hold it.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    node: NodeId,
    adopted: watch::Receiver<Arc<Adopted>>,
    look: Arc<Notify>,
    service: Arc<Service>,
    others: Arc<dyn Others>,
    library: Library,
    /// Who may be handed something.
    serving: Arc<Semaphore>,
    /// Who may watch a wish.
    watching: Arc<Semaphore>,
    /// Machines that are no members, and wait.
    lending: Places,
    metrics: Metrics,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.0.node).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Starts to look through the store beside this node and to hash its files, and takes up the pulls that were cut
    /// off, until `stop`.
    #[must_use]
    pub fn start(config: Config, parts: Parts, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let (minute_of_week, strain) = (parts.minute_of_week, parts.strain.clone());
        let limits = Limits::new(&config, parts.clock.clone(), minute_of_week, strain, parts.metrics.clone());
        let Parts { node, clock, data_dir, origin, runtime, others, peers, ledger, seed, metrics, .. } = parts;
        let folder = data_dir.join("transfer");
        let (sender, adopted) = watch::channel(Arc::default());
        let (fetching, pulling) = watch::channel(0);
        let (urgent, hurried) = watch::channel(BTreeSet::new());
        let look = Arc::new(Notify::new());
        let trees = Trees::new(folder.join("trees"));
        let ties = Ties {
            clock: clock.clone(),
            runtime: Arc::clone(&runtime),
            trees: trees.clone(),
            pulling,
            urgent: hurried,
            metrics: metrics.clone(),
            adopted: sender,
            look: Arc::clone(&look),
        };
        // If it fails, the last list stays as it was; it ends with `stop`, between two reads.
        tasks.spawn(Adoption::new(&config, ties).run(stop.clone()));
        let serving = Arc::new(Semaphore::new(config.serve_asks_max as usize));
        let buffers = Buffers::new();
        let library = Library::new(trees.clone(), adopted.clone());
        let kept = keeping::Ties::new(&clock, &library, &metrics, folder.join("kept"));
        let keeping = Keeping::start(&config, kept, tasks, &stop);
        let trust = Trusting::new(Arc::clone(&peers), clock.clone(), metrics.clone());
        let means = Means {
            node,
            clock,
            origin,
            runtime,
            links: Links::new(Arc::clone(&peers), buffers.clone(), metrics.clone(), &config),
            peers,
            ledger,
            seed,
            library: library.clone(),
            keeping,
            limits,
            trust,
            metrics: metrics.clone(),
            buffers,
            promises: Promises::default(),
            aside: Aside::default(),
            places: Arc::new(Semaphore::new(config.pulls_max as usize)),
            asking: Semaphore::new(ASKING_MAX),
            bundles: Arc::new(Semaphore::new(BUNDLES_MAX)),
            trees,
            urgent,
            adopted: adopted.clone(),
            look: Arc::clone(&look),
            fetching,
            own_staging: folder.join("staging"),
            staging: tokio::sync::Mutex::default(),
            turns: Turns::default(),
            changing: Arc::default(),
            config,
        };
        let means = Arc::new(means);
        let service = Arc::new(Service {
            node,
            repairs: Repairs::start(&means, &folder, tasks, &stop),
            means,
            jobs_root: folder.join("jobs"),
            jobs: OnceCell::new(),
            wishes_root: folder.join("wishes"),
            boards: Mutex::default(),
            pulls: Mutex::new(BTreeMap::new()),
            tasks: tasks.clone(),
            stop,
        });
        // If it fails, pulls that were cut off wait for the next start or for somebody who asks; it ends with `stop`.
        tasks.spawn(Arc::clone(&service).run());
        // If it fails, this node does nothing for the cluster until the next start, and others see that it does not
        // come; it ends with `stop`.
        tasks.spawn(Wishes::new(Arc::clone(&service)).run());
        let watching = Arc::new(Semaphore::new(PULL_WATCHERS_MAX));
        let lending = Places::new();
        Self(Arc::new(Inner { node, adopted, look, service, others, library, serving, watching, lending, metrics }))
    }

    /// Pulls a model to this node, or joins the pull of that name. It answers when the pull is promised: its name is
    /// known, it fits, and it goes on whoever watches, over restarts.
    ///
    /// # Errors
    /// When it failed before that, and when no more can wait or watch.
    pub async fn pull(&self, spec: PullSpec) -> Result<Watch, PullError> {
        self.0.service.pull(spec).await
    }

    /// Pulls a model to another node, or to this one. The watch goes on over lost connections; dropping it does not
    /// end the pull.
    ///
    /// # Errors
    /// As [`Handle::pull`] there, or when that node cannot be asked.
    pub async fn pull_at(&self, node: NodeId, spec: PullSpec) -> Result<Watch, PullError> {
        if node == self.0.node {
            return self.pull(spec).await;
        }
        let Service { means, tasks, stop, .. } = &*self.0.service;
        let patience = means.config.patience();
        let remote = Remote { others: Arc::clone(&self.0.others), node, spec, patience };
        let (stream, first) = remote.open().await?;
        if let Stage::Failed(error) = &first.stage {
            return Err(error.clone());
        }
        let (sender, receiver) = watch::channel(Arc::new(first));
        let watch = Watch::new(receiver);
        if !watch.now().is_over() {
            // It ends when nobody watches, with the pull and with this node; a defect in it ends the watch.
            tasks.spawn(remote.follow(stream, sender, stop.clone()));
        }
        Ok(watch)
    }

    /// Asks the cluster for copies of a model. It answers when the wish is on record; that goes on whoever watches.
    ///
    /// # Errors
    /// [`PullError::Ledger`] when it cannot be put on record, also where a member is too old to know wishes; and when
    /// no more can watch.
    pub async fn ask(&self, ask: Ask) -> Result<OverviewWatch, PullError> {
        let place = self.place_of_watcher().ok_or(PullError::TooManyWatchers(PULL_WATCHERS_MAX))?;
        let (name, replicas, ledger) = (ask.name.clone(), ask.replicas.clone(), &self.0.service.means.ledger);
        let is_unsaid = !ask.is_said && ask.version.is_none();
        let asked = match ledger.ask(ask.clone()).await {
            // A leader that went away may have put it on record; whoever asks again then joins it.
            Err(LedgerError::Failed { code: ErrorCode::OutcomeUnknown, .. }) => ledger.ask(ask).await,
            asked => asked,
        };
        let round = asked.map_err(PullError::Ledger)?;
        let follower = Follower::new(Arc::clone(&self.0.service), name, round, replicas);
        Ok(self.follow(if is_unsaid { follower.without_the_dead() } else { follower }, place))
    }

    /// Watches a wish that is on record, without asking for anything. `None` also when no more can watch.
    #[must_use]
    pub fn overview(&self, name: &ModelName) -> Option<OverviewWatch> {
        let wish = self.0.service.means.ledger.plan(name)?;
        let follower = Follower::new(Arc::clone(&self.0.service), wish.name, wish.round, wish.replicas);
        Some(self.follow(follower, self.place_of_watcher()?))
    }

    /// How much of a version of a model these nodes have on their way, permille; of those that say it within a second.
    pub async fn permille_of(&self, name: &ModelName, digest: Digest, nodes: &[NodeId]) -> BTreeMap<NodeId, u16> {
        overview::permille_of(&self.0.service, name, digest, nodes).await
    }

    /// How a pull of a model goes or went at a node; `None` where that knows of none, or says nothing within a second.
    pub async fn pull_seen_at(&self, node: NodeId, name: &ModelName) -> Option<PullProgress> {
        overview::told_by(&self.0.service, node, name).await
    }

    fn place_of_watcher(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.watching).try_acquire_owned().ok()
    }

    fn follow(&self, follower: Follower, place: OwnedSemaphorePermit) -> OverviewWatch {
        let (sender, receiver) = watch::channel(Arc::new(follower.overview().clone()));
        let watch = OverviewWatch::new(receiver);
        if !watch.now().is_over {
            let Service { tasks, stop, .. } = &*self.0.service;
            // It ends when nobody watches, with the wish and with this node; a defect in it ends the watch.
            let following = follower.run(sender, stop.clone());
            tasks.spawn(async move {
                following.await;
                drop(place);
            });
        }
        watch
    }

    /// Takes back a wish of the cluster. What was published stays, and so does what was fetched. False when there is
    /// none.
    ///
    /// # Errors
    /// [`PullError::Ledger`] when that cannot be put on record.
    pub async fn forget(&self, name: &ModelName) -> Result<bool, PullError> {
        match self.0.service.means.ledger.forget(name.clone()).await {
            Ok(is_forgotten) => Ok(is_forgotten),
            // Where nobody knows wishes there is none.
            Err(LedgerError::NeedsVersion { .. }) => Ok(false),
            Err(error) => Err(PullError::Ledger(error)),
        }
    }

    /// How this node's last pull of a model goes or went; that of a model which is in the store is done.
    #[must_use]
    pub fn watch(&self, name: &ModelName) -> Option<Watch> {
        self.0.service.watch(name)
    }

    /// Hands out chunks to another node over a stream that it opened, until either end closes it.
    pub fn serve(&self, stream: impl ByteStream) {
        let Inner { library, serving, service, metrics, .. } = &*self.0;
        let stock = bulk::serve::Stock {
            library: library.clone(),
            places: Arc::clone(serving),
            limits: service.means.limits.clone(),
            metrics: metrics.clone(),
        };
        // It ends with the stream and with the node; whoever asks there asks others too.
        service.tasks.spawn(bulk::serve::serve(stream, stock, service.stop.clone()));
    }

    /// The manifest of a version that is here or on its way, byte for byte.
    pub async fn manifest(&self, digest: Digest) -> Option<Bytes> {
        let library = self.0.library.clone();
        let known = blocking(move || library.manifest(digest)).await.ok().flatten();
        known.or_else(|| self.0.service.manifest(digest))
    }

    /// The size of a file that is here, all of it, and the hashes of its chunks, 32 bytes each, in order. One that
    /// nobody has hashed yet is hashed next.
    pub async fn hashes(&self, sha256: Digest) -> Option<(u64, Bytes)> {
        let library = self.0.library.clone();
        let hashes = blocking(move || library.hashes(sha256)).await.ok().flatten();
        if hashes.is_none() {
            self.0.service.hurry(sha256);
        }
        hashes
    }

    /// What there is of these files: first what is there, then what comes. It does not end by itself.
    #[must_use]
    pub fn haves(&self, blobs: Vec<Digest>) -> BoxStream<'static, Have> {
        haves::follow(self.0.library.clone(), blobs)
    }

    /// Another node says that a chunk of a file came from this one damaged: the file is read again before others. Heard
    /// once a minute from each node; of a file that is not here, or is known to be damaged, nothing is done.
    pub fn doubt(&self, from: NodeId, sha256: Digest, index: u32) {
        let Means { trust, trees, .. } = &*self.0.service.means;
        let is_offered = self.0.adopted.borrow().hashed.contains_key(&sha256);
        if is_offered && trust.hears(from) {
            tracing::info!(peer = %from, %sha256, chunk = index, "another node doubts a file of this one");
            trees.suspicion(sha256);
        }
    }

    /// The nodes that this one asks for nothing for a while, since they sent damaged pieces.
    #[must_use]
    pub fn quarantined(&self) -> Vec<Quarantine> {
        self.0.service.means.trust.quarantined()
    }

    /// What this node gives to machines that are no members.
    #[must_use]
    pub fn lab(&self) -> Lab {
        let Inner { service, library, lending, .. } = &*self.0;
        Lab::new(self.clone(), Arc::clone(service), library.clone(), lending.clone())
    }

    /// Hands out a model of this node's store as one file that proves itself. It answers when all of the model was
    /// found and hashed; what is damaged is found on the way. `wanted`: this version and no other.
    ///
    /// # Errors
    /// When the model is not here as a whole, or as another version than is wanted, and when too many bundles are under
    /// way.
    pub async fn leave(&self, name: &ModelName, wanted: Option<Digest>) -> Result<Leaving, PullError> {
        let Service { means, tasks, stop, .. } = &*self.0.service;
        bundle::leave(means, (name, wanted), tasks, stop).await
    }

    /// Takes a model from such a file, and asks nobody else. It answers when it is known what the file promises; the
    /// watch tells the rest, and ends with an error where the file is damaged. It does not go on after a restart.
    ///
    /// # Errors
    /// When it is no such file, when a pull of that name is under way, and when no more can wait.
    pub async fn come(
        &self,
        bytes: BoxStream<'static, std::io::Result<Bytes>>,
        order: ComeOrder,
    ) -> Result<Watch, PullError> {
        self.0.service.come(bytes, order).await
    }

    /// Ends a pull of this node, and keeps what was fetched. False when there is none, or it is over otherwise.
    pub async fn cancel(&self, name: &ModelName) -> bool {
        self.0.service.cancel(name).await
    }

    /// Ends a pull of another node, or of this one. False as [`Handle::cancel`] there.
    ///
    /// # Errors
    /// When that node cannot be asked.
    pub async fn cancel_at(&self, node: NodeId, name: &ModelName) -> Result<bool, PullError> {
        if node == self.0.node { Ok(self.cancel(name).await) } else { self.0.others.cancel(node, name.clone()).await }
    }

    /// Slows a pull of this node down, or lets it go as fast as it can, until it is over or this node ends. False when
    /// there is none of that name, and none that was announced; `ahead`: it is, and begins within ten minutes.
    #[must_use]
    pub fn limit_pull(&self, name: &ModelName, rate: Option<Rate>, ahead: bool) -> bool {
        self.0.service.limit_pull(name, rate, ahead)
    }

    /// The same for a pull of another node, or of this one.
    ///
    /// # Errors
    /// When that node cannot be asked.
    pub async fn limit_pull_at(&self, node: NodeId, order: PullLimit) -> Result<bool, PullError> {
        let PullLimit { name, rate, ahead } = &order;
        if node == self.0.node {
            Ok(self.limit_pull(name, *rate, *ahead))
        } else {
            self.0.others.limit(node, order).await
        }
    }

    /// Has the files of this node's models read again, from the disk, and tells how far that is and what comes of it.
    /// The last word on a file is its sight. Dropping the stream ends it between two pieces.
    #[must_use]
    pub fn verify(&self, order: VerifyOrder) -> VerifyStream {
        let Service { means, repairs, tasks, stop, .. } = &*self.0.service;
        let Ok(place) = Arc::clone(&repairs.checking).try_acquire_owned() else {
            return verify::refused(PullError::TooManyChecks(CHECKS_MAX));
        };
        let may_repair = order.repair && means.config.repair;
        let repairs = may_repair.then(|| Arc::clone(repairs));
        verify::begin(order.name, Verifying { means: Arc::clone(means), repairs, _place: place }, tasks, stop)
    }

    /// The same on another node, or on this one.
    #[must_use]
    pub fn verify_at(&self, node: NodeId, order: VerifyOrder) -> VerifyStream {
        if node == self.0.node { self.verify(order) } else { self.0.others.verify(node, order) }
    }

    /// How many files of the models of this node are not what their name says.
    #[must_use]
    pub fn suspect_files(&self) -> u32 {
        u32::try_from(self.0.adopted.borrow().suspect.len()).unwrap_or(u32::MAX)
    }

    /// The names whose manifest in the store beside this node is damaged. None of these is a model there.
    #[must_use]
    pub fn damaged_manifests(&self) -> Vec<ModelName> {
        self.0.adopted.borrow().damaged.keys().cloned().collect()
    }

    /// The versions that are pinned, as the record says. Until the first call nothing that is kept goes.
    pub fn set_pins(&self, digests: BTreeSet<Digest>) {
        self.0.service.means.keeping.set_pins(digests);
    }

    /// The versions that this node keeps although their names mean others, and those that are pinned.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptVersion> {
        self.0.service.means.keeping.list()
    }

    /// The same for one name, or for all.
    #[must_use]
    pub fn kept_of(&self, name: Option<&ModelName>) -> Vec<KeptVersion> {
        self.kept().into_iter().filter(|kept| name.is_none_or(|name| kept.name == *name)).collect()
    }

    /// The same on another node, or on this one.
    ///
    /// # Errors
    /// When that node cannot be asked.
    pub async fn kept_at(&self, node: NodeId, name: Option<ModelName>) -> Result<Vec<KeptVersion>, PullError> {
        if node == self.0.node { Ok(self.kept_of(name.as_ref())) } else { self.0.others.kept(node, name).await }
    }

    /// Bytes of kept versions that make way when a pull needs the room.
    #[must_use]
    pub fn spare_bytes(&self) -> u64 {
        self.0.service.means.keeping.spare_bytes()
    }

    /// What stays free beside a model that comes here.
    #[must_use]
    pub fn spare_rule(&self) -> SpareRule {
        self.0.service.means.config.spare_rule()
    }

    /// Bytes of the models that the cluster sends here, as far as the disk has given their room and the record does not
    /// have them yet.
    #[must_use]
    pub fn aside_bytes(&self) -> u64 {
        self.0.service.means.aside.bytes()
    }

    /// Lets the kept versions go that are due, and tells which; `dry_run`: only tells.
    ///
    /// # Errors
    /// When there is no store, and when the disk refuses.
    pub async fn sweep(&self, dry_run: bool) -> Result<Vec<KeptVersion>, PullError> {
        self.0.service.means.sweep(dry_run).await
    }

    /// The same on another node, or on this one.
    ///
    /// # Errors
    /// As [`Handle::sweep`] there, or when that node cannot be asked.
    pub async fn sweep_at(&self, node: NodeId, dry_run: bool) -> Result<Vec<KeptVersion>, PullError> {
        if node == self.0.node { self.sweep(dry_run).await } else { self.0.others.sweep(node, dry_run).await }
    }

    /// What the models of the store beside this node take, and what is saved since equal files are stored once.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        sharing_of(&self.0.adopted.borrow().models)
    }

    /// Removes this version of a model from the runtime beside this node, and what is kept of that name; gives the
    /// bytes that became free. Where the name stands for another version nothing is done.
    ///
    /// # Errors
    /// When the runtime does not do it, or the disk refuses.
    pub async fn remove(&self, name: &ModelName, digest: Digest) -> Result<u64, PullError> {
        self.0.service.means.remove(name, digest).await
    }

    /// Whether the runtime beside this node says that it does not have this version of a model; false where it does not
    /// answer.
    pub async fn is_gone(&self, name: &ModelName, digest: Digest) -> bool {
        self.0.service.means.is_gone(name, digest).await
    }

    /// To what somebody slowed a pull of this node down.
    #[must_use]
    pub fn limit_of_pull(&self, name: &ModelName) -> Option<Rate> {
        self.0.service.means.limits.limit_of_pull(name)
    }

    /// The kinds of transfers that a limit keeps back altogether just now.
    #[must_use]
    pub fn closed(&self) -> Vec<ClosedClass> {
        self.0.service.means.limits.closed()
    }

    /// The pulls of this node that are not over, and those that failed within the last hour, by name.
    #[must_use]
    pub fn pulls(&self) -> Vec<Arc<PullProgress>> {
        self.0.service.pulls()
    }

    /// Follows what lies in the store beside this node. A new receiver takes what is known already for news. It ends
    /// with the engines.
    #[must_use]
    pub fn adopted(&self) -> watch::Receiver<Arc<Adopted>> {
        self.0.adopted.clone()
    }

    /// Has the store looked through within a second, because the runtime beside this node lists other models or is
    /// another one. Without this call it takes up to a minute. Does not wait for it.
    pub fn look_again(&self) {
        self.0.look.notify_one();
    }

    /// What is counted here, to be registered by the assembly.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}
