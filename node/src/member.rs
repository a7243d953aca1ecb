//! Starts the engines of a node that has an id, and ties them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::CLUSTER_VERSION;
use ollamax_gateway::grpc::Phase;
use ollamax_metadata as metadata;
use ollamax_net::{NetHandle, PeerEntry};
use ollamax_outbound as outbound;
use ollamax_outbound::{Environment, RuntimeHandle};
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{Applies, Clock, Gpu, Incarnation, NodeId};

use crate::adapters::inference_over_net::InferenceOverNet;
use crate::adapters::keys_over_net::Signer;
use crate::adapters::ledger_over_metadata::LedgerOverMetadata;
use crate::adapters::liveness_over_net::{self, Frames};
use crate::adapters::origin_over_registry::OriginOverRegistry;
use crate::adapters::peers_over_net::PeersOverNet;
use crate::adapters::placements_over_metadata::PlacementsOverMetadata;
use crate::adapters::raft_over_net::RaftOverNet;
use crate::adapters::runtime_over_ollama::RuntimeOverOllama;
use crate::adapters::store_over_runtime::StoreOverRuntime;
use crate::adapters::transfer_over_net::TransferOverNet;
use crate::calendar::minute_of_week;
use crate::config::NodeConfig;
use crate::data_dir::Membership;
use crate::follow::carried_out::CarriedOut;
use crate::follow::labels::Teller;
use crate::follow::lifecycle::Warden;
use crate::follow::members::{Addresses, Follower};
use crate::follow::presence::Prospect;
use crate::follow::standing::Asker;
use crate::follow::wishes::Planner;
use crate::follow::{ballast, drops, labels, lifecycle, machine, models, state_keys, strain, uses, versions, wishes};
use crate::metrics::CopyMetrics;
use crate::slot::{MemberEngines, Slot};
use crate::telemetry::Standing;

/// Why a member's engines did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// What `identity.json` says cannot be read.
    #[error("identity.json: {0}")]
    Identity(String),
    /// The replicated state did not open.
    #[error(transparent)]
    Metadata(#[from] metadata::OpenError),
}

/// Everything a member's engines are tied to.
#[derive(Debug)]
pub(crate) struct Around {
    /// The whole configuration.
    pub(crate) config: NodeConfig,
    /// Where `raft/` and `keys/` lie.
    pub(crate) data_dir: std::path::PathBuf,
    /// The data directory's incarnation.
    pub(crate) incarnation: Incarnation,
    /// Wall time.
    pub(crate) clock: Clock,
    /// Connections between nodes.
    pub(crate) net: NetHandle,
    /// The runtime beside this node.
    pub(crate) runtime: RuntimeHandle,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
    /// Registries of models.
    pub(crate) origin: outbound::Registry,
    /// What the runtime may fetch from this node; `None`: nothing, ever.
    pub(crate) shelf: Option<transfer::Shelf>,
    /// The GPUs of this machine.
    pub(crate) gpus: watch::Receiver<Vec<Gpu>>,
    /// What `/metrics` shows of copies.
    pub(crate) copies: CopyMetrics,
    /// The cluster key.
    pub(crate) signer: Signer,
    /// Where this node can be reached.
    pub(crate) addresses: Addresses,
    /// Where the engines are put.
    pub(crate) slot: Slot,
    /// Where this node stands.
    pub(crate) phase: watch::Sender<Phase>,
    /// This node's frames, once there are any.
    pub(crate) frames: watch::Sender<Option<Frames>>,
    /// What log lines carry.
    pub(crate) standing: Arc<Standing>,
    /// Metrics of the whole process.
    pub(crate) registry: Registry,
    /// Tasks that end with the engines.
    pub(crate) tasks: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
}

// === impl Around ===

