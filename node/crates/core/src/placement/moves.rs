//! What the leader does for all wishes at once: plans that are due, copies made anew, nodes emptied, copies too many.
//!
//! A move is a plan with one target more; when that one holds the model, the copy that is not needed is dropped. So a
//! crash anywhere leaves one copy too many and never one too few.
//!
//! Always holds: a drop leaves as many steady copies as are wanted, none of them on a node with damaged files; a copy
//! that is loaded is not dropped; a node that is not steady gets nothing new, and nothing is moved because of it before
//! it is lost. A lost target stays in its plan: when it comes back, the newest copy goes. One that has failed leaves it
//! after a while where there are copies enough without it, and so does one without a copy whose runtime stays away. A
//! copy that was told to go and is missed before it has gone stays. The order of the targets says which copy goes
//! first: the last. Copies that are no targets count, but only a node that is being emptied loses one, or one on which
//! an earlier round had a copy too many; that one goes whichever version it is of. A copy on its way that nobody asked
//! for waits for its node as long as a copy that is there, so that what has come is gone on with. One plan that nobody
//! asked for is made at a look, and at most `moves_max` are under way. Everything follows from the facts; nothing is
//! remembered.
//!
//! A copy on a node that is silent and not lost counts as there, also where it is the only one: most nodes that fall
//! silent are back in a moment with what they had, and a node that comes and goes must move nothing. It counts to one
//! side only. Nothing is made anew for it before it is lost, and no other copy goes on its account, as only steady ones
//! make up for that; nor does anybody fetch from it while one is heard. What people are told follows the same rule with
//! a shorter time ([`Facts::knobs`] with a smaller `repair_after`), so a model that only silent nodes have is told as
//! one with too few copies long before a copy is made.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::limits::WISH_TARGETS_MAX;
use ollamax_types::{ErrorCode, ModelName, NodeId, ReplicaKnobs};

use super::fit::Reasons;
use super::pull::{is_begun_short, may_be_fewer, wanted};
use super::{Planned, Presence, Site, Unfit, is_of_the_node, plan_pull};
use crate::catalog::{Cordon, Failure, Plan, PlanKind, Replicas, Wish};
use crate::health::Health;

mod rebalance;

/// What is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Log time, milliseconds.
    pub now_ms: u64,
    /// All members as places. Whether they hold a model is told by each [`Standing`].
    pub sites: &'a [Site],
    /// All wishes.
    pub wishes: &'a [Standing],
    /// Who is lost and who is steady.
    pub presence: &'a Presence,
    /// Whose runtime answers, and since when others' do not, watched in the same way.
    pub runtimes: &'a Presence,
    /// The knobs of the cluster.
    pub knobs: &'a ReplicaKnobs,
    /// Of which models nothing is decided, by their keys: what is on its way of them takes its room all the same.
    pub resting: &'a BTreeSet<String>,
}

/// A wish, and how the cluster stands to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// As it is on record.
    pub wish: Wish,
    /// Bytes of the version that is spread; 0 where that is not known.
    pub size_bytes: u64,
    /// Who holds the version of the round, or the one that is served while the round has none.
    pub holders: BTreeSet<NodeId>,
    /// Who has been told to drop its copy and has not done so yet.
    pub dropping: BTreeSet<NodeId>,
    /// The name is pinned: of its targets none goes for being too many, and none is moved for room.
    pub pinned: bool,
    /// Where it is in memory.
    pub loaded_on: BTreeSet<NodeId>,
    /// Who has a copy, of whichever version, of which an earlier round had too many.
    pub surplus: BTreeSet<NodeId>,
    /// Who has the files of the version of the round, or may have them, whatever its copy of the name is.
    pub at_hand: BTreeSet<NodeId>,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// What is to be done now, the most urgent first; each a change that may be refused alone.
    pub moves: Vec<Move>,
    /// Models with fewer copies than they should have. One that is on its way for the first time is none.
    pub under: Vec<Shortage>,
    /// Models for which there are not nodes enough, and what is wrong with the others.
    pub impossible: Vec<(ModelName, Vec<(NodeId, Unfit)>)>,
    /// Models that cannot leave a node that is being emptied, for want of a place, and what is wrong with the others.
    pub stuck: Vec<(ModelName, Vec<(NodeId, Unfit)>)>,
}

