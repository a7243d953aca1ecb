//! What happened in a simulated world, and what must never be among it.
//!
//! Checked at once: one leader per term (I1), the same entry at an index on every node and after every restart (I5),
//! the same state after it (I6), votes that never go back (I7), no value written twice (I4), watchers that are told
//! everything that happened, in order and once (I8), and no voice for a node that lost what it had synced (I12).
//! Checked at the end, over what clients did: no acknowledged write lost (I3), and writes and reads in an order that
//! real time allows (I2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::vote::RaftLeaderId as _;

use ollamax_core::catalog::{Key, Mutation, Record};

use crate::feed::{Event, Filter};
use crate::raft::Vote;

/// Violations that are told; the first is what matters.
const VIOLATIONS_MAX: usize = 8;

/// Key and value that an entry wrote.
type Written = (String, Vec<u8>);

/// The checker. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts(Arc<Mutex<Ledger>>);

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) now_ms: u64,
    leaders: BTreeMap<u64, u64>,
    /// By index: the entry and the state after it.
    entries: BTreeMap<u64, u64>,
    hashes: BTreeMap<u64, u64>,
    effects: BTreeMap<u64, Written>,
    /// By value, which are all different: the index that wrote it.
    indexes: BTreeMap<Vec<u8>, u64>,
    /// Nodes that lost everything.
    wiped: BTreeSet<u64>,
    /// By watcher: everything below was told.
    watched: BTreeMap<u64, u64>,
    /// Changes that watchers were told.
    pub(super) told: usize,
    pub(super) done: Vec<Done>,
    pub(super) violations: Vec<String>,
    /// Everything in its order, as one number.
    trace: u64,
}

/// An operation of a client that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) key: String,
    pub(super) what: What,
    pub(super) begin_ms: u64,
    pub(super) end_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Written at a revision.
    Wrote { value: Vec<u8>, revision: u64 },
    /// Its condition did not hold.
    Declined { value: Vec<u8> },
    /// What it held and since which revision; 0: nothing.
    Read { value: Vec<u8>, revision: u64 },
}

// === impl Facts ===

impl Facts {
    pub(super) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().expect("no holder of this lock can panic")
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    pub(super) fn leads(&self, term: u64, node: u64) {
        let mut ledger = self.lock();
        ledger.trace(&[1, term, node]);
        let first = *ledger.leaders.entry(term).or_insert(node);
        if first != node {
            ledger.violated(format!("I1: nodes {first} and {node} lead in term {term}"));
        }
    }

    pub(super) fn voted(&self, node: u64, before: Option<&Vote>, now: &Vote) {
        let mut ledger = self.lock();
        let term = now.leader_id().term();
        ledger.trace(&[2, node, term]);
        if before.is_some_and(|before| before.leader_id().term() > term) {
            ledger.violated(format!("I7: node {node} went back from vote {before:?} to {now:?}"));
        }
        if ledger.wiped.contains(&node) {
            ledger.violated(format!("I12: node {node} lost what it had synced, and has a voice in term {term}"));
        }
    }

    pub(super) fn wiped(&self, node: u64) {
        let mut ledger = self.lock();
        ledger.trace(&[6, node]);
        ledger.wiped.insert(node);
    }

    /// A watcher that knows what is below `from` was told all below `next`.
    pub(super) fn told(&self, watcher: u64, filter: &Filter, from: u64, next: u64, events: &[Event]) {
        let mut ledger = self.lock();
        ledger.trace(&[7, watcher, from, next]);
        ledger.watched.insert(watcher, next);
        ledger.told += events.len();
        if let Some(wrong) = mistold(&ledger.effects, filter, (from, next), events) {
            ledger.violated(format!("I8: watcher {watcher}, between {from} and {next}, {wrong}"));
        }
    }

    /// A watcher that wants what is from `from` on heard that only `oldest` and later is kept.
    pub(super) fn compacted(&self, watcher: u64, from: u64, oldest: u64) {
        let mut ledger = self.lock();
        ledger.trace(&[8, watcher, from, oldest]);
        ledger.watched.insert(watcher, oldest);
        if oldest <= from {
            ledger.violated(format!("I8: watcher {watcher} heard that {from} is not kept, and {oldest} is"));
        }
    }

