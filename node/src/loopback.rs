//! For tests: a real door on loopback, with a join service that says what it was told to say.

use std::net::{Ipv4Addr, SocketAddr};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use ollamax_net::{NetHandle, NetService, PeerEntry};
use ollamax_proto::v1;
use ollamax_proto::v1::join_server::{Join, JoinServer};
use ollamax_security::NodeKey;
use ollamax_types::{NodeId, PeerId};

/// What the service says, whoever asks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words {
    /// `None`: it never answers.
    pub(crate) hello: Option<v1::HelloReply>,
    pub(crate) standing: v1::StandingReply,
}

#[tonic::async_trait]
impl Join for Words {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Result<Response<v1::HelloReply>, Status> {
        match &self.hello {
            Some(hello) => Ok(Response::new(hello.clone())),
            None => std::future::pending().await,
        }
    }

    async fn join(&self, _: Request<v1::JoinClusterRequest>) -> Result<Response<v1::JoinClusterReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn reach_back(&self, _: Request<v1::ReachBackRequest>) -> Result<Response<v1::ReachBackReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn standing(&self, _: Request<v1::StandingRequest>) -> Result<Response<v1::StandingReply>, Status> {
        Ok(Response::new(self.standing.clone()))
    }
}

/// The door of one node; closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) key: NodeKey,
    pub(crate) net: NetHandle,
    stop: CancellationToken,
}

// === impl Door ===

impl Door {
    pub(crate) async fn open(key: NodeKey, words: Words) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = ollamax_net::Config::default();
        (config.peer.listen, config.p2p.listen, config.p2p.mdns) = (any, any, false);
        // These tests are about what is dialled.
        config.p2p.lanes = false;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let bound = NetService::bind(config, key.clone(), tasks.clone(), stop.clone()).await;
        let (service, net) = bound.expect("the door opens");
        let routes = Routes::new(JoinServer::new(words));
        tasks.spawn(async move { Box::pin(service.serve(routes.clone(), routes)).await });
        Self { key, net, stop }
    }

    pub(crate) fn address(&self) -> String {
        self.net.local().advertise[0].clone()
    }

    /// Its row in a member table, under any key.
    pub(crate) fn entry(&self, node: u64, key: &PeerId) -> PeerEntry {
        let (addresses, p2p_addresses) = (vec![self.address()], Vec::new());
        PeerEntry { node: NodeId(node), peer_id: key.clone(), addresses, p2p_addresses }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn new_key() -> NodeKey {
    NodeKey::ephemeral().expect("the system gives random bytes")
}
