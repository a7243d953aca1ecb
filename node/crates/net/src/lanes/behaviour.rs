//! The lanes of all connections: which connection a lane takes, which connections are held, and who came.
//!
//! Every connection to a node is a line here from its opening to its end. A lane takes the held direct line, else any
//! direct one, else a relayed one. The tickets of a line that ends go to another one of the same kind, if there is one:
//! of two that were dialled at once one ends at once, and either end may have taken that one. Else they fail. Lines are
//! held only with those who are named by [`Behaviour::keep`]; all others end when nobody uses them. Lanes being opened
//! are bounded for each line.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, Stream};

use super::NoLane;
use super::handler::{Handler, In, Out};
use super::held::{Line, held};
use crate::peer::Way;

/// Most lanes that are being opened on one connection.
const OPENING_MAX: usize = 64;

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// A lane that was asked for.
    Opened { ticket: u64, stream: Stream, way: Way },
    /// It cannot be had.
    Failed { ticket: u64, problem: NoLane },
    /// Another node has opened a lane.
    Came { peer: PeerId, stream: Stream, way: Way },
    /// The best way to a node has changed; `None`: no connection stands.
    Ways { peer: PeerId, before: Option<Way>, best: Option<Way> },
}

/// The lines to all nodes.
#[derive(Debug)]
pub(crate) struct Behaviour {
    own: PeerId,
    /// Each node's, in the order of their opening.
    lines: HashMap<PeerId, Vec<Line>>,
    /// With whom a direct line is held.
    kept: HashSet<PeerId>,
    held: HashMap<PeerId, ConnectionId>,
    tickets: HashMap<u64, Ticket>,
    next_ticket: u64,
    /// The swarm polls anew after each call from outside, so nothing has to wake it.
    queue: VecDeque<ToSwarm<Event, In>>,
}

#[derive(Debug, Clone, Copy)]
struct Ticket {
    line: ConnectionId,
    way: Way,
}

// === impl Behaviour ===

impl Behaviour {
    pub(crate) fn new(own: PeerId) -> Self {
        Self {
            own,
            lines: HashMap::new(),
            kept: HashSet::new(),
            held: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            queue: VecDeque::new(),
        }
    }

    /// Begins to open a lane; how it ends is told with the ticket.
    pub(crate) fn open(&mut self, to: &PeerId) -> Result<u64, NoLane> {
        let (line, way) = self.line_for(to).ok_or(NoLane::Unconnected)?;
        let ticket = self.next_ticket;
        self.assign(ticket, to, Ticket { line, way })?;
        self.next_ticket += 1;
        Ok(ticket)
    }

    fn assign(&mut self, ticket: u64, to: &PeerId, taken: Ticket) -> Result<(), NoLane> {
        if self.tickets.values().filter(|ticket| ticket.line == taken.line).count() >= OPENING_MAX {
            return Err(NoLane::Busy);
        }
        self.tickets.insert(ticket, taken);
        self.tell(to, taken.line, In::Open(ticket));
        Ok(())
    }

    /// Holds a direct line with these nodes and with nobody else.
    pub(crate) fn keep(&mut self, kept: HashSet<PeerId>) {
        self.kept = kept;
        let connected: Vec<PeerId> = self.lines.keys().copied().collect();
        for peer in connected {
            self.choose_held(&peer);
        }
    }

    /// The best way to a node.
    pub(crate) fn best(&self, peer: &PeerId) -> Option<Way> {
        self.lines.get(peer)?.iter().map(way_of).min()
    }

    /// Where a node is on its direct line.
    pub(crate) fn direct_address(&self, peer: &PeerId) -> Option<&Multiaddr> {
        self.lines.get(peer)?.iter().find(|line| !line.is_relayed).map(|line| &line.address)
    }

    /// Whether this connection to a node leads through a relay.
    pub(crate) fn is_relayed(&self, peer: &PeerId, id: ConnectionId) -> bool {
        let lines = self.lines.get(peer).map(Vec::as_slice).unwrap_or_default();
        lines.iter().any(|line| line.id == id && line.is_relayed)
    }

    /// Everybody with a direct line.
    pub(crate) fn direct_peers(&self) -> impl Iterator<Item = &PeerId> {
        self.lines.iter().filter(|(_, lines)| lines.iter().any(|line| !line.is_relayed)).map(|(peer, _)| peer)
    }

    fn line_for(&self, peer: &PeerId) -> Option<(ConnectionId, Way)> {
        let lines = self.lines.get(peer)?;
        let held = self.held.get(peer).copied();
        let rank = |line: &&Line| (way_of(line), Some(line.id) != held);
        lines.iter().min_by_key(rank).map(|line| (line.id, way_of(line)))
    }