    pub(super) fn applied(&self, node: u64, index: u64, entry: u64, hash: u64, mutations: &[Mutation]) {
        let mut ledger = self.lock();
        ledger.trace(&[3, node, index, hash]);
        let first = *ledger.entries.entry(index).or_insert(entry);
        if first != entry {
            ledger.violated(format!("I5: node {node} applied another entry at {index}"));
        }
        ledger.hash(node, index, hash);
        for mutation in mutations {
            if let Mutation::Put(Key::Value(_, key), Record::Value(value)) = mutation {
                let first = *ledger.indexes.entry(value.bytes.clone()).or_insert(index);
                if first != index {
                    let text = String::from_utf8_lossy(&value.bytes).into_owned();
                    ledger.violated(format!("I4: {text} was written at {first} and again at {index}"));
                }
                ledger.effects.insert(index, (key.clone(), value.bytes.clone()));
            }
        }
    }

    pub(super) fn installed(&self, node: u64, index: u64, hash: u64) {
        let mut ledger = self.lock();
        ledger.trace(&[4, node, index, hash]);
        ledger.hash(node, index, hash);
    }

    pub(super) fn stopped(&self, node: u64, why: &str) {
        self.lock().violated(format!("node {node} stopped: {why}"));
    }

    pub(super) fn done(&self, done: Done) {
        let mut ledger = self.lock();
        let revision = match &done.what {
            What::Wrote { revision, .. } | What::Read { revision, .. } => *revision,
            What::Declined { .. } => 0,
        };
        ledger.trace(&[5, done.begin_ms, done.end_ms, revision]);
        ledger.done.push(done);
    }
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn violated(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            let now = self.now_ms;
            self.violations.push(format!("at {now} ms: {what}"));
        }
    }

    fn hash(&mut self, node: u64, index: u64, hash: u64) {
        let first = *self.hashes.entry(index).or_insert(hash);
        if first != hash {
            self.violated(format!("I6: node {node} has another state at {index}"));
        }
    }

    fn trace(&mut self, numbers: &[u64]) {
        let now = self.now_ms;
        for number in std::iter::once(&now).chain(numbers) {
            self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29);
        }
    }

    /// All that happened, as one number.
    pub(super) const fn traced(&self) -> u64 {
        self.trace
    }

    pub(super) fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// Watchers that wait for something that happened.
    pub(super) fn waiting(&self) -> Vec<u64> {
        let last = self.effects.last_key_value().map_or(0, |(revision, _)| *revision);
        self.watched.iter().filter(|(_, next)| **next <= last).map(|(watcher, _)| *watcher).collect()
    }

    /// Looks at everything that clients did.
    pub(super) fn judge(&mut self) {
        let wrong = [lost(&self.done, &self.effects), out_of_order(&self.done)].concat();
        wrong.into_iter().for_each(|what| self.violated(what));
    }
}

/// Writes that were acknowledged and are not there, declined ones that are, and reads of what nobody wrote.
fn lost(done: &[Done], effects: &BTreeMap<u64, Written>) -> Vec<String> {
    let wrote = |revision: &u64, key: &str, value: &[u8]| {
        effects.get(revision).is_some_and(|(there, bytes)| there == key && bytes == value)
    };
    let wrong = done.iter().filter_map(|one| match &one.what {
        What::Wrote { value, revision } if !wrote(revision, &one.key, value) => {
            Some(format!("I3: acknowledged and lost: {one:?}"))
        }
        What::Declined { value } if effects.values().any(|(_, bytes)| bytes == value) => {
            Some(format!("I4: declined and written: {one:?}"))
        }
        What::Read { value, revision } if *revision > 0 && !wrote(revision, &one.key, value) => {
            Some(format!("I2: read what nobody wrote: {one:?}"))
        }
        _ => None,
    });
    wrong.collect()
}

