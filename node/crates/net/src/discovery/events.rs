//! What the swarm tells, one function for each protocol: what is learnt from it, counted and passed on.
//!
//! Nothing here waits. What comes unexpectedly is no error: nodes come and go, and answers may arrive late.

use libp2p::autonat::v1 as autonat;
use libp2p::swarm::{ConnectionId, ListenError, SwarmEvent};
use libp2p::{PeerId, dcutr, identify, mdns, ping, relay};
use tokio::time::Instant;

use super::Running;
use super::announcement::Said;
use super::swarm::BehaviourEvent;
use crate::lanes::{self, Incoming, Lane};
use crate::peer::Way;

/// Failed pings in a row after which a connection is given up; libp2p does not tell the first.
const PINGS_FAILED_MAX: u32 = 2;

impl Running {
    pub(super) fn learn(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.learn_from_protocols(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connection_opened(peer_id, connection_id, endpoint.is_relayed());
            }
            SwarmEvent::ConnectionClosed { connection_id, endpoint, .. } => {
                self.wires.metrics.p2p_connections(kind(endpoint.is_relayed())).dec();
                self.unanswered.remove(&connection_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error: ListenError::Denied { cause }, .. } => {
                tracing::debug!(%cause, "connection on the p2p listener refused");
            }
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                if let Some(relay) = self.places.remove(&listener_id) {
                    self.place_lost(relay, reason.err().as_ref());
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "p2p listener"),
            _ => {}
        }
    }

