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

use crate::error::Declined;
use crate::raft::Metrics;
use crate::status::Following;

/// Entries that a voter may lie behind and still be given leadership because somebody named it.
const HAND_OVER_LAG_MAX: u64 = 1_000;

/// Against what the followers are measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Index after the last entry of the leader's log.
    pub(crate) next: u64,
    /// The leader's lease.
    pub(crate) lease: Duration,
}

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

    /// As a status tells it.
    pub(crate) fn shown(&self, next: u64) -> Following {
        let millis = |silence: Duration| u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        Following { node: self.node, behind: self.behind(next), silent_ms: self.silence.map(millis) }
    }

    pub(crate) fn is_heard(&self, within: Duration) -> bool {
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

/// Who shall lead after `me`, of the voters heard within the lease: the one that is least behind, and of those the one
/// heard last. Only `to`, when it is named, and only if it is near enough: nothing is written until it has caught up.
pub(crate) fn successor(
    me: NodeId,
    followers: &[Follower],
    voters: &BTreeSet<NodeId>,
    to: Option<NodeId>,
    now: Moment,
) -> Result<NodeId, Declined> {
    if to == Some(me) {
        return Err(Declined::LeadsAlready(me));
    }
    if let Some(to) = to.filter(|to| !voters.contains(to)) {
        return Err(Declined::NotVoter(to));
    }
    if voters.iter().all(|voter| *voter == me) {
        return Err(Declined::OnlyVoter(me));
    }
    let may_lead = |follower: &&Follower| {
        voters.contains(&follower.node) && follower.is_heard(now.lease) && to.is_none_or(|to| to == follower.node)
    };
    let best = followers.iter().filter(may_lead).max_by_key(|follower| (follower.next, Reverse(follower.silence)));
    let best = best.ok_or_else(|| to.map_or(Declined::NobodyHeard, Declined::NotHeard))?;
    let entries = best.behind(now.next);
    if to.is_some() && entries > HAND_OVER_LAG_MAX {
        return Err(Declined::Behind { node: best.node, entries });
    }
    Ok(best.node)
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
        let check = |rows: &[Row], to: Option<u64>, expected: Result<u64, Declined>| {
            let voters = BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]);
            let now = Moment { next: 10, lease: LEASE };
            let found = successor(NodeId(1), &of(rows), &voters, to.map(NodeId), now);
            assert_eq!(found, expected.map(NodeId), "{rows:?} to {to:?}");
        };
        let (near, far) = (Some(10), Some(9));
        check(&[(2, near, Some(10)), (3, far, Some(10))], None, Ok(2));
        check(&[(2, far, Some(10)), (3, near, Some(10))], None, Ok(3));
        // Dead for long, and not behind, because nothing was written since.
        check(&[(2, near, Some(10)), (3, near, Some(60_000))], None, Ok(2));
        // Dead for a moment: still within the lease, but the other was heard later.
        check(&[(2, near, Some(10)), (3, near, Some(500))], None, Ok(2));
        check(&[(2, near, Some(500)), (3, near, Some(10))], None, Ok(3));
        // Never heard, not a voter, or not the one that was named.
        check(&[(2, near, None), (9, near, Some(10))], None, Err(Declined::NobodyHeard));
        check(&[(2, near, Some(10)), (3, far, Some(10))], Some(3), Ok(3));
        check(&[(2, near, Some(10)), (3, near, Some(60_000))], Some(3), Err(Declined::NotHeard(NodeId(3))));
        check(&[(2, near, Some(10)), (9, near, Some(10))], Some(9), Err(Declined::NotVoter(NodeId(9))));
        check(&[(2, near, Some(10))], Some(1), Err(Declined::LeadsAlready(NodeId(1))));
        check(&[], None, Err(Declined::NobodyHeard));
    }

    #[test]
    fn the_only_voter_keeps_leadership_and_a_learner_never_gets_it() {
        let (alone, now) = (BTreeSet::from([NodeId(1)]), Moment { next: 10, lease: LEASE });
        let learner = of(&[(2, Some(10), Some(10))]);
        let found = |to: Option<u64>| successor(NodeId(1), &learner, &alone, to.map(NodeId), now);
        assert_eq!(found(None), Err(Declined::OnlyVoter(NodeId(1))));
        assert_eq!(found(Some(2)), Err(Declined::NotVoter(NodeId(2))));
        // One that has departed and leads still has another to give it to.
        let other = BTreeSet::from([NodeId(2)]);
        assert_eq!(successor(NodeId(1), &learner, &other, None, now), Ok(NodeId(2)));
    }

    #[test]
    fn a_voter_far_behind_gets_it_only_when_nobody_is_better() {
        let voters = BTreeSet::from([NodeId(1), NodeId(2)]);
        let now = Moment { next: 10 + HAND_OVER_LAG_MAX, lease: LEASE };
        let found = |next: u64, to: Option<u64>| {
            successor(NodeId(1), &of(&[(2, Some(next), Some(10))]), &voters, to.map(NodeId), now)
        };
        assert_eq!(found(10, Some(2)), Ok(NodeId(2)));
        let behind = Declined::Behind { node: NodeId(2), entries: HAND_OVER_LAG_MAX + 1 };
        assert_eq!(found(9, Some(2)), Err(behind));
        assert_eq!(found(9, None), Ok(NodeId(2)));
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
