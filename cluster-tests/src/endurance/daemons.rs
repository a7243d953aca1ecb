//! What each daemon holds: memory, open files and processor time, where a life of its process begins and where it ends.
//!
//! A daemon that is killed starts anew, so what it holds is told for each life; nothing goes on from one to the next.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::Node;

/// What a daemon holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holds {
    pub(crate) resident_bytes: u64,
    pub(crate) open_files: usize,
    /// Processor time since its start.
    pub(crate) cpu: Duration,
}

// === impl Holds ===

impl Holds {
    fn of(node: &Node) -> Result<Self> {
        let (resident_bytes, open_files) = (node.resident_bytes()?, node.open_files()?);
        Ok(Self { resident_bytes, open_files, cpu: node.cpu_time()? })
    }
}

/// One life of a daemon, as far as it was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) node: usize,
    pub(crate) first: Holds,
    pub(crate) last: Holds,
    pub(crate) time: Duration,
    /// Processor time that belongs to the run.
    pub(crate) cpu: Duration,
}

/// A life that has not ended.
#[derive(Debug, Clone, Copy)]
struct Begun {
    first: Holds,
    at: Instant,
    /// Processor time that was used before the run.
    cpu_before: Duration,
}

/// All lives of all daemons.
#[derive(Debug)]
pub(crate) struct Lives {
    begun: Vec<Option<Begun>>,
    ended: Vec<Life>,
}

// === impl Lives ===

impl Lives {
    /// The first lives, which began before the run.
    pub(crate) fn watch(cluster: &Cluster) -> Result<Self> {
        let at = Instant::now();
        let begun = |node: &Node| {
            let first = Holds::of(node)?;
            Ok(Some(Begun { first, at, cpu_before: first.cpu }))
        };
        Ok(Self { begun: cluster.nodes().iter().map(begun).collect::<Result<_>>()?, ended: Vec::new() })
    }

    /// Another life of a node has begun.
    pub(crate) fn begin(&mut self, node: &Node) -> Result<()> {
        let begun = Begun { first: Holds::of(node)?, at: Instant::now(), cpu_before: Duration::ZERO };
        self.begun[node.index()] = Some(begun);
        Ok(())
    }

    /// The life of a node ends now.
    pub(crate) fn end(&mut self, node: &Node) -> Result<()> {
        if let Some(begun) = self.begun[node.index()].take() {
            self.ended.push(life(node.index(), begun, Holds::of(node)?, Instant::now()));
        }
        Ok(())
    }

    /// Those that have ended, in this order.
    pub(crate) fn into_ended(self) -> Vec<Life> {
        self.ended
    }
}

fn life(node: usize, begun: Begun, last: Holds, now: Instant) -> Life {
    let Begun { first, at, cpu_before } = begun;
    let (time, cpu) = (now.saturating_duration_since(at), last.cpu.saturating_sub(cpu_before));
    Life { node, first, last, time, cpu }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_used_before_the_run_is_not_its_own() {
        let seconds = Duration::from_secs;
        let at = Instant::now();
        let holds = |cpu| Holds { resident_bytes: 1, open_files: 2, cpu: seconds(cpu) };
        let check = |cpu_before: u64, expected: u64| {
            let begun = Begun { first: holds(3), at, cpu_before: seconds(cpu_before) };
            let life = life(1, begun, holds(9), at + seconds(60));
            let (time, cpu) = (seconds(60), seconds(expected));
            assert_eq!(life, Life { node: 1, first: holds(3), last: holds(9), time, cpu });
        };
        check(3, 6);
        check(0, 9);
    }
}
