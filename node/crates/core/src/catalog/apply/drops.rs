//! Copies that shall go: asked for here, carried out by their nodes, over when a node tells that its copy is gone.
//!
//! Unless somebody insists, no version loses its last copy under its name, a pinned one not those that the wish counts
//! on, and no wish is left with fewer copies than it says; one that does not belong where it is makes up for none that
//! does, or the leader would make a copy anew for each that goes. Only what an earlier round had too many of may be the
//! last of its version: where as many copies as wanted stay of the one that the wish spreads now, it goes like a copy
//! that a pull replaces. Where somebody insists, the nodes are left out of the round that runs, so that the copies do
//! not come back by themselves; a new round knows nothing of it. That a copy which was to go is gone is nobody's
//! failure. Copies that wait to go do not count as left. A copy of the same version under another name does not count
//! either: that is the safe side. A disabled model that is forgotten may lose its last copy, for that is what disabling
//! leads to; a pin holds even then, and also against who insists, where that is asked for: it may have gone on record
//! since somebody looked. A drop says whether it was insisted on, since its node looks for another copy once more
//! before this one goes.

use ollamax_types::limits::{DROPS_MAX, WISH_TARGETS_MAX};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use super::draft::Draft;
use super::limit::{check_count, exceeded};
use super::{Applied, Scene, Step, Stop, registry, wishes};
use crate::catalog::command::Refusal;
use crate::catalog::read;
use crate::catalog::record::{Drop, Failure, Key, Location, Model, Phase, Record, Replicas, Since, Want, Wish};
use crate::catalog::view::{Fault, Mutation};

/// What is told of a node whose copy goes against the guards.
const INSISTED: &str = "somebody insisted that it goes from there";
/// Of so many copies that stay it is asked whether they belong where they are: a command has other keys to read. The
/// others count.
const STAYING_LOOKED_AT_MAX: usize = 128;

/// Whether a failure is none of the node's: somebody insisted that its copy goes.
pub(super) fn is_insisted(failure: &Failure) -> bool {
    !failure.by_hand && failure.code == ErrorCode::PullCancelled && failure.text == INSISTED
}

/// What somebody asked for.
#[derive(Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) name: &'a ModelName,
    pub(super) nodes: &'a [NodeId],
    pub(super) forget: bool,
    pub(super) force: bool,
    pub(super) unless_pinned: bool,
}

/// What goes, and what is left behind it.
struct Parting {
    leaving: Vec<Location>,
    staying: Vec<Location>,
}

pub(super) fn drop_copies(scene: &Scene<'_>, order: Order<'_>) -> Step {
    check_count("the list of nodes", order.nodes.len(), WISH_TARGETS_MAX)?;
    let draft = Draft::new(scene.view);
    let wish = read::wish(&draft, order.name)?;
    let held = read::model(&draft, order.name)?;
    if let Some(digest) = held.as_ref().and_then(Model::pinned).filter(|_| order.unless_pinned) {
        return Err(Refusal::Pinned { name: order.name.clone(), digest }.into());
    }
    let parting = parted(scene, order, held.as_ref())?;
    if !order.force {
        // In a cluster of an older version the last copy is told first.
        if scene.minds_pins() {
            check_pinned(order, held.as_ref(), wish.as_ref(), &parting)?;
        }
        check_last(order, held.as_ref(), wish.as_ref(), &parting, scene.minds_named())?;
        check_pinned(order, held.as_ref(), wish.as_ref(), &parting)?;
        if let Some(wish) = wish.as_ref().filter(|_| !order.forget) {
            check_wished(scene, wish, &parting)?;
        }
    }
    let ends = order.forget && parting.staying.is_empty();
    if !parting.leaving.is_empty() || (ends && held.is_some()) {
        let model = registry::opened(scene, &draft, order.name)?;
        registry::write(&draft, without(scene, model, &parting, (ends, order.force))?);
    }
    if let Some(wish) = wish {
        if order.forget {
            wishes::count_one_less(&draft)?;
            draft.delete(Key::Wish(order.name.key()));
        } else if let Some(wish) = shortened(scene, &wish, &parting, order.force) {
            draft.put(Key::Wish(order.name.key()), Record::Wish(Box::new(wish)));
        }
    }
    Ok(Applied::done(draft.into_mutations()))
}

