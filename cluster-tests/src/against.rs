//! `bench metadata --against etcd`: the replicated store beside etcd, three daemons each on this machine, one system at
//! a time, the same generator, payloads, connections and durability.
//!
//! First it is shown that both sync before they acknowledge; a system that does not is not compared. Then the loads, in
//! turns; then leaders are lost. Whatever fails stands in the report; a daemon that does not come up ends the run.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::machine::Machine;
use crate::report::Report;

mod aims;
mod cost;
mod door;
mod etcd;
mod failover;
mod generator;
mod histogram;
mod ours;
mod plan;
mod points;
mod results;
mod syncs;
mod system;

use etcd::Program;
use failover::Trials;
use ours::Ours;
use plan::Pace;
use points::Point;
use syncs::Syncs;

pub(crate) use aims::at_most_ms;
pub(crate) use generator::{charged_from, due_after};
pub(crate) use histogram::Histogram;
pub(crate) use plan::{Case, Plan};
pub(crate) use results::share;

/// Everything that was found.
#[derive(Debug)]
struct Findings {
    syncs: Vec<Syncs>,
    points: Vec<Point>,
    trials: Vec<Trials>,
}

pub(crate) async fn measure(plan: &Plan) -> Result<Report> {
    on_a_disk()?;
    let program = Program::find().await?;
    let ours = our_version().await?;
    let syncs = Box::pin(syncs::measure(&program)).await?;
    let mut points = Box::pin(points::closed(plan, &program)).await?;
    let open = Box::pin(points::open(plan, &program, &points)).await?;
    points.extend(open);
    points.extend(Box::pin(points::profiles(plan, &program)).await?);
    points.extend(Box::pin(points::reads(plan, &program)).await?);
    let trials = Box::pin(failover::measure(plan, &program)).await?;
    let versions = vec![("ollamax-node".to_owned(), ours), ("etcd".to_owned(), program.version.clone())];
    Ok(report(plan, versions, &Findings { syncs, points, trials }))
}

/// Data in memory would be synced in no time, by both.
pub(crate) fn on_a_disk() -> Result<()> {
    let folder = std::env::temp_dir();
    let found = statfs(&folder).with_context(|| format!("look at the file system of {}", folder.display()))?;
    let is_memory = found.filesystem_type() == TMPFS_MAGIC;
    ensure!(!is_memory, "{} lies in memory: set TMPDIR to a folder on the disk to be measured", folder.display());
    Ok(())
}

async fn our_version() -> Result<String> {
    let ours = Ours::start(Pace::Default).await?;
    let version = ours.version().await?;
    ours.finish().await?;
    Ok(version)
}

fn report(plan: &Plan, versions: Vec<(String, String)>, found: &Findings) -> Report {
    let mut rows = results::of_points(&found.points);
    let mut aims = aims::beside(plan, &rows);
    aims.extend(aims::reads(&rows, &found.points));
    aims.extend(aims::profiles(&found.points));
    aims.extend(aims::syncs(&found.syncs));
    aims.extend(aims::failovers(&found.trials));
    rows.extend(results::of_syncs(&found.syncs));
    rows.extend(results::of_trials(&found.trials));
    Report {
        bench: "metadata --against etcd",
        machine: Machine::here(),
        versions,
        runs: plan.runs,
        point_seconds: plan.time.as_secs_f64(),
        rows,
        aims,
        left_out: left_out(plan),
        notes: notes(plan, found),
    }
}

/// What was not asked for.
fn left_out(plan: &Plan) -> Vec<String> {
    let mut left_out = Vec::new();
    let missing: Vec<&str> = Case::ALL.into_iter().filter(|case| !plan.cases.contains(case)).map(Case::name).collect();
    if !missing.is_empty() {
        left_out.push(format!("not asked for: {}", missing.join("; ")));
    }
    let judged = [1, 64, 256].into_iter().filter(|clients| !plan.clients.contains(clients)).map(|it| it.to_string());
    let judged: Vec<String> = judged.collect();
    if !judged.is_empty() {
        left_out.push(format!("not asked for: {} clients", judged.join(", ")));
    }
    if plan.failovers == 0 {
        left_out.push("not asked for: lost leaders".to_owned());
    }
    left_out
}

