//! A client that leaves is felt by the runtime beside another node within half a second, wherever its request was.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use ollamax_testkit::fake_ollama::Phase;
use ollamax_testkit::{Cluster, wait};

use crate::model_owners;

const FELT_WITHIN: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(10);

/// Waits until one of the fakes notes a cancellation in this phase; it must come within the limit.
async fn felt(cluster: &Cluster, phase: Phase, left: Instant) -> Result<()> {
    let at = wait::until(&format!("a cancellation in {phase:?}"), SOON, || async {
        for index in [1, 2] {
            let seen = cluster
                .fake(index)?
                .read(|record| record.cancelled.iter().rev().find(|entry| entry.phase == phase).map(|entry| entry.at));
            if let Some(at) = seen {
                return Ok(at);
            }
        }
        anyhow::bail!("none")
    })
    .await?;
    let took = at.saturating_duration_since(left);
    ensure!(took <= FELT_WITHIN, "{phase:?}: felt after {took:?}");
    Ok(())
}

/// Starts a chat at node 0 and leaves as soon as `reached` says so.
async fn leave_when(cluster: &Cluster, reached: impl AsyncFn() -> bool) -> Result<Instant> {
    let chat = async {
        let answer = cluster.chat(0, "demo", "never mind", true).await;
        // The head came; the stream is held open until this future is dropped.
        std::future::pending::<()>().await;
        drop(answer);
    };
    let watch = wait::until_true("the moment to leave", SOON, || async { reached().await });
    tokio::select! {
        () = chat => {}
        reached = watch => reached?,
    }
    Ok(Instant::now())
}

/// Requests that wait in the queues of both owners, as each says of itself.
async fn waiting(cluster: &Cluster) -> Result<u32> {
    let mut count = 0;
    for index in [1, 2] {
        let status = cluster.status(index).await?;
        let own = status.nodes.iter().filter(|node| node.id == status.node_id);
        count += own.flat_map(|node| &node.runners).map(|runner| runner.waiting).sum::<u32>();
    }
    Ok(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnects_cancel_in_load_stream_and_queue() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("cancel", |script| {
        script.load_ms = 2_000;
        script.tokens = 1_000_000;
        script.token_us = 20_000;
    })
    .await?;
    let received = || -> u64 { [1, 2].iter().filter_map(|index| model_owners::asked(&cluster, *index).ok()).sum() };
    let running = || -> u64 {
        let fakes = [1, 2].iter().filter_map(|index| cluster.fake(*index).ok());
        fakes.map(|fake| fake.read(|record| record.running)).sum()
    };

    let left = leave_when(&cluster, async || received() == 1).await?;
    felt(&cluster, Phase::Load, left).await?;

    let left = leave_when(&cluster, async || running() == 1).await?;
    felt(&cluster, Phase::Stream, left).await?;
    ensure!(running() == 0, "the slots are free again");

    // Fill the owner that has the model loaded: a turn behind it is sooner than a load on the other. Wait there, leave.
    let first = cluster.chat(0, "demo", "a long one", true).await?;
    ensure!(running() == 1, "one runtime works");
    let before = received();
    let left = leave_when(&cluster, async || waiting(&cluster).await.is_ok_and(|count| count == 1)).await?;
    let gone = wait::until("the queue to be empty", SOON, || async {
        let count = waiting(&cluster).await?;
        ensure!(count == 0, "{count} wait");
        Ok(Instant::now())
    });
    let took = gone.await? - left;
    ensure!(took <= FELT_WITHIN, "left the queue after {took:?}");
    drop(first);
    felt(&cluster, Phase::Stream, Instant::now()).await?;
    ensure!(received() == before, "a request that had left the queue reached a runtime");
    cluster.finish().await
}