fn parted(scene: &Scene<'_>, order: Order<'_>, model: Option<&Model>) -> Result<Parting, Stop> {
    let is_named = |copy: &Location| order.nodes.is_empty() || order.nodes.contains(&copy.node);
    // Who insists means also what waits to go as long as no other copy stays.
    let waits = |copy: &Location| {
        let dropped = model.and_then(|model| model.drop_of(copy.node, copy.model.digest));
        dropped.is_some_and(|dropped| dropped.insisted || !order.force || !is_named(copy))
    };
    let copies = read::locations_of(scene.view, order.name)?.into_iter().filter(|copy| !waits(copy));
    let (leaving, staying) = copies.partition(is_named);
    Ok(Parting { leaving, staying })
}

fn left_of(parting: &Parting, digest: Digest) -> usize {
    parting.staying.iter().filter(|copy| copy.model.digest == digest).count()
}

/// `minds_named`: where the wish names nodes, only copies there replace one that is too many.
fn check_last(
    order: Order<'_>,
    model: Option<&Model>,
    wish: Option<&Wish>,
    parting: &Parting,
    minds_named: bool,
) -> Result<(), Stop> {
    let is_disabled = model.is_some_and(|model| matches!(model.phase, Phase::Disabled(_)));
    let counts = |wish: &Wish, copy: &Location| {
        wish.digest == Some(copy.model.digest) && (!minds_named || wish.counts_at(copy.node))
    };
    let spread = |wish: &Wish| parting.staying.iter().filter(|copy| counts(wish, copy)).count();
    let is_replaced = |copy: &Location| wish.is_some_and(|wish| wish.has_replaced(copy, spread(wish)));
    let is_last = |copy: &Location| left_of(parting, copy.model.digest) == 0 && !is_replaced(copy);
    if parting.leaving.iter().any(is_last) && !(order.forget && is_disabled) {
        return Err(Refusal::LastCopy { name: order.name.clone() }.into());
    }
    Ok(())
}

/// Of a pinned version as many copies stay as the wish counts, and one at least.
fn check_pinned(order: Order<'_>, model: Option<&Model>, wish: Option<&Wish>, parting: &Parting) -> Result<(), Stop> {
    let Some(digest) = model.and_then(Model::pinned) else { return Ok(()) };
    let needed = match wish.map(|wish| &wish.replicas) {
        Some(Replicas::Count(count)) => *count as usize,
        Some(Replicas::Nodes(_) | Replicas::All) | None => 1,
    };
    let goes = parting.leaving.iter().any(|copy| copy.model.digest == digest);
    if goes && left_of(parting, digest) < needed.max(1) {
        return Err(Refusal::Pinned { name: order.name.clone(), digest }.into());
    }
    Ok(())
}

/// Only copies of the version that the wish spreads count for it.
fn check_wished(scene: &Scene<'_>, wish: &Wish, parting: &Parting) -> Result<(), Stop> {
    let counts = |copy: &&Location| wish.digest.is_none_or(|digest| digest == copy.model.digest);
    let leaving: Vec<&Location> = parting.leaving.iter().filter(counts).collect();
    let is_wanted_at = |node: &NodeId| match &wish.replicas {
        Replicas::Nodes(nodes) => nodes.contains(node),
        Replicas::Count(_) | Replicas::All => true,
    };
    let others: Vec<&Location> =
        parting.staying.iter().filter(counts).filter(|copy| is_wanted_at(&copy.node)).collect();
    let mut staying = others.len();
    if matches!(wish.replicas, Replicas::Count(_)) && takes_a_wished_one(scene, &wish.want, &leaving)? {
        staying = belonging(scene, &wish.want, &others)?;
    }
    let is_short = match &wish.replicas {
        Replicas::Count(count) => !leaving.is_empty() && staying < *count as usize,
        Replicas::Nodes(_) => leaving.iter().any(|copy| is_wanted_at(&copy.node)),
        Replicas::All => takes_a_wished_one(scene, &wish.want, &leaving)?,
    };
    if !is_short {
        return Ok(());
    }
    let wanted = match &wish.replicas {
        Replicas::Count(count) => *count as usize,
        Replicas::Nodes(nodes) => nodes.len(),
        Replicas::All => staying + leaving.len(),
    };
    let number = |copies: usize| u32::try_from(copies).unwrap_or(u32::MAX);
    let (name, wanted, left) = (wish.name.clone(), number(wanted), number(staying));
    Err(Refusal::BelowWish { name, wanted, left }.into())
}

