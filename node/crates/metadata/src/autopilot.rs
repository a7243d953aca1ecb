//! Keeps the Raft group in step with the members of the catalog, ends what has passed its time, and raises the
//! cluster's version when all members apply a higher one. The leader alone acts, one step at a time.
//!
//! The decision is pure ([`decide`]); the loop around it gathers facts, performs the step, and looks again. A step
//! that fails is logged and decided anew from fresh facts; a leader that dies half-way leaves a joint configuration,
//! which the next leader finishes first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Fault, Member, read};
use ollamax_core::voters::{self, Change};
use ollamax_types::{ErrorCode, NodeId, RequestId};

use crate::error::ChangeError;
use crate::followers;
use crate::handle::{Committed, Handle};
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
    /// Leads, but has departed, has no room on its disk or holds another state: somebody else must lead.
    HandOver,
    /// Starts to replicate to a member that is new in the catalog.
    AddLearner(NodeId),
    /// Stops replicating to a member that has departed.
    RemoveLearner(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// Something has passed its time.
    Expire,
    /// All members apply a higher cluster version than the cluster uses.
    RaiseVersion(u32),
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
    /// The cluster's version.
    pub(crate) version: u32,
    /// The highest that each member applies; absent when it did not say so since this node began.
    pub(crate) releases: BTreeMap<NodeId, u32>,
    /// The first deadline of leases and sessions has passed.
    pub(crate) due: bool,
    /// Whose state differs from that of the majority: they neither vote nor lead.
    pub(crate) deviating: BTreeSet<NodeId>,
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
    if facts.deviating.contains(&facts.leader) {
        // What it would decide from its own state may be wrong.
        return voters.iter().any(|voter| !facts.deviating.contains(voter)).then_some(Step::HandOver);
    }
    if facts.due {
        return Some(Step::Expire);
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
    let trusted = facts.members.iter().filter(|member| !facts.deviating.contains(&member.id));
    match voters::plan(&trusted.cloned().collect::<Vec<_>>(), voters, &facts.lags) {
        Some(Change::Promote(node)) => Some(Step::Promote(node)),
        Some(Change::Demote(node)) if node == facts.leader => Some(Step::HandOver),
        Some(Change::Demote(node)) => Some(Step::Demote(node)),
        None => raise(facts, &active),
    }
}

/// The version that all members apply, when it is more than the cluster's.
fn raise(facts: &Facts, active: &BTreeSet<NodeId>) -> Option<Step> {
    let releases: Option<Vec<u32>> = active.iter().map(|node| facts.releases.get(node).copied()).collect();
    let common = releases?.into_iter().min()?;
    (common > facts.version).then_some(Step::RaiseVersion(common))
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
        handle.compare_states(&metrics);
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
    let view = handle.view();
    let cluster = read::cluster(&*view)?;
    let now = handle.0.stamper.stamp();
    let mut releases = handle.0.releases.all();
    releases.insert(handle.node(), handle.config().release());
    Ok(Facts {
        leader: handle.node(),
        version: cluster.map_or(handle.config().release(), |cluster| cluster.version),
        releases,
        due: read::deadlines(&*view, 1)?.first().is_some_and(|(at, _)| *at <= now),
        members: read::members(&*view)?,
        configs: membership.get_joint_config().iter().map(|set| set.iter().copied().map(NodeId).collect()).collect(),
        nodes: membership.nodes().map(|(node, _)| NodeId(*node)).collect(),
        lags: followers::lags(&followers, next, handle.config().lease()),
        deviating: handle.0.integrity.alarm().deviating,
    })
}

async fn perform(handle: &Handle, step: Step) -> Result<(), ChangeError> {
    let one = |node: NodeId| BTreeSet::from([node.0]);
    let change = match step {
        Step::HandOver => return handle.transfer_leader(None).await.map(|_| ()),
        Step::Expire => return expire(handle).await,
        Step::RaiseVersion(version) => return own(handle, Command::RaiseVersion { version }).await.map(|_| ()),
        Step::FinishJoint(voters) => ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect()),
        Step::AddLearner(node) => ChangeMembers::AddNodes(BTreeMap::from([(node.0, EmptyNode::new())])),
        Step::RemoveLearner(node) => ChangeMembers::RemoveNodes(one(node)),
        Step::Promote(node) => ChangeMembers::AddVoterIds(one(node)),
        Step::Demote(node) => ChangeMembers::RemoveVoters(one(node)),
    };
    handle.change_members(change).await
}

/// Ends everything that has passed its time.
async fn expire(handle: &Handle) -> Result<(), ChangeError> {
    while own(handle, Command::Expire).await? == Answer::More {}
    Ok(())
}

/// A change that this node asks for itself.
async fn own(handle: &Handle, command: Command) -> Result<Answer, ChangeError> {
    let principal = format!("node/{}", handle.node());
    let done = handle.propose(RequestId::default(), &principal, command).await;
    let accepted = done.and_then(Committed::accepted).map_err(|error| ChangeError::NotNow(error.to_string()))?;
    Ok(accepted.answer)
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
            ..Facts::default()
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
    fn the_version_goes_up_when_every_member_applies_it_and_no_higher() {
        let check = |releases: &[(u64, u32)], version: u32, expected: Option<Step>| {
            let facts = Facts {
                leader: NodeId(1),
                members: [1, 2].map(|id| member(id, Role::Voter, MemberState::Active)).to_vec(),
                configs: vec![ids(&[1, 2])],
                nodes: ids(&[1, 2]),
                lags: BTreeMap::from([(NodeId(2), 0)]),
                version,
                releases: releases.iter().map(|(node, release)| (NodeId(*node), *release)).collect(),
                ..Facts::default()
            };
            assert_eq!(decide(&facts), expected, "{releases:?} at {version}");
            // What has passed its time comes first.
            assert_eq!(decide(&Facts { due: true, ..facts }), Some(Step::Expire));
        };
        check(&[(1, 2), (2, 2)], 1, Some(Step::RaiseVersion(2)));
        check(&[(1, 3), (2, 2)], 1, Some(Step::RaiseVersion(2)));
        check(&[(1, 2), (2, 2)], 2, None);
        check(&[(1, 2), (2, 1)], 1, None);
        check(&[(1, 2)], 1, None); // node 2 was not heard
        check(&[(1, 2), (2, 2), (9, 1)], 1, Some(Step::RaiseVersion(2))); // no member
    }

    #[test]
    fn a_node_whose_state_differs_neither_votes_nor_leads_nor_decides() {
        let check = |deviating: &[u64], voters: &[u64], expected: Option<Step>| {
            let facts = Facts {
                leader: NodeId(1),
                members: [1, 2, 3].map(|id| member(id, Role::Voter, MemberState::Active)).to_vec(),
                configs: vec![ids(voters)],
                nodes: ids(&[1, 2, 3]),
                lags: [2, 3].map(|id| (NodeId(id), 0)).into(),
                deviating: ids(deviating),
                ..Facts::default()
            };
            assert_eq!(decide(&facts), expected, "{deviating:?} of {voters:?}");
        };
        check(&[], &[1, 2, 3], None);
        check(&[3], &[1, 2, 3], Some(Step::Demote(NodeId(3))));
        check(&[3], &[1, 2], None); // caught up, and not promoted
        check(&[], &[1, 2], Some(Step::Promote(NodeId(3)))); // it agrees again
        check(&[1], &[1, 2, 3], Some(Step::HandOver));
        check(&[1], &[1], None); // nobody else votes
        check(&[1, 2, 3], &[1, 2, 3], None);
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
