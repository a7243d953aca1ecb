//! Names on record that nobody has any more: which of them go, and of which it is to be noted since when that is so.
//!
//! A plan is data: it is shown, and carried out in steps of bounded size by whoever leads. It says which names are
//! looked at, and nothing more: what becomes of each is asked again when a step is applied, so that one that came back
//! meanwhile stays. What is left is for the next plan, and is counted.

use std::collections::BTreeSet;
use std::time::Duration;

use ollamax_types::limits::FORGET_NAMES_MAX;
use ollamax_types::{ModelName, Timestamp};

use crate::catalog::names::{Fate, fate, unheld_since};
use crate::catalog::{Command, Fault, NAMES_VERSION, View, read};
use crate::placement::knobs;

/// Most steps of one plan.
const STEPS_MAX: usize = 64;
/// Most names of one plan.
pub const FORGOTTEN_NAMES_MAX: usize = STEPS_MAX * FORGET_NAMES_MAX;

/// What is to be done with names that nobody has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamesPlan {
    /// Those that go, the one that nobody had for longest first.
    pub going: Vec<OldName>,
    /// How many more would go; the next plan has them.
    pub left: usize,
    /// Keys of those of which it is to be noted that nobody has them since now, or that somebody has them again.
    pub noted: Vec<String>,
    /// Who goes was had by nobody since before this log time.
    pub before: Timestamp,
}

/// A name that nobody has for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldName {
    /// Which.
    pub name: ModelName,
    /// Log time since which nobody has it.
    pub since: Timestamp,
}

/// What is to be done now, of at most [`FORGOTTEN_NAMES_MAX`] names; nothing in a cluster that forgets no names yet.
///
/// # Errors
/// When the state cannot be read.
pub fn names_now(view: &dyn View, now: Timestamp) -> Result<NamesPlan, Fault> {
    if read::cluster(view)?.is_none_or(|cluster| cluster.version < NAMES_VERSION) {
        return Ok(NamesPlan::default());
    }
    plan_names(view, now, knobs(view)?.forget_after)
}

/// The same, where names stay on record for so long.
fn plan_names(view: &dyn View, now: Timestamp, forget_after: Duration) -> Result<NamesPlan, Fault> {
    let forget_after_ms = u64::try_from(forget_after.as_millis()).unwrap_or(u64::MAX);
    let before = Timestamp(now.0.saturating_sub(forget_after_ms));
    let wished = read::wishes(view)?.into_iter().map(|wish| wish.name.key());
    let copies = read::locations(view)?.into_iter().map(|copy| copy.model.name.key());
    let held: BTreeSet<String> = wished.chain(copies).collect();
    let mut plan = NamesPlan { before, ..NamesPlan::default() };
    for model in read::models(view)? {
        let key = model.name.key();
        match fate(&model, held.contains(&key), before) {
            Fate::Stays => {}
            Fate::Goes => {
                let since = unheld_since(&model).unwrap_or(before);
                plan.going.push(OldName { name: model.name, since });
            }
            Fate::Returns | Fate::Fades => plan.noted.push(key),
        }
    }
    plan.going.sort_by_key(|old| (old.since, old.name.key()));
    plan.left = plan.going.len().saturating_sub(FORGOTTEN_NAMES_MAX);
    plan.going.truncate(FORGOTTEN_NAMES_MAX);
    plan.noted.truncate(FORGOTTEN_NAMES_MAX - plan.going.len());
    Ok(plan)
}

// === impl NamesPlan ===

impl NamesPlan {
    /// The changes of the state that carry it out, each of bounded size.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        let going = self.going.iter().map(|old| old.name.key());
        let keys: Vec<String> = going.chain(self.noted.iter().cloned()).collect();
        let step = |keys: &[String]| Command::ForgetNames { before: self.before, names: keys.to_vec() };
        keys.chunks(FORGET_NAMES_MAX).map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::{DAY_MS, Digest, ModelRecord, NodeId};

