//! A busy machine is not a dead one: with all cores saturated nobody is suspected and nobody is voted out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use ollamax_proto::v1::NodeView;
use ollamax_proto::v1::node_view::Health;
use ollamax_testkit::cluster::idle_time;
use ollamax_testkit::{Cluster, wait};

/// How long nobody may be suspected.
const LENGTH: Duration = Duration::from_secs(120);
const LENGTH_IN_SOAK: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// One spinning thread per core; ends when dropped.
struct Burners(Arc<AtomicBool>);

impl Burners {
    fn light() -> Self {
        let burning = Arc::new(AtomicBool::new(true));
        for _ in 0..cores() {
            let burning = Arc::clone(&burning);
            std::thread::spawn(move || {
                while burning.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(burning)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saturated_cores_raise_no_false_suspicion() -> Result<()> {
    let _turn = crate::turn().await;
    let length = if crate::soak() { LENGTH_IN_SOAK } else { LENGTH };
    let cluster = Cluster::builder("no-false-suspicion").start().await?;
    let (leader, term) = (cluster.leader(PATIENCE).await?, raft_term(&cluster).await?);
    wait::until("all to have heard all", PATIENCE, || async {
        let statuses = cluster.statuses().await?;
        let silent = statuses.iter().flat_map(|(_, status)| &status.nodes).filter(|node| !is_alive(node)).count();
        ensure!(silent == 0, "{silent} are not heard yet");
        Ok(())
    })
    .await?;
    let burners = Burners::light();
    let (begin, idle_before) = (Instant::now(), idle_time()?);
    let mut looks = 0;
    while begin.elapsed() < length {
        wait::pause(LOOK_EVERY).await;
        looks += 1;
        for (index, status) in cluster.statuses().await? {
            let suspected: Vec<String> = status
                .nodes
                .iter()
                .filter(|node| !is_alive(node))
                .map(|node| format!("{} silent for {} ms", node.name, node.silent_ms))
                .collect();
            ensure!(suspected.is_empty(), "{:?} in, node {index} suspects {suspected:?}", begin.elapsed());
            ensure!(status.nodes.len() == cluster.size(), "node {index} sees {} nodes", status.nodes.len());
        }
        cluster.set(looks % cluster.size(), "steady", b"changes go on").await.context("a change under load")?;
    }
    let (idle, wall) = (idle_time()? - idle_before, begin.elapsed());
    drop(burners);
    ensure!(idle * 10 <= wall * u32::try_from(cores())?, "the cores were not busy: idle for {idle:?} in {wall:?}");
    ensure!(raft_term(&cluster).await? == term, "a leader was voted out");
    ensure!(cluster.leader(PATIENCE).await? == leader, "somebody else leads");
    cluster.finish().await
}

fn is_alive(node: &NodeView) -> bool {
    node.health() == Health::Alive
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

async fn raft_term(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.status(0).await?.raft.map_or(0, |raft| raft.term))
}
