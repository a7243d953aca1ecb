//! Wishes for models: asked for, planned, resolved, failed, forgotten.
//!
//! A round is one go at a wish. Its number is the index of the entry that began it, so that what comes late of an
//! earlier one is refused. Within a round the version stays once it is known, and the plan may change. What a node
//! failed with stays for the round; only who becomes the ingester has something new to try and begins without. Who
//! holds the version that is spread has not failed. Which copies there are is told by [`super::models`], never here; a
//! copy that a person removed or exchanged counts as a failure of its node, and as the only one it goes along into
//! later rounds, until the node has a copy of that name again, whoever brought it. The version goes along where a file
//! says only where the model shall be, or somebody asks for fewer copies; then those that are too many go along too.
//! Copies that are too many when a new round begins are noted with it, whichever version that will spread. Whoever says
//! nothing of places leaves them as they are, also where somebody removed a copy or insisted on that, and asks for what
//! the registry has today. The same question is answered with the same round as long as a new one would begin no
//! differently.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ollamax_types::limits::{
    COPY_SOURCES_MAX, FAILURE_TEXT_BYTES_MAX, MODEL_BYTES_MAX, ROUND_KEPT_FOR, ROUND_KEPT_UNSAID_FOR,
    WISH_FAILURES_MAX, WISH_SURPLUS_MAX, WISH_TARGETS_MAX, WISHES_MAX,
};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use super::draft::Draft;
use super::limit::{check_count, check_size, cut, exceeded};
use super::places::check_want;
use super::{Applied, Scene, Step, Stop, drops, invalid, members, put, registry};
use crate::catalog::command::{Answer, CopyCourse, Refusal};
use crate::catalog::principal::asker_of;
use crate::catalog::read;
use crate::catalog::record::{
    Counts, Failure, Key, Location, Member, Model, Plan, PlanKind, Record, Replicas, Version, Want, Wish,
};
use crate::catalog::unsaid::{self, COPIES_UNSAID, places_kept};
use crate::catalog::view::{Fault, Mutation};

/// What is told of a node whose copy a person removed.
const REMOVED_BY_HAND: &str = "it was removed there by hand";
/// So many members are looked at to see whether enough of them are left: a command has other keys to read. Where the
/// first ones are not enough, nobody is left out.
const MEMBERS_LOOKED_AT_MAX: usize = 256;
/// Of so many nodes where a person removed the copy it is asked whether one is there again, for the same reason. The
/// others are left out.
const REMOVED_LOOKED_AT_MAX: usize = 16;

/// Who has failed, and why.
pub(super) type Failures = BTreeMap<NodeId, Failure>;

/// What somebody asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) name: &'a ModelName,
    pub(super) replicas: &'a Replicas,
    pub(super) insecure: bool,
    pub(super) want: &'a Want,
    pub(super) declared: bool,
    /// Nobody said where: `replicas` are where nothing stands on record.
    pub(super) unsaid: bool,
    /// For whom nobody waits then.
    pub(super) away: &'a BTreeSet<NodeId>,
}

/// What the leader planned.
#[derive(Clone, Copy)]
pub(super) struct Planned<'a> {
    pub(super) ingester: NodeId,
    pub(super) targets: &'a [NodeId],
    pub(super) kind: PlanKind,
}

/// One round of one wish.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) name: &'a ModelName,
    pub(super) number: u64,
}

