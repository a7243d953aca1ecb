//! The libp2p swarm of the `p2p` listener: which protocols it speaks, where it listens, how many connections it takes.
//!
//! Strangers are told who this node is, may open lanes (inside which the `peer` listener's rules hold) and have it
//! tried whether they can be dialled; they have few places. Members have no bound of their own here, and they alone get
//! places and circuits at this node as a relay. Nothing of it is replaced while connections stand, except identify:
//! libp2p's behaviours count their connections and stop the process when a count is wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::autonat::v1 as autonat;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{FromSwarm, NetworkBehaviour, NewExternalAddrCandidate, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, identify, mdns, ping, relay, tcp, tls, yamux};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_security::NodeKey;

use super::announcement::Announcement;
use super::observed::Identify;
use super::punching::Punching;
use super::relaying::Relaying;
use crate::config::P2pConfig;
use crate::error::BindError;
use crate::lanes;
use crate::listener;
use crate::roster::Roster;

/// A connection without use ends after this. Each question who the other end is counts as use.
const IDLE: Duration = Duration::from_secs(5);
/// Longest wait for the sockets to be open.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest dial, of all addresses together: the time of each runs from the beginning of the dial.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Most connections, either way, beside those that members may have.
const CONNECTIONS_MAX: u32 = 256;
/// Most that others open, beside those of members.
const INCOMING_MAX: u32 = 128;
/// Most handshakes at once that others begin.
const PENDING_INCOMING_MAX: u32 = 64;
/// Most connections with one node.
const PER_PEER_MAX: u32 = 4;
/// Longest wait for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Most places of one member at this node as a relay.
const PLACES_PER_MEMBER_MAX: usize = 4;
/// How long a place lasts before it is asked for again.
const PLACE_LIFE: Duration = Duration::from_secs(3_600);
/// Circuits that a member may open at once, and then one each interval: thirty a minute.
const CIRCUITS_AT_ONCE: NonZeroU32 = NonZeroU32::new(30).expect("not zero");
const CIRCUIT_INTERVAL: Duration = Duration::from_secs(2);

/// What is spoken. The limits come first, so that nobody else has counted a connection that they refuse.
#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    pub(super) limits: connection_limits::Behaviour,
    pub(super) identify: Identify,
    mdns: Toggle<mdns::tokio::Behaviour>,
    ping: Toggle<ping::Behaviour>,
    pub(super) lanes: Toggle<lanes::Behaviour>,
    pub(super) relay: Toggle<Relaying>,
    /// Always there: its half in the transport does not live without it.
    relay_client: relay::client::Behaviour,
    dcutr: Toggle<Punching>,
    pub(super) autonat: Toggle<autonat::Behaviour>,
}

// === impl Behaviour ===

impl Behaviour {
    /// One more address at which this node may be had: others are asked whether they can dial it there, and told it
    /// when a relayed connection is to become direct. Names are left out: nobody looks them up there, and the messages
    /// about addresses have little room.
    pub(super) fn try_at(&mut self, addr: &Multiaddr) {
        if !matches!(addr.iter().next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_))) {
            return;
        }
        self.dcutr.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
        if let Some(autonat) = self.autonat.as_mut() {
            autonat.probe_address(addr.clone());
        }
    }
}

/// What the swarm is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) config: &'a P2pConfig,
    pub(super) key: &'a NodeKey,
    pub(super) announcement: &'a Announcement,
    pub(super) roster: &'a Arc<Roster>,
    pub(super) tasks: &'a TaskTracker,
    /// Cancelled when this node stops: no places and circuits are given any more.
    pub(super) refusing: &'a CancellationToken,
}

/// Answers who this node is, and asks again at intervals.
pub(super) fn identify_behaviour(
    key: &NodeKey,
    announcement: &Announcement,
    config: &P2pConfig,
    roster: &Arc<Roster>,
) -> Identify {
    let config = identify::Config::new(announcement.protocol_version(), key.keypair().public())
        .with_agent_version(announcement.agent_version())
        .with_interval(config.refresh())
        .with_cache_size(0);
    Identify::new(identify::Behaviour::new(config), Arc::clone(roster))
}

