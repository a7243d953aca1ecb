//! The registry of names: which version a name stands for, its history, its phase, and when it was used.
//!
//! A name gets a record when something is done with it. That a node holds it makes none; that the leader notes which
//! version it stands for does, and such a record stays until nobody has had the name for long ([`super::names`]). Until
//! then its history counts on and never uses a number twice; beyond `VERSIONS_MAX` the oldest goes that is not pinned.
//! A pinned name cannot be given another version, and a disabled one none at all. A round that is begun here differs
//! from one that is asked for in that its version is known from the start.

use ollamax_types::limits::{
    MODEL_KEY_BYTES_MAX, MODELS_MAX, PHASE_NOTE_BYTES_MAX, REPORT_MODELS_MAX, ROUND_KEPT_FOR, VERSIONS_MAX,
};
use ollamax_types::{Digest, ModelName, NodeId};

use super::draft::Draft;
use super::limit::{check_bytes, check_count, check_size, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, members, wishes};
use crate::catalog::command::{Answer, Refusal};
use crate::catalog::models;
use crate::catalog::read;
use crate::catalog::record::{Counts, How, Key, Model, Phase, PhaseWord, Pin, Record, Replicas, Since, Version, Wish};
use crate::catalog::view::Fault;

/// The cluster version that notes who has a version, and not who noted it.
const BRINGER_VERSION: u32 = 5;

/// A version that a name gets.
#[derive(Clone, Copy)]
pub(super) struct Fixed<'a> {
    pub(super) name: &'a ModelName,
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) how: &'a How,
}

pub(super) fn fix(scene: &Scene<'_>, fixed: Fixed<'_>, replicas: Option<&Replicas>) -> Step {
    check_size(fixed.name, fixed.size_bytes)?;
    let draft = Draft::new(scene.view);
    let held = read::wish(&draft, fixed.name)?;
    let replicas = match (replicas, &held) {
        (Some(replicas), _) => wishes::checked(scene, replicas)?,
        (None, Some(wish)) => wish.replicas.clone(),
        (None, None) => return Err(Refusal::WishNotFound(fixed.name.clone()).into()),
    };
    let mut model = opened(scene, &draft, fixed.name)?;
    check_free(scene, fixed, &model)?;
    let is_new = is_newer(&draft, &model, fixed.digest)?;
    let left_out = wishes::left_out(scene, &replicas, held.as_ref())?;
    if let Some(wish) = &held
        && (&wish.replicas, wish.digest, is_new) == (&replicas, Some(fixed.digest), false)
        && wishes::goes_on(scene, wish, Some(fixed.digest), &left_out, ROUND_KEPT_FOR)?
    {
        return Ok(Applied::new(Vec::new(), Answer::Wish { round: wish.round }));
    }
    if held.is_none() {
        wishes::count_one_more(&draft)?;
    }
    let begun = wishes::begun(scene, fixed.name, replicas, held.as_ref(), false)?;
    let (digest, size_bytes) = (Some(fixed.digest), fixed.size_bytes);
    let wish = Wish { digest, size_bytes, failures: left_out, ..begun };
    draft.put(Key::Wish(fixed.name.key()), Record::Wish(Box::new(wish)));
    revive(&mut model);
    if is_new {
        add_version(scene, &draft, &mut model, (fixed, scene.entry.principal.clone()))?;
    }
    write(&draft, model);
    Ok(Applied::new(draft.into_mutations(), Answer::Wish { round: scene.index }))
}

/// Whether a name may get this version.
fn check_free(scene: &Scene<'_>, fixed: Fixed<'_>, model: &Model) -> Result<(), Stop> {
    let name = fixed.name.clone();
    check_enabled(model)?;
    if let Some(digest) = model.pinned().filter(|pinned| *pinned != fixed.digest) {
        return Err(Refusal::Pinned { name, digest }.into());
    }
    match fixed.how {
        How::Found | How::Pulled => Ok(()),
        How::RolledBack { to } => {
            let version = read::version(scene.view, &name, *to)?.filter(|version| version.digest == fixed.digest);
            let missing = || Refusal::VersionNotFound { name, version: to.to_string() };
            version.map(drop).ok_or_else(|| missing().into())
        }
        How::Tagged { .. } => {
            let pin = model.pinned().filter(|_| scene.minds_pins());
            let standing = models::standing_digest(&read::locations_of(scene.view, &name)?, pin);
            match standing.filter(|standing| *standing != fixed.digest) {
                Some(held) => Err(Refusal::NameTaken { name, held }.into()),
                None => Ok(()),
            }
        }
    }
}

