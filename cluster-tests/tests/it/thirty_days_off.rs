//! A lab that was switched off for a month comes back by itself.

use std::time::Duration;

use anyhow::{Result, ensure};

use ollamax_testkit::Cluster;

const PATIENCE: Duration = Duration::from_secs(30);
const THIRTY_DAYS_MS: u64 = 30 * 24 * 3_600 * 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_off_for_thirty_days_form_again_without_a_command() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("thirty-days-off").start().await?;
    cluster.set(0, "kept", b"over the holidays").await?;
    let before = cluster.converged(PATIENCE).await?;
    for node in cluster.nodes() {
        let status = node.stop(Duration::from_secs(15)).await?;
        ensure!(status.success(), "{} ended with {status}", node.name());
        node.set_environment("OLLAMAX_TEST_CLOCK_OFFSET_MS", THIRTY_DAYS_MS);
    }
    cluster.restart(&[0, 1, 2]).await?;
    cluster.settled(PATIENCE).await?;
    for index in 0..cluster.size() {
        let value = cluster.get(index, "kept", false).await?;
        ensure!(value.as_deref() == Some(b"over the holidays"), "node {index} reads {value:?}");
    }
    cluster.set(2, "new", b"year").await?;
    ensure!(cluster.converged(PATIENCE).await? > before, "the cluster takes changes again");
    cluster.finish().await
}