pub(super) fn ask(scene: &Scene<'_>, asked: Asked<'_>) -> Step {
    let draft = Draft::new(scene.view);
    let held = read::wish(&draft, asked.name)?;
    let kept = match &held {
        Some(wish) if asked.unsaid => places_kept(scene.view, wish)?,
        Some(_) | None => None,
    };
    let replicas = checked(scene, kept.as_ref().unwrap_or(asked.replicas))?;
    check_want(asked.want)?;
    check_count("the list of nodes that are away", asked.away.len(), WISH_TARGETS_MAX)?;
    let model = read::model(&draft, asked.name)?;
    model.as_ref().map_or(Ok(()), registry::check_enabled)?;
    let pinned = model.as_ref().and_then(Model::pinned);
    let declared = asked.declared || held.as_ref().is_some_and(|wish| wish.declared);
    let mut wish = begun(scene, asked.name, replicas, held.as_ref(), !asked.unsaid)?;
    (wish.insecure, wish.want, wish.declared) = (asked.insecure, asked.want.clone(), declared);
    let of_version = held.as_ref().filter(|held| pinned.is_none_or(|digest| held.digest == Some(digest)));
    wish = match held.as_ref() {
        Some(held) if kept.is_some() => {
            let wish = Wish { failures: given_up(scene, &wish.replicas, held, model.as_ref())?, ..wish };
            let wish = match of_version {
                Some(held) => with_nodes(scene, wish, held, model.as_ref())?,
                None => wish,
            };
            if wish.plan.is_some() { wish } else { without_too_many(scene, wish)? }
        }
        held => Wish { failures: left_out(scene, &wish.replicas, held)?, ..wish },
    };
    if let Some(held) = of_version
        && (&held.replicas, held.insecure, &held.want, held.declared)
            == (&wish.replicas, wish.insecure, &wish.want, wish.declared)
        && (goes_on(scene, held, pinned, &wish.failures, kept_for(scene, asked, (held, &wish), pinned)?)?
            || (asked.unsaid && pinned.is_some() && is_spread(scene, held, &wish.failures)?))
    {
        return Ok(Applied::new(Vec::new(), Answer::Wish { round: held.round }));
    }
    if held.is_none() {
        count_one_more(&draft)?;
    }
    if let Some(held) = of_version.filter(|_| !asked.unsaid) {
        wish = with_version(scene, wish, held, (asked.declared, model.as_ref()))?;
    }
    if let Some(mut model) = model {
        if let Some(digest) = pinned {
            let known = read::versions(scene.view, asked.name)?.into_iter().rfind(|version| version.digest == digest);
            (wish.digest, wish.size_bytes) = (Some(digest), known.map_or(0, |version: Version| version.size_bytes));
        }
        let before = model.clone();
        registry::revive(&mut model);
        if model != before {
            registry::write(&draft, model);
        }
    }
    draft.put(Key::Wish(asked.name.key()), Record::Wish(Box::new(wish)));
    Ok(Applied::new(draft.into_mutations(), Answer::Wish { round: scene.index }))
}

