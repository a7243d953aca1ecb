//! The numbers of consensus. Times are milliseconds.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_core::catalog::CLUSTER_VERSION;

/// `[raft]` in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often the leader lets its followers know that it lives, ms.
    pub heartbeat_ms: u64,
    /// Least random wait of a follower beyond the leader's lease before it stands for election, ms.
    pub election_min_ms: u64,
    /// Most; also the leader's lease, ms.
    pub election_max_ms: u64,
    /// Entries applied between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept in the log below the last snapshot, for followers that are a little behind.
    pub keep_log: u64,
    /// Most entries in one message to a follower.
    pub append_entries_max: u64,
    /// Most bytes of entries in one message to a follower (one entry always fits).
    pub append_bytes_max: u64,
    /// Longest silence of a peer while a snapshot is sent or received, ms.
    pub snapshot_idle_ms: u64,
    /// How often the leader compares members, learners and voters, ms.
    pub autopilot_ms: u64,
    /// The highest cluster version that this node lets the cluster go to; 0: the highest that its release applies. Hold
    /// it back to be able to return to the release before. Since 0.1.
    pub version_max: u32,
    /// How long a stopping leader waits for somebody to take over, ms.
    pub hand_over_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat_ms: 250,
            election_min_ms: 500,
            election_max_ms: 650,
            snapshot_every: 10_000,
            keep_log: 5_000,
            append_entries_max: 300,
            append_bytes_max: 1 << 20,
            snapshot_idle_ms: 30_000,
            autopilot_ms: 500,
            version_max: 0,
            hand_over_ms: 2_000,
        }
    }
}

impl Config {
    /// Every problem of these numbers, each as one line that names the key. Empty: they can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let rules = [
            (self.heartbeat_ms >= 10, "raft.heartbeat_ms must be at least 10"),
            (
                self.election_min_ms >= self.heartbeat_ms.saturating_mul(2),
                "raft.election_min_ms must be at least twice raft.heartbeat_ms",
            ),
            (
                self.election_max_ms > self.election_min_ms,
                "raft.election_max_ms must be greater than raft.election_min_ms",
            ),
            (self.election_max_ms <= 600_000, "raft.election_max_ms must be at most 600000"),
            (self.snapshot_every >= 1, "raft.snapshot_every must be at least 1"),
            (self.snapshot_every <= 10_000_000, "raft.snapshot_every must be at most 10000000"),
            (self.keep_log <= 10_000_000, "raft.keep_log must be at most 10000000"),
            ((1..=10_000).contains(&self.append_entries_max), "raft.append_entries_max must be between 1 and 10000"),
            (
                (1 << 16..=1 << 24).contains(&self.append_bytes_max),
                "raft.append_bytes_max must be between 65536 and 16777216",
            ),
            (self.snapshot_idle_ms >= 1_000, "raft.snapshot_idle_ms must be at least 1000"),
            (self.autopilot_ms >= 50, "raft.autopilot_ms must be at least 50"),
            (self.version_max <= CLUSTER_VERSION, "raft.version_max is more than this release applies"),
            (self.hand_over_ms <= 30_000, "raft.hand_over_ms must be at most 30000"),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, problem)| problem.to_owned()).collect()
    }

    /// Whether a sign of life that is this old is still taken for the present: one heartbeat may come late or be lost.
    pub(crate) const fn is_fresh(&self, silence_ms: u64) -> bool {
        silence_ms <= self.heartbeat_ms.saturating_mul(2)
    }

    /// The highest cluster version that this node applies.
    #[must_use]
    pub const fn release(&self) -> u32 {
        if self.version_max == 0 || self.version_max > CLUSTER_VERSION { CLUSTER_VERSION } else { self.version_max }
    }

    /// The leader's lease: without a majority's answer for this long, nobody may count on its word.
    pub(crate) const fn lease(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }

    pub(crate) const fn snapshot_idle(&self) -> Duration {
        Duration::from_millis(self.snapshot_idle_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let bad = Config { heartbeat_ms: 1, election_min_ms: 1, election_max_ms: 1, ..Config::default() };
        let problems = bad.validate();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().all(|line| line.starts_with("raft.")));
    }
}