    fn learn_from_protocols(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Identify(event) => self.learn_who(event),
            BehaviourEvent::Mdns(event) => self.learn_from_neighbours(event),
            BehaviourEvent::Ping(event) => self.learn_from_ping(&event),
            BehaviourEvent::Lanes(event) => self.learn_from_lanes(event),
            BehaviourEvent::Relay(event) => self.learn_from_guests(&event),
            BehaviourEvent::RelayClient(event) => self.learn_from_relays(&event),
            BehaviourEvent::Dcutr(event) => self.learn_from_punch(&event),
            BehaviourEvent::Autonat(event) => self.learn_reach(&event),
        }
    }

    fn connection_opened(&mut self, peer: PeerId, connection: ConnectionId, is_relayed: bool) {
        self.wires.metrics.p2p_connections(kind(is_relayed)).inc();
        let way = if is_relayed { Way::Relayed } else { Way::P2p };
        self.dial_succeeded(connection, way);
        if !is_relayed {
            self.met(&peer, Instant::now());
        }
    }

    fn learn_from_neighbours(&mut self, event: mdns::Event) {
        let now = Instant::now();
        match event {
            mdns::Event::Discovered(heard) => {
                for (peer, address) in heard {
                    self.book.heard(peer, address, now);
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    self.book.lost(&peer, &address);
                }
            }
        }
    }

    fn learn_who(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, peer_id, info } = event else { return };
        let lanes = self.swarm.behaviour().lanes.as_ref();
        let is_relayed = lanes.is_some_and(|lanes| lanes.is_relayed(&peer_id, connection_id));
        let relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        // Over a relayed connection nobody relays, so what is not said there says nothing.
        if relays && self.best(&peer_id) == Some(Way::P2p) {
            self.relaying.insert(peer_id);
        } else if !is_relayed {
            self.relaying.remove(&peer_id);
        }
        if self.config.is_static() {
            return;
        }
        let said = Said::parse(&info.protocol_version, &info.agent_version);
        // Who is reached through a relay says where it listens in a network that may not be this one.
        let listens = if is_relayed { Vec::new() } else { info.listen_addrs };
        self.book.identified(peer_id, listens, said, Instant::now());
        self.publish();
    }

    fn learn_from_ping(&mut self, event: &ping::Event) {
        // A program that does not know pings is alive all the same.
        let failed = matches!(event.result, Err(ping::Failure::Timeout | ping::Failure::Other { .. }));
        if !failed {
            self.unanswered.remove(&event.connection);
            return;
        }
        let count = self.unanswered.entry(event.connection).or_default();
        *count += 1;
        if *count >= PINGS_FAILED_MAX {
            tracing::debug!(peer = %event.peer, "libp2p connection without an answer closed");
            self.swarm.close_connection(event.connection);
        }
    }

    fn learn_from_lanes(&mut self, event: lanes::Event) {
        match event {
            lanes::Event::Opened { ticket, stream, way } => self.opened(ticket, Ok(Lane::new(stream, way))),
            lanes::Event::Failed { ticket, problem } => self.opened(ticket, Err(problem)),
            lanes::Event::Came { peer, stream, way } => {
                if self.refusing.is_cancelled() {
                    return;
                }
                let incoming = Incoming { peer_id: lanes::key_of(&peer), lane: Lane::new(stream, way) };
                // Dropping it resets it, so the other side knows at once.
                if self.wires.incoming.try_send(incoming).is_err() {
                    self.wires.metrics.refused("lanes");
                }
            }
            lanes::Event::Ways { peer, before, best } => self.way_changed(peer, before, best),
        }
    }

    fn way_changed(&mut self, peer: PeerId, before: Option<Way>, best: Option<Way>) {
        let now = Instant::now();
        match best {
            Some(way) => self.keeper.connected(&peer, way, now),
            None => self.keeper.ended(&peer, now),
        }
        if best != Some(Way::P2p) {
            self.relaying.remove(&peer);
        }
        self.ask_it_or_not(&peer);
        let is_better = before == Some(Way::Relayed) && best == Some(Way::P2p) && self.members.contains_key(&peer);
        // When many are waiting already, streams move up when they are opened anew.
        if is_better && self.wires.better.try_send((lanes::key_of(&peer), Way::P2p)).is_err() {
            tracing::debug!(%peer, "a better way to a node was not passed on");
        }
    }

    /// This node as a relay.
    fn learn_from_guests(&mut self, event: &relay::Event) {
        let metrics = self.wires.metrics.clone();
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed } => {
                if !renewed {
                    metrics.relay_request("reservation", "accepted");
                }
                self.guests.insert(*src_peer_id);
            }
            relay::Event::ReservationReqDenied { .. } => metrics.relay_request("reservation", "denied"),
            // This comes for each connection that ends, with a place on it or not.
            relay::Event::ReservationClosed { src_peer_id } if self.best(src_peer_id) == Some(Way::P2p) => {}
            relay::Event::ReservationClosed { src_peer_id } => {
                self.guests.remove(src_peer_id);
            }
            relay::Event::ReservationTimedOut { src_peer_id } => {
                self.guests.remove(src_peer_id);
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                metrics.relay_request("circuit", "accepted");
                metrics.relay_circuits(1);
                *self.circuits.entry((*src_peer_id, *dst_peer_id)).or_default() += 1;
            }
            relay::Event::CircuitReqDenied { .. } => metrics.relay_request("circuit", "denied"),
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                self.circuit_closed((*src_peer_id, *dst_peer_id));
            }
            _ => {}
        }
        metrics.relay_reservations(self.guests.len());
    }

    /// A circuit whose one end has gone is told twice; it counts once.
    fn circuit_closed(&mut self, ends: (PeerId, PeerId)) {
        let Some(count) = self.circuits.get_mut(&ends) else { return };
        self.wires.metrics.relay_circuits(-1);
        *count -= 1;
        if *count == 0 {
            self.circuits.remove(&ends);
        }
    }

    /// Other nodes as this node's relays.
    fn learn_from_relays(&mut self, event: &relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } = event {
            if !renewal {
                tracing::info!(peer = %relay_peer_id, "a member relays for this node");
            }
            self.relays.accepted(*relay_peer_id);
            self.wires.metrics.relay_held(self.relays.held());
            self.tell_addresses(Instant::now());
        }
    }

    fn place_lost(&mut self, relay: PeerId, error: Option<&std::io::Error>) {
        let (now, held_before) = (Instant::now(), self.relays.held());
        let is_first_refusal = self.relays.closed(relay, now);
        if self.relays.held() < held_before {
            self.place_lost_at = Some(now);
        }
        match error {
            Some(error) if is_first_refusal => tracing::warn!(peer = %relay, %error, "a relay refused"),
            error => tracing::debug!(peer = %relay, ?error, "a place at a relay is gone"),
        }
        self.wires.metrics.relay_held(self.relays.held());
    }

    fn learn_from_punch(&mut self, event: &dcutr::Event) {
        if let Err(error) = &event.result {
            tracing::debug!(peer = %event.remote_peer_id, %error, "make a relayed connection direct");
        }
        self.wires.metrics.punched(event.result.is_ok());
    }

    fn learn_reach(&mut self, event: &autonat::Event) {
        let autonat::Event::StatusChanged { new, .. } = event else {
            tracing::debug!(?event, "try whether a node can be dialled");
            return;
        };
        if let Some(reach) = self.judge.heard(new) {
            tracing::info!(%reach, by = "members", "whether others can dial this node (p2p.reach)");
            self.wires.metrics.reach(reach);
            self.wires.reach.send_replace(reach);
            self.be_a_relay_or_not();
        }
    }
}

const fn kind(is_relayed: bool) -> &'static str {
    if is_relayed { "relayed" } else { "direct" }
}
