//! The disks of all nodes, where faults need them: the replicated state of each node behind the library of disk faults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::disk_faults::{CutReport, DiskFaults, Variant};
use ollamax_testkit::{Cluster, Seed};

/// The replicated state in a data directory.
const STATE: &str = "raft";
/// The file of which each start writes the number for people anew.
const LOCK: &str = "lock";

/// One disk for each node.
#[derive(Debug)]
pub(crate) struct Disks {
    scratch: PathBuf,
    disks: Vec<DiskFaults>,
    /// How many were prepared so far: each has a scratch directory of its own.
    prepared: usize,
}

// === impl Disks ===

impl Disks {
    /// Puts the library below all nodes of a cluster; they are started anew for it.
    ///
    /// # Errors
    /// When there is no C compiler, this is not Linux, or a node does not come back.
    pub(crate) async fn below(cluster: &Cluster) -> Result<Self> {
        let everybody: Vec<usize> = (0..cluster.size()).collect();
        cluster.kill(&everybody).await?;
        let mut disks = Self { scratch: cluster.directory().join("disks"), disks: Vec::new(), prepared: 0 };
        for index in &everybody {
            let disk = disks.prepare(cluster, *index)?;
            disks.disks.push(disk);
        }
        cluster.restart(&everybody).await?;
        Ok(disks)
    }

    /// A node has a new state, which the library below it does not know. It must not run.
    pub(crate) fn renew(&mut self, cluster: &Cluster, index: usize) -> Result<()> {
        self.disks[index] = self.prepare(cluster, index)?;
        Ok(())
    }

    fn prepare(&mut self, cluster: &Cluster, index: usize) -> Result<DiskFaults> {
        let node = cluster.node(index);
        self.prepared += 1;
        let scratch = self.scratch.join(format!("{}-{}", node.name(), self.prepared));
        let disk = DiskFaults::prepare(&node.data_dir().join(STATE), &scratch);
        let disk = disk.with_context(|| format!("prepare the disk of {}", node.name()))?;
        disk.environment().into_iter().for_each(|(name, value)| node.set_environment(&name, value));
        Ok(disk)
    }

    /// From now on each sync of these nodes takes this much longer.
    pub(crate) fn delay(&self, nodes: &[usize], delay: Duration) -> Result<()> {
        nodes.iter().try_for_each(|index| self.disks[*index].delay_syncs(delay))
    }

    /// Whether each sync of these nodes is noted with its time.
    pub(crate) fn log(&self, nodes: &[usize], on: bool) -> Result<()> {
        nodes.iter().try_for_each(|index| self.disks[*index].log_syncs(on))
    }

    /// How many noted syncs of these nodes, of those that began after the first `before` of each, took this long.
    pub(crate) fn slow_syncs(&self, nodes: &[usize], before: &[u64], least: Duration) -> Result<usize> {
        let mut slow = 0;
        for (index, before) in nodes.iter().zip(before) {
            let times = self.disks[*index].sync_times()?;
            slow +=
                times.iter().filter(|t| t.begun_number > *before && t.ended.saturating_sub(t.begun) >= least).count();
        }
        Ok(slow)
    }

    /// How many syncs of each of these nodes have begun.
    pub(crate) fn begun(&self, nodes: &[usize]) -> Result<Vec<u64>> {
        nodes.iter().map(|index| self.disks[*index].syncs_begun()).collect()
    }

    /// The disk of one node.
    pub(crate) fn of(&self, index: usize) -> &DiskFaults {
        &self.disks[index]
    }

    /// Cuts the power of nodes that do not run. Returns how many bytes and names were lost.
    ///
    /// # Errors
    /// When what a real disk could hold now is not known for sure.
    pub(crate) fn cut(&mut self, nodes: &[usize], seed: Seed, variant: Variant) -> Result<Loss> {
        let mut loss = Loss::default();
        for index in nodes {
            let report = self.disks[*index].cut_power(seed, variant)?;
            ensure!(is_certain(&report), "what this power cut left is not certain: {report}");
            loss.bytes += report.unsynced_bytes();
            loss.names += report.undone.len() as u64;
        }
        Ok(loss)
    }
}

/// What a power cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Loss {
    pub(crate) bytes: u64,
    pub(crate) names: u64,
}

fn is_certain(report: &CutReport) -> bool {
    let known = report.inexact.iter().all(|path| path == Path::new(LOCK));
    known && report.missing.is_empty() && report.untracked == 0
}
