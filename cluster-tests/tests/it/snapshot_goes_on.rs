//! A new member that is killed while a snapshot comes keeps what has come whole, and is sent the rest.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;

use ollamax_testkit::link::Mode;
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(60);
/// Values of the state, and bytes of each: four fill a message, and nine messages a file of the receiver.
const VALUES: usize = 120;
const VALUE_BYTES: usize = 30_000;
/// Bytes that pass in a second, so that the middle of the snapshot can be met.
const SLOW: u32 = 512 << 10;
/// Bytes after which two files are whole.
const TWO_FILES: f64 = 2_300_000.0;
/// Most bytes of what is left then.
const REST: f64 = 1_800_000.0;
const RECEIVED: &str = "ollamax_raft_snapshot_bytes_received_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_while_a_snapshot_comes_is_sent_the_rest() -> Result<()> {
    let _turn = crate::turn().await;
    let plan = Cluster::builder("snapshot-goes-on").nodes(2).unformed().with_links();
    let plan = plan.setting("raft.snapshot_every", 50).setting("raft.keep_log", 20);
    let cluster = plan.setting("store.snapshot_chunk_bytes", 128 << 10).start().await?;
    let home = cluster.node(0).admin()?;
    home.init("home", "n1").await?;
    let value = vec![b'v'; VALUE_BYTES];
    for batch in 0..VALUES / 10 {
        let writes = (0..10).map(|number| {
            let key = format!("large/{:03}", batch * 10 + number);
            let (cluster, value) = (&cluster, &value);
            async move { wait::until("a change", PATIENCE, || cluster.set(0, &key, value)).await }
        });
        try_join_all(writes).await?;
    }
    wait::until("the log to begin later", PATIENCE, || async {
        let first = cluster.status(0).await?.log_first_index;
        ensure!(first > 1, "the log begins at {first}");
        anyhow::Ok(())
    })
    .await?;

    cluster.links().set(0, 1, Mode::Slow(SLOW));
    let token = home.create_token("learner", 1).await?;
    let receiver = cluster.node(1).admin()?;
    let half = wait::until("more than half of the snapshot", PATIENCE, || async {
        let received = cluster.metric(1, RECEIVED).await?.unwrap_or(0.0);
        ensure!(received >= TWO_FILES, "{received} bytes have come");
        anyhow::Ok(())
    });
    // It is answered when the whole has come.
    tokio::select! {
        half = half => half?,
        joined = receiver.join(&token, vec![cluster.node(0).advertised()], "n2") => bail!("{joined:?}"),
    }
    cluster.kill(&[1]).await?;
    cluster.set(0, "meanwhile", b"the state goes on").await?;
    cluster.links().heal();
    cluster.restart(&[1]).await?;

    cluster.converged(PATIENCE).await?;
    let resumed = cluster.metric(0, "ollamax_raft_snapshots_resumed_total").await?;
    ensure!(resumed.is_some_and(|count| count >= 1.0), "snapshots that went on: {resumed:?}");
    let received = cluster.metric(1, RECEIVED).await?.context("the new process counts")?;
    ensure!(received <= REST, "{received} bytes came once it was back");
    for number in [0, VALUES - 1] {
        let found = cluster.get(1, &format!("large/{number:03}"), true).await?;
        ensure!(found.as_ref() == Some(&value), "value {number} is another");
    }
    cluster.finish().await
}