/// Opens the sockets; returns the addresses they got.
pub(super) async fn listen(setup: Setup<'_>) -> Result<(Swarm<Behaviour>, Vec<Multiaddr>), BindError> {
    let address = setup.config.listen;
    let fault = |reason: &dyn ToString| BindError::P2p { address, reason: reason.to_string() };
    // libp2p shares a port with whoever shares it too; a second node on this port shall be told so.
    drop(listener::bind(address).map_err(|error| fault(&error))?);
    let mut swarm = build(setup).map_err(|reason| fault(&reason))?;
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
                    addresses.push(address);
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

fn build(setup: Setup<'_>) -> Result<Swarm<Behaviour>, String> {
    let tasks = setup.tasks.clone();
    let builder = SwarmBuilder::with_existing_identity(setup.key.keypair().clone())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), tls::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_quic()
        .with_relay_client(tls::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_behaviour(|_, relay_client| behaviour(setup, relay_client))
        .map_err(|error| error.to_string())?;
    let swarm = builder.with_swarm_config(|_| {
        // Each task is one connection; it ends with the swarm.
        libp2p::swarm::Config::with_executor(move |task| drop(tasks.spawn(task))).with_idle_connection_timeout(IDLE)
    });
    Ok(swarm.with_connection_timeout(DIAL_MAX).build())
}

fn behaviour(setup: Setup<'_>, relay_client: relay::client::Behaviour) -> Behaviour {
    let config = setup.config;
    let own = setup.key.keypair().public().to_peer_id();
    let ping = ping::Config::new().with_interval(config.ping_interval()).with_timeout(PING_TIMEOUT);
    Behaviour {
        limits: connection_limits::Behaviour::new(limits(0)),
        identify: identify_behaviour(setup.key, setup.announcement, config, setup.roster),
        mdns: multicast_dns(config, own).into(),
        ping: config.lanes.then(|| ping::Behaviour::new(ping)).into(),
        lanes: config.lanes.then(|| lanes::Behaviour::new(own)).into(),
        relay: (config.lanes && config.relay).then(|| Relaying::new(own, relay_config(setup))).into(),
        relay_client,
        dcutr: (config.lanes && config.punch).then(|| Punching::new(own)).into(),
        autonat: config.lanes.then(|| autonat::Behaviour::new(own, autonat_config())).into(),
    }
}

/// Who is let by is counted all the same, so there is room for as many members as there are: in a large cluster they
/// alone would leave no place for who wants to join.
pub(super) fn limits(members: usize) -> ConnectionLimits {
    let of_members = u32::try_from(members).unwrap_or(u32::MAX).saturating_mul(PER_PEER_MAX);
    ConnectionLimits::default()
        .with_max_established(Some(of_members.saturating_add(CONNECTIONS_MAX)))
        .with_max_established_incoming(Some(of_members.saturating_add(INCOMING_MAX)))
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established_per_peer(Some(PER_PEER_MAX))
}

/// Members alone have places and open circuits; their number and their bytes are bounded, their pace is not.
fn relay_config(setup: Setup<'_>) -> relay::Config {
    let members_only = || -> Box<dyn relay::RateLimiter> {
        let (roster, refusing) = (Arc::clone(setup.roster), setup.refusing.clone());
        Box::new(move |peer: PeerId, _: &Multiaddr, _: std::time::Instant| {
            !refusing.is_cancelled() && roster.is_member_key(&lanes::key_of(&peer))
        })
    };
    let config = setup.config;
    let places = relay::Config {
        max_reservations: config.relay_reservations_max,
        max_reservations_per_peer: PLACES_PER_MEMBER_MAX,
        reservation_duration: PLACE_LIFE,
        reservation_rate_limiters: vec![members_only()],
        max_circuits: config.relay_circuits_max,
        max_circuits_per_peer: config.relay_circuits_per_member_max,
        max_circuit_duration: config.relay_circuit_life_max(),
        max_circuit_bytes: config.relay_circuit_bytes_max,
        circuit_src_rate_limiters: vec![members_only()],
    };
    places.circuit_src_per_peer(CIRCUITS_AT_ONCE, CIRCUIT_INTERVAL)
}

/// Only members that are named as servers are asked. Strangers are answered too: they are dialled at the address that
/// they come from and nowhere else, few of them at a time.
fn autonat_config() -> autonat::Config {
    autonat::Config {
        // Nothing answers a dial that a firewall drops, or QUIC to a closed port. So "it cannot be dialled" comes when
        // the dial runs out; who does not wait for that never hears it.
        timeout: DIAL_MAX * 2,
        boot_delay: Duration::from_secs(2),
        refresh_interval: Duration::from_secs(60),
        retry_interval: Duration::from_secs(10),
        // Not zero: a single server that fails would be asked without a pause. Less than the retry: a single server
        // shall be asked each time.
        throttle_server_period: Duration::from_secs(5),
        use_connected: false,
        // A dial of this node's own that fails meanwhile is taken for the answer: one wrong answer must change nothing.
        confidence_max: 2,
        throttle_clients_global_max: 16,
        throttle_clients_peer_max: 2,
        throttle_clients_period: Duration::from_secs(10),
        // Labs have private addresses.
        only_global_ips: false,
        ..autonat::Config::default()
    }
}

/// Multicast DNS where it is wanted and possible; without it, seeds and the catalog remain.
fn multicast_dns(config: &P2pConfig, own: PeerId) -> Option<mdns::tokio::Behaviour> {
    if config.is_static() {
        tracing::info!("nothing is discovered: p2p.static_peers names whom to join by");
        return None;
    }
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

pub(super) fn quic_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::empty().with(Protocol::from(address.ip())).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_whether_it_can_be_dialled_waits_longer_than_a_dial_in_vain_and_asks_a_single_member_again() {
        let config = autonat_config();
        assert!(config.timeout > DIAL_MAX, "{config:?}");
        assert!(config.throttle_server_period < config.retry_interval, "{config:?}");
    }

    #[test]
    fn members_take_no_places_from_others_however_many_they_are() {
        for (members, incoming) in [(0, INCOMING_MAX), (200, INCOMING_MAX + 200 * PER_PEER_MAX), (usize::MAX, u32::MAX)]
        {
            // What is bounded is not to be asked for otherwise.
            let text = format!("{:?}", limits(members));
            assert!(text.contains(&format!("max_established_incoming: Some({incoming})")), "{members}: {text}");
        }
    }
}
