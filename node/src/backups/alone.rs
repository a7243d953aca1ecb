//! One node that is a cluster, for the unit tests of backups: a real store in a temporary folder, no peers.

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::CLUSTER_VERSION;
use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_metadata as metadata;
use ollamax_store as store;
use ollamax_types::{Clock, ClusterId, Incarnation, NodeId, PeerId, RequestId};

/// A running node; the folder goes last.
pub(crate) struct Alone {
    pub(crate) handle: metadata::Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    _dir: TempDir,
}

// === impl Alone ===

impl Alone {
    /// A cluster named `lab`.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (cluster, incarnation) = (ClusterId([1; 16]), Incarnation([2; 16]));
        let parts = metadata::Parts {
            config: metadata::Config::default(),
            store: store::Config::default(),
            identity: metadata::Identity { cluster, node: NodeId(1), incarnation },
            dir: dir.path().to_owned(),
            clock: Clock::system(),
            peers: metadata::mem::Network::default().peers_of(NodeId(1)),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let handle = metadata::Service::open(parts).await.expect("opens");
        let first = NewMember {
            name: "n1".to_owned(),
            peer_id: PeerId("p1".to_owned()),
            incarnation,
            peer_addresses: vec![],
            p2p_addresses: vec![],
            api_addresses: vec![],
        };
        let (name, public_key) = ("lab".to_owned(), [3; 32]);
        let command = Command::InitCluster { cluster, name, public_key, first, version: CLUSTER_VERSION };
        handle.init_cluster(RequestId::default(), command).await.expect("a cluster of one");
        Self { handle, tasks, stop, _dir: dir }
    }

    /// Stops it as SIGTERM would.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
