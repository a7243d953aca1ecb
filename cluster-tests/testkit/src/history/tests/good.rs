//! Histories that a good store can leave, among them the odd ones: late effects, lost answers, open conditions.

use super::span::{by, open};
use super::{Call, Level, Operation, Outcome};

/// Names and histories.
pub(super) fn histories() -> Vec<(&'static str, Vec<Operation>)> {
    [answered(), unknown(), conditions(), kept_apart()].concat()
}

fn answered() -> Vec<(&'static str, Vec<Operation>)> {
    vec![
        (
            "of concurrent writes the one with the greater revision stays",
            vec![by(1, 0, 50).put(10, 1), by(2, 0, 50).put(20, 2), by(3, 60, 70).read(20, 2, 2)],
        ),
        (
            "concurrent writes are read between",
            vec![
                by(1, 0, 50).put(10, 1),
                by(2, 0, 50).put(20, 2),
                by(3, 10, 20).read(10, 1, 1),
                by(3, 30, 40).read(20, 2, 2),
            ],
        ),
        ("a write is seen before it returns", vec![by(1, 0, 50).put(10, 1), by(2, 10, 20).read(10, 1, 1)]),
        ("a write is not yet seen before it returns", vec![by(1, 0, 50).put(10, 1), by(2, 10, 20).nothing(0)]),
        ("calls that touch overlap", vec![by(1, 0, 10).put(10, 1), by(2, 10, 20).nothing(0)]),
        (
            "reads under the lease are as good as others",
            vec![by(1, 0, 10).put(10, 3), by(2, 20, 30).lease(Some((10, 3)), 3), by(1, 40, 50).lease(Some((10, 3)), 9)],
        ),
        (
            "a refused write is never seen",
            vec![by(1, 0, 10).put(10, 1), by(1, 20, 30).refused_put(20), by(2, 40, 50).read(10, 1, 4)],
        ),
        (
            "a read without an answer says nothing",
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 20).is(Call::Get { level: Level::Linearizable }, Outcome::Unknown),
                by(2, 20, 30).is(Call::Get { level: Level::Linearizable }, Outcome::Refused),
            ],
        ),
        (
            "a delete finds something once",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 40).delete(3, false),
                by(2, 20, 40).delete(2, true),
                by(3, 50, 60).nothing(3),
            ],
        ),
    ]
}

fn unknown() -> Vec<(&'static str, Vec<Operation>)> {
    vec![
        (
            "a write without an answer is never seen",
            vec![by(1, 0, 10).put(10, 1), open(2, 20).put_unknown(20), by(3, 30, 40).read(10, 1, 5)],
        ),
        (
            "a write without an answer is seen at once",
            vec![by(1, 0, 10).put(10, 1), open(2, 20).put_unknown(20), by(3, 30, 40).read(20, 2, 2)],
        ),
        (
            "a write without an answer takes effect after a later one",
            vec![
                by(1, 0, 10).put_unknown(10),
                by(2, 20, 30).put(20, 1),
                by(3, 40, 50).read(20, 1, 1),
                by(3, 60, 70).read(10, 2, 2),
            ],
        ),
        (
            "only a stale read shows a write without an answer",
            vec![open(1, 0).put_unknown(10), by(2, 20, 30).stale(Some((10, 1)), 1), by(3, 20, 30).nothing(0)],
        ),
        (
            "a delete without an answer took effect",
            vec![
                by(1, 0, 10).put(10, 1),
                open(2, 20).delete_unknown(),
                by(3, 30, 40).read(10, 1, 1),
                by(3, 50, 60).nothing(2),
                by(3, 70, 80).cas(0, 20, 3),
                by(3, 90, 95).read(20, 3, 3),
            ],
        ),
        (
            "a delete without an answer did nothing",
            vec![by(1, 0, 10).put(10, 1), open(2, 20).delete_unknown(), by(3, 30, 40).read(10, 1, 9)],
        ),
        (
            "a delete removes what a write without an answer put",
            vec![open(1, 0).put_unknown(10), by(2, 10, 20).delete(2, true), by(2, 30, 40).nothing(2)],
        ),
        (
            "a write without an answer is what a delete found, another one what was read",
            vec![
                open(1, 0).put_unknown(10),
                open(2, 0).put_unknown(20),
                by(3, 10, 20).delete(4, true),
                by(3, 30, 40).read(10, 7, 8),
            ],
        ),
    ]
}

fn conditions() -> Vec<(&'static str, Vec<Operation>)> {
    vec![
        (
            "conditions that do not hold change nothing",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).unmet(5, 20, 2, None),
                by(1, 40, 50).unmet(0, 30, 3, Some(1)),
                by(1, 60, 70).read(10, 1, 3),
            ],
        ),
        (
            "of two that expect the same one wins",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 40).cas(1, 20, 2),
                by(2, 20, 40).unmet(1, 30, 3, Some(2)),
                by(3, 50, 60).read(20, 2, 3),
            ],
        ),
        (
            "what was deleted is made anew",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).delete(2, true),
                by(1, 40, 50).cas(0, 20, 3),
                by(1, 60, 70).read(20, 3, 3),
            ],
        ),
        (
            "a condition does not hold because of a write without an answer",
            vec![by(1, 0, 10).put(10, 1), open(2, 5).put_unknown(20), by(3, 20, 30).unmet(1, 30, 3, None)],
        ),
        (
            "a condition does not hold because of a delete without an answer",
            vec![by(1, 0, 10).put(10, 1), open(2, 5).delete_unknown(), by(3, 20, 30).unmet(1, 30, 3, Some(0))],
        ),
        (
            "a condition tells the revision of a write without an answer, and the next one names it",
            vec![
                open(1, 0).put_unknown(10),
                by(2, 10, 20).unmet(0, 20, 2, Some(1)),
                by(2, 30, 40).cas(1, 30, 3),
                by(2, 50, 60).read(30, 3, 3),
            ],
        ),
        (
            "a compare-and-swap without an answer happened",
            vec![by(1, 0, 10).put(10, 1), open(2, 20).cas_unknown(1, 20), by(3, 30, 40).read(20, 2, 2)],
        ),
        (
            "a compare-and-swap without an answer happens late, after a delete that began when its client had given up",
            vec![
                by(1, 0, 10).put(10, 1),
                by(2, 0, 10).cas_unknown(0, 20),
                open(3, 20).delete_unknown(),
                by(4, 30, 40).read(20, 3, 3),
            ],
        ),
        (
            "a compare-and-swap without an answer cannot have happened",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).put(20, 2),
                open(2, 40).cas_unknown(1, 30),
                by(3, 50, 60).read(20, 2, 3),
            ],
        ),
    ]
}

fn kept_apart() -> Vec<(&'static str, Vec<Operation>)> {
    vec![
        (
            "stale reads follow behind, each session for itself",
            vec![
                by(1, 0, 10).put(10, 1),
                by(1, 20, 30).put(20, 2),
                by(2, 40, 50).stale(Some((20, 2)), 2),
                by(3, 60, 70).stale(None, 0),
                by(3, 80, 90).stale(Some((10, 1)), 1),
                by(3, 100, 110).stale(Some((10, 1)), 1),
            ],
        ),
        (
            "keys share a counter and nothing else",
            vec![
                by(1, 0, 30).on("a").put(10, 2),
                by(2, 0, 30).on("b").put(20, 1),
                by(3, 10, 20).on("b").read(20, 1, 1),
                by(3, 40, 50).on("a").read(10, 2, 3),
                by(3, 60, 70).on("b").read(20, 1, 3),
                by(3, 80, 90).on("c").nothing(3),
            ],
        ),
    ]
}
