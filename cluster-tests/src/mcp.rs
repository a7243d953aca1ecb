//! `bench mcp`: what the assistants' door promises, measured at three nodes of this machine: lists of tools at a
//! follower, calls that do nearly nothing, changes that go to the leader, a crowd, clients that leave without a word,
//! changes while the leader is killed each five seconds, and the bridge of an assistant whose node dies.
//!
//! Every run has a cluster of its own, since nodes bound how often one caller may call a tool, and remember keys for a
//! day. Nothing is added to the product: the call that does nearly nothing is `health_check`. Chance comes from one
//! seed, which is told. A run that does not end is ended, and whatever ends a run ends its processes too.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::timeout;

use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::{Cluster, Seed};

use crate::against::on_a_disk;
use crate::machine::Machine;
use crate::report::Report;

mod plan;

mod bridge;
mod calls;
mod handshakes;
mod messages;
mod page;
mod results;
mod writes;

use bridge::Bridged;
use calls::{Calls, Lists};
use handshakes::Handshakes;
use plan::{CALLING, CALLS, KILL_EVERY, NODES, REPEAT_EACH, WRITE_EVERY};
use writes::{Forwarded, MODEL, UnderKills};

pub(crate) use page::write;
pub(crate) use plan::Plan;

const PATIENCE: Duration = Duration::from_secs(30);
/// Longest time for one run, which takes about five minutes where nothing is wrong.
const RUN_TIME_MAX: Duration = Duration::from_secs(600);
/// Purpose for which it is drawn when the bridge's node dies; the number of the run is added.
const PURPOSE: u64 = 0x6272_6964_6765;
/// Files and sockets that a crowd needs, on each side; many systems give a program fewer by itself.
const FILES_MIN: u64 = 4_096;

/// What one run found.
#[derive(Debug)]
struct Run {
    lists: Vec<Lists>,
    calls: Vec<Calls>,
    forwarded: Forwarded,
    under_kills: UnderKills,
    handshakes: Handshakes,
    bridge: Bridged,
}

/// Measures everything once or several times.
pub(crate) async fn measure(plan: &Plan) -> Result<Report> {
    on_a_disk()?;
    allow_sockets()?;
    eprintln!("mcp: seed={}", plan.seed);
    // Dropping a run ends the processes that it started.
    tokio::select! {
        report = Box::pin(run_all(plan)) => report,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for an interrupt")?;
            bail!("interrupted")
        }
    }
}

/// Nodes inherit it.
fn allow_sockets() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("look how many files may be open")?;
    ensure!(hard >= FILES_MIN, "{hard} files may be open of {FILES_MIN} that a crowd needs: raise ulimit -Hn");
    if soft < FILES_MIN {
        setrlimit(Resource::RLIMIT_NOFILE, FILES_MIN, hard).context("allow more open files")?;
    }
    Ok(())
}

async fn run_all(plan: &Plan) -> Result<Report> {
    let (mut runs, mut version) = (Vec::new(), String::new());
    for number in 0..plan.runs {
        let cluster = Box::pin(start()).await?;
        version = cluster.status(0).await?.daemon_version;
        let run = timeout(RUN_TIME_MAX, Box::pin(run(&cluster, plan, number))).await;
        let run = run.unwrap_or_else(|_| bail!("it has not ended after {RUN_TIME_MAX:?}"));
        runs.push(run.with_context(|| format!("run {}", number + 1))?);
        cluster.finish().await?;
    }
    Ok(report(plan, version, &runs))
}

/// Three nodes, each beside a runtime with the model that is pinned and let go.
async fn start() -> Result<Cluster> {
    let script = Script::with_models([ModelScript::named(MODEL)]);
    let cluster = Cluster::builder("bench-mcp").unhurried().nodes(NODES).fakes(&script).start().await?;
    cluster.model_known(MODEL, NODES, PATIENCE).await?;
    Ok(cluster)
}

/// One after the other; the node of the bridge stays dead, so it comes last.
async fn run(cluster: &Cluster, plan: &Plan, number: usize) -> Result<Run> {
    let follower = cluster.node(writes::follower_of(cluster.leader(PATIENCE).await?));
    let lists = Box::pin(calls::lists(follower, plan.time)).await?;
    let calls = Box::pin(calls::calls(cluster)).await?;
    let forwarded = Box::pin(writes::forwarded(cluster, plan)).await?;
    let handshakes = Box::pin(handshakes::measure(follower, plan.greeted)).await?;
    let under_kills = Box::pin(writes::under_kills(cluster, plan, number)).await?;
    let chance = Seed(plan.seed).generator(PURPOSE + number as u64);
    let bridge = Box::pin(bridge::measure(cluster, chance)).await?;
    Ok(Run { lists, calls, forwarded, under_kills, handshakes, bridge })
}

fn report(plan: &Plan, version: String, runs: &[Run]) -> Report {
    let rows = results::rows(runs);
    Report {
        bench: "mcp",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), version)],
        runs: plan.runs,
        point_seconds: plan.time.as_secs_f64(),
        aims: results::aims(plan, runs, &rows),
        rows,
        left_out: Vec::new(),
        notes: notes(plan, runs),
    }
}

fn notes(plan: &Plan, runs: &[Run]) -> Vec<String> {
    let Plan { seed, forwarded, writes, .. } = plan;
    let mut notes = vec![
        format!("{NODES} nodes on one machine and one disk, load and nodes on the same cores; seed {seed}"),
        "lists and calls: revision 2026-07-28 over loopback, each client with one connection; OK: answers that are a \
         list, or no error"
            .to_owned(),
        format!(
            "{}: the tool that does least; a caller has {CALLS} calls of it at once, so each node gets {CALLS} of \
             {CALLING} clients, after half a second of lists; cores: processor time of the node's process alone, \
             connections and log lines among it",
            messages::NO_OP
        ),
        format!(
            "one commit: a setting put at the leader over its admin socket, {forwarded} times, each followed by one \
             change at a follower over its own; added: what the change takes longer at the same percentile"
        ),
        format!(
            "under kills: {writes} changes, one each {WRITE_EVERY:?}, asked for at the two nodes that stay until \
             acknowledged; latency counts from when a change was due; the leader is killed each {KILL_EVERY:?} and up \
             to a second, started again at once, and given the lead again; of every {REPEAT_EACH} changes the last \
             two are sent once more with their keys; lost and doubled are counted by the events model_pinned and \
             model_unpinned of both nodes"
        ),
        format!(
            "handshakes: {0} clients at once greet (2025-11-25), then all connections are dropped; before: after a \
             first {0}, 15 s later; back: until the node holds no more than that and what may stay, a minute at most",
            handshakes::CROWD
        ),
        "beside nobody: other gateways keep tasks and keys in one process or not at all, and publish figures of other \
         loads"
            .to_owned(),
    ];
    let moved = runs.iter().filter(|run| run.forwarded.leader_moved).count();
    if moved > 0 {
        notes.push(format!("the leader changed in {moved} of {} runs while changes were measured", runs.len()));
    }
    notes
}
