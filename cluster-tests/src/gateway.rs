//! `bench gateway`: what a node costs between a client and the runtime.
//!
//! One fake Ollama, asked directly, through nginx, through the node beside it, and through another node. Latencies
//! are compared within a run; requests per second per core come from the CPU time of the processes in between.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::{Runtime, binary, cpu_time};
use ollamax_testkit::fake_ollama::{ModelScript, Script};

use crate::Options;
use crate::load::{self, Outcome, Question, percentile};
use crate::machine::Machine;
use crate::nginx::Nginx;
use crate::report::{Aim, Report, Row, Spread};

const PATIENCE: Duration = Duration::from_secs(30);
/// Slots of the runtime and of the node, the most that a node takes; more clients wait in its queue.
const SLOTS: usize = 64;
/// Lines of one stream.
const TOKENS: u64 = 16;
/// Aims of the first release: added median latency at one client by case, milliseconds, and the share of nginx's
/// requests per core.
const LOCAL_P50_MS: f64 = 0.3;
const HOP_P50_MS: f64 = 1.0;
const ADDED_P50_MS: [(&str, f64); 4] = [
    ("local whole", LOCAL_P50_MS),
    ("local stream", LOCAL_P50_MS),
    ("one hop whole", HOP_P50_MS),
    ("one hop stream", HOP_P50_MS),
];
const NGINX_SHARE: f64 = 0.5;
const NO_NGINX: &str = "nginx is not installed (Debian, Ubuntu: apt-get install nginx-light); no comparison";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Nginx,
    Local,
    OneHop,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Local => "local",
            Self::OneHop => "one hop",
        }
    }
}

struct Bed {
    fake: Child,
    fake_address: SocketAddr,
    nginx: Option<Nginx>,
    cluster: Cluster,
}

/// One measured point.
struct Point {
    way: Way,
    stream: bool,
    clients: usize,
    outcome: Outcome,
    cpu: Duration,
}

pub(crate) async fn measure(options: &Options) -> Result<Report> {
    let bed = Bed::make().await?;
    let mut points: Vec<Point> = Vec::new();
    for _ in 0..options.repeats.runs {
        for &clients in &options.clients {
            for stream in [false, true] {
                for way in bed.ways() {
                    points.push(bed.point(way, stream, clients, options.point()).await?);
                }
            }
        }
    }
    let report = report(&bed, options, &points).await?;
    bed.cluster.finish().await?;
    Ok(report)
}

impl Bed {
    async fn make() -> Result<Self> {
        let script = Script { slots: SLOTS, tokens: TOKENS, ..Script::with_models([ModelScript::named("demo")]) };
        let (fake, fake_address) = start_fake(&script).await?;
        let cluster = Cluster::builder("bench-gateway")
            .unhurried()
            .nodes(2)
            .setting("runtime.parallel", SLOTS)
            .node(0, |plan| plan.runtime = Runtime::Url(format!("http://{fake_address}")))
            .start()
            .await?;
        cluster.model_known("demo", 1, PATIENCE).await?;
        Ok(Self { fake, fake_address, nginx: Nginx::start(fake_address).await?, cluster })
    }

    fn ways(&self) -> Vec<Way> {
        let all = [Way::Direct, Way::Nginx, Way::Local, Way::OneHop];
        all.into_iter().filter(|way| *way != Way::Nginx || self.nginx.is_some()).collect()
    }

    fn address(&self, way: Way) -> Result<SocketAddr> {
        match way {
            Way::Direct => Ok(self.fake_address),
            Way::Nginx => Ok(self.nginx.as_ref().context("no nginx")?.address),
            Way::Local => self.cluster.node(0).api_address(),
            Way::OneHop => self.cluster.node(1).api_address(),
        }
    }

    /// CPU time of what stands between client and runtime; for the direct way, of the runtime.
    fn cpu(&self, way: Way) -> Result<Duration> {
        match way {
            Way::Direct => cpu_time(self.fake.id().context("the fake has ended")?),
            Way::Nginx => self.nginx.as_ref().context("no nginx")?.cpu_time(),
            Way::Local => self.cluster.node(0).cpu_time(),
            Way::OneHop => Ok(self.cluster.node(0).cpu_time()? + self.cluster.node(1).cpu_time()?),
        }
    }