/// The new round with the version of the one before, where the question is none for what the registry has today, and a
/// node of its plan has that version: a file says only where it shall be, or there shall be fewer copies. Of fewer
/// copies all are targets still, so that the leader has those go that are too many. Of more, so are those that are on
/// their way: what has come takes room there already, which a first plan would ask for once more. Of nodes that are
/// named all are, where one of them failed: who is away keeps nobody from trying again.
fn with_version(
    scene: &Scene<'_>,
    mut wish: Wish,
    held: &Wish,
    (is_from_file, model): (bool, Option<&Model>),
) -> Result<Wish, Fault> {
    let of_places = |wish: &Wish| (wish.replicas.clone(), wish.want.clone(), wish.declared);
    let count = match (&held.replicas, &wish.replicas) {
        (Replicas::Count(before), Replicas::Count(count)) if count < before && held.want == wish.want => Some(*count),
        _ => None,
    };
    // A file that is applied again where a node could not get it wants no other version either.
    let has_failed = scene.minds_named() && held.failures.values().any(|failure| !failure.by_hand);
    let is_moved = of_places(held) != of_places(&wish);
    let is_placing = is_from_file && (has_failed || is_moved);
    let Some(digest) = held.digest.filter(|_| held.insecure == wish.insecure && (is_placing || count.is_some())) else {
        return Ok(wish);
    };
    let is_more = match (&held.replicas, &wish.replicas) {
        (Replicas::Count(before), Replicas::Count(count)) => count > before,
        (Replicas::Count(_), Replicas::All) => true,
        _ => false,
    };
    let keeps_coming = is_more && held.want == wish.want && scene.minds_coming();
    let (mut targets, mut coming) = (Vec::new(), Vec::new());
    for node in held.plan.iter().flat_map(|plan| plan.targets.iter().copied()) {
        if holds(scene, held, node)? {
            targets.push(node);
        } else if keeps_coming && !held.failures.contains_key(&node) {
            coming.push(node);
        }
    }
    let Some(first) = targets.first().copied() else { return Ok(wish) };
    (wish.digest, wish.size_bytes) = (Some(digest), held.size_bytes);
    if let Replicas::Nodes(nodes) = &wish.replicas
        && is_from_file
        && has_failed
        && !is_moved
        && !nodes.iter().any(|node| is_going(model, *node))
    {
        let targets = nodes.clone();
        return Ok(gone_on(scene, wish, targets, held.plan.as_ref()));
    }
    let are_too_many = count.is_some_and(|count| targets.len() > count as usize);
    if are_too_many || !coming.is_empty() {
        targets.extend(coming);
        let ingester = held.plan.as_ref().map(|plan| plan.ingester).filter(|node| targets.contains(node));
        let (ingester, made_at) = (ingester.unwrap_or(first), scene.entry.log_time);
        wish.surplus.retain(|node| !targets.contains(node));
        wish.plan = Some(Plan { ingester, targets, made_at, kind: PlanKind::Asked });
    }
    Ok(wish)
}

/// The new round with the nodes of the one before, where nobody said how many and a first plan would wait until all are
/// there: what the registry has today comes to those that are, and the others stay wanted. Who is left out is none of
/// them. A named node that is still to remove its copy, without that anybody insisted, waits for a first plan, which
/// takes that back.
fn with_nodes(scene: &Scene<'_>, wish: Wish, held: &Wish, model: Option<&Model>) -> Result<Wish, Fault> {
    let Some(plan) = held.plan.as_ref().filter(|_| held.want == wish.want) else { return Ok(wish) };
    let mut targets = Vec::new();
    match &wish.replicas {
        Replicas::All => return Ok(wish),
        Replicas::Count(count) if *count <= COPIES_UNSAID && !wish.declared => return Ok(wish),
        Replicas::Nodes(nodes) => {
            targets.extend(nodes.iter().copied().filter(|node| !wish.failures.contains_key(node)));
            if targets.iter().any(|node| is_going(model, *node)) {
                return Ok(wish);
            }
        }
        Replicas::Count(count) => {
            for node in plan.targets.iter().copied() {
                let member = read::member(scene.view, node)?;
                let suits = member.is_some_and(|member| member.suits(&wish.want));
                if suits && !is_going(model, node) && !wish.failures.contains_key(&node) {
                    targets.push(node);
                }
            }
            targets.truncate(*count as usize);
        }
    }
    Ok(gone_on(scene, wish, targets, Some(plan)))
}

/// The new round with these nodes as its plan, from its start; the ingester of before stays where it is one of them.
fn gone_on(scene: &Scene<'_>, mut wish: Wish, targets: Vec<NodeId>, before: Option<&Plan>) -> Wish {
    let Some(first) = targets.first().copied() else { return wish };
    let ingester = before.map(|plan| plan.ingester).filter(|node| targets.contains(node)).unwrap_or(first);
    wish.surplus.retain(|node| !targets.contains(node));
    wish.plan = Some(Plan { ingester, targets, made_at: scene.entry.log_time, kind: PlanKind::Asked });
    wish
}

/// Whether a node is still to remove its copy.
fn is_going(model: Option<&Model>, node: NodeId) -> bool {
    model.is_some_and(|model| model.drops.contains_key(&node))
}

