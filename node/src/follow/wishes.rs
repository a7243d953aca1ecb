//! The leader plans what wishes need; one step at a time, fenced by its term.
//!
//! Facts are gathered at each change of the state and every [`LOOK_INTERVAL`]; what follows from them is decided by
//! [`plan_pull`]; a step lands only while this node leads in the term in which it was decided. One that fails is
//! decided anew from fresh facts, and one that the cluster refused only after a while. A leader that has just begun
//! waits a little for members that it has not heard yet, because what is not known of a node speaks against it. Before
//! another node takes the place of one that brought a model into the cluster, those that receive it are asked how much
//! they have. Nobody else plans, and what was planned goes on without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::{Command, Fault, Location, Plan, PlanKind, View, Wish, read};
use ollamax_core::placement::{Planned, Site, plan_pull};
use ollamax_metadata as metadata;
use ollamax_metadata::{Part, ProposeError};
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_transfer as transfer;
use ollamax_types::{Digest, ErrorCode, NodeId};

use crate::follow::pause_after;
use crate::sites::{HEAR_TIMEOUT, Sites, holders};

/// Time between two looks at what is not done yet, although nothing changed: a node may have died.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at everything, what is done among it.
const LOOK_AT_ALL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a plan that was refused is left alone: what speaks against it does not pass in a moment.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// How far a wish for a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All nodes that shall have the model do.
    Held,
    /// It waits for its plan, or nodes are at it.
    UnderWay,
    /// There are not nodes enough that could have it.
    Impossible,
    /// Whoever does not have it has failed.
    Failed,
}

/// What a leader knows of its wishes from its last look, by model.
#[derive(Debug, Default)]
struct Book {
    known: BTreeMap<String, Known>,
    looked_at_all: Option<Instant>,
    /// Rounds whose plan was refused, and until when they are left alone.
    refused: BTreeMap<String, (u64, Instant)>,
    /// How long the last look took.
    took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    round: u64,
    state: State,
}

/// What follows from the facts of one wish.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    state: State,
    step: Option<Step>,
}

/// A plan for a round of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    ingester: NodeId,
    targets: Vec<NodeId>,
}

/// What the loop works with.
#[derive(Debug)]
pub(crate) struct Planner {
    /// The replicated state.
    pub(crate) metadata: metadata::Handle,
    /// Who is there, and how much room they have.
    pub(crate) scheduler: scheduler::Handle,
    /// Asks nodes how much they have of a model; nobody is asked without it.
    pub(crate) transfer: Option<transfer::Handle>,
    /// What `/metrics` shows of it.
    pub(crate) metrics: transfer::Metrics,
}

/// Plans while this node leads, until `stop`.
pub(crate) async fn follow(planner: Planner, stop: CancellationToken) {
    let mut changes = planner.metadata.changes();
    // Since when, and in which term; and what it has seen in it.
    let mut leads: Option<(u64, Instant, Book)> = None;
    loop {
        let pause = pause_after(leads.as_ref().map_or(Duration::ZERO, |(_, _, book)| book.took));
        let woken = async {
            sleep(pause).await;
            tokio::select! {
                changed = changes.changed() => changed.is_ok(),
                () = sleep(LOOK_INTERVAL.saturating_sub(pause)) => true,
            }
        };
        if stop.run_until_cancelled(woken).await != Some(true) {
            return;
        }
        changes.borrow_and_update();
        let Some(term) = leading_term(&planner.metadata) else {
            leads = None;
            planner.show(&Book::default());
            continue;
        };
        let (_, since, book) = match leads.take().filter(|(known, ..)| *known == term) {
            Some(same) => leads.insert(same),
            None => leads.insert((term, Instant::now(), Book::default())),
        };
        let looking = planner.look(book, term, *since);
        match stop.run_until_cancelled(looking).await {
            Some(Ok(())) => planner.show(book),
            Some(Err(fault)) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the wishes to plan them");
            }
            None => return,
        }
    }
}

