//! A member that stays silent loses its vote to a standby, and later its membership, without a command.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1::RaftView;
use ollamax_proto::v1::node_view::State;
use ollamax_proto::v1::status_reply::Phase;
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);
/// Silence after which a voter loses its seat, and then a member its membership, milliseconds.
const SILENCE_MS: &[u8] = b"2000";

async fn raft(cluster: &Cluster, index: usize) -> Result<RaftView> {
    cluster.status(index).await?.raft.context("no raft view")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_voter_is_replaced_comes_back_as_a_standby_and_is_removed_when_it_stays_away() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("silent-members").nodes(4).start().await?;
    let leader = cluster.leader(PATIENCE).await?;
    let before = raft(&cluster, leader).await?;
    ensure!(before.learners.len() == 1, "no standby: {before:?}");
    // Ids are given in the order of joining.
    let index_of = |id: u64| usize::try_from(id - 1).context("a small id");
    let id = before.voters.iter().copied().find(|id| *id != before.leader).context("nobody else votes")?;
    let silent = index_of(id)?;

    cluster.set(leader, "autopilot.dead_after_ms", SILENCE_MS).await?;
    cluster.kill(&[silent]).await?;
    wait::until("the standby to vote", PATIENCE, || async {
        let status = cluster.status(leader).await?;
        let raft = status.raft.context("no raft view")?;
        ensure!(raft.learners == [id] && raft.voters.len() == 3, "{raft:?}");
        let entry = status.attention.iter().find(|entry| entry.id == "node_silent").context("nobody is silent")?;
        ensure!(entry.why.contains("it does not vote"), "{entry:?}");
        Ok(())
    })
    .await?;
    cluster.set(leader, "three", b"voters").await?;

    cluster.restart(&[silent]).await?;
    wait::until("the node that came back to be the standby", PATIENCE, || async {
        let (own, seen) = (raft(&cluster, silent).await?, raft(&cluster, leader).await?);
        ensure!(own.has_quorum && own.learners == [id], "it sees {own:?}");
        ensure!(seen.healthy_nodes == 4 && seen.failure_tolerance == 1, "the leader sees {seen:?}");
        Ok(())
    })
    .await?;
    cluster.converged(PATIENCE).await?;

    cluster.set(leader, "autopilot.remove_after_ms", SILENCE_MS).await?;
    cluster.kill(&[silent]).await?;
    wait::until("the silent standby to be removed", PATIENCE, || async {
        let status = cluster.status(leader).await?;
        let node = status.nodes.iter().find(|node| node.id == id).context("not on record")?;
        ensure!(node.state() == State::Departed, "{node:?}");
        Ok(())
    })
    .await?;
    cluster.set(leader, "three", b"members").await?;
    cluster.restart(&[silent]).await?;
    wait::until("the removed node to know it", PATIENCE, || async {
        let status = cluster.status(silent).await?;
        ensure!(status.phase() == Phase::Removed, "{:?}", status.phase());
        Ok(())
    })
    .await?;
    cluster.finish().await
}
