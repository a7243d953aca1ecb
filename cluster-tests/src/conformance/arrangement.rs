//! One arrangement: nodes are started, the suite runs against them, and they are put away.
//!
//! Where leaders are killed, it goes on until the suite has ended; whoever was killed is started again, so that the
//! next kill meets whole nodes. Scenarios that failed while a node died are done again after their set, by themselves,
//! and while leaders are killed as before. A cluster that does not come back is an error, and its logs stay.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use ollamax_testkit::cluster::{Node, PATIENCE};
use ollamax_testkit::{Cluster, wait};
use ollamax_types::Clock;

use crate::again;
use crate::args::Arrangement;
use crate::forwarder::{Counts, Forwarder};
use crate::found::{self, Ran, Scenarios, Span};
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
    /// For each set, all scenarios that ran, each as it ended the last time.
    pub(crate) sets: Vec<(Set, Scenarios)>,
    /// Scenarios that were done again, each as often as it was.
    pub(crate) again: Vec<(Set, String)>,
    pub(crate) kills: usize,
    /// What went through the forwarder, where there was one.
    pub(crate) counts: Option<Counts>,
}

/// What a run of all sets showed.
#[derive(Debug, Default)]
struct Found {
    sets: Vec<(Set, Scenarios)>,
    again: Vec<(Set, String)>,
}

/// When nodes died, which whoever kills them writes down.
#[derive(Debug, Default)]
struct Deaths(Mutex<Vec<Span>>);

// === impl Deaths ===

impl Deaths {
    fn note(&self, death: Span) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(death);
    }

    /// All that have been.
    fn all(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
    let (over, deaths) = (AtomicBool::new(false), Deaths::default());
    let suites = async {
        let found = run_sets(&url, &deaths).await;
        over.store(true, Ordering::Relaxed);
        found
    };
    let Found { sets, again } = match arrangement {
        Arrangement::One | Arrangement::Random => suites.await?,
        Arrangement::Kills => {
            let (found, killed) = futures::join!(suites, Box::pin(kill_leaders(&cluster, &over, &deaths)));
            let found = found?;
            killed.context("kill leaders")?;
            found
        }
    };
    let counts = forwarder.as_ref().map(Forwarder::counts);
    drop(forwarder);
    cluster.finish().await?;
    Ok(Column { arrangement, sets, again, kills: deaths.all().len(), counts })
}

/// Where each node takes requests.
fn doors(cluster: &Cluster) -> Result<Vec<SocketAddr>> {
    cluster.nodes().iter().map(Node::api_address).collect()
}

/// Runs every set, one after the other. What the suite wrote goes, unless something cannot be read.
async fn run_sets(url: &str, deaths: &Deaths) -> Result<Found> {
    let folder = tempfile::Builder::new().prefix("ollamax-conformance-").tempdir().context("make a folder")?;
    match run_sets_into(url, folder.path(), deaths).await {
        Ok(found) => Ok(found),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("what the suite wrote is kept in {}", kept.display())))
        }
    }
}

async fn run_sets_into(url: &str, folder: &Path, deaths: &Deaths) -> Result<Found> {
    let mut all = Found::default();
    for set in SETS {
        let begin = Instant::now();
        let into = folder.join(set.revision);
        suite::run(set, None, url, &into).await?;
        let (mut scenarios, before) = (Scenarios::new(), all.again.len());
        for (name, mut ran) in found::read(&into, Clock::system().now())? {
            let mut times = 0;
            while again::is_wanted(&ran, &deaths.all(), times) {
                times += 1;
                eprintln!("conformance: {}: {}", set.revision, again::told(&name, &ran));
                ran = run_again(set, &name, url, &folder.join(format!("{}-{name}-{times}", set.revision))).await?;
                all.again.push((set, name.clone()));
            }
            scenarios.insert(name, ran.verdict);
        }
        let (count, more) = (scenarios.len(), all.again.len() - before);
        eprintln!("conformance: {}: {count} scenarios in {:.0?}, {more} done again", set.revision, begin.elapsed());
        all.sets.push((set, scenarios));
    }
    Ok(all)
}

/// Does one scenario of a set again, alone.
async fn run_again(set: Set, name: &str, url: &str, into: &Path) -> Result<Ran> {
    suite::run(set, Some(name), url, into).await?;
    let mut found = found::read(into, Clock::system().now())?;
    found.remove(name).with_context(|| format!("the suite has not done {name} again"))
}

/// Kills whoever leads, again and again, and starts it again.
async fn kill_leaders(cluster: &Cluster, over: &AtomicBool, deaths: &Deaths) -> Result<()> {
    let clock = Clock::system();
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + KILL_EVERY;
        let leader = cluster.leader(PATIENCE).await.context("see who leads before a kill")?;
        let begin = clock.now();
        cluster.kill(&[leader]).await?;
        deaths.note(Span { begin, end: clock.now() });
        wait::pause(DOWN).await;
        cluster.restart(&[leader]).await?;
        wait::pause_until(next).await;
    }
    Ok(())
}