/// Answers that are older than one that was given before they were asked for. All values of a key have a revision, and
/// what happens later has a greater one.
fn out_of_order(done: &[Done]) -> Vec<String> {
    let mut keys: BTreeMap<&str, Vec<(&Done, u64, bool)>> = BTreeMap::new();
    for one in done {
        let (revision, is_write) = match &one.what {
            What::Wrote { revision, .. } => (*revision, true),
            What::Read { revision, .. } => (*revision, false),
            What::Declined { .. } => continue,
        };
        keys.entry(&one.key).or_default().push((one, revision, is_write));
    }
    let mut wrong = Vec::new();
    for of_key in keys.values() {
        for (one, revision, is_write) in of_key {
            let before = of_key.iter().filter(|(other, ..)| other.end_ms < one.begin_ms);
            let Some((newer, least, _)) = before.max_by_key(|(_, revision, _)| *revision) else { continue };
            if revision < least || (*is_write && revision == least) {
                wrong.push(format!("I2: {one:?} came after {newer:?}"));
            }
        }
    }
    wrong
}

/// What is wrong with what a watcher was told of what happened from one revision up to the next.
fn mistold(
    effects: &BTreeMap<u64, Written>,
    filter: &Filter,
    (from, next): (u64, u64),
    events: &[Event],
) -> Option<String> {
    if next < from {
        return Some("went back".to_owned());
    }
    let is_wanted = |key: &str| if filter.prefix { key.starts_with(&filter.key) } else { key == filter.key };
    let happened = effects.range(from..next).filter(|(_, (key, _))| is_wanted(key));
    let happened: Vec<_> = happened.map(|(at, (key, bytes))| (*at, key.as_str(), Some(bytes.as_slice()))).collect();
    let told = events.iter().map(|event| {
        let bytes = event.value.as_ref().map(|value| value.bytes.as_slice());
        (event.revision, event.key.as_str(), bytes)
    });
    let told: Vec<_> = told.collect();
    if told == happened {
        return None;
    }
    let lacking = happened.iter().find(|one| !told.contains(one));
    Some(lacking.map_or("was told more, or in another order".to_owned(), |(at, ..)| format!("was not told of {at}")))
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::Value;

    use super::*;

    fn done(what: What, begin_ms: u64, end_ms: u64) -> Done {
        Done { key: "user/k".to_owned(), what, begin_ms, end_ms }
    }

    fn wrote(value: &str, revision: u64, begin_ms: u64, end_ms: u64) -> Done {
        done(What::Wrote { value: value.into(), revision }, begin_ms, end_ms)
    }

    fn read(value: &str, revision: u64, begin_ms: u64, end_ms: u64) -> Done {
        done(What::Read { value: value.into(), revision }, begin_ms, end_ms)
    }

    #[test]
    fn a_history_that_real_time_allows_passes() {
        let done =
            [wrote("a", 5, 0, 9), wrote("b", 7, 3, 4), read("b", 7, 5, 6), read("a", 5, 2, 8), read("b", 7, 10, 11)];
        assert_eq!(out_of_order(&done), Vec::<String>::new());
    }

    #[test]
    fn what_is_older_than_an_answer_before_it_is_found() {
        for (first, second) in [
            (wrote("b", 7, 0, 1), read("a", 5, 2, 3)),
            (wrote("b", 7, 0, 1), read("", 0, 2, 3)),
            (wrote("b", 7, 0, 1), wrote("a", 5, 2, 3)),
            (read("b", 7, 0, 1), read("a", 5, 2, 3)),
            (read("b", 7, 0, 1), wrote("b", 7, 2, 3)),
        ] {
            assert_eq!(out_of_order(&[first.clone(), second.clone()]).len(), 1, "{first:?}, {second:?}");
            assert_eq!(out_of_order(&[second, first]).len(), 1, "in whatever order they are told");
        }
    }

    #[test]
    fn what_was_lost_or_never_written_is_found() {
        let effects = BTreeMap::from([(5, ("user/k".to_owned(), b"a".to_vec()))]);
        let check = |one: Done, sound: bool| {
            assert_eq!(lost(std::slice::from_ref(&one), &effects).is_empty(), sound, "{one:?}");
        };
        check(wrote("a", 5, 0, 1), true);
        check(read("a", 5, 0, 1), true);
        check(read("", 0, 0, 1), true);
        check(done(What::Declined { value: b"z".to_vec() }, 0, 1), true);
        check(wrote("a", 6, 0, 1), false);
        check(wrote("b", 5, 0, 1), false);
        check(read("b", 5, 0, 1), false);
        check(done(What::Declined { value: b"a".to_vec() }, 0, 1), false);
    }

    #[test]
    fn what_nodes_do_is_held_against_what_others_did() {
        let put = |value: &str| {
            let value = Value { bytes: value.into(), created: 1, modified: 1, version: 1, lease: None };
            vec![Mutation::Put(Key::Value(String::new(), "user/k".to_owned()), Record::Value(value))]
        };
        let check = |happened: &dyn Fn(&Facts), invariant: &str| {
            let facts = Facts::default();
            facts.leads(1, 1);
            facts.applied(1, 3, 10, 20, &put("a"));
            facts.applied(2, 3, 10, 20, &put("a"));
            assert_eq!(facts.lock().violations, Vec::<String>::new());
            happened(&facts);
            let told = facts.lock().violations.concat();
            assert!(told.contains(invariant), "{invariant}: {told}");
        };
        check(&|facts| facts.leads(1, 2), "I1");
        check(&|facts| facts.applied(2, 3, 11, 20, &[]), "I5");
        check(&|facts| facts.applied(2, 3, 10, 21, &[]), "I6");
        check(&|facts| facts.installed(2, 3, 21), "I6");
        check(&|facts| facts.applied(2, 4, 12, 22, &put("a")), "I4");
        check(&|facts| facts.voted(1, Some(&Vote::new(3, 1)), &Vote::new(2, 1)), "I7");
        check(&|facts| facts.compacted(0, 3, 3), "I8");
        let lost = |facts: &Facts| {
            facts.wiped(2);
            facts.voted(2, None, &Vote::new(3, 1));
        };
        check(&lost, "I12");
    }

    fn event(revision: u64, key: &str, value: &str) -> Event {
        let value = Value { bytes: value.into(), created: 1, modified: revision, version: 1, lease: None };
        Event { revision, namespace: String::new(), key: key.to_owned(), value: Some(value) }
    }

    #[test]
    fn what_a_watcher_was_not_told_or_told_wrongly_is_found() {
        let written = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
        let effects =
            BTreeMap::from([(3, written("user/a", "x")), (5, written("user/b", "y")), (6, written("user/a", "z"))]);
        let (first, second, third) = (event(3, "user/a", "x"), event(5, "user/b", "y"), event(6, "user/a", "z"));
        let check = |(key, prefix): (&str, bool), span: (u64, u64), events: &[&Event], sound: bool| {
            let filter = Filter { namespace: String::new(), key: key.to_owned(), prefix };
            let events: Vec<Event> = events.iter().map(|event| (*event).clone()).collect();
            let wrong = mistold(&effects, &filter, span, &events);
            assert_eq!(wrong.is_none(), sound, "{key} {span:?} {events:?}: {wrong:?}");
        };
        check(("user/", true), (1, 7), &[&first, &second, &third], true);
        check(("user/", true), (4, 6), &[&second], true);
        check(("user/a", false), (1, 7), &[&first, &third], true);
        check(("user/", true), (7, 7), &[], true);
        check(("user/", true), (1, 7), &[&first, &third], false);
        check(("user/", true), (1, 4), &[], false);
        check(("user/", true), (1, 7), &[&first, &third, &second], false);
        check(("user/", true), (1, 7), &[&first, &first, &second, &third], false);
        check(("user/a", false), (1, 7), &[&first, &second, &third], false);
        check(("user/", true), (1, 4), &[&first, &second], false);
        check(("user/", true), (1, 4), &[&event(3, "user/a", "y")], false);
        check(("user/", true), (7, 4), &[], false);
    }

    #[test]
    fn a_watcher_that_something_is_kept_from_is_found() {
        let facts = Facts::default();
        let all = Filter { namespace: String::new(), key: "user/".to_owned(), prefix: true };
        facts.lock().effects.insert(3, ("user/a".to_owned(), b"x".to_vec()));
        facts.told(0, &all, 1, 3, &[]);
        assert_eq!(facts.lock().waiting(), [0]);
        facts.told(0, &all, 3, 4, &[event(3, "user/a", "x")]);
        let ledger = facts.lock();
        assert_eq!((ledger.waiting(), ledger.told), (vec![], 1));
        assert_eq!(ledger.violations, Vec::<String>::new());
    }
}