/// A new round that nobody is left out of. What an earlier one knew of where it shall be goes along. `is_said`:
/// somebody says where it shall be, and not where a version is.
pub(super) fn begun(
    scene: &Scene<'_>,
    name: &ModelName,
    replicas: Replicas,
    held: Option<&Wish>,
    is_said: bool,
) -> Result<Wish, Fault> {
    let surplus = surplus(scene, &replicas, held, is_said)?;
    let is_others = |held: &Wish| held.shared || asker_of(&held.asked_by) != asker_of(&scene.entry.principal);
    Ok(Wish {
        name: name.clone(),
        round: scene.index,
        insecure: held.is_some_and(|held| held.insecure),
        replicas,
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: Failures::new(),
        asked_at: scene.entry.log_time,
        asked_by: scene.entry.principal.clone(),
        want: held.map(|held| held.want.clone()).unwrap_or_default(),
        declared: held.is_some_and(|held| held.declared),
        surplus,
        shared: scene.minds_askers() && held.is_some_and(is_others),
    })
}

/// Who may lose its copy in a new round: who was to lose it before, and where more targets have the model than there
/// should be, all of them: which of them stay is planned anew. Whoever had it for the sake of a number is one of them
/// too where somebody names nodes instead; who is named is none. A wish for all nodes has none too many.
fn surplus(
    scene: &Scene<'_>,
    replicas: &Replicas,
    held: Option<&Wish>,
    is_said: bool,
) -> Result<BTreeSet<NodeId>, Fault> {
    let named: &[NodeId] = match replicas {
        Replicas::Nodes(nodes) if scene.minds_named() => nodes,
        Replicas::Nodes(_) | Replicas::Count(_) | Replicas::All => &[],
    };
    let Some(held) = held.filter(|_| *replicas != Replicas::All) else { return Ok(BTreeSet::new()) };
    let mut surplus = BTreeSet::new();
    for node in held.surplus.iter().copied().take(WISH_SURPLUS_MAX) {
        if read::node_model(scene.view, node, &held.name.key())?.is_some() {
            surplus.insert(node);
        }
    }
    let mut having = Vec::new();
    for node in held.plan.iter().flat_map(|plan| plan.targets.iter().copied()) {
        if holds(scene, held, node)? {
            having.push(node);
        }
    }
    surplus.retain(|node| !named.contains(node));
    let are_instead = is_said && !named.is_empty();
    if matches!(held.replicas, Replicas::Count(count) if are_instead || having.len() > count as usize) {
        note_surplus(&mut surplus, having.into_iter().filter(|node| !named.contains(node)));
    }
    Ok(surplus)
}

/// Takes these among those that are too many, as far as there is room.
pub(super) fn note_surplus(surplus: &mut BTreeSet<NodeId>, nodes: impl IntoIterator<Item = NodeId>) {
    for node in nodes {
        if surplus.len() < WISH_SURPLUS_MAX {
            surplus.insert(node);
        }
    }
}

/// Who is left out of a new round from its start: where a person removed the copy, until one is there again, somebody
/// names that node, or there are too few nodes without it.
pub(super) fn left_out(scene: &Scene<'_>, replicas: &Replicas, held: Option<&Wish>) -> Result<Failures, Fault> {
    let Some(held) = held.filter(|_| !matches!(replicas, Replicas::Nodes(_))) else { return Ok(Failures::new()) };
    let mut kept = held.failures.clone();
    kept.retain(|_, failure| failure.by_hand);
    let kept = without_those_back(scene, kept, held, None)?;
    Ok(if is_enough_without(scene, &kept, replicas)? { kept } else { Failures::new() })
}

/// Who is left out where nobody says anything of places, as long as there is no copy that stays: where a person removed
/// it, or somebody insisted that it goes. Of nodes by their names too, as nobody names them just now.
fn given_up(scene: &Scene<'_>, replicas: &Replicas, held: &Wish, model: Option<&Model>) -> Result<Failures, Fault> {
    let mut kept = held.failures.clone();
    kept.retain(|node, failure| {
        let is_wanted = !matches!(replicas, Replicas::Nodes(nodes) if !nodes.contains(node));
        is_wanted && (failure.by_hand || drops::is_insisted(failure))
    });
    without_those_back(scene, kept, held, model)
}

