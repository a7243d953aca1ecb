//! Which node holds which model: reported by nodes, forgotten before a member leaves.
//!
//! Each copy is written twice, by model and by node, always both or neither. A node that had the version that a wish
//! spreads and says that it has it no more was told so by the cluster, or by a person: then it is left out until it
//! says that it has it again. It was no person where the copy was to go, and where the node says so: what it was to
//! remove for the cluster may have been taken back while it was at it, and a manifest that is damaged is nobody's wish.
//! Such a copy is missing and comes again. A copy that was to go and became another version is not meant any more.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::limits::{
    CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, COMMAND_KEYS_MAX, MODEL_DETAILS_BYTES_MAX, MODEL_KEY_BYTES_MAX,
    REPORT_MODELS_MAX,
};
use ollamax_types::{ModelRecord, NodeId};

use super::limit::{check_bytes, check_count};
use super::{Applied, Scene, Step, Stop, drops, invalid, members, put, wishes};
use crate::catalog::command::{Answer, Refusal};
use crate::catalog::read;
use crate::catalog::record::{Key, Location, Record};
use crate::catalog::view::{Fault, Mutation};

/// The cluster version that keeps which copies shall go.
const DROPS_VERSION: u32 = 4;
/// What a report reads beside its models, and at most for each that is there or gone, in keys.
const KEYS_BESIDE: usize = 24;
const KEYS_PRESENT: usize = 2;
const KEYS_ABSENT: usize = 3;

/// What a node tells of the models that its runtime has.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) present: &'a [ModelRecord],
    pub(super) absent: &'a [String],
    /// Those of the absent ones that no person removed.
    pub(super) removed: &'a [String],
}

pub(super) fn report(scene: &Scene<'_>, node: NodeId, told: Told<'_>) -> Step {
    let Told { present, absent, removed } = told;
    check_count("the list of present models", present.len(), REPORT_MODELS_MAX)?;
    check_count("the list of absent models", absent.len(), REPORT_MODELS_MAX)?;
    check_count("the list of removed models", removed.len(), REPORT_MODELS_MAX)?;
    let removed: BTreeSet<&str> = removed.iter().map(String::as_str).collect();
    let member = if present.is_empty() { members::standing(scene, node) } else { members::holder(scene, node) };
    member?;
    let mut wanted: BTreeMap<String, Option<&ModelRecord>> = BTreeMap::new();
    for key in absent {
        check_bytes("a model key", key, MODEL_KEY_BYTES_MAX)?;
        wanted.insert(key.clone(), None);
    }
    for model in present {
        wanted.insert(checked_key(model)?, Some(model));
    }
    let mut mutations = Vec::new();
    let mut spare_keys = spare_keys(scene, present.len(), absent.len());
    for (key, model) in wanted {
        match (read::node_model(scene.view, node, &key)?, model) {
            (Some(held), Some(model)) if held.model == *model => {}
            (held, Some(model)) => {
                let now = Location { node, model: model.clone() };
                let is_other = |held: &Location| held.model.digest != model.digest;
                if held.as_ref().is_none_or(is_other) {
                    mutations.extend(wishes::appeared(scene, held.as_ref(), &now)?);
                }
                if held.as_ref().is_some_and(is_other)
                    && let Some(left) = spare_keys.checked_sub(1)
                {
                    spare_keys = left;
                    mutations.extend(drops::ended(scene, &key, node)?.map(|(_, without)| without));
                }
                write(&mut mutations, &key, &now);
            }
            (Some(held), None) => vanish(scene, &mut mutations, &key, (&held, removed.contains(key.as_str())))?,
            (None, None) => {}
        }
    }
    Ok(Applied::done(mutations))
}

/// How many copies that became other versions may have their drops ended by one report: each is a record more to read.
/// Beyond that a drop waits until its copy is gone, and does nothing meanwhile.
fn spare_keys(scene: &Scene<'_>, present: usize, absent: usize) -> usize {
    if scene.cluster.version < DROPS_VERSION {
        return 0;
    }
    COMMAND_KEYS_MAX.saturating_sub(KEYS_BESIDE + KEYS_PRESENT * present + KEYS_ABSENT * absent)
}

/// A copy is gone. Where it was to go, that is over; else a person removed it, unless its node knows better.
fn vanish(
    scene: &Scene<'_>,
    mutations: &mut Vec<Mutation>,
    key: &str,
    (held, was_removed): (&Location, bool),
) -> Result<(), Fault> {
    let keeps_drops = scene.cluster.version >= DROPS_VERSION;
    let ended = if keeps_drops { drops::ended(scene, key, held.node)? } else { None };
    let was_to_go = ended.as_ref().is_some_and(|(dropped, _)| dropped.digest == held.model.digest);
    mutations.extend(wishes::vanished(scene, held, was_removed || was_to_go)?);
    erase(mutations, key, held.node);
    mutations.extend(ended.map(|(_, without)| without));
    Ok(())
}

fn checked_key(model: &ModelRecord) -> Result<String, Stop> {
    let key = model.name.key();
    check_bytes("a model key", &key, MODEL_KEY_BYTES_MAX)?;
    let bytes = model.details_json.len();
    if bytes > MODEL_DETAILS_BYTES_MAX {
        let name = &model.name;
        return Err(invalid(format!("details of {name} have {bytes} bytes; the limit is {MODEL_DETAILS_BYTES_MAX}")));
    }
    check_count("what a model can do", model.capabilities.len(), CAPABILITIES_MAX)?;
    model.capabilities.iter().try_for_each(|word| check_bytes("what a model can do", word, CAPABILITY_BYTES_MAX))?;
    Ok(key)
}

pub(super) fn forget(scene: &Scene<'_>, node: NodeId, limit: u32) -> Step {
    let limit_max = COMMAND_KEYS_MAX / 2;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 || limit > limit_max {
        return Err(invalid(format!("the limit must be 1 to {limit_max}")));
    }
    if read::member(scene.view, node)?.is_none() {
        return Err(Refusal::NodeNotFound(node).into());
    }
    // Each model that goes may end a drop, which is one record more to read.
    let keeps_drops = scene.cluster.version >= DROPS_VERSION;
    let limit = if keeps_drops { limit.min(COMMAND_KEYS_MAX / 4) } else { limit };
    let found = read::some_models_of(scene.view, node, limit + 1)?;
    let answer = if found.len() > limit { Answer::More } else { Answer::Done };
    let mut mutations = Vec::new();
    for location in found.iter().take(limit) {
        let key = location.model.name.key();
        erase(&mut mutations, &key, node);
        if keeps_drops {
            mutations.extend(drops::ended(scene, &key, node)?.map(|(_, without)| without));
        }
    }
    Ok(Applied::new(mutations, answer))
}

fn write(mutations: &mut Vec<Mutation>, key: &str, location: &Location) {
    let node = location.node;
    mutations.push(put(Key::Location(key.to_owned(), node), Record::Location(location.clone())));
    mutations.push(put(Key::NodeModel(node, key.to_owned()), Record::Location(location.clone())));
}

fn erase(mutations: &mut Vec<Mutation>, key: &str, node: NodeId) {
    mutations.push(Mutation::Delete(Key::Location(key.to_owned(), node)));
    mutations.push(Mutation::Delete(Key::NodeModel(node, key.to_owned())));
}
