//! Copies that go from the fullest disk to the emptiest, where that is switched on.
//!
//! Always holds: a move never makes the emptier of the two the fuller one, so it moves at most half of the difference
//! between equal disks, and moves come to an end. It is made while nothing else is under way, from a model that has all
//! its copies, and once a day at most for each. Disks whose size is not known are left alone.

use std::cmp::Reverse;

use ollamax_types::NodeId;
use ollamax_types::limits::WISH_TARGETS_MAX;

use super::{Case, Move, World};
use crate::catalog::{Cordon, PlanKind, Replicas};
use crate::placement::Site;
use crate::placement::pull::wanted;

/// A model is moved for room once in so long.
const MOVED_AGAIN_AFTER_MS: u64 = 24 * 60 * 60 * 1_000;
const MILLION: u128 = 1_000_000;

/// A disk and how full it is.
struct Disk<'a> {
    site: &'a Site,
    total_bytes: u64,
    used_bytes: u64,
}

/// The move that makes the fullest and the emptiest disk most equal; `None` where none is worth it.
pub(super) fn plan(world: &World<'_>, cases: &[Case<'_>]) -> Option<Move> {
    let knobs = world.facts.knobs;
    let is_busy = |case: &Case<'_>| case.is_losing() || !case.coming().is_empty();
    if !knobs.rebalance || cases.iter().any(is_busy) {
        return None;
    }
    let sites = world.sites.values().copied();
    let disks: Vec<Disk<'_>> = sites.filter(|site| may_take_part(world, site)).filter_map(Disk::of).collect();
    let fullest = disks.iter().max_by_key(|disk| (disk.ppm(disk.used_bytes), Reverse(disk.site.node)))?;
    let emptiest = disks.iter().min_by_key(|disk| (disk.ppm(disk.used_bytes), disk.site.node))?;
    let between = fullest.ppm(fullest.used_bytes) - emptiest.ppm(emptiest.used_bytes);
    if between < u128::from(knobs.rebalance_percent) * (MILLION / 100) {
        return None;
    }
    let gaps = cases.iter().filter_map(|case| {
        let size_bytes = Some(case.standing.size_bytes).filter(|size| *size > 0)?;
        let full = fullest.ppm(fullest.used_bytes.checked_sub(size_bytes)?);
        let gap = full.checked_sub(emptiest.ppm(emptiest.used_bytes.saturating_add(size_bytes)))?;
        is_movable(case, fullest.site.node, emptiest.site).then_some((gap, case))
    });
    let (_, case) = gaps.min_by_key(|(gap, _)| *gap)?;
    let plan = case.resolved()?;
    let (from, to) = (fullest.site.node, emptiest.site.node);
    let others = plan.targets.iter().copied().filter(|target| *target != from);
    let targets: Vec<NodeId> = others.chain([to, from]).collect();
    Some(case.planned(case.source(plan)?, targets, PlanKind::Rebalance))
}

fn may_take_part(world: &World<'_>, site: &Site) -> bool {
    site.unable().is_none() && site.cordon == Cordon::Open && world.is_steady(site)
}

/// Whether a model may go from one node to another: all its copies are there, and no reason keeps it.
fn is_movable(case: &Case<'_>, from: NodeId, to: &Site) -> bool {
    let (Some(plan), Replicas::Count(count)) = (case.resolved(), &case.wish().replicas) else { return false };
    let passed_ms = case.world.facts.now_ms.saturating_sub(plan.made_at.0);
    let was_moved = plan.kind == PlanKind::Rebalance && passed_ms < MOVED_AGAIN_AFTER_MS;
    let standing = case.standing;
    let steady = case.steady_copies();
    let is_settled = plan.targets.iter().all(|target| steady.contains(target)) && steady.len() >= wanted(*count);
    let may_leave = plan.targets.contains(&from) && !standing.loaded_on.contains(&from) && !standing.pinned;
    let may_come = !standing.holders.contains(&to.node) && case.why_unfit(to).is_none();
    !was_moved && is_settled && may_leave && may_come && plan.targets.len() < WISH_TARGETS_MAX
}

// === impl Disk ===

impl<'a> Disk<'a> {
    fn of(site: &'a Site) -> Option<Self> {
        let total_bytes = site.disk_total_bytes.filter(|total| *total > 0)?;
        let used_bytes = total_bytes.saturating_sub(site.disk_free_bytes?);
        Some(Self { site, total_bytes, used_bytes })
    }

    /// So many bytes as a part of the disk.
    fn ppm(&self, bytes: u64) -> u128 {
        u128::from(bytes) * MILLION / u128::from(self.total_bytes)
    }
}
