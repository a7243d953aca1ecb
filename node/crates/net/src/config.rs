//! The numbers and names of the `peer` and `p2p` listeners.
//!
//! Only what the file says; [`Config::validate`] names every problem at once. Nothing here opens a socket.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_types::limits;

use crate::address;
use crate::twins;

/// Most addresses to join by.
const STATIC_PEERS_MAX: usize = 64;
/// Fewest bytes that a limit on circuits may leave: less would cut every answer.
const CIRCUIT_BYTES_LEAST: u64 = 1 << 20;

/// Both listeners.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// TLS over TCP between nodes.
    pub peer: PeerConfig,
    /// Discovery.
    pub p2p: P2pConfig,
}

/// The `peer` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// Where to listen. `[::]` takes IPv4 too. Since 0.1.
    pub listen: SocketAddr,
    /// What others shall dial, `host` or `host:port`; empty: this machine's addresses, without those of containers and
    /// VPNs. Since 0.1.
    pub advertise: Vec<String>,
    /// Longest wait for a TCP connection to one address, ms. Since 0.1.
    pub connect_timeout_ms: u64,
    /// Longest TLS handshake with greeting, either side, ms. Since 0.1.
    pub handshake_timeout_ms: u64,
    /// Wait before the next address of a node is tried beside the first, ms. Since 0.1.
    pub stagger_ms: u64,
    /// How long a failed dial answers for further requests to the same node, ms. Since 0.1.
    pub redial_after_ms: u64,
    /// Time between two keep-alive pings on a connection, ms. Since 0.1.
    pub ping_interval_ms: u64,
    /// Longest wait for the answer to a ping before the connection is given up, ms. Since 0.1.
    pub ping_timeout_ms: u64,
    /// Most handshakes at once on the listener. Since 0.1.
    pub handshakes_max: usize,
    /// Most open connections on the listener. Since 0.1.
    pub connections_max: usize,
    /// Most of them from keys that are no members. Since 0.1.
    pub strangers_max: usize,
    /// How long a key that is no member may stay connected, ms. Since 0.1.
    pub stranger_lifetime_ms: u64,
    /// Flow-control window of one stream, bytes. Since 0.1.
    pub stream_window_bytes: u32,
    /// Flow-control window of one connection, bytes. Since 0.1.
    pub connection_window_bytes: u32,
    /// Most requests at once on one connection. Since 0.1.
    pub streams_max: u32,
    /// How long open connections may finish their streams when the node stops, ms. Since 0.1.
    pub drain_ms: u64,
}

/// The `p2p` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct P2pConfig {
    /// Where to listen, TCP and UDP (QUIC). Since 0.1.
    pub listen: SocketAddr,
    /// Whether to look for nodes on the local network by multicast DNS. Since 0.1.
    pub mdns: bool,
    /// `host:port` of other nodes' `p2p` listeners, asked at start and then regularly. Since 0.1.
    pub seeds: Vec<String>,
    /// Time between two questions to each known node, ms. Since 0.1.
    pub refresh_ms: u64,
    /// What others shall dial here, `host` or `host:port`; empty: the hosts of `peer.advertise` with this port. Since
    /// 0.1.
    pub advertise: Vec<String>,
    /// `host:port` of `peer` listeners to join by. When any is named, nothing is discovered: no multicast DNS, no
    /// seeds. Since 0.1.
    pub static_peers: Vec<String>,
    /// Whether libp2p streams carry what TCP cannot: to and from nodes that cannot be dialled. Since 0.1.
    pub lanes: bool,
    /// Whether others can dial this node here: `auto` finds out, `direct` and `relayed` are the answer. Since 0.1.
    pub reach: ReachWish,
    /// Whether a connection through a relay tries to become a direct one. Since 0.1.
    pub punch: bool,
    /// Whether this node relays for other members. Since 0.1.
    pub relay: bool,
    /// Relays that a node asks which cannot be dialled. Since 0.1.
    pub relays_wanted: usize,
    /// Most members that this node keeps a place for as their relay; more than the cluster has. Since 0.1.
    pub relay_reservations_max: usize,
    /// Most circuits at once through this node. Since 0.1.
    pub relay_circuits_max: usize,
    /// Most circuits at once of one member through this node. Since 0.1.
    pub relay_circuits_per_member_max: usize,
    /// Most bytes of one circuit, both directions together; 0: no limit. Since 0.1.
    pub relay_circuit_bytes_max: u64,
    /// Longest life of one circuit, s. Since 0.1.
    pub relay_circuit_s_max: u32,
    /// Time between two tries to reach a node directly that is reached in another way, ms. Since 0.1.
    pub direct_again_ms: u64,
    /// Time between two pings on a libp2p connection, ms. Since 0.1.
    pub ping_interval_ms: u64,
}