    fn tell(&mut self, peer: &PeerId, line: ConnectionId, event: In) {
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id: *peer, handler: NotifyHandler::One(line), event });
    }

    fn choose_held(&mut self, peer: &PeerId) {
        let lines = self.lines.get(peer).map(Vec::as_slice).unwrap_or_default();
        let wanted = if self.kept.contains(peer) { held(&self.own, peer, lines) } else { None };
        let before = self.held.get(peer).copied();
        if wanted == before {
            return;
        }
        let still_there = before.filter(|id| lines.iter().any(|line| line.id == *id));
        if let Some(id) = still_there {
            self.tell(peer, id, In::Hold(false));
        }
        match wanted {
            Some(id) => {
                self.held.insert(*peer, id);
                self.tell(peer, id, In::Hold(true));
            }
            None => {
                self.held.remove(peer);
            }
        }
    }

    fn enter(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let before = self.best(&peer);
        let line = Line {
            id,
            is_relayed: endpoint.is_relayed(),
            is_dialled: is_dialled(endpoint),
            address: endpoint.get_remote_address().clone(),
        };
        self.lines.entry(peer).or_default().push(line);
        self.choose_held(&peer);
        self.say_ways(peer, before);
    }

    fn leave(&mut self, peer: PeerId, id: ConnectionId) {
        let before = self.best(&peer);
        if let Some(lines) = self.lines.get_mut(&peer) {
            lines.retain(|line| line.id != id);
            if lines.is_empty() {
                self.lines.remove(&peer);
            }
        }
        self.choose_held(&peer);
        let ended: BTreeMap<u64, Ticket> = self.tickets.extract_if(|_, ticket| ticket.line == id).collect();
        for (ticket, Ticket { way, .. }) in ended {
            let other = self.line_for(&peer).filter(|(_, other)| *other == way);
            let moved = match other {
                Some((line, way)) => self.assign(ticket, &peer, Ticket { line, way }),
                None => Err(NoLane::Failed("the libp2p connection ended".to_owned())),
            };
            if let Err(problem) = moved {
                self.queue.push_back(ToSwarm::GenerateEvent(Event::Failed { ticket, problem }));
            }
        }
        self.say_ways(peer, before);
    }

    fn say_ways(&mut self, peer: PeerId, before: Option<Way>) {
        let best = self.best(&peer);
        if best != before {
            self.queue.push_back(ToSwarm::GenerateEvent(Event::Ways { peer, before, best }));
        }
    }
}

fn way_of(line: &Line) -> Way {
    if line.is_relayed { Way::Relayed } else { Way::P2p }
}