/// A model with too few copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Which model.
    pub name: ModelName,
    /// Copies on nodes that are not lost.
    pub has: u32,
    /// Copies that it should have.
    pub wants: u32,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// A plan for a round.
    Plan {
        /// Of which model.
        name: ModelName,
        /// Of which round.
        round: u64,
        /// From whom the copies come, or who asks the registry.
        ingester: NodeId,
        /// Who shall hold the model; the last is the first that may lose it.
        targets: Vec<NodeId>,
        /// What it is made for.
        kind: PlanKind,
    },
    /// A copy goes.
    Drop {
        /// Of which model.
        name: ModelName,
        /// Where.
        node: NodeId,
    },
}

/// Decides what is to be done.
#[must_use]
pub fn plan_moves(facts: &Facts<'_>) -> Outlook {
    let mut world = World::of(facts);
    let (mut outlook, mut repairs) = (Outlook::default(), Vec::new());
    let is_due = |standing: &&Standing| !facts.resting.contains(&standing.wish.name.key());
    for standing in facts.wishes.iter().filter(is_due) {
        let (case, name) = (Case { world: &world, standing }, &standing.wish.name);
        outlook.under.extend(case.shortage());
        outlook.stuck.extend(case.stuck().map(|reasons| (name.clone(), reasons)));
        match case.step() {
            Step::Now(step) => {
                world.reserve(standing, &step);
                outlook.moves.push(step);
            }
            Step::InTurn(urgency, _) => repairs.push((urgency, standing)),
            Step::Impossible(reasons) => outlook.impossible.push((name.clone(), reasons)),
            Step::Nothing => {}
        }
    }
    let due = facts.wishes.iter().filter(is_due);
    let cases: Vec<Case<'_>> = due.map(|standing| Case { world: &world, standing }).collect();
    let under_way = cases.iter().filter(|case| case.is_moving()).count();
    if under_way >= facts.knobs.moves_max {
        return outlook;
    }
    repairs.sort_by_key(|(urgency, _)| *urgency);
    // What people asked for has taken its room, of whichever wish it is.
    let again = |standing| match (Case { world: &world, standing }).step() {
        Step::InTurn(_, step) => Some(step),
        Step::Now(_) | Step::Impossible(_) | Step::Nothing => None,
    };
    match repairs.into_iter().find_map(|(_, standing)| again(standing)) {
        Some(step) => outlook.moves.push(step),
        None if under_way == 0 && outlook.moves.is_empty() => outlook.moves.extend(rebalance::plan(&world, &cases)),
        None => {}
    }
    outlook
}

/// What is to be done for one wish.
enum Step {
    /// A plan that was asked for, or a copy that goes.
    Now(Move),
    /// A plan that nobody asked for: repair before emptying, then whoever has the fewest copies.
    InTurn((bool, usize), Move),
    /// There are not nodes enough.
    Impossible(Reasons),
    Nothing,
}

/// The facts, put in order.
struct World<'a> {
    facts: &'a Facts<'a>,
    sites: BTreeMap<NodeId, &'a Site>,
    /// Room for what is on its way to a node and is not set aside there yet.
    reserved_bytes: BTreeMap<NodeId, u64>,
}

/// One wish among the facts.
struct Case<'a> {
    world: &'a World<'a>,
    standing: &'a Standing,
}

// === impl World ===

impl<'a> World<'a> {
    fn of(facts: &'a Facts<'a>) -> Self {
        let sites = facts.sites.iter().map(|site| (site.node, site)).collect();
        let bare = Self { facts, sites, reserved_bytes: BTreeMap::new() };
        let mut reserved_bytes: BTreeMap<NodeId, u64> = BTreeMap::new();
        for standing in facts.wishes {
            let case = Case { world: &bare, standing };
            for node in case.coming() {
                let sum = reserved_bytes.entry(node).or_default();
                *sum = sum.saturating_add(standing.size_bytes);
            }
        }
        // What a node has set aside is free no more by its own word, and would count twice.
        for (node, sum) in &mut reserved_bytes {
            let aside_bytes = bare.sites.get(node).and_then(|site| site.aside_bytes);
            *sum = sum.saturating_sub(aside_bytes.unwrap_or(0));
        }
        Self { reserved_bytes, ..bare }
    }

