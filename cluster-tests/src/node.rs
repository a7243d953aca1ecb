//! `bench node`: what a daemon costs its machine, by itself: from the start of the process to `/readyz`, memory and
//! CPU when idle, the answers of `/health`, and from SIGTERM to the end of the process.
//!
//! A node of its own, with data, is started and stopped once a run; the members of a three-node cluster are only
//! watched. Beside each stands a fake Ollama that it polls as it polls a real one. Figures are those of the daemon's
//! process, from `/proc`; a runtime is not in them. A node that does not come up, does not stop well, or an idle
//! cluster that changes its leader, fails the benchmark.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use tokio::time::Instant;

use ollamax_testkit::cluster::Node;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::http::HttpClient;
use ollamax_testkit::{Cluster, wait};

use crate::NodeOptions;
use crate::load::{self, Outcome, Question, percentile};
use crate::machine::Machine;
use crate::report::{Aim, Report, Row, Spread};

const PATIENCE: Duration = Duration::from_secs(30);
/// Keys in the state before the first measured start, and bytes of each value.
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 100;
/// Keys that are set at once while the data is made.
const SET_AT_ONCE: usize = 64;
/// What a node still does after its start is not idleness.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
/// Time for which `/health` is asked, by one client, one question after the other.
const HEALTH_TIME: Duration = Duration::from_secs(2);

const ALONE: &str = "one node";
const LEADER: &str = "leader of 3, idle";
const FOLLOWER: &str = "follower of 3, idle";
const READY: &str = "ready s";
const RESIDENT: &str = "resident MiB";
const CPU: &str = "cpu %";
const HEALTH_P50: &str = "health p50 ms";
const HEALTH_P99: &str = "health p99 ms";
const STOP: &str = "stop s";

/// What every run has to stay below, by case.
const AIMS: [(&str, &str, f64); 9] = [
    (ALONE, READY, 2.0),
    (ALONE, RESIDENT, 100.0),
    (ALONE, CPU, 2.0),
    (ALONE, HEALTH_P50, 100.0),
    (ALONE, HEALTH_P99, 100.0),
    (LEADER, RESIDENT, 100.0),
    (LEADER, CPU, 2.0),
    (FOLLOWER, RESIDENT, 100.0),
    (FOLLOWER, CPU, 2.0),
];

/// What an idle node took.
#[derive(Debug, Clone, Copy)]
struct Idle {
    resident_mib: f64,
    /// Percent of one core.
    cpu_percent: f64,
}

/// One life of a node, from start to end.
#[derive(Debug)]
struct Life {
    ready: Duration,
    idle: Idle,
    health: Outcome,
    stop: Duration,
}

pub(crate) async fn measure(options: &NodeOptions) -> Result<Report> {
    let time = Duration::from_secs_f64(options.seconds);
    let (lives, version) = alone(options.repeats.runs, time).await?;
    let mut rows = vec![row_of_lives(&lives)];
    rows.extend(members(options.repeats.runs, time).await?);
    Ok(Report {
        bench: "node",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), version)],
        runs: options.repeats.runs,
        point_seconds: options.seconds,
        aims: aims(&rows),
        rows,
        left_out: Vec::new(),
        notes: vec![
            format!("one node: {KEYS} keys of {VALUE_BYTES} bytes, beside a runtime with one model"),
            "cpu: of one core; memory and cpu of the daemon's process alone; OK: answers of /health".to_owned(),
        ],
    })
}

fn plan(name: &str) -> ollamax_testkit::cluster::Builder {
    Cluster::builder(name).unhurried().fakes(&Script::with_models([ModelScript::named("demo")]))
}

/// The lives of a single node with data, and its version.
async fn alone(runs: usize, time: Duration) -> Result<(Vec<Life>, String)> {
    let cluster = plan("bench-node").nodes(1).start().await?;
    cluster.model_known("demo", 1, PATIENCE).await?;
    let value = [b'v'; VALUE_BYTES];
    let fill = stream::iter(0..KEYS).map(|number| {
        let cluster = &cluster;
        async move { cluster.set(0, &format!("bench/{number:05}"), &value).await }
    });
    fill.buffer_unordered(SET_AT_ONCE).try_for_each(|_| async { Ok(()) }).await.context("make the data")?;
    let version = cluster.status(0).await?.daemon_version;
    // The port stays its own over all lives.
    let api = cluster.node(0).api()?;
    stop(cluster.node(0)).await?;
    let mut lives = Vec::new();
    for _ in 0..runs {
        let life = live(&cluster, &api, time).await?;
        eprintln!("ready after {:?}, {:?}, stopped after {:?}", life.ready, life.idle, life.stop);
        lives.push(life);
    }
    cluster.finish().await?;
    Ok((lives, version))
}

async fn live(cluster: &Cluster, api: &str, time: Duration) -> Result<Life> {
    let (http, url) = (HttpClient::new(), format!("{api}/readyz"));
    let begin = Instant::now();
    let ready = async {
        wait::until("/readyz to say yes", PATIENCE, || async {
            let answer = http.call(Method::GET, &url, "").await?;
            ensure!(answer.status == 200, "{}", answer.status);
            Ok(())
        })
        .await
        .map(|()| begin.elapsed())
    };
    let (started, ready) = futures::join!(cluster.restart(&[0]), ready);
    started?;
    let node = cluster.node(0);
    let idle = idle(&[node], time).await?[0];
    let address: SocketAddr = api.trim_start_matches("http://").parse().context("the address of api")?;
    let health = load::run(&Question::get(address, "/health"), 1, HEALTH_TIME).await;
    Ok(Life { ready: ready?, idle, health, stop: stop(node).await? })
}

