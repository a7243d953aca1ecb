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
    // Who has led for a while spares nothing any more, and need not read on at each end.
    if read::deadlines(&*view, 1)?.first().is_none_or(|(at, _)| *at > until) {
        return Ok(facts);
    }
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
mod tests;