pub(super) fn check_enabled(model: &Model) -> Result<(), Stop> {
    match model.phase {
        Phase::Disabled(_) => Err(Refusal::Disabled(model.name.clone()).into()),
        Phase::Active | Phase::Deprecated(_) | Phase::Deleted(_) => Ok(()),
    }
}

pub(super) fn note(scene: &Scene<'_>, fixed: Fixed<'_>) -> Step {
    check_size(fixed.name, fixed.size_bytes)?;
    let draft = Draft::new(scene.view);
    let mut model = opened(scene, &draft, fixed.name)?;
    if !is_newer(&draft, &model, fixed.digest)? {
        return Ok(Applied::done(Vec::new()));
    }
    revive(&mut model);
    let by = bringer(scene, fixed)?.unwrap_or_else(|| scene.entry.principal.clone());
    add_version(scene, &draft, &mut model, (fixed, by))?;
    write(&draft, model);
    Ok(Applied::done(draft.into_mutations()))
}

/// Who brought a version, of those that have it: whoever fetched it for all, else the first. The leader, which notes
/// it, need not be one of them. Before its cluster version, nobody looks.
fn bringer(scene: &Scene<'_>, fixed: Fixed<'_>) -> Result<Option<String>, Fault> {
    if scene.cluster.version < BRINGER_VERSION {
        return Ok(None);
    }
    let wish = read::wish(scene.view, fixed.name)?.filter(|wish| wish.digest == Some(fixed.digest));
    let ingester = wish.and_then(|wish| wish.plan).map(|plan| plan.ingester);
    let copies = read::locations_of(scene.view, fixed.name)?.into_iter();
    let holders = copies.filter(|copy| copy.model.digest == fixed.digest);
    let first = holders.min_by_key(|copy| (Some(copy.node) != ingester, copy.model.modified_at));
    Ok(first.map(|copy| format!("node/{}", copy.node)))
}

pub(super) fn pin(scene: &Scene<'_>, name: &ModelName, digest: Option<Digest>) -> Step {
    let draft = Draft::new(scene.view);
    let Some(digest) = digest else {
        let held = read::model(&draft, name)?;
        let Some(model) = held.filter(|model| model.pin.is_some()) else { return Ok(Applied::done(Vec::new())) };
        write(&draft, Model { pin: None, ..model });
        return Ok(Applied::done(draft.into_mutations()));
    };
    if !is_known(scene, name, digest)? {
        return Err(Refusal::VersionNotFound { name: name.clone(), version: digest.short() }.into());
    }
    // Who sends it again may find another version served. Without a key the answer is what older versions answer.
    let answer = if scene.entry.once.is_some() { Answer::Pinned { digest } } else { Answer::Done };
    let model = opened(scene, &draft, name)?;
    if model.pinned() == Some(digest) {
        return Ok(Applied::new(Vec::new(), answer));
    }
    let pin = Some(Pin { digest, by: scene.entry.principal.clone(), at: scene.entry.log_time });
    write(&draft, Model { pin, ..model });
    Ok(Applied::new(draft.into_mutations(), answer))
}

/// Whether a name has, or had, this version.
fn is_known(scene: &Scene<'_>, name: &ModelName, digest: Digest) -> Result<bool, Stop> {
    if read::versions(scene.view, name)?.iter().any(|version| version.digest == digest) {
        return Ok(true);
    }
    Ok(read::locations_of(scene.view, name)?.iter().any(|copy| copy.model.digest == digest))
}

