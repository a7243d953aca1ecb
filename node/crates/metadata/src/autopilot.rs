//! Keeps the Raft group in step with the members of the catalog, takes seat and membership from those that are silent
//! for long, ends what has passed its time, and raises the cluster's version when all members apply a higher one. The
//! leader alone acts, one step at a time, by what it has seen itself.
//!
//! The decision is pure ([`decide`]); the loop around it gathers facts, performs the step, and looks again. A step
//! lands only if leader and membership are still those that it was decided for. One that fails is logged and decided
//! anew from fresh facts; a leader that dies half-way leaves a joint configuration, which the next leader finishes
//! first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::PoisonError;
use std::time::Duration;

use openraft::vote::RaftLeaderId as _;
use openraft::{ChangeMembers, EmptyNode, Precondition};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Answer, Command, Due, Fault, Member, MemberState, Task, TaskState, TaskTold, View, read};
use ollamax_core::stability::{Stability, Standing};
use ollamax_core::voters::{self, Change, Group};
use ollamax_types::limits::{TASK_LEASE, TASKS_TOLD_MAX};
use ollamax_types::{ErrorCode, Knob, Knobs, NodeId, RequestId, Timestamp};

use crate::error::ChangeError;
use crate::followers;
use crate::handle::{Committed, Handle};
use crate::raft::{Metrics, Types};
use crate::status::Outlook;

/// Longest wait for one step; the next look decides anew.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
/// Wait before a leader whose disk is full hands over once more, lest leadership goes round where all disks are full.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(60);
/// Deadlines that a new leader looks at for tasks that it spares: more than tasks can be worked at in a large cluster.
const SPARE_LOOK_MAX: usize = 1_024;

/// One change of the Raft group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Finishes a change of voters that a leader left half-way.
    FinishJoint(BTreeSet<NodeId>),
    /// Leads, but has departed, has no room on its disk or holds another state: somebody else must lead.
    HandOver,
    /// Leads, and was drained: this voter shall lead.
    HandOverTo(NodeId),
    /// Starts to replicate to a member that is new in the catalog.
    AddLearner(NodeId),
    /// Stops replicating to a member that has departed.
    RemoveLearner(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A voter that was silent for long becomes a learner, and a healthy learner gets its seat.
    Replace {
        /// Who was silent.
        silent: NodeId,
        /// Who votes from now on.
        by: NodeId,
    },
    /// A member was silent for so long that it is no member any more.
    Remove(NodeId),
    /// A node could not tell of its tasks while nobody led: they stay its own for one more lease.
    Spare(NodeId, Vec<TaskTold>),
    /// Something has passed its time.
    Expire,
    /// All members apply a higher cluster version than the cluster uses.
    RaiseVersion(u32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FinishJoint(voters) => {
                let voters: Vec<String> = voters.iter().map(ToString::to_string).collect();
                write!(f, "finish the change to the voters {}", voters.join(", "))
            }
            Self::HandOver => f.write_str("have another node lead"),
            Self::HandOverTo(node) => write!(f, "have node {node} lead"),
            Self::AddLearner(node) => write!(f, "node {node} follows"),
            Self::RemoveLearner(node) => write!(f, "node {node} follows no more"),
            Self::Promote(node) => write!(f, "node {node} votes"),
            Self::Demote(node) => write!(f, "node {node} votes no more"),
            Self::Replace { silent, by } => write!(f, "node {by} votes in the place of node {silent}"),
            Self::Remove(node) => write!(f, "node {node} is no member any more"),
            Self::Spare(node, tasks) => write!(f, "node {node} keeps {} tasks for one more lease", tasks.len()),
            Self::Expire => f.write_str("end what has passed its time"),
            Self::RaiseVersion(version) => write!(f, "raise the cluster's version to {version}"),
        }
    }
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
    /// What this leader makes of each other node of the group.
    pub(crate) seen: BTreeMap<NodeId, Standing>,
    /// The cluster's knobs.
    pub(crate) knobs: Knobs,
    /// The cluster's version.
    pub(crate) version: u32,
    /// The highest that each member applies; absent when it did not say so since this node began.
    pub(crate) releases: BTreeMap<NodeId, u32>,
    /// The first deadline of leases and sessions has passed.
    pub(crate) due: bool,
    /// Tasks of a member whose lease passed before this leader could be told of them.
    pub(crate) spared: Option<(NodeId, Vec<TaskTold>)>,
    /// Whose state differs from that of the majority: they neither vote nor lead.
    pub(crate) deviating: BTreeSet<NodeId>,
}

