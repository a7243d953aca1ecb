//! Nodes 1 to n in one process: handles over in-memory ports, and beats that a test sends when it wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_scheduler::mem::{MemPlacements, MemRemote, MemRuntime, Script};
use ollamax_scheduler::{Config, Handle, Metrics, Parts, Response, RuntimeReport};
use ollamax_types::{
    Api, Applies, Clock, Digest, InferenceRequest, ModelRecord, NodeId, RequestId, Residency, RuntimeKind,
    RuntimeState, Timestamp,
};

pub(crate) const NEW: Digest = Digest([2; 32]);
pub(crate) const OLD: Digest = Digest([1; 32]);
pub(crate) const WEIGHTS: Digest = Digest([9; 32]);

/// Nodes 1 to n in one process.
pub(crate) struct World {
    pub(crate) nodes: BTreeMap<u64, Handle>,
    pub(crate) runtimes: BTreeMap<u64, MemRuntime>,
    pub(crate) remote: MemRemote,
    pub(crate) placements: MemPlacements,
    pub(crate) registries: BTreeMap<u64, Registry>,
    _stop: tokio_util::sync::DropGuard,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn model(digest: Digest) -> ModelRecord {
    ModelRecord {
        name: "m".parse().expect("valid"),
        digest,
        weights: digest,
        size_bytes: 1,
        modified_at: Timestamp(u64::from(digest.0[0])),
        details_json: "{}".to_owned(),
        capabilities: Vec::new(),
    }
}

pub(crate) fn resident(digest: Digest) -> Residency {
    Residency {
        name: "m".parse().expect("valid"),
        digest,
        weights: digest,
        size_bytes: 1,
        size_vram_bytes: 0,
        context_length: 4_096,
        expires_at: String::new(),
        details_json: "{}".to_owned(),
    }
}

pub(crate) fn report(digest: Option<Digest>) -> RuntimeReport {
    RuntimeReport {
        kind: RuntimeKind::Engine,
        version: "1".to_owned(),
        state: RuntimeState::Up,
        models: Arc::new(digest.map(model).into_iter().collect()),
        resident: digest.map(resident).into_iter().collect(),
    }
}

/// Another model, called `alias`, made from the weights of `m`: its manifest alone differs.
pub(crate) fn alias() -> ModelRecord {
    ModelRecord { name: "alias".parse().expect("valid"), digest: Digest([7; 32]), ..known(model(NEW)) }
}

/// Of known weights, which `m` and `alias` share.
pub(crate) fn known(model: ModelRecord) -> ModelRecord {
    ModelRecord { weights: WEIGHTS, ..model }
}

/// Holds the newest version, and is down for this reason.
pub(crate) fn down(why: &str) -> RuntimeReport {
    RuntimeReport { state: RuntimeState::Down(why.to_owned()), resident: vec![], ..report(Some(NEW)) }
}

pub(crate) fn request() -> InferenceRequest {
    InferenceRequest {
        id: RequestId("r".to_owned()),
        trace: None,
        api: Api::Chat,
        model: "M:latest".parse().expect("valid"),
        digest: None,
        num_ctx: None,
        stream: true,
        body: Bytes::from_static(b"{}"),
    }
}

/// Reads an answer to its end.
pub(crate) async fn read(response: Response) -> String {
    let parts: Vec<_> = response.body.collect().await;
    let text = parts.into_iter().map(|part| match part {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(broken) => format!("<{broken}>"),
    });
    text.collect()
}

/// Ten parts, one each 100 ms.
pub(crate) fn slow_stream() -> Script {
    Script { parts: vec![Bytes::from_static(b"x"); 10], part_after: ms(100), ..Script::default() }
}

impl World {
    /// Nodes 1 to `count`; those in `holders` have the model, in memory.
    pub(crate) fn new(count: u64, holders: &[u64], config: &Config) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (remote, placements) = (MemRemote::default(), MemPlacements::default());
        let mut world = Self {
            nodes: BTreeMap::new(),
            runtimes: BTreeMap::new(),
            remote,
            placements,
            registries: BTreeMap::new(),
            _stop: stop.clone().drop_guard(),
        };
        for id in 1..=count {
            let (runtime, registry) = (MemRuntime::default(), Registry::new());
            let parts = Parts {
                node: NodeId(id),
                clock: Clock::manual(Timestamp(1_000)),
                daemon_version: "0".to_owned(),
                applies: Applies::default(),
                seed: id,
                runtime: Arc::new(runtime.clone()),
                remote: Arc::new(world.remote.clone()),
                placements: Arc::new(world.placements.clone()),
                metrics: Metrics::default(),
            };
            parts.metrics.register(&registry).expect("a fresh registry");
            let handle = Handle::start(config.clone(), parts, &tasks, stop.clone());
            let digest = holders.contains(&id).then_some(NEW);
            handle.set_runtime(report(digest));
            if digest.is_some() {
                world.placements.place(NodeId(id), model(NEW));
            }
            world.remote.connect(handle.clone());
            world.nodes.insert(id, handle);
            world.runtimes.insert(id, runtime);
            world.registries.insert(id, registry);
        }
        world.exchange_beats();
        world
    }

    /// Every node hears every other once.
    pub(crate) fn exchange_beats(&self) {
        for from in self.nodes.values() {
            self.beat_of(from.node().0);
        }
    }

    pub(crate) fn beat_of(&self, from: u64) {
        let beat = self.nodes[&from].beat();
        self.nodes.values().for_each(|to| to.observe(beat.clone()));
    }

    /// Time passes while everybody but `silent` beats.
    pub(crate) async fn pass(&self, time: Duration, silent: &[u64]) {
        let mut rest = time;
        while rest > Duration::ZERO {
            let step = rest.min(ms(250));
            tokio::time::sleep(step).await;
            self.nodes.keys().filter(|node| !silent.contains(node)).for_each(|node| self.beat_of(*node));
            rest -= step;
        }
    }

    /// The counter `name{value}` of a node's registry.
    pub(crate) fn counter(&self, node: u64, name: &str, value: &str) -> f64 {
        let families = self.registries[&node].gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| {
            family.get_metric().iter().find(|metric| metric.get_label().iter().any(|label| label.value() == value))
        });
        metric.map_or(0.0, |metric| metric.get_counter().value())
    }
}
