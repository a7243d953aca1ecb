//! One node without others, for the unit tests of this crate: a real store in a temporary folder, any [`Peers`].

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_core::catalog::{self, Entry};
use ollamax_store as store;
use ollamax_types::{Clock, ClusterId, Incarnation, NodeId, PeerId, RequestId};

use crate::envelope;
use crate::raft::Payload;
use crate::record::decode_entry;
use crate::{Config, Handle, Identity, Parts, Peers, Service};

pub(crate) const CLUSTER: ClusterId = ClusterId([1; 16]);
pub(crate) const INCARNATION: Incarnation = Incarnation([2; 16]);

/// Small, so that the receiver of a small state makes several files of it.
const SNAPSHOT_CHUNK_BYTES: usize = 128 << 10;

/// A running node; the folder goes last.
pub(crate) struct Alone {
    pub(crate) handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    dir: TempDir,
}

// === impl Alone ===

impl Alone {
    /// A node that waits to be found.
    pub(crate) async fn open(node: u64, config: Config, peers: Arc<dyn Peers>) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let identity = Identity { cluster: CLUSTER, node: NodeId(node), incarnation: INCARNATION };
        Self::open_in(dir, identity, config, peers).await
    }

    /// A node on what lies in a folder.
    pub(crate) async fn open_in(dir: TempDir, identity: Identity, config: Config, peers: Arc<dyn Peers>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let parts = Parts {
            config,
            store: store::Config { snapshot_chunk_bytes: SNAPSHOT_CHUNK_BYTES, ..store::Config::default() },
            identity,
            dir: dir.path().to_owned(),
            clock: Clock::system(),
            peers,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let handle = Service::open(parts).await.expect("opens");
        Self { handle, tasks, stop, dir }
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Node 1, which is the whole cluster.
    pub(crate) async fn cluster_of_one() -> Self {
        let peers = crate::mem::Network::default().peers_of(NodeId(1));
        let alone = Self::open(1, Config::default(), peers).await;
        alone.handle.init_cluster(RequestId::default(), init()).await.expect("a cluster of one");
        alone
    }

    /// The last entry of its log that holds a command.
    pub(crate) fn last_entry(&self) -> Entry {
        let last = self.handle.0.log.state().last.expect("the log holds something");
        let records = self.handle.0.log.read(0..last + 1, usize::MAX).expect("readable");
        let entries = records.into_iter().map(|(index, record)| decode_entry(index, record.into()).expect("decodes"));
        let command = entries.rev().find_map(|entry| match entry.payload {
            Payload::Normal(sealed) => Some(sealed),
            _ => None,
        });
        envelope::decode(&command.expect("a command").0, catalog::CLUSTER_VERSION).expect("decodes")
    }

    /// Stops it as SIGTERM would.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The first command of [`CLUSTER`].
pub(crate) fn init() -> Command {
    Command::InitCluster {
        cluster: CLUSTER,
        name: "lab".into(),
        public_key: [3; 32],
        first: NewMember {
            name: "n1".into(),
            peer_id: PeerId("p1".into()),
            incarnation: INCARNATION,
            peer_addresses: vec![],
            p2p_addresses: vec![],
            api_addresses: vec![],
        },
        version: catalog::CLUSTER_VERSION,
    }
}
