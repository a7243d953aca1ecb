//! Which members are there, as this node watches it, and what would be done for all wishes because of it.
//!
//! Every node watches, so each can say which copies are missing; what is done is decided by the leader. Always holds:
//! the watch begins anew with each term, so a leader takes nobody for lost that it has not missed itself for as long as
//! the cluster says. What cannot be read is told, and the watch goes on at the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use ollamax_core::catalog::{Fault, How, Location, Model, View, Wish, models, read};
use ollamax_core::health::Health;
use ollamax_core::placement::{self, Facts, Outlook, Presence, Site, Standing, plan_moves};
use ollamax_metadata as metadata;
use ollamax_metadata::Part;
use ollamax_scheduler as scheduler;
use ollamax_types::limits::HEAR_TIMEOUT;
use ollamax_types::{ModelName, NodeId, ReplicaKnobs};

use crate::sites::Sites;

/// Silence after which people are told that copies are missing, although none is made anew yet.
const MISSED_AFTER: Duration = Duration::from_secs(60);

/// What would be done; clones share one watch.
#[derive(Debug, Clone)]
pub(crate) struct Prospect(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: metadata::Handle,
    scheduler: scheduler::Handle,
    began: Instant,
    watched: Mutex<Watched>,
}

/// What this node has seen so far.
#[derive(Debug, Clone, Default)]
struct Watched {
    /// Who is there.
    presence: Presence,
    /// Whose runtime answers.
    runtimes: Presence,
}

/// What is asked for beside what the cluster has set.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Foresight {
    /// Who is silent is lost: nobody waits for it.
    pub(crate) at_once: bool,
    /// Copies go from full disks to empty ones, whether or not that is switched on.
    pub(crate) rebalance: bool,
}

/// All that a decision is made from, as it was at one moment.
#[derive(Debug)]
pub(crate) struct Scene {
    /// Log time, milliseconds.
    pub(crate) now_ms: u64,
    /// The members as places.
    pub(crate) sites: Sites,
    /// The wishes that come into question.
    pub(crate) wishes: Vec<Standing>,
    /// Who is lost and who is steady.
    pub(crate) presence: Presence,
    /// Whose runtime answers, and since when others' do not.
    pub(crate) runtimes: Presence,
    /// The knobs of the cluster.
    pub(crate) knobs: ReplicaKnobs,
}

// === impl Prospect ===

impl Prospect {
    pub(crate) fn new(metadata: metadata::Handle, scheduler: scheduler::Handle) -> Self {
        Self(Arc::new(Inner { metadata, scheduler, began: Instant::now(), watched: Mutex::default() }))
    }

    /// One look at who is there, and whose runtime answers. Somebody calls this again and again, on every node.
    ///
    /// # Errors
    /// When the members cannot be read.
    pub(crate) fn watch(&self) -> Result<(), Fault> {
        let Inner { metadata, scheduler, began, .. } = &*self.0;
        let sites = Sites::now(&*metadata.view(), scheduler)?;
        let answers = |site: &Site| if site.runtime_up { Health::Alive } else { Health::Dead };
        let seen: BTreeMap<NodeId, Health> = sites.all().iter().map(|site| (site.node, site.health)).collect();
        let runtimes: BTreeMap<NodeId, Health> = sites.all().iter().map(|site| (site.node, answers(site))).collect();
        let now_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (mut watched, term) = (self.watched(), metadata.term());
        watched.presence.look(now_ms, term, &seen);
        watched.runtimes.look(now_ms, term, &runtimes);
        Ok(())
    }

