//! Whether enough happened for a verdict: a run in which nothing happened is a failure, not a success.
//!
//! A round counts when its clients were busy before the fault, tried something during it, and got an answer after it,
//! and when the fault shows that it was there. A run counts when every promise was put to the test at least once.

use std::collections::BTreeMap;

use ollamax_testkit::history::Evidence;

use crate::report::Invariant;

/// Fewest answers per second before a fault.
const ANSWERS_PER_SECOND_MIN: u64 = 100;

/// What happened in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happened {
    pub(crate) before: Evidence,
    pub(crate) during: Evidence,
    pub(crate) after: Evidence,
    /// What shows that the fault was there, or what is missing for that.
    pub(crate) proof: Result<String, String>,
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
    if let Err(missing) = proof {
        lacks.push(format!("the fault was not there: {missing}"));
    }
    lacks
}

/// What a run lacks. Leases end by time, so a short run may see none end; and only damaged files make a node lose what
/// it had synced, which not every run asks for.
pub(crate) fn run_lacks(rounds: usize, checked: &BTreeMap<Invariant, u64>) -> Vec<String> {
    if rounds == 0 {
        return vec!["no round was played to its end".to_owned()];
    }
    let needed = Invariant::ALL.into_iter().filter(|one| !matches!(one, Invariant::I10 | Invariant::I12));
    let idle = needed.filter(|invariant| checked.get(invariant).copied().unwrap_or(0) == 0);
    idle.map(|invariant| format!("{} ({}) was never checked", invariant.id(), invariant.title())).collect()
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
            proof: Ok("it was there".to_owned()),
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
        check("no fault", &|round| round.proof = Err("0 syncs".to_owned()), Some("not there: 0 syncs"));
    }

    #[test]
    fn a_run_that_left_a_promise_untried_is_worth_nothing() {
        let all: BTreeMap<Invariant, u64> = Invariant::ALL.into_iter().map(|invariant| (invariant, 1)).collect();
        assert_eq!(run_lacks(1, &all), Vec::<String>::new());
        assert_eq!(run_lacks(0, &all).len(), 1);
        let mut without = all.clone();
        without.insert(Invariant::I6, 0);
        without.remove(&Invariant::I8);
        without.remove(&Invariant::I10);
        without.remove(&Invariant::I12);
        let lacks = run_lacks(3, &without);
        assert!(lacks.len() == 2 && lacks[0].contains("I6") && lacks[1].contains("I8"), "{lacks:?}");
    }
}
