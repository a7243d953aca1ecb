//! What lies in the store is known, hashed once, and told when it changes.
//!
//! Time stands still while a thread works on files and jumps while everybody waits, so an hour of looks takes moments.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_blobs::Index;
use ollamax_transfer::mem::{MemCluster, MemOrigin, MemOthers, MemPeers, MemRuntime};
use ollamax_transfer::{Adopted, Config, Handle, Metrics, Parts, Place};
use ollamax_types::chunk::CHUNK_BYTES;
use ollamax_types::{Clock, Digest, NodeId};

/// Longer than any wait of adoption.
const LONG: Duration = Duration::from_secs(3_600);

/// A runtime's store, and the data directory of the node beside it.
struct World {
    folder: TempDir,
    runtime: MemRuntime,
}

/// A model that was put into a store.
struct Put {
    manifest: PathBuf,
    config: Digest,
    weights: Digest,
    size_bytes: u64,
}

/// A node that has started.
struct Node {
    handle: Handle,
    adopted: watch::Receiver<Arc<Adopted>>,
    registry: Registry,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn names(adopted: &Adopted) -> Vec<String> {
    let mut names: Vec<String> = adopted.models.iter().map(|scanned| scanned.model.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn is_hashed(adopted: &Adopted) -> bool {
    adopted.scanned && adopted.left_bytes == 0
}

// === impl World ===

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        let world = Self { runtime: MemRuntime::at(Place::Store(folder.path().join("models"))), folder };
        world.make_store();
        world
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn blob(&self, sha256: Digest) -> PathBuf {
        self.store().join(format!("blobs/sha256-{sha256}"))
    }

    fn make_store(&self) {
        for name in ["blobs", "manifests"] {
            fs::create_dir_all(self.store().join(name)).expect("a folder");
        }
    }

    /// Puts a model of these weights into the store, as a runtime does.
    fn put(&self, name: &str, weights: &[u8]) -> Put {
        let config = br#"{"model_format":"gguf","model_family":"llama","model_type":"1B","file_type":"Q4_0"}"#;
        for bytes in [config.as_slice(), weights] {
            fs::write(self.blob(digest(bytes)), bytes).expect("room");
        }
        let layer = |kind: &str, bytes: &[u8]| {
            let (sha256, size) = (digest(bytes), bytes.len());
            format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{sha256}","size":{size}}}"#)
        };
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[{}]}}"#,
            layer("docker.container.image.v1+json", config),
            layer("ollama.image.model", weights),
        );
        let manifest = self.store().join("manifests/registry.ollama.ai/library").join(name).join("latest");
        fs::create_dir_all(manifest.parent().expect("a folder")).expect("a folder");
        fs::write(&manifest, text).expect("room");
        let size_bytes = u64::try_from(config.len() + weights.len()).expect("small");
        Put { manifest, config: digest(config), weights: digest(weights), size_bytes }
    }

    /// As a runtime removes a model: the manifest first, then what nobody else needs.
    fn remove(&self, put: &Put) {
        fs::remove_file(&put.manifest).expect("it is there");
        fs::remove_file(self.blob(put.weights)).expect("it is there");
    }

    fn start(&self, config: Config) -> Node {
        let metrics = Metrics::default();
        let registry = Registry::new();
        metrics.register(&registry).expect("an empty registry");
        let runtime = Arc::new(self.runtime.clone());
        let data_dir = self.folder.path().join("data");
        fs::create_dir_all(&data_dir).expect("a folder");
        let (origin, others) = (Arc::new(MemOrigin::default()), Arc::new(MemOthers::default()));
        let (node, clock, peers) = (NodeId(1), Clock::system(), Arc::new(MemPeers::default()));
        let ledger = Arc::new(MemCluster::new([node]).ledger(node));
        let strain = watch::Sender::new(false).subscribe();
        let parts = Parts {
            node,
            clock,
            data_dir,
            origin,
            runtime,
            others,
            peers,
            ledger,
            seed: 1,
            minute_of_week: |_| 0,
            strain,
            metrics,
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let handle = Handle::start(config, parts, &tasks, stop.clone());
        Node { adopted: handle.adopted(), handle, registry, tasks, stop }
    }

    fn trees(&self) -> Vec<Digest> {
        let index = Index::open(&self.folder.path().join("data/transfer/trees")).expect("it opens");
        index.all().expect("it is read")
    }
}

