//! Rows and aims of runs that were made up.

use super::*;
use crate::mcp::bridge::Bridged;
use crate::mcp::handshakes::Holds;
use crate::mcp::page;

fn outcome(answers: usize, ms: f64, failed: u64) -> Outcome {
    let whole = vec![ms / 1_000.0; answers];
    Outcome { first: whole.clone(), whole, failed, elapsed: Duration::from_secs(1) }
}

/// A run in which all is as it is wanted.
fn good() -> Run {
    let lists = LISTING.map(|clients| Lists { clients, outcome: outcome(1_000, 1.5, 0) }).into();
    let calls = vec![Calls { outcome: outcome(600, 2.0, 0), cpu: Duration::from_millis(100) }];
    let forwarded = Forwarded { puts: vec![0.004; 100], changes: vec![0.0085; 100], ..Forwarded::default() };
    let under_kills = UnderKills { acknowledged: vec![0.005; 1_000], kills: 20, ..UnderKills::default() };
    let holds = |resident_mib: u64| Holds { resident_bytes: resident_mib << 20, open_files: 50 };
    let handshakes = Handshakes {
        greeted: 10_000,
        base: holds(60),
        most: holds(80),
        after: holds(62),
        settled: Some(Duration::from_secs(3)),
        ..Handshakes::default()
    };
    let wait = Some(Duration::from_millis(600));
    let bridge = Bridged { answered: 200, first: wait, slowest: wait, ..Bridged::default() };
    Run { lists, calls, forwarded, under_kills, handshakes, bridge }
}

fn whole() -> Plan {
    Plan::of(1, 7, false)
}

/// Words of the aims that are missed.
fn missed(runs: &[Run]) -> Vec<String> {
    aims(&whole(), runs, &rows(runs)).into_iter().filter(|aim| !aim.met).map(|aim| aim.what).collect()
}

#[test]
fn a_good_run_misses_nothing_and_every_row_is_whole() {
    let runs = [good(), good()];
    assert_eq!(missed(&runs), Vec::<String>::new());
    let rows = rows(&runs);
    assert_eq!(rows.len(), LISTING.len() + 6);
    for row in &rows {
        assert!((row.success_rate - 1.0).abs() < 1e-9, "{row:?}");
    }
    assert_eq!(aims(&whole(), &runs, &rows).len(), 9);
}

#[test]
fn each_promise_is_missed_by_itself() {
    let check = |spoil: fn(&mut Run), expected: &[&str]| {
        let mut run = good();
        spoil(&mut run);
        let missed = missed(&[run]);
        assert_eq!(missed.len(), expected.len(), "{missed:?}");
        for (what, words) in missed.iter().zip(expected) {
            assert!(what.contains(words), "{what}: {words}");
        }
    };
    check(|run| run.lists[0].outcome = outcome(1_000, 2.1, 0), &["p99 of 1 client"]);
    // As many ask at once as there are; how long that takes is told and not judged.
    check(|run| run.lists[1].outcome = outcome(1_000, 90.0, 0), &[]);
    check(|run| run.lists[2].outcome = outcome(1_000, 90.0, 1), &["1000 clients"]);
    check(|run| run.lists[2].outcome = outcome(0, 0.0, 0), &["1000 clients"]);
    check(|run| run.forwarded.changes = vec![0.0091; 100], &["beyond that of one commit"]);
    check(|run| run.calls[0].cpu = Duration::from_millis(121), &["a second of one core"]);
    check(|run| run.under_kills.failed = 1, &["not acknowledged"]);
    check(|run| run.under_kills.lost = 1, &["effects lost"]);
    check(|run| run.under_kills.doubled = 1, &["effects doubled"]);
    check(|run| run.handshakes.settled = None, &["memory and files"]);
    check(|run| run.handshakes.after.resident_bytes = 77 << 20, &["memory and files"]);
    check(|run| run.handshakes.after.open_files = 1_050, &["memory and files"]);
    check(|run| run.bridge.slowest = Some(Duration::from_secs(3)), &["longest wait"]);
    check(|run| run.bridge.slowest = None, &["longest wait"]);
}

/// A bridge that answered everything with an error once met all that is wanted of it.
#[test]
fn an_answer_of_the_bridge_that_is_an_error_is_no_success() {
    let mut run = good();
    run.bridge.errors = 50;
    let rows = rows(&[run]);
    let row = rows.iter().find(|row| row.case == BRIDGE).expect("it is there");
    assert!((row.success_rate - 0.75).abs() < 1e-9, "{row:?}");
}

#[test]
fn of_several_runs_the_worst_counts_where_it_is_a_promise() {
    let mut bad = good();
    bad.handshakes.after = Holds { resident_bytes: 100 << 20, open_files: 60 };
    (bad.under_kills.failed, bad.under_kills.kills) = (1, 3);
    let aims = aims(&whole(), &[good(), bad, good()], &rows(&[good()]));
    let found = |words: &str| aims.iter().find(|aim| aim.what.contains(words)).expect("it is wanted");
    let memory = found("memory");
    assert_eq!((memory.found.as_str(), memory.met), ("40.0 MiB and 10 files more", false));
    // How often somebody was killed stands beside what that did.
    assert_eq!(found("not acknowledged").found, "1, in 3 kills");
}

#[test]
fn a_change_without_effect_or_with_two_is_no_success() {
    let mut run = good();
    run.under_kills = UnderKills { acknowledged: vec![0.005; 97], failed: 1, lost: 2, doubled: 1, ..run.under_kills };
    let rate = of_kills(&[run]).success_rate;
    assert!((rate - 94.0 / 98.0).abs() < 1e-9, "{rate}");
}

#[test]
fn what_has_columns_of_its_own_stands_in_a_table_of_its_own() {
    let rows = rows(&[good()]);
    for pair in rows.windows(2) {
        let names = |row: &Row| row.values.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        let (first, second) = (names(&pair[0]), names(&pair[1]));
        // A table has the columns of one of its rows.
        let is_within =
            first.iter().all(|name| second.contains(name)) || second.iter().all(|name| first.contains(name));
        let is_apart = !first.iter().any(|name| second.contains(name));
        assert!(is_within || is_apart, "{first:?} {second:?}");
    }
}

/// The rows of a page's tables, each without its last cell, which is what a run found.
fn wanted(page: &str) -> Vec<&str> {
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |"));
    rows.filter_map(|row| row.rsplit_once(" | ")).map(|(wanted, _)| wanted).collect()
}

#[test]
fn the_page_of_the_door_wants_what_is_measured() {
    let (_, page, _) = page::parts(include_str!("../../../../docs/architecture/mcp.md")).expect("marks");
    let report = crate::mcp::report(&whole(), "0.1.0".to_owned(), &[good()]);
    let made = page::made(&whole(), &report).expect("text");
    assert_eq!(wanted(page), wanted(&made), "docs/architecture/mcp.md should have between its marks:\n{made}");
}
