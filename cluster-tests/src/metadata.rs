//! `bench metadata`: acknowledged writes of a three-node cluster, and what they cost its disks.
//!
//! Clients set configuration keys through the leader's admin socket, each waiting for its acknowledgement. What reaches
//! the disk is counted by each node: a sync of its log is one fsync, a rewrite of its high-water file is two. RocksDB's
//! own fsyncs, when it flushes the state every so many entries, are not in it.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::join_all;
use tokio::time::Instant;

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::Admin;

use crate::Options;
use crate::load::{Outcome, percentile};
use crate::machine::Machine;
use crate::report::{Report, Row, Spread};

const PATIENCE: Duration = Duration::from_secs(30);
/// What a node counts, and how many fsyncs each of it costs.
const FSYNCS: [(&str, f64); 2] = [("ollamax_store_syncs_total", 1.0), ("ollamax_store_high_water_writes_total", 2.0)];
/// Bytes of one value.
const VALUE_BYTES: usize = 100;

/// One measured point.
struct Point {
    clients: usize,
    outcome: Outcome,
    /// On the leader; `None` when it does not count them.
    leader_fsyncs: Option<f64>,
    /// On all nodes together; `None` when one does not count them.
    all_fsyncs: Option<f64>,
    /// Somebody else led at its end: part of the writes took one hop more.
    leader_moved: bool,
}

pub(crate) async fn measure(options: &Options) -> Result<Report> {
    let cluster = Cluster::builder("bench-metadata").unhurried().start().await?;
    let mut points = Vec::new();
    for run in 0..options.repeats.runs {
        for &clients in &options.clients {
            points.push(point(&cluster, run, clients, options.point()).await?);
        }
    }
    let rows = options.clients.iter().map(|clients| row(*clients, &points)).collect();
    let report = Report {
        bench: "metadata",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), cluster.status(0).await?.daemon_version)],
        runs: options.repeats.runs,
        point_seconds: options.seconds,
        rows,
        aims: Vec::new(),
        left_out: Vec::new(),
        notes: notes(&points),
    };
    cluster.finish().await?;
    Ok(report)
}

fn notes(points: &[Point]) -> Vec<String> {
    let mut notes = vec![
        format!("3 nodes on one machine and one disk; values of {VALUE_BYTES} bytes; through the leader"),
        "fsyncs: of the log, and two for each rewrite of the high-water file; flushes of the state are not counted"
            .to_owned(),
    ];
    if points.iter().any(|point| point.all_fsyncs.is_none()) {
        let names = FSYNCS.map(|(name, _)| name).join(" or ");
        notes.push(format!("a node does not show {names}; fsyncs per write are missing"));
    }
    let moved = points.iter().filter(|point| point.leader_moved).count();
    if moved > 0 {
        notes.push(format!(
            "the leader changed during {moved} of {} points; their writes went on through it",
            points.len()
        ));
    }
    notes
}

