//! The plan of one round of a wish: which nodes shall have the model, and which of them asks the registry.
//!
//! Always holds: a first plan names fit nodes only, and of those that are named none whose copy a person removed before
//! the round. A plan that is on record changes as little as can be: a target that is dead, or told a failure that
//! another node may not have, gives way to a fit one where the wish leaves the choice; where nobody else is fit it
//! stays, and so do the others. What passes by itself moves nothing: a runtime that starts again, a node that is being
//! emptied. The room of a planned node is its own to judge, as what has come already lies on its disk. A node that told
//! such a failure is not planned again in its round. A round is over when its targets have the model, unless more were
//! asked for than it began with: a node that falls silent afterwards makes no new copy, and neither does a copy that a
//! person removed, or that went with a store which is not there just now.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ollamax_types::limits::WISH_TARGETS_MAX;
use ollamax_types::{ErrorCode, NodeId};

use super::{Site, Unfit};
use crate::catalog::{COPIES_UNSAID, Plan, PlanKind, Replicas, Wish};
use crate::health::Health;

/// Copies where nobody says how many.
const COPIES_DEFAULT: usize = COPIES_UNSAID as usize;

/// What follows for a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Planned {
    /// This is to be put on record.
    Plan {
        /// Who asks the registry: a target, or a node that holds the model.
        ingester: NodeId,
        /// Who shall have the model.
        targets: Vec<NodeId>,
    },
    /// There are not nodes enough; what is wrong with each that is not fit.
    Impossible(Vec<(NodeId, Unfit)>),
    /// What is on record stands.
    Nothing,
}

/// Plans a round. Of each site is known whether it holds the version of the round, or the one that is served while the
/// round has none yet, and what is free beside that which is on its way to it. Room is judged where the size is known,
/// by what the node keeps free beside a copy, but not by how full a disk may become: that is for copies that nobody
/// asked for. Of who has the files at hand the node alone knows what it lacks, and so does one that is named: nobody
/// could take its place, part of it may lie there, and where it has no room it says so without keeping others from it.
/// What the wish wants left of a disk is judged also without the size, as if nothing came, and then again by the node.
#[must_use]
pub fn plan_pull(wish: &Wish, sites: &[Site], size_bytes: Option<u64>) -> Planned {
    let sites = sites.iter().map(|site| (site.node, site)).collect();
    let round = Round { wish, sites, size_bytes };
    match &wish.plan {
        None => round.first_plan(),
        Some(plan) => round.next_plan(plan),
    }
}

/// What a plan is made from.
struct Round<'a> {
    wish: &'a Wish,
    sites: BTreeMap<NodeId, &'a Site>,
    size_bytes: Option<u64>,
}

// === impl Round ===

