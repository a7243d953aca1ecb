//! Nodes with real sockets and services that answer with what they saw.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use ollamax_net::{BulkSender, Caller, Class, Config, NetHandle, NetService, PeerEntry};
use ollamax_proto::v1;
use ollamax_proto::v1::join_server::{Join, JoinServer};
use ollamax_proto::v1::liveness_server::{Liveness, LivenessServer};
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_proto::v1::raft_server::{Raft, RaftServer};
use ollamax_security::{ClusterKey, Credential, NodeKey};
use ollamax_types::{ClusterId, Incarnation, NodeId, PeerId, Role};

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// Numbers for tests: everything on loopback, short patience, TCP alone.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    config.peer.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.peer.handshake_timeout_ms = 5_000;
    config.peer.drain_ms = 200;
    config.p2p.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.p2p.mdns = false;
    config.p2p.lanes = false;
    config
}

/// Numbers for tests of lanes: what is looked for again is looked for soon.
pub(crate) fn lane_config() -> Config {
    let mut config = config();
    config.p2p.lanes = true;
    config.p2p.refresh_ms = 500;
    config.p2p.direct_again_ms = 500;
    config.p2p.ping_interval_ms = 500;
    config
}

/// As `lane_config`, for a node that tells nobody where its `peer` listener is: what it tells is a closed port.
pub(crate) fn hidden_config() -> Config {
    let mut config = lane_config();
    config.peer.advertise = vec![closed_port()];
    config
}

/// An address at which nobody listens.
pub(crate) fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

/// Looks again at short intervals until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        while !is_so() {
            look.tick().await;
        }
    };
    assert!(tokio::time::timeout(LONG, looking).await.is_ok(), "not in time: {what}");
}

/// A running door.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: NodeKey,
    pub(crate) handle: NetHandle,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Node {
    pub(crate) async fn start(id: u64) -> Self {
        Self::start_with(id, new_key(), config(), None).await
    }

    pub(crate) async fn start_with(id: u64, key: NodeKey, config: Config, bulk: Option<BulkSender>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bound = NetService::bind(config, key.clone(), tasks.clone(), stop.clone()).await;
        let (service, handle) = bound.expect("the door opens");
        let service = match bulk {
            Some(bulk) => service.with_bulk(bulk),
            None => service,
        };
        let strangers = Routes::new(JoinServer::new(Seen));
        let members = strangers.clone().add_service(RaftServer::new(Seen)).add_service(LivenessServer::new(Seen));
        tasks.spawn(
            async move { Box::pin(service.serve(members, strangers)).await.expect("the door has a certificate") },
        );
        Self { id: NodeId(id), key, handle, tasks, stop }
    }

    pub(crate) fn peer_id(&self) -> &PeerId {
        self.key.peer_id()
    }

    pub(crate) fn address(&self) -> String {
        self.handle.local().advertise[0].clone()
    }

    pub(crate) fn entry(&self) -> PeerEntry {
        let p2p_addresses = self.handle.local().p2p_advertise.clone();
        PeerEntry { node: self.id, peer_id: self.peer_id().clone(), addresses: vec![self.address()], p2p_addresses }
    }

    /// As a member that tells nothing by which it could be dialled.
    pub(crate) fn hidden_entry(&self) -> PeerEntry {
        PeerEntry { addresses: Vec::new(), p2p_addresses: Vec::new(), ..self.entry() }
    }

    pub(crate) fn raft(&self, to: &Self) -> RaftClient<tonic::transport::Channel> {
        RaftClient::new(self.handle.channel(to.id, Class::Raft))
    }

    /// Ends the node and waits until nothing of it runs.
    pub(crate) async fn shut_down(&self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(LONG, self.tasks.wait()).await.expect("every task ends");
    }
}

pub(crate) fn new_key() -> NodeKey {
    NodeKey::ephemeral().expect("the system gives random bytes")
}

/// Nodes 1, 2, … that all know each other.
pub(crate) async fn members(count: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    for id in 1..=count {
        nodes.push(Node::start(id).await);
    }
    introduce(&nodes);
    nodes
}

pub(crate) fn introduce(nodes: &[Node]) {
    let table: Vec<PeerEntry> = nodes.iter().map(Node::entry).collect();
    nodes.iter().for_each(|node| node.handle.set_members(table.clone()));
}

pub(crate) fn credential(node: u64, holder: &PeerId, key: &ClusterKey) -> Vec<u8> {
    let credential = Credential {
        cluster: ClusterId([1; 16]),
        node: NodeId(node),
        peer_id: holder.clone(),
        role: Role::Voter,
        incarnation: Incarnation([2; 16]),
    };
    credential.sign(key).expect("the holder has a node's key")
}

/// Answers with what it saw of the caller.
#[derive(Debug, Clone)]
struct Seen;

fn caller<T>(request: &Request<T>) -> Caller {
    request.extensions().get::<Caller>().cloned().expect("the door says who calls")
}

#[tonic::async_trait]
impl Raft for Seen {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<v1::RaftAnswer, Status>> + Send>>;

    async fn exchange(&self, _: Request<Streaming<v1::RaftCall>>) -> Result<Response<Self::ExchangeStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn call(&self, request: Request<v1::RaftMessage>) -> Result<Response<v1::RaftMessage>, Status> {
        let from = caller(&request).node.map_or(0, |node| node.0);
        Ok(Response::new(v1::RaftMessage { from, ..request.into_inner() }))
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<v1::RaftMessage>>,
    ) -> Result<Response<v1::RaftMessage>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

#[tonic::async_trait]
impl Liveness for Seen {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::Beat, Status>> + Send>>;

    /// One frame, and then silence without end.
    async fn watch(&self, _: Request<v1::WatchBeatsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = v1::Beat { sequence: 1, ..v1::Beat::default() };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(tokio_stream::pending()))))
    }

    async fn echo(&self, _: Request<v1::EchoRequest>) -> Result<Response<v1::EchoReply>, Status> {
        Ok(Response::new(v1::EchoReply {}))
    }
}

#[tonic::async_trait]
impl Join for Seen {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        let caller = caller(&request);
        let cluster_name = format!("{} {:?}", caller.peer_id, caller.node);
        Ok(Response::new(v1::HelloReply { cluster_name, ..v1::HelloReply::default() }))
    }

    async fn join(&self, _: Request<v1::JoinClusterRequest>) -> Result<Response<v1::JoinClusterReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn reach_back(&self, _: Request<v1::ReachBackRequest>) -> Result<Response<v1::ReachBackReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    /// Says whom the credential names, and whether the caller is a member now.
    async fn standing(&self, request: Request<v1::StandingRequest>) -> Result<Response<v1::StandingReply>, Status> {
        let Caller { node, vouched, .. } = caller(&request);
        let node_id = vouched.ok_or_else(|| Status::permission_denied("no credential of this cluster"))?.0;
        Ok(Response::new(v1::StandingReply { node_id, departed: node.is_none(), ..v1::StandingReply::default() }))
    }
}
