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
        let mut problems = Vec::new();
        if self.seeds.len() > limits::ADDRESSES_MAX {
            problems.push(format!("p2p.seeds: more than {} addresses", limits::ADDRESSES_MAX));
        }
        for text in &self.seeds {
            if let Err(error) = address::check(text) {
                problems.push(format!("p2p.seeds: {error}"));
            }
        }
        if !(500..=3_600_000).contains(&self.refresh_ms) {
            problems.push(format!("p2p.refresh_ms: {} is not between 500 and 3600000", self.refresh_ms));
        }
        problems
    }

    pub(crate) const fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms)
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
}
