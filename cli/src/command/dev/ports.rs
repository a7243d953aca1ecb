//! Ports that stay the same across restarts and that the system gives to nobody else by chance.
//!
//! A port of the ephemeral range can be taken by any outgoing connection between a node's end and its next start, so
//! none is drawn from it. Linux says where the range lies and administrators move it; what cannot be read is taken to
//! be as Linux has it by default, and the candidates lie below that of macOS too.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

/// Where ports are drawn from, as far as they are not ephemeral.
pub(crate) const CANDIDATES: RangeInclusive<u16> = 20_000..=31_999;
/// First and last ephemeral port of this machine, on Linux; for IPv6 too.
const EPHEMERAL_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// What stands there when nobody has changed it.
const EPHEMERAL_DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// The ports of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) peer: u16,
    pub(crate) p2p: u16,
    pub(crate) runtime: u16,
}

/// Draws free ports for one node, none of them ephemeral or in `taken`, starting at a place that depends on `salt`.
pub(crate) fn draw(salt: u64, taken: &mut BTreeSet<u16>) -> Option<Ports> {
    let text = fs::read_to_string(EPHEMERAL_FILE).unwrap_or_default();
    let ephemeral = range(&text).unwrap_or(EPHEMERAL_DEFAULT);
    let mut candidates = candidates(salt, &ephemeral).into_iter();
    let mut next = || {
        let port = candidates.find(|port| !taken.contains(port) && is_free(*port))?;
        taken.insert(port);
        Some(port)
    };
    Some(Ports { api: next()?, peer: next()?, p2p: next()?, runtime: next()? })
}

/// Every port that may be taken, in the order in which they are tried.
fn candidates(salt: u64, ephemeral: &RangeInclusive<u16>) -> Vec<u16> {
    let mut ports: Vec<u16> = CANDIDATES.filter(|port| !ephemeral.contains(port)).collect();
    let first = salt.checked_rem(ports.len() as u64).unwrap_or(0);
    ports.rotate_left(usize::try_from(first).unwrap_or(0));
    ports
}

/// The two numbers of `ip_local_port_range`; `None` when it is anything else.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(|word| word.parse::<u16>().ok());
    let (first, last) = (words.next()??, words.next()??);
    (words.next().is_none() && first <= last).then_some(first..=last)
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
        let text = fs::read_to_string(EPHEMERAL_FILE).unwrap_or_default();
        let ephemeral = range(&text).unwrap_or(EPHEMERAL_DEFAULT);
        assert!(taken.iter().all(|port| CANDIDATES.contains(port) && !ephemeral.contains(port)), "{taken:?}");
    }

    #[test]
    fn what_the_system_gives_away_is_never_a_candidate() {
        let check = |ephemeral: RangeInclusive<u16>, salt: u64, first: &[u16], count: usize| {
            let found = candidates(salt, &ephemeral);
            assert!(!found.iter().any(|port| ephemeral.contains(port)), "{ephemeral:?}");
            assert_eq!((&found[..first.len()], found.len()), (first, count), "{ephemeral:?}");
        };
        check(EPHEMERAL_DEFAULT, 0, &[20_000, 20_001], 12_000);
        check(EPHEMERAL_DEFAULT, 11_999, &[31_999, 20_000], 12_000);
        check(EPHEMERAL_DEFAULT, 12_001, &[20_001, 20_002], 12_000);
        check(30_000..=65_535, 9_999, &[29_999, 20_000], 10_000);
        check(10_000..=25_000, 0, &[25_001, 25_002], 6_999);
        check(20_002..=31_998, 1, &[20_001, 31_999, 20_000], 3);
        check(1_024..=65_535, 5, &[], 0);
    }

    #[test]
    fn the_systems_range_is_read_or_not_believed() {
        let check = |text: &str, expected: Option<RangeInclusive<u16>>| assert_eq!(range(text), expected, "{text:?}");
        check("32768\t60999\n", Some(32_768..=60_999));
        check("1024 65535", Some(1_024..=65_535));
        for text in ["", "32768", "60999 32768", "32768 70000", "a b", "1 2 3"] {
            check(text, None);
        }
    }
}
