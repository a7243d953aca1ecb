//! What becomes of a state when it goes on under another cluster identity: after a recovery, or a restore.
//!
//! One member leads alone: a survivor under its id, or a new one. Ids go on well above all that the state knows of:
//! others were given out after it. All other members have departed; what they held, who may join, and client sessions
//! go: nobody may believe that an answer of the old cluster still holds. So do the parts that others had in wishes; the
//! wishes stay, and are planned anew; copies of others that were to go are nobody's concern. Tasks that somebody worked
//! at are lost, as when a node is. The keys of what clients carry go: whoever has the old state has them too. Values,
//! leases, settings, what requests with a key were answered and what is known of files stay as they are. [`Sweep`] is
//! taken step by step, so that no batch grows with the state; [`found`] is the last step.

use std::collections::BTreeMap;

use ollamax_types::limits::MEMBERS_MAX;
use ollamax_types::{ClusterId, NodeId, Role, Timestamp};

use super::command::NewMember;
use super::read;
use super::record::{Cluster, Cordon, Counts, Due, Key, KeyRange, Member, MemberState, Plan, Record, TaskState, Wish};
use super::view::{Fault, Mutation, View};

/// Deadlines that one step looks at; each may be of a session with as many answers as its window.
const DEADLINES_PER_STEP: usize = 16;
/// Records of other kinds that one step removes.
const RECORDS_PER_STEP: usize = 256;
/// Tasks that one step looks at; each may be large.
const TASKS_PER_STEP: usize = 64;

/// The identity that a state goes on under, and the one member that it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Verifies its membership credentials.
    pub public_key: [u8; 32],
    /// Who leads it alone.
    pub leads: Leads,
}

/// Who leads a cluster that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// A member of the state, under its id and with the models that it has on record.
    Survivor(NodeId),
    /// One that the state does not know, under a new id.
    Newcomer(NewMember),
}

/// The last step, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founded {
    /// Who leads alone, as on record.
    pub member: Member,
    /// Who has departed by it.
    pub departed: Vec<NodeId>,
    /// What changes.
    pub mutations: Vec<Mutation>,
}

/// Where the removal of what does not go along stands; a key is the last one that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Sessions { after: Option<Key> },
    Tokens,
    Locations { after: Option<Key> },
    Wishes { after: Option<Key> },
    Models { after: Option<Key> },
    Tasks { after: Option<Key> },
    Over,
}

/// Removes what does not go along, in bounded steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    stage: Stage,
    /// Whose models stay on record.
    survivor: Option<NodeId>,
}

// === impl Sweep ===

impl Sweep {
    /// Of what does not go along with this founder.
    #[must_use]
    pub const fn of(founder: &Founder) -> Self {
        let survivor = match &founder.leads {
            Leads::Survivor(node) => Some(*node),
            Leads::Newcomer(_) => None,
        };
        Self { stage: Stage::Sessions { after: None }, survivor }
    }

    /// The next step, to be written before the one after it is asked for; `None`: nothing is left to remove.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn step(&mut self, view: &dyn View) -> Result<Option<Vec<Mutation>>, Fault> {
        loop {
            let (mutations, next) = match &self.stage {
                Stage::Sessions { after } => sessions(view, after.as_ref())?,
                Stage::Tokens => tokens(view)?,
                Stage::Locations { after } => locations(view, after.as_ref(), self.survivor)?,
                Stage::Wishes { after } => wishes(view, after.as_ref(), self.survivor)?,
                Stage::Models { after } => models(view, after.as_ref(), self.survivor)?,
                Stage::Tasks { after } => tasks(view, after.as_ref())?,
                Stage::Over => return Ok(None),
            };
            self.stage = next;
            if !mutations.is_empty() {
                return Ok(Some(mutations));
            }
        }
    }
}

