//! A member that was removed learns it, whether it was on or off, says so, and comes back as a new one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;

use ollamax_proto::v1::status_reply::Phase;
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);
const STOP_TIME: Duration = Duration::from_secs(20);

/// Waits until a node says that it was removed, to its administrator and to its clients.
async fn says_that_it_was_removed(cluster: &Cluster, index: usize) -> Result<()> {
    wait::until("the node to learn that it was removed", PATIENCE, || async {
        let status = cluster.status(index).await?;
        ensure!(status.phase == Phase::Removed as i32, "phase {}", status.phase);
        let entry = status.attention.first().context("nothing wants attention")?;
        ensure!(status.attention.len() == 1 && entry.next.contains("ollamax leave"), "{:?}", status.attention);
        let answer = cluster.http().call(Method::GET, &cluster.url(index, "/readyz")?, "").await?;
        let (status, text) = (answer.status, answer.text().await?);
        ensure!(status == 503 && text.contains("removed"), "/readyz: {status} {text}");
        let answer = cluster.http().call(Method::GET, &cluster.url(index, "/api/tags")?, "").await?;
        ensure!(answer.status == 503, "/api/tags: {}", answer.status);
        Ok(())
    })
    .await
}

/// `leave`, a start, `join`: the way back that the status names.
async fn comes_back(cluster: &Cluster, index: usize, old: u64) -> Result<()> {
    let node = cluster.node(index);
    let token = cluster.node(0).admin()?.create_token("voter", 1).await?;
    let seeds = || vec![cluster.node(0).advertised()];
    let refused = node.admin()?.join(&token, seeds(), "").await.err().context("joined without leaving")?;
    ensure!(refused.code == Some(ErrorCode::NotMember) && refused.next.contains("ollamax leave"), "{refused}");
    node.admin()?.leave().await?;
    node.ended(STOP_TIME).await?;
    cluster.restart(&[index]).await?;
    // A member that closes the old node's connections at this moment cuts the new one's too, and the refusal says what
    // to do then. Any other refusal is a failure.
    let joined = wait::until("the node to join anew", PATIENCE, || async {
        match node.admin()?.join(&token, seeds(), node.name()).await {
            Err(cut) if cut.code == Some(ErrorCode::PeerUnreachable) && cut.next.contains("join again") => {
                Err(anyhow::Error::from(cut))
            }
            answered => Ok(answered),
        }
    })
    .await??;
    ensure!(joined.node_id > old, "id {} is not a new one", joined.node_id);
    cluster.set(index, "back", b"again").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removed_while_it_was_off_learns_it_and_comes_back_as_a_new_one() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("removed-while-off").start().await?;
    let old = cluster.status(2).await?.node_id;
    cluster.kill(&[2]).await?;
    cluster.node(0).admin()?.remove(&old.to_string(), true).await?;
    cluster.restart(&[2]).await?;
    says_that_it_was_removed(&cluster, 2).await?;
    cluster.kill(&[2]).await?;
    cluster.restart(&[2]).await?;
    says_that_it_was_removed(&cluster, 2).await?;
    let log = std::fs::read_to_string(cluster.node(2).log_path())?;
    let told =
        log.lines().filter(|line| line.contains(r#""level":"warn""#) && line.contains("was removed from its cluster"));
    ensure!(told.count() == 2, "one line for each start");
    comes_back(&cluster, 2, old).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removed_while_it_is_on_stops_serving_and_the_rest_goes_on() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("removed-while-on").start().await?;
    let old = cluster.status(2).await?.node_id;
    cluster.node(0).admin()?.remove(&old.to_string(), true).await?;
    says_that_it_was_removed(&cluster, 2).await?;
    wait::until("its vote to be taken away", PATIENCE, || async {
        let raft = cluster.status(0).await?.raft.context("no raft view")?;
        ensure!(!raft.voters.contains(&old), "voters {:?}", raft.voters);
        Ok(())
    })
    .await?;
    cluster.set(1, "without", b"the removed one").await?;
    comes_back(&cluster, 2, old).await?;
    cluster.finish().await
}
