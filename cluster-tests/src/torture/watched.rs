//! The judgement of what watchers were told: in order, each change once, all of a revision together, nothing left out,
//! nothing invented, and on from where it was asked, whichever node told it.
//!
//! What must have been told are the changes that their clients were told of. What may be told besides are changes whose
//! clients heard nothing, and the end of what goes with a lease. Two watchers never tell different things of one key at
//! one revision, and no value is put at two revisions.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use ollamax_testkit::history::{Call, Operation, Outcome};

use crate::leases::Ended;
use crate::traffic::{Aside, Fate, SideWrite};

/// One change as a watcher was told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    pub(crate) revision: u64,
    pub(crate) key: String,
    /// `None`: the key was deleted.
    pub(crate) value: Option<u64>,
}

/// One message of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Told {
    /// Up to which revision everything has been told.
    pub(crate) revision: u64,
    pub(crate) seen_ns: u64,
    pub(crate) events: Vec<Event>,
}

/// One watch at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Segment {
    pub(crate) node: usize,
    /// The first revision that was asked for; 0: what comes next.
    pub(crate) asked: u64,
    /// The revision after which it began, by its own word.
    pub(crate) begun: u64,
    pub(crate) told: Vec<Told>,
}

// === impl Segment ===

impl Segment {
    /// Up to which revision it has told everything.
    pub(crate) fn complete(&self) -> u64 {
        self.told.last().map_or(self.begun, |told| told.revision)
    }
}

/// What all watchers of a round saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) faults: Vec<String>,
    /// Events that were held against the history.
    pub(crate) events: u64,
    /// Times that a watcher went on at a node without a gap.
    pub(crate) resumed: u64,
    /// Times that nobody kept what came next.
    pub(crate) gaps: u64,
    /// Ends of keys that go with leases.
    pub(crate) ends: Vec<Ended>,
}

/// What is known of the changes of a round.
#[derive(Debug, Default)]
struct Known {
    /// By revision and key: what must be told there.
    certain: BTreeMap<(u64, String), Option<u64>>,
    /// Values whose writers were told nothing, with their keys.
    possible: BTreeSet<(u64, String)>,
    /// Keys of which a delete was asked for without an answer.
    may_vanish: BTreeSet<String>,
    /// Keys that go with leases.
    leased: BTreeSet<String>,
}

// === impl Known ===

impl Known {
    fn of(history: &[Operation], aside: &Aside) -> Self {
        let mut known = Self::default();
        for Operation { key, call, outcome, .. } in history {
            match (*call, *outcome) {
                (Call::Put { value } | Call::Cas { value, .. }, Outcome::Written { revision, happened: true, .. }) => {
                    known.certain.insert((revision, key.clone()), Some(value));
                }
                (Call::Delete, Outcome::Deleted { revision, existed: true }) => {
                    known.certain.insert((revision, key.clone()), None);
                }
                (Call::Put { value } | Call::Cas { value, .. }, Outcome::Unknown) => {
                    known.possible.insert((value, key.clone()));
                }
                (Call::Delete, Outcome::Unknown) => {
                    known.may_vanish.insert(key.clone());
                }
                _ => {}
            }
        }
        for SideWrite { keys, value, fate } in &aside.writes {
            for key in keys {
                match fate {
                    Fate::At(revision) => {
                        known.certain.insert((*revision, key.clone()), Some(*value));
                    }
                    Fate::Unknown => {
                        known.possible.insert((*value, key.clone()));
                    }
                    Fate::Refused => {}
                }
            }
        }
        known.leased = aside.leases.iter().map(|sign| sign.key.clone()).collect();
        known
    }

    /// Why this change cannot have happened.
    fn fault(&self, event: &Event) -> Option<String> {
        let Event { revision, key, value } = event;
        match self.certain.get(&(*revision, key.clone())) {
            Some(certain) if certain == value => return None,
            Some(certain) => return Some(format!("{key} at {revision} is told as {value:?}, and was {certain:?}")),
            None => {}
        }
        let possible = match value {
            Some(value) => self.possible.contains(&(*value, key.clone())),
            None => self.may_vanish.contains(key) || self.leased.contains(key),
        };
        (!possible).then(|| format!("{key} at {revision} is told as {value:?}, and nobody did that"))
    }
}