/// What is the same, what differs, and what the figures mean.
const NOTES: [&str; 14] = [
    "one machine, one disk, three daemons and the generator on the same cores, one system at a time: fsyncs share one \
     journal, so figures are worth something beside each other, not by themselves",
    "the same for both: generator and its runtime, min(clients, 16) connections, gRPC over a unix socket without TLS \
     between clients and nodes, TLS with certificates at both ends between nodes, a sync on a majority before each \
     acknowledgement, 1000 keys of 256 bytes before each load, fresh data for each case and turn",
    "not compared: TLS between clients and nodes; ours serves the values on the unix socket alone",
    "differs: a put of ours is a transaction in the node's session, which has effect once however often it is sent; \
     etcd's has no such session",
    "differs: etcd keeps every revision during a load (no compaction, quota 8 GiB instead of 2), ours the last 10000 in \
     memory; etcd takes a snapshot each 100000 entries, ours each 10000",
    "differs: etcd's certificate is made for the run with openssl (P-256), the keys of ours are the nodes' own",
    "default timeouts: a follower of etcd stands for election after 1.0 to 2.0 s (heartbeat 100 ms), one of ours after \
     1.15 to 1.3 s (heartbeat 250 ms); 1 s timeouts: etcd the same, ours after 1.0 to 1.6 s (heartbeat 100 ms)",
    "leader: all connections go to the leader; any node: to all nodes in turn, the first to a follower",
    "closed loads find the maximum; open ones ask both systems at a share of the slower one's best median, and latency \
     counts from the moment that was planned",
    "get stale: the node's own state (etcd: serializable); ours also says how old it may be",
    "daemons cores: of all three together; RSS: of the largest daemon; KiB written: by all three, from /proc/PID/io",
    "gaps: a write begins every 10 ms at the two other nodes; after kill -9 to the first acknowledgement of a later \
     write, otherwise the longest time between two acknowledgements; failed writes: of each trial",
    "check perf: writes per second, clients, sizes and rule of `etcdctl check perf`, asked by this generator",
    "the loads with which fsyncs are counted run beside strace and are slower; only their ratios are shown",
];

fn notes(plan: &Plan, found: &Findings) -> Vec<String> {
    let mut notes: Vec<String> = NOTES.map(str::to_owned).into();
    if found.syncs.iter().any(|syncs| !syncs.by_strace) {
        notes.push(
            "strace is not installed (Debian, Ubuntu: apt-get install strace) or may not look: fsyncs are those that \
             the daemons count themselves; ours do not count flushes of the state"
                .to_owned(),
        );
    }
    let moved = found.points.iter().filter(|point| point.leader_moved).count();
    if moved > 0 {
        notes.push(format!("the leader changed during {moved} of {} points", found.points.len()));
    }
    if plan.runs < 5 || plan.time < Duration::from_secs(20) {
        notes.push("a short form: the figures to publish take 5 runs of 20 s each".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cases: Vec<Case>, clients: Vec<usize>, failovers: usize) -> Plan {
        let time = Duration::from_secs(20);
        Plan { runs: 5, warm: time, time, clients, cases, failovers, perf: time }
    }

    #[test]
    fn what_was_not_asked_for_is_named() {
        let all = Case::ALL.to_vec();
        assert!(left_out(&plan(all.clone(), vec![1, 8, 64, 256], 30)).is_empty());
        let left = left_out(&plan(vec![Case::Put], vec![1], 0));
        assert_eq!(left.len(), 3);
        assert!(left[0].contains("get stale") && !left[0].contains("256 B;"), "{left:?}");
        assert_eq!(left[1], "not asked for: 64, 256 clients");
        assert!(left_out(&plan(all, vec![1, 64, 256], 0))[0].contains("lost leaders"));
    }

    #[test]
    fn a_short_form_says_that_it_is_one() {
        let none = Findings { syncs: Vec::new(), points: Vec::new(), trials: Vec::new() };
        let long = plan(Case::ALL.to_vec(), vec![1], 30);
        assert_eq!(notes(&long, &none).len(), NOTES.len());
        let short = Plan { runs: 1, ..long };
        assert!(notes(&short, &none).iter().any(|note| note.starts_with("a short form")));
    }
}
