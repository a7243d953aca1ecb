//! Multiaddresses as nodes tell them to each other: which are dialled, which name a relay, what is left out.
//!
//! Pure. What others tell is looked at before it is used: a direct address is a host with a TCP port, or with a UDP
//! port and QUIC; a circuit is told in the short form `/p2p/<relay>/p2p-circuit/p2p/<node>`, and counts only when the
//! relay is a member and a third node. Anything else is left out without a word.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use ollamax_types::limits;

/// Most direct addresses of one node that are dialled.
const DIALLED_MAX: usize = 8;

/// A direct address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// To be dialled as it is.
    Ready(Multiaddr),
    /// Its name is looked up first.
    Name { host: String, port: u16, is_quic: bool },
}

// === impl Target ===

impl Target {
    fn parse(text: &str, who: &PeerId) -> Option<Self> {
        let address = text.parse::<Multiaddr>().ok()?.with_p2p(*who).ok()?;
        let parts: Vec<Protocol<'_>> = address.iter().collect();
        let (host, port, is_quic) = match parts.as_slice() {
            [host, Protocol::Tcp(port), Protocol::P2p(_)] => (host, *port, false),
            [host, Protocol::Udp(port), Protocol::QuicV1, Protocol::P2p(_)] => (host, *port, true),
            _ => return None,
        };
        if port == 0 {
            return None;
        }
        match host {
            Protocol::Ip4(ip) if ip.is_unspecified() || ip.is_multicast() => None,
            Protocol::Ip6(ip) if ip.is_unspecified() || ip.is_multicast() => None,
            Protocol::Ip4(_) | Protocol::Ip6(_) => Some(Self::Ready(without_peer(&address))),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
                Some(Self::Name { host: name.to_string(), port, is_quic })
            }
            _ => None,
        }
    }
}

/// The direct addresses among what a node has told, in its order.
pub(crate) fn direct_targets(told: &[String], who: &PeerId) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for target in told.iter().take(limits::ADDRESSES_MAX).filter_map(|text| Target::parse(text, who)) {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    targets.truncate(DIALLED_MAX);
    targets
}

/// The relays among what a node has told: members, neither it nor this node.
pub(crate) fn relays_of(
    told: &[String],
    own: &PeerId,
    who: &PeerId,
    is_member: impl Fn(&PeerId) -> bool,
) -> Vec<PeerId> {
    let mut relays = Vec::new();
    for relay in told.iter().take(limits::ADDRESSES_MAX).filter_map(|text| relay_in(text, who)) {
        if relay != *own && relay != *who && is_member(&relay) && !relays.contains(&relay) {
            relays.push(relay);
        }
    }
    relays
}

/// What is told of a circuit: who relays, and to whom.
pub(crate) fn told_circuit(relay: &PeerId, own: &PeerId) -> String {
    circuit_through(&Multiaddr::empty(), relay, own).to_string()
}

/// The circuit to a node through a relay at one of the relay's addresses.
pub(crate) fn circuit_through(address: &Multiaddr, relay: &PeerId, who: &PeerId) -> Multiaddr {
    place_at(address, relay).with(Protocol::P2p(*who))
}