/// When a TCP connection is punched both ends dial the same one; the one that takes the listener's part counts as
/// dialled. Over QUIC, from a port that is reused, libp2p dials all the same, and the other end sees a connection come.
fn is_dialled(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. } => true,
        ConnectedPoint::Dialer { address, port_use: PortUse::Reuse, .. } => is_quic(address),
        ConnectedPoint::Dialer { .. } | ConnectedPoint::Listener { .. } => false,
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) => {
                self.enter(opened.peer_id, opened.connection_id, opened.endpoint);
            }
            FromSwarm::ConnectionClosed(closed) => self.leave(closed.peer_id, closed.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let told = match event {
            Out::Opened(ticket, stream) => {
                // A ticket that has failed already wants no stream any more; dropping it closes it.
                self.tickets.remove(&ticket).map(|known| Event::Opened { ticket, stream, way: known.way })
            }
            Out::Failed(ticket, problem) => self.tickets.remove(&ticket).map(|_| Event::Failed { ticket, problem }),
            Out::Came(stream) => {
                let lines = self.lines.get(&peer).map(Vec::as_slice).unwrap_or_default();
                lines.iter().find(|line| line.id == id).map(|line| Event::Came { peer, stream, way: way_of(line) })
            }
        };
        self.queue.extend(told.map(ToSwarm::GenerateEvent));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled() -> ConnectedPoint {
        let address = "/ip4/10.0.0.7/tcp/1".parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse }
    }

    fn relayed() -> ConnectedPoint {
        let address = format!("/ip4/10.0.0.7/tcp/1/p2p/{}/p2p-circuit", PeerId::random()).parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse }
    }

    fn line(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    /// What the behaviour wants of its lines and tells, in short.
    fn said(behaviour: &mut Behaviour) -> Vec<String> {
        let words = std::mem::take(&mut behaviour.queue).into_iter().map(|one| match one {
            ToSwarm::NotifyHandler { handler: NotifyHandler::One(id), event, .. } => format!("{id} {event:?}"),
            ToSwarm::GenerateEvent(Event::Ways { before, best, .. }) => format!("{before:?} to {best:?}"),
            ToSwarm::GenerateEvent(Event::Failed { ticket, problem }) => format!("{ticket} {problem}"),
            other => format!("{other:?}"),
        });
        words.collect()
    }

    #[test]
    fn lanes_take_the_best_line_and_only_a_direct_one_is_held() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut behaviour = Behaviour::new(own);
        behaviour.keep(HashSet::from([peer]));
        assert_eq!(behaviour.open(&peer), Err(NoLane::Unconnected));
        behaviour.enter(peer, line(1), &relayed());
        assert_eq!(said(&mut behaviour), ["None to Some(Relayed)"]);
        assert_eq!(behaviour.open(&peer), Ok(0));
        assert_eq!(said(&mut behaviour), ["1 Open(0)"]);
        behaviour.enter(peer, line(2), &dialled());
        assert_eq!(said(&mut behaviour), ["2 Hold(true)", "Some(Relayed) to Some(P2p)"]);
        assert_eq!(behaviour.open(&peer), Ok(1));
        assert_eq!(said(&mut behaviour), ["2 Open(1)"]);
        behaviour.leave(peer, line(2));
        assert_eq!(said(&mut behaviour), ["1 the libp2p connection ended", "Some(P2p) to Some(Relayed)"]);
        behaviour.leave(peer, line(1));
        assert_eq!(said(&mut behaviour), ["0 the libp2p connection ended", "Some(Relayed) to None"]);
        assert!(behaviour.lines.is_empty() && behaviour.tickets.is_empty() && behaviour.held.is_empty());
    }

    #[test]
    fn of_two_lines_that_were_dialled_at_once_the_one_that_stays_takes_the_lane() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut behaviour = Behaviour::new(own);
        behaviour.enter(peer, line(1), &dialled());
        behaviour.enter(peer, line(2), &dialled());
        assert_eq!(behaviour.open(&peer), Ok(0));
        assert_eq!(said(&mut behaviour), ["None to Some(P2p)", "1 Open(0)"]);
        behaviour.leave(peer, line(1));
        assert_eq!(said(&mut behaviour), ["2 Open(0)"]);
        behaviour.leave(peer, line(2));
        assert_eq!(said(&mut behaviour), ["0 the libp2p connection ended", "Some(P2p) to None"]);
        assert!(behaviour.tickets.is_empty());
    }

    #[test]
    fn who_is_not_kept_is_not_held() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut behaviour = Behaviour::new(own);
        behaviour.enter(peer, line(1), &dialled());
        assert_eq!(said(&mut behaviour), ["None to Some(P2p)"]);
        behaviour.keep(HashSet::from([peer]));
        assert_eq!(said(&mut behaviour), ["1 Hold(true)"]);
        behaviour.keep(HashSet::new());
        assert_eq!(said(&mut behaviour), ["1 Hold(false)"]);
        assert_eq!(behaviour.direct_peers().count(), 1);
        assert!(behaviour.direct_address(&peer).is_some());
        behaviour.enter(peer, line(2), &relayed());
        assert!(behaviour.is_relayed(&peer, line(2)) && !behaviour.is_relayed(&peer, line(1)));
    }

    #[test]
    fn lanes_being_opened_are_bounded_for_each_line() {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut behaviour = Behaviour::new(own);
        behaviour.enter(peer, line(1), &dialled());
        for ticket in 0..OPENING_MAX as u64 {
            assert_eq!(behaviour.open(&peer), Ok(ticket));
        }
        assert_eq!(behaviour.open(&peer), Err(NoLane::Busy));
        behaviour.on_connection_handler_event(peer, line(1), Out::Failed(0, NoLane::Unspoken));
        assert!(behaviour.open(&peer).is_ok());
    }

    #[test]
    fn a_punched_line_was_dialled_by_one_end() {
        let listening = |address: &str, port_use| ConnectedPoint::Dialer {
            address: address.parse().unwrap(),
            role_override: Endpoint::Listener,
            port_use,
        };
        let came = ConnectedPoint::Listener {
            local_addr: "/ip4/10.0.0.1/udp/1/quic-v1".parse().unwrap(),
            send_back_addr: "/ip4/10.0.0.7/udp/1/quic-v1".parse().unwrap(),
        };
        let rows = [
            (dialled(), true),
            (listening("/ip4/10.0.0.7/tcp/1", PortUse::Reuse), false),
            (listening("/ip4/10.0.0.7/udp/1/quic-v1", PortUse::New), false),
            // The other end has this one as the last row.
            (listening("/ip4/10.0.0.7/udp/1/quic-v1", PortUse::Reuse), true),
            (came, false),
        ];
        for (endpoint, expected) in rows {
            assert_eq!(is_dialled(&endpoint), expected, "{endpoint:?}");
        }
    }
}
