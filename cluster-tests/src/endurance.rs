//! `bench endurance`: an hour of clients while a daemon is killed every minute, by turns the leader and a follower, and
//! started again five seconds later. Eight clients ask three daemons with their default numbers over the gRPC service
//! `Kv` on the admin sockets, at an open rate; latency counts from the moment when a request was due.
//!
//! In the end everything that was acknowledged must be there, on every node, and all states must be equal. What was
//! lost is a fault always; how many requests may fail, and how slow reads may be, are aims. A cluster that lost
//! something keeps its directory. Whatever ends a run ends its daemons too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;

use ollamax_testkit::{Cluster, Seed, wait};

use crate::against::{charged_from, due_after, on_a_disk};
use crate::machine::Machine;
use crate::report::Report;

mod plan;

mod client;
mod daemons;
mod ledger;
mod results;
mod tally;
mod timeline;

use client::{Client, REQUEST_TIME};
use daemons::{Life, Lives};
use plan::{CLIENTS, DOWN, KEYS, SETTLES_WITHIN, Victim};
use tally::Tallies;
use timeline::{Counts, Kills, Timeline};

pub(crate) use plan::Plan;

/// Longest wait for a cluster that is well to agree, and for a killed node to come back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest wait for equal states after the last request.
const EQUAL_WITHIN: Duration = Duration::from_secs(10);
/// How often it is told how far the run is.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Most failures of one client that are told one by one.
const FAILURES_TOLD_MAX: usize = 5;
/// Most losses that are told one by one.
const LOSSES_TOLD_MAX: usize = 20;
/// Purpose for which it is drawn who is killed.
const PURPOSE: u64 = 0x6b69_6c6c;

/// Everything that was found.
#[derive(Debug)]
struct Findings {
    tallies: Tallies,
    kills: Kills,
    lives: Vec<Life>,
    /// From the beginning to the last answer.
    elapsed: Duration,
    /// Keys whose acknowledged value is not there in the end, and what is.
    lost: Vec<String>,
    /// Reads that saw less than was acknowledged before they began.
    old_reads: Vec<String>,
    /// The index at which all states were equal, or why they were not.
    equal: Result<u64, String>,
}

// === impl Findings ===

impl Findings {
    /// What was acknowledged and not kept, and states that differ, as many lines as a person reads. Empty: all is
    /// there.
    fn losses(&self) -> Vec<String> {
        let lost = self.lost.iter().chain(&self.old_reads).map(|what| format!("lost: {what}"));
        let unequal = self.equal.as_ref().err().map(|why| format!("states differ in the end: {why}"));
        let all: Vec<String> = unequal.into_iter().chain(lost).collect();
        let more = all.len().saturating_sub(LOSSES_TOLD_MAX);
        let more = (more > 0).then(|| format!("lost: {more} more"));
        all.into_iter().take(LOSSES_TOLD_MAX).chain(more).collect()
    }
}

/// The report, and what was lost; that is a fault whatever is checked.
pub(crate) async fn measure(plan: &Plan) -> Result<(Report, Vec<String>)> {
    on_a_disk()?;
    eprintln!("endurance: seed={}", plan.seed);
    // Dropping a run ends the processes that it started.
    tokio::select! {
        found = Box::pin(run(plan)) => found,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for an interrupt")?;
            bail!("interrupted")
        }
    }
}

async fn run(plan: &Plan) -> Result<(Report, Vec<String>)> {
    let cluster = Box::pin(Cluster::builder("bench-endurance").unhurried().start()).await?;
    let version = cluster.status(0).await?.daemon_version;
    let mut clients = Client::all(&cluster, Seed(plan.seed))?;
    try_join_all(clients.iter_mut().map(Client::fill)).await?;
    cluster.converged(PATIENCE).await?;
    let timeline = Arc::new(Timeline::begin());
    let (worked, lives, ()) = futures::try_join!(
        Box::pin(work(clients, *plan, Arc::clone(&timeline))),
        Box::pin(disturb(&cluster, plan, &timeline)),
        Box::pin(tell(plan, &timeline)),
    )?;
    let Worked { clients, kills, elapsed } = worked;
    let equal = cluster.converged(EQUAL_WITHIN).await.map_err(|error| format!("{error:#}"));
    let lost = Box::pin(lost(&cluster, &clients)).await.context("compare what is there with what was acknowledged")?;
    let mut found = Findings { tallies: Tallies::default(), kills, lives, elapsed, lost, old_reads: Vec::new(), equal };
    for client in clients {
        found.tallies.merge(&client.tallies);
        found.old_reads.extend(client.old_reads);
    }
    let losses = found.losses();
    if losses.is_empty() && found.equal.is_ok() {
        cluster.finish().await?;
    } else {
        // A cluster that is dropped keeps its directory and names its logs.
        drop(cluster);
    }
    Ok((report(plan, version, &found), losses))
}