impl Around {
    /// Opens the replicated state and starts everything that hangs on it.
    ///
    /// # Errors
    /// When the stored identity or the stored state cannot be used.
    pub(crate) async fn start(&self, membership: &Membership) -> Result<MemberEngines, StartError> {
        let bad = |error: String| StartError::Identity(error);
        let cluster = membership.cluster_id().map_err(|error| bad(error.to_string()))?;
        let mut public_key = [0; 32];
        hex::decode_to_slice(&membership.cluster_public_key, &mut public_key)
            .map_err(|error| bad(error.to_string()))?;
        let credential = hex::decode(&membership.credential).map_err(|error| bad(error.to_string()))?;
        self.net.set_credential(credential, public_key);
        self.net.set_cluster(Some(cluster));
        self.net.set_members(known_peers(membership));
        self.net.set_next_node_id(next_unknown(membership));
        self.standing.node.store(membership.node.0, Ordering::Relaxed);

        let metadata = metadata::Service::open(metadata::Parts {
            config: self.config.raft.clone(),
            store: self.config.store.clone(),
            identity: metadata::Identity { cluster, node: membership.node, incarnation: self.incarnation },
            dir: self.data_dir.clone(),
            clock: self.clock.clone(),
            peers: Arc::new(RaftOverNet::new(self.net.clone(), cluster, membership.node, self.tasks.clone())),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        })
        .await?;
        let placements = PlacementsOverMetadata::new(metadata.clone());
        let scheduler = self.start_scheduler(membership.node, placements.clone(), metadata.release());
        let engines = MemberEngines {
            cluster,
            node: membership.node,
            name: membership.name.clone(),
            transfer: self.start_transfer(membership.node, metadata.clone(), scheduler.clone()),
            prospect: Prospect::new(metadata.clone(), scheduler.clone()),
            carried_out: CarriedOut::default(),
            scheduler,
            placements,
            metadata,
        };
        let MemberEngines { metadata, scheduler, transfer, .. } = &engines;
        if let Err(error) = register(metadata, scheduler.metrics(), transfer.metrics(), &self.registry) {
            tracing::warn!(%error, "register metrics");
        }
        self.follow(&engines);
        self.slot.set(Some(engines.clone()));
        Ok(engines)
    }

    /// `release` is the highest cluster version that this node lets the cluster go to.
    fn start_scheduler(&self, node: NodeId, placements: PlacementsOverMetadata, release: u32) -> scheduler::Handle {
        let parts = scheduler::Parts {
            node,
            clock: self.clock.clone(),
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            applies: Applies { up_to: release, known: CLUSTER_VERSION },
            seed: self.seed(),
            runtime: Arc::new(RuntimeOverOllama::new(self.runtime.clone(), node)),
            remote: Arc::new(InferenceOverNet::new(self.net.clone())),
            placements: Arc::new(placements),
            metrics: scheduler::Metrics::default(),
        };
        scheduler::Handle::start(self.config.scheduler(), parts, &self.tasks, self.stop.clone())
    }

    /// The same after each start, another one for each data directory.
    fn seed(&self) -> u64 {
        u64::from_le_bytes(self.incarnation.0[..8].try_into().expect("8 of 16 bytes"))
    }

    fn start_transfer(
        &self,
        node: NodeId,
        metadata: metadata::Handle,
        scheduler: scheduler::Handle,
    ) -> transfer::Handle {
        let (sender, metrics) = (watch::Sender::new(false), transfer::Metrics::default());
        let slow = Duration::from_millis(self.config.transfer.yield_sync_ms);
        let (strained, log) = (sender.subscribe(), metadata.clone());
        let slowest = move || log.slowest_sync();
        // It ends with the engines; if it fails, transfers go on as they are.
        self.tasks.spawn(strain::follow(slowest, slow, sender, metrics.clone(), self.stop.clone()));
        let ledger = LedgerOverMetadata::start(metadata.clone(), scheduler, &self.tasks, self.stop.clone());
        let runtime = StoreOverRuntime {
            runtime: self.runtime.clone(),
            data_dir: self.data_dir.clone(),
            environment: self.environment.clone(),
            shelf: self.shelf.clone(),
            node,
            metadata,
        };
        let parts = transfer::Parts {
            node,
            clock: self.clock.clone(),
            data_dir: self.data_dir.clone(),
            origin: Arc::new(OriginOverRegistry::new(self.origin.clone())),
            runtime: Arc::new(runtime),
            others: Arc::new(TransferOverNet::new(self.net.clone())),
            peers: Arc::new(PeersOverNet::new(self.net.clone())),
            ledger: Arc::new(ledger),
            seed: self.seed(),
            minute_of_week,
            strain: strained,
            metrics,
        };
        transfer::Handle::start(self.config.transfer.clone(), parts, &self.tasks, self.stop.clone())
    }