// === impl Facts ===

impl Facts {
    fn group<'a>(&'a self, members: &'a [Member], voters: &'a BTreeSet<NodeId>) -> Group<'a> {
        Group { members, voters, leader: self.leader, seen: &self.seen, knobs: &self.knobs }
    }

    /// What is shown of it.
    fn outlook(&self, term: u64) -> Option<Outlook> {
        let group = self.group(&self.members, self.configs.last()?);
        let removal = |member: &Member| Some((member.id, voters::removed_in(&group, member.id)?));
        Some(Outlook {
            term,
            healthy: voters::healthy(&group, &self.nodes),
            tolerance: voters::tolerance(voters::healthy(&group, group.voters), group.voters.len()),
            removals: self.members.iter().filter_map(removal).collect(),
        })
    }
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
    if let Some((node, tasks)) = &facts.spared {
        return Some(Step::Spare(*node, tasks.clone()));
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
    let trusted: Vec<Member> = trusted.cloned().collect();
    let group = facts.group(&trusted, voters);
    let change = voters::plan(&group).map(|change| match change {
        Change::Promote(node) => Step::Promote(node),
        Change::Demote(node) if node == facts.leader => Step::HandOver,
        Change::Demote(node) => Step::Demote(node),
        Change::Replace { silent, by } => Step::Replace { silent, by },
    });
    change
        .or_else(|| relieve(facts, voters))
        .or_else(|| voters::removable(&group).map(Step::Remove))
        .or_else(|| raise(facts, &active))
}

/// A drained leader gives leadership to a healthy voter that is not drained.
fn relieve(facts: &Facts, voters: &BTreeSet<NodeId>) -> Option<Step> {
    let is = |node: NodeId, state: MemberState| {
        facts.members.iter().any(|member| member.id == node && member.state == state)
    };
    let is_healthy = |node: NodeId| facts.seen.get(&node).is_some_and(|standing| standing.healthy_for.is_some());
    let may_lead = |node: &NodeId| is_healthy(*node) && is(*node, MemberState::Active);
    let relief = voters.iter().copied().find(may_lead).filter(|_| is(facts.leader, MemberState::Drained));
    relief.map(Step::HandOverTo)
}

/// The version that all members apply, when it is more than the cluster's.
fn raise(facts: &Facts, active: &BTreeSet<NodeId>) -> Option<Step> {
    // What a member said before it fell silent may not be so any more.
    let is_heard = |node: NodeId| {
        let heard = facts.seen.get(&node).is_some_and(|standing| standing.silent <= facts.knobs.last_contact);
        node == facts.leader || heard
    };
    let release = |node: &NodeId| facts.releases.get(node).copied().filter(|_| is_heard(*node));
    let releases: Option<Vec<u32>> = active.iter().map(release).collect();
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
    let (start, mut stability) = (Instant::now(), Stability::default());
    let mut led: Option<(u64, Timestamp)> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let metrics = handle.raft_metrics();
        if metrics.running_state.is_err() {
            return;
        }
        handle.stand_in_need();
        handle.tend_snapshots().await;
        if !metrics.state.is_leader() || !handle.status().has_quorum {
            continue;
        }
        handle.compare_states(&metrics);
        let led_from = match led {
            Some((term, from)) if term == metrics.current_term => from,
            _ => handle.0.stamper.peek(),
        };
        led = Some((metrics.current_term, led_from));
        let gathered = gather(&handle, &metrics, &mut stability, start.elapsed());
        let facts = match gathered.and_then(|facts| spare(&handle, facts, led_from)) {
            Ok(facts) => facts,
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read members for the autopilot");
                continue;
            }
        };
        *handle.0.outlook.lock().unwrap_or_else(PoisonError::into_inner) = facts.outlook(metrics.current_term);
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
        tracing::info!(%step, term = metrics.current_term, "changing the raft group");
        tokio::select! {
            () = stop.cancelled() => return,
            result = tokio::time::timeout(STEP_DEADLINE, perform(&handle, step, &metrics)) => match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "change of the raft group not done"),
                Err(_) => tracing::warn!("change of the raft group not done in time"),
            }
        }
    }
}

