//! What this crate counts (`gauges.rs` has what it is at, `quotas.rs` how much room values take). Names start with
//! `ollamax_raft_`; times are seconds.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

/// How a proposal ended, as the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    Refused,
    NoQuorum,
    Unknown,
    Rejected,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Committed, Self::Refused, Self::NoQuorum, Self::Unknown, Self::Rejected];

    const fn label(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::NoQuorum => "no_quorum",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        }
    }
}

/// The metrics of one node's consensus. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) leader_changes: IntCounter,
    proposals: IntCounterVec,
    commit_seconds: Histogram,
    apply_seconds: Histogram,
    applied_entries: IntCounter,
    pub(crate) snapshots_built: IntCounter,
    pub(crate) snapshots_installed: IntCounter,
    pub(crate) snapshots_resumed: IntCounter,
    pub(crate) snapshot_bytes_sent: IntCounter,
    pub(crate) snapshot_bytes_received: IntCounter,
}

const LATENCY_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.25, 0.5, 2.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let proposals = IntCounterVec::new(
            Opts::new("ollamax_raft_proposals_total", "Changes proposed through this node, by outcome"),
            &["outcome"],
        )
        .expect("the name and label are valid");
        // Shown from the start, so that whoever computes rates has a first value.
        for outcome in Outcome::ALL {
            proposals.with_label_values(&[outcome.label()]);
        }
        Self {
            proposals,
            leader_changes: counter("leader_changes_total", "Times that another leader was seen"),
            commit_seconds: histogram("commit_seconds", "From proposal to answer, on the leader"),
            apply_seconds: histogram("apply_seconds", "Time to apply one batch"),
            applied_entries: counter("applied_entries_total", "Entries applied"),
            snapshots_built: counter("snapshots_built_total", "Snapshots taken"),
            snapshots_installed: counter("snapshots_installed_total", "Snapshots received and installed"),
            snapshots_resumed: counter("snapshots_resumed_total", "Snapshots sent on from where they had broken off"),
            snapshot_bytes_sent: counter("snapshot_bytes_sent_total", "Bytes of snapshots sent"),
            snapshot_bytes_received: counter("snapshot_bytes_received_total", "Bytes of snapshots received"),
        }
    }

    /// Adds all of them to a registry.
    ///
    /// # Errors
    /// When the registry holds one of the names already.
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let all: [Box<dyn Collector>; 10] = [
            Box::new(self.leader_changes.clone()),
            Box::new(self.proposals.clone()),
            Box::new(self.commit_seconds.clone()),
            Box::new(self.apply_seconds.clone()),
            Box::new(self.applied_entries.clone()),
            Box::new(self.snapshots_built.clone()),
            Box::new(self.snapshots_installed.clone()),
            Box::new(self.snapshots_resumed.clone()),
            Box::new(self.snapshot_bytes_sent.clone()),
            Box::new(self.snapshot_bytes_received.clone()),
        ];
        all.into_iter().try_for_each(|collector| registry.register(collector))
    }

    pub(crate) fn proposed(&self, outcome: Outcome) {
        self.proposals.with_label_values(&[outcome.label()]).inc();
    }

    pub(crate) fn committed(&self, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn applied(&self, entries: usize, took: Duration) {
        self.applied_entries.inc_by(entries as u64);
        self.apply_seconds.observe(took.as_secs_f64());
    }
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(format!("ollamax_raft_{name}"), help).expect("the name is valid")
}

fn histogram(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(format!("ollamax_raft_{name}"), help).buckets(LATENCY_BUCKETS.to_vec());
    Histogram::with_opts(options).expect("the name and buckets are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_registered_once_under_their_own_names() {
        let registry = Registry::new();
        let metrics = Metrics::new();
        metrics.register(&registry).expect("fresh registry");
        let names: std::collections::BTreeSet<_> =
            registry.gather().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names.len(), 10, "{names:?}");
        assert!(metrics.register(&registry).is_err());
    }
}
