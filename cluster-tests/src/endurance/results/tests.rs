//! Which findings make which rows, and which meet the aims.

use super::*;
use crate::against::Histogram;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An hour in which all was well: 1000 puts, 1000 point reads and 100 lists, each one of a hundred disturbed.
fn good() -> Findings {
    let mut tallies = Tallies::default();
    for (kind, count) in [(Kind::Put, 1_000), (Kind::PointRead, 1_000), (Kind::List, 100)] {
        for number in 0..count {
            let is_undisturbed = number % 100 != 0;
            tallies.count(kind, is_undisturbed, Ok(ms(if is_undisturbed { 5 } else { 1_500 })));
        }
    }
    let holds = |mib: u64, open_files| Holds { resident_bytes: mib << 20, open_files, cpu: Duration::ZERO };
    let life = |node, first, last| Life { node, first, last, time: ms(120_000), cpu: ms(60_000) };
    let lives = vec![
        life(0, holds(60, 40), holds(64, 41)),
        life(1, holds(61, 40), holds(62, 40)),
        life(0, holds(50, 40), holds(58, 42)),
    ];
    Findings {
        tallies,
        kills: Kills { leaders: 2, followers: 1, silences: vec![ms(1_400), ms(20), ms(1_600)] },
        lives,
        elapsed: ms(600_000),
        lost: Vec::new(),
        old_reads: Vec::new(),
        equal: Ok(99),
    }
}

fn value(rows: &[Row], case: &str, name: &str) -> Option<Spread> {
    let row = rows.iter().find(|row| row.case == case)?;
    row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| *spread)
}

fn median(rows: &[Row], case: &str, name: &str) -> Option<f64> {
    value(rows, case, name).map(|spread| spread.median)
}

#[test]
fn all_requests_and_undisturbed_ones_have_rows_of_their_own() {
    let rows = rows(&good());
    let check = |case: &str, requests: f64, p50: f64, max: f64| {
        assert_eq!(median(&rows, case, "requests"), Some(requests), "{case}");
        assert_eq!(median(&rows, case, "p50 ms").map(f64::round), Some(p50), "{case}");
        assert_eq!(median(&rows, case, "max ms"), Some(max), "{case}");
    };
    check("puts of 256 B, all", 1_000.0, 5.0, 1_500.0);
    check("point reads, linearizable, but those due within 3s after a kill", 990.0, 5.0, 5.0);
    check("lists of 100 rows, linearizable, all", 100.0, 5.0, 1_500.0);
    assert_eq!(median(&rows, "all requests", "requests"), Some(2_100.0));
    assert_eq!(median(&rows, "all requests", "succeeded/s"), Some(3.5));
    assert!(!rows.iter().any(|row| row.case == "failed, by reason"), "nothing failed");
}

#[test]
fn failures_are_told_by_their_reasons() {
    let mut found = good();
    found.tallies.count(Kind::Put, true, Err("no_quorum"));
    found.tallies.count(Kind::List, false, Err("no_quorum"));
    found.tallies.count(Kind::List, false, Err("no answer"));
    let rows = rows(&found);
    assert_eq!(median(&rows, "failed, by reason", "no_quorum"), Some(2.0));
    assert_eq!(median(&rows, "failed, by reason", "no answer"), Some(1.0));
    assert_eq!(median(&rows, "lists of 100 rows, linearizable, all", "failed"), Some(2.0));
    let rate = rows[0].success_rate;
    assert!((rate - 2_100.0 / 2_103.0).abs() < 1e-9, "{rate}");
}

#[test]
fn kills_and_daemons_are_told() {
    let rows = rows(&good());
    assert_eq!(median(&rows, "kills", "of leaders"), Some(2.0));
    assert_eq!(median(&rows, "kills", "no success p50 ms"), Some(1_400.0));
    assert_eq!(median(&rows, "kills", "no success max ms"), Some(1_600.0));
    assert_eq!(median(&rows, "after the end", "lost writes"), Some(0.0));
    assert_eq!(median(&rows, "n1, where the run begins", "resident MiB"), Some(60.0));
    assert_eq!(median(&rows, "n1, where the run ends, life 2 of its process", "open fds"), Some(42.0));
    assert_eq!(median(&rows, "n2, where the run ends, life 1 of its process", "life s"), Some(120.0));
    let ends = value(&rows, "all 3 lives, where each ends", "resident MiB");
    assert_eq!(ends, Some(Spread { median: 62.0, min: 58.0, max: 64.0 }));
    assert_eq!(median(&rows, "all daemons together", "cores"), Some(0.3));
}

#[test]
fn each_aim_is_missed_by_itself() {
    let check = |change: fn(&mut Findings), expected: [bool; 5]| {
        let mut found = good();
        change(&mut found);
        let aims = aims(&found);
        assert_eq!(aims.iter().map(|aim| aim.met).collect::<Vec<bool>>(), expected, "{aims:?}");
    };
    check(|_| {}, [true; 5]);
    // Two of 2102 are within the aim, three of 2103 are not.
    check(|it| (0..2).for_each(|_| it.tallies.count(Kind::Put, true, Err("no_quorum"))), [true; 5]);
    let failing: fn(&mut Findings) = |it| (0..3).for_each(|_| it.tallies.count(Kind::Put, true, Err("no_quorum")));
    check(failing, [false, true, true, true, true]);
    let slow_reads: fn(&mut Findings) = |it| (0..20).for_each(|_| it.tallies.count(Kind::PointRead, false, Ok(ms(60))));
    check(slow_reads, [true, false, true, true, true]);
    check(|it| it.tallies.count(Kind::List, false, Ok(ms(60))), [true, true, false, true, true]);
    check(|it| it.lost.push("k is gone".to_owned()), [true, true, true, false, true]);
    check(|it| it.old_reads.push("k was old".to_owned()), [true, true, true, false, true]);
    check(|it| it.equal = Err("applied: [1, 2, 3]".to_owned()), [true, true, true, true, false]);
}

#[test]
fn without_any_request_nothing_is_reached() {
    let found = Findings { tallies: Tallies::default(), lives: Vec::new(), ..good() };
    let met: Vec<bool> = aims(&found).iter().map(|aim| aim.met).collect();
    assert_eq!(met, [false, false, false, true, true]);
    assert!(rows(&found)[0].success_rate.abs() < 1e-9);
    assert_eq!(Histogram::default().quantile_ms(0.99), None);
}
