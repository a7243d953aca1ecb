//! For tests: a cluster of one member, with its consensus on a real disk and its scheduler.

use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::{Answer, Command, NewMember};
use ollamax_metadata as metadata;
use ollamax_scheduler as scheduler;
use ollamax_scheduler::mem::{MemPlacements, MemRemote, MemRuntime};
use ollamax_scheduler::{Machine, RuntimeReport};
use ollamax_types::{Applies, Clock, ClusterId, Incarnation, NodeId, PeerId, RequestId, RuntimeState};

/// The member.
pub(crate) const NODE: NodeId = NodeId(1);

/// The folder goes last.
pub(crate) struct World {
    pub(crate) metadata: metadata::Handle,
    pub(crate) scheduler: scheduler::Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    _folder: TempDir,
}

// === impl World ===

impl World {
    pub(crate) async fn start(version: u32) -> Self {
        let (folder, tasks, stop) = (tempfile::tempdir().expect("temp"), TaskTracker::new(), CancellationToken::new());
        let identity =
            metadata::Identity { cluster: ClusterId([1; 16]), node: NODE, incarnation: Incarnation([2; 16]) };
        let first = NewMember {
            name: "n1".to_owned(),
            peer_id: PeerId("p1".to_owned()),
            incarnation: identity.incarnation,
            peer_addresses: vec![],
            p2p_addresses: vec![],
            api_addresses: vec![],
        };
        let (cluster, name) = (identity.cluster, "lab".to_owned());
        let init = Command::InitCluster { cluster, name, public_key: [3; 32], first, version };
        let metadata = metadata::Service::open(metadata::Parts {
            // Else it would raise the version by itself.
            config: metadata::Config { version_max: version, ..metadata::Config::default() },
            store: ollamax_store::Config::default(),
            identity,
            dir: folder.path().to_owned(),
            clock: Clock::system(),
            peers: metadata::mem::Network::default().peers_of(NODE),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let metadata = metadata.await.expect("opens");
        metadata.init_cluster(RequestId::default(), init).await.expect("a cluster of one");
        let parts = scheduler::Parts {
            node: NODE,
            clock: Clock::system(),
            daemon_version: "0".to_owned(),
            applies: Applies::default(),
            seed: 1,
            runtime: Arc::new(MemRuntime::default()),
            remote: Arc::new(MemRemote::default()),
            placements: Arc::new(MemPlacements::default()),
            metrics: scheduler::Metrics::default(),
        };
        let scheduler = scheduler::Handle::start(scheduler::Config::default(), parts, &tasks, stop.clone());
        Self { metadata, scheduler, tasks, stop, _folder: folder }
    }

    /// Makes a change that is taken.
    pub(crate) async fn change(&self, command: Command) -> Answer {
        let changed = self.metadata.propose(RequestId::default(), "test", command).await;
        changed.and_then(metadata::Committed::accepted).expect("accepted").answer
    }

    /// The runtime answers from now on, and there is so much room for models.
    pub(crate) fn let_models_in(&self, free_bytes: u64) {
        self.scheduler.set_runtime(RuntimeReport { state: RuntimeState::Up, ..RuntimeReport::default() });
        self.scheduler.set_machine(Machine { models_free_bytes: Some(free_bytes), ..Machine::default() });
    }

    pub(crate) async fn finish(self) {
        self.metadata.shutdown().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