/// What the configuration says of whether others can dial this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReachWish {
    /// Other members try, and tell.
    #[default]
    Auto,
    /// They can.
    Direct,
    /// They cannot; relays are asked.
    Relayed,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 11_436)),
            advertise: Vec::new(),
            connect_timeout_ms: 1_000,
            handshake_timeout_ms: 2_000,
            stagger_ms: 200,
            redial_after_ms: 200,
            ping_interval_ms: 5_000,
            ping_timeout_ms: 3_000,
            handshakes_max: 256,
            connections_max: 4_096,
            strangers_max: 64,
            stranger_lifetime_ms: 60_000,
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            streams_max: 4_096,
            drain_ms: 5_000,
        }
    }
}

impl Default for P2pConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 11_437)),
            mdns: true,
            seeds: Vec::new(),
            refresh_ms: 30_000,
            advertise: Vec::new(),
            static_peers: Vec::new(),
            lanes: true,
            reach: ReachWish::default(),
            punch: true,
            relay: true,
            relays_wanted: 2,
            relay_reservations_max: 1_024,
            relay_circuits_max: 256,
            relay_circuits_per_member_max: 32,
            relay_circuit_bytes_max: 1 << 40,
            relay_circuit_s_max: 86_400,
            direct_again_ms: 30_000,
            ping_interval_ms: 15_000,
        }
    }
}

impl Config {
    /// Everything that is wrong, one sentence each with its key; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        [self.peer.validate(), self.p2p.validate()].concat()
    }
}

impl PeerConfig {
    /// Everything that is wrong, one sentence each with its key; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.advertise.len() > limits::ADDRESSES_MAX {
            problems.push(format!("peer.advertise: more than {} addresses", limits::ADDRESSES_MAX));
        }
        for text in &self.advertise {
            if let Err(error) = address::with_port(text, 1) {
                problems.push(format!("peer.advertise: {error}"));
            }
        }
        let numbers = [
            ("connect_timeout_ms", self.connect_timeout_ms, 50, 60_000),
            ("handshake_timeout_ms", self.handshake_timeout_ms, 50, 60_000),
            ("stagger_ms", self.stagger_ms, 10, 10_000),
            ("redial_after_ms", self.redial_after_ms, 1, 10_000),
            ("ping_interval_ms", self.ping_interval_ms, 100, 600_000),
            ("ping_timeout_ms", self.ping_timeout_ms, 100, 600_000),
            ("handshakes_max", self.handshakes_max as u64, 1, 65_536),
            ("connections_max", self.connections_max as u64, 8, 1 << 20),
            ("strangers_max", self.strangers_max as u64, 1, 65_536),
            ("stranger_lifetime_ms", self.stranger_lifetime_ms, 1_000, 3_600_000),
            ("stream_window_bytes", u64::from(self.stream_window_bytes), 65_535, 1 << 30),
            ("connection_window_bytes", u64::from(self.connection_window_bytes), 65_535, 1 << 30),
            ("streams_max", u64::from(self.streams_max), 8, 1 << 20),
            ("drain_ms", self.drain_ms, 0, 600_000),
        ];
        for (key, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                problems.push(format!("peer.{key}: {value} is not between {least} and {most}"));
            }
        }
        problems
    }

    pub(crate) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) const fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub(crate) const fn stagger(&self) -> Duration {
        Duration::from_millis(self.stagger_ms)
    }

    pub(crate) const fn redial_after(&self) -> Duration {
        Duration::from_millis(self.redial_after_ms)
    }

    /// How long another process with the same key has to show that it lives: half of what a handshake may take, so
    /// that the answer still arrives within it.
    pub(crate) fn twin_window(&self) -> Duration {
        twins::WINDOW.min(self.handshake_timeout() / 2)
    }

    pub(crate) const fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }

    pub(crate) const fn ping_timeout(&self) -> Duration {
        Duration::from_millis(self.ping_timeout_ms)
    }

    pub(crate) const fn stranger_lifetime(&self) -> Duration {
        Duration::from_millis(self.stranger_lifetime_ms)
    }

    pub(crate) const fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