/// The term in which this node leads, with its majority.
fn leading_term(metadata: &metadata::Handle) -> Option<u64> {
    let status = metadata.status();
    (status.part == Part::Leader && status.has_quorum).then_some(status.term)
}

// === impl Planner ===

impl Planner {
    /// Looks at the wishes once, and takes the steps that follow, one after the other until one fails. One that is
    /// refused stands in nobody's way.
    async fn look(&self, book: &mut Book, term: u64, since: Instant) -> Result<(), Fault> {
        let began = Instant::now();
        let due = self.due(book, since)?;
        book.took = began.elapsed();
        for command in due {
            let command = self.with_progress(command).await?;
            match self.take(&command, term).await {
                Ok(()) => {}
                Err(ProposeError::Refused(_)) => book.leave_alone(&command, Instant::now()),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The changes that are due.
    fn due(&self, book: &mut Book, since: Instant) -> Result<Vec<Command>, Fault> {
        let view = self.metadata.view();
        let sites = Sites::now(&*view, &self.scheduler)?;
        if !sites.are_clear && since.elapsed() < HEAR_TIMEOUT {
            return Ok(Vec::new());
        }
        book.look(&*view, &sites, Instant::now())
    }

    /// The same change, or where another node is to bring a model into the cluster, the one that follows from what
    /// nodes have of it. Only those that are heard are asked: one that died would keep every wish waiting.
    async fn with_progress(&self, command: Command) -> Result<Command, Fault> {
        let Some(transfer) = &self.transfer else { return Ok(command) };
        let Some((wish, digest, targets)) = self.moved(&command)? else { return Ok(command) };
        let heard = Sites::now(&*self.metadata.view(), &self.scheduler)?.heard_of(&targets);
        let permille = transfer.permille_of(&wish.name, digest, &heard).await;
        let view = self.metadata.view();
        let sites = Sites::now(&*view, &self.scheduler)?.with_progress(&permille);
        let step = examine(&wish, &sites, &read::locations_of(&*view, &wish.name)?).step;
        Ok(step.map_or(command, |step| step.of(&wish)))
    }

    /// The wish of a plan that gives the place of whoever brings a model to another node, which version that is, and
    /// who is to have it.
    fn moved(&self, command: &Command) -> Result<Option<(Wish, Digest, Vec<NodeId>)>, Fault> {
        let Command::PlanPull { name, round, ingester, targets, .. } = command else { return Ok(None) };
        let wish = read::wish(&*self.metadata.view(), name)?.filter(|wish| wish.round == *round);
        let is_moved = |wish: &Wish| wish.plan.as_ref().is_some_and(|plan| plan.ingester != *ingester);
        let moved = wish.filter(is_moved);
        Ok(moved.and_then(|wish| wish.digest.map(|digest| (wish, digest, targets.clone()))))
    }

    /// Makes one change as the leader of this term.
    async fn take(&self, command: &Command, term: u64) -> Result<(), ProposeError> {
        let id = draw_request_id();
        let span = tracing::error_span!("wishes", request_id = id.0);
        let change = metadata::Change::new(id, &format!("node/{}", self.metadata.node()), command.clone());
        let change = metadata::Change { fence_term: Some(term), ..change };
        let made = self.metadata.propose_change(change).await.and_then(metadata::Committed::accepted);
        span.in_scope(|| match &made {
            Ok(_) => tracing::info!(plan = ?command, "planned who gets a model from where"),
            Err(error) => {
                tracing::warn!(code = %error.code(), %error, "a plan for a model was not made; decided anew");
            }
        });
        made.map(|_| ())
    }

    /// A node that does not lead shows none.
    fn show(&self, book: &Book) {
        for state in State::ALL {
            let count = book.known.values().filter(|known| known.state == state).count();
            self.metrics.show_wishes(state.as_str(), count);
        }
    }
}

// === impl State ===

impl State {
    const ALL: [Self; 4] = [Self::Held, Self::UnderWay, Self::Impossible, Self::Failed];

    /// The word in labels.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::UnderWay => "under_way",
            Self::Impossible => "impossible",
            Self::Failed => "failed",
        }
    }
}

// === impl Step ===

impl Step {
    /// As a change of this wish.
    fn of(self, wish: &Wish) -> Command {
        let Self { ingester, targets } = self;
        Command::PlanPull { name: wish.name.clone(), round: wish.round, ingester, targets, kind: PlanKind::Asked }
    }
}

// === impl Book ===

impl Book {
    /// Notes how every wish stands, and gives the changes that are due. What was done at the last look is looked at
    /// again only now and then, unless it is asked for anew.
    fn look(&mut self, view: &dyn View, sites: &Sites, now: Instant) -> Result<Vec<Command>, Fault> {
        let at_all = self.looked_at_all.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AT_ALL_INTERVAL);
        let (mut known, mut commands) = (BTreeMap::new(), Vec::new());
        self.refused.retain(|_, (_, until)| *until > now);
        for wish in read::wishes(view)? {
            let (key, round) = (wish.name.key(), wish.round);
            let is_done = Known { round, state: State::Held };
            if !at_all && self.known.get(&key) == Some(&is_done) {
                known.insert(key, is_done);
                continue;
            }
            let copies = read::locations_of(view, &wish.name)?;
            let Finding { state, step } = examine(&wish, sites, &copies);
            let is_refused = self.refused.get(&key).is_some_and(|(refused, _)| *refused == round);
            known.insert(key, Known { round, state });
            if let Some(step) = step
                && !is_refused
            {
                commands.push(step.of(&wish));
            }
        }
        self.known = known;
        if at_all {
            self.looked_at_all = Some(now);
        }
        Ok(commands)
    }

