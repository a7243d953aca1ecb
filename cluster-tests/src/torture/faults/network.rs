//! Faults of the links between nodes: parted, late, stalling, slow, half-open, and so long that a snapshot is needed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use tokio::time::Instant;

use ollamax_testkit::link::Mode;
use ollamax_testkit::wait;

use crate::faults::{Done, PATIENCE, Stage, crowd, proof};
use crate::plan::{Split, Trouble};

/// How often the trouble of links changes.
const STALLS_CHANGE: Duration = Duration::from_millis(100);
const DELAYS_CHANGE: Duration = Duration::from_millis(500);
/// Delays, ms.
const DELAY_MS: std::ops::RangeInclusive<u64> = 25..=125;
/// Clients that help to make the log long while a node is away.
const HELPERS: usize = 16;
/// Longest wait for a node that needs a snapshot to have got it.
const SNAPSHOT_TIME: Duration = Duration::from_secs(60);
const SNAPSHOTS_INSTALLED: &str = "ollamax_raft_snapshots_installed_total";

impl Stage<'_> {
    pub(super) async fn part(&mut self, split: Split, silent: bool) -> Result<Done> {
        let mode = if silent { Mode::Silent } else { Mode::Cut };
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let (links, before) = (self.cluster.links().clone(), self.cluster.links().touched());
        let what = match split {
            Split::LeaderAlone => {
                links.divide(&[leader], &followers, mode);
                format!("node {leader} led alone")
            }
            Split::FollowersAlone => {
                let alone = &followers[..followers.len() / 2];
                let rest: Vec<usize> = self.everybody().into_iter().filter(|index| !alone.contains(index)).collect();
                links.divide(alone, &rest, mode);
                format!("nodes {alone:?} were alone")
            }
            Split::LeaderUnheard => {
                for follower in &followers {
                    links.set(leader, *follower, Mode::CallerUnheard);
                    links.set(*follower, leader, Mode::CalledUnheard);
                }
                format!("node {leader} led unheard")
            }
            Split::OneLink => {
                let follower = self.one_of(&followers)?;
                links.set_both(leader, follower, mode);
                format!("nodes {leader} and {follower} were apart")
            }
            Split::Bridge => {
                ensure!(followers.len() >= 4, "a bridge takes five nodes");
                links.divide(&[leader, followers[0]], &followers[2..4], mode);
                format!("node {} was the bridge", followers[1])
            }
        };
        self.last().await;
        links.heal();
        Ok(Done::now(self.touched(before, &what)))
    }

    pub(super) async fn trouble(&mut self, trouble: Trouble) -> Result<Done> {
        let (links, before) = (self.cluster.links().clone(), self.cluster.links().touched());
        let end = Instant::now() + self.round.time;
        while Instant::now() < end {
            for from in self.everybody() {
                for to in self.others(from) {
                    links.set(from, to, self.mode_of(trouble));
                }
            }
            let step = match trouble {
                Trouble::Stalls => STALLS_CHANGE,
                Trouble::Delays => DELAYS_CHANGE,
                Trouble::Slowness(_) => self.round.time,
            };
            wait::pause_until(end.min(Instant::now() + step)).await;
        }
        links.heal();
        Ok(Done::now(self.touched(before, "all links")))
    }

    fn mode_of(&mut self, trouble: Trouble) -> Mode {
        match trouble {
            Trouble::Delays => Mode::Delayed(Duration::from_millis(self.chance.random_range(DELAY_MS))),
            Trouble::Stalls if self.chance.random_bool(0.5) => Mode::Silent,
            Trouble::Stalls => Mode::Open,
            Trouble::Slowness(rate) => Mode::Slow(rate),
        }
    }

    /// The follower dies behind links that carry nothing, so nobody is told that its connections are gone.
    pub(super) async fn half_open(&mut self) -> Result<Done> {
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let victim = self.one_of(&followers)?;
        let (links, before) = (self.cluster.links().clone(), self.cluster.links().touched());
        let end = Instant::now() + self.round.time;
        links.divide(&[victim], &self.others(victim), Mode::Silent);
        let pids = self.pids(&[victim])?;
        self.cluster.kill(&[victim]).await?;
        self.cluster.restart(&[victim]).await.context("start the follower behind silent links")?;
        let again = self.pids(&[victim])? != pids;
        wait::pause_until(end).await;
        links.heal();
        let touched = self.touched(before, &format!("node {victim} died behind silent links"));
        let proof = touched.and_then(|what| proof(again, what));
        Ok(Done::now(proof))
    }

    /// Cuts a follower off until the leader has dropped what it would need, then lets it come back.
    pub(super) async fn lag(&mut self) -> Result<Done> {
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let victim = self.one_of(&followers)?;
        let installed = self.installed(victim).await?;
        let behind = Box::pin(self.leave_behind(victim)).await?;
        self.cluster.links().heal();
        let healed = Instant::now();
        let stood_at = match behind {
            Ok(stood_at) => stood_at,
            Err(missing) => return Ok(Done { healed, ..Done::now(Err(missing)) }),
        };
        let counted = wait::until("the snapshot to be installed", SNAPSHOT_TIME, || async {
            let now = self.installed(victim).await?;
            ensure!(now > installed, "installed {now}, before {installed}");
            anyhow::Ok(now)
        });
        counted.await.with_context(|| format!("node {victim} needs a snapshot to come back"))?;
        let proof = Ok(format!("node {victim} stood at {stood_at} and was brought back by a snapshot"));
        Ok(Done { healed, with_snapshot: true, ..Done::now(proof) })
    }

    /// Cuts a follower off until the others have dropped what it would need. Where it stood, or why it came to nothing;
    /// its links stay cut.
    pub(super) async fn leave_behind(&self, victim: usize) -> Result<Result<u64, String>> {
        let links = self.cluster.links();
        links.divide(&[victim], &self.others(victim), Mode::Cut);
        let stood_at = self.cluster.status(victim).await?.raft.context("no raft view")?.last_log_index;
        let helpers = crowd::Crowd::default();
        let behind = async {
            let behind = wait::until("the others to drop what the follower lacks", self.round.time, || async {
                // Whoever leads by now; the one that is away may still name itself.
                let mut first = Vec::new();
                for index in self.others(victim) {
                    first.push(self.cluster.status(index).await?.log_first_index);
                }
                ensure!(
                    first.iter().all(|first| *first > stood_at + 1),
                    "logs begin at {first:?}, it is at {stood_at}"
                );
                anyhow::Ok(())
            })
            .await;
            helpers.stop();
            behind
        };
        let helping = helpers.work(self.cluster, self.traffic, HELPERS);
        let (behind, ()) = futures::join!(behind, helping);
        let behind = behind.map(|()| stood_at);
        Ok(behind.map_err(|error| format!("node {victim} did not fall behind far enough: {error:#}")))
    }

    async fn installed(&self, index: usize) -> Result<f64> {
        let count = wait::until("its metrics", PATIENCE, || self.cluster.metric(index, SNAPSHOTS_INSTALLED)).await?;
        Ok(count.unwrap_or(0.0))
    }

    fn touched(&self, before: u64, what: &str) -> Result<String, String> {
        let times = self.cluster.links().touched().saturating_sub(before);
        proof(times > 0, format!("{what}: connections were hit {times} times"))
    }
}
