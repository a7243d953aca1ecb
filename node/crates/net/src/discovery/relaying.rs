//! This node as a relay, which minds only the connections that could carry a circuit.
//!
//! A relayed connection carries none, so libp2p gives it a part that takes no word; and yet, when a node begins or ends
//! to relay, it says so to all connections, and the task of a relayed one ends in a panic: the connection counts as
//! standing from then on, and nothing that is asked of it is ever answered. Here libp2p does not hear of relayed
//! connections at all. All else is libp2p's.

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, relay};

/// Gives places to nodes that cannot be dialled, and carries circuits to them.
pub(super) struct Relaying(relay::Behaviour);

// === impl Relaying ===

impl Relaying {
    pub(super) fn new(own: PeerId, config: relay::Config) -> Self {
        Self(relay::Behaviour::new(own, config))
    }

    /// Whether others are told that this node relays.
    pub(super) fn set_status(&mut self, status: relay::Status) {
        self.0.set_status(Some(status));
    }
}

impl NetworkBehaviour for Relaying {
    type ConnectionHandler = THandler<relay::Behaviour>;
    type ToSwarm = relay::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.0.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.0.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(opened) if opened.endpoint.is_relayed() => {}
            FromSwarm::ConnectionClosed(closed) if closed.endpoint.is_relayed() => {}
            event => self.0.on_swarm_event(event),
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.0.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<relay::Event, THandlerInEvent<Self>>> {
        self.0.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use libp2p::core::ConnectedPoint;
    use libp2p::swarm::behaviour::ConnectionEstablished;
    use libp2p::swarm::{NotifyHandler, dummy};

    use super::*;
    use crate::lanes;

    fn opened(behaviour: &mut impl NetworkBehaviour, number: usize, endpoint: &ConnectedPoint) {
        behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(number),
            endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    /// Which connections are told something.
    fn told(behaviour: &mut impl NetworkBehaviour) -> Vec<ConnectionId> {
        let mut context = Context::from_waker(Waker::noop());
        let mut told = Vec::new();
        while let Poll::Ready(said) = behaviour.poll(&mut context) {
            if let ToSwarm::NotifyHandler { handler: NotifyHandler::One(id), .. } = said {
                told.push(id);
            }
        }
        told.sort();
        told
    }

    #[test]
    fn a_relayed_connection_is_not_told_that_this_node_relays_no_more() {
        let dialled = |address: Multiaddr| ConnectedPoint::Dialer {
            address,
            role_override: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let address: Multiaddr = "/ip4/10.0.0.7/tcp/1".parse().unwrap();
        let circuit = lanes::circuit_through(&address, &PeerId::random(), &PeerId::random());
        let ends = [dialled(address), dialled(circuit.clone())];
        let mut of_libp2p = relay::Behaviour::new(PeerId::random(), relay::Config::default());
        let mut relaying = Relaying::new(PeerId::random(), relay::Config::default());
        for (number, end) in ends.iter().enumerate() {
            opened(&mut of_libp2p, number, end);
            opened(&mut relaying, number, end);
        }
        of_libp2p.set_status(Some(relay::Status::Enable));
        relaying.set_status(relay::Status::Enable);
        let [direct, relayed] = [0, 1].map(ConnectionId::new_unchecked);
        assert_eq!(told(&mut of_libp2p), [direct, relayed], "if not, this file is not needed any more");
        assert_eq!(told(&mut relaying), [direct]);
        // What libp2p gives to a relayed connection takes no word.
        let id = ConnectionId::new_unchecked(2);
        let part = relaying.handle_established_outbound_connection(
            id,
            PeerId::random(),
            &circuit,
            Endpoint::Dialer,
            PortUse::New,
        );
        let _takes_nothing: dummy::ConnectionHandler = part.expect("nothing is denied").right_or_else(|_| panic!());
    }
}