/// Holds what the watchers were told against what the clients know. `prefix` is what was watched.
pub(crate) fn check(watchers: &[Vec<Segment>], prefix: &str, history: &[Operation], aside: &Aside) -> Verdict {
    let known = Known::of(history, aside);
    let mut verdict = Verdict::default();
    let mut all: BTreeMap<(u64, String), Option<u64>> = BTreeMap::new();
    let mut puts: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for (number, segments) in watchers.iter().enumerate() {
        let mut before: Option<u64> = None;
        for segment in segments {
            let who = format!("watcher {number} at node {}", segment.node);
            let faults = form(segment, before, prefix).into_iter().chain(missing(segment, &known));
            verdict.faults.extend(faults.map(|fault| format!("{who}: {fault}")));
            verdict.resumed += u64::from(before.is_some() && segment.asked != 0);
            verdict.gaps += u64::from(before.is_some() && segment.asked == 0);
            before = Some(segment.complete());
            for (seen_ns, event) in events(segment) {
                verdict.events += 1;
                verdict.faults.extend(known.fault(event).map(|fault| format!("{who}: {fault}")));
                let place = (event.revision, event.key.clone());
                let first = *all.entry(place).or_insert(event.value);
                if first != event.value {
                    let fault = format!("tells {event:?}, another watcher told {first:?}");
                    verdict.faults.push(format!("{who}: {fault}"));
                }
                if let Some(value) = event.value {
                    let first = *puts.entry((value, event.key.clone())).or_insert(event.revision);
                    if first != event.revision {
                        let fault = format!("{value} was put at {first} and again at {}", event.revision);
                        verdict.faults.push(format!("{who}: {fault}"));
                    }
                } else if known.leased.contains(&event.key) {
                    let Event { revision, key, .. } = event.clone();
                    verdict.ends.push(Ended { key, revision, seen_ns });
                }
            }
        }
    }
    verdict
}

fn events(segment: &Segment) -> impl Iterator<Item = (u64, &Event)> {
    segment.told.iter().flat_map(|told| told.events.iter().map(|event| (told.seen_ns, event)))
}

/// Order, uniqueness, revisions in one piece, the border where it begins, and the keys that were asked for.
fn form(segment: &Segment, before: Option<u64>, prefix: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let Segment { asked, begun, .. } = segment;
    if *asked != 0 && begun + 1 != *asked {
        faults.push(format!("asked for {asked} on, it began after {begun}"));
    }
    if before.is_some_and(|before| *asked != 0 && *asked != before + 1) {
        faults.push(format!("goes on at {asked} after {before:?}"));
    }
    let mut complete = *begun;
    for told in &segment.told {
        if told.revision < complete {
            faults.push(format!("was complete up to {complete}, and then up to {}", told.revision));
        }
        let mut last: Option<&Event> = None;
        for event in &told.events {
            let Event { revision, key, .. } = event;
            if *revision <= complete || *revision > told.revision {
                let what = format!("{key} at {revision} between {complete} and {}", told.revision);
                faults.push(format!("tells {what}: late, early or in pieces"));
            }
            if last.is_some_and(|last| last.revision > *revision || last.revision == *revision && last.key == *key) {
                faults.push(format!("tells {key} at {revision} after {last:?}"));
            }
            if !key.starts_with(prefix) {
                faults.push(format!("tells {key}, which was not asked for"));
            }
            last = Some(event);
        }
        complete = complete.max(told.revision);
    }
    faults
}

/// Changes that it should have told.
fn missing(segment: &Segment, known: &Known) -> Vec<String> {
    let told: BTreeSet<(u64, &str)> = events(segment).map(|(_, event)| (event.revision, event.key.as_str())).collect();
    let (from, to) = ((segment.begun + 1, String::new()), (segment.complete() + 1, String::new()));
    let certain = if from < to { Some(known.certain.range(from..to)) } else { None };
    let left_out =
        certain.into_iter().flatten().filter(|((revision, key), _)| !told.contains(&(*revision, key.as_str())));
    left_out.map(|((revision, key), value)| format!("left out {key} at {revision}: {value:?}")).collect()
}

#[cfg(test)]
mod tests;
