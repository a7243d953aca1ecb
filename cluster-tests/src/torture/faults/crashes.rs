//! Faults of processes that end in the midst of a call: at a write, a sync or a name of a file, before it is done or
//! before anybody hears of it.
//!
//! The process kills itself, so that it did shows that the point was there. What its disk had not synced may be lost. A
//! process that does not come to its point in time goes on, and the fault was not done.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use nix::sys::signal::Signal;

use ollamax_testkit::disk_faults::{CrashPoint, Variant};
use ollamax_testkit::wait;

use crate::faults::{Done, Stage, proof};
use crate::plan::Scene;

/// Longest wait for a process to come to its point: a node that takes changes comes to each again and again.
const CRASH_TIME: Duration = Duration::from_secs(20);
/// How long a process that came to its point at the last moment may need to be gone.
const LAST_LOOK: Duration = Duration::from_millis(200);
/// What an error says of a process that was killed while it started.
const KILLED: &str = "exited: signal: 9";
/// How the names of the file begin that holds the votes.
const MARK: &str = "high-water";

/// What became of a process that was to end.
struct Fallen {
    ended: bool,
    /// At the point that was asked for, by its own hand.
    as_asked: bool,
    /// How long it is off.
    off: Duration,
}

impl Stage<'_> {
    pub(super) async fn crash(&mut self, scene: Scene, point: &CrashPoint, loss: Option<Variant>) -> Result<Done> {
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let victim = match scene {
            Scene::Leading => leader,
            Scene::Following | Scene::Starting | Scene::CatchingUp => self.one_of(&followers)?,
        };
        let before = self.disks()?.of(victim).crashes()?;
        let off = self.round.time;
        let fallen = match scene {
            Scene::Leading => {
                self.disks()?.of(victim).crash_at(point)?;
                Box::pin(self.fallen(victim, before, off)).await?
            }
            Scene::Following => {
                let id = self.cluster.status(victim).await?.node_id;
                self.disks()?.of(victim).crash_at(point)?;
                if point.names.starts_with(MARK) {
                    Box::pin(self.ask_to_lead(leader, id)).await;
                }
                Box::pin(self.fallen(victim, before, off)).await?
            }
            Scene::Starting => {
                self.cluster.kill(&[victim]).await?;
                self.disks()?.of(victim).crash_at(point)?;
                match self.cluster.restart(&[victim]).await {
                    // It listens before it has opened its state.
                    Ok(()) => Box::pin(self.fallen(victim, before, off)).await?,
                    Err(error) => {
                        let disk = self.disks()?.of(victim);
                        disk.crash_never()?;
                        let as_asked = disk.crashes()? > before && is_killed(&error);
                        Fallen { ended: true, as_asked, off }
                    }
                }
            }
            Scene::CatchingUp => {
                let behind = Box::pin(self.leave_behind(victim)).await?;
                self.disks()?.of(victim).crash_at(point)?;
                self.cluster.links().heal();
                if let Err(missing) = behind {
                    self.disks()?.of(victim).crash_never()?;
                    return Ok(Done::not_injected(missing));
                }
                Box::pin(self.fallen(victim, before, Duration::ZERO)).await?
            }
        };
        let done = if fallen.ended {
            let what = Box::pin(self.rise(victim, &fallen, loss)).await?;
            Done::now(proof(fallen.as_asked, format!("node {victim} ended itself {point}{what}")))
        } else {
            Done::not_injected(format!("node {victim} did not come to its end {point} in {CRASH_TIME:?}"))
        };
        Ok(Done { with_snapshot: scene == Scene::CatchingUp, ..done })
    }

    /// Makes a follower save a vote: it asks for those of the others. What comes of it is of no interest.
    async fn ask_to_lead(&self, leader: usize, id: u64) {
        if let Ok(admin) = self.cluster.node(leader).admin() {
            drop(admin.transfer_leader(id).await);
        }
    }

    /// Waits for the end of a process. None comes to its point any more afterwards.
    async fn fallen(&mut self, victim: usize, before: u64, off: Duration) -> Result<Fallen> {
        let cluster = self.cluster;
        let mut status = cluster.node(victim).ended(CRASH_TIME).await;
        self.disks()?.of(victim).crash_never()?;
        if status.is_err() {
            // It may have come to it between the two.
            status = cluster.node(victim).ended(LAST_LOOK).await;
        }
        let crashed = self.disks()?.of(victim).crashes()? > before;
        let killed = status.as_ref().is_ok_and(|status| status.signal() == Some(Signal::SIGKILL as i32));
        Ok(Fallen { ended: status.is_ok(), as_asked: crashed && killed, off })
    }

    /// Lets the disk lose what it had not synced, if it is to, and starts what has ended. Returns what was lost.
    async fn rise(&mut self, victim: usize, fallen: &Fallen, loss: Option<Variant>) -> Result<String> {
        let seed = self.round.seed;
        let disks = self.disks()?;
        let mut what = String::new();
        if let Some(variant) = loss {
            let lost = disks.cut(&[victim], seed, variant).context("cut the power of what has ended")?;
            what = format!(" and lost {} bytes and {} names", lost.bytes, lost.names);
        }
        wait::pause(fallen.off).await;
        Box::pin(self.start_again(&[victim])).await.context("start what ended in a call")?;
        Ok(what)
    }
}

/// Whether a start failed because the process was killed. One that did not listen in time is killed too, unseen.
fn is_killed(error: &Error) -> bool {
    error.root_cause().to_string().contains(KILLED)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn only_a_start_that_was_killed_ended_at_a_point() {
        let check = |said: &'static str, expected: bool| {
            assert_eq!(is_killed(&anyhow!(said).context("log of n2:\n{}")), expected, "{said}");
        };
        check("n2 exited: signal: 9 (SIGKILL)", true);
        check("n2 exited: signal: 6 (SIGABRT) (core dumped)", false);
        check("n2 exited: exit status: 1", false);
        check("waited 30s for n2 to listen; last seen: no node.json", false);
    }
}