    /// Notes that this plan was refused.
    fn leave_alone(&mut self, command: &Command, now: Instant) {
        if let Command::PlanPull { name, round, .. } = command {
            self.refused.insert(name.key(), (*round, now + REFUSED_FOR));
        }
    }
}

/// How a wish stands, and what is to be done for it.
fn examine(wish: &Wish, sites: &Sites, copies: &[Location]) -> Finding {
    let holders = holders(wish.digest, copies);
    let places: Vec<Site> = sites.with_holders(&holders);
    // The size is known with the version.
    let planned = plan_pull(wish, &places, wish.digest.map(|_| wish.size_bytes));
    let state = state_of(wish, &holders, &planned);
    let step = match planned {
        Planned::Plan { ingester, targets } if !is_planned(wish.plan.as_ref(), ingester, &targets) => {
            Some(Step { ingester, targets })
        }
        Planned::Plan { .. } | Planned::Impossible(_) | Planned::Nothing => None,
    };
    Finding { state, step }
}

/// Whether this is what is on record already.
fn is_planned(plan: Option<&Plan>, ingester: NodeId, targets: &[NodeId]) -> bool {
    plan.is_some_and(|plan| plan.ingester == ingester && plan.targets == targets)
}

fn state_of(wish: &Wish, holders: &BTreeSet<NodeId>, planned: &Planned) -> State {
    let Some(plan) = &wish.plan else {
        return if matches!(planned, Planned::Impossible(_)) { State::Impossible } else { State::UnderWay };
    };
    let holds = |node: &NodeId| wish.digest.is_some() && holders.contains(node);
    let has_failed = |node: &NodeId| wish.failures.contains_key(node) && !holds(node);
    let missing: Vec<&NodeId> = plan.targets.iter().filter(|target| !holds(target)).collect();
    if missing.is_empty() {
        State::Held
    } else if has_failed(&plan.ingester) || missing.into_iter().all(has_failed) {
        State::Failed
    } else {
        State::UnderWay
    }
}

#[cfg(test)]
mod tests;
