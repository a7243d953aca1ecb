//! A node that missed more than the log still holds is healed by a snapshot, to the same state.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;

use ollamax_testkit::{Cluster, wait};

const MISSED: usize = 500;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_500_entries_behind_is_healed_by_a_snapshot() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster =
        Cluster::builder("lagging").setting("raft.snapshot_every", 50).setting("raft.keep_log", 10).start().await?;
    let leader = cluster.leader(PATIENCE).await?;
    let lagging = (leader + 1) % cluster.size();
    let stood_at = cluster.converged(PATIENCE).await?;
    cluster.kill(&[lagging]).await?;

    for batch in 0..MISSED / 50 {
        let writes = (0..50).map(|number| {
            let key = format!("missed/{:03}", batch * 50 + number);
            let cluster = &cluster;
            // On a busy machine a change may take longer than it has; the same one again does no harm.
            async move { wait::until("a change", PATIENCE, || cluster.set(leader, &key, key.as_bytes())).await }
        });
        try_join_all(writes).await?;
    }
    wait::until("the leader to drop what the node missed", PATIENCE, || async {
        let first = cluster.status(leader).await?.log_first_index;
        // Far beyond what the node may have applied between that look and its end.
        let needed = stood_at + MISSED as u64 / 2;
        ensure!(first > needed, "the log begins at {first}, the node stands at {stood_at}");
        Ok(())
    })
    .await?;

    cluster.restart(&[lagging]).await?;
    let index = cluster.converged(PATIENCE).await?;
    ensure!(index >= stood_at + MISSED as u64, "converged at {index}");
    // It is counted a moment after it shows.
    wait::until("the snapshot to be counted", PATIENCE, || async {
        let installed = cluster.metric(lagging, "ollamax_raft_snapshots_installed_total").await?;
        ensure!(installed.is_some_and(|count| count >= 1.0), "snapshots installed: {installed:?}");
        Ok(())
    })
    .await?;
    let found = cluster.node(lagging).admin()?.settings("missed/", true).await?;
    ensure!(found.len() == MISSED, "found {} of {MISSED}", found.len());
    cluster.finish().await
}
