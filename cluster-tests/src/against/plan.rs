//! What is measured, how long and in which order: decided before anything starts, so that both systems get the same.

use std::time::Duration;

use clap::ValueEnum;

/// Most connections of one load, however many clients share them.
const CONNECTIONS_MAX: usize = 16;
/// Daemons of each system.
pub(crate) const NODES: usize = 3;
/// Keys that exist before a load begins, and among which it stays.
pub(crate) const KEYS: usize = 1_000;
/// Bytes of the values that exist before a load begins.
pub(crate) const SMALL_BYTES: usize = 256;
/// Bytes of the larger values.
pub(crate) const LARGE_BYTES: usize = 10 << 10;
/// Of the mixed load, one request of this many is a put.
pub(crate) const MIXED_PUT_EVERY: usize = 10;
/// Shares of the lower system's maximum at which latency is measured, percent.
pub(crate) const OPEN_SHARES: [u32; 2] = [50, 80];

/// One of the two systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Ours,
    Etcd,
}

// === impl Which ===

impl Which {
    pub(crate) const BOTH: [Self; 2] = [Self::Ours, Self::Etcd];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ollamax",
            Self::Etcd => "etcd",
        }
    }
}

/// What every client of a load asks, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Puts of an 8-byte key and 256 bytes.
    Put,
    /// Puts of an 8-byte key and 10 KiB.
    PutLarge,
    /// Transactions: put 256 bytes if nobody else has.
    Swap,
    /// Linearizable reads of one key.
    Get,
    /// Reads of one key from the node's own state (etcd: serializable).
    GetStale,
    /// Nine linearizable reads to each put of 256 bytes.
    Mixed,
}

// === impl Case ===

impl Case {
    pub(crate) const ALL: [Self; 6] = [Self::Put, Self::PutLarge, Self::Swap, Self::Get, Self::GetStale, Self::Mixed];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put 8 B + 256 B",
            Self::PutLarge => "put 8 B + 10 KiB",
            Self::Swap => "txn compare-and-swap",
            Self::Get => "get linearizable",
            Self::GetStale => "get stale",
            Self::Mixed => "90 % get, 10 % put",
        }
    }
}

/// At which nodes a load asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    Leader,
    Any,
}

// === impl Through ===

impl Through {
    pub(crate) const BOTH: [Self; 2] = [Self::Leader, Self::Any];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Any => "any node",
        }
    }

    /// The node of each connection. Those through any node begin behind the leader, so that a single one pays the hop.
    pub(crate) fn nodes(self, leader: usize, connections: usize) -> Vec<usize> {
        (0..connections)
            .map(|number| match self {
                Self::Leader => leader,
                Self::Any => (leader + 1 + number) % NODES,
            })
            .collect()
    }
}

/// How quickly followers lose patience with a silent leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As each system comes.
    Default,
    /// Neither stands for election before one second of silence.
    OneSecond,
}

// === impl Pace ===

impl Pace {
    pub(crate) const BOTH: [Self; 2] = [Self::Default, Self::OneSecond];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default timeouts",
            Self::OneSecond => "1 s timeouts",
        }
    }
}

/// How long and how wide.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) runs: usize,
    pub(crate) warm: Duration,
    pub(crate) time: Duration,
    pub(crate) clients: Vec<usize>,
    pub(crate) cases: Vec<Case>,
    /// Trials of each kind of failover; 0: none.
    pub(crate) failovers: usize,
    /// Time of one profile of `etcdctl check perf`.
    pub(crate) perf: Duration,
}

// === impl Plan ===

impl Plan {
    /// The systems in the order in which they are measured: one, the other, and again for each run.
    pub(crate) fn order(&self) -> impl Iterator<Item = Which> {
        (0..self.runs).flat_map(|_| Which::BOTH)
    }
}

/// Connections that this many clients share.
pub(crate) const fn connections(clients: usize) -> usize {
    if clients < CONNECTIONS_MAX { clients } else { CONNECTIONS_MAX }
}

/// Requests per second at which both are asked: a share of what the slower one reaches. `None`: one reached nothing.
pub(crate) fn open_rate(maxima: [f64; 2], share: u32) -> Option<f64> {
    let lower = maxima.into_iter().fold(f64::INFINITY, f64::min);
    (lower.is_finite() && lower > 0.0).then(|| lower * f64::from(share) / 100.0)
}

/// A key of eight bytes.
pub(crate) fn key(number: usize) -> String {
    format!("user/{:03}", number % KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(runs: usize) -> Plan {
        let time = Duration::from_secs(1);
        let (clients, cases) = (vec![1], vec![Case::Put]);
        Plan { runs, warm: time, time, clients, cases, failovers: 0, perf: time }
    }

    #[test]
    fn the_systems_take_turns() {
        use Which::{Etcd, Ours};
        assert_eq!(plan(1).order().collect::<Vec<_>>(), [Ours, Etcd]);
        assert_eq!(plan(3).order().collect::<Vec<_>>(), [Ours, Etcd, Ours, Etcd, Ours, Etcd]);
    }

    #[test]
    fn clients_share_sixteen_connections() {
        let found: Vec<usize> = [1, 8, 16, 64, 256].into_iter().map(connections).collect();
        assert_eq!(found, [1, 8, 16, 16, 16]);
    }

    #[test]
    fn any_node_means_a_follower_first_and_then_all_alike() {
        assert_eq!(Through::Leader.nodes(2, 3), [2, 2, 2]);
        assert_eq!(Through::Any.nodes(2, 1), [0]);
        assert_eq!(Through::Any.nodes(0, 4), [1, 2, 0, 1]);
    }

    #[test]
    fn an_open_load_follows_the_slower_system() {
        assert_eq!(open_rate([1_000.0, 400.0], 50), Some(200.0));
        assert_eq!(open_rate([300.0, 400.0], 80), Some(240.0));
        assert_eq!(open_rate([0.0, 400.0], 50), None);
        assert_eq!(open_rate([f64::INFINITY, f64::INFINITY], 50), None);
    }

    #[test]
    fn keys_are_eight_bytes_and_begin_with_the_prefix_of_ours() {
        assert_eq!((key(7).as_str(), key(1_007).as_str()), ("user/007", "user/007"));
        assert!((0..KEYS).all(|number| key(number).len() == 8));
    }
}
