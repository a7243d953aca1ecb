//! Faults of the time of day: a node starts with a clock that is an hour off, and later with the right one.
//!
//! Only the time of day jumps; what a machine counts by itself goes on as it does everywhere.

use anyhow::{Context, Result, ensure};

use ollamax_testkit::wait;

use crate::faults::{Done, PATIENCE, Stage};
use crate::plan::Whom;

/// Shifts the time of day of a daemon.
const CLOCK_VARIABLE: &str = "OLLAMAX_TEST_CLOCK_OFFSET_MS";
const JUMP_MS: i64 = 3_600_000;
/// From here on a clock is known to be the one that was shifted.
const SEEN_MS: i64 = 3_000_000;

impl Stage<'_> {
    /// A follower comes back with the wrong time, and leads with it if the leader is meant.
    pub(super) async fn jump_clock(&mut self, whom: Whom, ahead: bool) -> Result<Done> {
        let leader = self.leader().await?;
        let followers = self.others(leader);
        let victim = self.one_of(&followers)?;
        let offset_ms = if ahead { JUMP_MS } else { -JUMP_MS };
        let id = self.cluster.status(victim).await?.node_id;
        Box::pin(self.set_clock(victim, offset_ms)).await.context("start with the wrong time")?;
        let led = match whom {
            Whom::Leader => Box::pin(self.lead_with(victim)).await,
            Whom::Follower | Whom::Everybody => Ok(()),
        };
        let seen = Box::pin(self.clock_seen(victim, id, offset_ms)).await;
        self.last().await;
        Box::pin(self.set_clock(victim, 0)).await.context("start with the right time")?;
        let proof = led.and(seen).map_err(|error| format!("{error:#}"));
        Ok(Done::now(proof.map(|skew_ms| format!("the others saw the clock of node {victim} {skew_ms} ms off"))))
    }

    async fn set_clock(&mut self, index: usize, offset_ms: i64) -> Result<()> {
        self.cluster.kill(&[index]).await?;
        self.cluster.node(index).set_environment(CLOCK_VARIABLE, offset_ms);
        self.start_again(&[index]).await
    }

    /// How far off the clock of a node is, as another one sees it; waits until it is as far as it was shifted.
    async fn clock_seen(&self, index: usize, id: u64, offset_ms: i64) -> Result<i64> {
        let others = self.others(index);
        let observer = *others.first().context("there is nobody else")?;
        wait::until("another node to see the wrong clock", PATIENCE, || async {
            let status = self.cluster.status(observer).await?;
            let node = status.nodes.iter().find(|node| node.id == id).context("it is no member")?;
            let skew_ms = node.clock_skew_ms;
            let off = skew_ms.signum() == offset_ms.signum() && skew_ms.abs() >= SEEN_MS;
            ensure!(off, "node {observer} sees {skew_ms} ms");
            anyhow::Ok(skew_ms)
        })
        .await
    }
}