    use super::*;
    use crate::catalog::mem::MemView;
    use crate::catalog::{Key, Location, Model, Mutation, Record};

    const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    fn day(number: u64) -> Timestamp {
        Timestamp(number * DAY_MS)
    }

    /// On record since the first day; nobody has it since this day, as far as that is noted.
    fn on_record(text: &str, unheld_since: Option<u64>) -> Mutation {
        let model = Model { unheld_since: unheld_since.map(day), ..Model::new(name(text), day(1)) };
        Mutation::Put(Key::Model(name(text).key()), Record::Model(Box::new(model)))
    }

    fn copy(text: &str) -> Mutation {
        let model = ModelRecord {
            name: name(text),
            digest: Digest([1; 32]),
            weights: Digest([1; 32]),
            size_bytes: 1,
            modified_at: day(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let location = Location { node: NodeId(1), model };
        Mutation::Put(Key::Location(name(text).key(), NodeId(1)), Record::Location(location))
    }

    /// What is planned on day 100: who goes, and of whom something is noted.
    fn planned(rows: &[Mutation]) -> (NamesPlan, Vec<String>) {
        let mut view = MemView::default();
        view.write(rows);
        let plan = plan_names(&view, day(100), MONTH).expect("readable");
        let going = plan.going.iter().map(|old| old.name.to_string()).collect();
        (plan, going)
    }

    #[test]
    fn who_was_had_by_nobody_for_longest_goes_first_and_what_is_not_noted_yet_is_noted() {
        let rows = [
            on_record("late", Some(69)),
            on_record("early", Some(20)),
            on_record("lately", Some(70)),
            on_record("new", None),
            on_record("held", None),
            copy("held"),
            on_record("back", Some(20)),
            copy("back"),
        ];
        let (plan, going) = planned(&rows);
        assert_eq!(going, ["early:latest", "late:latest"]);
        assert_eq!(plan.going[0].since, day(20));
        assert_eq!(plan.noted, ["back", "new"].map(|text| name(text).key()));
        let names = ["early", "late", "back", "new"].map(|text| name(text).key()).to_vec();
        assert_eq!(plan.commands(), [Command::ForgetNames { before: day(70), names }]);
        assert_eq!(planned(&[on_record("held", None), copy("held")]).0.commands(), []);
    }

    #[test]
    fn a_plan_has_steps_of_bounded_size_and_leaves_the_rest_to_the_next_one() {
        let many = |count: usize, since| -> Vec<Mutation> {
            (0..count).map(|number| on_record(&format!("m{number}"), since)).collect()
        };
        let sizes = |rows: &[Mutation]| -> Vec<usize> {
            let count = |command: &Command| {
                if let Command::ForgetNames { names, .. } = command { names.len() } else { 0 }
            };
            planned(rows).0.commands().iter().map(count).collect()
        };
        assert_eq!(sizes(&many(FORGET_NAMES_MAX + 1, Some(20))), [FORGET_NAMES_MAX, 1]);
        for since in [None, Some(20)] {
            assert_eq!(sizes(&many(FORGOTTEN_NAMES_MAX + 1, since)), [FORGET_NAMES_MAX; STEPS_MAX]);
        }
        for (count, since, left) in [(0, Some(20), 0), (3, Some(20), 3), (3, Some(90), 0), (3, None, 0)] {
            let (plan, going) = planned(&many(FORGOTTEN_NAMES_MAX + count, since));
            assert_eq!(plan.left, left, "{count} {since:?}");
            assert!(left == 0 || going.len() == FORGOTTEN_NAMES_MAX, "{}", going.len());
        }
    }

    #[test]
    fn where_less_time_has_passed_than_names_stay_nothing_goes() {
        let mut view = MemView::default();
        view.write(&[on_record("m", Some(0))]);
        assert_eq!(plan_names(&view, day(5), MONTH).expect("readable").going, []);
        assert_eq!(plan_names(&view, day(40), Duration::MAX).expect("readable").going, []);
    }
}
