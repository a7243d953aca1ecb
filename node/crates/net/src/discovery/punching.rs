//! Making relayed connections direct, without keeping the relayed ones for it.
//!
//! libp2p's handler holds a relayed connection for as long as it could try once more, and so, when the first try has
//! brought a direct connection, for good: each pair would keep a circuit that nobody uses, and a relay has a bounded
//! number of them. Here a relayed connection lasts as long as somebody uses it, which includes the agreement on a try.
//! All else is libp2p's.

use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::handler::ConnectionEvent;
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, dcutr};

/// Tries to make each relayed connection direct.
pub(super) struct Punching(dcutr::Behaviour);

/// A connection's part of it, which does not keep the connection.
pub(super) struct Unkept<H>(H);

// === impl Punching ===

impl Punching {
    pub(super) fn new(own: PeerId) -> Self {
        Self(dcutr::Behaviour::new(own))
    }
}

impl NetworkBehaviour for Punching {
    type ConnectionHandler = Unkept<THandler<dcutr::Behaviour>>;
    type ToSwarm = dcutr::Event;

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
        self.0.handle_established_inbound_connection(id, peer, local, remote).map(Unkept)
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
        self.0.handle_established_outbound_connection(id, peer, address, role, port_use).map(Unkept)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.0.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<dcutr::Event, THandlerInEvent<Self>>> {
        self.0.poll(context)
    }
}

// === impl Unkept ===

impl<H: ConnectionHandler> ConnectionHandler for Unkept<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<H::InboundProtocol, H::InboundOpenInfo> {
        self.0.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        false
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<H::OutboundProtocol, H::OutboundOpenInfo, H::ToBehaviour>> {
        self.0.poll(context)
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Option<H::ToBehaviour>> {
        self.0.poll_close(context)
    }

    fn on_behaviour_event(&mut self, wanted: H::FromBehaviour) {
        self.0.on_behaviour_event(wanted);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, H::InboundProtocol, H::OutboundProtocol, H::InboundOpenInfo, H::OutboundOpenInfo>,
    ) {
        self.0.on_connection_event(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes;

    #[test]
    fn a_relayed_connection_is_not_kept_for_a_try_that_is_not_needed() {
        let (own, peer, relay) = (PeerId::random(), PeerId::random(), PeerId::random());
        let address = "/ip4/10.0.0.7/tcp/1".parse().unwrap();
        let circuit = lanes::circuit_through(&address, &relay, &peer);
        let mut punching = Punching::new(own);
        let id = ConnectionId::new_unchecked(1);
        let handler =
            punching.handle_established_outbound_connection(id, peer, &circuit, Endpoint::Dialer, PortUse::New);
        let handler = handler.expect("nothing is denied");
        assert!(handler.0.connection_keep_alive(), "libp2p would keep it: if not, this file is not needed any more");
        assert!(!handler.connection_keep_alive());
    }
}
