//! What an import does beside one runtime, and how it is undone: decisions alone.
//!
//! Every plan is made from what the runtime lists and can be cut off after any step: [`undo`] made anew from what is
//! then listed leads to the state before the import, until the first step of [`finish`]; from there on it leads to the
//! state after it. A final name is taken back only if it still means what the import gave it.

use std::fmt;

use ollamax_transfer::Shelf;
use ollamax_types::{Digest, ModelName};

use crate::import::names::{Names, Temporary};

/// One change of a runtime's models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Give a model a second name; whatever had that name loses it.
    Copy {
        /// What is there.
        from: ModelName,
        /// The other name.
        to: ModelName,
    },
    /// Remove a name, and the bytes that no other name needs.
    Delete(ModelName),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy { from, to } => write!(f, "copy {from} to {to}"),
            Self::Delete(name) => write!(f, "delete {name}"),
        }
    }
}

/// A model as a runtime lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: ModelName,
    /// Of its manifest.
    pub(crate) digest: Digest,
}

/// The digest under a name.
#[must_use]
pub(crate) fn digest_of(listed: &[Listed], name: &ModelName) -> Option<Digest> {
    listed.iter().find(|model| model.name == *name).map(|model| model.digest)
}

/// Whether a model may be made where `held` has the name already; `made` is `None` as long as it is not known.
#[must_use]
pub(crate) fn may_take_name(held: Option<Digest>, made: Option<Digest>, replace: bool) -> bool {
    replace || held.is_none() || held == made
}

/// Gives the model `made` its final name, which `held` has now. What was there is kept; that nothing was, is noted.
#[must_use]
pub(crate) fn publish(names: &Names, held: Option<Digest>, made: Digest) -> Vec<Step> {
    let give = Step::Copy { from: names.unfinished.clone(), to: names.target.clone() };
    match held {
        Some(held) if held == made => Vec::new(),
        Some(_) => vec![Step::Copy { from: names.target.clone(), to: names.replaced.clone() }, give],
        None => vec![Step::Copy { from: names.unfinished.clone(), to: names.added.clone() }, give],
    }
}

/// Forgets what was kept. The first step is the one that counts: after it nothing leads back.
#[must_use]
pub(crate) fn finish(names: &Names, listed: &[Listed]) -> Vec<Step> {
    [&names.unfinished, &names.replaced, &names.added]
        .into_iter()
        .filter(|name| digest_of(listed, name).is_some())
        .map(|name| Step::Delete(name.clone()))
        .collect()
}

/// Undoes the import `only`, or all that left something in the list.
#[must_use]
pub(crate) fn undo(listed: &[Listed], only: Option<&str>) -> Vec<Step> {
    let found = listed.iter().filter_map(|model| Temporary::of(&model.name));
    let mut imports: Vec<(String, ModelName)> =
        found.filter(|found| only.is_none_or(|id| found.id == id)).map(|found| (found.id, found.target)).collect();
    imports.sort();
    imports.dedup();
    imports
        .iter()
        .filter_map(|(id, target)| Names::new(id, target))
        .flat_map(|names| undo_one(&names, listed))
        .collect()
}

fn undo_one(names: &Names, listed: &[Listed]) -> Vec<Step> {
    let has = |name: &ModelName| digest_of(listed, name).is_some();
    let made = digest_of(listed, &names.unfinished);
    let published = made.is_some() && digest_of(listed, &names.target) == made;
    let mut steps = Vec::new();
    if published && has(&names.replaced) {
        steps.push(Step::Copy { from: names.replaced.clone(), to: names.target.clone() });
    } else if published && has(&names.added) {
        steps.push(Step::Delete(names.target.clone()));
    }
    // The new model goes last: as long as it is there, a plan that was cut off is made again in the same way.
    let kept = [&names.replaced, &names.added, &names.unfinished];
    steps.extend(kept.into_iter().filter(|name| has(name)).map(|name| Step::Delete(name.clone())));
    steps
}

/// Takes away the names under which a model was offered to this runtime, but for those that are offered now.
#[must_use]
pub(crate) fn forget_offers(listed: &[Listed], is_offered: impl Fn(&ModelName) -> bool) -> Vec<Step> {
    let left = listed.iter().filter(|model| Shelf::gave(&model.name) && !is_offered(&model.name));
    left.map(|model| Step::Delete(model.name.clone())).collect()
}

