//! A node with a store in a folder, an origin with models, and what a test wants to know of them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::{BlobSpec, Jobs, Manifest, Store};
use ollamax_core::catalog::Replicas;
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemOthers, MemPeers, MemRuntime};
use ollamax_transfer::{Ask, Config, Handle, Metrics, Parts, Place, PullError, PullProgress, PullSpec, Stage, Watch};
use ollamax_types::{CHUNK_BYTES, Clock, Digest, ModelName, NodeId, Timestamp};

/// Longer than any wait of a pull.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3_600);

/// Everything but the process of the node.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) runtime: MemRuntime,
    pub(crate) origin: MemOrigin,
    pub(crate) others: MemOthers,
    pub(crate) peers: MemPeers,
    pub(crate) cluster: MemCluster,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) node: NodeId,
    /// Whether the cluster's log waits for its disk.
    pub(crate) strain: watch::Sender<bool>,
}

/// A model that the origin has.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) name: ModelName,
    pub(crate) manifest: Manifest,
    pub(crate) weights: BlobSpec,
    pub(crate) bytes: Vec<u8>,
}

/// A node that has started.
pub(crate) struct Node {
    pub(crate) handle: Handle,
    registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

pub(crate) fn name(text: &str) -> ModelName {
    text.parse().expect("a name")
}

/// What asks for copies of a model.
pub(crate) fn ask_for(name: &ModelName, replicas: Replicas) -> Ask {
    let (name, asked_by) = (name.clone(), "a test".to_owned());
    Ask { name, replicas, is_said: true, want: None, insecure: false, version: None, asked_by, once: None }
}

/// The minute of the week in UTC; 1970 began on a Thursday.
pub(crate) fn minute_of_week(now: Timestamp) -> u32 {
    let minutes = now.0 / 60_000 + 3 * 24 * 60;
    u32::try_from(minutes % (7 * 24 * 60)).expect("a week has few")
}

/// Bytes that another seed makes others.
pub(crate) fn bytes(seed: u64, length: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = vec![0; usize::try_from(length).expect("small")];
    for place in bytes.chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        place.copy_from_slice(&word.to_le_bytes()[..place.len()]);
    }
    bytes
}

fn manifest_of(files: &[(&str, BlobSpec)]) -> Manifest {
    let layer = |(kind, blob): &(&str, BlobSpec)| {
        let BlobSpec { sha256, size_bytes } = blob;
        format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
    };
    let (config, layers) = files.split_first().expect("there is a configuration");
    let layers: Vec<String> = layers.iter().map(layer).collect();
    let text = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#, layer(config), layers.join(","));
    Manifest::read(text.as_bytes()).expect("a manifest")
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        for place in ["models/blobs", "models/manifests", "data"] {
            fs::create_dir_all(folder.path().join(place)).expect("a folder");
        }
        let runtime = MemRuntime::at(Place::Store(folder.path().join("models")));
        let config = Config { spare_percent: 0, spare_bytes_min: 0, origin_streams: 1, ..Config::default() };
        let (origin, others) = (MemOrigin::default(), MemOthers::default());
        let (node, peers) = (NodeId(1), MemPeers::default());
        let (clock, cluster) = (Clock::system(), MemCluster::new([node]));
        let strain = watch::Sender::new(false);
        Self { folder, runtime, origin, others, peers, cluster, config, clock, node, strain }
    }

    /// Gives the origin a model of one file of weights and a configuration.
    pub(crate) fn model(&self, text: &str, seed: u64, weights_bytes: u64) -> Model {
        let bytes = bytes(seed, weights_bytes);
        let weights = BlobSpec { sha256: digest(&bytes), size_bytes: weights_bytes };
        self.origin.put_file(weights.sha256, bytes.clone());
        let config = br#"{"model_format":"gguf","model_family":"llama","model_type":"1B","file_type":"Q4_0"}"#;
        let told = BlobSpec { sha256: digest(config), size_bytes: config.len() as u64 };
        self.origin.put_file(told.sha256, config.to_vec());
        let manifest = manifest_of(&[("docker.container.image.v1+json", told), ("ollama.image.model", weights)]);
        self.origin.put_manifest(name(text), manifest.bytes().to_vec());
        Model { name: name(text), manifest, weights, bytes }
    }

    pub(crate) fn start(&self) -> Node {
        let metrics = Metrics::default();
        let registry = Registry::new();
        metrics.register(&registry).expect("an empty registry");
        let parts = Parts {
            node: self.node,
            clock: self.clock.clone(),
            data_dir: self.folder.path().join("data"),
            origin: Arc::new(self.origin.clone()),
            runtime: Arc::new(self.runtime.clone()),
            others: Arc::new(self.others.clone()),
            peers: Arc::new(self.peers.clone()),
            ledger: Arc::new(self.cluster.ledger(self.node)),
            seed: self.node.0,
            minute_of_week,
            strain: self.strain.subscribe(),
            metrics,
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let handle = Handle::start(self.config.clone(), parts, &tasks, stop.clone());
        Node { handle, registry, tasks, stop }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.folder.path().join("models")).expect("it is there")
    }

    pub(crate) fn blob(&self, sha256: Digest) -> PathBuf {
        self.store().blob_path(sha256)
    }

    /// Where the bytes of a file on its way lie.
    pub(crate) fn part(&self, sha256: Digest) -> PathBuf {
        self.store().staging_place().join(format!("parts/sha256-{sha256}.part"))
    }

    /// What lies in staging, by name.
    pub(crate) fn staged(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.store().staging_place().join("parts")) else { return Vec::new() };
        entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect()
    }

    /// The names of the jobs that are kept.
    pub(crate) fn jobs(&self) -> Vec<String> {
        let folders = ["jobs", "wishes"].map(|name| self.folder.path().join("data/transfer").join(name));
        let jobs = folders.iter().flat_map(|folder| Jobs::open(folder).expect("ours").all().expect("readable"));
        jobs.map(|job| job.name).collect()
    }

    /// The model is there, whole, and nothing is left of the way to it.
    pub(crate) fn check_published(&self, model: &Model) {
        let (_, stored) = self.store().manifest(&model.name).expect("readable").expect("it is published");
        assert_eq!(stored.bytes(), model.manifest.bytes());
        assert!(fs::read(self.blob(model.weights.sha256)).expect("it is there") == model.bytes, "other bytes");
        assert!(self.store().scan().expect("readable").models.iter().all(|scanned| scanned.complete));
        assert_eq!((self.staged(), self.jobs()), (vec![], vec![]));
    }

    /// Nothing of any model is visible.
    pub(crate) fn check_nothing_published(&self) {
        assert_eq!(self.store().scan().expect("readable").models.len(), 0);
        assert_eq!(fs::read_dir(self.store().root().join("blobs")).expect("it is there").count(), 0);
    }
}

