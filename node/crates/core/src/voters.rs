//! Which members vote and which go: one change at a time, towards the number of voters that the cluster's size wants.
//!
//! 1 candidate → 1 voter, 2 → 2, 3 or 4 → 3, 5 or more → 5. Only members with role voter count. A departed voter goes
//! first, unless it is the only one: then another is promoted before it. Nobody's vote is taken unless a majority of
//! the other voters is heard. A learner is promoted once it was healthy for long enough; the first seats, up to
//! `min_quorum`, are given to whoever is healthy and has not wavered, so that a new cluster is safe soon. A voter that
//! was silent for long loses its seat to a stable candidate, or when fewer voters bear more failures. A candidate that
//! was silent for longer is removed. The last two only while a majority is heard, and never so that fewer than
//! `min_quorum` voters are left. Members with another role cost no majority, and stay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ollamax_types::{Knobs, NodeId, Role};

use crate::catalog::Member;
use crate::stability::Standing;

/// One step towards the wanted set of voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A healthy learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner, or leaves when it has departed.
    Demote(NodeId),
    /// A silent voter becomes a learner and a healthy learner a voter, in one change.
    Replace {
        /// Who was silent for long.
        silent: NodeId,
        /// Who takes its seat.
        by: NodeId,
    },
}

/// What the decisions are made from.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// All members on record, departed ones included.
    pub members: &'a [Member],
    /// Who votes.
    pub voters: &'a BTreeSet<NodeId>,
    /// Who leads, and judges the others.
    pub leader: NodeId,
    /// What the leader makes of each other node.
    pub seen: &'a BTreeMap<NodeId, Standing>,
    /// The cluster's knobs.
    pub knobs: &'a Knobs,
}

/// How many voters a cluster of so many voter candidates wants.
#[must_use]
pub const fn wanted(candidates: usize) -> usize {
    match candidates {
        0..=2 => candidates,
        3 | 4 => 3,
        _ => 5,
    }
}

/// How many more voters may fail before nothing can be changed.
#[must_use]
pub const fn tolerance(healthy: usize, voters: usize) -> usize {
    healthy.saturating_sub(voters / 2 + 1)
}

/// The next step, if any.
#[must_use]
pub fn plan(group: &Group<'_>) -> Option<Change> {
    let Group { voters, .. } = *group;
    let candidates = group.candidates();
    let leaving: Vec<NodeId> = voters.difference(&candidates).copied().filter(|_| voters.len() > 1).collect();
    let may_leave = leaving.iter().copied().filter(|node| group.can_do_without(*node));
    if let Some(node) = may_leave.min_by_key(|node| (group.is_heard(*node), *node)) {
        return Some(Change::Demote(node));
    }
    let wanted = wanted(candidates.len());
    if voters.len() > wanted && leaving.is_empty() {
        let last_choice = |node: &NodeId| (!group.is_heard(*node), !group.is_healthy(*node), *node);
        let may_go = voters.iter().copied().filter(|node| voters.len() > 1 && group.can_do_without(*node));
        return may_go.max_by_key(last_choice).map(Change::Demote);
    }
    if voters.intersection(&candidates).count() < wanted
        && let Some(node) = candidates.difference(voters).find(|node| group.may_get_a_seat(**node))
    {
        return Some(Change::Promote(*node));
    }
    group.without_the_dead(&candidates)
}

/// The member that was silent for so long that it is to be removed from the catalog.
#[must_use]
pub fn removable(group: &Group<'_>) -> Option<NodeId> {
    let due = group.candidates().into_iter().filter(|node| removed_in(group, *node) == Some(Duration::ZERO));
    due.max_by_key(|node| (group.silent(*node), *node))
}