    /// Who gets a copy by this step has less room for the next one.
    fn reserve(&mut self, standing: &Standing, step: &Move) {
        let Move::Plan { targets, .. } = step else { return };
        let has_part = |node: &NodeId| {
            let is_target = standing.wish.plan.as_ref().is_some_and(|plan| plan.targets.contains(node));
            is_target || standing.holders.contains(node) || standing.at_hand.contains(node)
        };
        for node in targets.iter().filter(|node| !has_part(node)) {
            let sum = self.reserved_bytes.entry(*node).or_default();
            *sum = sum.saturating_add(standing.size_bytes);
        }
    }

    /// Lost for so long that its copies are made anew.
    fn is_lost(&self, site: &Site) -> bool {
        !site.is_self && self.facts.presence.lost(site.node, self.facts.knobs.repair_after)
    }

    /// There, but its runtime has not answered for so long that nobody waits for what shall come to it.
    fn is_idle(&self, site: &Site) -> bool {
        site.is_heard() && !site.runtime_up && self.facts.runtimes.lost(site.node, self.facts.knobs.repair_after)
    }

    /// There for so long that it may get copies and lose them.
    fn is_steady(&self, site: &Site) -> bool {
        site.is_self || self.facts.presence.steady(site.node, self.facts.knobs.steady_for)
    }

    /// What is free beside what is on its way; `None` where that is not known. A node that does not say what it has set
    /// aside has set nothing aside for all that is known.
    fn free_bytes(&self, site: &Site) -> Option<u64> {
        let reserved = self.reserved_bytes.get(&site.node).copied().unwrap_or(0);
        site.disk_free_bytes.map(|free| free.saturating_sub(reserved))
    }
}

// === impl Case ===

