//! A node that stands still (SIGSTOP) is routed around within a second; what was on its way to it is taken back.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use ollamax_testkit::wait;

use crate::model_owners;

/// Time after which nobody may notice any more.
const SUSPECTED_AFTER: Duration = Duration::from_secs(1);
/// Longest acceptable answer afterwards, on two busy cores.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// Longest answer to a request that was on its way to it: `scheduler.abandon_silent_ms`, one look, and the answer.
const CAUGHT_LIMIT: Duration = Duration::from_millis(3_200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_node_is_routed_around_within_a_second() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("paused-node", |_| {}).await?;
    // The preferred owner: its model is in memory, the other's is not.
    model_owners::make_resident(&cluster, 1).await?;
    let (preferred, other) = (model_owners::label(&cluster, 1).await?, model_owners::label(&cluster, 2).await?);
    let answered = cluster.chat(0, "demo", "before", false).await?.node();
    ensure!(answered == preferred, "{answered} answered instead of {preferred}");

    // Asked in the moment in which it falls asleep, when nobody can know: taken back and answered elsewhere.
    cluster.node(1).pause()?;
    let paused = Instant::now();
    let caught = cluster.chat(0, "demo", "caught", false);
    let later = async {
        wait::pause_until(paused + SUSPECTED_AFTER).await;
        for number in 0..20 {
            let begin = Instant::now();
            let answer = cluster.chat(0, "demo", &format!("question {number}"), false).await?;
            let took = begin.elapsed();
            ensure!(answer.status == 200, "{:?} after the pause: {}", paused.elapsed(), answer.status);
            ensure!(answer.node() == other, "answered by {}", answer.node());
            ensure!(took <= ANSWER_LIMIT, "question {number} took {took:?}, {:?} after the pause", paused.elapsed());
        }
        anyhow::Ok(())
    };
    let (caught, later) = futures::join!(caught, later);
    later?;
    let caught = caught?;
    ensure!(caught.status == 200 && caught.node() == other, "caught: {} by {}", caught.status, caught.node());
    ensure!(caught.head_time <= CAUGHT_LIMIT, "caught: answered after {:?}", caught.head_time);

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