/// Without those that have a copy again, and of which nobody insisted that it goes.
fn without_those_back(
    scene: &Scene<'_>,
    mut kept: Failures,
    held: &Wish,
    model: Option<&Model>,
) -> Result<Failures, Fault> {
    let goes = |node: &NodeId| model.and_then(|model| model.drops.get(node)).is_some_and(|dropped| dropped.insisted);
    let first: Vec<NodeId> = kept.keys().copied().take(REMOVED_LOOKED_AT_MAX).collect();
    for node in first {
        if !goes(&node) && read::node_model(scene.view, node, &held.name.key())?.is_some() {
            kept.remove(&node);
        }
    }
    Ok(kept)
}

/// A round that waits for a first plan, and leaves nobody out where too few would be left.
fn without_too_many(scene: &Scene<'_>, wish: Wish) -> Result<Wish, Fault> {
    let is_enough = is_enough_without(scene, &wish.failures, &wish.replicas)?;
    Ok(if is_enough { wish } else { Wish { failures: Failures::new(), ..wish } })
}

/// Whether enough nodes are left without these.
fn is_enough_without(scene: &Scene<'_>, kept: &Failures, replicas: &Replicas) -> Result<bool, Fault> {
    let needed = match replicas {
        Replicas::Nodes(nodes) => return Ok(nodes.iter().any(|node| !kept.contains_key(node))),
        Replicas::Count(count) => *count as usize,
        Replicas::All => 1,
    };
    if kept.is_empty() {
        return Ok(true);
    }
    let members = read::some_members(scene.view, MEMBERS_LOOKED_AT_MAX)?;
    let others = members.iter().filter(|member| member.may_hold() && !kept.contains_key(&member.id)).count();
    Ok(others >= needed)
}

/// One wish more is counted.
pub(super) fn count_one_more(draft: &Draft<'_>) -> Result<(), Stop> {
    let counts = read::counts(draft)?;
    if counts.wishes >= WISHES_MAX {
        return Err(exceeded("this cluster", counts.wishes + 1, WISHES_MAX, "wishes"));
    }
    draft.put(Key::Counts, Record::Counts(Counts { wishes: counts.wishes + 1, ..counts }));
    Ok(())
}

/// One wish less is counted.
pub(super) fn count_one_less(draft: &Draft<'_>) -> Result<(), Fault> {
    let counts = read::counts(draft)?;
    let wishes = counts.wishes.checked_sub(1).ok_or_else(|| Fault::Invariant("more wishes than counted".to_owned()))?;
    draft.put(Key::Counts, Record::Counts(Counts { wishes, ..counts }));
    Ok(())
}

/// Where a model shall be, within the limits; nodes in order, each once.
pub(super) fn checked(scene: &Scene<'_>, replicas: &Replicas) -> Result<Replicas, Stop> {
    match replicas {
        Replicas::All => Ok(Replicas::All),
        Replicas::Count(count) => {
            check_some(*count as usize)?;
            Ok(Replicas::Count(*count))
        }
        Replicas::Nodes(nodes) => {
            let nodes: BTreeSet<NodeId> = nodes.iter().copied().collect();
            check_some(nodes.len())?;
            nodes.iter().try_for_each(|node| members::holder(scene, *node).map(drop))?;
            Ok(Replicas::Nodes(nodes.into_iter().collect()))
        }
    }
}

fn check_some(nodes: usize) -> Result<(), Stop> {
    match nodes {
        1..=WISH_TARGETS_MAX => Ok(()),
        _ => Err(invalid(format!("a model is asked for on 1 to {WISH_TARGETS_MAX} nodes, not {nodes}"))),
    }
}

