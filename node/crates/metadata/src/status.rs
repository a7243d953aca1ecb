//! What this node can say of its consensus at any moment, without asking anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::ServerState;
use prometheus::core::Collector;

use ollamax_core::integrity::Alarm;
use ollamax_types::NodeId;

/// What a leader makes of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The term in which it leads.
    pub term: u64,
    /// Nodes of the group that were heard in time and have the log, itself included.
    pub healthy: usize,
    /// Voters that may still fail before nothing can be changed.
    pub tolerance: usize,
    /// Silent members that will be removed if they stay silent, and when.
    pub removals: BTreeMap<NodeId, Duration>,
}

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
    /// What it is in its term.
    pub part: Part,
    /// On the leader: every other node that it replicates to. Empty elsewhere.
    pub followers: Vec<Following>,
    /// On a leader with its majority, once it has looked at the others in its term.
    pub outlook: Option<Outlook>,
}

/// What a node is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It leads.
    Leader,
    /// It stands for election.
    Candidate,
    /// It votes and follows.
    Follower,
    /// It follows without a vote.
    Learner,
    /// Its consensus has ended.
    Stopped,
}

/// What a leader knows of a node that it replicates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Following {
    /// Which.
    pub node: NodeId,
    /// Entries that it is behind, as far as it has said.
    pub behind: u64,
    /// Milliseconds since it answered; `None` before the first time.
    pub silent_ms: Option<u64>,
}

// === impl Part ===

impl Part {
    /// As openraft has it; one that does not run any more has stopped, whatever it was.
    pub(crate) const fn of(state: ServerState, runs: bool) -> Self {
        match state {
            _ if !runs => Self::Stopped,
            ServerState::Leader => Self::Leader,
            ServerState::Candidate => Self::Candidate,
            ServerState::Follower => Self::Follower,
            ServerState::Learner => Self::Learner,
            ServerState::Shutdown => Self::Stopped,
        }
    }
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
    u64::try_from(Duration::try_from_secs_f64(seconds).map_or(u128::MAX, |time| time.as_micros())).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts};

    use super::*;

    #[test]
    fn what_has_ended_has_no_other_part() {
        let rows = [
            (ServerState::Leader, Part::Leader),
            (ServerState::Candidate, Part::Candidate),
            (ServerState::Follower, Part::Follower),
            (ServerState::Learner, Part::Learner),
            (ServerState::Shutdown, Part::Stopped),
        ];
        for (state, expected) in rows {
            assert_eq!((Part::of(state, true), Part::of(state, false)), (expected, Part::Stopped), "{state:?}");
        }
    }

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
