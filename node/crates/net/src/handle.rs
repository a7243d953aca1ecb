//! What the rest of the node holds of this door.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Channel;

use ollamax_types::{ClusterId, NodeId, PeerId};

use crate::channels::Channels;
use crate::connections::Connections;
use crate::dial::Dialer;
use crate::discovery::Announcement;
use crate::error::ConnectError;
use crate::metrics::Metrics;
use crate::peer::{Class, Discovered, Local, PeerEntry, Reach, Refuser, Way};
use crate::roster::Roster;
use crate::stream::PeerStream;

/// A cheap handle on the peers' door.
#[derive(Debug, Clone)]
pub struct NetHandle(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) local: Local,
    pub(crate) roster: Arc<Roster>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) announce: watch::Sender<Announcement>,
    pub(crate) discovered: watch::Receiver<Vec<Discovered>>,
    pub(crate) told: watch::Receiver<Vec<String>>,
    pub(crate) reach: watch::Receiver<Reach>,
    pub(crate) metrics: Metrics,
}

// === impl NetHandle ===

impl NetHandle {
    pub(crate) fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Replaces the member table, as the applied catalog has it. Connections of members that have vanished are closed.
    pub fn set_members(&self, members: Vec<PeerEntry>) {
        self.0.roster.set_members(members);
        self.0.channels.forget_departed();
        self.0.dialer.follow_table();
        self.close_departed();
    }

    /// Tells the next free node id of the applied catalog. Only from then on is a key that is not in the table taken
    /// for a member when it shows a credential, and only for this id and above: lower ones have departed.
    pub fn set_next_node_id(&self, next: NodeId) {
        self.0.roster.set_next_node_id(next);
        self.close_departed();
    }

    /// Sets this node's own credential, shown on each connection it opens, and the key that verifies others'.
    pub fn set_credential(&self, credential: Vec<u8>, cluster_public_key: [u8; 32]) {
        self.0.roster.set_credential(credential, cluster_public_key);
    }

    /// Tells discovery which cluster this node belongs to; only nodes that say the same are found from then on.
    pub fn set_cluster(&self, cluster: Option<ClusterId>) {
        self.0.announce.send_if_modified(|announcement| {
            let changed = announcement.cluster != cluster;
            announcement.cluster = cluster;
            changed
        });
    }

    /// Opens an authenticated byte stream to a member. With [`Class::Bulk`] the bytes are the caller's; with any other
    /// class the far end speaks gRPC.
    ///
    /// # Errors
    /// When the node is no member or none of its addresses answers with its key.
    pub async fn connect(&self, to: NodeId, class: Class) -> Result<PeerStream, ConnectError> {
        self.0.dialer.to_node(to, class).await
    }

    /// The gRPC channel to a member for this class. It dials when used and again after a loss; while the node cannot
    /// be reached its calls fail with `unavailable` (see [`crate::was_never_sent`]).
    #[must_use]
    pub fn channel(&self, to: NodeId, class: Class) -> Channel {
        self.0.channels.to_node(to, class)
    }

    /// A gRPC channel to whoever answers at `host:port`, and the key that it proved. Nothing is known about that key;
    /// the caller checks it before anything secret is sent. Later connections of the channel insist on the same key.
    ///
    /// # Errors
    /// When nobody answers there with a node key.
    pub async fn channel_to_address(&self, address: &str) -> Result<(Channel, PeerId), ConnectError> {
        self.0.channels.to_address(address, Class::Forward).await
    }

    /// Dials `host:port` once and checks that this key answers there.
    ///
    /// # Errors
    /// When nobody answers there, or another key does.
    pub async fn probe(&self, address: &str, expected: &PeerId) -> Result<(), ConnectError> {
        self.0.dialer.to_address(address, Some(expected), Class::Forward).await.map(drop)
    }

    /// Has libp2p connect this node with another, at the other's `p2p` addresses, and keep that connection for a while.
    /// Neither need be a member. With no address, keeps a connection that stands, or waits a moment for one that the
    /// other makes: who dials knows of it first.
    ///
    /// # Errors
    /// When lanes are off, or nobody with this key answers there in time.
    pub async fn meet(&self, who: &PeerId, addresses: &[String]) -> Result<(), ConnectError> {
        self.0.dialer.meet(who, addresses).await
    }

    /// Opens a lane once, over a libp2p connection that stands, and checks that this key answers in it.
    ///
    /// # Errors
    /// When lanes are off, no connection stands, or another key answers.
    pub async fn probe_lane(&self, expected: &PeerId) -> Result<(), ConnectError> {
        self.0.dialer.through_lane(expected, Class::Forward).await.map(drop)
    }

    /// What carried the last stream to a member; nothing before there was one.
    #[must_use]
    pub fn way(&self, to: NodeId) -> Option<Way> {
        self.0.dialer.way(to)
    }

    /// How often a better way to a member has been found. What was opened in an older epoch works on; what is opened
    /// now takes the better way.
    #[must_use]
    pub fn epoch(&self, to: NodeId) -> u64 {
        self.0.dialer.epoch(to)
    }

    /// Notes how long an empty question to a member and its answer took. For a node that is no member nothing is noted.
    pub fn note_rtt(&self, to: NodeId, rtt: Duration) {
        self.0.dialer.note_rtt(to, rtt);
    }

    /// The round trip to a member that was noted last.
    #[must_use]
    pub fn rtt(&self, to: NodeId) -> Option<Duration> {
        self.0.dialer.rtt(to)
    }

    /// Whether others can dial this node's `p2p` listener, as it knows at the moment.
    #[must_use]
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.0.reach.clone()
    }

    /// What others shall be told to dial at `p2p`: addresses, and circuits through members that relay for this node.
    #[must_use]
    pub fn p2p_told(&self) -> watch::Receiver<Vec<String>> {
        self.0.told.clone()
    }

    /// The members in the table.
    #[must_use]
    pub fn members(&self) -> Vec<NodeId> {
        self.0.roster.members()
    }

    /// Who refused this node because another process with its key is connected and speaks; the first one stays.
    #[must_use]
    pub fn refused_as_twin(&self) -> watch::Receiver<Option<Refuser>> {
        self.0.dialer.refused_as_twin()
    }

    /// The nodes that discovery knows at the moment.
    #[must_use]
    pub fn discovered(&self) -> watch::Receiver<Vec<Discovered>> {
        self.0.discovered.clone()
    }

    /// This node's own ends.
    #[must_use]
    pub fn local(&self) -> &Local {
        &self.0.local
    }

    /// The counters, to be registered once.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How many connections are open, both ways.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.0.connections.count()
    }

    fn close_departed(&self) {
        let roster = &self.0.roster;
        let closed = self.0.connections.close_where(|live| {
            let is_member = roster.node_of(&live.link).is_some();
            let departed = live.was_member && !is_member;
            live.was_member |= is_member;
            departed
        });
        if closed > 0 {
            tracing::info!(closed, "connections of departed members closed");
        }
    }
}
