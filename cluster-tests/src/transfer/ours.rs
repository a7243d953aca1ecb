//! Ours: real nodes, with a fake Ollama beside each that keeps its models on disk, and `ollamax model pull` as a user
//! types it. A node has the model when its manifest lies in that store, which is when the runtime sees it.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::{Instant, timeout};

use ollamax_proto::v1::ModelView;
use ollamax_proto::v1::runtime::State;
use ollamax_testkit::cluster::{Builder, Node, Runtime, binary};
use ollamax_testkit::fake_ollama::{self, ModelScript};
use ollamax_testkit::fake_registry::{FakeModel, blob_in, manifest_in};
use ollamax_testkit::room::Lab;
use ollamax_testkit::{Cluster, FakeRegistry, Room, port, wait};
use ollamax_types::ModelName;

use super::course::{Adopted, Done, Outcome, Party, Receiver, Traffic};
use super::memory;
use super::plan::Plan;
use super::watched::{Io, Watched};

/// Longest wait for a cluster to form, and for all to be known everywhere.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a node hashes in a second at least, with whatever else this machine does.
const HASHED_BYTES_MIN: u64 = 32 << 20;
const NAME: &str = "bench";
/// The number of which the weights are made.
const SEED: u64 = 4;
/// Where a registry listens in its room.
const REGISTRY_PORT: u16 = 5_000;
/// Members that vote; all others learn.
const VOTERS: usize = 3;
/// How long a node is watched that has hashed its file: whoever reads it again has begun by then.
const SETTLES: Duration = Duration::from_secs(3);
/// Models that a node finds at its start, and bytes of the weights of each.
pub(super) const CATALOG_MODELS: usize = 100;
const CATALOG_WEIGHTS_BYTES: u64 = 10_000;
/// Of the file: what must have come over libp2p where all of it is said to have.
const OVER_LANES_MIN: f64 = 0.99;

/// The model that is spread, with weights of this length.
pub(super) fn model(size_bytes: u64) -> FakeModel {
    FakeModel::of(SEED, size_bytes)
}

/// The node in the first room has the model; those in the others get it.
pub(super) async fn from_a_node(plan: &Plan, lab: &Lab, model: &FakeModel) -> Result<Outcome> {
    let room = lab.rooms().first().context("a lab has rooms")?;
    // It has nothing: what the cluster has is spread.
    let registry = Registry::start(room, None).await?;
    let cluster = in_rooms(lab.rooms(), &registry.url).await?;
    has(&cluster, 0, model).await?;
    let course = Course { cluster: &cluster, receivers: 1..cluster.size(), model };
    let seed = Watched::new(cluster.node(0).facts()?.pid)?;
    let outcome = course.run(plan, seed, Traffic::Room(room)).await?;
    cluster.finish().await?;
    Ok(outcome)
}

/// A registry in the first room has the model; the nodes in the others get it.
pub(super) async fn from_a_registry(plan: &Plan, lab: &Lab, model: &FakeModel) -> Result<Outcome> {
    let (room, others) = lab.rooms().split_first().context("a lab has rooms")?;
    let registry = Registry::start(room, Some(model)).await?;
    let cluster = in_rooms(others, &registry.url).await?;
    let course = Course { cluster: &cluster, receivers: 0..cluster.size(), model };
    let seed = Watched::new(registry.process.id().context("the registry has ended")?)?;
    let outcome = course.run(plan, seed, Traffic::Room(room)).await?;
    cluster.finish().await?;
    Ok(outcome)
}

/// One node has the model, and one other gets it over loopback, which has no set speed.
pub(super) async fn over_loopback(plan: &Plan, model: &FakeModel) -> Result<Outcome> {
    let registry = FakeRegistry::start().await?;
    let cluster = settled(described(2, &registry.url())).await?;
    has(&cluster, 0, model).await?;
    let course = Course { cluster: &cluster, receivers: 1..2, model };
    let seed = Watched::new(cluster.node(0).facts()?.pid)?;
    let outcome = course.run(plan, seed, Traffic::Loopback).await?;
    cluster.finish().await?;
    Ok(outcome)
}

/// The same where the one that has it cannot be dialled: it tells an address at which nobody listens. So the other
/// one asks it over the libp2p connection that it keeps itself, and all of the file comes that way.
pub(super) async fn over_lanes(plan: &Plan, model: &FakeModel) -> Result<Outcome> {
    let registry = FakeRegistry::start().await?;
    let nowhere = format!("127.0.0.1:{}", port::free()?);
    let builder = described(2, &registry.url()).node(1, |node| {
        // Who cannot be dialled has no vote.
        "learner".clone_into(&mut node.role);
        node.settings.push(("peer.advertise".to_owned(), nowhere));
    });
    let cluster = settled(builder).await?;
    has(&cluster, 1, model).await?;
    let course = Course { cluster: &cluster, receivers: 0..1, model };
    let seed = Watched::new(cluster.node(1).facts()?.pid)?;
    let outcome = course.run(plan, seed, Traffic::Loopback).await?;
    came_over_lanes(&cluster, model).await?;
    cluster.finish().await?;
    Ok(outcome)
}