/// What there is when the last request has ended.
#[derive(Debug)]
struct Worked {
    clients: Vec<Client>,
    kills: Kills,
    elapsed: Duration,
}

/// Lets all clients ask until the time is over.
async fn work(clients: Vec<Client>, plan: Plan, timeline: Arc<Timeline>) -> Result<Worked> {
    let next = Arc::new(AtomicU64::new(0));
    let mut working = JoinSet::new();
    for client in clients {
        working.spawn(ask_when_due(client, plan, Arc::clone(&timeline), Arc::clone(&next)));
    }
    let mut clients = Vec::new();
    while let Some(client) = working.join_next().await {
        clients.push(client.context("a client ended badly")?);
    }
    Ok(Worked { clients, kills: timeline.kills(), elapsed: timeline.start().elapsed() })
}

/// One client: whoever is free takes the request that is due next.
async fn ask_when_due(mut client: Client, plan: Plan, timeline: Arc<Timeline>, next: Arc<AtomicU64>) -> Client {
    let end = timeline.start() + plan.time;
    let mut told = 0;
    loop {
        let due = timeline.start() + due_after(next.fetch_add(1, Ordering::Relaxed), plan.per_second);
        if due >= end {
            return client;
        }
        let taken = Instant::now();
        wait::pause_until(due).await;
        let begin = charged_from(due, taken, Instant::now());
        let (kind, result) = client.request(begin).await;
        timeline.ended(result.is_ok());
        if let Err(failure) = &result
            && told < FAILURES_TOLD_MAX
        {
            told += 1;
            eprintln!("a request failed, {}: {} {}", kind.name(), failure.reason, failure.said);
        }
        let result = result.map(|()| begin.elapsed()).map_err(|failure| failure.reason);
        client.tallies.count(kind, timeline.is_undisturbed(due), result);
    }
}

/// Kills one daemon after the other, lets each come back, and looks at what they hold.
async fn disturb(cluster: &Cluster, plan: &Plan, timeline: &Timeline) -> Result<Vec<Life>> {
    let mut chance = Seed(plan.seed).generator(PURPOSE);
    let mut lives = Lives::watch(cluster)?;
    for (number, at) in plan.kills().enumerate() {
        wait::pause_until(timeline.start() + at).await;
        let leader = cluster.leader(PATIENCE).await.context("see who leads before a kill")?;
        let victim = Victim::of_turn(number);
        let node = cluster.node(victim.node(leader, &mut chance));
        lives.end(node)?;
        timeline.kill(victim);
        cluster.kill(&[node.index()]).await?;
        let killed = Instant::now();
        eprintln!("kill {}: {}, {}", number + 1, victim.name(), node.name());
        wait::pause_until(killed + DOWN).await;
        cluster.restart(&[node.index()]).await.with_context(|| format!("start {} again", node.name()))?;
        wait::pause_until(killed + DOWN + SETTLES_WITHIN).await;
        lives.begin(node)?;
    }
    wait::pause_until(timeline.start() + plan.time).await;
    for node in cluster.nodes() {
        lives.end(node)?;
    }
    Ok(lives.into_ended())
}

/// Says once a minute how far the run is.
async fn tell(plan: &Plan, timeline: &Timeline) -> Result<()> {
    let minutes = plan.time.as_secs() / TOLD_EVERY.as_secs();
    for minute in (1..=minutes).filter_map(|minute| u32::try_from(minute).ok()) {
        wait::pause_until(timeline.start() + TOLD_EVERY * minute).await;
        let Counts { ended, failed, kills } = timeline.counts();
        eprintln!("minute {minute} of {minutes}: {ended} requests, {failed} failed, {kills} kills");
    }
    Ok(())
}

