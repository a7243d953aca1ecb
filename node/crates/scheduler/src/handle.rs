//! What callers hold: a cheap clone over the load view, the admission queues and the ports.
//!
//! Always holds: no lock is held across an await, and no request leaves anything behind once its future and its body
//! are dropped. The one task that is started here notices this process's own stalls; without it liveness would be
//! judged by beats alone and a stalled node would suspect all others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::health::Health;
use ollamax_types::{Applies, Beat, Clock, InferenceRequest, ModelName, NodeId, RuntimeState, limits};

use crate::admission::Admission;
use crate::beat::Local;
use crate::config::Config;
use crate::error::{AdmitError, DispatchError};
use crate::load_view::{LoadView, PeerLoad};
use crate::metrics::Metrics;
use crate::ports::{Placements, Remote, Runtime};
use crate::report::{Machine, RuntimeReport};
use crate::response::Response;
use crate::served::Served;

/// How often the process looks at the clock to notice that it stood still: as often as frames come that it may miss.
const TICK: Duration = limits::BEAT_INTERVAL;

/// The things, as opposed to the numbers, that the scheduler works with.
pub struct Parts {
    /// This node.
    pub node: NodeId,
    /// Wall time, for the stamps in beats and the skew check.
    pub clock: Clock,
    /// Release of the daemon, for beats.
    pub daemon_version: String,
    /// Which cluster versions this node applies, for beats.
    pub applies: Applies,
    /// Seeds the choice among equals.
    pub seed: u64,
    /// The runtime beside this node.
    pub runtime: Arc<dyn Runtime>,
    /// The way to other nodes.
    pub remote: Arc<dyn Remote>,
    /// Which node holds which model.
    pub placements: Arc<dyn Placements>,
    /// What is counted.
    pub metrics: Metrics,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("node", &self.node).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// The scheduler, as callers hold it.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) parts: Parts,
    pub(crate) load_view: Arc<LoadView>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) local: Local,
    pub(crate) served: Served,
    started: Instant,
    chance: AtomicU64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("node", &self.shared.parts.node).finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Builds the scheduler and starts its one task, which ends with `stop`.
    #[must_use]
    pub fn start(config: Config, parts: Parts, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            load_view: Arc::new(LoadView::new(parts.node, &config, TICK)),
            admission: Arc::new(Admission::new(&config, parts.metrics.clone())),
            local: Local::default(),
            served: Served::default(),
            started: Instant::now(),
            chance: AtomicU64::new(parts.seed),
            config,
            parts,
        });
        tasks.spawn(watch_own_stalls(Arc::clone(&shared), stop));
        Self { shared }
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.parts.node
    }

    /// Router side: sends the request to the node with the least expected wait, and to the next one as long as
    /// nothing of an answer was seen. The body then flows as the runtime writes it; dropping it, or this future,
    /// cancels the request wherever it is. `request.digest` is set here.
    ///
    /// # Errors
    /// When no node holds the model, or none that does could answer; the error lists each holder's part.
    pub async fn dispatch(&self, request: InferenceRequest) -> Result<Response, DispatchError> {
        crate::dispatch::dispatch(&self.shared, request).await
    }

    /// Router side: sends the request to this node and to no other, for what is meant for each node that has a model
    /// in memory. `request.digest` stays as it is.
    ///
    /// # Errors
    /// When that node could not answer.
    pub async fn dispatch_to(&self, node: NodeId, request: InferenceRequest) -> Result<Response, DispatchError> {
        crate::dispatch::dispatch_to(&self.shared, node, request).await
    }

    /// Owner side: checks that the runtime beside this node holds the model, waits for a slot, and sends the request.
    /// The slot is given back when the body ends or is dropped, or when this future is dropped.
    ///
    /// # Errors
    /// When this node may not, or cannot, take the request, or its runtime failed before its first byte.
    pub async fn admit(&self, request: InferenceRequest) -> Result<Response, AdmitError> {
        crate::admit::admit(&self.shared, request).await
    }

    /// Takes in another node's frame.
    pub fn observe(&self, beat: Beat) {
        let shared = &self.shared;
        shared.load_view.observe(beat, shared.now(), shared.parts.clock.now());
    }

    /// The liveness stream to a node broke: it is suspect until its next frame.
    pub fn lost_link(&self, node: NodeId) {
        self.shared.load_view.lost_link(node, self.shared.now());
    }

    /// The members that have not departed: everything about others is forgotten.
    pub fn set_members(&self, members: &[NodeId]) {
        self.shared.load_view.retain(members);
    }

    /// Whether this node takes no new requests.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        crate::beat::is_draining(&self.shared)
    }

    /// What this node says now. Each call counts the sequence up.
    #[must_use]
    pub fn beat(&self) -> Beat {
        crate::beat::beat(&self.shared)
    }

    /// What the other nodes last said, by node id. This node is not among them; see [`Handle::beat`].
    #[must_use]
    pub fn peers(&self) -> Vec<PeerLoad> {
        self.shared.load_view.peers(self.shared.now())
    }

    /// What this node thinks of each other member, those that it never heard among them.
    #[must_use]
    pub fn others(&self) -> Vec<Health> {
        self.shared.load_view.others(self.shared.now())
    }

    /// The living nodes that have a model in memory, as far as this node knows: under its name, or under another one of
    /// its weights.
    #[must_use]
    pub fn loaded_on(&self, model: &ModelName) -> Vec<NodeId> {
        crate::candidates::loaded_on(&self.shared, model)
    }

    /// What this node thinks of another; itself it holds for alive.
    #[must_use]
    pub fn health(&self, node: NodeId) -> Health {
        self.shared.load_view.health(node, self.shared.now())
    }

    /// How long a node has been silent; of one that was never heard, since the first try to hear it came to nothing.
    #[must_use]
    pub fn silent_for(&self, node: NodeId) -> Duration {
        self.shared.load_view.silent_for(node, self.shared.now())
    }

    /// Refuses new requests on this node, or takes them again. Running and waiting ones go on.
    pub fn set_draining(&self, draining: bool) {
        self.shared.local.set_draining(draining);
    }

    /// Takes in the newest poll of the runtime beside this node. When it says that the runtime is down, requests that
    /// wait for a slot or for the head of their answer are refused at once, so that their routers can go elsewhere.
    pub fn set_runtime(&self, report: RuntimeReport) {
        let weights = report.models.iter().map(|model| model.weights).collect();
        self.shared.local.set_runtime(report);
        self.shared.admission.retain(&weights);
    }

    /// The newest poll of the runtime beside this node.
    #[must_use]
    pub fn runtime(&self) -> Arc<RuntimeReport> {
        self.shared.local.runtime()
    }

    /// Follows the polls: wakes when one says something new.
    #[must_use]
    pub fn runtime_changes(&self) -> watch::Receiver<Arc<RuntimeReport>> {
        self.shared.local.runtime_changes()
    }

    /// Takes in the newest readings of this machine.
    pub fn set_machine(&self, machine: Machine) {
        self.shared.local.set_machine(machine);
    }

    /// What is counted here, to be registered by the assembly.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.parts.metrics
    }

    /// What the runtime beside this node has in memory was used, by whomever: also by who asks it at its own port. A
    /// runtime does not say which of the models it was that share their weights, so all of them were.
    pub fn note_loaded(&self) {
        let report = self.shared.local.runtime();
        let now = self.shared.parts.clock.now();
        for loaded in report.resident.iter().filter(|_| report.state == RuntimeState::Up) {
            let sharers = report.models.iter().filter(|held| held.weights == loaded.weights).map(|held| &held.name);
            sharers.chain([&loaded.name]).for_each(|name| self.shared.served.note(name, now));
        }
    }

    /// The models that the runtime beside this node has answered for since this process began, or had in memory, each
    /// with the last day, in days since 1970, on which it did.
    #[must_use]
    pub fn served(&self) -> BTreeMap<ModelName, u32> {
        self.shared.served.days()
    }

    /// Whether requests run, or wait, on this node for what a model is made of.
    #[must_use]
    pub fn is_busy(&self, model: &ModelName) -> bool {
        let report = self.shared.local.runtime();
        let Some(held) = report.models.iter().find(|held| held.name == *model) else { return false };
        let loads = self.shared.admission.loads();
        loads.iter().any(|load| load.weights == held.weights && load.running + load.waiting > 0)
    }

    /// Requests that this node's runtime works on or that wait for it; 0 means that stopping cuts nobody off.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.admission.in_flight()
    }
}

// === impl Shared ===

impl Shared {
    /// Monotonic time since the scheduler was built.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The next random number (SplitMix64 over the seed).
    pub(crate) fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        ollamax_core::routing::mix(self.chance.fetch_add(STEP, Ordering::Relaxed))
    }
}

async fn watch_own_stalls(shared: Arc<Shared>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => shared.load_view.tick(shared.now()),
        }
    }
}
