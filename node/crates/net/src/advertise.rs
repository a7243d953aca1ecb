//! What others shall dial: the addresses that a listener is known by.
//!
//! The configured list is taken as it is. Otherwise a listener on one address is known by that address, and a listener
//! on all of them by those of the machine's interfaces, without loopback, link-local, container and VPN ones: other
//! machines cannot reach those, or reach another machine by them. Loopback is the last resort.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use ollamax_types::limits;

use crate::address::{self, InvalidAddress};

/// Most hosts that the `p2p` listener is known by: two addresses each, and room for the circuits of a node behind NAT.
const P2P_HOSTS_MAX: usize = 6;

/// How the names of interfaces begin that lead to containers, virtual machines and VPNs.
const INNER_INTERFACES: [&str; 26] = [
    "br-",
    "cali",
    "cbr",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "flannel",
    "ipsec",
    "kube",
    "lxc",
    "lxdbr",
    "nordlynx",
    "ovs",
    "podman",
    "ppp",
    "tailscale",
    "tap",
    "tun",
    "utun",
    "vboxnet",
    "veth",
    "virbr",
    "vmnet",
    "wg",
    "zt",
];

/// One address of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// As the system names it.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// The addresses by which the listener that is bound to `bound` is known, `host:port`.
///
/// # Errors
/// When a configured address is malformed.
pub fn addresses(configured: &[String], bound: SocketAddr) -> Result<Vec<String>, InvalidAddress> {
    if !configured.is_empty() {
        return configured.iter().map(|text| address::with_port(text, bound.port())).collect();
    }
    if !bound.ip().is_unspecified() {
        return Ok(vec![address::join(bound.ip(), bound.port())]);
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "list the machine's addresses; set peer.advertise");
        Vec::new()
    });
    let interfaces = interfaces.into_iter().map(|found| Interface { ip: found.ip(), name: found.name });
    let chosen = choose(interfaces.collect(), bound.ip());
    Ok(chosen.into_iter().map(|ip| address::join(ip, bound.port())).collect())
}

/// Which of the machine's addresses others can be expected to reach: IPv4 first, at most `ADDRESSES_MAX`, never none.
#[must_use]
pub fn choose(interfaces: Vec<Interface>, bound: IpAddr) -> Vec<IpAddr> {
    let reachable = |interface: &Interface| !is_inner(&interface.name) && is_routable(interface.ip);
    let listened = |interface: &Interface| bound.is_ipv6() || interface.ip.is_ipv4();
    let mut chosen: Vec<IpAddr> = Vec::new();
    for interface in interfaces.iter().filter(|one| reachable(one) && listened(one)) {
        if !chosen.contains(&interface.ip) {
            chosen.push(interface.ip);
        }
    }
    chosen.sort_by_key(IpAddr::is_ipv6);
    chosen.truncate(limits::ADDRESSES_MAX);
    if chosen.is_empty() {
        chosen.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    chosen
}

/// The multiaddresses by which the `p2p` listener is known that is bound to `bound`, TCP and QUIC for each host:
/// configured ones, else the hosts of the `peer` listener.
pub(crate) fn at_p2p(
    configured: &[String],
    peer: &[String],
    bound: &[Multiaddr],
) -> Result<Vec<String>, InvalidAddress> {
    let hosts: Vec<&str> = match configured {
        [] => peer.iter().filter_map(|address| Some(address.rsplit_once(':')?.0)).collect(),
        _ => configured.iter().map(String::as_str).collect(),
    };
    let mut told = Vec::new();
    for host in hosts.into_iter().take(P2P_HOSTS_MAX) {
        let is_v6 = host.starts_with('[') || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
        if let Some(port) = bound_port(bound, is_v6, false) {
            let (host, port) = split(&address::with_port(host, port)?);
            told.extend(host.map(|host| Multiaddr::empty().with(host).with(Protocol::Tcp(port))));
        }
        if let Some(port) = bound_port(bound, is_v6, true) {
            let (host, port) = split(&address::with_port(host, port)?);
            told.extend(
                host.map(|host| Multiaddr::empty().with(host).with(Protocol::Udp(port)).with(Protocol::QuicV1)),
            );
        }
    }
    let mut texts: Vec<String> = told.iter().map(ToString::to_string).collect();
    texts.retain(|text| text.len() <= limits::ADDRESS_BYTES_MAX);
    Ok(texts)
}

/// The port of the listener for this kind of address, else for the other one: with a port that the system chose they
/// differ.
fn bound_port(bound: &[Multiaddr], is_v6: bool, is_quic: bool) -> Option<u16> {
    let port_of = |address: &Multiaddr| {
        let mut parts = address.iter();
        let family = matches!(parts.next()?, Protocol::Ip6(_));
        match parts.next()? {
            Protocol::Tcp(port) if !is_quic => Some((family, port)),
            Protocol::Udp(port) if is_quic => Some((family, port)),
            _ => None,
        }
    };
    let ports: Vec<(bool, u16)> = bound.iter().filter_map(port_of).collect();
    ports.iter().find(|(family, _)| *family == is_v6).or(ports.first()).map(|(_, port)| *port)
}

/// The parts of a checked `host:port`; no host when it is one that only this machine's links know.
fn split(address: &str) -> (Option<Protocol<'static>>, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = match bare.parse::<IpAddr>() {
        Ok(ip) => Some(Protocol::from(ip)),
        Err(_) if bare.contains('%') => None,
        Err(_) => Some(Protocol::Dns(bare.to_owned().into())),
    };
    (host, port.parse().unwrap_or_default())
}