    /// What the leader would do now. `None`: this node does not lead.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn outlook(&self, asked: Foresight) -> Result<Option<Outlook>, Fault> {
        if leading_term(&self.0.metadata).is_none() {
            return Ok(None);
        }
        let Some(scene) = self.now()? else { return Ok(Some(Outlook::default())) };
        let knobs = asked.over(scene.knobs);
        Ok(Some(scene.with_knobs(knobs).outlook()))
    }

    /// Which models have too few copies, those among them whose nodes are silent for a while, and which cannot have
    /// enough: as this node sees it, leader or not. No moves.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn shortfall(&self) -> Result<Outlook, Fault> {
        let Some(scene) = self.now()? else { return Ok(Outlook::default()) };
        let impossible = scene.outlook().impossible;
        let repair_after = scene.knobs.repair_after.min(MISSED_AFTER);
        let knobs = ReplicaKnobs { repair_after, ..scene.knobs };
        Ok(Outlook { under: scene.with_knobs(knobs).outlook().under, impossible, ..Outlook::default() })
    }

    /// What is decided from now on, about these wishes.
    ///
    /// # Errors
    /// When the knobs cannot be read.
    pub(crate) fn scene(&self, view: &dyn View, sites: Sites, wishes: Vec<Standing>) -> Result<Scene, Fault> {
        let (knobs, Watched { presence, runtimes }) = (placement::knobs(view)?, self.watched().clone());
        let sites = sites.with_lost(&|node| presence.lost(node, knobs.repair_after));
        Ok(Scene { now_ms: self.0.metadata.log_time().0, sites, wishes, presence, runtimes, knobs })
    }

    /// The scene as it is; `None` while members may not have been heard yet, as what is not known speaks against them.
    fn now(&self) -> Result<Option<Scene>, Fault> {
        let Inner { metadata, scheduler, began, .. } = &*self.0;
        let view = metadata.view();
        let sites = Sites::now(&*view, scheduler)?;
        if !sites.are_clear && began.elapsed() < HEAR_TIMEOUT {
            return Ok(None);
        }
        let loaded = |name: &ModelName| scheduler.loaded_on(name);
        let wishes = read::wishes(&*view)?.into_iter().map(|wish| standing(&*view, wish, &loaded));
        let wishes = wishes.collect::<Result<Vec<Standing>, Fault>>()?;
        self.scene(&*view, sites, wishes).map(Some)
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Foresight ===

impl Foresight {
    /// The knobs as they count for this question.
    fn over(self, knobs: ReplicaKnobs) -> ReplicaKnobs {
        let repair_after = if self.at_once { Duration::ZERO } else { knobs.repair_after };
        ReplicaKnobs { repair_after, rebalance: knobs.rebalance || self.rebalance, ..knobs }
    }
}

// === impl Scene ===

impl Scene {
    /// What follows.
    pub(crate) fn outlook(&self) -> Outlook {
        self.outlook_beside(&BTreeSet::new())
    }

    /// What follows where nothing is decided of some models, by their keys. What is on its way of them takes its room.
    pub(crate) fn outlook_beside(&self, resting: &BTreeSet<String>) -> Outlook {
        let Self { now_ms, sites, wishes, presence, runtimes, knobs } = self;
        plan_moves(&Facts { now_ms: *now_ms, sites: sites.all(), wishes, presence, runtimes, knobs, resting })
    }

    fn with_knobs(self, knobs: ReplicaKnobs) -> Self {
        Self { knobs, ..self }
    }
}

/// The term in which this node leads, with its majority.
pub(crate) fn leading_term(metadata: &metadata::Handle) -> Option<u64> {
    let status = metadata.status();
    (status.part == Part::Leader && status.has_quorum).then_some(status.term)
}

/// How the cluster stands to a wish. `loaded` says where a model is in memory.
///
/// # Errors
/// When the state cannot be read.
pub(crate) fn standing(
    view: &dyn View,
    wish: Wish,
    loaded: &dyn Fn(&ModelName) -> Vec<NodeId>,
) -> Result<Standing, Fault> {
    let copies = read::locations_of(view, &wish.name)?;
    let model = read::model(view, &wish.name)?;
    let goes = |copy: &&Location| {
        let dropped = model.as_ref().and_then(|model| model.drop_of(copy.node, copy.model.digest));
        dropped.is_some()
    };
    let pinned = model.as_ref().and_then(Model::pinned);
    // What is pinned goes from nowhere, so it is nowhere too much.
    let is_surplus = |copy: &&Location| wish.surplus.contains(&copy.node) && Some(copy.model.digest) != pinned;
    let holders = models::holders(wish.digest, pinned, &copies);
    Ok(Standing {
        size_bytes: wish.size_bytes,
        at_hand: at_hand(view, &wish, &holders, &copies)?,
        holders,
        dropping: copies.iter().filter(goes).map(|copy| copy.node).collect(),
        pinned: pinned.is_some(),
        loaded_on: loaded(&wish.name).into_iter().collect(),
        surplus: copies.iter().filter(is_surplus).map(|copy| copy.node).collect(),
        wish,
    })
}

/// Who has the files of the version of the round, or may have them, although the name is not this version there: who
/// has the name that it was given from, and where the name had it before, who has the name and so may keep it. Nobody
/// is looked for where nobody is to get it, or where it is not known which it is.
fn at_hand(
    view: &dyn View,
    wish: &Wish,
    holders: &BTreeSet<NodeId>,
    copies: &[Location],
) -> Result<BTreeSet<NodeId>, Fault> {
    let is_held = wish.plan.as_ref().is_some_and(|plan| plan.targets.iter().all(|target| holders.contains(target)));
    let Some(digest) = wish.digest.filter(|_| !is_held) else { return Ok(BTreeSet::new()) };
    let versions = read::versions(view, &wish.name)?;
    let Some(version) = versions.iter().rfind(|version| version.digest == digest) else { return Ok(BTreeSet::new()) };
    let is_latest = versions.last().is_some_and(|latest| latest.number == version.number);
    Ok(match &version.how {
        How::Tagged { from } if is_latest => models::holders(Some(digest), None, &read::locations_of(view, from)?),
        How::Found | How::Pulled if is_latest => BTreeSet::new(),
        How::Found | How::Pulled | How::Tagged { .. } | How::RolledBack { .. } => {
            copies.iter().map(|copy| copy.node).collect()
        }
    })
}

#[cfg(test)]
mod tests;