/// What would be measured otherwise is something else.
async fn came_over_lanes(cluster: &Cluster, model: &FakeModel) -> Result<()> {
    let size_mib = f64::from(u32::try_from(model.weights.size_bytes >> 20).unwrap_or(u32::MAX));
    let labels = ["class=\"bulk\"", "way=\"p2p\""];
    wait::until("all of it to be counted as come over libp2p", PATIENCE, || async {
        let found = cluster.metric_of(0, "ollamax_peer_bytes_total", &labels).await?;
        let found_mib = found.unwrap_or(0.0) / f64::from(1 << 20);
        ensure!(found_mib >= size_mib * OVER_LANES_MIN, "{found_mib:.0} MiB of {size_mib:.0} came over libp2p");
        anyhow::Ok(())
    })
    .await
}

/// One node, into the store of whose runtime a file is put: what that takes until the node offers it to others.
pub(super) async fn adopted(model: &FakeModel) -> Result<Adopted> {
    let registry = FakeRegistry::start().await?;
    let cluster = settled(described(1, &registry.url())).await?;
    let node = cluster.node(0);
    let pid = node.facts()?.pid;
    let (mut process, before) = (Watched::new(pid)?, Io::of(pid)?);
    shelve(node, model).await?;
    let begin = Instant::now();
    offers(&cluster, 0, model).await?;
    let time = begin.elapsed();
    wait::pause(SETTLES).await;
    process.look();
    let adopted = Adopted { time, cost: process.cost(), io: Io::of(pid)?.since(before) };
    cluster.finish().await?;
    Ok(adopted)
}

/// One node, into the store of whose runtime many small models are put while its daemon does not run: the time from its
/// start until it lists all of them.
pub(super) async fn catalogued() -> Result<Duration> {
    let registry = FakeRegistry::start().await?;
    let cluster = settled(described(1, &registry.url())).await?;
    let node = cluster.node(0);
    node.stop(PATIENCE).await?;
    let store = node.store();
    tokio::task::spawn_blocking(move || shelve_many(&store)).await.context("put the models there")??;
    let begin = Instant::now();
    cluster.restart(&[0]).await?;
    wait::until("all models to be listed", PATIENCE, || async {
        let listed = node.admin()?.models("").await?;
        let count = listed.iter().filter(|model| is_catalogued(model)).count();
        ensure!(count == CATALOG_MODELS, "{count} of {CATALOG_MODELS} are");
        anyhow::Ok(())
    })
    .await?;
    let time = begin.elapsed();
    cluster.finish().await?;
    Ok(time)
}

/// As Ollama puts models there.
fn shelve_many(store: &Path) -> Result<()> {
    for number in 0..CATALOG_MODELS {
        let name = format!("lab/m{number}:1b");
        let model = ModelScript { size_bytes: CATALOG_WEIGHTS_BYTES, ..ModelScript::named(&name) };
        fake_ollama::shelve(store, &model).with_context(|| format!("shelve {name}"))?;
    }
    Ok(())
}

/// Whether a node says which version a model is, what it takes, and what kind it is.
fn is_catalogued(model: &ModelView) -> bool {
    !model.digest.is_empty() && model.size_bytes >= CATALOG_WEIGHTS_BYTES && model.details_json.contains("\"family\"")
}

/// The release of the nodes.
pub(super) async fn version() -> Result<String> {
    let cluster = Box::pin(Cluster::builder("bench-transfer").nodes(1).unhurried().start()).await?;
    let version = cluster.status(0).await?.daemon_version;
    cluster.finish().await?;
    Ok(version)
}

/// Nodes of a cluster that are to get a model.
struct Course<'a> {
    cluster: &'a Cluster,
    receivers: Range<usize>,
    model: &'a FakeModel,
}

// === impl Course ===

impl Course<'_> {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.receivers.clone().map(move |index| self.cluster.node(index))
    }

    fn receivers(&self) -> Result<Vec<Receiver>> {
        let (name, sha256) = (name()?, self.model.weights.sha256());
        let receiver = |node: &Node| {
            let (process, store) = (Watched::new(node.facts()?.pid)?, node.store());
            anyhow::Ok(Receiver::new(process, Done::Appeared(manifest_in(&store, &name)), blob_in(&store, sha256)))
        };
        self.nodes().map(receiver).collect()
    }

    /// Types the command, and looks until all have the model. A command that fails ends it.
    async fn run(&self, plan: &Plan, seed: Watched, traffic: Traffic<'_>) -> Result<Outcome> {
        // A command that fails says why, and nodes have logs of their own.
        let party = Party { seed, seed_said: None, receivers: self.receivers()?, traffic, silence: None };
        let limit = plan.limit(self.receivers.len());
        let targets: Vec<&str> = self.nodes().map(Node::name).collect();
        let (targets, sha256) = (targets.join(","), self.model.weights.sha256());
        let words = ["-o", "json", "model", "pull", NAME, "--insecure", "--wait", "--node", &targets];
        let begin = memory::begin(self.receivers.len(), self.model.weights.size_bytes).await?;
        let asked = async {
            let told = self.cluster.node(0).ollamax(&words, limit).await?;
            ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr).trim());
            anyhow::Ok(())
        };
        let (outcome, ()) = tokio::try_join!(party.follow(begin, limit, sha256), asked)?;
        Ok(outcome)
    }
}

