//! What this node can say of its consensus at any moment, without asking anybody.

use prometheus::core::Collector;

use ollamax_core::integrity::Alarm;
use ollamax_types::NodeId;

/// A picture of one node's consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its term.
    pub term: u64,
    /// Who leads, as far as it knows. May be out of date when [`Status::has_quorum`] is false.
    pub leader: Option<NodeId>,
    /// Index of the last entry in its log.
    pub last_log_index: u64,
    /// Index up to which it knows entries to be committed.
    pub committed: u64,
    /// Index up to which its state has them applied.
    pub applied: u64,
    /// Index of the first entry that its log still holds.
    pub log_first_index: u64,
    /// Index of its last snapshot; 0 when there is none.
    pub snapshot_index: u64,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// A change of voters is under way: until it ends, the old and the new voters each need their own majority.
    pub voters_changing: bool,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
    /// A leader that heard from a majority within its lease, or a follower that heard from such a leader.
    pub has_quorum: bool,
    /// Milliseconds since the leader was heard (on the leader: since a majority was); `None` before the first time.
    pub last_leader_contact_ms: Option<u64>,
    /// Hash over all records at index [`Status::applied`]; equal on all nodes at equal indexes.
    pub state_hash: [u8; 16],
    /// What is known of nodes whose state is not that.
    pub alarm: Alarm,
    /// Median time of one sync of the log, microseconds; 0 before the first.
    pub fsync_p50_us: u64,
    /// 99th percentile, microseconds.
    pub fsync_p99_us: u64,
    /// Syncs of the log since the start.
    pub fsyncs: u64,
    /// On the leader: how many entries each other member is behind. Empty elsewhere.
    pub lags: Vec<(NodeId, u64)>,
}

/// The upper bound of the bucket in which a quantile of the histogram falls, microseconds; 0 when it is empty.
pub(crate) fn quantile_us(histogram: &prometheus::Histogram, quantile: f64) -> u64 {
    let families = histogram.collect();
    let Some(metric) = families.first().and_then(|family| family.get_metric().first()) else { return 0 };
    let histogram = metric.get_histogram();
    let count = histogram.get_sample_count();
    if count == 0 {
        return 0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank within the count"
    )]
    let rank = ((count as f64) * quantile).ceil() as u64;
    let bucket = histogram.get_bucket().iter().find(|bucket| bucket.cumulative_count() >= rank);
    let seconds = bucket.map_or(f64::MAX, |bucket| bucket.upper_bound());
    u64::try_from(std::time::Duration::try_from_secs_f64(seconds).map_or(u128::MAX, |time| time.as_micros()))
        .unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts};

    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let options = HistogramOpts::new("t", "t").buckets(vec![0.001, 0.01, 0.1]);
        let histogram = Histogram::with_opts(options).expect("valid");
        assert_eq!(quantile_us(&histogram, 0.5), 0);
        for value in [0.0005, 0.0005, 0.05] {
            histogram.observe(value);
        }
        assert_eq!(quantile_us(&histogram, 0.5), 1_000);
        assert_eq!(quantile_us(&histogram, 0.99), 100_000);
    }
}