pub(super) fn set_phase(scene: &Scene<'_>, name: &ModelName, word: PhaseWord, note: &str) -> Step {
    if note.len() > PHASE_NOTE_BYTES_MAX {
        let length = note.len();
        return Err(invalid(format!("the note has {length} bytes; the limit is {PHASE_NOTE_BYTES_MAX}")));
    }
    let draft = Draft::new(scene.view);
    let held = read::model(&draft, name)?;
    if held.is_none() && read::wish(&draft, name)?.is_none() && !read::has_copy(scene.view, name)? {
        return Err(Refusal::WishNotFound(name.clone()).into());
    }
    let model = opened(scene, &draft, name)?;
    let since = Since { at: scene.entry.log_time, by: scene.entry.principal.clone(), note: note.to_owned() };
    let phase = match word {
        PhaseWord::Active => Phase::Active,
        PhaseWord::Deprecated => Phase::Deprecated(since),
        PhaseWord::Disabled => Phase::Disabled(since),
    };
    let noted = |phase: &Phase| phase.since().map(|since| since.note.clone());
    if (phase.as_str(), noted(&phase)) == (model.phase.as_str(), noted(&model.phase)) {
        return Ok(Applied::done(Vec::new()));
    }
    write(&draft, Model { phase, ..model });
    Ok(Applied::done(draft.into_mutations()))
}

pub(super) fn note_use(scene: &Scene<'_>, node: NodeId, day: u32, names: &[String]) -> Step {
    check_count("the list of used models", names.len(), REPORT_MODELS_MAX)?;
    members::standing(scene, node)?;
    // Clocks differ by less than a day.
    let today = scene.entry.log_time.day();
    if day > today.saturating_add(1) {
        return Err(invalid(format!("day {day} is not here yet; it is day {today}")));
    }
    let draft = Draft::new(scene.view);
    for key in names {
        check_bytes("a model key", key, MODEL_KEY_BYTES_MAX)?;
        if let Some(model) = read::model_at(&draft, key)?
            && model.used_on < day
        {
            write(&draft, Model { used_on: day, ..model });
        }
    }
    Ok(Applied::done(draft.into_mutations()))
}

/// The record of a name; a new one is counted.
pub(super) fn opened(scene: &Scene<'_>, draft: &Draft<'_>, name: &ModelName) -> Result<Model, Stop> {
    if let Some(model) = read::model(draft, name)? {
        return Ok(model);
    }
    let counts = read::counts(draft)?;
    let models = counts.models + 1;
    if models > MODELS_MAX {
        return Err(exceeded("this cluster", models, MODELS_MAX, "models"));
    }
    draft.put(Key::Counts, Record::Counts(Counts { models, ..counts }));
    Ok(Model::new(name.clone(), scene.entry.log_time))
}

pub(super) fn write(draft: &Draft<'_>, model: Model) {
    draft.put(Key::Model(model.name.key()), Record::Model(Box::new(model)));
}

/// Somebody wants it again.
pub(super) fn revive(model: &mut Model) {
    if matches!(model.phase, Phase::Deleted(_)) {
        model.phase = Phase::Active;
    }
}

/// Whether the newest version of a name is another one.
fn is_newer(draft: &Draft<'_>, model: &Model, digest: Digest) -> Result<bool, Stop> {
    let newest = read::version(draft, &model.name, model.head)?;
    Ok(newest.is_none_or(|newest| newest.digest != digest))
}

fn add_version(
    scene: &Scene<'_>,
    draft: &Draft<'_>,
    model: &mut Model,
    (fixed, by): (Fixed<'_>, String),
) -> Result<(), Stop> {
    let mut kept = read::versions(scene.view, fixed.name)?;
    while kept.len() >= VERSIONS_MAX {
        // A name may come back to its pinned version any number of times; the last time is what stays.
        let pinned = kept.iter().rposition(|version| Some(version.digest) == model.pinned());
        let oldest = usize::from(pinned == Some(0));
        draft.delete(Key::Version(fixed.name.key(), kept.remove(oldest).number));
    }
    let (number, at) = (model.head + 1, scene.entry.log_time);
    let how = fixed.how.clone();
    let version = Version { number, digest: fixed.digest, size_bytes: fixed.size_bytes, at, how, by };
    draft.put(Key::Version(fixed.name.key(), number), Record::Version(Box::new(version)));
    model.first = kept.first().map_or(number, |oldest| oldest.number);
    (model.head, model.noted_at) = (number, at);
    Ok(())
}
