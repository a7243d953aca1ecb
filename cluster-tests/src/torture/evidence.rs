//! Whether enough happened for a verdict: a run in which nothing happened is a failure, not a success.
//!
//! A round counts when its clients were busy before the fault, tried something during it, and got an answer after it,
//! and when the fault shows that it was there. A fault that waits for what did not come up in its time was not done:
//! its round counts, and stands for no fault. A run counts when every promise was put to the test at least once, and
//! each family that had its turn was there at least once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ollamax_testkit::history::Evidence;

use crate::plan::Family;
use crate::report::Invariant;

/// Fewest answers per second before a fault.
const ANSWERS_PER_SECOND_MIN: u64 = 100;

/// Whether a fault was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It was, and this shows it.
    Shown(String),
    /// It was done, and this is missing to show it.
    Missing(String),
    /// It was not done: what it waits for did not come up in its time.
    NotInjected(String),
}

// === impl Proof ===

impl Proof {
    pub(crate) const fn is_shown(&self) -> bool {
        matches!(self, Self::Shown(_))
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shown(what) => f.write_str(what),
            Self::Missing(what) => write!(f, "NOT PROVED: {what}"),
            Self::NotInjected(why) => write!(f, "NOT INJECTED: {why}"),
        }
    }
}

/// What happened in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) before: Evidence,
    pub(crate) during: Evidence,
    pub(crate) after: Evidence,
    pub(crate) proof: Proof,
}

/// What a round lacks to be worth anything; nothing: it counts.
pub(crate) fn round_lacks(happened: &Happened) -> Vec<String> {
    let Happened { before, during, after, proof } = happened;
    let mut lacks = Vec::new();
    if before.per_second() < ANSWERS_PER_SECOND_MIN {
        let (found, wanted) = (before.per_second(), ANSWERS_PER_SECOND_MIN);
        lacks.push(format!("only {found} answers per second before the fault, {wanted} are needed"));
    }
    if during.operations == 0 {
        lacks.push("no operation during the fault".to_owned());
    }
    if after.succeeded == 0 {
        lacks.push("no answer after the fault".to_owned());
    }
    if let Proof::Missing(missing) = proof {
        lacks.push(format!("the fault was not there: {missing}"));
    }
    lacks
}

/// What a run lacks: `rounds` tells the family of each, and whether its fault was there. Leases end by time, so a short
/// run may see none end; and only damaged files make a node lose what it had synced, which not every run asks for.
pub(crate) fn run_lacks(rounds: &[(Family, bool)], checked: &BTreeMap<Invariant, u64>) -> Vec<String> {
    if rounds.is_empty() {
        return vec!["no round was played to its end".to_owned()];
    }
    let of = |wanted: bool| rounds.iter().filter(move |(_, shown)| *shown == wanted).map(|(family, _)| *family);
    let (shown, others): (BTreeSet<Family>, BTreeSet<Family>) = (of(true).collect(), of(false).collect());
    let absent = others.difference(&shown).map(|family| format!("{} was injected in none of its rounds", family.id()));
    let needed = Invariant::ALL.into_iter().filter(|one| !matches!(one, Invariant::I10 | Invariant::I12));
    let idle = needed.filter(|invariant| checked.get(invariant).copied().unwrap_or(0) == 0);
    let idle = idle.map(|invariant| format!("{} ({}) was never checked", invariant.id(), invariant.title()));
    absent.chain(idle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn busy() -> Happened {
        let evidence = |succeeded| Evidence {
            operations: succeeded + 3,
            succeeded,
            length_ns: 2 * SECOND_NS,
            ..Evidence::default()
        };
        Happened {
            before: evidence(200),
            during: evidence(0),
            after: evidence(1),
            proof: Proof::Shown("it was there".to_owned()),
        }
    }

    #[test]
    fn a_round_in_which_too_little_happened_is_worth_nothing() {
        let check = |what: &str, change: &dyn Fn(&mut Happened), named: Option<&str>| {
            let mut happened = busy();
            change(&mut happened);
            let lacks = round_lacks(&happened);
            assert_eq!(lacks.len(), usize::from(named.is_some()), "{what}: {lacks:?}");
            assert!(named.is_none_or(|named| lacks[0].contains(named)), "{what}: {lacks:?}");
        };
        check("enough", &|_| {}, None);
        check("idle before", &|round| round.before.succeeded = 199, Some("only 99 answers"));
        check("nobody tried", &|round| round.during.operations = 0, Some("during the fault"));
        check("nothing came back", &|round| round.after.succeeded = 0, Some("after the fault"));
        check("no fault", &|round| round.proof = Proof::Missing("0 syncs".to_owned()), Some("not there: 0 syncs"));
        check("not done", &|round| round.proof = Proof::NotInjected("no sync".to_owned()), None);
    }

    #[test]
    fn a_run_that_left_a_promise_untried_is_worth_nothing() {
        let all: BTreeMap<Invariant, u64> = Invariant::ALL.into_iter().map(|invariant| (invariant, 1)).collect();
        let rounds = [(Family::F1, true), (Family::F2, true), (Family::F1, true)];
        assert_eq!(run_lacks(&rounds, &all), Vec::<String>::new());
        assert_eq!(run_lacks(&[], &all).len(), 1);
        let mut without = all.clone();
        without.insert(Invariant::I6, 0);
        without.remove(&Invariant::I8);
        without.remove(&Invariant::I10);
        without.remove(&Invariant::I12);
        let lacks = run_lacks(&rounds, &without);
        assert!(lacks.len() == 2 && lacks[0].contains("I6") && lacks[1].contains("I8"), "{lacks:?}");
    }

    #[test]
    fn a_family_must_have_been_there_in_one_of_its_rounds() {
        let all: BTreeMap<Invariant, u64> = Invariant::ALL.into_iter().map(|invariant| (invariant, 1)).collect();
        let check = |rounds: &[(Family, bool)], expected: &[&str]| {
            assert_eq!(run_lacks(rounds, &all), expected, "{rounds:?}");
        };
        let none = "F2 was injected in none of its rounds";
        check(&[(Family::F2, false), (Family::F1, true), (Family::F2, true)], &[]);
        check(&[(Family::F2, true), (Family::F2, false)], &[]);
        check(&[(Family::F2, false), (Family::F1, true), (Family::F2, false)], &[none]);
        check(&[(Family::F2, false)], &[none]);
    }
}