// === impl Node ===

impl Node {
    pub(crate) async fn ask(&self, name: &ModelName) -> Result<Watch, PullError> {
        let spec = PullSpec { name: name.clone(), insecure: false, asked_by: "a test".to_owned() };
        timeout(LONG, self.handle.pull(spec)).await.expect("it answers")
    }

    /// Pulls a model and waits for the end.
    pub(crate) async fn pull(&self, name: &ModelName) -> Result<Arc<PullProgress>, PullError> {
        let mut watch = self.ask(name).await?;
        result(&mut watch).await
    }

    /// How a pull went of which nothing is held.
    pub(crate) fn listed(&self) -> Vec<(String, Stage)> {
        self.handle.pulls().iter().map(|pull| (pull.name.to_string(), pull.stage.clone())).collect()
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric of that name");
        let values = family.get_metric().iter();
        values.map(|metric| metric.get_counter().value() + metric.get_gauge().value()).sum()
    }

    /// The node ends, as it does when its machine shuts down.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(LONG, self.tasks.wait()).await.expect("it ends");
    }
}

/// Waits until so many bytes are verified.
pub(crate) async fn until_verified(watch: &mut Watch, bytes: u64) {
    until(watch, |progress| progress.verified_bytes() >= bytes).await;
}

pub(crate) async fn until(watch: &mut Watch, mut is_so: impl FnMut(&PullProgress) -> bool) {
    while !is_so(&watch.now()) {
        assert!(timeout(LONG, watch.changed()).await.expect("there are news"), "over: {:?}", watch.now().stage);
    }
}

/// How a pull ends. What was verified never goes back meanwhile.
pub(crate) async fn result(watch: &mut Watch) -> Result<Arc<PullProgress>, PullError> {
    let mut verified = 0;
    loop {
        let now = watch.now();
        assert!(now.verified_bytes() >= verified, "{} after {verified}", now.verified_bytes());
        verified = now.verified_bytes();
        match &now.stage {
            Stage::Done => {
                assert_eq!(now.verified_bytes(), now.total_bytes());
                return Ok(now);
            }
            Stage::Failed(error) => return Err(error.clone()),
            _ => assert!(timeout(LONG, watch.changed()).await.expect("there are news"), "it ends as it should"),
        }
    }
}

pub(crate) const fn chunks(count: u64) -> u64 {
    count * CHUNK_BYTES
}
