//! The door: from an incoming connection, whatever carries it, to an authenticated stream.
//!
//! Handshakes and connections are bounded, and each handshake has a deadline, so neither garbage nor silence can hold
//! the door. Strangers (keys that are no members) have few places and a short stay. A member's key whose other process
//! is connected and speaks is refused. Over a lane everything is as over TCP: what libp2p has proved beneath it counts
//! for nothing here. A connection that fails is counted and dropped.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use ollamax_security::tls::{self, Alpn};
use ollamax_types::ErrorCode;

use crate::config::PeerConfig;
use crate::connections::{Arrival, Connections, Direction};
use crate::greeting::{self, Answer, Greeting, Reception};
use crate::metrics::Metrics;
use crate::peer::Way;
use crate::roster::{Link, Roster};
use crate::stream::{Carrier, PeerStream};

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

    /// One place for the handshake and one for the connection; `None`, and counted, when there is none.
    pub(crate) fn places(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let Ok(handshake) = Arc::clone(&self.handshake_places).try_acquire_owned() else {
            self.metrics.refused("handshakes");
            return None;
        };
        let Ok(connection) = Arc::clone(&self.connection_places).try_acquire_owned() else {
            self.metrics.refused("connections");
            return None;
        };
        Some((handshake, connection))
    }

    /// A stream, or nothing: what came was refused or failed, and has been counted.
    pub(crate) async fn shake_hands(
        &self,
        io: impl Carrier,
        way: Way,
        from: &str,
        place: OwnedSemaphorePermit,
    ) -> Option<PeerStream> {
        match timeout(self.config.handshake_timeout(), self.authenticate(io, way, from, place)).await {
            Ok(Ok(stream)) => {
                self.metrics.handshake("ok");
                stream
            }
            Ok(Err(error)) => {
                self.note_failure(from, &error);
                None
            }
            Err(_) => {
                self.metrics.handshake("timed_out");
                tracing::debug!(%from, %way, "handshake with a peer took too long");
                None
            }
        }
    }

    /// Counts a connection that broke before it was authenticated.
    pub(crate) fn note_failure(&self, from: &str, error: &io::Error) {
        self.metrics.handshake("failed");
        tracing::debug!(%from, %error, "handshake with a peer");
    }

    /// `None`: authenticated, but refused, and told so.
    async fn authenticate(
        &self,
        io: impl Carrier,
        way: Way,
        from: &str,
        place: OwnedSemaphorePermit,
    ) -> io::Result<Option<PeerStream>> {
        let mut io = TlsAcceptor::from(Arc::clone(&self.tls)).accept(io).await?;
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
        let entered = self.connections.enter(Arrival { link: link.clone(), boot, direction, class, way, is_member });
        if self.closed.is_cancelled() {
            entered.close.cancel();
        }
        Ok(Some(PeerStream::new(Box::new(io), link, class, entered, places)))
    }

    async fn answer(&self, io: &mut TlsStream<impl Carrier>, reception: Reception) -> io::Result<()> {
        let answer = Answer { reception, boot: self.connections.boot() };
        io.write_all(&greeting::encode_answer(answer)).await?;
        io.flush().await
    }

    async fn refuse(
        &self,
        mut io: TlsStream<impl Carrier>,
        reception: Reception,
        reason: &'static str,
    ) -> io::Result<Option<PeerStream>> {
        self.metrics.refused(reason);
        self.answer(&mut io, reception).await?;
        io.shutdown().await?;
        Ok(None)
    }

    /// Gives a stream to whoever serves its protocol.
    pub(crate) async fn hand_on(&self, stream: PeerStream, outlets: &Outlets) {
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
    pub(crate) fn show_out_strangers(&self) {
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::time::Instant;

    use ollamax_security::NodeKey;

    use super::*;
    use crate::twins::Boot;

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_says_nothing_is_closed_in_time_and_gives_its_place_back() {
        tls::install_crypto_provider();
        let config = PeerConfig { connections_max: 1, ..PeerConfig::default() };
        let deadline = config.handshake_timeout();
        let tls = tls::server_config(&NodeKey::ephemeral().unwrap(), &[Alpn::Grpc]).unwrap();
        let metrics = Metrics::new();
        let connections = Arc::new(Connections::new(Boot([1; 16]), metrics.clone()));
        let door = Door::new(config, tls, Arc::default(), connections, (metrics, CancellationToken::new()));
        let (mut far, near) = tokio::io::duplex(1 << 10);
        let (_handshake, place) = door.places().unwrap();
        assert!(door.places().is_none(), "the only place is taken");
        let start = Instant::now();
        assert!(door.shake_hands(near, Way::P2p, "somebody", place).await.is_none());
        assert!(start.elapsed() >= deadline && start.elapsed() < deadline * 2);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert!(bytes.is_empty(), "it ended without a word");
        assert!(door.places().is_some());
    }
}
