//! Histories that no good store leaves, each with the checker that must find it.
//!
//! Most are found by both. What a read says of its freshness, stale reads and the order between keys are the revision
//! check's alone; what one write without an answer cannot explain twice is the search's alone.

use super::revisions::Rule;
use super::span::{by, open};
use super::{Call, Level, Operation, Outcome};

/// One of them.
pub(super) struct Bad {
    pub(super) name: &'static str,
    /// Whether the search must find it.
    pub(super) wgl: bool,
    /// The rule with which the revision check must find it; `None`: it cannot.
    pub(super) rule: Option<Rule>,
    pub(super) history: Vec<Operation>,
}

fn both(name: &'static str, rule: Rule, history: Vec<Operation>) -> Bad {
    Bad { name, wgl: true, rule: Some(rule), history }
}

fn revisions(name: &'static str, rule: Rule, history: Vec<Operation>) -> Bad {
    Bad { name, wgl: false, rule: Some(rule), history }
}

fn search(name: &'static str, history: Vec<Operation>) -> Bad {
    Bad { name, wgl: true, rule: None, history }
}

/// All of them.
pub(super) fn histories() -> Vec<Bad> {
    let told = [reads(), from_nowhere(), twice(), conditions(), deletes()];
    let untold = [unknown(), hidden(), freshness(), stale(), records()];
    told.into_iter().chain(untold).flatten().collect()
}

fn reads() -> Vec<Bad> {
    vec![
        both(
            "a read does not see the write before it",
            Rule::WrongRead,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).nothing(1)],
        ),
        both(
            "a read at an old revision sees the old value",
            Rule::RealTime,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).read(10, 1, 1)],
        ),
        both(
            "a read under the lease of a leader of old sees the old value",
            Rule::RealTime,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).lease(Some((10, 1)), 1)],
        ),
        both(
            "an acknowledged write is gone in the end",
            Rule::WrongRead,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 900, 910).read(10, 1, 9)],
        ),
        both(
            "two reads in turn see the new value and then the old one",
            Rule::RealTime,
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 100).put(20, 2),
                by(2, 30, 40).read(20, 2, 2),
                by(3, 50, 60).read(10, 1, 1),
            ],
        ),
        both(
            "of two reads at one revision the later one sees less",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 100).put(20, 2),
                by(2, 30, 40).read(20, 2, 2),
                by(3, 50, 60).read(10, 1, 2),
            ],
        ),
        both(
            "concurrent writes are read in two orders",
            Rule::WrongRead,
            vec![
                by(1, 0, 100).put(10, 1),
                by(2, 0, 100).put(20, 2),
                by(3, 10, 20).read(20, 2, 2),
                by(3, 30, 40).read(10, 1, 2),
                by(3, 50, 60).read(20, 2, 2),
            ],
        ),
    ]
}

fn from_nowhere() -> Vec<Bad> {
    vec![
        both("a value that nobody put is read", Rule::FromNowhere, vec![by(1, 0, 10).read(99, 3, 3)]),
        both(
            "the value of another key is read",
            Rule::FromNowhere,
            vec![by(1, 0, 10).on("a").put(10, 1), by(2, 20, 30).on("b").read(10, 1, 1)],
        ),
        both(
            "a refused write is read",
            Rule::FromNowhere,
            vec![by(1, 0, 10).refused_put(10), by(2, 20, 30).read(10, 1, 1)],
        ),
        both(
            "a write whose condition did not hold is read",
            Rule::FromNowhere,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).unmet(5, 20, 2, Some(1)), by(2, 40, 50).read(20, 2, 2)],
        ),
        both(
            "a write is read before it begins",
            Rule::FromNowhere,
            vec![by(1, 0, 10).read(10, 1, 1), by(2, 20, 30).put(10, 1)],
        ),
        both(
            "a write without an answer is read before it begins",
            Rule::FromNowhere,
            vec![by(1, 0, 10).read(10, 1, 1), open(2, 20).put_unknown(10)],
        ),
    ]
}

fn twice() -> Vec<Bad> {
    vec![
        both(
            "a write is applied again after another one",
            Rule::AppliedTwice,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).read(10, 3, 3)],
        ),
        both(
            "a write without an answer is applied again after another one",
            Rule::AppliedTwice,
            vec![
                open(1, 0).put_unknown(10),
                by(2, 10, 20).read(10, 1, 1),
                by(2, 30, 40).put(20, 2),
                by(2, 50, 60).read(10, 3, 3),
            ],
        ),
        both(
            "an old value shows the revision of the new one",
            Rule::AppliedTwice,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).read(10, 2, 2)],
        ),
        both(
            "two writes of a key have one revision",
            Rule::RevisionReused,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 1)],
        ),
        revisions(
            "writes of two keys have one revision",
            Rule::RevisionReused,
            vec![by(1, 0, 30).on("a").put(10, 1), by(2, 0, 30).on("b").put(20, 1)],
        ),
        revisions(
            "a write without an answer has the revision of another key's write",
            Rule::RevisionReused,
            vec![
                open(1, 0).on("a").put_unknown(10),
                by(2, 0, 30).on("b").put(20, 1),
                by(3, 10, 20).on("a").read(10, 1, 1),
            ],
        ),
    ]
}

