//! Keeps the Raft group in step with the members of the catalog. The leader alone acts, one step at a time.
//!
//! The decision is pure ([`decide`]); the loop around it gathers facts, performs the step, and looks again. A step
//! that fails is logged and decided anew from fresh facts; a leader that dies half-way leaves a joint configuration,
//! which the next leader finishes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Fault, Member, read};
use ollamax_core::voters::{self, Change};
use ollamax_types::{ErrorCode, NodeId};

use crate::followers;
use crate::handle::Handle;
use crate::raft::Metrics;

/// Longest wait for one step; the next look decides anew.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// Wait before a leader whose disk is full hands over once more, lest leadership goes round where all disks are full.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(60);

/// One change of the Raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Finishes a change of voters that a leader left half-way.
    FinishJoint(BTreeSet<NodeId>),
    /// Leads, but has departed or has no room on its disk: somebody else must lead.
    HandOver,
    /// Starts to replicate to a member that is new in the catalog.
    AddLearner(NodeId),
    /// Stops replicating to a member that has departed.
    RemoveLearner(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
}

/// What the decision needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Who leads: this node.
    pub(crate) leader: NodeId,
    /// All members on record, departed ones included.
    pub(crate) members: Vec<Member>,
    /// The configurations of voters; more than one while a change is under way.
    pub(crate) configs: Vec<BTreeSet<NodeId>>,
    /// All nodes of the Raft group.
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Entries that each follower is behind; absent when it was not heard within the leader's lease.
    pub(crate) lags: BTreeMap<NodeId, u64>,
}

/// The next step, if any.
pub(crate) fn decide(facts: &Facts) -> Option<Step> {
    let voters = match facts.configs.as_slice() {
        [] => return None,
        [voters] => voters,
        [.., target] => return Some(Step::FinishJoint(target.clone())),
    };
    if facts.members.is_empty() {
        return None; // The catalog is not there yet.
    }
    let active: BTreeSet<NodeId> =
        facts.members.iter().filter(|member| member.is_standing()).map(|member| member.id).collect();
    if let Some(node) = active.difference(&facts.nodes).next() {
        return Some(Step::AddLearner(*node));
    }
    let gone = |node: &&NodeId| !active.contains(node) && !voters.contains(node) && **node != facts.leader;
    if let Some(node) = facts.nodes.iter().find(gone) {
        return Some(Step::RemoveLearner(*node));
    }
    match voters::plan(&facts.members, voters, &facts.lags)? {
        Change::Promote(node) => Some(Step::Promote(node)),
        Change::Demote(node) if node == facts.leader => Some(Step::HandOver),
        Change::Demote(node) => Some(Step::Demote(node)),
    }
}

/// Whether a leader without room on its disk gives leadership away, so that the others can go on.
fn gives_way(facts: &Facts, since_last: Option<Duration>) -> bool {
    let others_vote = facts.configs.iter().flatten().any(|voter| *voter != facts.leader);
    others_vote && since_last.is_none_or(|since| since >= HAND_OVER_PAUSE)
}

/// Looks at each change of the state and every `autopilot_ms`, while this node leads, until `stop`.
pub(crate) async fn run(handle: Handle, stop: CancellationToken) {
    let pause = Duration::from_millis(handle.config().autopilot_ms);
    let mut gave_way: Option<Instant> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let metrics = handle.raft_metrics();
        if metrics.running_state.is_err() {
            return;
        }
        if !metrics.state.is_leader() || !handle.status().has_quorum {
            continue;
        }
        let facts = match gather(&handle, &metrics) {
            Ok(facts) => facts,
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read members for the autopilot");
                continue;
            }
        };
        let step = match handle.check_room() {
            Ok(()) => decide(&facts),
            // Every other step would make the log grow.
            Err(full) if gives_way(&facts, gave_way.map(|at| at.elapsed())) => {
                tracing::warn!(error = %full, "the leader hands over: it has no room for changes");
                gave_way = Some(Instant::now());
                Some(Step::HandOver)
            }
            Err(_) => None,
        };
        let Some(step) = step else { continue };
        tracing::info!(?step, term = metrics.current_term, "changing the raft group");
        tokio::select! {
            () = stop.cancelled() => return,
            result = tokio::time::timeout(STEP_DEADLINE, perform(&handle, step)) => match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "change of the raft group not done"),
                Err(_) => tracing::warn!("change of the raft group not done in time"),
            }
        }
    }
}

fn gather(handle: &Handle, metrics: &Metrics) -> Result<Facts, Fault> {
    let membership = metrics.membership_config.membership();
    let next = metrics.last_log_index.map_or(0, |index| index + 1);
    let followers = followers::followers(metrics, handle.node());
    Ok(Facts {
        leader: handle.node(),
        members: read::members(&*handle.view())?,
        configs: membership.get_joint_config().iter().map(|set| set.iter().copied().map(NodeId).collect()).collect(),
        nodes: membership.nodes().map(|(node, _)| NodeId(*node)).collect(),
        lags: followers::lags(&followers, next, handle.config().lease()),
    })
}

