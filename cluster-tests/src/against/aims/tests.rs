//! Which findings meet the aims.

use std::time::Duration;

use super::*;
use crate::against::failover::Trial;
use crate::against::generator::Measured;
use crate::report::Spread;

fn plan(cases: Vec<Case>, clients: Vec<usize>) -> Plan {
    let time = Duration::from_secs(1);
    Plan { runs: 1, warm: time, time, clients, cases, failovers: 1, perf: time }
}

/// Rows of one case at the leader: rate and memory of both.
fn rows(case: Case, clients: usize, ours: (f64, f64), etcd: (f64, f64)) -> Vec<Row> {
    let row = |which, (rate, resident)| {
        let spread = |value: f64| Spread { median: value, min: value, max: value };
        Row {
            case: label(which, Kind::Closed(case), Through::Leader),
            clients,
            success_rate: 1.0,
            values: vec![(RATE, spread(rate)), (RESIDENT, spread(resident))],
        }
    };
    vec![row(Which::Ours, ours), row(Which::Etcd, etcd)]
}

fn judged(aims: &[Aim]) -> Vec<(&str, &str, bool)> {
    aims.iter().map(|aim| (aim.what.as_str(), aim.found.as_str(), aim.met)).collect()
}

#[test]
fn rates_are_judged_beside_etcd() {
    let check = |case: Case, clients: usize, ours: f64, expected: Option<bool>| {
        let rows = rows(case, clients, (ours, 50.0), (1_000.0, 40.0));
        let aims = beside(&plan(vec![case], vec![clients]), &rows);
        let (memory, rates) = aims.split_last().expect("memory is always judged");
        assert!(memory.met && memory.found == "10.0 MiB more", "{memory:?}");
        assert_eq!(rates.first().map(|aim| aim.met), expected, "{case:?} {clients} {ours}");
    };
    check(Case::Put, 1, 950.0, Some(true));
    check(Case::Put, 1, 949.0, Some(false));
    check(Case::PutLarge, 64, 999.0, Some(false));
    check(Case::Swap, 256, 1_000.0, Some(true));
    check(Case::Put, 8, 1.0, None);
    check(Case::Get, 8, 800.0, Some(true));
    check(Case::Get, 64, 799.0, Some(false));
    check(Case::GetStale, 64, 1.0, None);
    check(Case::Mixed, 64, 1.0, None);
}

#[test]
fn memory_is_judged_by_the_worst_load() {
    let mut all = rows(Case::Put, 1, (1.0, 50.0), (1.0, 40.0));
    all.extend(rows(Case::Get, 1, (1.0, 110.0), (1.0, 40.0)));
    let aims = beside(&plan(vec![Case::Put, Case::Get], vec![1]), &all);
    let last = aims.last().expect("memory");
    assert!(!last.met && last.found == "70.0 MiB more", "{last:?}");
    assert!(beside(&plan(vec![Case::Put], vec![1]), &[]).is_empty());
}

fn trials(which: Which, event: Event, list: &[(Option<u64>, u64)]) -> Trials {
    let trial = |&(ms, failed): &(Option<u64>, u64)| Trial { gap: ms.map(Duration::from_millis), failed };
    Trials { which, pace: Pace::Default, event, trials: list.iter().map(trial).collect() }
}

#[test]
fn a_lost_leader_is_judged_by_gap_and_failures() {
    let found = [
        trials(Which::Etcd, Event::Kill, &[(None, 0)]),
        trials(Which::Ours, Event::Kill, &[(Some(1_000), 3), (Some(1_200), 3), (Some(3_100), 3)]),
        trials(Which::Ours, Event::Stop, &[(Some(100), 0), (Some(150), 0)]),
        trials(Which::Ours, Event::HandOver, &[(Some(20), 1)]),
    ];
    assert_eq!(
        judged(&failovers(&found)),
        [
            ("kill -9 of the leader: gap p50", "1200.0 ms", true),
            ("kill -9 of the leader: gap, the worst", "3100.0 ms", false),
            ("graceful stop of the leader: gap, the worst", "150.0 ms", true),
            ("graceful stop of the leader: failed writes", "0", true),
            ("hand-over of leadership: gap, the worst", "20.0 ms", true),
            ("hand-over of leadership: failed writes", "1", false),
        ]
    );
    let lost = failovers(&[trials(Which::Ours, Event::Kill, &[(Some(1), 0), (None, 0)])]);
    assert!(lost.iter().all(|aim| !aim.met && aim.found == "nothing"), "{lost:?}");
}

#[test]
fn syncs_are_judged_by_the_group() {
    let of = |which, clients, grouped| Syncs {
        which,
        clients,
        failed: 0,
        writes: 100,
        fsyncs: vec![110.0, 110.0, 110.0],
        leader: 0,
        groups: Some(300.0),
        leader_grouped_per_group: Some(grouped),
        by_strace: true,
    };
    let found = [of(Which::Ours, 1, 1.0), of(Which::Etcd, 1, 1.0), of(Which::Ours, 64, 12.0)];
    assert_eq!(
        judged(&syncs(&found)),
        [
            ("fsyncs per node and group at 1 clients", "1.10", true),
            ("fsyncs per node and group at 64 clients", "1.10", true),
            ("writes that share one sync of the leader at 64 clients", "12.0", false),
        ]
    );
}

#[test]
fn the_rule_of_check_perf_is_kept() {
    let [small, _] = PROFILES;
    let check = |latencies: &[u64], failed: u64, met: bool| {
        let mut measured = Measured { failed, elapsed: Duration::from_secs(1), ..Measured::default() };
        latencies.iter().for_each(|ms| measured.latencies.add(Duration::from_millis(*ms)));
        let (which, kind, through) = (Which::Ours, Kind::Profile(small), Through::Any);
        let point = Point { which, kind, through, clients: 50, measured, leader_moved: false };
        let aims = profiles(&[point]);
        assert_eq!(judged(&aims).iter().map(|(.., met)| *met).collect::<Vec<_>>(), [met], "{aims:?}");
    };
    check(&[5; 150], 0, true);
    check(&[5; 130], 0, false);
    check(&[5; 150], 1, false);
    let mut slow = [5; 150];
    slow[0] = 501;
    check(&slow, 0, false);
    let mut uneven = [5; 150];
    uneven[..75].fill(400);
    check(&uneven, 0, false);
}