/// How long a round goes on for receivers alone. A new one that has its plan from the start costs them no place, so
/// that it asks the registry soon, and at once where only those lack the version that are away; of a pinned model there
/// is nothing to ask.
fn kept_for(
    scene: &Scene<'_>,
    asked: Asked<'_>,
    (held, anew): (&Wish, &Wish),
    pinned: Option<Digest>,
) -> Result<Duration, Fault> {
    if !asked.unsaid || pinned.is_some() || anew.plan.is_none() {
        return Ok(ROUND_KEPT_FOR);
    }
    let targets = held.plan.as_ref().map_or(&[][..], |plan| plan.targets.as_slice());
    for node in targets {
        let is_awaited = !asked.away.contains(node) && !held.failures.contains_key(node);
        if is_awaited && !holds(scene, held, *node)? {
            return Ok(ROUND_KEPT_UNSAID_FOR);
        }
    }
    Ok(Duration::ZERO)
}

/// Whether a round need not begin anew: nothing is planned, and a new one would begin with the same version (`fixed`)
/// and leave out the same nodes; or its ingester can go on and some target neither holds the model nor has failed. For
/// targets alone it is kept for some time only (`kept_for`): one that is away must not keep everybody from what the
/// registry has today.
pub(super) fn goes_on(
    scene: &Scene<'_>,
    wish: &Wish,
    fixed: Option<Digest>,
    left_out: &Failures,
    kept_for: Duration,
) -> Result<bool, Fault> {
    let Some(plan) = &wish.plan else {
        return Ok(wish.digest == fixed && wish.failures == *left_out);
    };
    if !is_standing(scene, plan.ingester)? || has_failed(scene, wish, plan.ingester)? {
        return Ok(false);
    }
    let passed_ms = u128::from(scene.entry.log_time.ms_since(wish.asked_at));
    if passed_ms >= kept_for.as_millis() && holds(scene, wish, plan.ingester)? {
        return Ok(false);
    }
    for node in &plan.targets {
        if !wish.failures.contains_key(node) && is_standing(scene, *node)? && !holds(scene, wish, *node)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether all nodes of the plan have the version, and nobody has failed but who is left out of the next one.
fn is_spread(scene: &Scene<'_>, wish: &Wish, left_out: &Failures) -> Result<bool, Fault> {
    let Some(plan) = wish.plan.as_ref().filter(|_| wish.failures == *left_out) else { return Ok(false) };
    for node in &plan.targets {
        if !holds(scene, wish, *node)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_failed(scene: &Scene<'_>, wish: &Wish, node: NodeId) -> Result<bool, Fault> {
    Ok(wish.failures.contains_key(&node) && !holds(scene, wish, node)?)
}

/// Whether a node has the version that the round spreads.
fn holds(scene: &Scene<'_>, wish: &Wish, node: NodeId) -> Result<bool, Fault> {
    unsaid::holds(scene.view, wish, node)
}

fn is_standing(scene: &Scene<'_>, node: NodeId) -> Result<bool, Fault> {
    Ok(read::member(scene.view, node)?.as_ref().is_some_and(Member::is_standing))
}

pub(super) fn plan(scene: &Scene<'_>, round: Round<'_>, planned: Planned<'_>) -> Step {
    let Planned { ingester, targets, kind } = planned;
    let mut wish = running(scene, round)?;
    check_plan(scene, round.name, ingester, targets)?;
    let before = wish.plan.as_ref();
    if before.is_some_and(|plan| plan.ingester == ingester && plan.targets == targets) {
        return Ok(Applied::done(Vec::new()));
    }
    if before.is_none_or(|plan| plan.ingester != ingester) {
        wish.failures.remove(&ingester);
    }
    wish.surplus.retain(|node| !targets.contains(node));
    // With whom a round began, it goes on as it began: more of those that were asked for are no repair. Another
    // ingester has something new to try, and what was told before is no failure with it.
    let is_of_the_start = |plan: &&Plan| {
        let are_asked = plan.kind == PlanKind::Asked && kind == PlanKind::Asked;
        scene.minds_coming() && are_asked && plan.ingester == ingester && plan.made_at == wish.asked_at
    };
    let made_at = wish.plan.as_ref().filter(is_of_the_start).map_or(scene.entry.log_time, |plan| plan.made_at);
    wish.plan = Some(Plan { ingester, targets: targets.to_vec(), made_at, kind });
    let mut mutations = vec![written(wish)];
    mutations.extend(drops::withdrawn(scene, round.name, targets)?);
    Ok(Applied::done(mutations))
}

fn check_plan(scene: &Scene<'_>, name: &ModelName, ingester: NodeId, targets: &[NodeId]) -> Result<(), Stop> {
    check_count("the list of targets", targets.len(), WISH_TARGETS_MAX)?;
    if targets.is_empty() {
        return Err(invalid("the list of targets is empty"));
    }
    let mut seen = BTreeSet::new();
    for node in targets {
        if !seen.insert(*node) {
            return Err(invalid(format!("the list of targets names node {node} twice")));
        }
        members::holder(scene, *node)?;
    }
    if seen.contains(&ingester) {
        return Ok(());
    }
    members::holder(scene, ingester)?;
    if read::node_model(scene.view, ingester, &name.key())?.is_none() {
        return Err(invalid(format!("node {ingester} is no target and does not hold {name}")));
    }
    Ok(())
}

pub(super) fn resolve(scene: &Scene<'_>, node: NodeId, round: Round<'_>, digest: Digest, size_bytes: u64) -> Step {
    members::standing(scene, node)?;
    let wish = running(scene, round)?;
    if wish.plan.as_ref().is_none_or(|plan| plan.ingester != node) {
        return Err(Refusal::NotPlanned { name: round.name.clone(), node }.into());
    }
    check_size(round.name, size_bytes)?;
    match wish.digest {
        Some(known) if known == digest => Ok(Applied::done(Vec::new())),
        Some(wanted) => Err(Refusal::VersionMoved { name: round.name.clone(), wanted, found: digest }.into()),
        None => Ok(Applied::done(vec![written(Wish { digest: Some(digest), size_bytes, ..wish })])),
    }
}

pub(super) fn tell(scene: &Scene<'_>, node: NodeId, round: Round<'_>, code: ErrorCode, text: &str) -> Step {
    let mut wish = taken_part(scene, node, round)?;
    let text = cut(text, FAILURE_TEXT_BYTES_MAX).to_owned();
    if wish.failures.get(&node).is_some_and(|told| told.code == code && told.text == text) {
        return Ok(Applied::done(Vec::new()));
    }
    wish.failures.insert(node, Failure { code, text, at: scene.entry.log_time, by_hand: false });
    make_room(&mut wish);
    Ok(Applied::done(vec![written(wish)]))
}

/// How far a copy is. The wish is written as it was, which changes nothing; that it is written tells that the round
/// runs and the node has its part in it.
pub(super) fn note_copy(scene: &Scene<'_>, node: NodeId, round: Round<'_>, course: &CopyCourse) -> Step {
    let wish = taken_part(scene, node, round)?;
    check_count("the list of sources", course.members.len(), COPY_SOURCES_MAX)?;
    if course.verified_bytes > course.size_bytes || course.size_bytes > MODEL_BYTES_MAX {
        let CopyCourse { verified_bytes, size_bytes, .. } = course;
        return Err(invalid(format!(
            "{verified_bytes} of {size_bytes} bytes cannot be; the limit is {MODEL_BYTES_MAX}"
        )));
    }
    Ok(Applied::done(vec![written(wish)]))
}

/// A copy is gone, so that it is none too many any more. Where the cluster did not do that and a wish spreads just that
/// version to that node, it shall not come back by itself.
pub(super) fn vanished(scene: &Scene<'_>, held: &Location, was_told: bool) -> Result<Option<Mutation>, Fault> {
    let Some(wish) = read::wish(scene.view, &held.model.name)? else { return Ok(None) };
    let mut kept = wish.clone();
    kept.surplus.remove(&held.node);
    if !was_told {
        give_up(scene, &mut kept, held);
    }
    Ok((kept != wish).then(|| written(kept)))
}

/// A copy is there that was not, or not as this version, so that nobody had one of it too many. Where the wish spreads
/// this one, it is not removed by hand any more; where it spreads what was there before, that one is given up.
pub(super) fn appeared(
    scene: &Scene<'_>,
    before: Option<&Location>,
    now: &Location,
) -> Result<Option<Mutation>, Fault> {
    let Some(wish) = read::wish(scene.view, &now.model.name)? else { return Ok(None) };
    let mut kept = wish.clone();
    kept.surplus.remove(&now.node);
    if wish.digest == Some(now.model.digest) {
        kept.failures.retain(|node, failure| *node != now.node || !failure.by_hand);
    } else if let Some(before) = before {
        give_up(scene, &mut kept, before);
    }
    Ok((kept != wish).then(|| written(kept)))
}

/// Where the wish spread a copy that is gone, a person removed it.
fn give_up(scene: &Scene<'_>, wish: &mut Wish, held: &Location) {
    let Location { node, model } = held;
    let is_planned = wish.plan.as_ref().is_some_and(|plan| plan.names(*node));
    if !is_planned || wish.digest != Some(model.digest) {
        return;
    }
    let (code, text) = (ErrorCode::PullCancelled, REMOVED_BY_HAND.to_owned());
    wish.failures.insert(*node, Failure { code, text, at: scene.entry.log_time, by_hand: true });
    make_room(wish);
}

/// The earliest failures of nodes that have no part any more go first; a plan names fewer nodes than there is room for.
pub(super) fn make_room(wish: &mut Wish) {
    while wish.failures.len() > WISH_FAILURES_MAX {
        let has_part = |node: &NodeId| wish.plan.as_ref().is_some_and(|plan| plan.names(*node));
        let others = wish.failures.iter().filter(|(node, _)| !has_part(node));
        let Some((_, earliest)) = others.map(|(node, failure)| (failure.at, *node)).min() else { return };
        wish.failures.remove(&earliest);
    }
}

/// In this round, or in whichever it is.
pub(super) fn forget(scene: &Scene<'_>, name: &ModelName, round: Option<u64>) -> Step {
    let Some(wish) = read::wish(scene.view, name)? else {
        return Err(Refusal::WishNotFound(name.clone()).into());
    };
    if let Some(round) = round.filter(|round| *round != wish.round) {
        return Err(Refusal::RoundPassed { name: name.clone(), round }.into());
    }
    let draft = Draft::new(scene.view);
    count_one_less(&draft)?;
    draft.delete(Key::Wish(name.key()));
    Ok(Applied::done(draft.into_mutations()))
}

/// The wish, if this is its round.
fn running(scene: &Scene<'_>, round: Round<'_>) -> Result<Wish, Stop> {
    let name = round.name;
    let wish = read::wish(scene.view, name)?.ok_or_else(|| Refusal::WishNotFound(name.clone()))?;
    if wish.round != round.number {
        return Err(Refusal::RoundPassed { name: name.clone(), round: round.number }.into());
    }
    Ok(wish)
}

/// The wish, if this is its round and the node has a part in it.
fn taken_part(scene: &Scene<'_>, node: NodeId, round: Round<'_>) -> Result<Wish, Stop> {
    members::standing(scene, node)?;
    let wish = running(scene, round)?;
    if !wish.plan.as_ref().is_some_and(|plan| plan.names(node)) {
        return Err(Refusal::NotPlanned { name: round.name.clone(), node }.into());
    }
    Ok(wish)
}

fn written(wish: Wish) -> Mutation {
    put(Key::Wish(wish.name.key()), Record::Wish(Box::new(wish)))
}
