//! The door as a whole: opens both listeners, serves, and closes in order.
//!
//! `bind` opens the sockets, so that a taken port is known before anything else starts. `serve` runs until the node
//! stops: then no connection is taken any more, open ones may finish their streams for a bounded time, and what is left
//! is closed. Lanes need the `p2p` part, so it refuses what is new from the stop on and ends with the last stream. When
//! it ends by a fault, that is told, and TCP goes on. When `serve` returns nothing of this door runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use ollamax_security::NodeKey;
use ollamax_security::tls::{self, Alpn};
use ollamax_types::{ErrorCode, PeerId};

use crate::advertise;
use crate::channels::{Channels, Tracked};
use crate::config::{Config, P2pConfig, PeerConfig};
use crate::connections::Connections;
use crate::dial::{Dialer, Surroundings};
use crate::discovery::{Announcement, Discovery, Wires};
use crate::door::{Door, Outlets};
use crate::error::BindError;
use crate::handle::{Inner, NetHandle};
use crate::lanes::{Incoming, LANES_WAITING_MAX, Lanes};
use crate::listener::{self, Listener};
use crate::membership::ByMembership;
use crate::metrics::Metrics;
use crate::peer::{Discovered, Local, Reach, Way};
use crate::roster::Roster;
use crate::stream::PeerStream;
use crate::twins::Boot;
use crate::upgrade::Upgrade;

/// Authenticated connections that wait for the gRPC server to take them.
const HANDED_ON_MAX: usize = 64;
/// Streams that a peer may open and cancel before the server has looked at them. A node whose many clients leave at
/// once cancels as many streams; members are trusted not to do so for harm.
const PENDING_RESETS_MAX: usize = 4_096;
/// Better ways that libp2p has found and nobody has looked at yet.
const BETTER_WAITING_MAX: usize = 64;
/// Largest header list of a request between nodes, bytes.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Where authenticated bulk streams of members go.
pub type BulkSender = mpsc::Sender<PeerStream>;

/// The loops behind a [`NetHandle`].
#[derive(Debug)]
pub struct NetService {
    config: PeerConfig,
    key: NodeKey,
    socket: tokio::net::TcpListener,
    /// Lanes that other nodes have opened.
    lanes: mpsc::Receiver<Incoming>,
    discovery: Discovery,
    /// Of what the `p2p` part draws by chance.
    seed: u64,
    upgrade: Upgrade,
    /// Members that libp2p is connected with in a better way.
    better: mpsc::Receiver<(PeerId, Way)>,
    roster: Arc<Roster>,
    connections: Arc<Connections>,
    metrics: Metrics,
    bulk: Option<BulkSender>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Closes every stream for good.
    closed: CancellationToken,
    _close_when_dropped: DropGuard,
}

/// The `p2p` part, and what the rest of the door has of it.
struct P2p {
    discovery: Discovery,
    /// Nothing where lanes are off.
    lanes: Option<Lanes>,
    incoming: mpsc::Receiver<Incoming>,
    better: mpsc::Receiver<(PeerId, Way)>,
    announce: watch::Sender<Announcement>,
    discovered: watch::Receiver<Vec<Discovered>>,
    told: watch::Receiver<Vec<String>>,
    reach: watch::Receiver<Reach>,
}

// === impl NetService ===

impl NetService {
    /// Opens the `peer` and the `p2p` listener. Nothing is served before [`NetService::serve`].
    ///
    /// # Errors
    /// When a port is taken, an address to advertise is malformed, the TLS certificate cannot be made, or the system
    /// gives no random bytes.
    pub async fn bind(
        config: Config,
        key: NodeKey,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Self, NetHandle), BindError> {
        tls::install_crypto_provider();
        let Config { peer: config, p2p } = config;
        let address = config.listen;
        let at_peer = |source| BindError::Peer { address, source };
        let socket = listener::bind(address).map_err(at_peer)?;
        let bound = socket.local_addr().map_err(at_peer)?;
        let advertise = advertise::addresses(&config.advertise, bound)?;

        let (closed, metrics, roster) = (CancellationToken::new(), Metrics::new(), Arc::new(Roster::default()));
        let boot = Boot(ollamax_security::random_bytes()?);
        let seed = u64::from_le_bytes(ollamax_security::random_bytes()?);
        let connections = Arc::new(Connections::new(boot, metrics.clone()));
        let every = Duration::from_millis(p2p.direct_again_ms);
        let shared = (Arc::clone(&roster), metrics.clone());
        let p2p = P2p::open(p2p, &key, &advertise, shared, &tasks).await?;

        let around = Surroundings {
            lanes: p2p.lanes,
            roster: Arc::clone(&roster),
            connections: Arc::clone(&connections),
            metrics: metrics.clone(),
            closed: closed.clone(),
        };
        let dialer = Arc::new(Dialer::new(config.clone(), &key, around)?);
        let executor = Tracked { tasks: tasks.clone(), closed: closed.clone() };
        let channels = Arc::new(Channels::new(&config, Arc::clone(&dialer), Arc::clone(&roster), executor));
        let upgrade = Upgrade {
            dialer: Arc::clone(&dialer),
            channels: Arc::clone(&channels),
            roster: Arc::clone(&roster),
            every,
        };
        let local = Local {
            peer_id: key.peer_id().clone(),
            peer: bound,
            peer_port: bound.port(),
            p2p_addresses: p2p.discovery.addresses().to_vec(),
            advertise,
            p2p_advertise: p2p.discovery.advertised().to_vec(),
        };
        let handle = NetHandle::new(Inner {
            local,
            roster: Arc::clone(&roster),
            connections: Arc::clone(&connections),
            dialer,
            channels,
            announce: p2p.announce,
            discovered: p2p.discovered,
            told: p2p.told,
            reach: p2p.reach,
            metrics: metrics.clone(),
        });
        let service = Self {
            config,
            key,
            socket,
            lanes: p2p.incoming,
            discovery: p2p.discovery,
            seed,
            upgrade,
            better: p2p.better,
            roster,
            connections,
            metrics,
            bulk: None,
            tasks,
            stop,
            _close_when_dropped: closed.clone().drop_guard(),
            closed,
        };
        Ok((service, handle))
    }