fn gather(handle: &Handle, metrics: &Metrics, stability: &mut Stability, elapsed: Duration) -> Result<Facts, Fault> {
    let membership = metrics.membership_config.membership();
    let next = metrics.last_log_index.map_or(0, |index| index + 1);
    let followers = followers::followers(metrics, handle.node());
    let view = handle.view();
    let cluster = read::cluster(&*view)?;
    let knobs = knobs(&*view, handle.config().heartbeat_ms)?;
    let seen = stability.look(elapsed, metrics.current_term, &followers::looks(&followers, next), &knobs).clone();
    let now = handle.0.stamper.stamp();
    let mut releases = handle.0.releases.all();
    releases.insert(handle.node(), handle.config().release());
    Ok(Facts {
        leader: handle.node(),
        version: cluster.map_or(handle.config().release(), |cluster| cluster.version),
        releases,
        due: read::deadlines(&*view, 1)?.first().is_some_and(|(at, _)| *at <= now),
        spared: None,
        members: read::members(&*view)?,
        configs: membership.get_joint_config().iter().map(|set| set.iter().copied().map(NodeId).collect()).collect(),
        nodes: membership.nodes().map(|(node, _)| NodeId(*node)).collect(),
        seen,
        knobs,
        deviating: handle.0.integrity.alarm().deviating,
    })
}

/// Adds the tasks that are spared before anything is ended. Who works tells three times in a lease, so half of one is
/// enough to be heard by a leader of this log time.
fn spare(handle: &Handle, facts: Facts, led_from: Timestamp) -> Result<Facts, Fault> {
    if !facts.due {
        return Ok(facts);
    }
    let until = led_from.plus_ms(TASK_LEASE.as_secs() * 1_000 / 2).min(handle.0.stamper.peek());
    let view = handle.view();
    let mut passed = Vec::new();
    for (_, due) in read::deadlines(&*view, SPARE_LOOK_MAX)?.into_iter().take_while(|(at, _)| *at <= until) {
        let Due::Task(id) = due else { continue };
        passed.extend(read::task(&*view, &id)?);
    }
    let spared = spared(&passed, &facts.members, until);
    Ok(Facts { spared, ..facts })
}

/// The tasks of one standing member whose leases passed until then, as that member would tell of them. Those of a
/// member that was removed are lost.
fn spared(tasks: &[Task], members: &[Member], until: Timestamp) -> Option<(NodeId, Vec<TaskTold>)> {
    let holder = |task: &Task| match task.state {
        TaskState::Working { node } if task.due_at <= until => Some(node),
        _ => None,
    };
    let stands = |node: &NodeId| members.iter().any(|member| member.id == *node && member.is_standing());
    let node = tasks.iter().filter_map(holder).find(stands)?;
    let own = tasks.iter().filter(|task| holder(task) == Some(node)).take(TASKS_TOLD_MAX);
    let told = |task: &Task| TaskTold { id: task.id, attempt: task.attempt, progress: task.progress.clone() };
    Some((node, own.map(told).collect()))
}

