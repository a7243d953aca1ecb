//! Faults as they are done to a running cluster, and undone. Each proves that it was there: a fault that met nothing
//! makes the round worthless, and the report says so. One that waits for what does not come up in its time is not done,
//! and says that.
//!
//! What a fault broke is whole again when it returns, also when its proof fails. An error means that the cluster did
//! not come back as it should, or that this machine cannot do such a fault; the nodes end with the run then.

mod bad_disks;
mod clock;
mod contention;
mod crashes;
mod crowd;
mod damage;
mod membership;
mod network;
mod processes;

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use ollamax_testkit::{Cluster, wait};

use crate::disks::Disks;
use crate::evidence::Proof;
use crate::logs::{self, OffLog};
use crate::plan::{Fault, Round, Whom};
use crate::report::Invariant;
use crate::samples::Book;
use crate::traffic::Traffic;

/// Longest wait for something that a fault needs of a cluster that is well.
const PATIENCE: Duration = Duration::from_secs(30);
/// By how much syncs are slower before a power cut, so that something waits for its sync.
const SYNCS_BEFORE_CUT: Duration = Duration::from_millis(15);
/// Purpose for which faults draw their chance.
const PURPOSE: u64 = 0x0066_6175_6c74;

/// What a fault is done to, and by whom.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) disks: Option<&'a mut Disks>,
    pub(crate) traffic: &'a Traffic<'a>,
    pub(crate) round: &'a Round,
    book: &'a Mutex<Book>,
    /// What the logs of nodes held before they were started again.
    logs: Vec<OffLog>,
    chance: StdRng,
}

/// A fault that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) proof: Proof,
    /// When everything was whole again.
    pub(crate) healed: Instant,
    /// Whether a node needed a snapshot to come back.
    pub(crate) with_snapshot: bool,
    /// Promises that the fault itself put to the test, and how those were broken that were.
    pub(crate) judged: Vec<(Invariant, Result<(), String>)>,
}

// === impl Done ===

impl Done {
    /// A fault that is over now, with what shows that it was there, or what is missing for that.
    fn now(proof: Result<String, String>) -> Self {
        Self::with(proof.map_or_else(Proof::Missing, Proof::Shown))
    }

    /// A fault that was not done, and why.
    fn not_injected(why: String) -> Self {
        Self::with(Proof::NotInjected(why))
    }

    fn with(proof: Proof) -> Self {
        Self { proof, healed: Instant::now(), with_snapshot: false, judged: Vec::new() }
    }
}

// === impl Stage ===

impl<'a> Stage<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster,
        disks: Option<&'a mut Disks>,
        traffic: &'a Traffic<'a>,
        round: &'a Round,
        book: &'a Mutex<Book>,
    ) -> Self {
        Self { cluster, disks, traffic, round, book, logs: Vec::new(), chance: round.seed.generator(PURPOSE) }
    }

    /// What has to be so in the time before the fault already.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        match self.round.fault {
            Fault::CutPower(_) => {
                let everybody = self.everybody();
                self.disks()?.delay(&everybody, SYNCS_BEFORE_CUT)
            }
            Fault::Kill(_)
            | Fault::Crash { .. }
            | Fault::Pause(_)
            | Fault::Part { .. }
            | Fault::Trouble(_)
            | Fault::HalfOpen
            | Fault::Lag
            | Fault::BadDisk { .. }
            | Fault::SlowSyncs(..)
            | Fault::Damage(_)
            | Fault::Contention
            | Fault::JumpClock { .. }
            | Fault::Transfer
            | Fault::Replace(_)
            | Fault::Overload(_) => Ok(()),
        }
    }

    /// Does the fault of the round, lets it last, and undoes it.
    ///
    /// # Errors
    /// When the cluster does not do what it must on the way.
    pub(crate) async fn perform(&mut self) -> Result<Done> {
        match self.round.fault {
            Fault::Kill(whom) => Box::pin(self.kill(whom)).await,
            Fault::Crash { scene, point, loss } => Box::pin(self.crash(scene, &point, loss)).await,
            Fault::CutPower(variant) => Box::pin(self.cut_power(variant)).await,
            Fault::Pause(whom) => Box::pin(self.pause(whom)).await,
            Fault::BadDisk { whom, ailment } => Box::pin(self.bad_disk(whom, ailment)).await,
            Fault::SlowSyncs(whom, delay) => Box::pin(self.slow_syncs(whom, delay)).await,
            Fault::Damage(damage) => Box::pin(self.damage(damage)).await,
            Fault::Contention => Box::pin(self.contend()).await,
            Fault::JumpClock { whom, ahead } => Box::pin(self.jump_clock(whom, ahead)).await,
            Fault::Part { split, silent } => Box::pin(self.part(split, silent)).await,
            Fault::Trouble(trouble) => Box::pin(self.trouble(trouble)).await,
            Fault::HalfOpen => Box::pin(self.half_open()).await,
            Fault::Lag => Box::pin(self.lag()).await,
            Fault::Transfer => Box::pin(self.transfer()).await,
            Fault::Replace(whom) => Box::pin(self.replace(whom)).await,
            Fault::Overload(crowd) => Box::pin(self.overload(crowd)).await,
        }
    }

    /// The logs that were copied on the way.
    pub(crate) fn into_logs(self) -> Vec<OffLog> {
        self.logs
    }

    /// Starts nodes that are off, and keeps what their logs held.
    async fn start_again(&mut self, nodes: &[usize]) -> Result<()> {
        self.logs.extend(logs::copy(self.cluster, self.book, nodes)?);
        self.cluster.restart(nodes).await
    }

    fn everybody(&self) -> Vec<usize> {
        (0..self.cluster.size()).collect()
    }

    fn others(&self, one: usize) -> Vec<usize> {
        (0..self.cluster.size()).filter(|index| *index != one).collect()
    }

    fn disks(&mut self) -> Result<&mut Disks> {
        self.disks.as_deref_mut().context("this fault needs disks that can fail")
    }

    async fn leader(&self) -> Result<usize> {
        self.cluster.leader(PATIENCE).await
    }

    /// One of these, by chance.
    fn one_of(&mut self, nodes: &[usize]) -> Result<usize> {
        ensure!(!nodes.is_empty(), "there is nobody to choose from");
        Ok(nodes[self.chance.random_range(0..nodes.len())])
    }

    /// Who is meant, as things are now.
    async fn who(&mut self, whom: Whom) -> Result<Vec<usize>> {
        if whom == Whom::Everybody {
            return Ok(self.everybody());
        }
        let leader = self.leader().await?;
        match whom {
            Whom::Leader => Ok(vec![leader]),
            _ => {
                let followers = self.others(leader);
                Ok(vec![self.one_of(&followers)?])
            }
        }
    }

    async fn last(&self) {
        wait::pause(self.round.time).await;
    }
}

/// A claim that is a proof if it holds.
fn proof(holds: bool, what: String) -> Result<String, String> {
    if holds { Ok(what) } else { Err(what) }
}