impl Round<'_> {
    fn first_plan(&self) -> Planned {
        let fit = self.fit();
        let targets: Vec<NodeId> = match &self.wish.replicas {
            Replicas::Count(_) if fit.len() < needed(self.wish) => return Planned::Impossible(self.unfit()),
            Replicas::Count(count) => fit.into_iter().take(wanted(*count)).collect(),
            Replicas::All => fit.into_iter().take(WISH_TARGETS_MAX).collect(),
            Replicas::Nodes(nodes) => {
                let staying = |node: &NodeId| !self.was_given_up(*node);
                let unfit = self.unfit();
                let targets: Vec<NodeId> = nodes.iter().copied().filter(staying).collect();
                if targets.is_empty() || unfit.iter().any(|(node, _)| staying(node)) {
                    return Planned::Impossible(unfit);
                }
                targets
            }
        };
        match self.best_ingester(&targets) {
            Some(ingester) => Planned::Plan { ingester, targets },
            None => Planned::Impossible(self.unfit()),
        }
    }

    fn next_plan(&self, plan: &Plan) -> Planned {
        if self.is_over(plan) {
            return Planned::Nothing;
        }
        let targets = self.next_targets(plan);
        let ingester = if self.is_out(plan.ingester) {
            let kept = Some(plan.ingester).filter(|ingester| targets.contains(ingester));
            self.best_ingester(&targets).or(kept)
        } else {
            Some(plan.ingester)
        };
        match ingester {
            Some(ingester) if ingester == plan.ingester && targets == plan.targets => Planned::Nothing,
            Some(ingester) if !targets.is_empty() => Planned::Plan { ingester, targets },
            _ => Planned::Impossible(self.unfit()),
        }
    }

    /// Whether all targets have the version of the round, or had it and a person removed it. That a node is away says
    /// nothing: what it held is on record.
    fn is_over(&self, plan: &Plan) -> bool {
        if is_begun_short(self.wish, plan) {
            return false;
        }
        let mut targets = plan.targets.iter().copied();
        targets.clone().any(|node| self.has(node)) && targets.all(|node| self.has(node) || self.was_given_up(node))
    }

    /// Whether a person removed the copy there, or the store with it is not there just now.
    fn was_given_up(&self, node: NodeId) -> bool {
        self.wish.failures.get(&node).is_some_and(|failure| failure.code == ErrorCode::PullCancelled)
    }

    /// The targets in their order, with others in the places of those that are out.
    fn next_targets(&self, plan: &Plan) -> Vec<NodeId> {
        let mut spare = self.fit().into_iter().filter(|node| !plan.targets.contains(node));
        let is_free_to_choose = matches!(self.wish.replicas, Replicas::Count(_));
        let mut targets = Vec::new();
        for target in plan.targets.iter().copied() {
            let gives_way = is_free_to_choose && self.is_out(target) && !self.has(target);
            let other = if gives_way { spare.next() } else { None };
            targets.extend(other.or_else(|| Some(target).filter(|target| self.may_hold(*target))));
        }
        let count = match &self.wish.replicas {
            Replicas::Count(count) => wanted(*count),
            Replicas::All => WISH_TARGETS_MAX,
            Replicas::Nodes(_) => 0,
        };
        targets.extend(spare.take(count.saturating_sub(targets.len())));
        targets
    }

    /// Who asks the registry: a node that holds the model, as it needs little of it; else the target that has the most
    /// of it, whose room is its own to judge, or has the files at hand; else the best one.
    fn best_ingester(&self, targets: &[NodeId]) -> Option<NodeId> {
        let may = |site: &Site| {
            let is_holder = site.holds && self.why_unfit(site.node).is_none();
            !self.is_out(site.node) && (is_holder || targets.contains(&site.node))
        };
        let rank = |site: &Site| {
            let unfit = self.why_unfit(site.node);
            let is_able = matches!(unfit, None | Some(Unfit::NoRoom { .. } | Unfit::DiskFree { .. }));
            let first = (site.is_heard(), site.has_store(), site.holds, is_able, targets.contains(&site.node));
            let part = (site.progress_permille, site.at_hand);
            (first, part, unfit.is_none(), site.disk_free_bytes, Reverse(site.node))
        };
        let able = self.sites.values().filter(|site| may(site));
        able.max_by_key(|site| rank(site)).map(|site| site.node)
    }

    /// Who may be chosen, the best first: holders, then who is heard, then who has a store, then who has the files at
    /// hand, as little or nothing comes to it, then who has the most room.
    fn fit(&self) -> Vec<NodeId> {
        let fit = self.sites.values().filter(|site| self.why_unfit(site.node).is_none());
        let mut fit: Vec<&Site> = fit.copied().collect();
        let rank = |site: &&Site| {
            let first = (site.holds, site.is_heard(), site.has_store());
            (first, site.at_hand, site.disk_free_bytes, Reverse(site.node))
        };
        fit.sort_by_key(|site| Reverse(rank(site)));
        fit.into_iter().map(|site| site.node).collect()
    }

    /// What is wrong with each node that is not fit. Of a wish that names nodes, what others are says nothing.
    fn unfit(&self) -> Vec<(NodeId, Unfit)> {
        let nodes: Vec<NodeId> = match &self.wish.replicas {
            Replicas::Nodes(nodes) => nodes.clone(),
            Replicas::Count(_) | Replicas::All => self.sites.keys().copied().collect(),
        };
        nodes.into_iter().filter_map(|node| Some((node, self.why_unfit(node)?))).collect()
    }

    fn why_unfit(&self, node: NodeId) -> Option<Unfit> {
        let Some(site) = self.sites.get(&node) else { return Some(Unfit::Removed) };
        let unfit = site.unable().or_else(|| site.unsuited(&self.wish.want));
        unfit.or_else(|| self.told(node)).or_else(|| self.no_room(site))
    }

    /// Whether a node that was planned cannot go on.
    fn is_out(&self, node: NodeId) -> bool {
        let is_dead = self.sites.get(&node).is_some_and(|site| site.health == Health::Dead);
        is_dead || !self.may_hold(node) || self.told(node).is_some()
    }

    fn may_hold(&self, node: NodeId) -> bool {
        self.sites.get(&node).is_some_and(|site| !site.gateway)
    }

    /// Whether a node has the version of the round.
    fn has(&self, node: NodeId) -> bool {
        self.wish.digest.is_some() && self.sites.get(&node).is_some_and(|site| site.holds)
    }

    /// What a node has told that is wrong with it and not with the model.
    fn told(&self, node: NodeId) -> Option<Unfit> {
        let failure = self.wish.failures.get(&node).filter(|_| !self.has(node));
        failure.map(|failure| failure.code).filter(|code| is_of_the_node(*code)).map(Unfit::Told)
    }

    fn no_room(&self, site: &Site) -> Option<Unfit> {
        if site.holds {
            return None;
        }
        // Nothing comes to who has the files at hand, or as much as it alone knows.
        let size_bytes = self.size_bytes.filter(|_| !site.at_hand).unwrap_or(0);
        let kept_bytes = self.wish.want.disk_free_bytes_min;
        let is_named = matches!(&self.wish.replicas, Replicas::Nodes(nodes) if nodes.contains(&site.node));
        // A size of nothing is not known.
        let free_bytes = site.disk_free_bytes.filter(|_| size_bytes > 0 && !is_named);
        let no_room = free_bytes.and_then(|free_bytes| Unfit::of_room(size_bytes, free_bytes, site.spare));
        no_room.or_else(|| Unfit::of_disk(kept_bytes, size_bytes, site.disk_free_bytes))
    }
}