/// The cluster's knobs. A node that is asked four times a second cannot be heard more often than that.
fn knobs(view: &dyn View, heartbeat_ms: u64) -> Result<Knobs, Fault> {
    let mut knobs = Knobs::default();
    for knob in Knob::ALL {
        let key = knob.setting();
        let Some(setting) = read::setting(view, &key)? else { continue };
        if let Err(error) = knobs.take(&key, &setting.value) {
            tracing::debug!(%error, "a setting of the autopilot is none; its default counts");
        }
    }
    knobs.last_contact = knobs.last_contact.max(Duration::from_millis(heartbeat_ms.saturating_mul(2)));
    Ok(knobs)
}

/// What must still hold when a change of the membership enters the log: who leads, and the membership that was seen.
fn unchanged(metrics: &Metrics) -> Vec<Precondition<Types>> {
    vec![
        Precondition::CommittedLeaderId { committed_leader_id: metrics.vote.leader_id().to_committed() },
        Precondition::LastMembershipLogId { last_membership_log_id: *metrics.membership_config.log_id() },
    ]
}

async fn perform(handle: &Handle, step: Step, metrics: &Metrics) -> Result<(), ChangeError> {
    let one = |node: NodeId| BTreeSet::from([node.0]);
    let change = match step {
        Step::HandOver => return handle.transfer_leader(None).await.map(|_| ()),
        Step::HandOverTo(node) => return handle.transfer_leader(Some(node)).await.map(|_| ()),
        Step::Remove(node) => return remove(handle, node, metrics.current_term).await,
        Step::Spare(node, tasks) => {
            return own(handle, metrics.current_term, Command::TellTasks { node, tasks }).await.map(|_| ());
        }
        Step::Expire => return expire(handle, metrics.current_term).await,
        Step::RaiseVersion(version) => {
            return own(handle, metrics.current_term, Command::RaiseVersion { version }).await.map(|_| ());
        }
        Step::FinishJoint(voters) => ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect()),
        Step::AddLearner(node) => ChangeMembers::AddNodes(BTreeMap::from([(node.0, EmptyNode::new())])),
        Step::RemoveLearner(node) => ChangeMembers::RemoveNodes(one(node)),
        Step::Promote(node) => ChangeMembers::AddVoterIds(one(node)),
        Step::Demote(node) => ChangeMembers::RemoveVoters(one(node)),
        Step::Replace { silent, by } => {
            let voters = metrics.membership_config.membership().voter_ids();
            ChangeMembers::ReplaceAllVoters(voters.filter(|voter| *voter != silent.0).chain([by.0]).collect())
        }
    };
    handle.change_members(change, unchanged(metrics)).await
}

/// Removes a silent member as an administrator would, while this node leads in this term.
async fn remove(handle: &Handle, node: NodeId, term: u64) -> Result<(), ChangeError> {
    let principal = format!("node/{}", handle.node());
    let removed = handle.remove_member(&RequestId::default(), &principal, Some(term), node).await;
    removed.map_err(|error| ChangeError::NotNow(error.to_string()))
}

/// Ends everything that has passed its time.
async fn expire(handle: &Handle, term: u64) -> Result<(), ChangeError> {
    while own(handle, term, Command::Expire).await? == Answer::More {}
    Ok(())
}

