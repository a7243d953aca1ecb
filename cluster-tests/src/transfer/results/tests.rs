//! Rows and aims, of outcomes that are made up.

use super::*;
use crate::transfer::plan::Peer;

/// T is one second.
fn plan() -> Plan {
    Plan {
        nodes: vec![2, 4],
        size_bytes: 100_000_000,
        free_bytes: 1_000_000_000 + BEGUN_BYTES,
        mbit: 800,
        peers: vec![Peer::Nginx, Peer::Aria2Bt],
        runs: 1,
    }
}

fn cost(cpu_ms: u64, peak_mb: u64) -> Cost {
    Cost { cpu: Duration::from_millis(cpu_ms), peak_bytes: peak_mb * 1_000_000 }
}

/// The last of so many nodes has it after this time; the others half of it before.
fn outcome(nodes: usize, makespan_ms: u64, sent_bytes: u64) -> Outcome {
    let time = Duration::from_millis(makespan_ms);
    let mut finished = vec![Some(time / 2); nodes - 1];
    finished.push(Some(time));
    Outcome {
        finished,
        began: Some(Duration::from_millis(100)),
        sent_bytes,
        seed: cost(50, 90),
        receivers: vec![cost(80, 120); nodes],
    }
}

fn found(system: System, nodes: usize, makespan_ms: u64, sent_bytes: u64) -> Found {
    Found { system, nodes, outcomes: vec![outcome(nodes, makespan_ms, sent_bytes)] }
}

/// All aims are met.
fn good() -> Vec<Found> {
    vec![
        found(System::Nodes, 2, 1_300, 105_000_000),
        found(System::Nodes, 4, 1_100, 110_000_000),
        found(System::Registry, 4, 2_500, 101_000_000),
        found(System::Peer(Peer::Nginx), 4, 4_200, 400_000_000),
        found(System::Peer(Peer::Aria2Bt), 4, 1_900, 180_000_000),
    ]
}

/// One gigabyte in one second, and a little less.
fn free(ours_ms: u64) -> Free {
    Free { ours: vec![outcome(1, ours_ms, 0)], nginx: vec![outcome(1, 1_100, 0)] }
}

fn met(found: &[Found], free: &Free) -> Vec<bool> {
    aims(&plan(), found, free).iter().map(|aim| aim.met).collect()
}

#[test]
fn each_aim_is_missed_by_itself() {
    let all = [true; 6];
    assert_eq!(met(&good(), &free(1_200)), all);
    let check = |missed: usize, change: fn(&mut Vec<Found>)| {
        let mut changed = good();
        change(&mut changed);
        let expected: Vec<bool> = (0..all.len()).map(|index| index != missed).collect();
        assert_eq!(met(&changed, &free(1_200)), expected, "aim {missed}");
    };
    check(0, |found| found[1] = super::tests::found(System::Nodes, 4, 1_160, 1));
    check(1, |found| found[3] = super::tests::found(System::Peer(Peer::Nginx), 4, 1_100, 1));
    check(2, |found| found[4] = super::tests::found(System::Peer(Peer::Aria2Bt), 4, 1_050, 1));
    // Any number of nodes counts.
    check(3, |found| found[0] = super::tests::found(System::Nodes, 2, 1_300, 125_000_000));
    check(4, |found| found[2].outcomes[0].receivers[3].peak_bytes = 257_000_000);
    // 1.12 s for what takes nginx one.
    let mut expected = all;
    expected[5] = false;
    assert_eq!(met(&good(), &free(1_220)), expected);
}

#[test]
fn a_seed_that_is_a_registry_may_be_large_and_one_that_is_a_node_may_not() {
    let mut changed = good();
    changed[2].outcomes[0].seed.peak_bytes = 900_000_000;
    assert!(met(&changed, &free(1_200))[4]);
    changed[0].outcomes[0].seed.peak_bytes = 257_000_000;
    assert!(!met(&changed, &free(1_200))[4]);
}

#[test]
fn a_node_without_the_file_misses_every_aim_of_its_row() {
    let mut changed = good();
    changed[1].outcomes[0].finished[0] = None;
    assert_eq!(met(&changed, &free(1_200)), [false, false, false, false, true, true]);
    let row = changed[1].row(&plan());
    assert!((row.success_rate - 0.75).abs() < 1e-9, "{row:?}");
    assert!(row.values.iter().all(|(name, _)| !name.starts_with("makespan")), "{row:?}");
}

#[test]
fn what_was_not_measured_is_no_aim() {
    assert!(met(&[], &Free::default()).is_empty());
    let alone = vec![found(System::Nodes, 8, 1_100, 100_000_000)];
    assert_eq!(aims(&plan(), &alone, &Free::default()).len(), 3, "makespan, sent bytes, memory");
}

#[test]
fn a_row_counts_in_times_of_a_copy_and_in_sizes_of_the_file() {
    let row = found(System::Nodes, 4, 1_100, 110_000_000).row(&plan());
    let value = |wanted: &str| row.values.iter().find(|(name, _)| *name == wanted).map(|(_, spread)| *spread);
    let check = |name: &str, min: f64, max: f64| {
        let spread = value(name).unwrap_or_else(|| panic!("no {name}"));
        assert!((spread.min - min).abs() < 1e-9 && (spread.max - max).abs() < 1e-9, "{name}: {spread:?}");
    };
    check("makespan T", 1.1, 1.1);
    check("node s", 0.55, 1.1);
    check("begins s", 0.1, 0.1);
    check("seed sends x", 1.1, 1.1);
    check("seed cpu s/GB", 0.5, 0.5);
    check("node cpu s/GB", 0.8, 0.8);
    check("seed peak MB", 90.0, 90.0);
    check("node peak MB", 120.0, 120.0);
    assert_eq!((row.clients, row.case.as_str()), (4, "ollamax, one node has it"));
}

#[test]
fn loopback_stands_in_rows_of_its_own_and_counts_from_the_first_bytes() {
    let rows = rows(&plan(), &good(), &free(1_100));
    assert_eq!(rows.len(), good().len() + 2);
    let shaped = &rows[0].values;
    for row in &rows[good().len()..] {
        let (name, rate) = row.values[0];
        assert!(name == "GB/s" && (rate.median - 1.0).abs() < 1e-9, "{row:?}");
        assert!(row.values.iter().all(|(name, _)| shaped.iter().all(|(other, _)| other != name)), "{row:?}");
    }
}
