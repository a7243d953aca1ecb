//! A whole run: a cluster, rounds of the plan until the time is over or something broke, and the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use ollamax_testkit::{Cluster, Seed};

use crate::args::Options;
use crate::check::Records;
use crate::disks::Disks;
use crate::evidence;
use crate::logs;
use crate::plan::{Family, Plan, Round};
use crate::report::{Broken, Invariant, Report};
use crate::round::{self, LIMITS, Outcome, World, lines_of, promise_of};
use crate::samples::Book;
use crate::traffic::{Run, held};

/// Numbers that make logs short, so that a node that was away for seconds needs a snapshot, writes of the state
/// frequent, so that a crash meets them, and a drain shorter than anybody's patience with a node that must stop.
const SETTINGS: [(&str, u64); 4] =
    [("raft.snapshot_every", 600), ("raft.keep_log", 200), ("store.flush_entries_max", 200), ("shutdown.grace_s", 5)];
/// Where the records of a round that failed lie, in the cluster's directory.
const RECORDS: &str = "records";

/// Plays rounds until the time is over, or one breaks a promise or lacks evidence.
///
/// # Errors
/// When the cluster cannot be started at all.
pub(crate) async fn run(options: &Options, seed: u64) -> Result<Report> {
    let families = options.families();
    let mut world = world(options.nodes, &families).await?;
    let begin = Instant::now();
    let mut report = Report {
        seed,
        nodes: options.nodes,
        seconds: options.seconds,
        replay: options.replay(seed),
        daemon_version: world.cluster.status(0).await?.daemon_version,
        run_seconds: 0,
        asked: families.clone(),
        rounds: Vec::new(),
        checked: BTreeMap::new(),
        limits: LIMITS,
        watches_resumed: 0,
        watch_gaps: 0,
        broken: Vec::new(),
        lacking: Vec::new(),
        error: None,
        kept: None,
    };
    let time = Duration::from_secs(options.seconds);
    for round in Plan::new(Seed(seed), options.nodes, &families) {
        if begin.elapsed() >= time && round.number > 1 {
            break;
        }
        match Box::pin(round::play(&mut world, &round)).await {
            Ok(outcome) => add(&mut report, outcome, world.cluster.directory())?,
            Err(error) => report.error = Some(format!("round {}: {}: {error:#}", round.number, told(&round))),
        }
        if report.failed() {
            break;
        }
    }
    report.run_seconds = begin.elapsed().as_secs();
    if !report.failed()
        && let Err(error) = Box::pin(compare_logs(&world, &mut report)).await
    {
        report.error = Some(format!("the last look at the logs: {error:#}"));
    }
    if !report.failed() {
        let rounds: Vec<_> = report.rounds.iter().map(|round| (round.family, round.injected)).collect();
        report.lacking.extend(evidence::run_lacks(&rounds, &report.checked));
    }
    if report.failed() {
        report.kept = Some(world.cluster.directory().display().to_string());
        // A cluster that is dropped keeps its directory and names its logs.
        drop(world);
    } else {
        world.cluster.finish().await?;
    }
    Ok(report)
}

/// A cluster as the faults need it.
async fn world(nodes: usize, families: &[Family]) -> Result<World> {
    let mut builder = Cluster::builder("torture").nodes(nodes);
    for (key, value) in SETTINGS {
        builder = builder.setting(key, value);
    }
    if families.iter().any(|family| family.needs_links()) {
        builder = builder.with_links();
    }
    let cluster = builder.start().await?;
    let disks = match families.iter().any(|family| family.needs_disks()) {
        true => Some(Disks::below(&cluster).await.context("some of these faults need disks that can fail")?),
        false => None,
    };
    Ok(World { cluster, disks, book: Mutex::new(Book::default()), run: Run::begin() })
}

/// Ends all nodes and holds their logs against each other.
async fn compare_logs(world: &World, report: &mut Report) -> Result<()> {
    let World { cluster, book, .. } = world;
    let everybody: Vec<usize> = (0..cluster.size()).collect();
    cluster.kill(&everybody).await?;
    let before = held(book).counts().entries;
    logs::note(logs::copy(cluster, book, &everybody)?, book).await?;
    *report.checked.entry(Invariant::I5).or_insert(0) += held(book).counts().entries - before;
    let round = report.rounds.last().map_or(0, |round| round.number);
    let faults = held(book).take_faults();
    let broken = faults.into_iter().map(|(kind, detail)| Broken { round, invariant: promise_of(kind), detail });
    report.broken.extend(broken);
    Ok(())
}

/// Adds what a round found. The records of a bad one are kept.
fn add(report: &mut Report, outcome: Outcome, directory: &Path) -> Result<()> {
    let Outcome { played, checked, broken, lacking, resumed, gaps, records } = outcome;
    eprintln!(
        "round {}: {}: {}, {} ms; {}; {} operations, no write for {} ms at most",
        played.number,
        played.family.id(),
        played.fault,
        played.fault_ms,
        played.proof,
        played.operations,
        played.outage.longest_ms
    );
    for (invariant, times) in checked {
        *report.checked.entry(invariant).or_insert(0) += times;
    }
    let round = played.number;
    report.broken.extend(broken.into_iter().map(|(invariant, detail)| Broken { round, invariant, detail }));
    // What was not enough for a verdict is a breach of the promise that enough happens.
    report.lacking.extend(lacking.into_iter().map(|what| format!("round {round}, {}: {what}", played.fault)));
    report.watches_resumed += resumed;
    report.watch_gaps += gaps;
    report.rounds.push(played);
    if report.failed() { keep(&directory.join(RECORDS), round, &records).context("keep the records") } else { Ok(()) }
}

/// Writes down what the clients and watchers of a round saw.
fn keep(folder: &Path, round: u32, records: &Records) -> Result<()> {
    fs::create_dir_all(folder)?;
    let place = |what: &str| folder.join(format!("round-{round:06}-{what}"));
    fs::write(place("history.jsonl"), lines_of(&records.history)?)?;
    fs::write(place("watches.json"), serde_json::to_vec_pretty(&records.watched)?)?;
    fs::write(place("aside.json"), serde_json::to_vec_pretty(&records.aside)?)?;
    Ok(())
}

fn told(round: &Round) -> String {
    format!("{}, {}, {} ms", round.fault.family().id(), round.fault, round.time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Fault;

    #[test]
    fn the_records_of_a_bad_round_are_kept_and_read_back() {
        let folder = tempfile::tempdir().expect("temp");
        let records = Records::default();
        keep(&folder.path().join("deep"), 3, &records).expect("written");
        for (name, text) in [("history.jsonl", ""), ("watches.json", "[]")] {
            let path = folder.path().join("deep").join(format!("round-000003-{name}"));
            assert_eq!(fs::read_to_string(&path).expect("there"), text, "{}", path.display());
        }
        let aside = fs::read(folder.path().join("deep/round-000003-aside.json")).expect("there");
        assert!(serde_json::from_slice::<serde_json::Value>(&aside).expect("JSON").is_object());
    }

    #[test]
    fn a_round_is_named_by_its_fault() {
        let round = Round { number: 2, fault: Fault::HalfOpen, time: Duration::from_secs(3), seed: Seed(1) };
        assert_eq!(told(&round), "F7, follower half-open, 3000 ms");
    }
}
