//! A small cluster with switches: nodes can be opened, stopped, cut off and brought back.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::command::{Command, NewMember};
use ollamax_core::catalog::{Answer, CLUSTER_VERSION, Key, Record};
use ollamax_metadata::mem::Network;
use ollamax_metadata::{Committed, Config, Handle, Identity, Parts, Service};
use ollamax_types::{Clock, ClusterId, Incarnation, NodeId, PeerId, RequestId, Role, TokenId};

pub(crate) const CLUSTER: ClusterId = ClusterId([9; 16]);
/// What a busy machine with two cores may need for anything that normally takes a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Running {
    pub(crate) handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
}

pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) config: Config,
    /// The store's numbers, for nodes that are opened from now on.
    pub(crate) store: ollamax_store::Config,
    pub(crate) nodes: BTreeMap<u64, Running>,
    /// Bytes that a node keeps free on its disk from its next opening on; a default for those that are not named.
    pub(crate) reserves: BTreeMap<u64, u64>,
    dirs: BTreeMap<u64, TempDir>,
}

fn incarnation(node: u64) -> Incarnation {
    Incarnation([u8::try_from(node).expect("few nodes"); 16])
}

fn new_member(node: u64) -> NewMember {
    NewMember {
        name: format!("n{node}"),
        peer_id: PeerId(format!("peer-{node}")),
        incarnation: incarnation(node),
        peer_addresses: vec![format!("10.0.0.{node}:11436")],
        p2p_addresses: vec![],
        api_addresses: vec![],
    }
}

pub(crate) fn setting(key: &str, value: &str) -> Command {
    Command::SetSetting { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let (nodes, reserves, dirs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let store = ollamax_store::Config::default();
        Self { network: Network::default(), config, store, nodes, reserves, dirs }
    }

    /// One node that is a cluster.
    pub(crate) async fn one() -> Self {
        Self::one_with(Config::default()).await
    }

    pub(crate) async fn one_with(config: Config) -> Self {
        Self::new(config).with_first().await
    }

    /// Opens the first node, which makes a cluster of itself.
    pub(crate) async fn with_first(self) -> Self {
        let mut world = self;
        world.open(1).await;
        let command = Command::InitCluster {
            cluster: CLUSTER,
            name: "lab".into(),
            public_key: [1; 32],
            first: new_member(1),
            version: CLUSTER_VERSION,
        };
        let handle = world.handle(1);
        let committed = eventually("init", || handle.init_cluster(RequestId::default(), command.clone())).await;
        assert_eq!(committed.answer, Answer::Member { node: NodeId(1), name: "n1".into(), already: false });
        world
    }

    /// Three voters.
    pub(crate) async fn three() -> Self {
        Self::three_with(Config::default()).await
    }

    pub(crate) async fn three_with(config: Config) -> Self {
        let mut world = Self::one_with(config).await;
        for node in 2..=3 {
            world.join(node, Role::Voter).await;
        }
        for node in 1..=3 {
            let settled = |status: &ollamax_metadata::Status| status.voters.len() == 3 && !status.voters_changing;
            world.wait(node, "three voters", |status| settled(status) && status.has_quorum).await;
        }
        world
    }

    pub(crate) async fn open(&mut self, node: u64) {
        let dir = self.dirs.entry(node).or_insert_with(|| tempfile::tempdir().expect("folder"));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut store = self.store.clone();
        store.reserve_bytes = self.reserves.get(&node).copied().unwrap_or(store.reserve_bytes);
        let parts = Parts {
            config: self.config.clone(),
            store,
            identity: Identity { cluster: CLUSTER, node: NodeId(node), incarnation: incarnation(node) },
            dir: dir.path().to_owned(),
            clock: Clock::system(),
            peers: self.network.peers_of(NodeId(node)),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let handle = Service::open(parts).await.expect("opens");
        self.network.plug(handle.clone());
        self.nodes.insert(node, Running { handle, tasks, stop });
    }

    /// Stops a node as SIGTERM would.
    pub(crate) async fn close(&mut self, node: u64) {
        let running = self.nodes.remove(&node).expect("it runs");
        running.stop.cancel();
        running.tasks.close();
        running.tasks.wait().await;
        self.network.unplug(NodeId(node));
    }

    /// A new member: on record first, then its empty node.
    pub(crate) async fn join(&mut self, node: u64, role: Role) {
        let token = TokenId(format!("t{node}"));
        let create =
            Command::CreateToken { id: token.clone(), secret_sha256: [5; 32], role, uses: 1, ttl_ms: 3_600_000 };
        let add = Command::AddMember { token, secret_sha256: [5; 32], role, member: new_member(node) };
        self.propose(1, create).await;
        let answer = self.propose(1, add).await.answer;
        assert_eq!(answer, Answer::Member { node: NodeId(node), name: format!("n{node}"), already: false });
        self.open(node).await;
    }

    /// Where a node's data lies.
    pub(crate) fn dir(&self, node: u64) -> &Path {
        self.dirs[&node].path()
    }

    pub(crate) fn handle(&self, node: u64) -> Handle {
        self.nodes[&node].handle.clone()
    }

    /// Proposes until it is accepted; only for commands that may be repeated.
    pub(crate) async fn propose(&self, node: u64, command: Command) -> Committed {
        let handle = self.handle(node);
        eventually("propose", || {
            let (handle, command) = (handle.clone(), command.clone());
            async move { handle.propose(RequestId::default(), "test", command).await?.accepted() }
        })
        .await
    }

    pub(crate) async fn wait(&self, node: u64, what: &str, mut holds: impl FnMut(&ollamax_metadata::Status) -> bool) {
        let handle = self.handle(node);
        let until = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(LOOK);
        loop {
            let status = handle.status();
            if holds(&status) {
                return;
            }
            assert!(Instant::now() < until, "node {node}: {what}: {status:?}");
            look.tick().await;
        }
    }

    /// The leader that a majority of the given nodes agrees on.
    pub(crate) async fn leader_among(&self, nodes: &[u64]) -> u64 {
        let until = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(LOOK);
        loop {
            let seen: Vec<_> = nodes.iter().map(|node| self.handle(*node).status()).collect();
            let leader = seen.iter().find(|status| status.leader == Some(status.node) && status.has_quorum);
            if let Some(leader) = leader.filter(|leader| nodes.contains(&leader.node.0)) {
                return leader.node.0;
            }
            assert!(Instant::now() < until, "no leader among {nodes:?}: {seen:?}");
            look.tick().await;
        }
    }

    pub(crate) fn read(&self, node: u64, key: &str) -> Option<String> {
        match self.handle(node).view().get(&Key::Setting(key.to_owned())).expect("readable") {
            Some(Record::Setting(setting)) => Some(String::from_utf8(setting.value).expect("text")),
            _ => None,
        }
    }
}

/// Repeats until it succeeds.
pub(crate) async fn eventually<T, E, F, A>(what: &str, mut attempt: A) -> T
where
    A: FnMut() -> F,
    F: Future<Output = Result<T, E>>,
    E: std::fmt::Debug,
{
    let until = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(LOOK);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "{what}: {error:?}"),
        }
        look.tick().await;
    }
}