async fn perform(handle: &Handle, step: Step) -> Result<(), crate::ChangeError> {
    let one = |node: NodeId| BTreeSet::from([node.0]);
    let change = match step {
        Step::HandOver => return handle.transfer_leader(None).await.map(|_| ()),
        Step::FinishJoint(voters) => ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect()),
        Step::AddLearner(node) => ChangeMembers::AddNodes(BTreeMap::from([(node.0, EmptyNode::new())])),
        Step::RemoveLearner(node) => ChangeMembers::RemoveNodes(one(node)),
        Step::Promote(node) => ChangeMembers::AddVoterIds(one(node)),
        Step::Demote(node) => ChangeMembers::RemoveVoters(one(node)),
    };
    handle.change_members(change).await
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::MemberState;
    use ollamax_types::{Incarnation, PeerId, Role, Timestamp};

    use super::*;

    fn member(id: u64, role: Role, state: MemberState) -> Member {
        Member {
            id: NodeId(id),
            name: format!("n{id}"),
            peer_id: PeerId(format!("peer{id}")),
            incarnation: Incarnation([1; 16]),
            role,
            state,
            peer_addresses: Vec::new(),
            p2p_addresses: Vec::new(),
            api_addresses: Vec::new(),
            joined_at: Timestamp(0),
        }
    }

    fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn check(
        members: &[(u64, Role, bool)],
        configs: &[&[u64]],
        nodes: &[u64],
        caught_up: &[u64],
        expected: Option<Step>,
    ) {
        let state = |departed| if departed { MemberState::Departed { at: Timestamp(1) } } else { MemberState::Active };
        let facts = Facts {
            leader: NodeId(1),
            members: members.iter().map(|(id, role, departed)| member(*id, *role, state(*departed))).collect(),
            configs: configs.iter().map(|set| ids(set)).collect(),
            nodes: ids(nodes),
            lags: caught_up.iter().map(|node| (NodeId(*node), 0)).collect(),
        };
        assert_eq!(decide(&facts), expected, "{facts:?}");
    }

    #[test]
    fn brings_the_raft_group_in_step_with_the_catalog() {
        use Role::{Gateway, Voter};
        let (one, two, three) = ((1, Voter, false), (2, Voter, false), (3, Voter, false));
        check(&[], &[&[1]], &[1], &[], None);
        check(&[one], &[&[1]], &[1], &[], None);
        check(&[one, two], &[&[1]], &[1], &[], Some(Step::AddLearner(NodeId(2))));
        check(&[one, two], &[&[1]], &[1, 2], &[], None);
        check(&[one, two], &[&[1]], &[1, 2], &[2], Some(Step::Promote(NodeId(2))));
        check(&[one, two, three], &[&[1, 2]], &[1, 2, 3], &[2, 3], Some(Step::Promote(NodeId(3))));
        check(&[one, two, three], &[&[1, 2, 3]], &[1, 2, 3], &[2, 3], None);
        check(&[one, (2, Gateway, false)], &[&[1]], &[1, 2], &[2], None);
    }

    #[test]
    fn departed_members_stop_voting_and_then_leave() {
        use Role::Voter;
        let (one, gone) = ((1, Voter, false), (2, Voter, true));
        check(&[one, gone], &[&[1, 2]], &[1, 2], &[2], Some(Step::Demote(NodeId(2))));
        check(&[one, gone], &[&[1]], &[1, 2], &[2], Some(Step::RemoveLearner(NodeId(2))));
        check(&[one, gone], &[&[1]], &[1], &[], None);
    }

    #[test]
    fn a_leader_without_room_gives_way_to_another_voter_and_not_again_at_once() {
        let facts = |configs: &[&[u64]]| Facts {
            leader: NodeId(1),
            configs: configs.iter().map(|set| ids(set)).collect(),
            ..Facts::default()
        };
        assert!(gives_way(&facts(&[&[1, 2, 3]]), None));
        assert!(!gives_way(&facts(&[&[1, 2, 3]]), Some(HAND_OVER_PAUSE / 2)));
        assert!(gives_way(&facts(&[&[1, 2, 3]]), Some(HAND_OVER_PAUSE)));
        assert!(!gives_way(&facts(&[&[1]]), None), "nobody else votes");
    }

    #[test]
    fn a_departed_leader_hands_over_first() {
        let members = [(1, Role::Voter, true), (2, Role::Voter, false)];
        check(&members, &[&[1, 2]], &[1, 2], &[2], Some(Step::HandOver));
    }

    #[test]
    fn a_change_that_a_dead_leader_left_half_way_is_finished_first() {
        let members = [(1, Role::Voter, false), (2, Role::Voter, false), (3, Role::Voter, false)];
        check(&members, &[&[1], &[1, 2]], &[1, 2], &[2], Some(Step::FinishJoint(ids(&[1, 2]))));
    }
}
