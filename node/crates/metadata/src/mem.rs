//! Members of one process speaking to each other: the in-memory implementation of [`Peers`].
//!
//! Links can be cut (calls fail at once), swallowed (calls never come back) and delayed, each direction by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};

use ollamax_types::NodeId;

use crate::error::ServeError;
use crate::handle::Handle;
use crate::peers::{Lane, PeerError, Peers};

/// What happens to messages from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// They arrive.
    #[default]
    Open,
    /// They are refused at once: nothing listens there.
    Cut,
    /// They vanish: the caller waits until its deadline.
    Swallowed,
    /// They arrive late.
    Delayed(Duration),
}

/// A network of nodes in this process. Clones are the same network.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    nodes: BTreeMap<NodeId, Handle>,
    links: BTreeMap<(NodeId, NodeId), Link>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wires = self.wires();
        f.debug_struct("Network").field("nodes", &wires.nodes.keys()).field("links", &wires.links).finish()
    }
}

// === impl Network ===

impl Network {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one node calls through.
    #[must_use]
    pub fn peers_of(&self, node: NodeId) -> Arc<dyn Peers> {
        Arc::new(Caller { network: self.clone(), from: node })
    }

    /// Lets the others reach a node.
    pub fn plug(&self, handle: Handle) {
        self.wires().nodes.insert(handle.node(), handle);
    }

    /// Takes a node off the network, as if its process had gone.
    pub fn unplug(&self, node: NodeId) {
        self.wires().nodes.remove(&node);
    }

    /// Sets one direction of one link.
    pub fn set(&self, from: NodeId, to: NodeId, link: Link) {
        self.wires().links.insert((from, to), link);
    }

    /// Sets all links of a node, both directions.
    pub fn set_all(&self, node: NodeId, link: Link) {
        let mut wires = self.wires();
        let others: Vec<NodeId> = wires.nodes.keys().copied().filter(|other| *other != node).collect();
        for other in others {
            wires.links.insert((node, other), link);
            wires.links.insert((other, node), link);
        }
    }

    /// Opens every link.
    pub fn heal(&self) {
        self.wires().links.clear();
    }

    /// The receiver, when a message gets there.
    async fn deliver(&self, from: NodeId, to: NodeId) -> Result<Handle, PeerError> {
        let link = self.wires().links.get(&(from, to)).copied().unwrap_or_default();
        match link {
            Link::Open => {}
            Link::Cut => return Err(PeerError::Unreachable("the link is cut".to_owned())),
            Link::Swallowed => std::future::pending().await,
            Link::Delayed(by) => tokio::time::sleep(by).await,
        }
        let found = self.wires().nodes.get(&to).cloned();
        found.ok_or_else(|| PeerError::Unreachable(format!("node {to} is not there")))
    }

    /// The answer, when it gets back.
    async fn bring_back(
        &self,
        from: NodeId,
        to: NodeId,
        answer: Result<Bytes, ServeError>,
    ) -> Result<Bytes, PeerError> {
        let link = self.wires().links.get(&(to, from)).copied().unwrap_or_default();
        match link {
            Link::Open => {}
            Link::Cut => return Err(PeerError::Lost("the link was cut".to_owned())),
            Link::Swallowed => std::future::pending().await,
            Link::Delayed(by) => tokio::time::sleep(by).await,
        }
        answer.map_err(|error| PeerError::Refused { code: error.code(), message: error.to_string() })
    }
}

struct Caller {
    network: Network,
    from: NodeId,
}

impl Peers for Caller {
    fn call(
        &self,
        to: NodeId,
        _lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (network, from) = (self.network.clone(), self.from);
        let call = async move {
            let receiver = network.deliver(from, to).await?;
            let answer = receiver.serve(from, body).await;
            network.bring_back(from, to, answer).await
        };
        Box::pin(async move { tokio::time::timeout(deadline, call).await.unwrap_or(Err(PeerError::TimedOut)) })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, Bytes>,
        deadline_idle: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let (network, from) = (self.network.clone(), self.from);
        Box::pin(async move {
            let late = |_| PeerError::TimedOut;
            let receiver = tokio::time::timeout(deadline_idle, network.deliver(from, to)).await.map_err(late)??;
            let answer = receiver.serve_snapshot(from, chunks.map(Ok).boxed()).await;
            tokio::time::timeout(deadline_idle, network.bring_back(from, to, answer)).await.map_err(late)?
        })
    }
}
