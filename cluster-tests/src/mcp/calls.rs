//! Lists of tools at a follower, and calls of the tool that does least, with the processor time that they cost a node.
//!
//! A node lets a caller call one tool 600 times in a minute, of which all may come at once. So each node is called that
//! often and not once more, after lists that warm it up. Processor time is read from the clock of its process, which
//! counts nanoseconds.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::Node;

use super::messages;
use super::plan::{CALLING, CALLS, LISTING};
use crate::load::{self, Outcome};

/// How long a node is asked for lists before it is called: what it does for the first time does not count.
const WARM: Duration = Duration::from_millis(500);

/// Lists of so many clients at once.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) clients: usize,
    pub(super) outcome: Outcome,
}

/// The calls that one node took.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) outcome: Outcome,
    /// Processor time of the node's process meanwhile.
    pub(super) cpu: Duration,
}

// === impl Calls ===

impl Calls {
    /// Calls that the node answers with one core in a second.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(super) fn per_core(&self) -> Option<f64> {
        let cpu = self.cpu.as_secs_f64();
        (cpu > 0.0).then(|| self.outcome.succeeded() as f64 / cpu)
    }
}

/// Asks one node for its tools, by one client, by some, by a crowd.
pub(super) async fn lists(node: &Node, time: Duration) -> Result<Vec<Lists>> {
    let question = messages::list(node.api_address()?);
    let mut found = Vec::new();
    for clients in LISTING {
        let outcome = Box::pin(load::run(&question, clients, time)).await;
        eprintln!("tools/list, clients={clients}: {:.0}/s, {} failed", outcome.per_second(), outcome.failed);
        found.push(Lists { clients, outcome });
    }
    Ok(found)
}

/// Calls every node as often as it may be called.
pub(super) async fn calls(cluster: &Cluster) -> Result<Vec<Calls>> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let warm = Box::pin(load::run(&messages::list(node.api_address()?), CALLING, WARM)).await;
        let question = messages::call(node.api_address()?);
        let before = cpu_time(node)?;
        let mut outcome = Box::pin(load::run_times(&question, CALLING, CALLS)).await;
        outcome.failed += warm.failed;
        let calls = Calls { outcome, cpu: cpu_time(node)?.saturating_sub(before) };
        eprintln!("{} calls at {}: {:?} of a processor", calls.outcome.succeeded(), node.name(), calls.cpu);
        found.push(calls);
    }
    Ok(found)
}

/// Processor time that a node's process has used.
fn cpu_time(node: &Node) -> Result<Duration> {
    let pid = i32::try_from(node.facts()?.pid).context("process id")?;
    let clock = clock_getcpuclockid(Pid::from_raw(pid)).with_context(|| format!("the clock of {}", node.name()))?;
    Ok(clock.now().with_context(|| format!("read the clock of {}", node.name()))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_for_each_core_come_from_processor_time_and_not_from_the_clock_on_the_wall() {
        let calls = |count: usize, cpu_ms: u64| {
            let outcome = Outcome { whole: vec![0.001; count], elapsed: Duration::from_secs(9), ..Outcome::default() };
            Calls { outcome, cpu: Duration::from_millis(cpu_ms) }
        };
        assert_eq!(calls(600, 100).per_core(), Some(6_000.0));
        assert_eq!(calls(600, 0).per_core(), None);
    }
}
