//! `bench metadata`: acknowledged writes of a three-node cluster, and what they cost its disks.
//!
//! Clients set configuration keys through the leader's admin socket, each waiting for its acknowledgement. Syncs are
//! the nodes' own count (`ollamax_store_syncs_total`).

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
/// The metric that counts syncs of a node's log.
const SYNCS: &str = "ollamax_store_syncs_total";
/// Bytes of one value.
const VALUE_BYTES: usize = 100;

/// One measured point.
struct Point {
    clients: usize,
    outcome: Outcome,
    /// Syncs on the leader, when it counts them.
    leader_syncs: Option<f64>,
}

pub(crate) async fn measure(options: &Options) -> Result<Report> {
    let cluster = Cluster::builder("bench-metadata").start().await?;
    let leader = cluster.leader(PATIENCE).await?;
    let mut points = Vec::new();
    for run in 0..options.runs {
        for &clients in &options.clients {
            points.push(point(&cluster, leader, run, clients, options.point()).await?);
        }
    }
    let rows = options.clients.iter().map(|clients| row(*clients, &points)).collect();
    let mut notes =
        vec![format!("3 nodes on one machine and one disk; values of {VALUE_BYTES} bytes; through the leader")];
    if points.iter().any(|point| point.leader_syncs.is_none()) {
        notes.push(format!("the node does not show {SYNCS}; syncs per write are missing"));
    }
    let report = Report {
        bench: "metadata",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), cluster.status(leader).await?.daemon_version)],
        runs: options.runs,
        point_seconds: options.seconds,
        rows,
        aims: Vec::new(),
        notes,
    };
    cluster.finish().await?;
    Ok(report)
}

async fn point(cluster: &Cluster, leader: usize, run: usize, clients: usize, time: Duration) -> Result<Point> {
    let node = cluster.node(leader);
    let socket = node.data_dir().join("admin.sock");
    let doors = (0..clients).map(|_| Admin::connect(node.name(), &socket));
    let doors: Vec<Admin> = doors.collect::<Result<_>>().context("open the admin socket")?;
    join_all(doors.iter().map(Admin::status)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let before = cluster.metric(leader, SYNCS).await?;
    let begin = Instant::now();
    let end = begin + time;
    let written = join_all(doors.iter().enumerate().map(|(client, door)| write(door, run, client, end))).await;
    let elapsed = begin.elapsed();
    let after = cluster.metric(leader, SYNCS).await?;
    let mut outcome = Outcome { elapsed, ..Outcome::default() };
    for one in written {
        outcome.whole.extend(one.whole);
        outcome.failed += one.failed;
    }
    outcome.whole.sort_by(f64::total_cmp);
    eprintln!("clients={clients}: {:.0} writes/s", outcome.per_second());
    Ok(Point { clients, outcome, leader_syncs: before.zip(after).map(|(before, after)| after - before) })
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
    let per_write = |point: &&Point| {
        let writes = point.outcome.succeeded() as f64;
        point.leader_syncs.filter(|_| writes > 0.0).map(|syncs| syncs / writes)
    };
    add("syncs/write", own.iter().filter_map(per_write).collect());
    let good: u64 = own.iter().map(|point| point.outcome.succeeded()).sum();
    let bad: u64 = own.iter().map(|point| point.outcome.failed).sum();
    let success_rate = if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 };
    Row { case: "set a key".to_owned(), clients, success_rate, values }
}
