//! Which nodes may be asked for bytes: strikes, quarantine, probation.
//!
//! A strike is a piece that a node sent and that is not what it must be. So many of them, and the node is asked for
//! nothing for a while; each further quarantine takes twice as long, up to the longest. Who comes out of one has a
//! single strike left. Strikes are forgiven one by one, for good pieces or for time without a strike; when none is
//! left, all is forgotten. Always holds: a node that sends good pieces alone is never in quarantine, every quarantine
//! ends, and what one node does changes nothing for another. A clock that goes back forgives nothing.

use std::collections::BTreeMap;

use ollamax_types::NodeId;

/// The numbers of trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// So many strikes are a quarantine; at least 1.
    pub strikes_max: u32,
    /// How long the first quarantine takes, milliseconds.
    pub first_ms: u64,
    /// How long a quarantine takes at most, milliseconds.
    pub longest_ms: u64,
    /// One strike is forgiven for so many good pieces without another strike.
    pub forgive_chunks: u32,
    /// One strike is forgiven for so long without another, milliseconds. Time in quarantine does not count.
    pub forgive_ms: u64,
}

/// What is known of the nodes that sent damaged pieces.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    peers: BTreeMap<NodeId, Standing>,
}

/// What a strike leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The node is asked as before.
    Counted {
        /// How many of its strikes count by now.
        strikes: u32,
    },
    /// The node is asked for nothing from now on.
    Quarantined {
        /// Until then, milliseconds.
        until_ms: u64,
    },
}

/// A node that is asked for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantined {
    /// Which.
    pub peer: NodeId,
    /// Until then, milliseconds.
    pub until_ms: u64,
    /// Its strikes, those among them that were forgiven since.
    pub strikes: u32,
}

/// What is known of one node.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// Strikes that count.
    strikes: u32,
    /// Strikes in all, since nothing was known of it.
    all: u32,
    /// Good pieces since the last strike, or since one was forgiven for them.
    good: u32,
    /// Since when it has sent nothing damaged, or since when one was forgiven for that.
    calm_since_ms: u64,
    /// When its last quarantine ends or ended.
    until_ms: u64,
    /// How many quarantines are not forgotten.
    times: u32,
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        Self {
            strikes_max: 3,
            first_ms: 600_000,
            longest_ms: 86_400_000,
            forgive_chunks: 1_000,
            forgive_ms: 86_400_000,
        }
    }
}

impl Rules {
    /// How long the quarantine behind so many others takes.
    fn length_ms(&self, times: u32) -> u64 {
        let doubled = 1_u64.checked_shl(times).and_then(|factor| self.first_ms.checked_mul(factor));
        doubled.unwrap_or(self.longest_ms).min(self.longest_ms)
    }
}

// === impl Trust ===

impl Trust {
    /// A node sent a damaged piece. What comes of it while the node is in quarantine was mostly asked before, and makes
    /// that no longer.
    pub fn strike(&mut self, rules: &Rules, now_ms: u64, peer: NodeId) -> Verdict {
        self.peers.retain(|_, standing| !standing.settle(rules, now_ms));
        let standing = self.peers.entry(peer).or_default();
        standing.all = standing.all.saturating_add(1);
        standing.good = 0;
        if standing.until_ms > now_ms {
            return Verdict::Counted { strikes: standing.strikes };
        }
        standing.strikes = standing.strikes.saturating_add(1);
        standing.calm_since_ms = standing.calm_since_ms.max(now_ms);
        if standing.strikes < rules.strikes_max {
            return Verdict::Counted { strikes: standing.strikes };
        }
        standing.until_ms = now_ms.saturating_add(rules.length_ms(standing.times));
        standing.times = standing.times.saturating_add(1);
        standing.calm_since_ms = standing.until_ms;
        // On probation: one more is enough.
        standing.strikes = rules.strikes_max.saturating_sub(1);
        Verdict::Quarantined { until_ms: standing.until_ms }
    }

    /// A node sent good pieces.
    pub fn good(&mut self, rules: &Rules, now_ms: u64, peer: NodeId, chunks: u32) {
        let Some(standing) = self.peers.get_mut(&peer) else { return };
        standing.good = standing.good.saturating_add(chunks);
        if standing.settle(rules, now_ms) {
            self.peers.remove(&peer);
        }
    }

    /// Whether a node may be asked.
    #[must_use]
    pub fn may_ask(&self, now_ms: u64, peer: NodeId) -> bool {
        self.peers.get(&peer).is_none_or(|standing| standing.until_ms <= now_ms)
    }

    /// The nodes that may not be asked, in order.
    #[must_use]
    pub fn quarantined(&self, now_ms: u64) -> Vec<Quarantined> {
        let shut = self.peers.iter().filter(|(_, standing)| standing.until_ms > now_ms);
        let told = |(peer, standing): (&NodeId, &Standing)| {
            let Standing { until_ms, all, .. } = *standing;
            Quarantined { peer: *peer, until_ms, strikes: all }
        };
        shut.map(told).collect()
    }
}

// === impl Standing ===

impl Standing {
    /// Forgives what good pieces and time have earned. Whether nothing is left to be remembered.
    fn settle(&mut self, rules: &Rules, now_ms: u64) -> bool {
        let forgive_ms = rules.forgive_ms.max(1);
        let by_time = now_ms.saturating_sub(self.calm_since_ms) / forgive_ms;
        let by_chunks = self.good / rules.forgive_chunks.max(1);
        self.calm_since_ms = self.calm_since_ms.saturating_add(by_time.saturating_mul(forgive_ms));
        self.good %= rules.forgive_chunks.max(1);
        let forgiven = by_chunks.saturating_add(u32::try_from(by_time).unwrap_or(u32::MAX));
        self.strikes = self.strikes.saturating_sub(forgiven);
        forgiven > 0 && self.strikes == 0 && self.until_ms <= now_ms
    }
}

#[cfg(test)]
mod tests;