async fn point(cluster: &Cluster, run: usize, clients: usize, time: Duration) -> Result<Point> {
    let leader = cluster.leader(PATIENCE).await?;
    let node = cluster.node(leader);
    let socket = node.data_dir().join("admin.sock");
    let doors = (0..clients).map(|_| Admin::connect(node.name(), &socket));
    let doors: Vec<Admin> = doors.collect::<Result<_>>().context("open the admin socket")?;
    join_all(doors.iter().map(Admin::status)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let before = fsyncs(cluster).await?;
    let begin = Instant::now();
    let end = begin + time;
    let written = join_all(doors.iter().enumerate().map(|(client, door)| write(door, run, client, end))).await;
    let elapsed = begin.elapsed();
    let spent: Vec<Option<f64>> = spent(&before, &fsyncs(cluster).await?);
    let mut outcome = Outcome { elapsed, ..Outcome::default() };
    for one in written {
        outcome.whole.extend(one.whole);
        outcome.failed += one.failed;
    }
    outcome.whole.sort_by(f64::total_cmp);
    eprintln!("clients={clients}: {:.0} writes/s", outcome.per_second());
    Ok(Point {
        clients,
        outcome,
        leader_fsyncs: spent[leader],
        all_fsyncs: spent.into_iter().sum(),
        leader_moved: cluster.leader(PATIENCE).await? != leader,
    })
}

/// The fsyncs that each node has counted since its start.
pub(crate) async fn fsyncs(cluster: &Cluster) -> Result<Vec<Option<f64>>> {
    let mut counted = Vec::new();
    for index in 0..cluster.nodes().len() {
        let mut sum = Some(0.0);
        for (name, each) in FSYNCS {
            let count = cluster.metric(index, name).await?;
            sum = sum.zip(count).map(|(sum, count)| sum + count * each);
        }
        counted.push(sum);
    }
    Ok(counted)
}

/// What each node spent between two counts.
fn spent(before: &[Option<f64>], after: &[Option<f64>]) -> Vec<Option<f64>> {
    before.iter().zip(after).map(|(before, after)| before.zip(*after).map(|(before, after)| after - before)).collect()
}

/// One client, one write after the other.
async fn write(door: &Admin, run: usize, client: usize, end: Instant) -> Outcome {
    let value = [b'v'; VALUE_BYTES];
    let mut outcome = Outcome::default();
    let mut number = 0_u64;
    while Instant::now() < end {
        // A bounded set of keys, so that the state does not grow with the length of the benchmark.
        let key = format!("bench/{run}/{client}/{}", number % 100);
        match door.set(&key, &value).await {
            Ok(ack) => outcome.whole.push(ack.took.as_secs_f64()),
            Err(_) => outcome.failed += 1,
        }
        number += 1;
    }
    outcome
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn row(clients: usize, points: &[Point]) -> Row {
    let own: Vec<&Point> = points.iter().filter(|point| point.clients == clients).collect();
    let mut values = Vec::new();
    let mut add = |name, list: Vec<f64>| values.extend(Spread::of(list).map(|spread| (name, spread)));
    let milliseconds = |share| {
        let one = |point: &&Point| percentile(&point.outcome.whole, share).map(|seconds| seconds * 1_000.0);
        own.iter().filter_map(one).collect::<Vec<f64>>()
    };
    add("writes/s", own.iter().map(|point| point.outcome.per_second()).collect());
    add("p50 ms", milliseconds(0.5));
    add("p99 ms", milliseconds(0.99));
    let per_write = |of: fn(&Point) -> Option<f64>| {
        let one = |point: &&Point| {
            let writes = point.outcome.succeeded() as f64;
            of(point).filter(|_| writes > 0.0).map(|fsyncs| fsyncs / writes)
        };
        own.iter().filter_map(one).collect::<Vec<f64>>()
    };
    add("fsyncs/write", per_write(|point| point.leader_fsyncs));
    add("fsyncs/write, all nodes", per_write(|point| point.all_fsyncs));
    let good: u64 = own.iter().map(|point| point.outcome.succeeded()).sum();
    let bad: u64 = own.iter().map(|point| point.outcome.failed).sum();
    let success_rate = if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 };
    Row { case: "set a key".to_owned(), clients, success_rate, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(clients: usize, writes: usize, failed: u64, leader: Option<f64>, all: Option<f64>) -> Point {
        let outcome =
            Outcome { whole: vec![0.002; writes], failed, elapsed: Duration::from_secs(2), ..Outcome::default() };
        Point { clients, outcome, leader_fsyncs: leader, all_fsyncs: all, leader_moved: false }
    }

    #[test]
    fn a_row_tells_rates_fsyncs_and_successes_of_its_own_points() {
        let points = [
            point(1, 100, 0, Some(100.0), Some(300.0)),
            point(64, 1_000, 0, Some(50.0), Some(150.0)),
            point(1, 300, 100, Some(150.0), Some(450.0)),
            point(1, 0, 0, Some(2.0), Some(6.0)),
        ];
        let row = row(1, &points);
        let value = |name: &str| row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| *spread);
        assert_eq!(value("writes/s"), Some(Spread { median: 50.0, min: 0.0, max: 150.0 }));
        assert_eq!(value("fsyncs/write"), Some(Spread { median: 0.75, min: 0.5, max: 1.0 }));
        assert_eq!(value("fsyncs/write, all nodes"), Some(Spread { median: 2.25, min: 1.5, max: 3.0 }));
        assert_eq!(value("p50 ms"), Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
        assert!((row.success_rate - 0.8).abs() < 1e-9, "{}", row.success_rate);
    }

    #[test]
    fn what_a_node_does_not_count_is_not_guessed() {
        assert_eq!(spent(&[Some(1.0), None, Some(2.0)], &[Some(4.5), Some(1.0), None]), [Some(3.5), None, None]);
        let row = row(1, &[point(1, 10, 0, Some(10.0), None)]);
        assert!(!row.values.iter().any(|(name, _)| *name == "fsyncs/write, all nodes"));
        let notes = notes(&[point(1, 10, 0, Some(10.0), None)]);
        assert!(notes.iter().any(|note| note.contains("missing")), "{notes:?}");
    }
}
