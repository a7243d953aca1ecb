//! That both systems sync before they acknowledge, and how often: the same load once more, short, with each daemon's
//! system calls counted by strace. Without strace, or where it may not look, the daemons' own counters say it.
//!
//! A system that shows no sync for acknowledged writes of one client is not compared: the report is refused.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::etcd::Program;
use super::generator::{self, Job, Load};
use super::plan::{Case, Pace, Through, Which};
use super::system::System;
use crate::machine;

const PATIENCE: Duration = Duration::from_secs(10);
/// Measured time; strace makes everything slower, so only ratios come from it.
const TIME: Duration = Duration::from_secs(5);
/// Clients of the two loads.
pub(crate) const CLIENTS: [usize; 2] = [1, 64];
/// The calls that make data durable.
const CALLS: [&str; 2] = ["fsync", "fdatasync"];

/// What a node has counted since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) fsyncs: f64,
    /// Groups of writes that became durable together, and the writes in them; `None`: it does not count them.
    pub(crate) groups: Option<f64>,
    pub(crate) grouped: Option<f64>,
}

/// What one load showed.
#[derive(Debug, Clone)]
pub(crate) struct Syncs {
    pub(crate) which: Which,
    pub(crate) clients: usize,
    pub(crate) failed: u64,
    pub(crate) writes: u64,
    /// Of each node.
    pub(crate) fsyncs: Vec<f64>,
    pub(crate) leader: usize,
    /// On all nodes together.
    pub(crate) groups: Option<f64>,
    pub(crate) leader_grouped_per_group: Option<f64>,
    /// Counted by strace, not by the daemons.
    pub(crate) by_strace: bool,
}

// === impl Syncs ===

impl Syncs {
    fn per_write(&self, fsyncs: f64) -> Option<f64> {
        (self.writes > 0).then(|| fsyncs / self.writes as f64)
    }

    pub(crate) fn on_the_leader(&self) -> Option<f64> {
        self.per_write(*self.fsyncs.get(self.leader)?)
    }

    pub(crate) fn on_all(&self) -> Option<f64> {
        self.per_write(self.fsyncs.iter().sum())
    }

    /// Of one node, for each group of writes that it made durable.
    pub(crate) fn per_group(&self) -> Option<f64> {
        let groups = self.groups.filter(|groups| *groups > 0.0)?;
        Some(self.fsyncs.iter().sum::<f64>() / groups)
    }
}

/// One short load for each system and number of clients. Refuses to go on when a system does not sync.
pub(crate) async fn measure(program: &Program) -> Result<Vec<Syncs>> {
    let strace = machine::program("strace");
    let mut found = Vec::new();
    for which in Which::BOTH {
        for clients in CLIENTS {
            let system = System::start(which, program, Pace::Default).await?;
            let syncs = load(&system, which, clients, strace.as_deref()).await?;
            eprintln!("{} at {clients} clients: {:?} fsyncs for {} writes", which.name(), syncs.fsyncs, syncs.writes);
            system.finish().await?;
            found.push(syncs);
        }
    }
    if let Some(reason) = refusal(&found) {
        bail!("{reason}; numbers beside it would say nothing, so none are published");
    }
    Ok(found)
}

async fn load(system: &System, which: Which, clients: usize, strace: Option<&Path>) -> Result<Syncs> {
    let leader = system.leader().await?;
    let doors = system.doors(Through::Leader, leader, clients)?;
    let processes = system.processes()?;
    let traces = match strace {
        Some(strace) => match Traces::attach(strace, &processes).await {
            Ok(traces) => Some(traces),
            Err(problem) => {
                eprintln!("fsyncs are taken from the daemons' own counters, because strace may not look: {problem:#}");
                None
            }
        },
        None => None,
    };
    let before = system.counts().await?;
    let (warm, job) = (Duration::ZERO, Job::Case(Case::Put));
    let measured = generator::closed(&Load { job, clients, doors, warm, time: TIME }, &processes).await?;
    let after = system.counts().await?;
    let by_strace = traces.is_some();
    let own = before.iter().zip(&after).map(|(before, after)| after.fsyncs - before.fsyncs).collect();
    let fsyncs = match traces {
        Some(traces) => traces.finish().await?,
        None => own,
    };
    let spent = |of: fn(&Counts) -> Option<f64>| -> Vec<Option<f64>> {
        before.iter().zip(&after).map(|(before, after)| Some(of(after)? - of(before)?)).collect()
    };
    let (groups, grouped) = (spent(|counts| counts.groups), spent(|counts| counts.grouped));
    let leader_grouped_per_group = grouped[leader].zip(groups[leader]).filter(|(_, groups)| *groups > 0.0);
    Ok(Syncs {
        which,
        clients,
        failed: measured.failed,
        writes: measured.latencies.total(),
        fsyncs,
        leader,
        groups: groups.iter().copied().sum(),
        leader_grouped_per_group: leader_grouped_per_group.map(|(grouped, groups)| grouped / groups),
        by_strace,
    })
}

