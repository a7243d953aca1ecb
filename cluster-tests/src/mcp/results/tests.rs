//! Rows and aims of runs that were made up.

use super::*;
use crate::mcp::handshakes::Holds;

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
    let bridge = Some(Bridged { answered: 200, first: wait, slowest: wait, ..Bridged::default() });
    Run { lists, calls, forwarded, under_kills, handshakes, bridge }
}

/// Words of the aims that are missed.
fn missed(runs: &[Run]) -> Vec<String> {
    aims(runs, &rows(runs)).into_iter().filter(|aim| !aim.met).map(|aim| aim.what).collect()
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
    assert_eq!(aims(&runs, &rows).len(), 10);
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
    check(|run| run.lists[0].outcome = outcome(1_000, 2.1, 0), &["p99 at 1 client"]);
    // As many ask at once as there are; how long that takes is told and not judged.
    check(|run| run.lists[1].outcome = outcome(1_000, 90.0, 0), &[]);
    check(|run| run.lists[2].outcome = outcome(1_000, 90.0, 1), &["1000 clients"]);
    check(|run| run.lists[2].outcome = outcome(0, 0.0, 0), &["1000 clients"]);
    check(|run| run.forwarded.changes = vec![0.0091; 100], &["beyond that of one commit"]);
    check(|run| run.calls[0].cpu = Duration::from_millis(121), &["a second and core"]);
    check(|run| run.under_kills.failed = 1, &["not acknowledged"]);
    check(|run| run.under_kills.lost = 1, &["effects lost"]);
    check(|run| run.under_kills.doubled = 1, &["effects doubled"]);
    check(|run| run.handshakes.settled = None, &["memory and files"]);
    check(|run| run.handshakes.after.resident_bytes = 77 << 20, &["memory and files"]);
    check(|run| run.handshakes.after.open_files = 1_050, &["memory and files"]);
    check(|run| run.bridge = run.bridge.map(|it| Bridged { slowest: Some(Duration::from_secs(3)), ..it }), &["wait"]);
    check(|run| run.bridge = None, &[]);
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

#[test]
fn a_program_without_the_bridge_has_no_row_of_it() {
    let run = Run { bridge: None, ..good() };
    assert!(!rows(&[run]).iter().any(|row| row.case == BRIDGE));
}
