//! The revision check: every answer of a history held against the revisions that all answers together tell.
//!
//! The store has one counter, so the writes of all keys stand in one order, and a read says up to where it had seen
//! them. It costs sorting and one look per operation. What was asked without an answer counts as a write where a read
//! showed its value; else it is used in the store's favour, as an explanation of what would not fit otherwise. It may
//! then explain more than it could have done: [`super::wgl`] is stricter there, and knows nothing of freshness.
//!
//! An answer proves that the log is decided up to its revision, also the answer of a stale read. Nothing that begins
//! later may have a smaller one, except another stale read.

mod real_time;
mod timeline;

use std::collections::BTreeMap;
use std::{fmt, iter};

use super::record::{Call, Operation, Outcome};
use super::writes::Writes;
use real_time::Floor;
use timeline::{Timeline, View};

/// What is judged besides what always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Config {
    /// The stale reads of one client never go back behind what it had read before.
    pub sessions_monotonic: bool,
}

/// What must hold and does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A record is one that a client can have seen. Such a record is not judged further.
    Malformed,
    /// A value names one write.
    ValueReused,
    /// A revision names one log entry.
    RevisionReused,
    /// Nothing falls behind a revision that had been told before it began.
    RealTime,
    /// A value that is read was put there by a write that began before the read ended, and took effect.
    FromNowhere,
    /// A value has the revision of its write, and no other.
    AppliedTwice,
    /// A read finds the last change up to its revision.
    WrongRead,
    /// The same, for a stale read.
    WrongStaleRead,
    /// A compare-and-swap writes if, and only if, the last change before it was at the expected revision.
    WrongCas,
    /// A delete removes something if, and only if, the last change before it left something.
    WrongDelete,
    /// The stale reads of one client do not go back.
    SessionWentBack,
}

/// A rule that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which rule.
    pub rule: Rule,
    /// What is wrong, in words.
    pub detail: String,
    /// The operation at which it shows, then the one that it contradicts, if there is one.
    pub operations: Vec<Operation>,
}

/// Judges a history. A good one has no problems.
#[must_use]
pub fn check(history: &[Operation], config: &Config) -> Vec<Problem> {
    let judge = Judge::of(history);
    let mut problems = judge.records();
    problems.extend(judge.revisions());
    problems.extend(judge.sound.iter().filter_map(|index| judge.late(*index)));
    problems.extend(judge.sound.iter().filter_map(|index| judge.answer(*index)));
    if config.sessions_monotonic {
        problems.extend(judge.sessions());
    }
    problems
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.detail)?;
        for (place, operation) in self.operations.iter().enumerate() {
            let join = if place == 0 { ": " } else { "; " };
            write!(f, "{join}{operation}")?;
        }
        Ok(())
    }
}

// === impl Rule ===

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "no client can have seen this",
            Self::ValueReused => "a value has two writers",
            Self::RevisionReused => "a revision has two operations",
            Self::RealTime => "behind what had been told before",
            Self::FromNowhere => "a value from nowhere",
            Self::AppliedTwice => "a value has two revisions",
            Self::WrongRead => "a wrong read",
            Self::WrongStaleRead => "a wrong stale read",
            Self::WrongCas => "a wrong compare-and-swap",
            Self::WrongDelete => "a wrong delete",
            Self::SessionWentBack => "a session went back",
        })
    }
}

/// A history with what is known of its writes. Operations are named by their place in it.
#[derive(Debug)]
struct Judge<'a> {
    history: &'a [Operation],
    /// The operations whose records can be.
    sound: Vec<usize>,
    writes: Writes,
    /// Of each operation. Before one that is not sound nothing had been told.
    floors: Vec<Floor>,
    keys: BTreeMap<&'a str, Timeline>,
}

// === impl Judge ===

impl<'a> Judge<'a> {
    fn of(history: &'a [Operation]) -> Self {
        let sound: Vec<usize> = (0..history.len()).filter(|index| history[*index].fault().is_none()).collect();
        let writes = Writes::of(history);
        let mut floors = vec![Floor::default(); history.len()];
        for (index, floor) in sound.iter().zip(real_time::floors(history, &sound)) {
            floors[*index] = floor;
        }
        let mut keys: BTreeMap<&str, Timeline> = BTreeMap::new();
        for &index in &sound {
            let operation = &history[index];
            let timeline = keys.entry(operation.key.as_str()).or_default();
            timeline.add(index, operation, writes.revision(index), floors[index].revision);
        }
        keys.values_mut().for_each(Timeline::sort);
        Self { history, sound, writes, floors, keys }
    }

    fn problem(&self, rule: Rule, detail: String, operations: impl IntoIterator<Item = usize>) -> Problem {
        let operations = operations.into_iter().map(|index| self.history[index].clone()).collect();
        Problem { rule, detail, operations }
    }