impl P2pConfig {
    /// Everything that is wrong, one sentence each with its key; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = self.problems_of_lists();
        let numbers = [
            ("refresh_ms", self.refresh_ms, 500, 3_600_000),
            ("relays_wanted", self.relays_wanted as u64, 1, 4),
            ("relay_reservations_max", self.relay_reservations_max as u64, 8, 65_536),
            ("relay_circuits_max", self.relay_circuits_max as u64, 1, 65_536),
            ("relay_circuits_per_member_max", self.relay_circuits_per_member_max as u64, 1, 65_536),
            ("relay_circuit_s_max", u64::from(self.relay_circuit_s_max), 60, 2_592_000),
            ("direct_again_ms", self.direct_again_ms, 500, 3_600_000),
            ("ping_interval_ms", self.ping_interval_ms, 500, 600_000),
        ];
        for (key, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                problems.push(format!("p2p.{key}: {value} is not between {least} and {most}"));
            }
        }
        let bytes = self.relay_circuit_bytes_max;
        if bytes != 0 && bytes < CIRCUIT_BYTES_LEAST {
            problems.push(format!(
                "p2p.relay_circuit_bytes_max: {bytes} is neither 0 (no limit) nor at least {CIRCUIT_BYTES_LEAST}"
            ));
        }
        problems
    }

    fn problems_of_lists(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let lists = [
            ("seeds", &self.seeds, limits::ADDRESSES_MAX),
            ("advertise", &self.advertise, limits::ADDRESSES_MAX),
            ("static_peers", &self.static_peers, STATIC_PEERS_MAX),
        ];
        for (key, listed, most) in lists {
            if listed.len() > most {
                problems.push(format!("p2p.{key}: more than {most} addresses"));
            }
            for text in listed {
                let checked = match key {
                    "advertise" => address::with_port(text, 1).map(drop),
                    _ => address::check(text),
                };
                if let Err(error) = checked {
                    problems.push(format!("p2p.{key}: {error}"));
                }
            }
        }
        if self.is_static() && !self.seeds.is_empty() {
            problems.push("p2p.seeds: not together with p2p.static_peers".to_owned());
        }
        problems
    }

    /// Nothing is discovered.
    pub(crate) const fn is_static(&self) -> bool {
        !self.static_peers.is_empty()
    }

    pub(crate) const fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms)
    }

    pub(crate) const fn direct_again(&self) -> Duration {
        Duration::from_millis(self.direct_again_ms)
    }

    pub(crate) const fn ping_interval(&self) -> Duration {
        Duration::from_millis(self.ping_interval_ms)
    }

    pub(crate) const fn relay_circuit_life_max(&self) -> Duration {
        Duration::from_secs(self.relay_circuit_s_max as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_named_with_its_key() {
        let mut config = Config::default();
        config.peer.advertise = vec!["no spaces here".to_owned()];
        config.peer.connect_timeout_ms = 0;
        config.peer.strangers_max = 0;
        config.p2p.seeds = vec!["host-without-port".to_owned()];
        let problems = config.validate();
        for key in ["peer.advertise", "peer.connect_timeout_ms", "peer.strangers_max", "p2p.seeds"] {
            assert!(problems.iter().any(|line| line.starts_with(key)), "{key}: {problems:?}");
        }
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn every_number_of_the_p2p_listener_is_bounded() {
        type Row = (&'static str, fn(&mut P2pConfig));
        let rows: [Row; 12] = [
            ("refresh_ms", |config| config.refresh_ms = 0),
            ("advertise", |config| config.advertise = vec!["a b".to_owned()]),
            ("advertise", |config| config.advertise = vec!["a".to_owned(); limits::ADDRESSES_MAX + 1]),
            ("static_peers", |config| config.static_peers = vec!["host-without-port".to_owned()]),
            ("relays_wanted", |config| config.relays_wanted = 5),
            ("relay_reservations_max", |config| config.relay_reservations_max = 7),
            ("relay_circuits_max", |config| config.relay_circuits_max = 0),
            ("relay_circuits_per_member_max", |config| config.relay_circuits_per_member_max = 0),
            ("relay_circuit_bytes_max", |config| config.relay_circuit_bytes_max = CIRCUIT_BYTES_LEAST - 1),
            ("relay_circuit_s_max", |config| config.relay_circuit_s_max = 59),
            ("direct_again_ms", |config| config.direct_again_ms = 499),
            ("ping_interval_ms", |config| config.ping_interval_ms = 600_001),
        ];
        for (key, change) in rows {
            let mut config = P2pConfig::default();
            change(&mut config);
            let problems = config.validate();
            let is_named = problems.iter().all(|line| line.starts_with(&format!("p2p.{key}: ")));
            assert!(problems.len() == 1 && is_named, "{key}: {problems:?}");
        }
        let unlimited = P2pConfig { relay_circuit_bytes_max: 0, ..P2pConfig::default() };
        assert_eq!(unlimited.validate(), Vec::<String>::new());
    }

    #[test]
    fn seeds_and_static_peers_exclude_each_other() {
        let listed = || vec!["a.example:1".to_owned()];
        let mut config = P2pConfig { static_peers: listed(), ..P2pConfig::default() };
        assert_eq!(config.validate(), Vec::<String>::new());
        config.seeds = listed();
        assert_eq!(config.validate(), ["p2p.seeds: not together with p2p.static_peers"]);
    }
}