/// Whether this is the name of a model that is on its way into the runtime, or was left on it: by an import, or by a
/// pull that the runtime did itself.
#[must_use]
pub(crate) fn is_temporary(name: &ModelName) -> bool {
    Temporary::of(name).is_some() || Shelf::gave(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ID: &str = "00112233445566ff";
    const OTHER: &str = "ffeeddccbbaa9988";
    const NEW: Digest = Digest([1; 32]);
    const OLD: Digest = Digest([2; 32]);
    const THIRD: Digest = Digest([3; 32]);

    fn names(id: &str) -> Names {
        Names::new(id, &"demo".parse().expect("a name")).expect("room")
    }

    fn listed(models: &BTreeMap<ModelName, Digest>) -> Vec<Listed> {
        models.iter().map(|(name, digest)| Listed { name: name.clone(), digest: *digest }).collect()
    }

    fn take(models: &mut BTreeMap<ModelName, Digest>, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Copy { from, to } => models.insert(to.clone(), models[from]),
                Step::Delete(name) => models.remove(name),
            };
        }
    }

    /// Runs an import that is cut off after `until` steps, and its undoing, cut off after every number of steps.
    fn cut_off(held: Option<Digest>, until: usize) -> Option<Digest> {
        let names = names(ID);
        let mut models: BTreeMap<_, _> = held.map(|digest| (names.target.clone(), digest)).into_iter().collect();
        models.insert("mine".parse().expect("a name"), THIRD);
        models.insert(names.unfinished.clone(), NEW);
        let mut steps = publish(&names, held, NEW);
        let mut after = models.clone();
        take(&mut after, &steps);
        steps.extend(finish(&names, &listed(&after)));
        take(&mut models, &steps[..until.min(steps.len())]);
        let mut ends = Vec::new();
        for undone in 0..=undo(&listed(&models), None).len() {
            let (mut models, plan) = (models.clone(), undo(&listed(&models), None));
            take(&mut models, &plan[..undone]);
            let rest = undo(&listed(&models), None);
            take(&mut models, &rest);
            assert_eq!(models.remove(&"mine".parse::<ModelName>().expect("a name")), Some(THIRD));
            let left = models.remove(&names.target);
            assert!(models.is_empty(), "{models:?}");
            ends.push(left);
        }
        ends.dedup();
        assert_eq!(ends.len(), 1, "undoing that is cut off ends elsewhere: {ends:?}");
        ends.remove(0)
    }

    #[test]
    fn an_import_that_is_cut_off_anywhere_leaves_all_or_nothing() {
        let check = |held: Option<Digest>, ends: &[Option<Digest>]| {
            let found: Vec<Option<Digest>> = (0..ends.len()).map(|until| cut_off(held, until)).collect();
            assert_eq!(found, ends, "{held:?}");
        };
        // Keep, give, forget the new name (from here on it counts), forget what was kept.
        check(None, &[None, None, None, Some(NEW), Some(NEW)]);
        check(Some(OLD), &[Some(OLD), Some(OLD), Some(OLD), Some(NEW), Some(NEW)]);
        // It was there before: nothing is given, and nothing may be taken.
        check(Some(NEW), &[Some(NEW), Some(NEW)]);
    }

    #[test]
    fn a_name_that_was_changed_since_is_not_taken_back() {
        let check = |now: Option<Digest>, kept: fn(&Names) -> &ModelName| {
            let names = names(ID);
            let mut models = BTreeMap::from([(names.unfinished.clone(), NEW), (kept(&names).clone(), OLD)]);
            models.extend(now.map(|digest| (names.target.clone(), digest)));
            let plan = undo(&listed(&models), None);
            take(&mut models, &plan);
            assert_eq!(models, now.map(|digest| (names.target.clone(), digest)).into_iter().collect());
        };
        for now in [None, Some(THIRD), Some(OLD)] {
            check(now, |names| &names.replaced);
            check(now, |names| &names.added);
        }
    }

    #[test]
    fn only_the_import_that_was_asked_for_is_undone() {
        let (own, other) = (names(ID), names(OTHER));
        let models = BTreeMap::from([(own.unfinished.clone(), NEW), (other.unfinished.clone(), NEW)]);
        assert_eq!(undo(&listed(&models), Some(ID)), [Step::Delete(own.unfinished)]);
        assert_eq!(undo(&listed(&models), None).len(), 2);
        assert!(undo(&[Listed { name: own.target, digest: NEW }], None).is_empty());
    }

    #[test]
    fn offers_that_nobody_makes_any_more_go_and_are_never_models_of_the_cluster() {
        let name = |text: &str| text.parse::<ModelName>().expect("a name");
        let [left, offered] = ["0", "f"].map(|id| name(&format!("127.0.0.1:7/ollamax-{}/demo:1b", id.repeat(16))));
        let own = names(ID);
        let others = [own.target.clone(), own.unfinished.clone(), name("ollamax-0000000000000000/demo")];
        let all = [left.clone(), offered.clone()].into_iter().chain(others.clone());
        let listed: Vec<Listed> = all.map(|name| Listed { name, digest: NEW }).collect();
        assert_eq!(forget_offers(&listed, |name| *name == offered), [Step::Delete(left.clone())]);
        assert!(forget_offers(&listed, |_| true).is_empty());
        assert_eq!(undo(&listed, None), [Step::Delete(own.unfinished)], "an offer is no import");
        assert!(is_temporary(&left) && is_temporary(&offered));
        assert_eq!(others.map(|name| is_temporary(&name)), [false, true, false]);
    }

    #[test]
    fn a_name_in_use_is_taken_only_when_that_was_asked_for_or_changes_nothing() {
        let check = |held, made, replace, expected: bool| {
            assert_eq!(may_take_name(held, made, replace), expected, "{held:?} {made:?} {replace}");
        };
        check(None, None, false, true);
        check(None, Some(NEW), false, true);
        check(Some(OLD), None, false, false);
        check(Some(OLD), Some(NEW), false, false);
        check(Some(NEW), Some(NEW), false, true);
        check(Some(OLD), Some(NEW), true, true);
    }
}
