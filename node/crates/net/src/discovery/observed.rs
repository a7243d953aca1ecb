//! Where others see this node: the word of members alone counts.
//!
//! Whoever answers by identify also says at which address it sees this node, and libp2p would believe everybody: such
//! an address is asked about when it is found out whether this node can be dialled, and told when a relayed connection
//! is to become direct. So this stands before identify and leaves out what strangers see, else a handful of them could
//! make a node take itself for hidden. Circuits are left out too: they are no place of this node. All else passes.

use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, identify};

use crate::lanes;
use crate::roster::Roster;

/// Identify, of which only members can tell this node where it is.
pub(super) struct Identify {
    inner: identify::Behaviour,
    roster: Arc<Roster>,
    /// Whether the last answer was a member's. What it saw is told right after it.
    is_members_word: bool,
}

type Told = ToSwarm<identify::Event, THandlerInEvent<identify::Behaviour>>;

// === impl Identify ===

impl Identify {
    pub(super) const fn new(inner: identify::Behaviour, roster: Arc<Roster>) -> Self {
        Self { inner, roster, is_members_word: false }
    }

    fn counts(&mut self, told: &Told) -> bool {
        match told {
            ToSwarm::GenerateEvent(identify::Event::Received { peer_id, .. }) => {
                self.is_members_word = self.roster.is_member_key(&lanes::key_of(peer_id));
                true
            }
            ToSwarm::NewExternalAddrCandidate(address) => self.is_members_word && !lanes::is_circuit(address),
            _ => true,
        }
    }
}

impl NetworkBehaviour for Identify {
    type ConnectionHandler = THandler<identify::Behaviour>;
    type ToSwarm = identify::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Told> {
        loop {
            let Poll::Ready(told) = self.inner.poll(context) else { return Poll::Pending };
            if self.counts(&told) {
                return Poll::Ready(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_security::NodeKey;
    use ollamax_types::NodeId;

    use super::*;
    use crate::peer::PeerEntry;

    #[test]
    fn what_strangers_see_and_circuits_do_not_count() {
        let key = NodeKey::ephemeral().unwrap();
        let (member, stranger) = (PeerId::random(), PeerId::random());
        let roster = Arc::new(Roster::default());
        let config = identify::Config::new("/test/1".to_owned(), key.keypair().public());
        let mut identify = Identify::new(identify::Behaviour::new(config), Arc::clone(&roster));
        let answer = |peer_id| {
            let info = identify::Info {
                public_key: key.keypair().public(),
                protocol_version: String::new(),
                agent_version: String::new(),
                listen_addrs: Vec::new(),
                protocols: Vec::new(),
                observed_addr: Multiaddr::empty(),
                signed_peer_record: None,
            };
            let connection_id = ConnectionId::new_unchecked(1);
            Told::GenerateEvent(identify::Event::Received { connection_id, peer_id, info })
        };
        let seen: Multiaddr = "/ip4/10.0.0.7/tcp/1".parse().unwrap();
        let circuit = lanes::circuit_through(&seen, &stranger, &member);
        let candidate = |address: &Multiaddr| Told::NewExternalAddrCandidate(address.clone());

        assert!(!identify.counts(&candidate(&seen)), "nobody has answered yet");
        assert!(identify.counts(&answer(member)), "answers pass, whoever gives them");
        assert!(!identify.counts(&candidate(&seen)), "it is no member yet");
        let peer_id = lanes::key_of(&member);
        let entry = PeerEntry { node: NodeId(2), peer_id, addresses: Vec::new(), p2p_addresses: Vec::new() };
        roster.set_members(vec![entry]);
        for (peer, expected) in [(member, true), (stranger, false), (member, true)] {
            assert!(identify.counts(&answer(peer)));
            for _ in 0..2 {
                assert_eq!(identify.counts(&candidate(&seen)), expected, "one answer may bring several");
                assert!(!identify.counts(&candidate(&circuit)));
            }
        }
    }
}
