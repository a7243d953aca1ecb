//! Faults of disks that refuse: a sync or a write that fails, no room at all, and writes that are cut short.
//!
//! What fails once ends the store for good, says why, and is never tried again, although it would go well; so one
//! refusal must end the process. A short write is none: it is gone on with. That a process does anything else is an
//! error of the product and ends the run.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::disk_faults::{ALWAYS, DiskFaults, Errno};
use ollamax_testkit::wait;

use crate::faults::{Done, PATIENCE, Stage, proof};
use crate::plan::{Ailment, Whom};

/// What a node that stops says of its store.
const REASON: &str = "the store has stopped; the node must stop";

impl Stage<'_> {
    pub(super) async fn bad_disk(&mut self, whom: Whom, ailment: Ailment) -> Result<Done> {
        let victims = self.who(whom).await?;
        let victim = *victims.first().context("nobody is meant")?;
        // Before the disk is ill: what it makes the node say may be there at once.
        let log = self.cluster.node(victim).log_path().to_owned();
        let read_from = log.metadata().with_context(|| format!("look at {}", log.display()))?.len();
        let disk = self.disks()?.of(victim);
        let before = Refusals::of(disk)?;
        fall_ill(disk, ailment)?;
        if ailment == Ailment::Short {
            self.last().await;
            let disk = self.disks()?.of(victim);
            recover(disk)?;
            let shortened = Refusals::of(disk)?.shortened - before.shortened;
            let answer = wait::until("the node to answer", PATIENCE, || self.cluster.status(victim)).await;
            answer.with_context(|| format!("node {victim} did not bear {shortened} short writes"))?;
            return Ok(Done::now(proof(shortened > 0, format!("{shortened} writes of node {victim} were cut short"))));
        }
        let ended = self.cluster.node(victim).ended(PATIENCE).await;
        let disk = self.disks()?.of(victim);
        recover(disk)?;
        let refused = Refusals::of(disk)?.failed - before.failed;
        let status = match ended {
            Err(_) if refused == 0 => return Ok(Done::now(Err(format!("node {victim} asked nothing of its disk")))),
            ended => ended.with_context(|| format!("node {victim} goes on, its disk refused {refused} times"))?,
        };
        ensure!(status.code() == Some(1), "node {victim} ended with {status} when its disk had refused");
        ensure!(has_said(&log, read_from)?, "node {victim} ended without a reason: {REASON:?} is not in its log");
        self.last().await;
        self.start_again(&[victim]).await.context("start what a bad disk has ended")?;
        let what = format!("the disk of node {victim} refused {refused} times, and the node ended and said why");
        Ok(Done::now(proof(refused > 0, what)))
    }
}

/// How often a disk has refused.
struct Refusals {
    failed: u64,
    shortened: u64,
}

// === impl Refusals ===

impl Refusals {
    fn of(disk: &DiskFaults) -> Result<Self> {
        let processes = disk.processes()?;
        let failed = processes.iter().map(|process| process.failed_syncs + process.failed_writes).sum();
        Ok(Self { failed, shortened: processes.iter().map(|process| process.shortened_writes).sum() })
    }
}

fn fall_ill(disk: &DiskFaults, ailment: Ailment) -> Result<()> {
    disk.only(match ailment {
        Ailment::LogSync | Ailment::LogWrite => "*.log",
        Ailment::MarkSync => "high-water.tmp",
        Ailment::Full | Ailment::Short => "",
    })?;
    match ailment {
        Ailment::LogSync | Ailment::MarkSync => disk.fail_syncs(Errno::EIO, 1),
        Ailment::LogWrite => disk.fail_writes(Errno::EIO, 1),
        Ailment::Full => disk.fail_writes(Errno::ENOSPC, ALWAYS),
        Ailment::Short => disk.shorten_writes(ALWAYS),
    }
}

fn recover(disk: &DiskFaults) -> Result<()> {
    disk.fail_syncs(Errno::EIO, 0)?;
    disk.fail_writes(Errno::EIO, 0)?;
    disk.shorten_writes(0)?;
    disk.only("")
}

/// Whether a log tells the reason behind this byte.
fn has_said(log: &Path, from: u64) -> Result<bool> {
    let mut file = File::open(log).with_context(|| format!("open {}", log.display()))?;
    file.seek(SeekFrom::Start(from)).context("read the log")?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read the log")?;
    Ok(String::from_utf8_lossy(&bytes).contains(REASON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_log_says_behind_a_place_counts() {
        let folder = tempfile::tempdir().expect("temp");
        let log = folder.path().join("n1.log");
        let line = format!("{{\"message\":\"{REASON}\"}}\n");
        std::fs::write(&log, &line).expect("written");
        assert!(has_said(&log, 0).expect("read"));
        assert!(!has_said(&log, line.len() as u64).expect("read"));
    }
}