    /// The key of an operation, as an answer at a revision must have found it.
    fn view(&self, index: usize, up_to: u64) -> View<'_> {
        let operation = &self.history[index];
        let timeline = &self.keys[operation.key.as_str()];
        // Without an answer it may have happened long after its client gave up.
        let returned_ns = operation.returned_ns.filter(|_| operation.outcome.is_answer());
        View::new(timeline, &self.writes, up_to, returned_ns.unwrap_or(u64::MAX))
    }

    fn unless(&self, fits: bool, rule: Rule, index: usize, view: &View<'_>) -> Option<Problem> {
        if fits {
            return None;
        }
        let last = view.last();
        Some(self.problem(rule, view.to_string(), iter::once(index).chain(last.map(|change| change.by))))
    }

    /// Records that cannot be, and values that do not name their write.
    fn records(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, operation) in self.history.iter().enumerate() {
            if let Some(fault) = operation.fault() {
                problems.push(self.problem(Rule::Malformed, fault.to_owned(), [index]));
            }
            if let Some(value) = operation.value()
                && let Some(first) = self.writes.writer(value)
                && first != index
            {
                problems.push(self.problem(Rule::ValueReused, format!("both put {value}"), [index, first]));
            }
        }
        problems
    }

    /// Revisions that two operations have.
    fn revisions(&self) -> Vec<Problem> {
        let entry = |index: &usize| Some((self.writes.revision(*index)?, *index));
        let mut entries: Vec<(u64, usize)> = self.sound.iter().filter_map(entry).collect();
        entries.sort_unstable();
        let mut problems = Vec::new();
        for pair in entries.windows(2) {
            if let [(revision, first), (same, second)] = *pair
                && revision == same
            {
                problems.push(self.problem(Rule::RevisionReused, format!("both have {revision}"), [second, first]));
            }
        }
        problems
    }

    /// An operation that falls behind what had been told before it began.
    fn late(&self, index: usize) -> Option<Problem> {
        let operation = &self.history[index];
        let Floor { revision: floor, told_by } = self.floors[index];
        let behind = match (operation.outcome, self.writes.revision(index)) {
            _ if operation.is_stale() => None,
            (Outcome::Read { at, .. }, _) => Some(at).filter(|at| *at < floor),
            (_, revision) => revision.filter(|revision| *revision <= floor),
        }?;
        let detail = format!("revision {floor} had been told before it began, and it has {behind}");
        Some(self.problem(Rule::RealTime, detail, [index, told_by?]))
    }

    /// An answer that does not fit what the key must have held.
    fn answer(&self, index: usize) -> Option<Problem> {
        let operation = &self.history[index];
        match (operation.call, operation.outcome) {
            (_, Outcome::Read { value: Some(value), modified, at, .. }) => self.shown(index, value, modified, at),
            (_, Outcome::Read { value: None, at, .. }) => {
                let view = self.view(index, at);
                self.unless(view.may_hold(0), read_rule(operation), index, &view)
            }
            (Call::Cas { expected_modified, .. }, Outcome::Written { happened: false, observed_modified, .. }) => {
                self.unmet(index, expected_modified, observed_modified)
            }
            // Also one without an answer, if a read showed its value: then its condition held.
            (Call::Cas { expected_modified, .. }, Outcome::Written { .. } | Outcome::Unknown) => {
                let view = self.view(index, self.writes.revision(index)?.saturating_sub(1));
                self.unless(view.may_hold(expected_modified), Rule::WrongCas, index, &view)
            }
            (_, Outcome::Deleted { revision, existed }) => {
                let view = self.view(index, revision.saturating_sub(1));
                let fits = if existed { view.may_hold_something() } else { view.may_hold(0) };
                self.unless(fits, Rule::WrongDelete, index, &view)
            }
            _ => None,
        }
    }

    /// A read that shows a value.
    fn shown(&self, index: usize, value: u64, modified: u64, at: u64) -> Option<Problem> {
        let read = &self.history[index];
        let Some(writer) = self.writes.writer(value).filter(|writer| self.history[*writer].key == read.key) else {
            let detail = format!("nobody put {value} under this key");
            return Some(self.problem(Rule::FromNowhere, detail, [index]));
        };
        let write = &self.history[writer];
        let nowhere = match write.outcome {
            Outcome::Refused => Some("its write was refused"),
            Outcome::Written { happened: false, .. } => Some("the condition of its write did not hold"),
            _ if read.returned_ns.is_some_and(|returned_ns| returned_ns < write.invoked_ns) => {
                Some("its write had not begun")
            }
            _ => None,
        };
        if let Some(why) = nowhere {
            return Some(self.problem(Rule::FromNowhere, why.to_owned(), [index, writer]));
        }
        let revision = self.writes.revision(writer)?;
        if revision != modified {
            let detail = format!("{value} was put at {revision}, and shows {modified}");
            return Some(self.problem(Rule::AppliedTwice, detail, [index, writer]));
        }
        let view = self.view(index, at);
        let fits = view.last().is_some_and(|change| change.revision == modified);
        self.unless(fits, read_rule(read), index, &view)
    }

    /// A compare-and-swap whose condition did not hold.
    fn unmet(&self, index: usize, expected: u64, observed: Option<u64>) -> Option<Problem> {
        let view = self.view(index, self.writes.revision(index)?.saturating_sub(1));
        let fits = match observed {
            Some(observed) => observed != expected && view.may_hold(observed),
            None => view.may_hold_other_than(expected),
        };
        self.unless(fits, Rule::WrongCas, index, &view)
    }

    /// Stale reads that fall behind what the same client had read before.
    fn sessions(&self) -> Vec<Problem> {
        let mut clients: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for &index in self.sound.iter().filter(|index| self.history[**index].is_stale()) {
            clients.entry(self.history[index].client).or_default().push(index);
        }
        let mut problems = Vec::new();
        for reads in clients.values() {
            let floors = real_time::floors(self.history, reads);
            problems.extend(reads.iter().zip(floors).filter_map(|(index, floor)| self.went_back(*index, floor)));
        }
        problems
    }

    fn went_back(&self, index: usize, floor: Floor) -> Option<Problem> {
        let at = self.history[index].told().filter(|at| *at < floor.revision)?;
        let detail = format!("it had read up to {}, and now reads up to {at}", floor.revision);
        Some(self.problem(Rule::SessionWentBack, detail, [index, floor.told_by?]))
    }
}

fn read_rule(read: &Operation) -> Rule {
    if read.is_stale() { Rule::WrongStaleRead } else { Rule::WrongRead }
}