/// From SIGTERM to the end of the process, which must be a good one.
async fn stop(node: &Node) -> Result<Duration> {
    let begin = Instant::now();
    let status = node.stop(PATIENCE).await?;
    ensure!(status.success(), "{} ended with {status}", node.name());
    Ok(begin.elapsed())
}

/// Watches nodes of which nobody wants anything.
#[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^52")]
async fn idle(nodes: &[&Node], time: Duration) -> Result<Vec<Idle>> {
    wait::pause(SETTLES_WITHIN).await;
    let before = nodes.iter().map(|node| node.cpu_time()).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    wait::pause(time).await;
    let elapsed = begin.elapsed().as_secs_f64();
    let seen = nodes.iter().zip(before).map(|(node, before)| {
        let cpu = node.cpu_time()?.saturating_sub(before).as_secs_f64();
        let resident_mib = node.resident_bytes()? as f64 / f64::from(1 << 20);
        Ok(Idle { resident_mib, cpu_percent: cpu / elapsed * 100.0 })
    });
    seen.collect()
}

/// The members of an idle cluster of three.
async fn members(runs: usize, time: Duration) -> Result<[Row; 2]> {
    let cluster = plan("bench-node-of-3").start().await?;
    cluster.model_known("demo", 3, PATIENCE).await?;
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    let (mut leaders, mut followers) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let leader = cluster.leader(PATIENCE).await?;
        for (index, seen) in idle(&nodes, time).await?.into_iter().enumerate() {
            eprintln!("node {index} of 3: {seen:?}");
            if index == leader { leaders.push(seen) } else { followers.push(seen) }
        }
        ensure!(cluster.leader(PATIENCE).await? == leader, "the leader of an idle cluster changed");
    }
    cluster.finish().await?;
    let row = |case: &str, seen: &[Idle]| Row {
        case: case.to_owned(),
        clients: 0,
        success_rate: 1.0,
        values: idle_values(seen.iter().copied()).collect(),
    };
    Ok([row(LEADER, &leaders), row(FOLLOWER, &followers)])
}

type Value = (&'static str, Spread);

fn value(name: &'static str, list: Vec<f64>) -> Option<Value> {
    Spread::of(list).map(|spread| (name, spread))
}

fn idle_values(seen: impl Iterator<Item = Idle> + Clone) -> impl Iterator<Item = Value> {
    let resident = value(RESIDENT, seen.clone().map(|idle| idle.resident_mib).collect());
    resident.into_iter().chain(value(CPU, seen.map(|idle| idle.cpu_percent).collect()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn row_of_lives(lives: &[Life]) -> Row {
    let milliseconds = |share| {
        let one = |life: &Life| percentile(&life.health.whole, share).map(|seconds| seconds * 1_000.0);
        lives.iter().filter_map(one).collect::<Vec<f64>>()
    };
    let seconds = |of: fn(&Life) -> Duration| lives.iter().map(|life| of(life).as_secs_f64()).collect::<Vec<f64>>();
    let mut values: Vec<Value> = value(READY, seconds(|life| life.ready)).into_iter().collect();
    values.extend(idle_values(lives.iter().map(|life| life.idle)));
    values.extend(value(HEALTH_P50, milliseconds(0.5)));
    values.extend(value(HEALTH_P99, milliseconds(0.99)));
    values.extend(value(STOP, seconds(|life| life.stop)));
    let good: u64 = lives.iter().map(|life| life.health.succeeded()).sum();
    let bad: u64 = lives.iter().map(|life| life.health.failed).sum();
    let success_rate = if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 };
    Row { case: ALONE.to_owned(), clients: 1, success_rate, values }
}

/// The worst of all runs beside what is wanted.
fn aims(rows: &[Row]) -> Vec<Aim> {
    let found = |case: &str, name: &str| {
        let row = rows.iter().find(|row| row.case == case)?;
        row.values.iter().find(|(own, _)| *own == name).map(|(_, spread)| spread.max)
    };
    let aim = |(case, name, limit): (&str, &str, f64)| {
        let worst = found(case, name)?;
        Some(Aim {
            what: format!("{case}: {name}, the worst run"),
            wanted: format!("below {limit}"),
            found: format!("{worst:.3}"),
            met: worst < limit,
        })
    };
    AIMS.into_iter().filter_map(aim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(ready_ms: u64, cpu_percent: f64, health_ms: &[f64], failed: u64) -> Life {
        let whole = health_ms.iter().map(|ms| ms / 1_000.0).collect();
        Life {
            ready: Duration::from_millis(ready_ms),
            idle: Idle { resident_mib: 40.0, cpu_percent },
            health: Outcome { whole, failed, ..Outcome::default() },
            stop: Duration::from_millis(300),
        }
    }

    #[test]
    fn the_worst_life_decides_about_an_aim() {
        let row = row_of_lives(&[life(500, 1.0, &[1.0, 2.0, 3.0], 0), life(2_500, 0.5, &[1.0, 1.0, 1.0], 2)]);
        assert!((row.success_rate - 0.75).abs() < 1e-9, "{}", row.success_rate);
        let aims = aims(&[row]);
        let shown: Vec<(&str, &str, bool)> =
            aims.iter().map(|aim| (aim.what.as_str(), aim.found.as_str(), aim.met)).collect();
        assert_eq!(
            shown,
            [
                ("one node: ready s, the worst run", "2.500", false),
                ("one node: resident MiB, the worst run", "40.000", true),
                ("one node: cpu %, the worst run", "1.000", true),
                ("one node: health p50 ms, the worst run", "2.000", true),
                ("one node: health p99 ms, the worst run", "3.000", true),
            ]
        );
    }
}
