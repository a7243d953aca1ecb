//! Which scenario is done again: one that failed while a node died.
//!
//! What a killed node had in hand is lost, and the suite does not ask again, as a client would. So a scenario may fail
//! for that alone, and is done again, a bounded number of times. One that fails while no node died has failed. What
//! failed is told each time, so that whoever reads it can judge whether the death was to blame.

use crate::found::{Ran, Span, Verdict};

/// How often a scenario is done again, at most.
const TIMES_MAX: usize = 2;

/// Whether a scenario that ran, and that was done again so often already, is done again. Each death lasts from the
/// signal until the process is gone.
pub(crate) fn is_wanted(ran: &Ran, deaths: &[Span], times: usize) -> bool {
    let has_failed = matches!(ran.verdict, Verdict::Failed(_));
    has_failed && times < TIMES_MAX && deaths.iter().any(|death| death.meets(ran.when))
}

/// What is said of a scenario that is done again.
pub(crate) fn told(name: &str, ran: &Ran) -> String {
    let checks = match &ran.verdict {
        Verdict::Failed(checks) => checks.join("; "),
        Verdict::Passed { .. } | Verdict::Skipped => String::new(),
    };
    format!("{name} failed while a node died, and is done again: {checks}")
}

#[cfg(test)]
mod tests {
    use ollamax_types::Timestamp;

    use super::*;

    const fn span(begin: u64, end: u64) -> Span {
        Span { begin: Timestamp(begin), end: Timestamp(end) }
    }

    #[test]
    fn only_what_failed_while_a_node_died_is_done_again_and_twice_at_most() {
        let failed = || Verdict::Failed(vec!["a: no".to_owned()]);
        let check = |verdict: Verdict, deaths: &[Span], times: usize, expected: bool| {
            let ran = Ran { verdict, when: span(1_000, 2_000) };
            assert_eq!(is_wanted(&ran, deaths, times), expected, "{ran:?} {deaths:?} {times}");
        };
        let meanwhile = [span(200, 210), span(1_500, 1_510)];
        check(failed(), &meanwhile, 0, true);
        check(failed(), &meanwhile, 1, true);
        check(failed(), &meanwhile, 2, false);
        check(Verdict::Passed { warnings: 1 }, &meanwhile, 0, false);
        check(Verdict::Skipped, &meanwhile, 0, false);
        // Nobody died at all, or before it began and after it ended.
        check(failed(), &[], 0, false);
        check(failed(), &[span(900, 999), span(2_001, 2_010)], 0, false);
        // A death that had begun before, one that ends later, and one around all of it.
        check(failed(), &[span(900, 1_000)], 0, true);
        check(failed(), &[span(2_000, 2_010)], 0, true);
        check(failed(), &[span(900, 2_100)], 0, true);
    }

    #[test]
    fn what_failed_is_told_when_it_is_done_again() {
        let verdict = Verdict::Failed(vec!["a: no".to_owned(), "b: 502".to_owned()]);
        let said = told("ping", &Ran { verdict, when: span(1_000, 2_000) });
        assert_eq!(said, "ping failed while a node died, and is done again: a: no; b: 502");
    }
}