fn conditions() -> Vec<Bad> {
    vec![
        both(
            "two that expect the same revision both win",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 40).cas(1, 20, 2), by(2, 20, 40).cas(1, 30, 3)],
        ),
        both(
            "one wins against a value that had changed",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).cas(1, 30, 3)],
        ),
        both("two make the same key", Rule::WrongCas, vec![by(1, 0, 20).cas(0, 10, 1), by(2, 0, 20).cas(0, 20, 2)]),
        both(
            "one expects what was deleted and wins",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).delete(2, true), by(2, 40, 50).cas(1, 20, 3)],
        ),
        both(
            "one does not win though its condition held",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).unmet(1, 20, 2, None)],
        ),
        both(
            "one does not win and saw what it expected",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).unmet(1, 20, 2, Some(1))],
        ),
        both("one does not make a key that is not there", Rule::WrongCas, vec![by(1, 0, 10).unmet(0, 10, 1, None)]),
        both(
            "one saw a revision that nobody wrote",
            Rule::WrongCas,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).unmet(5, 20, 2, Some(9))],
        ),
        both(
            "one without an answer wins against a value that had changed",
            Rule::WrongCas,
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).put(20, 2),
                open(2, 40).cas_unknown(1, 30),
                by(3, 50, 60).read(30, 3, 3),
            ],
        ),
        both(
            "one expects a revision above its own",
            Rule::WrongCas,
            vec![open(1, 0).put_unknown(10), by(2, 10, 20).put(20, 2), by(2, 30, 40).cas(5, 30, 3)],
        ),
        both(
            "one expects what a write without an answer can have left only before another one",
            Rule::WrongCas,
            vec![open(1, 0).put_unknown(10), by(2, 10, 20).put(20, 3), by(2, 30, 40).cas(2, 30, 4)],
        ),
    ]
}

fn deletes() -> Vec<Bad> {
    vec![
        both(
            "a delete is lost",
            Rule::WrongRead,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).delete(2, true), by(2, 40, 50).read(10, 1, 2)],
        ),
        both(
            "a deleted value comes back",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).delete(2, true),
                by(2, 40, 50).nothing(2),
                by(2, 60, 70).read(10, 1, 4),
            ],
        ),
        both(
            "a delete finds nothing where there was something",
            Rule::WrongDelete,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).delete(2, false)],
        ),
        both("a delete removes what nobody put", Rule::WrongDelete, vec![by(1, 0, 10).delete(1, true)]),
        both(
            "two deletes remove the same value",
            Rule::WrongDelete,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 40).delete(2, true), by(2, 20, 40).delete(3, true)],
        ),
    ]
}

fn unknown() -> Vec<Bad> {
    vec![
        both(
            "a write without an answer appears and disappears",
            Rule::WrongRead,
            vec![open(1, 0).put_unknown(10), by(2, 10, 20).read(10, 1, 1), by(2, 30, 40).nothing(1)],
        ),
        both(
            "a write without an answer appears, and then the value before it",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 12).put_unknown(20),
                by(3, 20, 30).read(20, 2, 2),
                by(3, 40, 50).read(10, 1, 2),
            ],
        ),
        both(
            "a value is gone before the delete without an answer begins",
            Rule::WrongRead,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).nothing(2), open(3, 40).delete_unknown()],
        ),
        search(
            "one delete without an answer makes two values disappear",
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 5).delete_unknown(),
                by(3, 20, 30).nothing(2),
                by(3, 40, 50).put(20, 3),
                by(3, 60, 70).nothing(4),
            ],
        ),
        search(
            "what a delete without an answer removed comes back",
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 12).delete_unknown(),
                by(3, 20, 30).nothing(2),
                by(3, 40, 50).read(10, 1, 3),
            ],
        ),
        search(
            "one write without an answer is deleted twice",
            vec![open(1, 0).put_unknown(10), by(2, 10, 20).delete(2, true), by(2, 30, 40).delete(4, true)],
        ),
        search(
            "a compare-and-swap without an answer is deleted whose condition never held",
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 5).cas_unknown(7, 20),
                by(3, 20, 30).delete(3, true),
                by(3, 40, 50).delete(5, true),
            ],
        ),
    ]
}

