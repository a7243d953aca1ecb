//! Do the nodes hold the same state? Decided from the hashes that they had at equal indexes.
//!
//! Every node notes its hash at each checkpoint index, so that nodes which are never at rest meet there, and says
//! besides where it stands now, so that nodes at rest meet too. What more than half of all voters hold at an index is
//! taken for the state; who holds something else deviates. The newest index at which a node can be judged counts: one
//! that agrees again, because the record was overwritten or a snapshot replaced its state, agrees. Two states that
//! differ are never a matter of timing, so nothing is said twice before it is believed.
//!
//! Deliberately absent: an opinion on who is right where no majority exists, and any protection against a majority that
//! is wrong in the same way.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::NodeId;

/// Every node notes its hash at the indexes that are multiples of this.
pub const CHECKPOINT_EVERY: u64 = 1_024;
/// Checkpoints that a node keeps, and tells with each sign of life.
pub const CHECKPOINTS_TOLD: usize = 8;
/// Most marks that are taken from one message: the checkpoints, and where the node stands.
pub const MARKS_TOLD_MAX: usize = CHECKPOINTS_TOLD + 1;
/// Checkpoints, and other indexes, that are kept of each node.
const KEPT_OF_A_KIND: usize = 32;

/// The hash that a state had when everything up to an index was applied, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The index.
    pub index: u64,
    /// Hash of all records.
    pub hash: [u8; 16],
}

/// Whether every node notes its hash at this index.
#[must_use]
pub const fn is_checkpoint(index: u64) -> bool {
    index != 0 && index.is_multiple_of(CHECKPOINT_EVERY)
}

/// What each node said of its state. Bounded for each node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reports(BTreeMap<NodeId, BTreeMap<u64, [u8; 16]>>);

/// What a comparison showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// The newest index at which something could be said.
    pub index: u64,
    /// Hold what the majority holds.
    pub agreeing: BTreeSet<NodeId>,
    /// Hold something else.
    pub deviating: BTreeSet<NodeId>,
    /// Voters differ, all that answer have spoken, and no value has a majority.
    pub undecided: bool,
}

/// What is known of deviations, and goes on being known until a comparison shows otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alarm {
    /// The newest index that was compared; 0: nothing was.
    pub index: u64,
    /// Whose state differs from that of the majority.
    pub deviating: BTreeSet<NodeId>,
    /// The voters' states differ, and nobody can tell whose is wrong.
    pub undecided: bool,
    /// Grows with each change of what is known, so that what comes late is told from what is new.
    pub change: u64,
}

// === impl Reports ===

impl Reports {
    /// Notes what a node said.
    pub fn hear(&mut self, node: NodeId, marks: &[Mark]) {
        let held = self.0.entry(node).or_default();
        held.extend(marks.iter().take(MARKS_TOLD_MAX).map(|mark| (mark.index, mark.hash)));
        for checkpoints in [true, false] {
            let kind: Vec<u64> = held.keys().copied().filter(|index| is_checkpoint(*index) == checkpoints).collect();
            for index in kind.iter().take(kind.len().saturating_sub(KEPT_OF_A_KIND)) {
                held.remove(index);
            }
        }
    }

    /// Forgets all but these nodes.
    pub fn keep(&mut self, nodes: &BTreeSet<NodeId>) {
        self.0.retain(|node, _| nodes.contains(node));
    }

    fn speaks(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }

    /// Who said what, by index.
    fn by_index(&self) -> BTreeMap<u64, BTreeMap<NodeId, [u8; 16]>> {
        let mut all: BTreeMap<u64, BTreeMap<NodeId, [u8; 16]>> = BTreeMap::new();
        for (node, marks) in &self.0 {
            for (index, hash) in marks {
                all.entry(*index).or_default().insert(*node, *hash);
            }
        }
        all
    }
}

/// Compares what was said; `None` while nothing can be said. `answering` are the nodes whose word is still to be
/// expected: as long as one of those voters has not spoken of an index, nobody says that there is no majority. A node
/// that never said anything is of an older release and is not waited for.
#[must_use]
pub fn judge(reports: &Reports, voters: &BTreeSet<NodeId>, answering: &BTreeSet<NodeId>) -> Option<Judgement> {
    let mut found = Judgement::default();
    let mut judged: BTreeSet<NodeId> = BTreeSet::new();
    let awaited: Vec<NodeId> = voters.intersection(answering).copied().filter(|node| reports.speaks(*node)).collect();
    for (index, said) in reports.by_index().into_iter().rev().filter(|(_, said)| said.len() > 1) {
        let mut held_by: BTreeMap<[u8; 16], usize> = BTreeMap::new();
        for (_, hash) in said.iter().filter(|(node, _)| voters.contains(node)) {
            *held_by.entry(*hash).or_default() += 1;
        }
        let majority = held_by.iter().find(|(_, voters_of_it)| **voters_of_it > voters.len() / 2);
        if let Some((majority, _)) = majority {
            found.index = found.index.max(index);
            for (node, hash) in said.iter().filter(|(node, _)| !judged.contains(node)) {
                let side = if hash == majority { &mut found.agreeing } else { &mut found.deviating };
                side.insert(*node);
            }
            judged.extend(said.keys());
        } else if held_by.len() > 1 && awaited.iter().all(|node| said.contains_key(node)) {
            found.undecided |= judged.is_empty();
            found.index = found.index.max(index);
            judged.extend(said.keys());
        }
    }
    (!judged.is_empty()).then_some(found)
}