/// What each client misses at any node, one line for each key.
async fn lost(cluster: &Cluster, clients: &[Client]) -> Result<Vec<String>> {
    let mut lost = BTreeMap::new();
    for node in cluster.nodes() {
        for client in clients {
            for (key, what) in client.lost_at(node).await? {
                lost.entry(key).or_insert(what);
            }
        }
    }
    Ok(lost.into_values().collect())
}

fn report(plan: &Plan, version: String, found: &Findings) -> Report {
    Report {
        bench: "endurance",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), version)],
        runs: 1,
        point_seconds: plan.time.as_secs_f64(),
        rows: results::rows(found),
        aims: results::aims(found),
        left_out: Vec::new(),
        notes: notes(plan, found),
    }
}

fn notes(plan: &Plan, found: &Findings) -> Vec<String> {
    let Plan { every, per_second, seed, .. } = plan;
    let mut notes = vec![
        format!(
            "3 nodes on one machine and one disk; every {every:?} a daemon is killed, and started again {DOWN:?} \
             later; seed {seed}"
        ),
        format!(
            "{per_second} requests per second in all: 45 % puts, 50 % reads of a key, 5 % lists of {KEYS} rows, at \
             most {CLIENTS} at once; latency counts from when a request was due, and from then it has {REQUEST_TIME:?}"
        ),
        "a client asks the next node when one refuses, breaks off or may be asked again; a put of the same value may \
         be sent again whatever became of it"
            .to_owned(),
        "no success: after each kill, the longest time until the next in which no request succeeded; cores: of all \
         daemons; a life: of a daemon's process, from its start to its kill"
            .to_owned(),
    ];
    if found.kills.silences.is_empty() {
        notes.push("nobody was killed: the time is too short for it".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(lost: usize, old_reads: usize) -> Findings {
        Findings {
            tallies: Tallies::default(),
            kills: Kills::default(),
            lives: Vec::new(),
            elapsed: Duration::from_secs(1),
            lost: (0..lost).map(|number| format!("key {number}")).collect(),
            old_reads: (0..old_reads).map(|number| format!("read {number}")).collect(),
            equal: Ok(1),
        }
    }

    #[test]
    fn every_loss_is_a_fault_and_the_first_are_told_one_by_one() {
        assert!(findings(0, 0).losses().is_empty());
        let unequal = Findings { equal: Err("n2 has another hash".into()), ..findings(0, 0) };
        assert_eq!(unequal.losses(), ["states differ in the end: n2 has another hash"]);
        assert_eq!(findings(1, 1).losses(), ["lost: key 0", "lost: read 0"]);
        let many = findings(30, 5).losses();
        assert_eq!((many.len(), many.last().map(String::as_str)), (LOSSES_TOLD_MAX + 1, Some("lost: 15 more")));
    }

    #[test]
    fn a_run_without_a_kill_says_so_and_every_run_tells_its_seed() {
        let minute = Duration::from_secs(60);
        let plan = Plan { time: minute, every: minute, per_second: 200.0, seed: 77 };
        let quiet = notes(&plan, &findings(0, 0));
        assert!(quiet[0].ends_with("seed 77"), "{quiet:?}");
        assert!(quiet.last().is_some_and(|note| note.starts_with("nobody was killed")), "{quiet:?}");
        let kills = Kills { leaders: 1, followers: 0, silences: vec![minute] };
        assert_eq!(notes(&plan, &Findings { kills, ..findings(0, 0) }).len(), quiet.len() - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn how_far_a_run_is_is_told_until_its_time_is_over() {
        let plan = Plan { time: TOLD_EVERY * 3, every: TOLD_EVERY, per_second: 1.0, seed: 1 };
        let timeline = Timeline::begin();
        tell(&plan, &timeline).await.expect("nothing can fail");
        assert!(timeline.start().elapsed() >= plan.time);
    }
}
