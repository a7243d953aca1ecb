//! The leader plans what wishes need; one step at a time, fenced by its term.
//!
//! Facts are gathered at each change of the state and every [`LOOK_INTERVAL`]; what follows from them is decided by
//! `plan_moves`; a step lands only while this node leads in the term in which it was decided. One that fails is decided
//! anew from fresh facts, and one that the cluster refused only after a while, the longer the more often it was
//! refused; it stands in nobody's way meanwhile. A leader that has just begun waits a little for members that it has
//! not heard yet, because what is not known of a node speaks against it. Before another node takes the place of one
//! that brought a model into the cluster, those that receive it are asked how much they have. Nobody else plans, and
//! what was planned goes on without a leader. Every node watches who is there, so that it can say what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ollamax_core::catalog::models::holders;
use ollamax_core::catalog::{Command, Fault, PlanKind, View, Wish, read};
use ollamax_core::health::Health;
use ollamax_core::placement::{Move, Outlook, Site, Standing};
use ollamax_metadata as metadata;
use ollamax_metadata::ProposeError;
use ollamax_scheduler as scheduler;
use ollamax_security::draw_request_id;
use ollamax_transfer as transfer;
use ollamax_types::limits::HEAR_TIMEOUT;
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::follow::presence::{Prospect, Scene, leading_term, standing};
use crate::follow::{change_in_term, next_look, pause_after};
use crate::metrics::{CopyMetrics, Moved};
use crate::sites::Sites;

use self::rest::{News, Rest};

mod rest;

/// Time between two looks at what is not done yet, although nothing changed: a node may have died.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks at everything, what is done among it.
const LOOK_AT_ALL_INTERVAL: Duration = Duration::from_secs(5);
/// How long a wish is left alone of which a step was refused: what speaks against it does not pass in a moment.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// The word under which copies count that go.
const DROP: &str = "drop";

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
    /// Steps that were refused.
    refused: BTreeMap<String, Refused>,
    /// Copies on their way that nobody asked for, by what they are made for.
    moving: BTreeMap<String, PlanKind>,
    /// What people were told of wishes that cannot be met.
    news: News,
    /// Models with too few copies, and those that cannot have enough.
    short: (usize, usize),
    /// How long the last look took.
    took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    standing: Standing,
    state: State,
}

/// A step that the cluster refused.
#[derive(Debug)]
struct Refused {
    command: Command,
    round: u64,
    at: Instant,
    rest: Rest,
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
    /// Who has been there for how long.
    pub(crate) prospect: Prospect,
    /// What `/metrics` shows of wishes.
    pub(crate) metrics: transfer::Metrics,
    /// What it shows of copies and moves.
    pub(crate) copies: CopyMetrics,
}