/// When a silent member will be removed if it stays silent and nothing else changes. `None`: it is heard, or it stays.
#[must_use]
pub fn removed_in(group: &Group<'_>, node: NodeId) -> Option<Duration> {
    let Group { voters, knobs, .. } = *group;
    let candidates = group.candidates();
    if !knobs.cleanup_dead || !candidates.contains(&node) || group.is_heard(node) {
        return None;
    }
    let is_minority = |nodes: &BTreeSet<NodeId>| {
        let silent = nodes.iter().filter(|node| !group.is_heard(**node)).count();
        silent * 2 < nodes.len()
    };
    let left = voters.iter().filter(|voter| **voter != node).count();
    let enough = left >= knobs.min_quorum && candidates.len() > knobs.min_quorum;
    let after = knobs.remove_after.max(knobs.dead_after);
    (enough && is_minority(voters) && is_minority(&candidates)).then(|| after.saturating_sub(group.silent(node)))
}

/// The healthy nodes among these.
#[must_use]
pub fn healthy(group: &Group<'_>, nodes: &BTreeSet<NodeId>) -> usize {
    nodes.iter().filter(|node| group.is_healthy(**node)).count()
}

// === impl Group ===

impl Group<'_> {
    fn candidates(&self) -> BTreeSet<NodeId> {
        self.members.iter().filter(|member| may_vote(member)).map(|member| member.id).collect()
    }

    fn silent(&self, node: NodeId) -> Duration {
        self.seen.get(&node).map_or(Duration::ZERO, |standing| standing.silent)
    }

    fn is_heard(&self, node: NodeId) -> bool {
        let heard = |standing: &Standing| standing.silent <= self.knobs.last_contact;
        node == self.leader || self.seen.get(&node).is_some_and(heard)
    }

    fn is_healthy(&self, node: NodeId) -> bool {
        node == self.leader || self.seen.get(&node).is_some_and(|standing| standing.healthy_for.is_some())
    }

    /// Whether a majority of the other voters is heard: without, a change that takes this one's vote would never end.
    fn can_do_without(&self, node: NodeId) -> bool {
        let others = self.voters.iter().filter(|voter| **voter != node);
        let (heard, all) = (others.clone().filter(|voter| self.is_heard(**voter)).count(), others.count());
        heard * 2 > all
    }

    fn is_stable(&self, node: NodeId) -> bool {
        let healthy_for = self.seen.get(&node).and_then(|standing| standing.healthy_for);
        healthy_for.is_some_and(|healthy_for| healthy_for >= self.knobs.stabilization)
    }

    fn may_get_a_seat(&self, node: NodeId) -> bool {
        let wavered = self.seen.get(&node).is_none_or(|standing| standing.wavered);
        let is_early = self.voters.len() < self.knobs.min_quorum && !wavered;
        self.is_stable(node) || (is_early && self.is_healthy(node))
    }

    /// Takes its seat from the voter that was silent longest, if that makes the cluster safer.
    fn without_the_dead(&self, candidates: &BTreeSet<NodeId>) -> Option<Change> {
        let Self { voters, knobs, .. } = *self;
        let is_dead = |node: &&NodeId| **node != self.leader && self.silent(**node) >= knobs.dead_after;
        let dead: Vec<NodeId> = voters.iter().filter(is_dead).copied().collect();
        let silent = dead.iter().copied().max_by_key(|node| (self.silent(*node), *node))?;
        let heard = voters.iter().filter(|node| self.is_heard(**node)).count();
        if !knobs.cleanup_dead || heard * 2 <= voters.len() {
            return None;
        }
        if let Some(by) = candidates.difference(voters).copied().find(|node| self.is_stable(*node)) {
            return Some(Change::Replace { silent, by });
        }
        let fewer = dead.len().min(voters.len().saturating_sub(knobs.min_quorum));
        let safer = tolerance(heard, voters.len() - fewer) > tolerance(heard, voters.len());
        safer.then_some(Change::Demote(silent))
    }
}

fn may_vote(member: &Member) -> bool {
    member.role == Role::Voter && member.is_standing()
}

#[cfg(test)]
mod tests;
