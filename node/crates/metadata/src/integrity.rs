//! This node's part in comparing states: marks of its own state, what it heard of others', the alarm that stands.
//!
//! Kept in memory. A node that was started again is told by its leader what stands, and a deviation that nobody
//! remembers is found again at the next comparison, because the states still differ. Followers tell their marks with
//! their answers to heartbeats, the leader compares and tells the alarm with its heartbeats. A deviating node does not
//! stand for election ([`Handle::take_alarm`]) while anybody leads ([`Handle::stand_in_need`]), gets no leadership
//! ([`Handle::transfer_leader`]), loses its vote ([`crate::autopilot`]), and answers no reads of the state
//! ([`Handle::check_agreement`]) nor tells its changes ([`Agreement`]).

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_core::integrity::{self, Alarm, CHECKPOINTS_TOLD, Judgement, Mark, Reports};
use ollamax_types::{ErrorCode, NodeId};

use crate::error::ReadError;
use crate::followers;
use crate::handle::Handle;
use crate::raft::Metrics;

/// Leases without a leader after which a node whose state differs stands for election after all.
const NEED_LEASES: u32 = 10;

/// What to do about a node whose state differs.
const ADVICE: &str = "stop its daemon, run ollamax raft verify there, remove it, empty its data directory, join again";

/// A cheap handle on what this node knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Integrity(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// The last checkpoints that this node passed, oldest first.
    checkpoints: VecDeque<Mark>,
    /// As leader: what was said.
    reports: Reports,
    /// What stands.
    alarm: Alarm,
    /// The term whose leader said so.
    term: u64,
}

/// Whether a node's state may be shown, as far as is known at each moment.
#[derive(Debug, Clone)]
pub(crate) struct Agreement {
    integrity: Integrity,
    node: NodeId,
}

// === impl Agreement ===

impl Agreement {
    /// Whether nothing is known against it.
    pub(crate) fn holds(&self) -> bool {
        !self.integrity.known().alarm.deviating.contains(&self.node)
    }
}

// === impl Integrity ===

impl Integrity {
    /// What is known of one node's state.
    pub(crate) fn agreement(&self, node: NodeId) -> Agreement {
        Agreement { integrity: self.clone(), node }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state has reached a checkpoint.
    pub(crate) fn passed(&self, mark: Mark) {
        let mut known = self.known();
        if known.checkpoints.len() == CHECKPOINTS_TOLD {
            known.checkpoints.pop_front();
        }
        known.checkpoints.push_back(mark);
    }

    /// A snapshot took the place of the state: what was noted before is not of this one.
    pub(crate) fn restart(&self) {
        self.known().checkpoints.clear();
    }

    /// What this node says of its state, which stands at `now`.
    pub(crate) fn marks(&self, now: Option<Mark>) -> Vec<Mark> {
        self.known().checkpoints.iter().copied().chain(now).collect()
    }

    /// Another node said this of its state.
    pub(crate) fn heard(&self, node: NodeId, marks: &[Mark]) {
        if !marks.is_empty() {
            self.known().reports.hear(node, marks);
        }
    }

    /// What is known of states that differ.
    pub(crate) fn alarm(&self) -> Alarm {
        self.known().alarm.clone()
    }

    /// As the leader `me`: compares its own marks with those that were heard, and says what is known then.
    fn compare(&self, me: NodeId, own: &[Mark], group: &Group) -> Alarm {
        let mut known = self.known();
        known.reports.keep(&group.nodes);
        known.reports.hear(me, own);
        let judgement: Option<Judgement> = integrity::judge(&known.reports, &group.voters, &group.answering);
        known.alarm.after(judgement.as_ref(), &group.nodes, &group.voters)
    }

    /// Lets an alarm of the leader of this term stand, unless a newer one is known: messages overtake each other. Gives
    /// the one that stood before, when something else than the index has changed.
    pub(crate) fn stand(&self, term: u64, alarm: Alarm) -> Option<Alarm> {
        let mut known = self.known();
        if (term, alarm.change) < (known.term, known.alarm.change) {
            return None;
        }
        known.term = term;
        let before = std::mem::replace(&mut known.alarm, alarm.clone());
        let same = before.deviating == alarm.deviating && before.undecided == alarm.undecided;
        (!same).then_some(before)
    }
}

/// The Raft group, as its leader sees it.
struct Group {
    nodes: BTreeSet<NodeId>,
    voters: BTreeSet<NodeId>,
    /// Itself and who was heard within its lease.
    answering: BTreeSet<NodeId>,
}

impl Handle {
    /// Whether this node's state may be shown as the cluster's.
    ///
    /// # Errors
    /// [`ReadError::Deviates`] when it is known to differ from that of the majority.
    pub fn check_agreement(&self) -> Result<(), ReadError> {
        if self.agreement().holds() { Ok(()) } else { Err(ReadError::Deviates) }
    }

    /// The same for whoever asks again and again.
    pub(crate) fn agreement(&self) -> Agreement {
        self.0.integrity.agreement(self.node())
    }

    /// What this node says of its state.
    pub(crate) fn state_marks(&self) -> Vec<Mark> {
        let (applied, hash) = self.0.state.applied_and_hash();
        self.0.integrity.marks(applied.map(|meta| Mark { index: meta.index, hash }))
    }

    /// As the leader: compares the states of all nodes.
    pub(crate) fn compare_states(&self, metrics: &Metrics) {
        let membership = metrics.membership_config.membership();
        let followers = followers::followers(metrics, self.node());
        let heard = followers.iter().filter(|follower| follower.is_heard(self.config().lease()));
        let group = Group {
            nodes: membership.nodes().map(|(node, _)| NodeId(*node)).collect(),
            voters: membership.voter_ids().map(NodeId).collect(),
            answering: heard.map(|follower| follower.node).chain([self.node()]).collect(),
        };
        let alarm = self.0.integrity.compare(self.node(), &self.state_marks(), &group);
        self.take_alarm(metrics.current_term, alarm);
    }