/// Writes without an answer for which there is no revision left.
fn hidden() -> Vec<Bad> {
    vec![
        revisions(
            "a value is gone at the revision at which it was put",
            Rule::WrongRead,
            vec![by(1, 0, 10).put(10, 1), open(2, 5).delete_unknown(), by(3, 20, 30).nothing(1)],
        ),
        revisions(
            "a value is gone, and another key's write has the only revision at which it may have been deleted",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                by(2, 0, 10).on("other").put(20, 2),
                open(3, 5).delete_unknown(),
                by(4, 20, 30).nothing(2),
            ],
        ),
        revisions(
            "a value is gone at a revision that had been told before the delete began",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).on("other").put(20, 3),
                open(2, 40).delete_unknown(),
                by(3, 50, 60).nothing(3),
            ],
        ),
    ]
}

fn freshness() -> Vec<Bad> {
    vec![
        revisions(
            "a read goes back behind another one's revision",
            Rule::RealTime,
            vec![by(1, 0, 10).put(10, 5), by(2, 20, 30).read(10, 5, 9), by(3, 40, 50).read(10, 5, 7)],
        ),
        revisions(
            "a read goes back behind the revision of another key's read",
            Rule::RealTime,
            vec![by(1, 0, 10).on("a").nothing(9), by(2, 20, 30).on("b").nothing(8)],
        ),
        revisions(
            "a read goes back behind what a stale read had shown to be decided",
            Rule::RealTime,
            vec![by(1, 0, 10).stale(None, 9), by(2, 20, 30).nothing(5)],
        ),
        revisions(
            "a read shows a value that its revision does not reach",
            Rule::WrongRead,
            vec![by(1, 0, 50).put(10, 2), by(2, 10, 20).read(10, 2, 1)],
        ),
        both(
            "a later write has a smaller revision",
            Rule::RealTime,
            vec![by(1, 0, 10).put(10, 5), by(1, 20, 30).put(20, 4)],
        ),
        revisions(
            "a later write of another key has a smaller revision",
            Rule::RealTime,
            vec![by(1, 0, 10).on("a").put(10, 5), by(2, 20, 30).on("b").put(20, 4)],
        ),
        revisions(
            "a write has the revision of a read before it began",
            Rule::RealTime,
            vec![by(1, 0, 10).on("a").nothing(5), by(2, 20, 30).on("b").put(10, 5)],
        ),
    ]
}

fn stale() -> Vec<Bad> {
    vec![
        revisions(
            "a stale read shows what had been overwritten at its revision",
            Rule::WrongStaleRead,
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).put(20, 2), by(2, 40, 50).stale(Some((10, 1)), 2)],
        ),
        revisions(
            "a stale read shows what its revision does not reach",
            Rule::WrongStaleRead,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).stale(Some((10, 1)), 0)],
        ),
        revisions(
            "a stale read misses what its revision reaches",
            Rule::WrongStaleRead,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).stale(None, 1)],
        ),
        revisions(
            "a stale read shows a refused write",
            Rule::FromNowhere,
            vec![by(1, 0, 10).refused_put(10), by(2, 20, 30).stale(Some((10, 1)), 1)],
        ),
        revisions(
            "a stale read shows a write before it begins",
            Rule::FromNowhere,
            vec![by(1, 0, 10).stale(Some((10, 1)), 1), by(2, 20, 30).put(10, 1)],
        ),
        revisions(
            "a read misses a write without an answer that a stale read had shown",
            Rule::WrongRead,
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 12).put_unknown(20),
                by(3, 30, 40).stale(Some((20, 2)), 2),
                by(4, 50, 60).read(10, 1, 3),
            ],
        ),
        revisions(
            "a session goes back",
            Rule::SessionWentBack,
            vec![by(1, 0, 10).stale(None, 5), by(1, 20, 30).stale(None, 3)],
        ),
    ]
}

fn records() -> Vec<Bad> {
    let read = Call::Get { level: Level::Linearizable };
    let unversioned = Outcome::Read { value: Some(10), modified: 0, at: 1, age_ms: None };
    vec![
        both(
            "a get wrote",
            Rule::Malformed,
            vec![by(1, 0, 10).is(read, Outcome::Written { revision: 1, happened: true, observed_modified: None })],
        ),
        both("a put returned before it was invoked", Rule::Malformed, vec![by(1, 20, 10).put(10, 1)]),
        both("a put has revision 0", Rule::Malformed, vec![by(1, 0, 10).put(10, 0)]),
        both(
            "a read shows a value and no revision",
            Rule::Malformed,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).is(read, unversioned)],
        ),
        revisions("a put was answered at no time", Rule::Malformed, vec![open(1, 0).put(10, 1)]),
        revisions(
            "a value has two writers",
            Rule::ValueReused,
            vec![by(1, 0, 10).put(10, 1), by(2, 20, 30).put(10, 2)],
        ),
    ]
}
