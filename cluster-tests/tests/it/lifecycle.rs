//! Sizes, roles, re-joining, leaving.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::voters_wanted;
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_follow_the_size_and_learners_never_vote() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("roles")
        .nodes(5)
        .node(3, |plan| "learner".clone_into(&mut plan.role))
        .node(4, |plan| "gateway".clone_into(&mut plan.role))
        .start()
        .await?;
    for (index, status) in cluster.statuses().await? {
        let raft = status.raft.context("no raft view")?;
        ensure!(raft.voters.len() == voters_wanted(3), "node {index} sees voters {:?}", raft.voters);
        let silent = status.nodes.iter().filter(|node| node.role != "voter");
        ensure!(silent.clone().count() == 2 && silent.clone().all(|node| !node.voter), "{:?}", status.nodes);
    }
    cluster.set(4, "through", b"the gateway").await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_form_and_serve_on_one_machine() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("ten").nodes(10).start().await?;
    wait::until("five voters and five others", PATIENCE, || async {
        let raft = cluster.status(0).await?.raft.context("no raft view")?;
        let found = (raft.voters.len(), raft.learners.len());
        ensure!(found == (voters_wanted(10), 10 - voters_wanted(10)), "{found:?}");
        anyhow::Ok(())
    })
    .await?;
    for index in 0..10 {
        cluster.set(index, &format!("through/{index}"), b"any door").await?;
    }
    cluster.converged(PATIENCE).await?;
    for index in 0..10 {
        let found = cluster.get(index, "through/9", false).await?;
        ensure!(found.as_deref() == Some(b"any door".as_slice()), "node {index} answers {found:?}");
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_again_with_the_same_key_changes_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("join-again").nodes(2).start().await?;
    let id = cluster.status(1).await?.node_id;
    let token = cluster.node(0).admin()?.create_token("voter", 1).await?;
    let seeds = vec![cluster.node(0).advertised()];
    let reply = cluster.node(1).admin()?.join(&token, seeds, "n2").await.context("join the own cluster again")?;
    ensure!(reply.already && reply.node_id == id, "{reply:?}");
    ensure!(cluster.status(0).await?.nodes.len() == 2, "no third member appeared");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_leave_never_cost_the_rest_its_majority() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("leave").start().await?;
    let mut present: Vec<usize> = (0..cluster.size()).collect();
    while present.len() > 1 {
        // The hardest to spare.
        let leaving = cluster.leader_among(&present, PATIENCE).await?;
        cluster.node(leaving).admin()?.leave().await?;
        present.retain(|index| *index != leaving);
        let rest = cluster.leader_among(&present, PATIENCE).await?;
        let key = format!("without-{leaving}");
        wait::until("the rest to take a change", PATIENCE, || cluster.set(rest, &key, b"changed")).await?;
    }
    cluster.finish().await
}