/// A registry in a room. It ends with this value.
struct Registry {
    url: String,
    process: Child,
}

// === impl Registry ===

impl Registry {
    async fn start(room: &Room, model: Option<&FakeModel>) -> Result<Self> {
        let at = SocketAddr::from((room.address().context("a room with a network")?, REGISTRY_PORT));
        let mut command = room.command(&binary("fake-registry")?);
        command.arg("--listen").arg(at.to_string()).stdout(Stdio::piped());
        if let Some(FakeModel { weights, .. }) = model {
            command.args(["--model", NAME, "--seed"]).arg(weights.seed.to_string());
            command.arg("--weights-bytes").arg(weights.size_bytes.to_string());
        }
        let mut process = command.spawn().context("start a registry")?;
        let said = process.stdout.take().context("its standard output")?;
        let mut lines = BufReader::new(said).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("a registry does not listen")??;
        let line: Value =
            serde_json::from_str(&line.context("the registry ended at once")?).context("read its line")?;
        let url = line["listening"].as_str().context("it says where it listens")?.to_owned();
        Ok(Self { url, process })
    }
}

fn name() -> Result<ModelName> {
    NAME.parse().context("a model name")
}

/// A node in each room. What they ask and say to form is over when this returns.
async fn in_rooms(rooms: &[Arc<Room>], registry: &str) -> Result<Cluster> {
    let builder = described(rooms.len(), registry).setting("p2p.mdns", false);
    let builder = rooms
        .iter()
        .enumerate()
        .fold(builder, |builder, (index, room)| builder.node(index, |node| node.room = Some(Arc::clone(room))));
    settled(builder).await
}

/// Nodes with an empty store each and the numbers that they have by themselves. Only what a disk must keep free is not
/// asked for, and changes of a store are seen sooner.
fn described(nodes: usize, registry: &str) -> Builder {
    let builder = Cluster::builder("bench-transfer")
        .nodes(nodes)
        .unhurried()
        .setting("transfer.registry_url", registry)
        .setting("transfer.spare_bytes_min", 0)
        .setting("transfer.spare_percent", 0)
        .setting("runtime.models_interval_ms", 1_000);
    (0..nodes).fold(builder, |builder, index| {
        builder.node(index, |node| {
            node.runtime = Runtime::FakeStore(Box::default());
            let role = if index < VOTERS { "voter" } else { "learner" };
            role.clone_into(&mut node.role);
        })
    })
}

/// Starts them, and waits until each sees all runtimes: where one is not seen, it is not counted on.
async fn settled(builder: Builder) -> Result<Cluster> {
    let cluster = Box::pin(builder.start()).await?;
    wait::until("every node to see all runtimes", PATIENCE, || async {
        for (index, status) in cluster.statuses().await? {
            let runtimes = status.nodes.iter().filter_map(|node| node.runtime.as_ref());
            let up = runtimes.filter(|runtime| runtime.state() == State::Up).count();
            ensure!(up == cluster.size(), "node {index} sees {up} runtimes up");
        }
        anyhow::Ok(())
    })
    .await?;
    Ok(cluster)
}

/// Puts the model into the store of a node, and waits until everybody knows it and the node has hashed it.
async fn has(cluster: &Cluster, index: usize, model: &FakeModel) -> Result<()> {
    shelve(cluster.node(index), model).await?;
    offers(cluster, index, model).await
}

/// Puts the model into the store of a node's runtime.
async fn shelve(node: &Node, model: &FakeModel) -> Result<()> {
    let (store, put, name) = (node.store(), model.clone(), name()?);
    tokio::task::spawn_blocking(move || put.shelve(&store, &name)).await.context("put the model there")??;
    Ok(())
}

/// Waits until everybody knows the model of a node, and the node has hashed it.
async fn offers(cluster: &Cluster, index: usize, model: &FakeModel) -> Result<()> {
    cluster.model_known(NAME, 1, PATIENCE).await?;
    let tree = tree_in(&cluster.node(index).data_dir(), model);
    let patience = PATIENCE + Duration::from_secs(model.weights.size_bytes / HASHED_BYTES_MIN);
    wait::until_true("the model to be hashed", patience, || async { tree.exists() }).await
}

/// Where a node keeps the hashes of the weights when it has made them.
fn tree_in(data_dir: &Path, model: &FakeModel) -> PathBuf {
    data_dir.join("transfer").join("trees").join(format!("sha256-{}.tree", model.weights.sha256()))
}