// === impl Alarm ===

impl Alarm {
    /// Whether somebody must look.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.undecided || !self.deviating.is_empty()
    }

    /// What is known after another comparison. A node of which nothing new was said stays what it was; one that does
    /// not belong to the group any more, of which `nodes` are all and `voters` those that vote, is forgotten.
    #[must_use]
    pub fn after(&self, judgement: Option<&Judgement>, nodes: &BTreeSet<NodeId>, voters: &BTreeSet<NodeId>) -> Self {
        let nothing = Judgement { index: self.index, undecided: self.undecided, ..Judgement::default() };
        let judgement = judgement.unwrap_or(&nothing);
        let known = self.deviating.difference(&judgement.agreeing).chain(&judgement.deviating);
        let deviating: BTreeSet<NodeId> = known.copied().filter(|node| nodes.contains(node)).collect();
        let undecided = judgement.undecided && voters.len() > 1;
        let is_news = deviating != self.deviating || undecided != self.undecided;
        let change = self.change.saturating_add(u64::from(is_news));
        Self { index: judgement.index, deviating, undecided, change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Node, index, hash.
    fn heard(rows: &[(u64, u64, u8)]) -> Reports {
        let mut reports = Reports::default();
        for (node, index, hash) in rows {
            reports.hear(NodeId(*node), &[Mark { index: *index, hash: [*hash; 16] }]);
        }
        reports
    }

    fn judgement(index: u64, agreeing: &[u64], deviating: &[u64], undecided: bool) -> Option<Judgement> {
        Some(Judgement { index, agreeing: ids(agreeing), deviating: ids(deviating), undecided })
    }

    /// Rows as in [`heard`], who votes, who answers.
    fn check(rows: &[(u64, u64, u8)], voters: &[u64], answering: &[u64], expected: Option<Judgement>) {
        assert_eq!(judge(&heard(rows), &ids(voters), &ids(answering)), expected, "{rows:?}");
    }

    #[test]
    fn who_differs_from_the_majority_of_all_voters_deviates() {
        let (three, all) = (&[1, 2, 3][..], &[1, 2, 3, 4, 5][..]);
        check(&[], three, all, None);
        check(&[(1, 9, 7)], three, all, None); // nobody to compare with
        check(&[(1, 9, 7), (2, 8, 7)], three, all, None); // never at one index
        check(&[(1, 9, 7), (2, 9, 7)], three, all, judgement(9, &[1, 2], &[], false));
        check(&[(1, 9, 7), (2, 9, 7), (3, 9, 7)], three, all, judgement(9, &[1, 2, 3], &[], false));
        check(&[(1, 9, 7), (2, 9, 7), (3, 9, 6)], three, all, judgement(9, &[1, 2], &[3], false));
        // The leader is no better than others.
        check(&[(1, 9, 6), (2, 9, 7), (3, 9, 7)], three, all, judgement(9, &[2, 3], &[1], false));
        // Those without a vote are judged and do not count.
        check(&[(1, 9, 7), (2, 9, 7), (4, 9, 6), (5, 9, 6)], three, all, judgement(9, &[1, 2], &[4, 5], false));
        check(&[(1, 9, 7), (4, 9, 6), (5, 9, 6)], three, all, None);
        check(&[(1, 9, 7), (4, 9, 6)], &[1], all, judgement(9, &[1], &[4], false));
    }

    #[test]
    fn without_a_majority_nobody_is_named_and_it_is_told_when_all_that_answer_have_spoken() {
        let tie: &[_] = &[(1, 9, 7), (2, 9, 6)];
        check(tie, &[1, 2], &[1, 2], judgement(9, &[], &[], true));
        check(tie, &[1, 2, 3], &[1, 2, 3], judgement(9, &[], &[], true)); // 3 is of an older release
        let awaited = [tie, &[(3, 8, 7)]].concat();
        check(&awaited, &[1, 2, 3], &[1, 2, 3], None); // 3 is on its way
        check(&awaited, &[1, 2, 3], &[1, 2], judgement(9, &[], &[], true)); // 3 is silent
        let each: &[_] = &[(1, 9, 7), (2, 9, 6), (3, 9, 5)];
        check(each, &[1, 2, 3], &[1, 2, 3], judgement(9, &[], &[], true));
        // Two of five are no majority of the voters, though they are one of those that spoke.
        let few: &[_] = &[(1, 9, 7), (2, 9, 7), (3, 9, 6)];
        check(few, &[1, 2, 3, 4, 5], &[1, 2, 3], judgement(9, &[], &[], true));
        check(few, &[1, 2, 3, 4, 5], &[1, 2, 3, 4], judgement(9, &[], &[], true)); // 4 never spoke
        // A learner beside voters that have no majority proves nothing.
        check(&[(1, 9, 7), (2, 9, 6), (4, 9, 7)], &[1, 2], &[1, 2, 4], judgement(9, &[], &[], true));
    }

    #[test]
    fn the_newest_index_at_which_a_node_can_be_judged_counts() {
        let three = &[1, 2, 3];
        let wrong: &[_] = &[(1, 8, 7), (2, 8, 7), (3, 8, 6)];
        // It has not spoken of what is newer.
        check(&[wrong, &[(1, 9, 7), (2, 9, 7)]].concat(), three, three, judgement(9, &[1, 2], &[3], false));
        // It agrees again, or deviates anew.
        let healed = [wrong, &[(1, 9, 7), (2, 9, 7), (3, 9, 7)]].concat();
        check(&healed, three, three, judgement(9, &[1, 2, 3], &[], false));
        let broken = [&healed[..], &[(1, 10, 1), (2, 10, 1), (3, 10, 2)]].concat();
        check(&broken, three, three, judgement(10, &[1, 2], &[3], false));
        // A newer dispute outweighs an older agreement, and a newer agreement an older dispute.
        let dispute = [&healed[..], &[(1, 11, 1), (3, 11, 2)]].concat();
        check(&dispute, three, &[1, 3], judgement(11, &[2], &[], true));
        check(&dispute, three, three, judgement(9, &[1, 2, 3], &[], false));
        let over: &[_] = &[(1, 9, 7), (2, 9, 6), (1, 10, 7), (2, 10, 7)];
        check(over, &[1, 2], &[1, 2], judgement(10, &[1, 2], &[], false));
    }

    #[test]
    fn an_alarm_stays_until_a_comparison_or_a_departure_ends_it() {
        let (nodes, voters) = (ids(&[1, 2, 3, 4]), ids(&[1, 2, 3]));
        let alarm =
            |index, deviating: &[u64], undecided| Alarm { index, deviating: ids(deviating), undecided, change: 7 };
        let news = |before: &Alarm, expected: Alarm| {
            let is_news = (&before.deviating, before.undecided) != (&expected.deviating, expected.undecided);
            Alarm { change: before.change + u64::from(is_news), ..expected }
        };
        let check = |before: &Alarm, judgement: Option<Judgement>, expected: Alarm| {
            let found = before.after(judgement.as_ref(), &nodes, &voters);
            assert_eq!(found, news(before, expected), "{before:?} {judgement:?}");
        };
        let (silent, raised) = (Alarm::default(), alarm(9, &[3], false));
        assert!(!silent.is_raised() && raised.is_raised() && alarm(9, &[], true).is_raised());
        check(&silent, None, Alarm { change: 0, ..alarm(0, &[], false) });
        check(&silent, judgement(9, &[1, 2], &[3], false), raised.clone());
        check(&raised, None, raised.clone());
        check(&raised, judgement(12, &[1, 2], &[], false), alarm(12, &[3], false)); // nothing new of 3
        check(&raised, judgement(12, &[1, 2, 3], &[], false), alarm(12, &[], false));
        check(&raised, judgement(12, &[1, 2], &[4], false), alarm(12, &[3, 4], false));
        check(&raised, judgement(12, &[], &[], true), alarm(12, &[3], true));
        check(&alarm(9, &[3], true), None, alarm(9, &[3], true));
        check(&alarm(9, &[3], true), judgement(12, &[1, 2, 3], &[], false), alarm(12, &[], false));
        let alone = alarm(9, &[3], true).after(None, &ids(&[1]), &ids(&[1]));
        assert_eq!(alone, Alarm { change: 8, ..alarm(9, &[], false) }, "the others have left");
    }

    #[test]
    fn what_is_kept_of_a_node_is_bounded_and_neither_kind_displaces_the_other() {
        let mut reports = Reports::default();
        for index in 1..=100 * CHECKPOINT_EVERY {
            if is_checkpoint(index) || index % 100 == 1 {
                reports.hear(NodeId(1), &[Mark { index, hash: [1; 16] }]);
            }
        }
        let kept: Vec<u64> = reports.by_index().into_keys().collect();
        let checkpoints = kept.iter().filter(|index| is_checkpoint(**index)).count();
        assert_eq!((checkpoints, kept.len()), (KEPT_OF_A_KIND, 2 * KEPT_OF_A_KIND));
        assert_eq!(kept.last(), Some(&(100 * CHECKPOINT_EVERY)), "the newest stay");
        let many: Vec<Mark> = (1..1_000).map(|index| Mark { index, hash: [2; 16] }).collect();
        let mut flooded = Reports::default();
        flooded.hear(NodeId(2), &many);
        assert_eq!(flooded.by_index().len(), MARKS_TOLD_MAX);
        reports.keep(&ids(&[2]));
        assert!(reports.by_index().is_empty());
    }
}
