//! A node that stands still (SIGSTOP) is routed around within a second, whoever is asked; what was on its way to it is
//! taken back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{join_all, try_join_all};
use tokio::time::Instant;

use ollamax_testkit::{Cluster, wait};

use crate::model_owners::{self, PATIENCE};

/// The nodes that are asked. Neither has the model.
const ASKED: [usize; 2] = [0, 3];
const QUESTIONS: usize = 10;
/// Time after which nobody may notice any more.
const SUSPECTED_AFTER: Duration = Duration::from_secs(1);
/// Longest acceptable answer afterwards, on two busy cores.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// Longest answer to a request that was on its way to it: `scheduler.abandon_silent_ms`, one look, and the answer.
const CAUGHT_LIMIT: Duration = Duration::from_millis(3_200);

/// Waits until a node knows that the model is in memory beside the second node alone.
async fn knows_where_it_is_resident(cluster: &Cluster, asked: usize) -> Result<()> {
    wait::until(&format!("node {asked} to know where the model is in memory"), PATIENCE, || async {
        let status = cluster.status(asked).await?;
        let holding = status.nodes.iter().filter(|node| !node.resident.is_empty());
        let holding: Vec<&str> = holding.map(|node| node.name.as_str()).collect();
        ensure!(holding == ["n2"], "beside {holding:?}");
        Ok(())
    })
    .await
}

/// Asks one node after the time in which it may not have noticed yet.
async fn is_answered_by(other: &str, cluster: &Cluster, asked: usize, paused: Instant) -> Result<()> {
    wait::pause_until(paused + SUSPECTED_AFTER).await;
    for number in 0..QUESTIONS {
        let begin = Instant::now();
        let answer = cluster.chat(asked, "demo", &format!("question {number}"), false).await?;
        let (took, since) = (begin.elapsed(), paused.elapsed());
        ensure!(answer.status == 200, "{since:?} after the pause: {}", answer.status);
        ensure!(answer.node() == other, "answered by {}", answer.node());
        ensure!(took <= ANSWER_LIMIT, "question {number} took {took:?}, {since:?} after the pause");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_is_routed_around_within_a_second() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start_among("paused-node", 4, |_| {}).await?;
    // The preferred owner: its model is in memory, the other's is not.
    model_owners::make_resident(&cluster, 1).await?;
    let (preferred, other) = (model_owners::label(&cluster, 1).await?, model_owners::label(&cluster, 2).await?);
    for asked in ASKED {
        knows_where_it_is_resident(&cluster, asked).await?;
        let answered = cluster.chat(asked, "demo", "before", false).await?.node();
        ensure!(answered == preferred, "asked at node {asked}: {answered} answered instead of {preferred}");
    }

    // Asked in the moment in which it falls asleep, when nobody can know: taken back and answered elsewhere.
    cluster.node(1).pause()?;
    let paused = Instant::now();
    let caught = join_all(ASKED.map(|asked| cluster.chat(asked, "demo", "caught", false)));
    let later = try_join_all(ASKED.map(|asked| {
        let answered = is_answered_by(&other, &cluster, asked, paused);
        async move { answered.await.with_context(|| format!("asked at node {asked}")) }
    }));
    let (caught, later) = futures::join!(caught, later);
    later?;
    for (asked, caught) in ASKED.into_iter().zip(caught) {
        let caught = caught?;
        let (status, by, took) = (caught.status, caught.node(), caught.head_time);
        ensure!(status == 200 && by == other, "caught at node {asked}: {status} by {by}");
        ensure!(took <= CAUGHT_LIMIT, "caught at node {asked}: answered after {took:?}");
    }

    cluster.node(1).resume()?;
    wait::until("the node to be alive again", Duration::from_secs(10), || async {
        let status = cluster.status(0).await?;
        let alive = ollamax_proto::v1::node_view::Health::Alive as i32;
        ensure!(status.nodes.iter().all(|node| node.health == alive), "not all are alive");
        Ok(())
    })
    .await?;
    cluster.finish().await
}