    /// A node whose state differs does not stand for election, unless nobody has led for long: its log may be the only
    /// one that others lack. It hands leadership over as soon as another has caught up.
    pub(crate) fn stand_in_need(&self) {
        if self.0.integrity.alarm().deviating.contains(&self.node()) {
            let leaderless = self.0.contact.silence() > self.config().lease() * NEED_LEASES;
            self.0.raft.runtime_config().elect(leaderless);
        }
    }

    /// Lets an alarm stand, of the leader of this term or this node's own as the leader, and tells what is new of it,
    /// once.
    pub(crate) fn take_alarm(&self, term: u64, alarm: Alarm) {
        let Some(before) = self.0.integrity.stand(term, alarm.clone()) else { return };
        let me = self.node();
        // It votes until the leader has taken its vote: its log is sound, and the others may need it to elect.
        self.0.raft.runtime_config().elect(!self.0.integrity.alarm().deviating.contains(&me));
        for node in alarm.deviating.difference(&before.deviating) {
            let (code, own) = (ErrorCode::StorageCorrupt, *node == me);
            tracing::error!(
                deviating = %node, own, index = alarm.index, %code, error = ADVICE,
                "the state of a node differs from that of the majority"
            );
        }
        for node in before.deviating.difference(&alarm.deviating) {
            tracing::info!(node = %node, index = alarm.index, "the state of a node no longer counts as differing");
        }
        if alarm.undecided && !before.undecided {
            let code = ErrorCode::StorageCorrupt;
            tracing::error!(
                index = alarm.index, %code, error = "no value has a majority, so nobody can say whose state is wrong",
                "the states of the voters differ"
            );
        } else if before.undecided && !alarm.undecided {
            tracing::info!(index = alarm.index, "the states of the voters no longer differ without a majority");
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::integrity::is_checkpoint;

    use super::*;

    fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn mark(index: u64, hash: u8) -> Mark {
        Mark { index, hash: [hash; 16] }
    }

    #[test]
    fn a_node_tells_its_last_checkpoints_and_where_it_stands() {
        let integrity = Integrity::default();
        assert!(integrity.marks(None).is_empty());
        for number in 1..=20 {
            integrity.passed(mark(number * integrity::CHECKPOINT_EVERY, 1));
        }
        let told = integrity.marks(Some(mark(20_500, 2)));
        assert_eq!(told.len(), integrity::MARKS_TOLD_MAX);
        assert_eq!(told.last(), Some(&mark(20_500, 2)));
        assert!(
            told[..CHECKPOINTS_TOLD].iter().all(|told| is_checkpoint(told.index) && told.index > 12_000),
            "{told:?}"
        );
        integrity.restart();
        assert_eq!(integrity.marks(Some(mark(21_000, 3))), [mark(21_000, 3)]);
    }

    #[test]
    fn the_leader_keeps_an_alarm_until_the_node_agrees_or_leaves() {
        let integrity = Integrity::default();
        let group = |nodes: &[u64]| Group { nodes: ids(nodes), voters: ids(nodes), answering: ids(nodes) };
        let all = group(&[1, 2, 3]);
        integrity.heard(NodeId(2), &[mark(9, 1)]);
        integrity.heard(NodeId(3), &[mark(9, 2)]);
        let raised = integrity.compare(NodeId(1), &[mark(9, 1)], &all);
        assert_eq!((raised.index, &raised.deviating), (9, &ids(&[3])));
        assert_eq!(integrity.stand(1, raised.clone()), Some(Alarm::default()), "it is news");
        integrity.heard(NodeId(2), &[mark(10, 4)]);
        let later = integrity.compare(NodeId(1), &[mark(10, 4)], &all);
        assert_eq!((later.index, &later.deviating), (10, &ids(&[3])));
        assert_eq!(integrity.stand(1, later), None, "it is no news");
        integrity.heard(NodeId(3), &[mark(10, 4)]);
        let healed = integrity.compare(NodeId(1), &[], &all);
        assert!(!healed.is_raised(), "{healed:?}");
        // Another one, who then leaves.
        integrity.stand(1, raised);
        let without = integrity.compare(NodeId(1), &[], &group(&[1, 2]));
        assert!(!without.is_raised(), "{without:?}");
    }

    #[test]
    fn what_a_leader_said_before_is_no_news_when_it_comes_late() {
        let integrity = Integrity::default();
        let raised = Alarm { index: 16, deviating: ids(&[2]), undecided: false, change: 1 };
        let healed = Alarm { index: 20, change: 2, ..Alarm::default() };
        assert_eq!(integrity.stand(3, raised.clone()), Some(Alarm::default()));
        assert_eq!(integrity.stand(3, healed.clone()), Some(raised.clone()));
        assert_eq!((integrity.stand(3, raised.clone()), integrity.alarm()), (None, healed.clone()), "overtaken");
        // The next leader goes by what it was told, which may be less.
        assert_eq!((integrity.stand(4, raised.clone()), integrity.alarm()), (Some(healed), raised));
    }

    #[test]
    fn one_that_says_nothing_is_not_compared() {
        let integrity = Integrity::default();
        integrity.heard(NodeId(3), &[]);
        let group = Group { nodes: ids(&[1, 2, 3]), voters: ids(&[1, 2, 3]), answering: ids(&[1, 2, 3]) };
        integrity.heard(NodeId(2), &[mark(9, 1)]);
        let alarm = integrity.compare(NodeId(1), &[mark(9, 1)], &group);
        assert_eq!(alarm, Alarm { index: 9, ..Alarm::default() });
    }
}