/// A wish means neither the nodes that are emptied nor those that it keeps away from. Of more nodes than a command may
/// name some are meant.
fn takes_a_wished_one(scene: &Scene<'_>, want: &Want, leaving: &[&Location]) -> Result<bool, Fault> {
    if leaving.len() > WISH_TARGETS_MAX {
        return Ok(true);
    }
    for copy in leaving {
        if belongs(scene, want, copy)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many of the copies that stay belong where they are.
fn belonging(scene: &Scene<'_>, want: &Want, staying: &[&Location]) -> Result<usize, Fault> {
    let mut count = staying.len().saturating_sub(STAYING_LOOKED_AT_MAX);
    for copy in staying.iter().take(STAYING_LOOKED_AT_MAX) {
        count += usize::from(belongs(scene, want, copy)?);
    }
    Ok(count)
}

fn belongs(scene: &Scene<'_>, want: &Want, copy: &Location) -> Result<bool, Fault> {
    let member = read::member(scene.view, copy.node)?;
    Ok(member.is_some_and(|member| member.suits(want)))
}

/// The record with the drops. Where the whole model goes, that holds for the copies that wait to go too.
fn without(
    scene: &Scene<'_>,
    mut model: Model,
    parting: &Parting,
    (ends, insisted): (bool, bool),
) -> Result<Model, Stop> {
    let (at, by) = (scene.entry.log_time, &scene.entry.principal);
    for copy in &parting.leaving {
        model.drops.insert(copy.node, Drop { digest: copy.model.digest, at, by: by.clone(), insisted });
    }
    if model.drops.len() > DROPS_MAX {
        return Err(exceeded(model.name.to_string(), model.drops.len() as u64, DROPS_MAX as u64, "copies to remove"));
    }
    if ends {
        model.drops.values_mut().for_each(|dropped| dropped.insisted = true);
        model.phase = Phase::Deleted(Since { at, by: by.clone(), note: String::new() });
    }
    Ok(model)
}

/// The wish without the nodes that lose their copy; where somebody insisted, it does not come back to them in this
/// round, else the next one knows as well that theirs are too many. `None`: it stays as it is.
fn shortened(scene: &Scene<'_>, wish: &Wish, parting: &Parting, force: bool) -> Option<Wish> {
    let leaves = |node: &NodeId| parting.leaving.iter().any(|copy| copy.node == *node);
    let mut kept = wish.clone();
    if let Some(plan) = &mut kept.plan {
        if !force {
            wishes::note_surplus(&mut kept.surplus, plan.targets.iter().copied().filter(leaves));
        }
        plan.targets.retain(|node| !leaves(node));
        if leaves(&plan.ingester)
            && let Some(first) = plan.targets.first()
        {
            plan.ingester = *first;
        }
    }
    kept.plan = kept.plan.filter(|plan| !plan.targets.is_empty());
    if force {
        for copy in &parting.leaving {
            let (code, text) = (ErrorCode::PullCancelled, INSISTED.to_owned());
            let failure = Failure { code, text, at: scene.entry.log_time, by_hand: false };
            kept.failures.insert(copy.node, failure);
        }
        wishes::make_room(&mut kept);
    }
    (kept != *wish).then_some(kept)
}

/// The drop of a node whose copy is gone, and the record of the name without it; `None`: there was none.
pub(super) fn ended(scene: &Scene<'_>, model_key: &str, node: NodeId) -> Result<Option<(Drop, Mutation)>, Fault> {
    let Some(mut model) = read::model_at(scene.view, model_key)? else { return Ok(None) };
    let key = Key::Model(model_key.to_owned());
    let dropped = model.drops.remove(&node);
    Ok(dropped.map(|dropped| (dropped, Mutation::Put(key, Record::Model(Box::new(model))))))
}

/// The record of a name, without the drops of nodes that shall hold it again; `None`: there were none.
pub(super) fn withdrawn(scene: &Scene<'_>, name: &ModelName, nodes: &[NodeId]) -> Result<Option<Mutation>, Fault> {
    let Some(mut model) = read::model(scene.view, name)? else { return Ok(None) };
    let before = model.drops.len();
    model.drops.retain(|node, _| !nodes.contains(node));
    let is_other = model.drops.len() < before;
    Ok(is_other.then(|| Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(model)))))
}