/// A change that this node asks for itself, as the leader of this term.
async fn own(handle: &Handle, term: u64, command: Command) -> Result<Answer, ChangeError> {
    let principal = format!("node/{}", handle.node());
    let change = crate::handle::Change::new(RequestId::default(), &principal, command);
    let change = crate::handle::Change { fence_term: Some(term), ..change };
    let done = handle.propose_change(change).await;
    let accepted = done.and_then(Committed::accepted).map_err(|error| ChangeError::NotNow(error.to_string()))?;
    Ok(accepted.answer)
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::TaskProgress;
    use ollamax_types::{Incarnation, PeerId, Role, TaskId};

    use super::*;

    #[test]
    fn the_log_has_a_step_in_words() {
        let check = |step: Step, expected: &str| assert_eq!(step.to_string(), expected);
        check(Step::FinishJoint([NodeId(1), NodeId(3)].into()), "finish the change to the voters 1, 3");
        check(Step::Promote(NodeId(3)), "node 3 votes");
        check(Step::Replace { silent: NodeId(2), by: NodeId(4) }, "node 4 votes in the place of node 2");
    }

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
            labels: Default::default(),
            own_labels: Default::default(),
            cordon: Default::default(),
        }
    }

    fn healthy() -> Standing {
        Standing { healthy_for: Some(Duration::from_secs(60)), ..Standing::default() }
    }

    fn silent(hours: u64) -> Standing {
        Standing { silent: Duration::from_secs(hours * 3_600), ..Standing::default() }
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
            seen: caught_up.iter().map(|node| (NodeId(*node), healthy())).collect(),
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

    fn working(number: u8, node: u64, due_at: u64) -> Task {
        Task {
            id: TaskId([number; 16]),
            tool: "t".to_owned(),
            arguments_json: "{}".to_owned(),
            subject: "uid/0".to_owned(),
            priority: 5,
            repeatable: true,
            needs_approval: false,
            state: TaskState::Working { node: NodeId(node) },
            attempt: 3,
            losses: 0,
            cancel_asked: false,
            progress: TaskProgress { done: u64::from(number), ..TaskProgress::default() },
            asked_by: "node/1".to_owned(),
            created_at: Timestamp(1),
            begun_at: Timestamp(1),
            updated_at: Timestamp(1),
            due_at: Timestamp(due_at),
        }
    }

    fn told(number: u8) -> TaskTold {
        let progress = TaskProgress { done: u64::from(number), ..TaskProgress::default() };
        TaskTold { id: TaskId([number; 16]), attempt: 3, progress }
    }

    #[test]
    fn a_new_leader_spares_the_tasks_of_standing_members_one_after_the_other() {
        let gone = member(4, Role::Voter, MemberState::Departed { at: Timestamp(1) });
        let members = [member(2, Role::Voter, MemberState::Active), member(3, Role::Voter, MemberState::Drained), gone];
        let spared = |tasks: &[Task]| spared(tasks, &members, Timestamp(9));
        assert_eq!(spared(&[]), None);
        assert_eq!(spared(&[working(1, 2, 10)]), None, "its lease runs still");
        assert_eq!(spared(&[working(1, 4, 9)]), None, "a member that was removed has lost it");
        let waiting = Task { state: TaskState::Waiting, ..working(1, 2, 9) };
        assert_eq!(spared(&[waiting]), None);
        let tasks = [working(1, 4, 9), working(2, 3, 9), working(3, 2, 8), working(4, 3, 7), working(5, 3, 10)];
        assert_eq!(spared(&tasks), Some((NodeId(3), vec![told(2), told(4)])));
        let many = vec![working(1, 2, 9); TASKS_TOLD_MAX + 1];
        assert_eq!(spared(&many).map(|(_, told)| told.len()), Some(TASKS_TOLD_MAX));
    }

    #[test]
    fn nothing_is_ended_while_tasks_are_spared() {
        let facts = Facts {
            leader: NodeId(1),
            members: vec![member(1, Role::Voter, MemberState::Active)],
            configs: vec![ids(&[1])],
            nodes: ids(&[1]),
            due: true,
            ..Facts::default()
        };
        assert_eq!(decide(&facts), Some(Step::Expire));
        let spared = Some((NodeId(1), vec![told(1)]));
        let expected = Step::Spare(NodeId(1), vec![told(1)]);
        assert_eq!(decide(&Facts { spared, ..facts }), Some(expected));
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
                seen: BTreeMap::from([(NodeId(2), healthy())]),
                knobs: Knobs::default(),
                version,
                releases: releases.iter().map(|(node, release)| (NodeId(*node), *release)).collect(),
                ..Facts::default()
            };
            assert_eq!(decide(&facts), expected, "{releases:?} at {version}");
            let silent = Standing { silent: Duration::from_secs(60), healthy_for: None, wavered: true };
            let unheard = Facts { seen: BTreeMap::from([(NodeId(2), silent)]), ..facts.clone() };
            assert_eq!(decide(&unheard), None, "node 2 may have gone back to the release before");
            // What has passed its time comes first.
            assert_eq!(decide(&Facts { due: true, ..facts }), Some(Step::Expire));
        };
        check(&[(1, 2), (2, 2)], 1, Some(Step::RaiseVersion(2)));
        check(&[(1, 3), (2, 2)], 1, Some(Step::RaiseVersion(2)));
        check(&[(1, 2), (2, 2)], 2, None);
        check(&[(1, 2), (2, 1)], 1, None);
        check(&[(1, 2)], 1, None); // node 2 said nothing
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
                seen: [2, 3].map(|id| (NodeId(id), healthy())).into(),
                knobs: Knobs::default(),
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

    /// Four members of whom node 4 has this standing, and the first three vote.
    fn four(last: Standing) -> Facts {
        Facts {
            leader: NodeId(1),
            members: (1..=4).map(|id| member(id, Role::Voter, MemberState::Active)).collect(),
            configs: vec![ids(&[1, 2, 3])],
            nodes: ids(&[1, 2, 3, 4]),
            seen: BTreeMap::from([(NodeId(2), healthy()), (NodeId(3), healthy()), (NodeId(4), last)]),
            ..Facts::default()
        }
    }

    #[test]
    fn a_silent_voter_is_replaced_and_a_silent_member_removed_before_the_version_goes_up() {
        let releases: BTreeMap<NodeId, u32> = (1..=4).map(|id| (NodeId(id), 9)).collect();
        let removed = Facts { releases: releases.clone(), ..four(silent(24)) };
        assert_eq!(decide(&removed), Some(Step::Remove(NodeId(4))));
        let mut replaced = Facts { releases, ..four(healthy()) };
        replaced.seen.insert(NodeId(3), silent(1));
        assert_eq!(decide(&replaced), Some(Step::Replace { silent: NodeId(3), by: NodeId(4) }));
        assert_eq!(decide(&Facts { due: true, ..replaced }), Some(Step::Expire));
    }

    #[test]
    fn a_drained_leader_is_relieved_by_a_healthy_voter_that_is_not_drained() {
        let check = |drained: &[u64], seen: &[(u64, Standing)], expected: Option<u64>| {
            let mut facts = four(healthy());
            for id in drained {
                facts.members[usize::try_from(*id).expect("few") - 1].state = MemberState::Drained;
            }
            facts.seen.extend(seen.iter().map(|(id, standing)| (NodeId(*id), *standing)));
            assert_eq!(decide(&facts), expected.map(|id| Step::HandOverTo(NodeId(id))), "{drained:?} {seen:?}");
        };
        check(&[], &[], None);
        check(&[2, 3], &[], None);
        check(&[1], &[], Some(2));
        check(&[1, 2], &[], Some(3));
        check(&[1], &[(2, silent(0))], Some(3));
        check(&[1, 2, 3], &[], None); // node 4 does not vote
    }

    #[test]
    fn the_outlook_tells_health_tolerance_and_who_will_be_removed() {
        let outlook = four(silent(1)).outlook(7).expect("a group");
        assert_eq!((outlook.term, outlook.healthy, outlook.tolerance), (7, 3, 1));
        assert_eq!(outlook.removals, BTreeMap::from([(NodeId(4), Duration::from_secs(23 * 3_600))]));
        let outlook = four(healthy()).outlook(7).expect("a group");
        assert_eq!((outlook.healthy, outlook.tolerance, outlook.removals.len()), (4, 1, 0));
        assert_eq!(Facts::default().outlook(7), None);
    }
}
