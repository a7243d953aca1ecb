//! Faults of processes and of the disks below them: killed, paused, slow, and without power.

use std::time::Duration;

use anyhow::{Context, Result};

use ollamax_testkit::disk_faults::Variant;

use crate::faults::{Done, Stage, proof};
use crate::plan::Whom;

/// What `/proc` says of a process that was stopped by a signal.
const STOPPED: &str = "T";

impl Stage<'_> {
    pub(super) async fn kill(&mut self, whom: Whom) -> Result<Done> {
        let victims = self.who(whom).await?;
        let before = self.pids(&victims)?;
        self.cluster.kill(&victims).await?;
        self.last().await;
        self.start_again(&victims).await.context("start what was killed")?;
        let after = self.pids(&victims)?;
        let changed = before.iter().zip(&after).all(|(before, after)| before != after);
        Ok(Done::now(proof(changed, format!("nodes {victims:?} were processes {before:?} and are {after:?}"))))
    }

    pub(super) async fn cut_power(&mut self, variant: Variant) -> Result<Done> {
        let (everybody, seed) = (self.everybody(), self.round.seed);
        self.cluster.kill(&everybody).await?;
        let disks = self.disks()?;
        let loss = disks.cut(&everybody, seed, variant).context("cut the power")?;
        disks.delay(&everybody, Duration::ZERO)?;
        self.last().await;
        self.start_again(&everybody).await.context("start after the power cut")?;
        let what = format!("{} bytes and {} names that were never synced were lost", loss.bytes, loss.names);
        Ok(Done::now(proof(loss.bytes + loss.names > 0, what)))
    }

    pub(super) async fn pause(&mut self, whom: Whom) -> Result<Done> {
        let victims = self.who(whom).await?;
        let pids = self.pids(&victims)?;
        for index in &victims {
            self.cluster.node(*index).pause()?;
        }
        self.last().await;
        let states: Vec<String> = pids.iter().map(|pid| state_of(*pid)).collect();
        for index in &victims {
            self.cluster.node(*index).resume()?;
        }
        let stopped = states.iter().all(|state| state == STOPPED);
        Ok(Done::now(proof(stopped, format!("nodes {victims:?} stood still, state {states:?}"))))
    }

    pub(super) async fn slow_syncs(&mut self, whom: Whom, delay: Duration) -> Result<Done> {
        let victims = self.who(whom).await?;
        let disks = self.disks()?;
        let before = disks.begun(&victims)?;
        disks.log(&victims, true)?;
        disks.delay(&victims, delay)?;
        self.last().await;
        let disks = self.disks()?;
        let slow = disks.slow_syncs(&victims, &before, delay)?;
        disks.delay(&victims, Duration::ZERO)?;
        disks.log(&victims, false)?;
        Ok(Done::now(proof(slow > 0, format!("{slow} syncs of nodes {victims:?} took {} ms", delay.as_millis()))))
    }

    /// The processes of these nodes, by their own word.
    pub(super) fn pids(&self, nodes: &[usize]) -> Result<Vec<u32>> {
        nodes.iter().map(|index| Ok(self.cluster.node(*index).facts()?.pid)).collect()
    }
}

/// One letter, from `/proc`; empty when there is no such process.
fn state_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let after = text.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_state_of_a_process_is_one_letter_and_of_none_is_nothing() {
        assert_eq!(state_of(std::process::id()).len(), 1);
        assert_ne!(state_of(std::process::id()), STOPPED);
        assert_eq!(state_of(u32::MAX), "");
    }
}