    /// Takes bulk connections of members and hands them to `bulk`. Without this the listener does not offer that
    /// protocol.
    #[must_use]
    pub fn with_bulk(mut self, bulk: BulkSender) -> Self {
        self.bulk = Some(bulk);
        self
    }

    /// Serves until the node stops and its connections are closed. A key that is a member reaches `members`, any
    /// other key reaches `strangers`.
    ///
    /// # Errors
    /// When the TLS certificate cannot be made.
    pub async fn serve(self, members: Routes, strangers: Routes) -> Result<(), tls::TlsError> {
        let offered: &[Alpn] = if self.bulk.is_some() { &[Alpn::Grpc, Alpn::Bulk] } else { &[Alpn::Grpc] };
        let tls = tls::server_config(&self.key, offered)?;
        let ends = (self.metrics.clone(), self.closed.clone());
        let (roster, connections) = (Arc::clone(&self.roster), Arc::clone(&self.connections));
        let door = Arc::new(Door::new(self.config.clone(), tls, roster, connections, ends));
        let (grpc, streams) = mpsc::channel(HANDED_ON_MAX);
        let outlets = Outlets { grpc, bulk: self.bulk.clone() };
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let listener = Listener { socket: self.socket, lanes: self.lanes, door, tasks, stop };
        // These end when the node stops; neither can fail.
        self.tasks.spawn(listener.run(outlets));
        self.tasks.spawn(self.upgrade.run(self.better, self.stop.clone()));
        // This one ends when the door is closed. A fault in it is told by the second task.
        let p2p = self.tasks.spawn(self.discovery.run(self.seed, self.stop.clone(), self.closed.clone()));
        self.tasks.spawn(tell_of_fault(p2p));

        let service = ByMembership {
            members: members.prepare(),
            strangers: strangers.prepare(),
            roster: self.roster,
            stranger_places: Arc::new(Semaphore::new(self.config.strangers_max)),
            metrics: self.metrics,
        };
        let incoming = ReceiverStream::new(streams).map(Ok::<_, std::io::Error>);
        let stopping = self.stop.clone();
        let serving = server(&self.config).serve_with_incoming_shutdown(service, incoming, stopping.cancelled());
        let mut serving = pin!(serving);
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = close_after(&self.stop, &self.config, &self.connections) => {
                self.closed.cancel();
                serving.await
            }
        };
        if let Err(error) = ended {
            let error = &error as &dyn std::error::Error;
            tracing::error!(code = %ErrorCode::Internal, error, "serve peers");
        }
        self.closed.cancel();
        self.connections.close_where(|_| true);
        Ok(())
    }
}

// === impl P2p ===

impl P2p {
    /// Opens its listener.
    async fn open(
        config: P2pConfig,
        key: &NodeKey,
        advertise: &[String],
        (roster, metrics): (Arc<Roster>, Metrics),
        tasks: &TaskTracker,
    ) -> Result<Self, BindError> {
        let (announce, announced) = watch::channel(Announcement::new(advertise));
        let (found, discovered) = watch::channel(Vec::new());
        let (tell, told) = watch::channel(Vec::new());
        let (reached, reach) = watch::channel(Reach::default());
        let (lanes, asks) = Lanes::channel();
        let (came, incoming) = mpsc::channel(LANES_WAITING_MAX);
        let (found_better, better) = mpsc::channel(BETTER_WAITING_MAX);
        let lanes = config.lanes.then_some(lanes);
        let wires = Wires {
            announced,
            found,
            asks,
            incoming: came,
            better: found_better,
            told: tell,
            reach: reached,
            roster,
            metrics,
        };
        let discovery = Discovery::bind(config, key, advertise, wires, tasks).await?;
        Ok(Self { discovery, lanes, incoming, better, announce, discovered, told, reach })
    }
}

/// Without the `p2p` part the node goes on, with TCP alone.
async fn tell_of_fault(p2p: JoinHandle<()>) {
    if let Err(error) = p2p.await {
        tracing::error!(
            code = %ErrorCode::Internal, %error,
            "the p2p part stopped; nodes behind NAT are not reached until ollamax-node restarts"
        );
    }
}

/// Waits for the stop and then as long as streams may finish; then closes what is left.
async fn close_after(stop: &CancellationToken, config: &PeerConfig, connections: &Connections) {
    stop.cancelled().await;
    let never = std::future::pending::<()>();
    let _elapsed = timeout(config.drain(), never).await;
    let left = connections.close_where(|_| true);
    if left > 0 {
        tracing::info!(connections = left, "closed with streams that had not finished");
    }
}

fn server(config: &PeerConfig) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(config.ping_interval()))
        .http2_keepalive_timeout(Some(config.ping_timeout()))
        .initial_stream_window_size(config.stream_window_bytes)
        .initial_connection_window_size(config.connection_window_bytes)
        .max_concurrent_streams(config.streams_max)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
}
