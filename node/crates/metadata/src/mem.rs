//! Members of one process speaking to each other: the in-memory implementation of [`Peers`].
//!
//! Links can be cut (calls fail at once), swallowed (calls never come back) and delayed, each direction by itself. One
//! can break while a snapshot goes over it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

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
    /// Links that break behind so many messages of the next snapshot.
    breaking: BTreeMap<(NodeId, NodeId), usize>,
    /// Messages of each snapshot that was begun, by receiver.
    snapshots: BTreeMap<NodeId, Vec<usize>>,
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

    /// One direction of one link, as it is now.
    #[must_use]
    pub fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.wires().links.get(&(from, to)).copied().unwrap_or_default()
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

    /// Lets a link break behind so many messages of the next snapshot that goes over it; it is cut from then on.
    pub fn break_snapshot(&self, from: NodeId, to: NodeId, messages: usize) {
        self.wires().breaking.insert((from, to), messages);
    }

    /// How many messages went out of each snapshot that a node was sent, in the order in which they began.
    #[must_use]
    pub fn snapshots_sent(&self, to: NodeId) -> Vec<usize> {
        self.wires().snapshots.get(&to).cloned().unwrap_or_default()
    }

    /// A snapshot as it comes out of a link: counted, and broken off where the link breaks.
    fn through(
        &self,
        from: NodeId,
        to: NodeId,
        chunks: BoxStream<'static, Bytes>,
    ) -> BoxStream<'static, Result<Bytes, String>> {
        let mut wires = self.wires();
        let sent = wires.snapshots.entry(to).or_default();
        let number = sent.len();
        sent.push(0);
        let network = self.clone();
        let counted = chunks.map(move |chunk| {
            if let Some(sent) = network.wires().snapshots.get_mut(&to).and_then(|sent| sent.get_mut(number)) {
                *sent += 1;
            }
            Ok(chunk)
        });
        let Some(messages) = wires.breaking.remove(&(from, to)) else { return counted.boxed() };
        let network = self.clone();
        let broken = stream::once(async move {
            network.set(from, to, Link::Cut);
            Err("the link broke".to_owned())
        });
        counted.take(messages).chain(broken).boxed()
    }

    /// Opens every link.
    pub fn heal(&self) {
        self.wires().links.clear();
    }

    /// The receiver, when a message gets there.
    async fn deliver(&self, from: NodeId, to: NodeId) -> Result<Handle, PeerError> {
        match self.link(from, to) {
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
        match self.link(to, from) {
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
            let answer = receiver.serve_snapshot(from, network.through(from, to, chunks)).await;
            tokio::time::timeout(deadline_idle, network.bring_back(from, to, answer)).await.map_err(late)?
        })
    }
}
