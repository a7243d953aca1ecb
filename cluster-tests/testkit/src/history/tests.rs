//! Both checkers over hand-made histories, good and bad, and over random ones; a record on paper; the evidence.

mod bad;
mod good;
mod oracle;
mod random;
mod span;

use std::time::Duration;

use super::revisions::{self, Problem};
use super::wgl::{self, Verdict, Why};
use super::*;
use span::{by, open};

const SESSIONS: revisions::Config = revisions::Config { sessions_monotonic: true };

fn search(history: &[Operation]) -> Verdict {
    wgl::check(history, &wgl::Config::default())
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

#[test]
fn each_bad_history_is_found_by_the_checker_that_must_find_it_and_by_no_other() {
    let histories = bad::histories();
    assert!(histories.len() >= 30, "{}", histories.len());
    for bad::Bad { name, wgl, rule, history } in histories {
        let verdict = search(&history);
        assert_eq!(matches!(verdict, Verdict::Violation { .. }), wgl, "{name}: {verdict}");
        assert_eq!(verdict.is_linearizable(), !wgl, "{name}: {verdict}");
        let problems = revisions::check(&history, &SESSIONS);
        let found = problems.iter().map(|problem| problem.rule).find(|found| Some(*found) == rule);
        assert_eq!(found, rule, "{name}: {:#?}", texts(&problems));
        assert_eq!(problems.is_empty(), rule.is_none(), "{name}: {:#?}", texts(&problems));
    }
}

#[test]
fn each_good_history_is_accepted_by_both() {
    let histories = good::histories();
    assert!(histories.len() >= 15, "{}", histories.len());
    for (name, history) in histories {
        let verdict = search(&history);
        assert!(verdict.is_linearizable(), "{name}: {verdict}");
        let problems = revisions::check(&history, &SESSIONS);
        assert!(problems.is_empty(), "{name}: {:#?}", texts(&problems));
    }
}

#[test]
fn an_empty_history_is_good_and_vacuous() {
    assert_eq!(search(&[]), Verdict::Linearizable);
    assert!(revisions::check(&[], &SESSIONS).is_empty());
    assert_eq!(Evidence::of(&[]), Evidence::default());
}

#[test]
fn sessions_are_judged_where_that_is_asked_for() {
    let history = [by(1, 0, 10).stale(None, 5), by(1, 20, 30).stale(None, 3)];
    assert!(revisions::check(&history, &revisions::Config::default()).is_empty());
    assert_eq!(revisions::check(&history, &SESSIONS).len(), 1);
}

#[test]
fn a_violation_names_what_was_placed_and_what_could_not_follow() {
    let history = [by(1, 0, 10).put(10, 1), by(2, 20, 30).put(20, 2), by(3, 40, 50).read(10, 1, 2)];
    let Verdict::Violation { key, explanation } = search(&history) else { unreachable!("20 was overwritten") };
    assert_eq!(key, "k");
    let expected = "2 operations stand in an order, 1 that happened are left. The last:
  client 1, key k: put 10 [0..10 ns] wrote at 1
  client 2, key k: put 20 [20..30 ns] wrote at 2
Then it holds 20 of 2, and none of these can follow:
  client 3, key k: get [40..50 ns] read 10 of 1 at 2";
    assert_eq!(explanation, expected);

    let problems = texts(&revisions::check(&history, &SESSIONS));
    let expected = "a wrong read: up to 2 the last change was a put at 2: \
        client 3, key k: get [40..50 ns] read 10 of 1 at 2; client 2, key k: put 20 [20..30 ns] wrote at 2";
    assert_eq!(problems, [expected]);
}

#[test]
fn a_search_that_is_given_up_says_why_and_a_violation_outweighs_it() {
    let mut history: Vec<Operation> = (1..=20).map(|value| by(1, 0, 100).on("a").put(value, value)).collect();
    let config = |steps_max, time_max| wgl::Config { steps_max, time_max };
    let hour = Duration::from_secs(3600);
    let undecided = |why| Verdict::Undecided { key: "a".to_owned(), why };
    assert_eq!(wgl::check(&history, &config(5, hour)), undecided(Why::Steps(5)));
    let none = Duration::ZERO;
    assert_eq!(wgl::check(&history, &config(1_000_000, none)), undecided(Why::Time(none)));
    assert_eq!(wgl::check(&history, &config(1_000_000, Duration::MAX)), Verdict::Linearizable);

    history.push(by(1, 0, 10).on("b").read(7777, 1, 1));
    let verdict = wgl::check(&history, &config(5, hour));
    assert!(matches!(&verdict, Verdict::Violation { key, .. } if key == "b"), "{verdict}");
}

/// Rounds of writes without an answer among answered ones; compare-and-swaps that do not hold may have seen any.
fn many_unknown(rounds: u64) -> Vec<Operation> {
    let mut history = Vec::new();
    for round in 1..=rounds {
        let (begin, revision) = (round * 1000, round * 10);
        history.push(open(1, begin).put_unknown(round * 2));
        history.push(open(2, begin + 10).delete_unknown());
        history.push(by(3, begin + 20, begin + 30).put(round * 2 + 1, revision));
        history.push(by(3, begin + 40, begin + 50).unmet(revision - 10, 100_000 + round, revision + 5, None));
        history.push(by(4, begin + 40, begin + 70).read(round * 2 + 1, revision, revision + 1));
    }
    history
}

#[test]
fn many_writes_without_an_answer_do_not_hinder_the_search() {
    let mut history = many_unknown(20);
    assert_eq!(search(&history), Verdict::Linearizable);
    assert_eq!(texts(&revisions::check(&history, &SESSIONS)), Vec::<String>::new());
    history.push(by(5, 50_000, 50_010).read(3, 10, 500));
    let verdict = search(&history);
    assert!(matches!(verdict, Verdict::Violation { .. }), "{verdict}");
}

#[test]
fn a_long_history_is_searched_without_recursion() {
    let rounds = 1..=20_000_u64;
    let mut history: Vec<Operation> =
        rounds.map(|round| by(1, round * 10, round * 10 + 15).put(round, round)).collect();
    history.push(by(2, 300_000, 300_010).read(20_000, 20_000, 20_000));
    assert_eq!(search(&history), Verdict::Linearizable);
    assert!(revisions::check(&history, &SESSIONS).is_empty());
}

#[test]
fn a_history_reads_back_from_its_lines_and_the_lines_stay_as_they_are() {
    for (name, history) in good::histories() {
        let line = |operation: &Operation| serde_json::to_string(operation).expect("numbers and strings");
        let lines: Vec<String> = history.iter().map(line).collect();
        let read = |line: &String| serde_json::from_str::<Operation>(line).expect("written above");
        assert_eq!(lines.iter().map(read).collect::<Vec<_>>(), history, "{name}");
    }
    let check = |operation: Operation, expected: &str| {
        assert_eq!(serde_json::to_string(&operation).expect("numbers and strings"), expected);
    };
    check(
        by(3, 5, 9).lease(Some((17, 4)), 6),
        concat!(
            r#"{"client":3,"key":"k","call":{"get":{"level":"lease"}},"invoked_ns":5,"returned_ns":9,"#,
            r#""outcome":{"read":{"value":17,"modified":4,"at":6,"age_ms":null}}}"#,
        ),
    );
    check(
        by(3, 5, 9).unmet(2, 17, 6, None),
        concat!(
            r#"{"client":3,"key":"k","call":{"cas":{"expected_modified":2,"value":17}},"invoked_ns":5,"#,
            r#""returned_ns":9,"outcome":{"written":{"revision":6,"happened":false,"observed_modified":null}}}"#,
        ),
    );
    check(
        open(3, 5).delete_unknown(),
        r#"{"client":3,"key":"k","call":"delete","invoked_ns":5,"returned_ns":null,"outcome":"unknown"}"#,
    );
    assert!(serde_json::from_str::<Operation>(r#"{"client":3}"#).is_err());
}

#[test]
fn evidence_counts_what_was_invoked_in_a_stretch() {
    const SECOND_NS: u64 = 1_000_000_000;
    let at = |ns| by(1, ns, ns + 3 * SECOND_NS);
    let history = [
        at(0).put(10, 1),
        at(10).nothing(1),
        at(20).refused_put(11),
        at(SECOND_NS).unmet(7, 12, 2, None),
        at(2 * SECOND_NS + 1).delete(3, true),
        open(1, 2 * SECOND_NS + 2).put_unknown(13),
        Operation {
            outcome: Outcome::Read { value: None, modified: 0, at: 3, age_ms: Some(40) },
            ..at(3 * SECOND_NS).stale(None, 3)
        },
    ];
    let all = Evidence::of(&history);
    let expected = Evidence {
        operations: 7,
        succeeded: 5,
        refused: 1,
        unknown: 1,
        reads: 2,
        writes: 3,
        unmet: 1,
        length_ns: 3 * SECOND_NS + 1,
        per_second_min: Some(1),
        age_ms_max: Some(40),
    };
    assert_eq!(all, expected);
    assert_eq!(all.per_second(), 1);

    let late = Evidence::between(&history, 2 * SECOND_NS + 2, 6 * SECOND_NS);
    assert_eq!((late.operations, late.succeeded, late.per_second_min, late.per_second()), (2, 1, Some(0), 0));
    let short = Evidence::between(&history, 0, 20);
    assert_eq!((short.operations, short.per_second_min), (2, None));
}