fn is_inner(name: &str) -> bool {
    INNER_INTERFACES.iter().any(|beginning| name.starts_with(beginning))
}

fn is_routable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(interfaces: &[(&str, &str)], bound: &str, expected: &[&str]) {
        let interfaces = interfaces
            .iter()
            .map(|(name, ip)| Interface { name: (*name).to_owned(), ip: ip.parse().unwrap() })
            .collect();
        let chosen: Vec<String> = choose(interfaces, bound.parse().unwrap()).iter().map(ToString::to_string).collect();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn only_addresses_that_others_can_reach_are_told() {
        let machine = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("enp3s0", "2001:db8::7"),
            ("enp3s0", "fe80::1"),
            ("enp3s0", "10.0.0.7"),
            ("enp3s0", "10.0.0.7"),
            ("docker0", "172.17.0.1"),
            ("br-1f2e3d", "172.18.0.1"),
            ("veth12", "169.254.3.4"),
            ("cni0", "10.42.0.1"),
            ("flannel.1", "10.42.0.0"),
            ("wg0", "10.8.0.2"),
            ("tailscale0", "100.64.0.9"),
            ("tun0", "10.9.0.2"),
            ("br0", "192.168.1.5"),
        ];
        check(&machine, "::", &["10.0.0.7", "192.168.1.5", "2001:db8::7"]);
        check(&machine, "0.0.0.0", &["10.0.0.7", "192.168.1.5"]);
    }

    #[test]
    fn loopback_is_the_last_resort() {
        check(&[("lo", "127.0.0.1"), ("docker0", "172.17.0.1")], "::", &["127.0.0.1"]);
        check(&[], "0.0.0.0", &["127.0.0.1"]);
    }

    #[test]
    fn a_listener_on_one_address_is_known_by_it_and_configured_ones_win() {
        let bound: SocketAddr = "127.0.0.1:7000".parse().unwrap();
        assert_eq!(addresses(&[], bound).unwrap(), ["127.0.0.1:7000"]);
        let configured = ["node-1".to_owned(), "node-1.example:9".to_owned()];
        assert_eq!(addresses(&configured, bound).unwrap(), ["node-1:7000", "node-1.example:9"]);
        assert!(addresses(&["a b".to_owned()], bound).is_err());
    }

    #[test]
    fn the_p2p_listener_is_known_by_the_hosts_of_the_peer_listener_or_by_its_own() {
        let bound = ["/ip4/0.0.0.0/tcp/1", "/ip4/0.0.0.0/udp/2/quic-v1", "/ip6/::/tcp/3", "/ip6/::/udp/4/quic-v1"];
        let rows: [(&[&str], &[&str], &[&str]); 5] = [
            (&[], &["10.0.0.7:11436"], &["/ip4/10.0.0.7/tcp/1", "/ip4/10.0.0.7/udp/2/quic-v1"]),
            (&[], &["[2001:db8::7]:11436"], &["/ip6/2001:db8::7/tcp/3", "/ip6/2001:db8::7/udp/4/quic-v1"]),
            (&["node-1"], &["10.0.0.7:11436"], &["/dns/node-1/tcp/1", "/dns/node-1/udp/2/quic-v1"]),
            (&["node-1:9"], &[], &["/dns/node-1/tcp/9", "/dns/node-1/udp/9/quic-v1"]),
            (&[], &["[fe80::1%eth0]:11436"], &[]),
        ];
        let texts = |listed: &[&str]| listed.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let bound: Vec<Multiaddr> = bound.iter().map(|text| text.parse().unwrap()).collect();
        for (configured, peer, expected) in rows {
            let told = at_p2p(&texts(configured), &texts(peer), &bound).unwrap();
            assert_eq!(told, expected, "{configured:?} {peer:?}");
        }
        let many: Vec<String> = (1..=16).map(|host| format!("10.0.0.{host}:11436")).collect();
        assert_eq!(at_p2p(&[], &many, &bound).unwrap().len(), P2P_HOSTS_MAX * 2);
        assert!(at_p2p(&texts(&["a b"]), &[], &bound).is_err());
    }
}
