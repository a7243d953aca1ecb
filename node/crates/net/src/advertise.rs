//! What others shall dial: the addresses that a listener is known by.
//!
//! The configured list is taken as it is. Otherwise a listener on one address is known by that address, and a listener
//! on all of them by those of the machine's interfaces, without loopback, link-local, container and VPN ones: other
//! machines cannot reach those, or reach another machine by them. Loopback is the last resort.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ollamax_types::limits;

use crate::address::{self, InvalidAddress};

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
}
