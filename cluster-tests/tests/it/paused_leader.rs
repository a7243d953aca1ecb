//! A leader that slept does not know that it was replaced. It must find out before it answers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_old_leader_never_reads_an_old_value() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("paused-leader").start().await?;
    for round in 0..3 {
        one_pause(&cluster, round).await.with_context(|| format!("round {round}"))?;
    }
    cluster.finish().await
}

async fn one_pause(cluster: &Cluster, round: u32) -> Result<()> {
    let old = cluster.leader(PATIENCE).await?;
    let others: Vec<usize> = (0..cluster.size()).filter(|index| *index != old).collect();
    let (before, after) = (format!("before {round}").into_bytes(), format!("after {round}").into_bytes());
    cluster.set(old, "x", &before).await?;

    cluster.node(old).pause()?;
    let new = cluster.leader_among(&others, PATIENCE).await?;
    cluster.set(new, "x", &after).await?;

    // These wait in the socket of the sleeping leader; it meets them in the moment in which it wakes up.
    let questions = (0..4).map(|_| async {
        let answer = cluster.get(old, "x", false).await;
        (answer, Instant::now())
    });
    // It believes that it leads. Whatever it says to a change, it must not acknowledge what the others do not have.
    let asked = format!("y {round}");
    let change = cluster.set(old, &asked, b"asked of a sleeper");
    let wake = async {
        wait::pause(Duration::from_millis(50)).await;
        let resumed = Instant::now();
        cluster.node(old).resume().map(|()| resumed)
    };
    let (answers, change, resumed) = futures::join!(futures::future::join_all(questions), change, wake);
    let resumed = resumed?;
    for (answer, at) in answers {
        let took = at - resumed;
        ensure!(took <= ANSWER_LIMIT, "answered {took:?} after it woke up");
        match answer {
            Ok(value) => ensure!(value.as_deref() == Some(&after[..]), "read {value:?}"),
            Err(error) => ensure!(error.code == Some(ErrorCode::NoQuorum), "{error}"),
        }
    }
    if change.is_ok() {
        let value = cluster.get(new, &asked, false).await?;
        ensure!(value.as_deref() == Some(b"asked of a sleeper"), "acknowledged by the sleeper and lost: {value:?}");
    }
    wait::until("the old leader to read the new value", PATIENCE, || async {
        let value = cluster.get(old, "x", false).await?;
        ensure!(value.as_deref() == Some(&after[..]), "read {value:?}");
        Ok(())
    })
    .await?;
    cluster.converged(PATIENCE).await.map(|_| ())
}
