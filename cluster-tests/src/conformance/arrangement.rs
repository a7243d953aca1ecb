//! One arrangement: nodes are started, the suite runs against them, and they are put away.
//!
//! Where leaders are killed, it goes on until the suite has ended; whoever was killed is started again, so that the
//! next kill meets whole nodes. A cluster that does not come back is an error, and its logs stay.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::time::Instant;

use ollamax_testkit::cluster::{Node, PATIENCE};
use ollamax_testkit::{Cluster, wait};

use crate::args::Arrangement;
use crate::forwarder::{Counts, Forwarder};
use crate::found::{self, Scenarios};
use crate::suite::{self, SETS, Set};

/// From one kill to the next.
const KILL_EVERY: Duration = Duration::from_secs(5);
/// How long a killed node stays away.
const DOWN: Duration = Duration::from_secs(1);
/// What switches the suite's fixtures on.
const FIXTURES: &str = "api.conformance_fixtures";

/// What one arrangement showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) arrangement: Arrangement,
    /// For each set, all scenarios that ran.
    pub(crate) sets: Vec<(Set, Scenarios)>,
    pub(crate) kills: u64,
    /// What went through the forwarder, where there was one.
    pub(crate) counts: Option<Counts>,
}

/// Starts the nodes, runs all sets, and puts everything away.
pub(crate) async fn run(arrangement: Arrangement, seed: u64) -> Result<Column> {
    let nodes = if arrangement == Arrangement::One { 1 } else { 3 };
    let plan = Cluster::builder("conformance").nodes(nodes).setting(FIXTURES, true);
    let cluster = Box::pin(plan.start()).await?;
    let forwarder = match arrangement {
        Arrangement::One => None,
        Arrangement::Random | Arrangement::Kills => Some(Forwarder::start(doors(&cluster)?, seed).await?),
    };
    let url = match &forwarder {
        Some(forwarder) => format!("http://{}/mcp", forwarder.address()),
        None => format!("{}/mcp", cluster.node(0).api()?),
    };
    let over = AtomicBool::new(false);
    let suites = async {
        let found = run_sets(&url).await;
        over.store(true, Ordering::Relaxed);
        found
    };
    let (sets, kills) = match arrangement {
        Arrangement::One | Arrangement::Random => (suites.await?, 0),
        Arrangement::Kills => {
            let (sets, kills) = futures::join!(suites, Box::pin(kill_leaders(&cluster, &over)));
            (sets?, kills.context("kill leaders")?)
        }
    };
    let counts = forwarder.as_ref().map(Forwarder::counts);
    drop(forwarder);
    cluster.finish().await?;
    Ok(Column { arrangement, sets, kills, counts })
}

/// Where each node takes requests.
fn doors(cluster: &Cluster) -> Result<Vec<SocketAddr>> {
    cluster.nodes().iter().map(Node::api_address).collect()
}

/// Runs every set, one after the other. What the suite wrote goes, unless something cannot be read.
async fn run_sets(url: &str) -> Result<Vec<(Set, Scenarios)>> {
    let folder = tempfile::Builder::new().prefix("ollamax-conformance-").tempdir().context("make a folder")?;
    match run_sets_into(url, &folder).await {
        Ok(sets) => Ok(sets),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("what the suite wrote is kept in {}", kept.display())))
        }
    }
}

async fn run_sets_into(url: &str, folder: &TempDir) -> Result<Vec<(Set, Scenarios)>> {
    let mut sets = Vec::new();
    for set in SETS {
        let begin = Instant::now();
        let into = folder.path().join(set.revision);
        suite::run(set, url, &into).await?;
        let scenarios = found::read(&into)?;
        eprintln!("conformance: {}: {} scenarios in {:.0?}", set.revision, scenarios.len(), begin.elapsed());
        sets.push((set, scenarios));
    }
    Ok(sets)
}

/// Kills whoever leads, again and again, and starts it again; how often.
async fn kill_leaders(cluster: &Cluster, over: &AtomicBool) -> Result<u64> {
    let mut kills = 0;
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + KILL_EVERY;
        let leader = cluster.leader(PATIENCE).await.context("see who leads before a kill")?;
        cluster.kill(&[leader]).await?;
        kills += 1;
        wait::pause(DOWN).await;
        cluster.restart(&[leader]).await?;
        wait::pause_until(next).await;
    }
    Ok(kills)
}
