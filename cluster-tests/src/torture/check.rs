//! One round's records, judged: which promises were checked how often, and which were broken.
//!
//! Nothing is asked of anybody here. Two checkers look at the history of single keys; what they, the watches, the last
//! reads, the ages and the leases find is sorted by the promise that it breaks. A search that was given up counts as
//! broken: nobody knows what it would have found.

use std::time::Duration;

use ollamax_testkit::history::revisions::{self, Rule};
use ollamax_testkit::history::wgl::{self, Verdict as Order};
use ollamax_testkit::history::{Call, Operation};

use crate::final_reads::{self, Final};
use crate::report::Invariant;
use crate::traffic::{Aside, PairRead};
use crate::watched::{self, Segment};
use crate::{leases, stale};

/// Bounds of the search for an order, for one round.
const SEARCH: wgl::Config = wgl::Config { steps_max: 20_000_000, time_max: Duration::from_secs(30) };
/// Most faults of one promise that are told.
const FAULTS_SHOWN_MAX: usize = 5;

/// Everything that was recorded in a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) prefix: String,
    pub(crate) history: Vec<Operation>,
    pub(crate) aside: Aside,
    pub(crate) watched: Vec<Vec<Segment>>,
    pub(crate) finals: Vec<Final>,
    /// How long words of the leader may have been held back.
    pub(crate) held_back: Duration,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) checked: Vec<(Invariant, u64)>,
    pub(crate) broken: Vec<(Invariant, String)>,
    pub(crate) resumed: u64,
    pub(crate) gaps: u64,
}

// === impl Judged ===

impl Judged {
    fn note(&mut self, invariant: Invariant, checked: u64, faults: Vec<String>) {
        self.checked.push((invariant, checked));
        let more = faults.len().saturating_sub(FAULTS_SHOWN_MAX);
        self.broken.extend(faults.into_iter().take(FAULTS_SHOWN_MAX).map(|fault| (invariant, fault)));
        if more > 0 {
            self.broken.push((invariant, format!("and {more} more")));
        }
    }
}

/// Judges one round.
pub(crate) fn judge(records: &Records) -> Judged {
    let Records { prefix, history, aside, watched, finals, held_back } = records;
    let mut judged = Judged::default();

    let (mut order, mut twice, mut ages) = (Vec::new(), Vec::new(), Vec::new());
    match wgl::check(history, &SEARCH) {
        Order::Linearizable => {}
        verdict @ (Order::Violation { .. } | Order::Undecided { .. }) => order.push(verdict.to_string()),
    }
    for problem in revisions::check(history, &revisions::Config::default()) {
        match promise_of(problem.rule) {
            Invariant::I4 => twice.push(problem.to_string()),
            Invariant::I9 => ages.push(problem.to_string()),
            _ => order.push(problem.to_string()),
        }
    }
    order.extend(aside.pair_reads.iter().filter(|read| is_torn(read)).map(|read| format!("half of a pair: {read:?}")));
    judged.note(Invariant::I2, (history.len() + aside.pair_reads.len()) as u64, order);

    judged.note(Invariant::I3, finals.len() as u64, final_reads::check(history, finals));
    let puts = history.iter().filter(|operation| matches!(operation.call, Call::Put { .. } | Call::Cas { .. }));
    judged.note(Invariant::I4, (puts.count() + aside.writes.len()) as u64, twice);

    let watches = watched::check(watched, prefix, history, aside);
    judged.note(Invariant::I8, watches.events, watches.faults);
    (judged.resumed, judged.gaps) = (watches.resumed, watches.gaps);

    let (young, reads) = stale::check(history, *held_back);
    ages.extend(young);
    judged.note(Invariant::I9, reads, ages);

    let (early, ends) = leases::check(&aside.leases, &watches.ends);
    judged.note(Invariant::I10, ends, early);
    judged
}

/// Which promise a rule of the revisions belongs to.
const fn promise_of(rule: Rule) -> Invariant {
    match rule {
        Rule::FromNowhere | Rule::AppliedTwice => Invariant::I4,
        Rule::WrongStaleRead | Rule::SessionWentBack => Invariant::I9,
        Rule::Malformed
        | Rule::ValueReused
        | Rule::RevisionReused
        | Rule::RealTime
        | Rule::WrongRead
        | Rule::WrongCas
        | Rule::WrongDelete => Invariant::I2,
    }
}

