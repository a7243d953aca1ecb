//! What consensus is at, as gauges. They are read when somebody asks for them: openraft tells of itself many times a
//! second, and a copy of each telling would keep an idle node awake.
//!
//! Always: after consensus is gone the last values stay.

use std::sync::Weak;

use prometheus::core::{Collector, Desc};
use prometheus::{IntGauge, proto::MetricFamily};

use crate::handle::{Handle, Inner};

/// The gauges of one node's consensus.
pub(crate) struct Gauges {
    consensus: Weak<Inner>,
    term: IntGauge,
    is_leader: IntGauge,
    applied_index: IntGauge,
    committed_index: IntGauge,
    last_log_index: IntGauge,
    log_entries: IntGauge,
    healthy_nodes: IntGauge,
    failure_tolerance: IntGauge,
    compared_index: IntGauge,
    deviates: IntGauge,
    deviating_nodes: IntGauge,
    undecided: IntGauge,
}

// === impl Gauges ===

impl Gauges {
    pub(crate) fn new(consensus: Weak<Inner>) -> Self {
        Self {
            consensus,
            term: gauge("term", "Current term"),
            is_leader: gauge("is_leader", "1 while this node leads"),
            applied_index: gauge("applied_index", "Index applied"),
            committed_index: gauge("committed_index", "Index known to be committed"),
            last_log_index: gauge("last_log_index", "Index of the last entry in the log"),
            log_entries: gauge("log_entries", "Entries that the log holds"),
            healthy_nodes: gauge("healthy_nodes", "On the leader: nodes that are heard and have the log; 0 elsewhere"),
            failure_tolerance: gauge(
                "failure_tolerance",
                "On the leader: voters that may still fail before nothing can be changed; 0 elsewhere",
            ),
            compared_index: gauge("state_compared_index", "Newest index at which the nodes' states were compared"),
            deviates: gauge("state_deviates", "1 while this node's state differs from that of the majority"),
            deviating_nodes: gauge("state_deviating_nodes", "Nodes whose state differs from that of the majority"),
            undecided: gauge("state_undecided", "1 while the voters' states differ and none has a majority"),
        }
    }

    fn all(&self) -> [&IntGauge; 12] {
        let Self { term, is_leader, applied_index, committed_index, last_log_index, log_entries, .. } = self;
        let Self { healthy_nodes, failure_tolerance, compared_index, deviates, deviating_nodes, undecided, .. } = self;
        [
            term,
            is_leader,
            applied_index,
            committed_index,
            last_log_index,
            log_entries,
            healthy_nodes,
            failure_tolerance,
            compared_index,
            deviates,
            deviating_nodes,
            undecided,
        ]
    }

    fn read(&self, consensus: &Handle) {
        let show = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let now = consensus.raft_metrics();
        show(&self.term, now.current_term);
        show(&self.is_leader, u64::from(now.state.is_leader()));
        show(&self.applied_index, now.last_applied.map_or(0, |id| id.index));
        show(&self.committed_index, now.local_committed.map_or(0, |id| id.index));
        show(&self.last_log_index, now.last_log_index.unwrap_or(0));
        let held = consensus.0.log.state();
        let entries = held.first.zip(held.last).map_or(0, |(first, last)| last.saturating_sub(first) + 1);
        show(&self.log_entries, entries);
        let (healthy, tolerance) =
            consensus.outlook(&now).map_or((0, 0), |outlook| (outlook.healthy, outlook.tolerance));
        show(&self.healthy_nodes, healthy as u64);
        show(&self.failure_tolerance, tolerance as u64);
        let alarm = consensus.0.integrity.alarm();
        show(&self.compared_index, alarm.index);
        show(&self.deviates, u64::from(alarm.deviating.contains(&consensus.node())));
        show(&self.deviating_nodes, alarm.deviating.len() as u64);
        show(&self.undecided, u64::from(alarm.undecided));
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(consensus) = self.consensus.upgrade() {
            self.read(&Handle(consensus));
        }
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(format!("ollamax_raft_{name}"), help).expect("the name is valid")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::Registry;

    use ollamax_core::catalog::command::Command;
    use ollamax_types::RequestId;

    use crate::alone::Alone;

    fn shown(registry: &Registry, name: &str) -> f64 {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("registered");
        family.get_metric()[0].get_gauge().value()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn they_show_the_moment_in_which_they_are_asked() {
        let alone = Alone::cluster_of_one().await;
        let registry = Registry::new();
        alone.handle.register_metrics(&registry).expect("fresh registry");
        let before = shown(&registry, "ollamax_raft_applied_index");
        let command = Command::SetSetting { key: "k".into(), value: vec![7] };
        let change = alone.handle.propose(RequestId::default(), "test", command).await.expect("committed");
        // openraft tells of itself a moment after it has answered.
        let told = alone.handle.0.raft.wait(Some(Duration::from_secs(10)));
        told.applied_index_at_least(Some(change.revision), "told").await.expect("soon");
        assert!(shown(&registry, "ollamax_raft_applied_index") > before);
        for name in ["ollamax_raft_is_leader", "ollamax_raft_term"] {
            assert_eq!(shown(&registry, name), 1.0, "{name}");
        }
        for name in ["committed_index", "last_log_index", "log_entries"] {
            assert!(shown(&registry, &format!("ollamax_raft_{name}")) > before, "{name}");
        }
        assert!(alone.handle.register_metrics(&registry).is_err(), "twice");
        alone.close().await;
        assert!(shown(&registry, "ollamax_raft_term") >= 1.0, "the last value stays");
    }
}
