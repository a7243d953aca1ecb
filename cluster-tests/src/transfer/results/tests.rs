//! Rows and aims, of outcomes that are made up.

use super::*;
use crate::transfer::plan::Peer;
use crate::transfer::watched::Io;

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
        failures: Vec::new(),
    }
}

fn measured(system: System, nodes: usize, makespan_ms: u64, sent_bytes: u64) -> Found {
    Found { system, nodes, outcomes: vec![outcome(nodes, makespan_ms, sent_bytes)] }
}

/// All aims are met.
fn good() -> Vec<Found> {
    vec![
        measured(System::Nodes, 2, 1_300, 105_000_000),
        measured(System::Nodes, 4, 1_100, 110_000_000),
        measured(System::Quarter, 4, 400, 27_500_000),
        measured(System::Registry, 4, 2_500, 101_000_000),
        measured(System::Peer(Peer::Nginx), 4, 4_200, 400_000_000),
        measured(System::Peer(Peer::Aria2Bt), 4, 1_900, 180_000_000),
    ]
}

/// What a node read and wrote while it adopted a file of a gigabyte and a little.
fn adopted(read_bytes: u64, written_bytes: u64) -> Adopted {
    let io = Io { read_bytes, written_bytes, ..Io::default() };
    Adopted { time: Duration::from_secs(2), cost: cost(900, 100), io }
}

/// One gigabyte in one second, and a little less.
fn free(ours_ms: u64) -> Free {
    Free {
        ours: vec![outcome(1, ours_ms, 0)],
        lanes: vec![outcome(1, 4_100, 0)],
        quarter: vec![outcome(1, 400, 0)],
        nginx: vec![outcome(1, 1_100, 0)],
        adopted: vec![Some(adopted(1_010_000_000, 2_000_000))],
        catalogued: vec![Some(Duration::from_millis(450))],
    }
}

fn found_aims(found: &[Found], free: &Free) -> Vec<(String, bool)> {
    aims(&plan(), found, free).into_iter().map(|aim| (aim.what, aim.met)).collect()
}

/// The aims that are missed, each by words that no other one has.
fn missed(found: &[Found], free: &Free) -> Vec<&'static str> {
    let all = found_aims(found, free);
    assert!(all.iter().all(|(what, _)| NAMES.iter().filter(|name| what.contains(*name)).count() == 1), "{all:?}");
    let is_missed = |name: &str| all.iter().any(|(what, met)| !met && what.contains(name));
    NAMES.into_iter().filter(|name| is_missed(name)).collect()
}

/// Words of each aim, in the order of the aims.
const NAMES: [&str; 11] = [
    "in times of one copy",
    "beside nginx and curl",
    "beside aria2, BitTorrent",
    "what the seed sends",
    "the whole file, MB",
    "a quarter of it, MB",
    "beside nginx with TLS",
    "beside libp2p alone",
    "bytes read",
    "bytes written",
    "lists 100 models",
];

#[test]
fn each_aim_is_missed_by_itself() {
    let all = found_aims(&good(), &free(1_200));
    assert_eq!(all.len(), NAMES.len());
    for ((what, met), name) in all.iter().zip(NAMES) {
        assert!(*met && what.contains(name), "{what}: {met}");
    }
    let check = |expected: &'static str, change: fn(&mut Vec<Found>, &mut Free)| {
        let (mut found, mut free) = (good(), free(1_200));
        change(&mut found, &mut free);
        assert_eq!(missed(&found, &free), [expected]);
    };
    check("in times of one copy", |found, _| found[1] = measured(System::Nodes, 4, 1_160, 1));
    check("beside nginx and curl", |found, _| found[4] = measured(System::Peer(Peer::Nginx), 4, 1_100, 1));
    check("beside aria2, BitTorrent", |found, _| found[5] = measured(System::Peer(Peer::Aria2Bt), 4, 1_050, 1));
    // Any number of nodes counts.
    check("what the seed sends", |found, _| found[0] = measured(System::Nodes, 2, 1_300, 125_000_000));
    check("the whole file, MB", |found, _| found[3].outcomes[0].receivers[3].peak_bytes = 257_000_000);
    check("the whole file, MB", |_, free| free.lanes[0].seed.peak_bytes = 257_000_000);
    check("a quarter of it, MB", |found, _| found[2].outcomes[0].seed.peak_bytes = 257_000_000);
    check("a quarter of it, MB", |_, free| free.quarter[0].receivers[0].peak_bytes = 257_000_000);
    // 1.12 s for what takes nginx one.
    check("beside nginx with TLS", |_, free| free.ours = vec![outcome(1, 1_220, 0)]);
    // 2.9 s for what takes ours 1.1 over TCP.
    check("beside libp2p alone", |_, free| free.lanes = vec![outcome(1, 3_000, 0)]);
    check("beside libp2p alone", |_, free| free.lanes = vec![Outcome::nothing(1, "no".to_owned())]);
    check("bytes read", |_, free| free.adopted = vec![Some(adopted(1_060_000_000, 0))]);
    check("bytes written", |_, free| free.adopted.push(Some(adopted(1, 11_000_000))));
    check("lists 100 models", |_, free| free.catalogued = vec![Some(Duration::from_millis(501))]);
    check("lists 100 models", |_, free| free.catalogued = vec![None]);
}