/// Where a node listens that has a place at a relay.
pub(crate) fn place_at(address: &Multiaddr, relay: &PeerId) -> Multiaddr {
    without_peer(address).with(Protocol::P2p(*relay)).with(Protocol::P2pCircuit)
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

fn relay_in(text: &str, who: &PeerId) -> Option<PeerId> {
    let address = text.parse::<Multiaddr>().ok()?;
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    match parts.as_slice() {
        [Protocol::P2p(relay), Protocol::P2pCircuit, Protocol::P2p(end)] if end == who => Some(*relay),
        _ => None,
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut bare = address.clone();
    if matches!(bare.iter().last(), Some(Protocol::P2p(_))) {
        bare.pop();
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(text: &str) -> Option<Target> {
        Some(Target::Ready(text.parse().unwrap()))
    }

    fn name(host: &str, port: u16, is_quic: bool) -> Option<Target> {
        Some(Target::Name { host: host.to_owned(), port, is_quic })
    }

    #[test]
    fn only_hosts_with_a_port_are_dialled() {
        let (who, other) = (PeerId::random(), PeerId::random());
        let rows = [
            ("/ip4/10.0.0.7/tcp/11437".to_owned(), ready("/ip4/10.0.0.7/tcp/11437")),
            ("/ip6/2001:db8::7/udp/9/quic-v1".to_owned(), ready("/ip6/2001:db8::7/udp/9/quic-v1")),
            (format!("/ip4/10.0.0.7/tcp/1/p2p/{who}"), ready("/ip4/10.0.0.7/tcp/1")),
            ("/dns/node-1.example/tcp/11437".to_owned(), name("node-1.example", 11_437, false)),
            ("/dns4/node-1/udp/5/quic-v1".to_owned(), name("node-1", 5, true)),
            (format!("/ip4/10.0.0.7/tcp/1/p2p/{other}"), None),
            (format!("/ip4/10.0.0.7/tcp/1/p2p/{other}/p2p-circuit/p2p/{who}"), None),
            (format!("/p2p/{other}/p2p-circuit/p2p/{who}"), None),
            ("/ip4/0.0.0.0/tcp/1".to_owned(), None),
            ("/ip6/::/tcp/1".to_owned(), None),
            ("/ip4/224.0.0.251/udp/1/quic-v1".to_owned(), None),
            ("/ip4/10.0.0.7/tcp/0".to_owned(), None),
            ("/ip4/10.0.0.7/udp/1".to_owned(), None),
            ("/ip4/10.0.0.7/tcp/1/ws".to_owned(), None),
            ("/memory/7".to_owned(), None),
            ("10.0.0.7:11437".to_owned(), None),
            (String::new(), None),
        ];
        for (told, expected) in rows {
            let found = direct_targets(std::slice::from_ref(&told), &who);
            assert_eq!(found.first(), expected.as_ref(), "{told}");
        }
    }

    #[test]
    fn direct_addresses_are_bounded_and_named_once() {
        let many: Vec<String> = (1..100).map(|port| format!("/ip4/10.0.0.7/tcp/{port}")).collect();
        assert_eq!(direct_targets(&many, &PeerId::random()).len(), DIALLED_MAX);
        let twice = [many[0].clone(), many[0].clone()];
        assert_eq!(direct_targets(&twice, &PeerId::random()).len(), 1);
    }

    #[test]
    fn a_relay_is_a_member_and_a_third_node() {
        let (own, who, relay, stranger) = (PeerId::random(), PeerId::random(), PeerId::random(), PeerId::random());
        let rows = [
            (told_circuit(&relay, &who), Some(relay)),
            (told_circuit(&stranger, &who), None),
            (told_circuit(&own, &who), None),
            (told_circuit(&who, &who), None),
            (told_circuit(&relay, &own), None),
            (format!("/ip4/10.0.0.7/tcp/1/p2p/{relay}/p2p-circuit/p2p/{who}"), None),
            (format!("/p2p/{relay}/p2p-circuit/p2p/{relay}/p2p-circuit/p2p/{who}"), None),
            (format!("/p2p/{relay}/p2p-circuit"), None),
        ];
        for (told, expected) in rows {
            let found = relays_of(std::slice::from_ref(&told), &own, &who, |one| *one != stranger);
            assert_eq!(found.first(), expected.as_ref(), "{told}");
        }
    }

    #[test]
    fn a_circuit_is_told_in_its_short_form_and_dialled_with_an_address_of_the_relay() {
        let (who, relay) = (PeerId::random(), PeerId::random());
        assert_eq!(told_circuit(&relay, &who), format!("/p2p/{relay}/p2p-circuit/p2p/{who}"));
        let address: Multiaddr = format!("/ip4/10.0.0.7/tcp/1/p2p/{relay}").parse().unwrap();
        let circuit = circuit_through(&address, &relay, &who);
        assert_eq!(circuit.to_string(), format!("/ip4/10.0.0.7/tcp/1/p2p/{relay}/p2p-circuit/p2p/{who}"));
        assert_eq!(place_at(&address, &relay).to_string(), format!("/ip4/10.0.0.7/tcp/1/p2p/{relay}/p2p-circuit"));
        assert!(is_circuit(&circuit) && !is_circuit(&address));
    }
}