    async fn point(&self, way: Way, stream: bool, clients: usize, time: Duration) -> Result<Point> {
        let body = json!({ "model": "demo", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] });
        let question = Question::post(self.address(way)?, "/api/chat", Bytes::from(body.to_string()));
        let before = self.cpu(way)?;
        let outcome = load::run(&question, clients, time).await;
        let cpu = self.cpu(way)?.saturating_sub(before);
        eprintln!("{} stream={stream} clients={clients}: {:.0}/s", way.name(), outcome.per_second());
        Ok(Point { way, stream, clients, outcome, cpu })
    }
}

async fn start_fake(script: &Script) -> Result<(Child, SocketAddr)> {
    let file = tempfile::NamedTempFile::new().context("make the script's file")?;
    serde_json::to_writer(file.as_file(), script).context("write the script")?;
    let mut child = Command::new(binary("fake-ollama")?)
        .arg("--script")
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start fake-ollama")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let line = BufReader::new(stdout).lines().next_line().await.context("read where the fake listens")?;
    let ready: Value = serde_json::from_str(&line.context("the fake ended at once")?)?;
    let url = ready["listening"].as_str().unwrap_or_default().trim_start_matches("http://");
    Ok((child, url.parse().with_context(|| format!("{url} is no address"))?))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn rows(points: &[Point]) -> Vec<Row> {
    let mut cases: Vec<(bool, usize, Way)> = points.iter().map(|it| (it.stream, it.clients, it.way)).collect();
    let mut seen = Vec::new();
    cases.retain(|case| {
        !seen.contains(case) && {
            seen.push(*case);
            true
        }
    });
    let milliseconds = |sorted: &[f64], share| percentile(sorted, share).map(|seconds| seconds * 1_000.0);
    let mut rows = Vec::new();
    for (stream, clients, way) in cases {
        let of = |way: Way| points.iter().filter(move |it| (it.stream, it.clients, it.way) == (stream, clients, way));
        let mut values = Vec::new();
        let mut add = |name, list: Vec<f64>| values.extend(Spread::of(list).map(|spread| (name, spread)));
        let pairs = || of(way).zip(of(Way::Direct));
        add("p50 ms", of(way).filter_map(|it| milliseconds(&it.outcome.whole, 0.5)).collect());
        add("p99 ms", of(way).filter_map(|it| milliseconds(&it.outcome.whole, 0.99)).collect());
        add("first p50 ms", of(way).filter_map(|it| milliseconds(&it.outcome.first, 0.5)).collect());
        if way != Way::Direct {
            let added = |share| {
                let one = |(own, direct): (&Point, &Point)| {
                    Some(milliseconds(&own.outcome.whole, share)? - milliseconds(&direct.outcome.whole, share)?)
                };
                pairs().filter_map(one).collect::<Vec<f64>>()
            };
            add("added p50 ms", added(0.5));
            add("added p99 ms", added(0.99));
        }
        add("req/s", of(way).map(|it| it.outcome.per_second()).collect());
        let per_core = |it: &Point| {
            let cpu = it.cpu.as_secs_f64();
            (cpu > 0.0).then(|| it.outcome.succeeded() as f64 / cpu)
        };
        add("req/s/core", of(way).filter_map(per_core).collect());
        let (good, bad) =
            of(way).fold((0, 0), |(good, bad), it| (good + it.outcome.succeeded(), bad + it.outcome.failed));
        let success_rate = if good + bad == 0 { 0.0 } else { good as f64 / (good + bad) as f64 };
        let form = if stream { "stream" } else { "whole" };
        rows.push(Row { case: format!("{} {form}", way.name()), clients, success_rate, values });
    }
    rows
}

fn median(rows: &[Row], case: &str, clients: usize, value: &str) -> Option<f64> {
    let row = rows.iter().find(|row| row.case == case && row.clients == clients)?;
    row.values.iter().find(|(name, _)| *name == value).map(|(_, spread)| spread.median)
}

fn aims(rows: &[Row], clients: &[usize]) -> Vec<Aim> {
    let mut aims = Vec::new();
    for (case, limit) in ADDED_P50_MS {
        if let Some(found) = median(rows, case, 1, "added p50 ms") {
            aims.push(Aim {
                what: format!("{case}: added p50 at 1 client"),
                wanted: format!("at most {limit} ms"),
                found: format!("{found:.3} ms"),
                met: found <= limit,
            });
        }
    }
    for &clients in clients {
        let of = |case| median(rows, case, clients, "req/s/core");
        if let (Some(own), Some(nginx)) = (of("local whole"), of("nginx whole")) {
            let share = own / nginx;
            aims.push(Aim {
                what: format!("local whole: requests per core beside nginx at {clients} clients"),
                wanted: format!("at least {:.0} %", NGINX_SHARE * 100.0),
                found: format!("{:.0} %", share * 100.0),
                met: share >= NGINX_SHARE,
            });
        }
    }
    aims
}

async fn report(bed: &Bed, options: &Options, points: &[Point]) -> Result<Report> {
    let rows = rows(points);
    let mut versions = vec![("ollamax-node".to_owned(), bed.cluster.status(0).await?.daemon_version)];
    versions.extend(bed.nginx.as_ref().map(|nginx| ("nginx".to_owned(), nginx.version.clone())));
    let left_out = if bed.nginx.is_some() { Vec::new() } else { vec![NO_NGINX.to_owned()] };
    let notes = vec![format!(
        "the fake answers at once with {TOKENS} tokens in {SLOTS} slots; load, fake and nodes share the cores"
    )];
    Ok(Report {
        bench: "gateway",
        machine: Machine::here(),
        versions,
        runs: options.repeats.runs,
        point_seconds: options.seconds,
        aims: aims(&rows, &options.clients),
        rows,
        left_out,
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One run of everything at one client; what is added to the direct way, milliseconds.
    fn points(local: f64, hop: f64, with_nginx: bool) -> Vec<Point> {
        let ways = [(Way::Direct, 0.0), (Way::Nginx, 0.1), (Way::Local, local), (Way::OneHop, hop)];
        let ways = ways.into_iter().filter(|(way, _)| with_nginx || *way != Way::Nginx);
        let point = |stream: bool, way: Way, added: f64| {
            let seconds = (1.0 + added) / 1_000.0;
            let (whole, first) = (vec![seconds; 100], vec![seconds; 100]);
            let outcome = Outcome { whole, first, failed: 0, elapsed: Duration::from_secs(1) };
            Point { way, stream, clients: 1, outcome, cpu: Duration::from_secs(1) }
        };
        ways.flat_map(|(way, added)| [false, true].map(|stream| point(stream, way, added))).collect()
    }

    fn judged(points: &[Point]) -> Vec<(String, bool)> {
        aims(&rows(points), &[1]).into_iter().map(|aim| (aim.what, aim.met)).collect()
    }

    #[test]
    fn whole_answers_and_streams_have_the_same_aims() {
        let check = |local: f64, hop: f64, met: [bool; 4]| {
            let whats = ADDED_P50_MS.map(|(case, _)| format!("{case}: added p50 at 1 client"));
            let expected: Vec<(String, bool)> = whats.into_iter().zip(met).collect();
            assert_eq!(judged(&points(local, hop, false)), expected, "{local} {hop}");
        };
        check(0.2, 0.9, [true; 4]);
        check(0.4, 0.9, [false, false, true, true]);
        check(0.2, 1.1, [true, true, false, false]);
    }

    #[test]
    fn a_share_of_nginx_is_an_aim_where_there_is_nginx() {
        let aims = judged(&points(0.2, 0.9, true));
        let beside = "local whole: requests per core beside nginx at 1 clients";
        assert_eq!(aims.iter().filter(|(what, _)| what.contains("nginx")).count(), 1);
        assert_eq!(aims.last(), Some(&(beside.to_owned(), true)));
    }

    #[test]
    fn added_latency_is_judged_at_one_client_alone() {
        let mut points = points(9.0, 9.0, false);
        points.iter_mut().for_each(|point| point.clients = 64);
        assert!(aims(&rows(&points), &[64]).is_empty());
    }
}