/// Watches who is there, and plans while this node leads, until `stop`.
pub(crate) async fn follow(planner: Planner, stop: CancellationToken) {
    let mut changes = planner.metadata.changes();
    // Since when, and in which term; and what it has seen in it.
    let mut leads: Option<(u64, Instant, Book)> = None;
    loop {
        let pause = pause_after(leads.as_ref().map_or(Duration::ZERO, |(_, _, book)| book.took));
        if stop.run_until_cancelled(next_look(&mut changes, pause, LOOK_INTERVAL)).await != Some(true) {
            return;
        }
        if let Err(fault) = planner.prospect.watch() {
            tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the members to watch them");
        }
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

// === impl Planner ===

impl Planner {
    /// Looks at the wishes once, and takes the steps that follow, one after the other until one fails. One that is
    /// refused stands in nobody's way.
    async fn look(&self, book: &mut Book, term: u64, since: Instant) -> Result<(), Fault> {
        let began = Instant::now();
        let due = self.due(book, since)?;
        // How all wishes stand at this look: those that it changes are read anew, and no others.
        let known = book.known.values().filter(|_| !due.is_empty());
        let mut wishes: Vec<Standing> = known.map(|known| known.standing.clone()).collect();
        book.took = began.elapsed();
        for command in due {
            let command = self.with_progress(command, &mut wishes, &mut book.took).await?;
            match self.take(&command, term).await {
                Ok(()) => {
                    if let Command::PlanPull { name, .. } | Command::DropCopies { name, .. } = &command {
                        renew(&*self.metadata.view(), &mut wishes, name)?;
                    }
                    self.count(book.taken(&command), Moved::Done);
                }
                Err(ProposeError::Refused(_)) => self.count(book.leave_alone(&command, Instant::now()), Moved::Failed),
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
        let now = Instant::now();
        let wishes = book.standings(&*view, &|name| self.scheduler.loaded_on(name), now)?;
        let scene = self.prospect.scene(&*view, sites, wishes)?;
        let commands = book.decide(&scene, now);
        for (kind, outcome) in book.ended(&scene) {
            self.copies.moved(kind.as_str(), outcome);
        }
        Ok(commands)
    }

    /// The same change, or where another node is to bring a model into the cluster, the one that follows from what
    /// nodes have of it. Only those that are heard are asked: one that died would keep every wish waiting. `wishes` are
    /// all, and to `took` is added what the decision takes.
    async fn with_progress(
        &self,
        command: Command,
        wishes: &mut Vec<Standing>,
        took: &mut Duration,
    ) -> Result<Command, Fault> {
        let Some(transfer) = &self.transfer else { return Ok(command) };
        let Some((wish, digest, targets)) = self.given_over(&command)? else { return Ok(command) };
        let heard = Sites::now(&*self.metadata.view(), &self.scheduler)?.heard_of(&targets);
        let permille = transfer.permille_of(&wish.name, digest, &heard).await;
        let began = Instant::now();
        let view = self.metadata.view();
        let sites = Sites::now(&*view, &self.scheduler)?.with_progress(&permille);
        renew(&*view, wishes, &wish.name)?;
        let keys = wishes.iter().map(|standing| standing.wish.name.key());
        let others: BTreeSet<String> = keys.filter(|key| *key != wish.name.key()).collect();
        let scene = self.prospect.scene(&*view, sites, std::mem::take(wishes))?;
        let moves = scene.outlook_beside(&others).moves;
        *wishes = scene.wishes;
        *took += began.elapsed();
        let plan = moves.into_iter().find(|step| matches!(step, Move::Plan { .. }));
        Ok(plan.map_or(command, command_of))
    }

    /// The wish of a plan by which another node, that does not have the model, is to bring it; which version that is,
    /// and who is to have it.
    fn given_over(&self, command: &Command) -> Result<Option<(Wish, Digest, Vec<NodeId>)>, Fault> {
        let Command::PlanPull { name, round, ingester, targets, .. } = command else { return Ok(None) };
        let view = self.metadata.view();
        let is_given_over = |wish: &Wish| wish.plan.as_ref().is_some_and(|plan| plan.ingester != *ingester);
        let wish = read::wish(&*view, name)?.filter(|wish| wish.round == *round && is_given_over(wish));
        let Some((wish, digest)) = wish.and_then(|wish| wish.digest.map(|digest| (wish, digest))) else {
            return Ok(None);
        };
        let has_it = holders(Some(digest), None, &read::locations_of(&*view, name)?).contains(ingester);
        Ok((!has_it).then(|| (wish, digest, targets.clone())))
    }

    /// Makes one change as the leader of this term.
    async fn take(&self, command: &Command, term: u64) -> Result<(), ProposeError> {
        let id = draw_request_id();
        let span = tracing::error_span!("wishes", request_id = id.0);
        let principal = format!("node/{}", self.metadata.node());
        let made = change_in_term(&self.metadata, id, &principal, command.clone(), term).await;
        span.in_scope(|| match &made {
            Ok(_) => tracing::info!(plan = in_words(command), "planned who has a model, and who gets it from where"),
            Err(error) => {
                tracing::warn!(code = %error.code(), %error, "a plan for a model was not made; decided anew");
            }
        });
        made.map(|_| ())
    }

    fn count(&self, word: Option<&str>, outcome: Moved) {
        if let Some(word) = word {
            self.copies.moved(word, outcome);
        }
    }

    /// A node that does not lead shows none.
    fn show(&self, book: &Book) {
        for state in State::ALL {
            let count = book.known.values().filter(|known| known.state == state).count();
            self.metrics.show_wishes(state.as_str(), count);
        }
        let (under, impossible) = book.short;
        self.copies.show(under, impossible, book.moving.len());
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

// === impl Book ===

impl Book {
    /// How all wishes stand. What was done at the last look is looked at again only now and then, unless its record is
    /// another one.
    fn standings(
        &mut self,
        view: &dyn View,
        loaded: &dyn Fn(&ModelName) -> Vec<NodeId>,
        now: Instant,
    ) -> Result<Vec<Standing>, Fault> {
        let at_all = self.looked_at_all.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AT_ALL_INTERVAL);
        let mut standings = Vec::new();
        for wish in read::wishes(view)? {
            let known = self.known.get(&wish.name.key()).filter(|known| known.state == State::Held && !at_all);
            standings.push(match known.filter(|known| known.standing.wish == wish) {
                Some(known) => {
                    let loaded_on = loaded(&wish.name).into_iter().collect();
                    Standing { loaded_on, ..known.standing.clone() }
                }
                None => standing(view, wish, loaded)?,
            });
        }
        if at_all {
            self.looked_at_all = Some(now);
        }
        Ok(standings)
    }

    /// Notes how every wish stands, and gives the changes that are due.
    fn decide(&mut self, scene: &Scene, now: Instant) -> Vec<Command> {
        let outlook = scene.outlook();
        self.short = (outlook.under.len(), outlook.impossible.len());
        for (name, why) in self.news.of(&outlook.impossible, now) {
            let why: Vec<String> = why.iter().map(|(node, unfit)| unfit.of(&format!("node {node}"))).collect();
            tracing::warn!(model = %name, why = why.join("; "), "a model cannot have the copies that are wanted");
        }
        let impossible: BTreeSet<&ModelName> = outlook.impossible.iter().map(|(name, _)| name).collect();
        let known = |standing: &Standing| {
            let state = state_of(standing, impossible.contains(&standing.wish.name));
            (standing.wish.name.key(), Known { standing: standing.clone(), state })
        };
        self.known = scene.wishes.iter().map(known).collect();
        // Another round is another matter.
        let known = &self.known;
        self.refused.retain(|key, refused| {
            known.get(key).is_some_and(|known| known.standing.wish.round == refused.round) && !refused.rest.is_over(now)
        });
        self.steps(scene, outlook, now)
    }

    /// What is to be done now, without what was refused a short time ago.
    fn steps(&self, scene: &Scene, outlook: Outlook, now: Instant) -> Vec<Command> {
        let (mut left_alone, mut moves) = (BTreeSet::new(), outlook.moves);
        loop {
            let (resting, due): (Vec<Move>, Vec<Move>) = moves.into_iter().partition(|step| self.rests(step, now));
            if resting.is_empty() {
                return due.into_iter().map(command_of).collect();
            }
            left_alone.extend(resting.iter().map(|step| name_of(step).key()));
            // Where one step is made at a time, the next one is somebody else's.
            moves = scene.outlook_beside(&left_alone).moves;
        }
    }

    /// Whether a step is left alone: for a moment whatever it is, and longer where the same was refused.
    fn rests(&self, step: &Move, now: Instant) -> bool {
        self.refused.get(&name_of(step).key()).is_some_and(|refused| {
            let is_fresh = now.saturating_duration_since(refused.at) < REFUSED_FOR;
            is_fresh || (refused.command == command_of(step.clone()) && refused.rest.lasts(now))
        })
    }

    /// Notes that this change was made, and gives the word under which it counts, where it is done by that.
    fn taken(&mut self, command: &Command) -> Option<&'static str> {
        let Command::DropCopies { name, .. } = command else { return None };
        // It goes, which is seen on record.
        self.known.remove(&name.key());
        Some(DROP)
    }

    /// Notes that this change was refused, and gives the word under which it counts.
    fn leave_alone(&mut self, command: &Command, now: Instant) -> Option<&'static str> {
        let (name, word) = if let Command::PlanPull { name, kind, .. } = command {
            (name, Some(kind.as_str()).filter(|_| *kind != PlanKind::Asked))
        } else if let Command::DropCopies { name, .. } = command {
            (name, Some(DROP))
        } else {
            return None;
        };
        let key = name.key();
        let round = self.known.get(&key).map_or(0, |known| known.standing.wish.round);
        let before = self.refused.remove(&key).filter(|before| before.command == *command);
        let rest = before.map_or_else(|| Rest::of(REFUSED_FOR, now), |before| before.rest.longer(now));
        self.refused.insert(key, Refused { command: command.clone(), round, at: now, rest });
        word
    }

    /// The moves that have come to an end since the last look.
    fn ended(&mut self, scene: &Scene) -> Vec<(PlanKind, Moved)> {
        let moving = scene.wishes.iter().filter_map(|standing| {
            let kind = standing.wish.plan.as_ref()?.kind;
            let is_moving = kind != PlanKind::Asked && !coming(standing, scene).is_empty();
            is_moving.then(|| (standing.wish.name.key(), kind))
        });
        let moving: BTreeMap<String, PlanKind> = moving.collect();
        let before = std::mem::replace(&mut self.moving, moving);
        let over = before.into_iter().filter(|(key, _)| !self.moving.contains_key(key));
        // Who asked for it anew, or wants it no more, has ended it; that is neither.
        let outcome = |(key, kind): (String, PlanKind)| {
            let standing = &self.known.get(&key)?.standing;
            let plan = standing.wish.plan.as_ref().filter(|plan| plan.kind == kind)?;
            // What failed before was the reason for the move, if anything.
            let has_failed = |node: &NodeId| {
                let failure = standing.wish.failures.get(node).filter(|_| !holds(standing, *node));
                failure.is_some_and(|failure| failure.at >= plan.made_at)
            };
            Some((kind, if plan.targets.iter().any(has_failed) { Moved::Failed } else { Moved::Done }))
        };
        over.filter_map(outcome).collect()
    }
}

/// Reads anew how one wish stands, and leaves the others as they are.
fn renew(view: &dyn View, wishes: &mut Vec<Standing>, name: &ModelName) -> Result<(), Fault> {
    wishes.retain(|known| known.wish.name.key() != name.key());
    if let Some(wish) = read::wish(view, name)? {
        wishes.push(standing(view, wish, &|_| Vec::new())?);
    }
    Ok(())
}

/// A step as a change.
fn command_of(step: Move) -> Command {
    match step {
        Move::Plan { name, round, ingester, targets, kind } => {
            Command::PlanPull { name, round, ingester, targets, kind }
        }
        Move::Drop { name, node } => {
            let nodes = vec![node];
            Command::DropCopies { name, nodes, forget: false, force: false, unless_pinned: false }
        }
    }
}

/// A change in the words of the log.
fn in_words(command: &Command) -> String {
    let listed = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match command {
        Command::PlanPull { name, ingester, targets, kind, .. } => {
            format!("{name}: on node {}, from node {ingester}; {}", listed(targets), kind.as_str())
        }
        Command::DropCopies { name, nodes, .. } => format!("{name}: goes from node {}", listed(nodes)),
        other => other.word().to_owned(),
    }
}

const fn name_of(step: &Move) -> &ModelName {
    match step {
        Move::Plan { name, .. } | Move::Drop { name, .. } => name,
    }
}

/// Whether a node has the version of the round.
fn holds(standing: &Standing, node: NodeId) -> bool {
    standing.wish.digest.is_some() && standing.holders.contains(&node)
}

/// The targets that will have the model if nothing happens. Nobody waits for one that is lost.
fn coming(standing: &Standing, scene: &Scene) -> Vec<NodeId> {
    let is_awaited =
        |site: &Site| site.health != Health::Dead || !scene.presence.lost(site.node, scene.knobs.repair_after);
    let is_there = |node: NodeId| scene.sites.all().iter().any(|site| site.node == node && is_awaited(site));
    let is_coming =
        |node: &NodeId| !holds(standing, *node) && !standing.wish.failures.contains_key(node) && is_there(*node);
    let targets = standing.wish.plan.iter().flat_map(|plan| plan.targets.iter().copied());
    targets.filter(is_coming).collect()
}

/// How far a wish is, and whether there are nodes enough for it.
fn state_of(standing: &Standing, is_impossible: bool) -> State {
    let wish = &standing.wish;
    if is_impossible {
        return State::Impossible;
    }
    let Some(plan) = &wish.plan else { return State::UnderWay };
    let has_failed = |node: &NodeId| wish.failures.contains_key(node) && !holds(standing, *node);
    let missing: Vec<&NodeId> = plan.targets.iter().filter(|target| !holds(standing, **target)).collect();
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
