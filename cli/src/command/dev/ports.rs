//! Ports that stay the same across restarts and that the system gives to nobody else by chance.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

/// Where ports are drawn from: below the ephemeral range of Linux and macOS.
const CANDIDATES: RangeInclusive<u16> = 20_000..=31_999;

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) peer: u16,
    pub(crate) p2p: u16,
    pub(crate) runtime: u16,
}

/// Draws free ports for one node, none of them in `taken`, starting at a place that depends on `salt`.
pub(crate) fn draw(salt: u64, taken: &mut BTreeSet<u16>) -> Option<Ports> {
    let span = u64::from(CANDIDATES.end() - CANDIDATES.start());
    let first = CANDIDATES.start() + u16::try_from(salt % span).unwrap_or(0);
    let mut candidates = (first..=*CANDIDATES.end()).chain(*CANDIDATES.start()..first);
    let mut next = || {
        let port = candidates.find(|port| !taken.contains(port) && is_free(*port))?;
        taken.insert(port);
        Some(port)
    };
    Some(Ports { api: next()?, peer: next()?, p2p: next()?, runtime: next()? })
}

/// Whether nobody listens there on loopback or on all addresses.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_ports_are_distinct_free_and_outside_the_ephemeral_range() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
        assert!(!is_free(held.local_addr().expect("bound").port()));
        let mut taken = BTreeSet::new();
        for salt in [0, 7, u64::MAX] {
            draw(salt, &mut taken).expect("ports");
        }
        assert_eq!(taken.len(), 12);
        assert!(taken.iter().all(|port| CANDIDATES.contains(port)));
    }
}
