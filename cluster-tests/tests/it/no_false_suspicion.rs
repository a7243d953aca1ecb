//! A busy machine is not a dead one: with all cores saturated nobody is suspected and nobody is voted out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use ollamax_proto::v1::node_view::Health;
use ollamax_testkit::{Cluster, wait};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One spinning thread per core; ends when dropped.
struct Burners(Arc<AtomicBool>);

impl Burners {
    fn light() -> Self {
        let burning = Arc::new(AtomicBool::new(true));
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        for _ in 0..cores {
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
    let length = Duration::from_secs(if crate::soak() { 120 } else { 20 });
    let cluster = Cluster::builder("no-false-suspicion").start().await?;
    let term = raft_term(&cluster).await?;
    let burners = Burners::light();
    let begin = Instant::now();
    while begin.elapsed() < length {
        wait::pause(LOOK_EVERY).await;
        for (index, status) in cluster.statuses().await? {
            let suspected: Vec<String> = status
                .nodes
                .iter()
                .filter(|node| node.health != Health::Alive as i32)
                .map(|node| format!("{} silent for {} ms", node.name, node.silent_ms))
                .collect();
            ensure!(suspected.is_empty(), "{:?} in, node {index} suspects {suspected:?}", begin.elapsed());
        }
    }
    drop(burners);
    ensure!(raft_term(&cluster).await? == term, "a leader was voted out");
    cluster.finish().await
}

async fn raft_term(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.status(0).await?.raft.map_or(0, |raft| raft.term))
}