/// Every session has a deadline; those of leases stay.
fn sessions(view: &dyn View, after: Option<&Key>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Deadlines, after, DEADLINES_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == DEADLINES_PER_STEP => Stage::Sessions { after: Some(last.clone()) },
        _ => Stage::Tokens,
    };
    let mut mutations = Vec::new();
    for (key, _) in page {
        let Key::Deadline(_, Due::Session(id)) = key else { continue };
        mutations.push(Mutation::Delete(key));
        if let Some(session) = read::session(view, id)? {
            let oldest = session.highest.saturating_sub(u64::from(session.window.saturating_sub(1))).max(1);
            let answers = (oldest..=session.highest).map(|sequence| Key::SessionAnswer(id, sequence));
            mutations.extend(answers.chain([Key::Session(id)]).map(Mutation::Delete));
        }
    }
    Ok((mutations, next))
}

fn tokens(view: &dyn View) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Tokens, None, RECORDS_PER_STEP)?;
    let next = if page.is_empty() { Stage::Locations { after: None } } else { Stage::Tokens };
    Ok((page.into_iter().map(|(key, _)| Mutation::Delete(key)).collect(), next))
}

/// A newcomer tells of its models by itself; those of who departs are gone with them.
fn locations(view: &dyn View, after: Option<&Key>, survivor: Option<NodeId>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Locations, after, RECORDS_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == RECORDS_PER_STEP => Stage::Locations { after: Some(last.clone()) },
        _ => Stage::Wishes { after: None },
    };
    let mut mutations = Vec::new();
    for (key, _) in page {
        let Key::Location(model, node) = key else { continue };
        if Some(node) != survivor {
            mutations.push(Mutation::Delete(Key::NodeModel(node, model.clone())));
            mutations.push(Mutation::Delete(Key::Location(model, node)));
        }
    }
    Ok((mutations, next))
}

/// A plan that gives a part to anybody but the survivor is none any more, what others failed with is nobody's concern,
/// and no copy is too many.
fn wishes(view: &dyn View, after: Option<&Key>, survivor: Option<NodeId>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Wishes, after, RECORDS_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == RECORDS_PER_STEP => Stage::Wishes { after: Some(last.clone()) },
        _ => Stage::Models { after: None },
    };
    let mut mutations = Vec::new();
    for (key, record) in page {
        let Record::Wish(wish) = record else { return Err(Fault::Mismatch { key: key.to_string() }) };
        let mut kept: Wish = *wish.clone();
        kept.failures.retain(|node, _| Some(*node) == survivor);
        kept.plan = kept.plan.filter(|plan| is_of(plan, survivor));
        kept.surplus.clear();
        if kept != *wish {
            mutations.push(Mutation::Put(key, Record::Wish(Box::new(kept))));
        }
    }
    Ok((mutations, next))
}

/// What shall go from others is gone with them.
fn models(view: &dyn View, after: Option<&Key>, survivor: Option<NodeId>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Models, after, RECORDS_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == RECORDS_PER_STEP => Stage::Models { after: Some(last.clone()) },
        _ => Stage::Tasks { after: None },
    };
    let mut mutations = Vec::new();
    for (key, record) in page {
        let Record::Model(mut model) = record else { return Err(Fault::Mismatch { key: key.to_string() }) };
        let before = model.drops.len();
        model.drops.retain(|node, _| Some(*node) == survivor);
        if model.drops.len() < before {
            mutations.push(Mutation::Put(key, Record::Model(model)));
        }
    }
    Ok((mutations, next))
}

