//! The `peer` listener: from an incoming TCP connection to an authenticated stream.
//!
//! Handshakes and connections are bounded, and each handshake has a deadline, so neither garbage nor silence can hold
//! the door. Strangers (keys that are no members) have few places and a short stay. A member's key whose other process
//! is connected and speaks is refused. A connection that fails here is counted and dropped; the listener itself ends
//! only when the node stops.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_security::tls::{self, Alpn};
use ollamax_types::{ErrorCode, limits};

use crate::config::PeerConfig;
use crate::connections::{Arrival, Connections, Direction};
use crate::greeting::{self, Answer, Greeting, Reception};
use crate::metrics::Metrics;
use crate::roster::{Link, Roster};
use crate::stream::PeerStream;

/// Connections that the kernel may hold before we accept them.
const BACKLOG: i32 = 1_024;
/// Wait after the system refused to accept a connection (no file descriptors left, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at strangers that have stayed too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Opens a listening socket; `[::]` takes IPv4 too, and falls back to it where IPv6 is switched off.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match open_socket(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && lacks_ipv6(&error) => {
            open_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        opened => opened,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable)
        || error.to_string().contains("not supported")
}

fn open_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts, authenticates and hands on.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) door: Arc<Door>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// What each handshake needs.
#[derive(Debug)]
pub(crate) struct Door {
    config: PeerConfig,
    tls: Arc<ServerConfig>,
    roster: Arc<Roster>,
    connections: Arc<Connections>,
    metrics: Metrics,
    handshake_places: Arc<Semaphore>,
    connection_places: Arc<Semaphore>,
    stranger_places: Arc<Semaphore>,
    /// Cancelled when no stream shall be opened any more.
    closed: CancellationToken,
}

/// Where authenticated streams go.
#[derive(Debug, Clone)]
pub(crate) struct Outlets {
    pub(crate) grpc: mpsc::Sender<PeerStream>,
    pub(crate) bulk: Option<mpsc::Sender<PeerStream>>,
}

// === impl Listener ===

