//! Either system, running: the same words for both, so that nothing that measures has to know which it is.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use ollamax_testkit::wait;

use super::door::Door;
use super::etcd::{Etcd, Program};
use super::ours::Ours;
use super::plan::{KEYS, Pace, SMALL_BYTES, Through, Which, connections, key};
use super::syncs::Counts;

const PATIENCE: Duration = Duration::from_secs(30);
/// Values that are put at once while the data is made.
const PUT_AT_ONCE: usize = 64;

/// A running cluster of three, with a data directory of its own.
#[derive(Debug)]
pub(crate) enum System {
    Ours(Ours),
    Etcd(Etcd),
}

// === impl System ===

impl System {
    /// Starts one and puts every key, so that reads find something and puts replace something.
    pub(crate) async fn start(which: Which, program: &Program, pace: Pace) -> Result<Self> {
        let system = match which {
            Which::Ours => Self::Ours(Ours::start(pace).await?),
            Which::Etcd => Self::Etcd(Etcd::start(program, pace).await?),
        };
        system.fill().await.with_context(|| format!("make the data of {}", which.name()))?;
        system.whole().await?;
        Ok(system)
    }

    async fn fill(&self) -> Result<()> {
        let door = self.door(self.leader().await?)?;
        let value = [b'v'; SMALL_BYTES];
        // A young cluster of ours takes values when all members have said that they can apply them.
        wait::until("the first value to be taken", PATIENCE, || door.put("user/000", &value)).await?;
        let puts = stream::iter(0..KEYS).map(|number| {
            let door = &door;
            async move { door.put(&key(number), &value).await }
        });
        puts.buffer_unordered(PUT_AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
        Ok(())
    }

    pub(crate) async fn leader(&self) -> Result<usize> {
        match self {
            Self::Ours(ours) => ours.leader().await,
            Self::Etcd(etcd) => etcd.leader().await,
        }
    }

    /// Waits until all members run, agree on a leader and have applied the same.
    pub(crate) async fn whole(&self) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.whole().await,
            Self::Etcd(etcd) => etcd.whole().await,
        }
    }

    /// A new connection to one node.
    pub(crate) fn door(&self, node: usize) -> Result<Door> {
        match self {
            Self::Ours(ours) => ours.door(node),
            Self::Etcd(etcd) => etcd.door(node),
        }
    }

    /// The connections that this many clients share.
    pub(crate) fn doors(&self, through: Through, leader: usize, clients: usize) -> Result<Vec<Door>> {
        through.nodes(leader, connections(clients)).into_iter().map(|node| self.door(node)).collect()
    }

    /// Ids of the daemons that run, in the order of the nodes.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        match self {
            Self::Ours(ours) => ours.processes(),
            Self::Etcd(etcd) => etcd.processes(),
        }
    }

    /// What each node has counted itself since its start.
    pub(crate) async fn counts(&self) -> Result<Vec<Counts>> {
        match self {
            Self::Ours(ours) => ours.counts().await,
            Self::Etcd(etcd) => etcd.counts().await,
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.kill(node).await,
            Self::Etcd(etcd) => etcd.kill(node).await,
        }
    }

    /// SIGTERM, and the end of the process.
    pub(crate) async fn stop(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.stop(node).await,
            Self::Etcd(etcd) => etcd.stop(node).await,
        }
    }

    /// Asks the leader to let another lead.
    pub(crate) async fn hand_over(&self, from: usize, to: usize) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.hand_over(from, to).await,
            Self::Etcd(etcd) => etcd.hand_over(from, to).await,
        }
    }

    /// Starts a node again on its data.
    pub(crate) async fn restart(&mut self, node: usize) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.restart(node).await,
            Self::Etcd(etcd) => etcd.restart(node),
        }
    }

    pub(crate) async fn finish(self) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.finish().await,
            Self::Etcd(etcd) => etcd.finish().await,
        }
    }
}