// === impl Node ===

impl Node {
    async fn until(&mut self, mut is_so: impl FnMut(&Adopted) -> bool) -> Arc<Adopted> {
        let told = timeout(LONG, self.adopted.wait_for(|adopted| is_so(adopted))).await;
        let told = told.expect("it is told in time").expect("the node runs");
        Arc::clone(&told)
    }

    async fn next_news(&mut self) -> Arc<Adopted> {
        timeout(LONG, self.adopted.changed()).await.expect("it is told in time").expect("the node runs");
        Arc::clone(&self.adopted.borrow_and_update())
    }

    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a metric of that name");
        let metric = family.get_metric().first().expect("one without labels");
        metric.get_counter().value() + metric.get_gauge().value()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        assert!(self.adopted.has_changed().is_err(), "whoever follows hears that it is over");
    }
}

#[tokio::test(start_paused = true)]
async fn the_list_is_there_at_once_and_the_hashes_follow() {
    let world = World::new();
    let (small, large) = (world.put("small", b"little"), world.put("large", &vec![7; 100_000]));
    let mut node = world.start(Config::default());

    let first = node.next_news().await;
    assert_eq!(names(&first), ["large:latest", "small:latest"]);
    assert!(first.models.iter().all(|model| model.complete));
    assert_eq!(first.store, Some(world.store().canonicalize().expect("it is there")));
    assert!(first.access.is_some());
    assert_eq!(first.hashed.len(), 0, "the list does not wait for a hash");
    let config_bytes = large.size_bytes - 100_000;
    assert_eq!(first.left_bytes, 100_000 + small.size_bytes, "both have the same configuration");

    let hashed = node.until(is_hashed).await;
    let files: Vec<Digest> = hashed.hashed.keys().copied().collect();
    let mut expected = vec![small.weights, large.weights, small.config];
    expected.sort_unstable();
    assert_eq!(files, expected);
    assert_eq!(world.trees().len(), 3);
    assert_eq!(hashed.suspect.len(), 0);
    assert_eq!(node.metric("ollamax_blobs_models"), 2.0);
    assert_eq!(node.metric("ollamax_blobs_unhashed_bytes"), 0.0);
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), (100_006 + config_bytes) as f64);
    assert_eq!(world.runtime.looks(), 0, "nothing has changed for it");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_hashed_is_not_read_again_unless_it_is_another_file() {
    let world = World::new();
    let size = usize::try_from(CHUNK_BYTES + 10_000).expect("small");
    let put = world.put("a", &vec![1; size]);
    let mut node = world.start(Config::default());
    let before = node.until(is_hashed).await;
    node.end().await;

    let mut node = world.start(Config::default());
    let after = node.until(is_hashed).await;
    assert_eq!(after.hashed, before.hashed);
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), 0.0);

    // The same bytes in another file.
    let (old, new) = (world.blob(put.weights), world.store().join("new"));
    fs::copy(&old, &new).expect("room");
    fs::rename(&new, &old).expect("the same folder");
    node.handle.look_again();
    let told = node.until(|adopted| adopted.left_bytes > 0).await;
    assert!(!told.hashed.contains_key(&put.weights));
    let again = node.until(is_hashed).await;
    assert_eq!(again.hashed, before.hashed);
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), size as f64);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_what_its_name_says_is_told_and_stays() {
    let world = World::new();
    let (good, bad) = (world.put("good", b"as promised"), world.put("bad", b"as announced"));
    fs::write(world.blob(bad.weights), b"as_announced").expect("room");
    let mut node = world.start(Config::default());

    let told = node.until(is_hashed).await;
    let what = format!("its bytes make {}", digest(b"as_announced"));
    assert_eq!(told.suspect.iter().collect::<Vec<_>>(), [(&bad.weights, &what)]);
    assert!(told.hashed.contains_key(&good.weights) && !told.hashed.contains_key(&bad.weights));
    assert!(!world.trees().contains(&bad.weights));
    assert_eq!(node.metric("ollamax_blobs_suspect"), 1.0);
    assert_eq!(fs::read(world.blob(bad.weights)).expect("it is there"), b"as_announced");

    // It is not read at each look, and is forgotten when the user has mended it.
    let read = node.metric("ollamax_blobs_hashed_bytes_total");
    sleep(LONG).await;
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), read);
    let new = world.store().join("new");
    fs::write(&new, b"as announced").expect("room");
    fs::rename(&new, world.blob(bad.weights)).expect("the same folder");
    let mended = node.until(|adopted| adopted.suspect.is_empty() && is_hashed(adopted)).await;
    assert!(mended.hashed.contains_key(&bad.weights));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_changed_is_seen_within_a_minute_and_the_runtime_lists_again() {
    let world = World::new();
    world.put("stays", b"stays");
    let mut node = world.start(Config::default());
    node.until(is_hashed).await;

    let comes = world.put("comes", b"comes");
    let started = Instant::now();
    let told = node.next_news().await;
    assert_eq!(names(&told), ["comes:latest", "stays:latest"]);
    assert!(started.elapsed() < Duration::from_secs(61), "{:?}", started.elapsed());
    assert_eq!(world.runtime.looks(), 1);
    let hashed = node.until(is_hashed).await;
    assert!(hashed.hashed.contains_key(&comes.weights));
    assert!(world.trees().contains(&comes.weights));

    world.remove(&comes);
    let told = node.until(|adopted| adopted.models.len() == 1 && is_hashed(adopted)).await;
    assert_eq!(names(&told), ["stays:latest"]);
    let told = node.until(|adopted| !adopted.hashed.contains_key(&comes.weights)).await;
    assert_eq!(told.hashed.len(), 2);
    assert!(!world.trees().contains(&comes.weights), "its tree is of no use");
    assert_eq!(world.runtime.looks(), 2);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_knows_of_a_change_need_not_wait_for_the_minute() {
    let world = World::new();
    let mut node = world.start(Config::default());
    node.until(is_hashed).await;
    world.put("new", b"new");
    let started = Instant::now();
    node.handle.look_again();
    node.until(|adopted| adopted.models.len() == 1).await;
    // Looks are a second apart, and the first one has just been.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    sleep(LONG + Duration::from_secs(30)).await;
    world.put("newer", b"newer");
    let started = Instant::now();
    node.handle.look_again();
    node.until(|adopted| adopted.models.len() == 2).await;
    assert!(started.elapsed() < Duration::from_millis(10), "{:?}", started.elapsed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_comes_later_or_moves_is_found() {
    let world = World::new();
    world.put("a", b"a");
    world.runtime.set_place(Place::None("no runtime beside this node".to_owned()));
    let mut node = world.start(Config::default());
    sleep(LONG).await;
    assert_eq!(**node.adopted.borrow_and_update(), Adopted::default());

    world.runtime.set_place(Place::Store(world.store()));
    let started = Instant::now();
    node.until(|adopted| adopted.scanned).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    world.runtime.set_place(Place::Store(Path::new("/nowhere/at/all").to_owned()));
    node.until(|adopted| *adopted == Adopted::default()).await;
    world.runtime.set_place(Place::Store(world.store()));
    let found = node.until(is_hashed).await;
    assert_eq!(names(&found), ["a:latest"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn hashing_keeps_to_its_rate_and_goes_on_over_a_look() {
    let world = World::new();
    let size = usize::try_from(4 * CHUNK_BYTES).expect("small");
    let put = world.put("large", &vec![3; size]);
    // One chunk in half a minute: the file takes longer than the time between two looks.
    let rate = CHUNK_BYTES / 30;
    let started = Instant::now();
    let mut node = world.start(Config { hash_bytes_per_second_max: rate, ..Config::default() });
    let told = node.until(is_hashed).await;
    assert!(told.hashed.contains_key(&put.weights));
    let took = started.elapsed();
    // The first chunk needs no wait.
    assert!((Duration::from_secs(90)..Duration::from_secs(92)).contains(&took), "{took:?}");
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), put.size_bytes as f64, "each byte is read once");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_goes_while_it_is_hashed_is_let_go() {
    let world = World::new();
    let put = world.put("large", &vec![3; usize::try_from(4 * CHUNK_BYTES).expect("small")]);
    let mut node = world.start(Config { hash_bytes_per_second_max: CHUNK_BYTES / 30, ..Config::default() });
    node.until(|adopted| adopted.hashed.contains_key(&put.config)).await;
    world.remove(&put);
    node.handle.look_again();
    node.until(|adopted| adopted.models.is_empty() && is_hashed(adopted)).await;
    sleep(LONG).await;
    assert!(node.metric("ollamax_blobs_hashed_bytes_total") < put.size_bytes as f64);
    assert_eq!(node.metric("ollamax_blobs_suspect"), 0.0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_incomplete_model_is_told_apart_and_what_is_there_of_it_is_hashed() {
    let world = World::new();
    let put = world.put("half", b"half");
    fs::remove_file(world.blob(put.weights)).expect("it is there");
    let mut node = world.start(Config::default());
    let told = node.until(is_hashed).await;
    assert_eq!(told.models.iter().map(|model| model.complete).collect::<Vec<_>>(), [false]);
    assert_eq!(told.hashed.keys().collect::<Vec<_>>(), [&put.config]);
    assert_eq!(node.metric("ollamax_blobs_models"), 0.0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn hash_trees_that_are_lost_cost_the_next_start_a_read_and_nothing_else() {
    let world = World::new();
    let put = world.put("a", b"a");
    let mut node = world.start(Config::default());
    node.until(is_hashed).await;
    node.end().await;
    fs::remove_dir_all(world.folder.path().join("data/transfer")).expect("it is there");
    let mut node = world.start(Config::default());
    let told = node.until(is_hashed).await;
    assert_eq!(told.hashed.len(), 2);
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), put.size_bytes as f64);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_list_is_told_although_there_is_no_room_for_hash_trees() {
    let world = World::new();
    let put = world.put("a", b"a");
    fs::create_dir_all(world.folder.path().join("data")).expect("a folder");
    fs::write(world.folder.path().join("data/transfer"), b"in the way").expect("room");
    let mut node = world.start(Config::default());
    node.until(|adopted| adopted.scanned).await;
    sleep(LONG).await;
    let told = Arc::clone(&node.adopted.borrow());
    assert_eq!(names(&told), ["a:latest"]);
    assert_eq!((told.hashed.len(), told.left_bytes), (0, put.size_bytes));

    fs::remove_file(world.folder.path().join("data/transfer")).expect("it is there");
    node.until(is_hashed).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_doubts_has_one_file_read_once_in_an_hour() {
    let world = World::new();
    let put = world.put("large", &vec![7; 100_000]);
    let mut node = world.start(Config::default());
    node.until(is_hashed).await;
    let read = |node: &Node| node.metric("ollamax_blobs_scrubbed_bytes_total");
    // What is not here costs whoever doubts it nothing.
    node.handle.doubt(NodeId(2), Digest([9; 32]), 0);
    for index in 0..100 {
        node.handle.doubt(NodeId(2), put.weights, index);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(read(&node), 100_000.0);
    // It was found sound, whoever doubts it.
    node.handle.doubt(NodeId(2), put.weights, 0);
    node.handle.doubt(NodeId(3), put.weights, 0);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(read(&node), 100_000.0);
    node.handle.doubt(NodeId(2), put.weights, 0);
    sleep(Duration::from_secs(59)).await;
    assert_eq!(read(&node), 200_000.0);
    node.end().await;
}