impl<'a> Case<'a> {
    fn wish(&self) -> &'a Wish {
        &self.standing.wish
    }

    /// The plan of a round whose version is known: only such a round is repaired, emptied, moved.
    fn resolved(&self) -> Option<&'a Plan> {
        let wish = self.wish();
        wish.plan.as_ref().filter(|_| wish.digest.is_some())
    }

    fn site(&self, node: NodeId) -> Option<&'a Site> {
        self.world.sites.get(&node).copied().filter(|site| !site.gateway)
    }

    fn holds(&self, node: NodeId) -> bool {
        self.standing.holders.contains(&node)
    }

    /// The members with a copy that is to stay for all that is known.
    fn copies(&self) -> impl Iterator<Item = &'a Site> {
        let staying = self.standing.holders.difference(&self.standing.dropping);
        staying.filter_map(move |node| self.site(*node))
    }

    /// Members whose copy was told to go and is there still, where nobody insisted on it.
    fn going(&self) -> impl Iterator<Item = &'a Site> {
        let going = self.standing.holders.intersection(&self.standing.dropping);
        going.filter(move |node| !self.goes_for_good(**node)).filter_map(move |node| self.site(*node))
    }

    /// A copy is about to go. Nobody waits for a node that is lost.
    fn is_losing(&self) -> bool {
        let having = self.standing.holders.union(&self.standing.surplus);
        let going = having.filter(|node| self.standing.dropping.contains(*node));
        going.filter_map(|node| self.site(*node)).any(|site| !self.world.is_lost(site))
    }

    /// A person removed its copy, or somebody insisted that it goes.
    fn was_given_up(&self, node: NodeId) -> bool {
        self.wish().failures.get(&node).is_some_and(|failure| failure.code == ErrorCode::PullCancelled)
    }

    /// Its copy was told to go and somebody insisted on it: no plan counts on it while it is there still.
    fn goes_for_good(&self, node: NodeId) -> bool {
        self.standing.dropping.contains(&node) && self.was_given_up(node)
    }

    /// Copies that count: where they belong, and not lost.
    fn good(&self) -> impl Iterator<Item = &'a Site> {
        let want = &self.wish().want;
        self.copies().filter(move |site| site.misplaced(want).is_none() && !self.world.is_lost(site))
    }

    /// Copies without which others may be removed: who has damaged files may have damaged this one.
    fn steady_copies(&self) -> Vec<NodeId> {
        let steady = self.good().filter(|site| self.world.is_steady(site) && !site.has_damage);
        steady.map(|site| site.node).collect()
    }

    /// Targets that will have the model if nothing happens.
    fn coming(&self) -> Vec<NodeId> {
        let wish = self.wish();
        let targets = wish.plan.iter().flat_map(|plan| plan.targets.iter().copied());
        let can = |site: &Site| {
            let is_there = site.health != Health::Dead || self.waits_for(site);
            is_there && site.misplaced(&wish.want).is_none() && !self.world.is_idle(site)
        };
        let is_coming = |node: &NodeId| {
            self.site(*node).is_some_and(can) && !self.is_there(*node) && !wish.failures.contains_key(node)
        };
        targets.filter(is_coming).collect()
    }

    /// A target that is away and has no copy yet, in a plan that nobody asked for: what has come to it is there when it
    /// is back, so nobody takes its place before it is lost. Who brings the model is not waited for.
    fn waits_for(&self, site: &Site) -> bool {
        let plan = self.wish().plan.as_ref().filter(|plan| plan.kind != PlanKind::Asked);
        let is_receiver = plan.is_some_and(|plan| plan.ingester != site.node && plan.targets.contains(&site.node));
        is_receiver && !self.holds(site.node) && !self.world.is_lost(site)
    }

    /// Has the version of the round.
    fn is_there(&self, node: NodeId) -> bool {
        self.wish().digest.is_some() && self.holds(node)
    }

    /// A copy that nobody asked for just now is on its way. One whose node is away keeps no other from its turn.
    fn is_moving(&self) -> bool {
        let kind = self.wish().plan.as_ref().map(|plan| plan.kind);
        let is_there = |node: NodeId| self.site(node).is_some_and(|site| site.health != Health::Dead);
        kind.is_some_and(|kind| kind != PlanKind::Asked) && self.coming().into_iter().any(is_there)
    }

    /// Targets whose copy a person removed, or whose store is not there, too short a time ago to make up for it.
    fn given_up_lately(&self, plan: &Plan) -> usize {
        let given_up = plan.targets.iter().filter(|target| !self.holds(**target));
        let failures = given_up.filter_map(|target| self.wish().failures.get(target));
        failures.filter(|failure| failure.code == ErrorCode::PullCancelled && self.is_recent(failure)).count()
    }

    /// Whether less than `repair_after` has passed since.
    fn is_recent(&self, failure: &Failure) -> bool {
        let passed_ms = u128::from(self.world.facts.now_ms.saturating_sub(failure.at.0));
        passed_ms < self.world.facts.knobs.repair_after.as_millis()
    }

    fn shortage(&self) -> Option<Shortage> {
        let plan = self.wish().plan.as_ref()?;
        if plan.kind == PlanKind::Asked && !self.coming().is_empty() {
            return None;
        }
        let is_wanted = |site: &&Site| match &self.wish().replicas {
            Replicas::Nodes(nodes) => nodes.contains(&site.node),
            Replicas::Count(_) | Replicas::All => true,
        };
        let has = self.copies().filter(is_wanted).filter(|site| !self.world.is_lost(site)).count();
        let wants = self.wants();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let name = self.wish().name.clone();
        (has < wants).then(|| Shortage { name, has: count(has), wants: count(wants) })
    }

    /// Copies that there should be. Where nobody says how many, no more than there are places.
    fn wants(&self) -> usize {
        match &self.wish().replicas {
            Replicas::Count(count) if may_be_fewer(self.wish()) => wanted(*count).min(self.places().max(1)),
            Replicas::Count(count) => wanted(*count),
            Replicas::All => self.places().min(WISH_TARGETS_MAX),
            Replicas::Nodes(nodes) => nodes.len(),
        }
    }

    /// Members that may have it, whatever happens to them just now.
    fn places(&self) -> usize {
        let want = &self.wish().want;
        let may = |site: &&&Site| {
            let is_open = site.cordon == Cordon::Open || self.holds(site.node);
            !site.gateway && is_open && site.misplaced(want).is_none()
        };
        self.world.sites.values().filter(may).count()
    }

    fn step(&self) -> Step {
        let asked = match (self.asked(), self.resolved()) {
            (Planned::Nothing, Some(plan)) => self.without_failed(plan),
            (asked, _) => asked,
        };
        match asked {
            Planned::Plan { ingester, targets } => {
                let kind = self.wish().plan.as_ref().map_or(PlanKind::Asked, |plan| plan.kind);
                return Step::Now(self.planned(ingester, targets, kind));
            }
            Planned::Impossible(reasons) => return Step::Impossible(since_departed(reasons)),
            Planned::Nothing => {}
        }
        let Some(plan) = self.resolved() else { return Step::Nothing };
        if let Some(node) = self.superfluous(plan) {
            return Step::Now(Move::Drop { name: self.wish().name.clone(), node });
        }
        self.repair(plan)
    }

    /// What the round itself needs.
    fn asked(&self) -> Planned {
        let wish = self.wish();
        if let Some(plan) = self.resolved().filter(|plan| self.is_over(plan)) {
            return self.without_departed(plan);
        }
        let holds = |node: NodeId| self.holds(node) && !self.goes_for_good(node);
        let health = |site: &Site| match site.health {
            Health::Dead if self.waits_for(site) => Health::Suspect,
            told => told,
        };
        let place = |site: &Site| Site {
            holds: holds(site.node),
            at_hand: self.standing.at_hand.contains(&site.node),
            health: health(site),
            disk_free_bytes: self.world.free_bytes(site),
            ..site.clone()
        };
        let places: Vec<Site> = self.world.facts.sites.iter().map(place).collect();
        let planned = plan_pull(wish, &places, wish.digest.map(|_| self.standing.size_bytes));
        let is_on_record = |ingester: NodeId, targets: &[NodeId]| {
            wish.plan.as_ref().is_some_and(|plan| plan.ingester == ingester && plan.targets == targets)
        };
        match planned {
            Planned::Plan { ingester, targets } if is_on_record(ingester, &targets) => Planned::Nothing,
            planned => planned,
        }
    }

    /// Whether the targets have the model, or had it and a person removed it. Where there are copies enough, nobody
    /// takes the place of one that is dead, and what a member had that left is made up for like what is lost. Where
    /// people removed every copy, none is fetched anew at once: a store may be away.
    fn is_over(&self, plan: &Plan) -> bool {
        if is_begun_short(self.wish(), plan) {
            return false;
        }
        let members = self.members_of(plan);
        let failures = &self.wish().failures;
        let is_dead = |node: NodeId| self.site(node).is_some_and(|site| site.health == Health::Dead);
        // What a member that is about to be removed had is taken off the record before it is.
        if members.iter().any(|node| self.holds(*node)) {
            let is_done =
                |node: NodeId| self.holds(node) || self.was_given_up(node) || (is_dead(node) && self.is_met());
            return members.iter().all(|node| is_done(*node));
        }
        let is_by_hand = |node: &NodeId| failures.get(node).is_some_and(|failure| failure.by_hand);
        members.iter().all(is_by_hand) && self.given_up_lately(plan) > 0
    }

    /// Whether there are as many copies as a number says.
    fn is_met(&self) -> bool {
        matches!(self.wish().replicas, Replicas::Count(count) if self.good().count() >= wanted(count))
    }

    /// The targets that are members still.
    fn members_of(&self, plan: &Plan) -> Vec<NodeId> {
        plan.targets.iter().copied().filter(|target| self.site(*target).is_some()).collect()
    }

    /// A plan that is over stands, but nobody waits for members that left.
    fn without_departed(&self, plan: &Plan) -> Planned {
        self.only(plan, self.members_of(plan))
    }

    /// Where there are copies enough, nobody waits for a target that has none and will not get one. What it failed with
    /// is told for some time before.
    fn without_failed(&self, plan: &Plan) -> Planned {
        if !self.is_met() || !self.coming().is_empty() {
            return Planned::Nothing;
        }
        let is_told = |node: &NodeId| self.wish().failures.get(node).is_some_and(|failure| self.is_recent(failure));
        let members = self.members_of(plan).into_iter();
        self.only(plan, members.filter(|node| self.keeps_its_place(*node) || is_told(node)).collect())
    }

    /// The plan with these of its targets alone.
    fn only(&self, plan: &Plan, targets: Vec<NodeId>) -> Planned {
        if targets.is_empty() || targets.len() == plan.targets.len() {
            return Planned::Nothing;
        }
        let kept = Some(plan.ingester).filter(|ingester| targets.contains(ingester));
        match kept.or_else(|| self.source(plan)) {
            Some(ingester) => Planned::Plan { ingester, targets },
            None => Planned::Nothing,
        }
    }

    /// More copies where there are too few.
    fn repair(&self, plan: &Plan) -> Step {
        let coming = self.coming();
        let (copies, late) = (self.good().count() + coming.len(), self.given_up_lately(plan));
        if let Some(step) = self.taken_back(plan, copies) {
            return Step::Now(step);
        }
        let missing = match &self.wish().replicas {
            Replicas::Count(count) => wanted(*count).saturating_sub(copies + late),
            Replicas::All => WISH_TARGETS_MAX,
            Replicas::Nodes(_) => return self.misplaced_by_name(),
        };
        if missing == 0 {
            return Step::Nothing;
        }
        let is_short = copies + late < self.wants();
        if let Some(reasons) = self.hopeless(plan) {
            return if is_short { Step::Impossible(reasons) } else { Step::Nothing };
        }
        let kept: Vec<NodeId> = plan.targets.iter().copied().filter(|target| self.keeps_its_place(*target)).collect();
        let room = WISH_TARGETS_MAX.saturating_sub(kept.len());
        let fresh: Vec<NodeId> = self.candidates().into_iter().take(missing.min(room)).collect();
        let Some(first) = fresh.first().copied() else {
            return if is_short && !self.has_somebody_to_wait_for() {
                Step::Impossible(self.unfit_or_lost())
            } else {
                Step::Nothing
            };
        };
        let is_emptied = |site: &Site| site.cordon == Cordon::Emptying && !self.world.is_lost(site);
        let kind = if self.copies().any(is_emptied) { PlanKind::Emptying } else { PlanKind::Repair };
        let ingester = self.source(plan).unwrap_or(first);
        let targets: Vec<NodeId> = kept.into_iter().chain(fresh).collect();
        Step::InTurn((kind == PlanKind::Emptying, copies), self.planned(ingester, targets, kind))
    }

    /// Where copies are missing, those that were told to go and are there come first: nothing is fetched for them, and
    /// what a person removed is made up for at once.
    fn taken_back(&self, plan: &Plan, copies: usize) -> Option<Move> {
        let missing = match &self.wish().replicas {
            Replicas::Count(count) => wanted(*count).saturating_sub(copies),
            Replicas::All => WISH_TARGETS_MAX,
            Replicas::Nodes(_) => 0,
        };
        let kept: Vec<NodeId> = plan.targets.iter().copied().filter(|target| self.keeps_its_place(*target)).collect();
        let back =
            self.going().filter(|site| site.is_heard()).filter(|site| site.misplaced(&self.wish().want).is_none());
        let back = back.map(|site| site.node).filter(|node| !kept.contains(node));
        let back: Vec<NodeId> = back.take(missing.min(WISH_TARGETS_MAX.saturating_sub(kept.len()))).collect();
        let first = back.first().copied()?;
        let ingester = self.source(plan).unwrap_or(first);
        Some(self.planned(ingester, kept.into_iter().chain(back).collect(), PlanKind::Repair))
    }

    /// What keeps a copy on a node that is being emptied: nobody else may have it, and too few others do, or some of
    /// them are nothing to rely on. `None` also while something is on its way, and where there is somebody to wait for.
    fn stuck(&self) -> Option<Reasons> {
        if !self.copies().any(|site| site.cordon == Cordon::Emptying) || !self.coming().is_empty() {
            return None;
        }
        let enough = match &self.wish().replicas {
            Replicas::Count(count) => wanted(*count),
            Replicas::All => 1,
            Replicas::Nodes(_) => return None,
        };
        let Some(plan) = self.resolved() else {
            let Planned::Impossible(reasons) = self.asked() else { return None };
            return Some(reasons);
        };
        let late = self.given_up_lately(plan);
        if self.good().count() + late >= enough {
            let (damaged, sound): (Vec<&Site>, Vec<&Site>) = self.good().partition(|site| site.has_damage);
            let is_short = !damaged.is_empty() && sound.len() + late < enough;
            return is_short.then(|| damaged.iter().map(|site| (site.node, Unfit::Damaged)).collect());
        }
        let hopeless = self.hopeless(plan);
        hopeless.or_else(|| (!self.has_somebody_to_wait_for()).then(|| self.unfit()))
    }

    /// A copy on a named node that is being emptied, or that the wish keeps away from, or that would be on one which
    /// has left: nobody may have it instead.
    fn misplaced_by_name(&self) -> Step {
        let misplaced = self.copies().filter_map(|site| Some((site.node, site.misplaced(&self.wish().want)?)));
        let named: &[NodeId] = match &self.wish().replicas {
            Replicas::Nodes(nodes) => nodes,
            Replicas::Count(_) | Replicas::All => &[],
        };
        let departed = named.iter().copied().filter(|node| !self.world.sites.contains_key(node));
        let reasons: Reasons = misplaced.chain(departed.map(|node| (node, Unfit::Departed))).collect();
        if reasons.is_empty() { Step::Nothing } else { Step::Impossible(reasons) }
    }

    /// Who has failed with the present plan for a reason that others would have too.
    fn hopeless(&self, plan: &Plan) -> Option<Reasons> {
        let failures = self.wish().failures.iter().filter(|(node, _)| !self.holds(**node));
        let general = failures.filter(|(_, failure)| !is_of_the_node(failure.code) && failure.at >= plan.made_at);
        let reasons: Reasons = general.map(|(node, failure)| (*node, Unfit::Told(failure.code))).collect();
        (!reasons.is_empty()).then_some(reasons)
    }

    /// A target goes on being one, lost or not, unless it has no copy and will not get one.
    fn keeps_its_place(&self, node: NodeId) -> bool {
        let is_awaited = |site: &Site| {
            let may = site.misplaced(&self.wish().want).is_none() && !self.world.is_idle(site);
            may && !self.wish().failures.contains_key(&node)
        };
        self.site(node).is_some_and(|site| self.holds(node) || is_awaited(site))
    }

    /// Who may get a copy, the best first: whoever has the most room.
    fn candidates(&self) -> Vec<NodeId> {
        let fit = self.world.sites.values().filter(|site| self.is_new(site) && self.why_unfit(site).is_none());
        let mut fit: Vec<&Site> = fit.filter(|site| self.world.is_steady(site)).copied().collect();
        fit.sort_by_key(|site| (Reverse(self.world.free_bytes(site)), site.node));
        fit.into_iter().map(|site| site.node).collect()
    }

    fn has_somebody_to_wait_for(&self) -> bool {
        self.world.sites.values().any(|site| self.is_new(site) && self.why_unfit(site).is_none())
    }

    fn unfit(&self) -> Reasons {
        let new = self.world.sites.values().filter(|site| self.is_new(site));
        new.filter_map(|site| Some((site.node, self.why_unfit(site)?))).collect()
    }

    /// What is wrong with each node that has no copy which counts, in order: whose copy is lost takes a place as well.
    fn unfit_or_lost(&self) -> Reasons {
        let lost = self.copies().filter(|site| self.world.is_lost(site));
        let mut reasons: Reasons = self.unfit().into_iter().chain(lost.map(|site| (site.node, Unfit::Dead))).collect();
        reasons.sort_by_key(|(node, _)| *node);
        reasons
    }

    /// Neither has it nor is to have it.
    fn is_new(&self, site: &Site) -> bool {
        !self.holds(site.node) && !self.coming().contains(&site.node)
    }

    /// What speaks against a copy that nobody asked for, on a node that has none.
    fn why_unfit(&self, site: &Site) -> Option<Unfit> {
        let told = self.wish().failures.get(&site.node).map(|failure| Unfit::Told(failure.code));
        let unfit = site.unable().or_else(|| site.unsuited(&self.wish().want)).or_else(|| site.without_store());
        unfit.or(told).or_else(|| self.no_room(site))
    }

    fn no_room(&self, site: &Site) -> Option<Unfit> {
        let percent = self.world.facts.knobs.disk_percent_max;
        site.no_room(&self.wish().want, self.standing.size_bytes, self.world.free_bytes(site), percent)
    }

    /// From whom copies come: a holder that is heard, is to stay, and serves, the ingester of the plan before others.
    fn source(&self, plan: &Plan) -> Option<NodeId> {
        let able = self.copies().chain(self.going()).filter(|site| site.health != Health::Dead);
        let rank = |site: &&Site| {
            let stays = !self.standing.dropping.contains(&site.node);
            (site.is_heard(), stays, site.runtime_up, site.node == plan.ingester, Reverse(site.node))
        };
        able.max_by_key(rank).map(|site| site.node)
    }

    /// A copy that may go: where it does not belong, or one too many.
    fn superfluous(&self, plan: &Plan) -> Option<NodeId> {
        if !self.coming().is_empty() || self.is_losing() {
            return None;
        }
        let steady = self.steady_copies();
        let enough = match &self.wish().replicas {
            Replicas::Count(count) => wanted(*count),
            Replicas::All if self.candidates().is_empty() => 1,
            Replicas::Nodes(nodes) if nodes.iter().all(|node| steady.contains(node)) => {
                return self.left_over(plan, &steady, nodes.len());
            }
            Replicas::All | Replicas::Nodes(_) => return None,
        };
        if steady.len() < enough {
            return None;
        }
        let is_loaded = |node: NodeId| self.standing.loaded_on.contains(&node);
        let is_misplaced = |site: &&Site| {
            let may_go = plan.targets.contains(&site.node) || site.cordon == Cordon::Emptying;
            may_go && site.misplaced(&self.wish().want).is_some() && self.world.is_steady(site) && !is_loaded(site.node)
        };
        if let Some(site) = self.copies().find(is_misplaced) {
            return Some(site.node);
        }
        if let Some(node) = self.left_over(plan, &steady, enough) {
            return Some(node);
        }
        let is_count = matches!(self.wish().replicas, Replicas::Count(_));
        let targets: Vec<NodeId> = plan.targets.iter().copied().filter(|target| steady.contains(target)).collect();
        if !is_count || self.standing.pinned || targets.len() <= enough {
            return None;
        }
        match plan.kind {
            PlanKind::Rebalance => {
                plan.targets.last().copied().filter(|last| steady.contains(last) && !is_loaded(*last))
            }
            PlanKind::Asked | PlanKind::Repair | PlanKind::Emptying => {
                targets.into_iter().rev().find(|target| !is_loaded(*target))
            }
        }
    }

    /// A copy of which an earlier round had too many, and this one wants none there. Enough others are steady.
    fn left_over(&self, plan: &Plan, steady: &[NodeId], enough: usize) -> Option<NodeId> {
        let Standing { surplus, dropping, loaded_on, pinned, .. } = self.standing;
        let may_go = |node: &NodeId| {
            let others = steady.iter().filter(|other| *other != node).count();
            let is_sound = self.site(*node).is_some_and(|site| self.world.is_steady(site) && !site.has_damage);
            is_sound && others >= enough && !loaded_on.contains(node) && !(*pinned && self.holds(*node))
        };
        let left = surplus.difference(dropping).copied().filter(|node| !plan.targets.contains(node));
        left.filter(may_go).last()
    }

    fn planned(&self, ingester: NodeId, targets: Vec<NodeId>, kind: PlanKind) -> Move {
        let Wish { name, round, .. } = self.wish();
        Move::Plan { name: name.clone(), round: *round, ingester, targets, kind }
    }
}

/// The same reasons, of a wish on record: who was named was a member then.
fn since_departed(reasons: Reasons) -> Reasons {
    let departed = |(node, unfit)| (node, if unfit == Unfit::Removed { Unfit::Departed } else { unfit });
    reasons.into_iter().map(departed).collect()
}

#[cfg(test)]
mod tests;
