//! What a leader knows of the nodes that it replicates to, and who of them may be relied on.
//!
//! How far a node has come says nothing about whether it still lives: one that died while nothing was written lies
//! behind by nothing. Whoever is to vote or to lead must therefore have answered within the leader's lease.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{Instant as _, LogIdOptionExt};

use ollamax_core::stability::Look;
use ollamax_types::NodeId;

use crate::raft::Metrics;

/// One node that the leader replicates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) node: NodeId,
    /// Index after the last entry that it is known to have; `None` when it never answered.
    pub(crate) next: Option<u64>,
    /// Since the message was sent that it answered last; `None` when it never did.
    pub(crate) silence: Option<Duration>,
}

// === impl Follower ===

impl Follower {
    /// Entries that it lies behind a log that ends before `next`.
    pub(crate) fn behind(&self, next: u64) -> u64 {
        next.saturating_sub(self.next.unwrap_or(0))
    }

    fn is_heard(&self, within: Duration) -> bool {
        self.silence.is_some_and(|silence| silence <= within)
    }
}

/// All followers; none where `me` does not lead.
pub(crate) fn followers(metrics: &Metrics, me: NodeId) -> Vec<Follower> {
    let acknowledged = |node: &u64| metrics.heartbeat.as_ref().and_then(|heard| heard.get(node).copied().flatten());
    let others = metrics.replication.iter().flatten().filter(|(node, _)| **node != me.0);
    others
        .map(|(node, matched)| Follower {
            node: NodeId(*node),
            next: matched.is_some().then(|| matched.next_index()),
            silence: acknowledged(node).map(|at| at.elapsed()),
        })
        .collect()
}

/// What the leader sees of each follower at this moment, in a log that ends before `next`.
pub(crate) fn looks(followers: &[Follower], next: u64) -> BTreeMap<NodeId, Look> {
    let look =
        |follower: &Follower| Look { silence: follower.silence, behind: follower.next.map(|_| follower.behind(next)) };
    followers.iter().map(|follower| (follower.node, look(follower))).collect()
}

/// Who shall lead next, of the voters heard within the lease: the one that is least behind, and of those the one heard
/// last. Only `to`, when it is named.
pub(crate) fn successor(
    followers: &[Follower],
    voters: &BTreeSet<NodeId>,
    to: Option<NodeId>,
    lease: Duration,
) -> Option<NodeId> {
    let may_lead = |follower: &&Follower| {
        voters.contains(&follower.node) && follower.is_heard(lease) && to.is_none_or(|to| to == follower.node)
    };
    let best = followers.iter().filter(may_lead).max_by_key(|follower| (follower.next, Reverse(follower.silence)));
    best.map(|follower| follower.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(800);

    /// Node, index after the last entry, milliseconds of silence.
    type Row = (u64, Option<u64>, Option<u64>);

    fn of(rows: &[Row]) -> Vec<Follower> {
        let follower = |(node, next, silence): &Row| Follower {
            node: NodeId(*node),
            next: *next,
            silence: silence.map(Duration::from_millis),
        };
        rows.iter().map(follower).collect()
    }

    #[test]
    fn leadership_goes_to_a_living_voter_that_is_least_behind() {
        let check = |rows: &[Row], to: Option<u64>, expected: Option<u64>| {
            let voters = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
            let found = successor(&of(rows), &voters, to.map(NodeId), LEASE);
            assert_eq!(found, expected.map(NodeId), "{rows:?} to {to:?}");
        };
        let (near, far) = (Some(10), Some(9));
        check(&[(2, near, Some(10)), (3, far, Some(10))], None, Some(2));
        check(&[(2, far, Some(10)), (3, near, Some(10))], None, Some(3));
        // Dead for long, and not behind, because nothing was written since.
        check(&[(2, near, Some(10)), (3, near, Some(60_000))], None, Some(2));
        // Dead for a moment: still within the lease, but the other was heard later.
        check(&[(2, near, Some(10)), (3, near, Some(500))], None, Some(2));
        check(&[(2, near, Some(500)), (3, near, Some(10))], None, Some(3));
        // No voter, never heard, or not the one that was named.
        check(&[(2, near, None), (9, near, Some(10))], None, None);
        check(&[(2, near, Some(10)), (3, far, Some(10))], Some(3), Some(3));
        check(&[(2, near, Some(10)), (3, near, Some(60_000))], Some(3), None);
        check(&[], None, None);
    }

    #[test]
    fn a_look_tells_silence_and_lag_apart() {
        let rows = of(&[(2, Some(10), Some(10)), (3, Some(10), Some(60_000)), (4, None, Some(10)), (5, Some(4), None)]);
        let look = |silence: Option<u64>, behind| Look { silence: silence.map(Duration::from_millis), behind };
        let expected = [
            (NodeId(2), look(Some(10), Some(0))),
            (NodeId(3), look(Some(60_000), Some(0))),
            (NodeId(4), look(Some(10), None)),
            (NodeId(5), look(None, Some(6))),
        ];
        assert_eq!(looks(&rows, 10), BTreeMap::from(expected));
        assert_eq!(rows[2].behind(10), 10);
    }
}
