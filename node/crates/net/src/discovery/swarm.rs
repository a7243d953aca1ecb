//! The libp2p swarm of the `p2p` listener: which protocols it speaks, where it listens, how many connections it takes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::StreamExt;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, identify, mdns, tcp, tls, yamux};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use ollamax_security::NodeKey;

use super::announcement::Announcement;
use crate::config::P2pConfig;
use crate::error::BindError;
use crate::listener;

/// A connection without use ends after this.
const IDLE: Duration = Duration::from_secs(5);
/// Longest wait for the sockets to be open.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Most connections, either way.
const CONNECTIONS_MAX: u32 = 256;
/// Most that others open.
const INCOMING_MAX: u32 = 128;
/// Most handshakes at once that others begin.
const PENDING_INCOMING_MAX: u32 = 64;
/// Most connections with one node.
const PER_PEER_MAX: u32 = 2;

/// What is spoken: who are you, and who is there. Nothing else, with members and strangers alike.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(super) identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// Answers who this node is.
pub(super) fn identify_behaviour(key: &NodeKey, announcement: &Announcement) -> identify::Behaviour {
    let config = identify::Config::new(announcement.protocol_version(), key.keypair().public())
        .with_agent_version(announcement.agent_version())
        .with_cache_size(0);
    identify::Behaviour::new(config)
}

/// Opens the sockets; returns the addresses they got.
pub(super) async fn listen(
    config: &P2pConfig,
    key: &NodeKey,
    announcement: &Announcement,
    tasks: &TaskTracker,
) -> Result<(Swarm<Behaviour>, Vec<String>), BindError> {
    let address = config.listen;
    let fault = |reason: &dyn ToString| BindError::P2p { address, reason: reason.to_string() };
    // libp2p shares a port with whoever shares it too; a second node on this port shall be told so.
    drop(listener::bind(address).map_err(|error| fault(&error))?);
    let mut swarm = build(config, key, announcement, tasks).map_err(|reason| fault(&reason))?;
    let mut opening = Vec::new();
    for ip in ips_to_listen_on(address.ip()) {
        let at = SocketAddr::new(ip, address.port());
        let opened = [tcp_multiaddr(at), quic_multiaddr(at)].map(|multiaddr| swarm.listen_on(multiaddr));
        for result in opened {
            match result {
                Ok(id) => opening.push(id),
                // One address family may be switched off on this machine.
                Err(error) if ip != address.ip() || address.ip().is_unspecified() => {
                    tracing::info!(%at, %error, "p2p listener without this address");
                }
                Err(error) => return Err(fault(&error)),
            }
        }
    }
    if opening.is_empty() {
        return Err(fault(&"no address could be opened"));
    }
    let mut addresses = Vec::new();
    let opened = timeout(LISTEN_TIMEOUT, async {
        while !opening.is_empty() {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    opening.retain(|id| *id != listener_id);
                    addresses.push(address.to_string());
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    opening.retain(|id| *id != listener_id);
                    tracing::warn!(?reason, "p2p listener closed");
                }
                _ => {}
            }
        }
    });
    let in_time = opened.await.is_ok();
    match (in_time, addresses.is_empty()) {
        (_, false) => Ok((swarm, addresses)),
        (true, true) => Err(fault(&"every socket closed at once")),
        (false, true) => Err(fault(&"the sockets did not open in time")),
    }
}

fn build(
    config: &P2pConfig,
    key: &NodeKey,
    announcement: &Announcement,
    tasks: &TaskTracker,
) -> Result<Swarm<Behaviour>, String> {
    let limits = ConnectionLimits::default()
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_incoming(Some(INCOMING_MAX))
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        identify: identify_behaviour(key, announcement),
        mdns: multicast_dns(config, key.keypair().public().to_peer_id()).into(),
    };
    let tasks = tasks.clone();
    let builder = SwarmBuilder::with_existing_identity(key.keypair().clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_quic()
        .with_behaviour(|_| behaviour)
        .map_err(|error| error.to_string())?;
    let swarm = builder.with_swarm_config(|_| {
        // Each task is one connection; it ends with the swarm.
        libp2p::swarm::Config::with_executor(move |task| drop(tasks.spawn(task))).with_idle_connection_timeout(IDLE)
    });
    Ok(swarm.build())
}

/// Multicast DNS where it is wanted and possible; without it, seeds and the catalog remain.
fn multicast_dns(config: &P2pConfig, own: PeerId) -> Option<mdns::tokio::Behaviour> {
    if !config.mdns {
        return None;
    }
    match mdns::tokio::Behaviour::new(mdns::Config::default(), own) {
        Ok(behaviour) => Some(behaviour),
        Err(error) => {
            tracing::warn!(%error, "start multicast DNS; nodes on this network are not found by themselves");
            None
        }
    }
}

/// libp2p listens on one address family at a time.
fn ips_to_listen_on(ip: IpAddr) -> Vec<IpAddr> {
    match ip {
        IpAddr::V6(v6) if v6.is_unspecified() => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), ip],
        _ => vec![ip],
    }
}

pub(super) fn tcp_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(Protocol::from(address.ip())).with(Protocol::Tcp(address.port()))
}

fn quic_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(Protocol::from(address.ip())).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}