impl Listener {
    /// Accepts connections until the node stops.
    pub(crate) async fn run(self, outlets: Outlets) {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.socket.accept() => match accepted {
                    Ok((tcp, from)) => self.admit(tcp, from, &outlets),
                    Err(error) => {
                        tracing::warn!(%error, "accept a peer's connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = sweep.tick() => self.door.show_out_strangers(),
            }
        }
    }

    fn admit(&self, tcp: TcpStream, from: SocketAddr, outlets: &Outlets) {
        let Ok(handshake) = Arc::clone(&self.door.handshake_places).try_acquire_owned() else {
            return self.door.metrics.refused("handshakes");
        };
        let Ok(connection) = Arc::clone(&self.door.connection_places).try_acquire_owned() else {
            return self.door.metrics.refused("connections");
        };
        let (door, outlets, stop) = (Arc::clone(&self.door), outlets.clone(), self.stop.clone());
        // A failed handshake ends here, counted; when the node stops, an unfinished one is dropped.
        self.tasks.spawn(async move {
            let shaken = stop.run_until_cancelled(door.shake_hands(tcp, from, connection)).await;
            drop(handshake);
            if let Some(Some(stream)) = shaken {
                door.hand_on(stream, &outlets).await;
            }
        });
    }
}

// === impl Door ===

impl Door {
    pub(crate) fn new(
        config: PeerConfig,
        tls: Arc<ServerConfig>,
        roster: Arc<Roster>,
        connections: Arc<Connections>,
        (metrics, closed): (Metrics, CancellationToken),
    ) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            handshake_places: places(config.handshakes_max),
            connection_places: places(config.connections_max),
            stranger_places: places(config.strangers_max),
            config,
            tls,
            roster,
            connections,
            metrics,
            closed,
        }
    }

    async fn shake_hands(&self, tcp: TcpStream, from: SocketAddr, place: OwnedSemaphorePermit) -> Option<PeerStream> {
        match timeout(self.config.handshake_timeout(), self.authenticate(tcp, from, place)).await {
            Ok(Ok(stream)) => {
                self.metrics.handshake("ok");
                stream
            }
            Ok(Err(error)) => {
                self.metrics.handshake("failed");
                tracing::debug!(%from, %error, "handshake with a peer");
                None
            }
            Err(_) => {
                self.metrics.handshake("timed_out");
                tracing::debug!(%from, "handshake with a peer took too long");
                None
            }
        }
    }

    /// `None`: authenticated, but refused, and told so.
    async fn authenticate(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Option<PeerStream>> {
        tcp.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(limits::TCP_KEEPALIVE_IDLE);
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive.with_interval(limits::TCP_KEEPALIVE_INTERVAL))?;
        let mut io = TlsAcceptor::from(Arc::clone(&self.tls)).accept(tcp).await?;
        let session = io.get_ref().1;
        let peer_id = tls::proved_peer(session.peer_certificates()).map_err(io::Error::other)?;
        let alpn = session.alpn_protocol().and_then(Alpn::from_bytes);
        let greeting = greeting::read(&mut io).await?;
        if alpn != Some(greeting.class.alpn()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "greeting and TLS protocol do not agree"));
        }
        let vouched = self.roster.vouched(&greeting.credential, &peer_id);
        let link = Link { peer_id, vouched };
        let node = self.roster.node_of(&link);
        let mut places = vec![place];
        if let Some(node) = node {
            let window = self.config.twin_window();
            if self.connections.outlast_twins(&link.peer_id, greeting.boot, window).await.is_err() {
                tracing::warn!(
                    code = %ErrorCode::IdentityConflict, peer = %node, %from,
                    "refused a second process with a member's identity; its data directory is a copy"
                );
                return self.refuse(io, Reception::Twin, "twin").await;
            }
        } else if let Ok(stranger) = Arc::clone(&self.stranger_places).try_acquire_owned() {
            places.push(stranger);
        } else {
            return self.refuse(io, Reception::Full, "strangers").await;
        }
        self.answer(&mut io, Reception::Welcome).await?;
        let Greeting { class, boot, .. } = greeting;
        let (direction, is_member) = (Direction::In, node.is_some());
        let entered = self.connections.enter(Arrival { link: link.clone(), boot, direction, class, is_member });
        if self.closed.is_cancelled() {
            entered.close.cancel();
        }
        Ok(Some(PeerStream::new(io.into(), link, class, entered, places)))
    }

    async fn answer(&self, io: &mut TlsStream<TcpStream>, reception: Reception) -> io::Result<()> {
        let answer = Answer { reception, boot: self.connections.boot() };
        io.write_all(&greeting::encode_answer(answer)).await?;
        io.flush().await
    }

    async fn refuse(
        &self,
        mut io: TlsStream<TcpStream>,
        reception: Reception,
        reason: &'static str,
    ) -> io::Result<Option<PeerStream>> {
        self.metrics.refused(reason);
        self.answer(&mut io, reception).await?;
        io.shutdown().await?;
        Ok(None)
    }

    async fn hand_on(&self, stream: PeerStream, outlets: &Outlets) {
        let outlet = match (stream.class().alpn(), &outlets.bulk) {
            (Alpn::Grpc, _) => &outlets.grpc,
            (Alpn::Bulk, Some(bulk)) if self.roster.node_of(stream.link()).is_some() => bulk,
            (Alpn::Bulk, _) => return self.metrics.refused("not_member"),
        };
        // The receiver is gone only when the node stops; then the stream is dropped, which closes it.
        if outlet.send(stream).await.is_err() {
            tracing::debug!("a peer's connection came while the node stops");
        }
    }

    /// Closes the connections of strangers that have stayed too long; notes who has become a member.
    fn show_out_strangers(&self) {
        let lifetime = self.config.stranger_lifetime();
        let closed = self.connections.close_where(|live| {
            live.was_member |= self.roster.node_of(&live.link).is_some();
            live.direction == Direction::In && !live.was_member && live.since.elapsed() >= lifetime
        });
        if closed > 0 {
            tracing::debug!(closed, "connections of strangers closed");
        }
    }
}