    /// Starts the loops; all of them end with `stop`, and none of them can fail the node.
    fn follow(&self, engines: &MemberEngines) {
        let (members, watched) = watch::channel(Vec::new());
        let follower = Follower {
            engines: engines.clone(),
            incarnation: self.incarnation,
            addresses: self.addresses.clone(),
            told: self.net.p2p_told(),
            net: self.net.clone(),
            signer: self.signer.clone(),
            members,
            phase: self.phase.clone(),
            addresses_refused: AtomicBool::new(false),
        };
        let (tasks, stop) = (&self.tasks, &self.stop);
        tasks.spawn(follower.run(stop.clone()));
        let asker = Asker { engines: engines.clone(), net: self.net.clone(), phase: self.phase.clone() };
        tasks.spawn(asker.run(stop.clone()));
        tasks.spawn(models::follow(engines.clone(), self.runtime.clone(), stop.clone()));
        let planner = Planner {
            metadata: engines.metadata.clone(),
            scheduler: engines.scheduler.clone(),
            transfer: Some(engines.transfer.clone()),
            prospect: engines.prospect.clone(),
            copies: self.copies.clone(),
            metrics: engines.transfer.metrics().clone(),
        };
        tasks.spawn(wishes::follow(planner, stop.clone()));
        self.follow_registry(engines);
        let teller = Teller { metadata: engines.metadata.clone(), scheduler: engines.scheduler.clone() };
        tasks.spawn(labels::follow(teller, stop.clone()));
        tasks.spawn(ballast::follow(engines.metadata.clone(), stop.clone()));
        tasks.spawn(machine::keep_term(engines.metadata.clone(), Arc::clone(&self.standing), stop.clone()));
        let scheduler = engines.scheduler.clone();
        self.frames.send_replace(Some(liveness_over_net::spawn_frames(scheduler.clone(), tasks, stop.clone())));
        tasks.spawn(liveness_over_net::watch_members(self.net.clone(), scheduler, watched, stop.clone()));
    }

    /// Starts the loops that keep versions, removals and uses of models in step, and the keys of what clients carry
    /// young; they end and fail like those above.
    fn follow_registry(&self, engines: &MemberEngines) {
        let (tasks, stop) = (&self.tasks, &self.stop);
        let (metadata, scheduler) = (engines.metadata.clone(), engines.scheduler.clone());
        tasks.spawn(drops::follow(engines.clone(), stop.clone()));
        tasks.spawn(versions::follow(metadata.clone(), self.clock.clone(), stop.clone()));
        tasks.spawn(state_keys::follow(metadata.clone(), stop.clone()));
        tasks.spawn(uses::follow(metadata.clone(), scheduler.clone(), stop.clone()));
        tasks.spawn(lifecycle::follow(Warden { metadata, scheduler }, stop.clone()));
    }
}

/// Shows what the engines count.
pub(crate) fn register(
    metadata: &metadata::Handle,
    scheduler: &scheduler::Metrics,
    transfer: &transfer::Metrics,
    registry: &Registry,
) -> prometheus::Result<()> {
    metadata.register_metrics(registry)?;
    scheduler.register(registry)?;
    transfer.register(registry)
}

/// Members that were known when this node joined, to be called before the replicated state has arrived.
fn known_peers(membership: &Membership) -> Vec<PeerEntry> {
    let known = membership.known.iter();
    known
        .map(|known| PeerEntry {
            node: known.node,
            peer_id: known.peer_id.clone(),
            addresses: known.addresses.clone(),
            p2p_addresses: known.p2p.clone(),
        })
        .collect()
}

/// Ids from here on may belong to members that this node has not heard of.
fn next_unknown(membership: &Membership) -> NodeId {
    let known = membership.known.iter().map(|known| known.node.0);
    NodeId(known.chain([membership.node.0]).max().unwrap_or(0) + 1)
}