/// Why nothing may be published: a node that leads acknowledged writes of one client and synced nothing.
fn refusal(found: &[Syncs]) -> Option<String> {
    let synced = |syncs: &Syncs| syncs.on_the_leader().is_some_and(|per_write| per_write > 0.0);
    let lazy = found.iter().find(|syncs| syncs.clients == 1 && !synced(syncs))?;
    let Syncs { which, writes, .. } = lazy;
    Some(format!("{} acknowledged {writes} writes of one client and synced its disk for none", which.name()))
}

/// One strace for each daemon.
#[derive(Debug)]
struct Traces {
    running: Vec<(Child, PathBuf)>,
    directory: tempfile::TempDir,
}

// === impl Traces ===

impl Traces {
    async fn attach(strace: &Path, processes: &[u32]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ollamax-strace-").tempdir().context("make a directory")?;
        let mut running = Vec::new();
        for pid in processes {
            let summary = directory.path().join(pid.to_string());
            let mut child = Command::new(strace)
                .args(["-f", "-c", "-e", &format!("trace={}", CALLS.join(",")), "-o"])
                .arg(&summary)
                .args(["-p", &pid.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .context("start strace")?;
            let said = child.stderr.take().context("no standard error")?;
            let mut lines = BufReader::new(said).lines();
            let attached = timeout(PATIENCE, async {
                while let Some(line) = lines.next_line().await.context("read what strace says")? {
                    if line.contains("attached") {
                        return Ok(lines);
                    }
                    ensure!(!line.contains("attach:"), "{line}");
                }
                bail!("it ended at once")
            });
            // What it says of threads that come and go fits into the pipe, which stays open with the child.
            child.stderr = Some(attached.await.context("it does not attach")??.into_inner().into_inner());
            running.push((child, summary));
        }
        Ok(Self { running, directory })
    }

    /// The calls of each daemon since.
    async fn finish(self) -> Result<Vec<f64>> {
        let mut counted = Vec::new();
        for (child, summary) in self.running {
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("strace has ended")?;
            kill(Pid::from_raw(pid), Signal::SIGINT).context("end strace")?;
            // It reads to the end what strace has to say, so that strace can end.
            timeout(PATIENCE, child.wait_with_output()).await.context("strace does not end")??;
            let text = std::fs::read_to_string(&summary).context("read strace's summary")?;
            counted.push(calls(&text));
        }
        self.directory.close().context("remove strace's directory")?;
        Ok(counted)
    }
}

/// The calls that a summary of `strace -c` counts: the fourth column, where the last is one of ours.
fn calls(summary: &str) -> f64 {
    let lines = summary.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|fields| fields.last().is_some_and(|name| CALLS.contains(name)));
    ours.filter_map(|fields| fields.get(3)?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syncs(clients: usize, writes: u64, fsyncs: &[f64], groups: Option<f64>) -> Syncs {
        Syncs {
            which: Which::Etcd,
            clients,
            failed: 0,
            writes,
            fsyncs: fsyncs.to_vec(),
            leader: 1,
            groups,
            leader_grouped_per_group: None,
            by_strace: true,
        }
    }

    #[test]
    fn ratios_are_those_of_the_leader_and_of_all() {
        let found = syncs(1, 100, &[90.0, 110.0, 100.0], Some(250.0));
        assert_eq!((found.on_the_leader(), found.on_all(), found.per_group()), (Some(1.1), Some(3.0), Some(1.2)));
        let none = syncs(1, 0, &[1.0, 1.0, 1.0], None);
        assert_eq!((none.on_the_leader(), none.on_all(), none.per_group()), (None, None, None));
    }

    #[test]
    fn a_system_that_does_not_sync_for_one_client_is_not_compared() {
        let check = |found: Syncs, refused: bool| assert_eq!(refusal(&[found]).is_some(), refused);
        check(syncs(1, 100, &[100.0, 100.0, 100.0], None), false);
        check(syncs(1, 100, &[100.0, 0.0, 100.0], None), true);
        check(syncs(1, 0, &[100.0, 100.0, 100.0], None), true);
        // With many clients the ratio may be small, and is shown.
        check(syncs(64, 100, &[0.0, 0.0, 0.0], None), false);
    }

    #[test]
    fn the_summary_of_strace_is_read() {
        let summary = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 90.00    0.001526         169         9           fdatasync
 10.00    0.000100         100         2         1 fsync
------ ----------- ----------- --------- --------- ----------------
100.00    0.001626         169        11           total
";
        assert!((calls(summary) - 11.0).abs() < 1e-9);
        assert!(calls("").abs() < 1e-9);
    }
}
