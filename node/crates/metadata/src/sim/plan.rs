//! What goes wrong in a simulated world, and when: drawn from the seed before anything runs.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Faults in one world.
const FAULTS: usize = 7;
/// When the first may begin and the last must, milliseconds.
const FIRST_MS: u64 = 1_200;
pub(super) const LAST_MS: u64 = 8_000;
/// Share of the worlds in which one node loses everything. Two of three are a majority, and could take along what was
/// acknowledged.
const WIPED: f64 = 0.3;
/// How long each lasts, milliseconds.
const LASTS_MS: std::ops::RangeInclusive<u64> = 100..=2_000;

/// A change of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// A node loses its power.
    Crash(u64),
    /// And gets it back.
    Start(u64),
    /// A node loses its power and its data directory; of all that it had, it keeps its key.
    Wipe(u64),
    /// From these nodes to those nothing arrives.
    Cut(BTreeSet<(u64, u64)>),
    /// It does again.
    Mend(BTreeSet<(u64, u64)>),
    /// Of a thousand messages this many are lost.
    Lose(u32),
    /// Messages take up to so many milliseconds.
    Delay(u64),
    /// Somebody else shall lead.
    GiveWay(u64),
}

/// A plan, in order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) nodes: u64,
    pub(super) acts: Vec<(u64, Act)>,
}

impl Plan {
    pub(super) fn drawn(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let nodes = if chance.random_bool(0.4) { 5 } else { 3 };
        let mut acts = Vec::new();
        for _ in 0..FAULTS {
            let begin = chance.random_range(FIRST_MS..LAST_MS);
            let end = (begin + chance.random_range(LASTS_MS)).min(LAST_MS);
            fault(nodes, &mut chance, begin, end, &mut acts);
        }
        if chance.random_bool(WIPED) {
            let (node, begin) = (chance.random_range(1..=nodes), chance.random_range(FIRST_MS..LAST_MS));
            acts.extend([(begin, Act::Wipe(node)), (begin + chance.random_range(50..400), Act::Start(node))]);
        }
        acts.sort_by_key(|(at, _)| *at);
        Self { nodes, acts }
    }
}

fn fault(nodes: u64, chance: &mut StdRng, begin: u64, end: u64, acts: &mut Vec<(u64, Act)>) {
    let node = chance.random_range(1..=nodes);
    let cut = |pairs: BTreeSet<(u64, u64)>| [(begin, Act::Cut(pairs.clone())), (end, Act::Mend(pairs))];
    match chance.random_range(0..10) {
        0..3 => acts.extend([(begin, Act::Crash(node)), (end, Act::Start(node))]),
        3 => {
            for node in 1..=nodes {
                acts.extend([(begin, Act::Crash(node)), (begin + chance.random_range(50..400), Act::Start(node))]);
            }
        }
        4 | 5 => acts.extend(cut(others(nodes, node).flat_map(|other| [(node, other), (other, node)]).collect())),
        6 => acts.extend(cut(others(nodes, node).map(|other| (node, other)).collect())),
        // All meet one node, and each other only within their half.
        7 => {
            let pairs = others(nodes, node).flat_map(|a| others(nodes, node).map(move |b| (a, b)));
            acts.extend(cut(pairs.filter(|(a, b)| a % 2 != b % 2).collect()));
        }
        8 if chance.random_bool(0.5) => acts.extend([(begin, Act::Lose(250)), (end, Act::Lose(0))]),
        8 => acts.extend([(begin, Act::Delay(80)), (end, Act::Delay(2))]),
        _ => acts.push((begin, Act::GiveWay(node))),
    }
}

fn others(nodes: u64, node: u64) -> impl Iterator<Item = u64> {
    (1..=nodes).filter(move |other| *other != node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_plan_in_order_of_time_and_everything_ends_in_time() {
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let plan = Plan::drawn(seed);
            assert_eq!(plan, Plan::drawn(seed));
            assert!(plan.acts.is_sorted_by_key(|(at, _)| *at));
            assert!(plan.acts.iter().all(|(at, _)| (FIRST_MS..=LAST_MS + 400).contains(at)), "{plan:?}");
            assert!(plan.acts.iter().filter(|(_, act)| matches!(act, Act::Wipe(_))).count() <= 1, "{plan:?}");
            seen.extend(plan.acts.iter().map(|(_, act)| std::mem::discriminant(act)).map(|kind| format!("{kind:?}")));
        }
        assert_eq!(seen.len(), 8, "every kind of act is drawn: {seen:?}");
    }
}