/// Nobody works at anything any more, the survivor neither: it starts anew. Their leases are over by then, or as good
/// as over.
fn tasks(view: &dyn View, after: Option<&Key>) -> Result<(Vec<Mutation>, Stage), Fault> {
    let page = view.scan(&KeyRange::Tasks, after, TASKS_PER_STEP)?;
    let next = match page.last() {
        Some((last, _)) if page.len() == TASKS_PER_STEP => Stage::Tasks { after: Some(last.clone()) },
        _ => Stage::Over,
    };
    let mut mutations = Vec::new();
    for (key, record) in page {
        let Record::Task(task) = record else { return Err(Fault::Mismatch { key: key.to_string() }) };
        let (id, due_at) = (task.id, task.due_at);
        let Some(lost) = task.after_loss(due_at) else { continue };
        mutations.push(Mutation::Delete(Key::Deadline(due_at, Due::Task(id))));
        if lost.state.is_over() {
            mutations.push(Mutation::Delete(Key::OpenTask(lost.subject.clone(), id)));
        }
        if lost.state != TaskState::Queued {
            mutations.push(Mutation::Put(Key::Deadline(lost.due_at, Due::Task(id)), Record::Present));
        }
        mutations.push(Mutation::Put(key, Record::Task(Box::new(lost))));
    }
    Ok((mutations, next))
}

/// Whether nobody but the survivor has a part in a plan.
fn is_of(plan: &Plan, survivor: Option<NodeId>) -> bool {
    plan.targets.iter().chain([&plan.ingester]).all(|node| Some(*node) == survivor)
}

/// The last step: the new identity, its one member, everybody else departed. `now` is the log time that the state
/// reaches.
///
/// # Errors
/// When the state cannot be read, is that of no cluster, or does not have the survivor among its members.
pub fn found(view: &dyn View, founder: &Founder, now: Timestamp) -> Result<Founded, Fault> {
    let cluster =
        read::cluster(view)?.ok_or_else(|| Fault::Invariant("there is no cluster in this state".to_owned()))?;
    let standing: Vec<Member> = read::members(view)?.into_iter().filter(Member::is_standing).collect();
    let free = cluster.next_node_id.saturating_add(MEMBERS_MAX as u64);
    let (member, next_node_id) = match &founder.leads {
        Leads::Survivor(node) => {
            let known = standing.iter().find(|member| member.id == *node).cloned();
            let known = known.ok_or_else(|| Fault::Invariant(format!("node {node} is no member by its own state")))?;
            (Member { role: Role::Voter, ..known }, free)
        }
        Leads::Newcomer(new) => (newcomer(new, NodeId(free), now), free.saturating_add(1)),
    };
    let (mut mutations, mut departed) = (Vec::new(), Vec::new());
    for other in standing.into_iter().filter(|other| other.id != member.id) {
        departed.push(other.id);
        mutations.push(Mutation::Delete(Key::MemberByPeer(other.peer_id.clone())));
        let state = MemberState::Departed { at: now };
        mutations.push(Mutation::Put(Key::Member(other.id), Record::Member(Member { state, ..other })));
    }
    if view.get(&Key::StateKeys)?.is_some() {
        mutations.push(Mutation::Delete(Key::StateKeys));
    }
    let counts = Counts { sessions: 0, ..read::counts(view)? };
    let renamed = Cluster { id: founder.cluster, public_key: founder.public_key, next_node_id, ..cluster };
    mutations.extend([
        Mutation::Put(Key::Cluster, Record::Cluster(renamed)),
        Mutation::Put(Key::MemberByPeer(member.peer_id.clone()), Record::NodeId(member.id)),
        Mutation::Put(Key::Member(member.id), Record::Member(member.clone())),
        Mutation::Put(Key::Counts, Record::Counts(counts)),
    ]);
    Ok(Founded { member, departed, mutations })
}

fn newcomer(new: &NewMember, id: NodeId, joined_at: Timestamp) -> Member {
    let NewMember { name, peer_id, incarnation, peer_addresses, p2p_addresses, api_addresses } = new.clone();
    let (role, state) = (Role::Voter, MemberState::Active);
    Member {
        id,
        name,
        peer_id,
        incarnation,
        role,
        state,
        peer_addresses,
        p2p_addresses,
        api_addresses,
        joined_at,
        labels: BTreeMap::new(),
        own_labels: BTreeMap::new(),
        cordon: Cordon::Open,
    }
}

#[cfg(test)]
mod tests;