#[test]
fn a_seed_that_is_a_registry_may_be_large_and_one_that_is_a_node_may_not() {
    let mut changed = good();
    changed[3].outcomes[0].seed.peak_bytes = 900_000_000;
    assert!(missed(&changed, &free(1_200)).is_empty());
    changed[0].outcomes[0].seed.peak_bytes = 257_000_000;
    assert_eq!(missed(&changed, &free(1_200)), ["the whole file, MB"]);
}

#[test]
fn a_node_without_the_file_misses_every_aim_of_its_row() {
    let mut changed = good();
    changed[1].outcomes[0].finished[0] = None;
    assert_eq!(missed(&changed, &free(1_200)), NAMES[..4]);
    let row = changed[1].row(&plan());
    assert!((row.success_rate - 0.75).abs() < 1e-9, "{row:?}");
    assert!(row.values.iter().all(|(name, _)| !name.starts_with("makespan")), "{row:?}");
}

#[test]
fn what_was_not_measured_is_no_aim() {
    assert!(found_aims(&[], &Free::default()).is_empty());
    let alone = vec![measured(System::Nodes, 8, 1_100, 100_000_000)];
    assert_eq!(found_aims(&alone, &Free::default()).len(), 3, "makespan, sent bytes, memory");
}

#[test]
fn a_file_that_was_not_adopted_misses_both_aims_and_shows_in_its_row() {
    let failed = Free { adopted: vec![None], ..free(1_200) };
    assert_eq!(missed(&good(), &failed), ["bytes read", "bytes written"]);
    let half = Free { adopted: vec![None, Some(adopted(1_010_000_000, 0))], ..Free::default() };
    let rows = half.rows(&plan());
    let [row] = &rows[..] else { panic!("one row: {rows:?}") };
    assert!((row.success_rate - 0.5).abs() < 1e-9, "{row:?}");
    let reads = row.values.iter().find(|(name, _)| *name == "reads x").map(|(_, spread)| spread.median);
    assert!(reads.is_some_and(|reads| (1.0..1.01).contains(&reads)), "{row:?}");
}

#[test]
fn a_quarter_counts_in_its_own_size_and_its_own_time() {
    let row = measured(System::Quarter, 4, 250, 25_000_000).row(&plan());
    for (name, expected) in [("makespan T", 1.0), ("seed sends x", 1.0), ("seed cpu s/GB", 2.0)] {
        let found = row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| spread.median);
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-9), "{name}: {row:?}");
    }
}

#[test]
fn a_row_counts_in_times_of_a_copy_and_in_sizes_of_the_file() {
    let row = measured(System::Nodes, 4, 1_100, 110_000_000).row(&plan());
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
    let [courses @ .., adoption, catalog] = &rows[good().len()..] else { panic!("two rows at least: {rows:?}") };
    assert_eq!(courses.len(), 4);
    let shaped = &rows[0].values;
    for (row, expected) in courses.iter().zip([1.0, 0.25, 0.822, 1.0]) {
        let (name, rate) = row.values[0];
        assert!(name == "GB/s" && (rate.median - expected).abs() < 1e-2, "{row:?}");
        assert!(row.values.iter().all(|(name, _)| shaped.iter().all(|(other, _)| other != name)), "{row:?}");
    }
    for row in [adoption, catalog] {
        let others = || rows.iter().filter(|other| other.case != row.case).flat_map(|other| &other.values);
        let is_there = |wanted: &str| others().any(|(it, _)| *it == wanted);
        assert!(!row.values.is_empty() && row.values.iter().all(|(name, _)| !is_there(name)), "{row:?}");
    }
    let [(name, listed)] = catalog.values[..] else { panic!("one column: {catalog:?}") };
    assert!(name == "listed after s" && (listed.median - 0.45).abs() < 1e-9, "{catalog:?}");
}

#[test]
fn why_a_course_failed_is_told_wherever_it_ran() {
    let (plan, mut found, mut free) = (plan(), good(), free(1_100));
    assert_eq!(failures(&found, &free), Vec::<String>::new());
    found[4].outcomes.push(Outcome::nothing(4, "run 2: a".to_owned()));
    free.quarter = vec![Outcome::nothing(1, "run 1: b".to_owned())];
    assert_eq!(failures(&found, &free), ["run 2: a", "run 1: b"]);
    let row = rows(&plan, &found, &free).into_iter().find(|row| row.case == "nginx and curl").expect("it was run");
    assert!(row.success_rate < 1.0, "{row:?}");
}