/// Two keys that are always put together are both there with one value of one revision, or both absent.
fn is_torn(read: &PairRead) -> bool {
    match read.found.as_slice() {
        [] => false,
        [first, second] => (first.1, first.2) != (second.1, second.2),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use ollamax_testkit::history::{Level, Outcome};

    use super::*;
    use crate::traffic::LeaseSign;
    use crate::watched::{Event, Told};

    const MS: u64 = 1_000_000;

    fn operation(at_ms: u64, call: Call, outcome: Outcome) -> Operation {
        let (invoked_ns, returned_ns) = (at_ms * MS, Some((at_ms + 5) * MS));
        Operation { client: 0, key: "w/a".to_owned(), call, invoked_ns, returned_ns, outcome }
    }

    fn written(revision: u64) -> Outcome {
        Outcome::Written { revision, happened: true, observed_modified: None }
    }

    fn read(at_ms: u64, level: Level, found: (u64, u64), at: u64) -> Operation {
        let (value, modified) = (Some(found.0), found.1);
        operation(at_ms, Call::Get { level }, Outcome::Read { value, modified, at, age_ms: Some(0) })
    }

    fn event(revision: u64, key: &str, value: Option<u64>) -> Event {
        Event { revision, key: key.to_owned(), value }
    }

    fn good() -> Records {
        let history = vec![
            operation(0, Call::Put { value: 1 }, written(10)),
            operation(10, Call::Put { value: 2 }, written(11)),
            read(2_000, Level::Linearizable, (2, 11), 11),
            read(2_010, Level::Stale, (2, 11), 12),
        ];
        let told = |revision: u64, events| Told { revision, seen_ns: 3_000 * MS, events };
        let segment = Segment {
            node: 0,
            asked: 0,
            begun: 9,
            told: vec![
                told(11, vec![event(10, "w/a", Some(1)), event(11, "w/a", Some(2))]),
                told(13, vec![event(13, "w/l", None)]),
            ],
        };
        let lease = LeaseSign { key: "w/l".to_owned(), ttl_ms: 2_000, invoked_ns: 1_000 * MS, revision: 12 };
        let pair = PairRead { found: vec![("w/p/a".to_owned(), 7, 8), ("w/p/b".to_owned(), 7, 8)] };
        Records {
            prefix: "w/".to_owned(),
            history,
            aside: Aside { pair_reads: vec![pair], leases: vec![lease], ..Aside::default() },
            watched: vec![vec![segment]],
            finals: vec![Final { node: 0, key: "w/a".to_owned(), value: Some(2), modified: 11, at: 13 }],
            held_back: Duration::ZERO,
        }
    }

    #[test]
    fn good_records_break_nothing_and_everything_was_checked() {
        let judged = judge(&good());
        assert!(judged.broken.is_empty(), "{:?}", judged.broken);
        assert_eq!(judged.checked.iter().map(|(_, checked)| *checked).collect::<Vec<_>>(), [5, 1, 2, 3, 1, 1]);
    }

    #[test]
    fn each_bad_record_breaks_its_promise() {
        let check = |what: &str, change: &dyn Fn(&mut Records), expected: Invariant| {
            let mut records = good();
            change(&mut records);
            let judged = judge(&records);
            let broken: Vec<Invariant> = judged.broken.iter().map(|(invariant, _)| *invariant).collect();
            assert!(broken.contains(&expected), "{what}: {:?}", judged.broken);
        };
        check("an old read", &|r| r.history[2] = read(2_000, Level::Linearizable, (1, 10), 10), Invariant::I2);
        check("half of a pair", &|r| r.aside.pair_reads[0].found[1].1 = 6, Invariant::I2);
        check("one of a pair", &|r| drop(r.aside.pair_reads[0].found.pop()), Invariant::I2);
        check(
            "a lost write",
            &|r| r.finals[0] = Final { value: Some(1), modified: 10, ..r.finals[0].clone() },
            Invariant::I3,
        );
        check("a refused write", &|r| r.history[1].outcome = Outcome::Refused, Invariant::I4);
        check("two revisions", &|r| r.history[2] = read(2_000, Level::Linearizable, (2, 12), 12), Invariant::I4);
        check("an event that is missing", &|r| drop(r.watched[0][0].told[0].events.remove(0)), Invariant::I8);
        check("an old stale read", &|r| r.history[3] = read(2_010, Level::Stale, (1, 10), 10), Invariant::I9);
        check("a wrong stale read", &|r| r.history[3] = read(2_010, Level::Stale, (1, 10), 12), Invariant::I9);
        check("an early end", &|r| r.watched[0][0].told[1].seen_ns = 1_999 * MS, Invariant::I10);
    }

    #[test]
    fn many_faults_of_one_promise_are_told_shortly() {
        let mut judged = Judged::default();
        judged.note(Invariant::I8, 9, (0..9).map(|number| number.to_string()).collect());
        assert_eq!(judged.broken.len(), FAULTS_SHOWN_MAX + 1);
        assert_eq!(judged.broken[FAULTS_SHOWN_MAX].1, "and 4 more");
    }
}