/// Copies that are wanted.
pub(super) fn wanted(count: u32) -> usize {
    (count as usize).clamp(1, WISH_TARGETS_MAX)
}

/// Fit nodes without which a wish for a number of copies is impossible.
fn needed(wish: &Wish) -> usize {
    match wish.replicas {
        Replicas::Count(_) if may_be_fewer(wish) => 1,
        Replicas::Count(count) => wanted(count),
        Replicas::All | Replicas::Nodes(_) => 1,
    }
}

/// Whether fewer copies are made without a word where fewer nodes are fit. A file means what it says; a person who
/// says nothing asks for two, and who says two is told when asking.
pub(super) fn may_be_fewer(wish: &Wish) -> bool {
    matches!(wish.replicas, Replicas::Count(count) if !wish.declared && wanted(count) <= COPIES_DEFAULT)
}

/// Whether the round began with this plan, as copies were on their way then, and more were asked for: the others are
/// found as for a first plan, whenever nodes are fit for them, and not as for copies that nobody asked for.
pub(super) fn is_begun_short(wish: &Wish, plan: &Plan) -> bool {
    let is_short = matches!(wish.replicas, Replicas::Count(count) if plan.targets.len() < wanted(count));
    let is_begun = plan.kind == PlanKind::Asked && plan.made_at == wish.asked_at;
    is_short && is_begun && !may_be_fewer(wish) && wish.failures.is_empty()
}

/// Whether another node may do without this failure, so that the leader plans anew. A person who removed the copy or
/// ended the pull there is one.
#[must_use]
pub const fn is_of_the_node(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::DiskFull
            | ErrorCode::StoreNotWritable
            | ErrorCode::StorageFailed
            | ErrorCode::StorageCorrupt
            | ErrorCode::RuntimeUnavailable
            | ErrorCode::RuntimeFailed
            | ErrorCode::PullCancelled
    )
}

#[cfg(test)]
mod tests;
