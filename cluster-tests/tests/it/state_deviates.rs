//! One bit of one node's state is another: the cluster names the node, takes its vote, and goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1;
use ollamax_testkit::{Cluster, other_state, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);
const KEY: &str = "lab/motto";
const ALARM: &str = "the state of a node differs from that of the majority";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_state_is_another_is_named_loses_its_vote_and_gets_it_back_when_it_agrees() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("deviates").start().await?;
    cluster.set(0, KEY, b"measure twice").await?;
    cluster.converged(PATIENCE).await?;
    let leader = cluster.leader(PATIENCE).await?;
    let odd = (leader + 1) % cluster.size();
    let (node, id) = (cluster.node(odd), cluster.status(odd).await?.node_id);

    verify(&cluster, odd, 4, "is in use by process").await?;
    node.stop(PATIENCE).await?;
    other_state::flip_setting(&node.data_dir(), KEY)?;
    // It is consistent in itself: only the others can tell.
    verify(&cluster, odd, 0, "is sound.").await?;
    cluster.restart(&[odd]).await?;

    wait::until("all nodes to name it and to take its vote", PATIENCE, || async {
        for (index, status) in cluster.statuses().await? {
            let raft = status.raft.as_ref().context("no raft view")?;
            ensure!(raft.deviating == [id] && !raft.states_undecided, "node {index}: {raft:?}");
            ensure!(!raft.voters.contains(&id) && raft.learners.contains(&id), "node {index}: {raft:?}");
            let told = status.attention.iter().find(|entry| entry.id == "state_deviates");
            let told = told.with_context(|| format!("node {index}: {:?}", status.attention))?;
            ensure!(told.what.contains(node.name()) && told.next.contains("ollamax raft verify"), "{told:?}");
        }
        anyhow::Ok(())
    })
    .await?;
    stands_aside(&cluster, odd).await?;

    // Changes go on, also through it; and with the record itself overwritten the states are equal again.
    cluster.set(leader, "lab/other", b"goes on").await?;
    cluster.set(odd, KEY, b"cut once").await?;
    wait::until("it to agree and to vote again", PATIENCE, || async {
        for (index, status) in cluster.statuses().await? {
            let raft = status.raft.as_ref().context("no raft view")?;
            ensure!(raft.deviating.is_empty() && raft.voters.contains(&id), "node {index}: {raft:?}");
        }
        anyhow::Ok(())
    })
    .await?;
    cluster.converged(PATIENCE).await?;
    ensure!(cluster.get(odd, KEY, false).await?.as_deref() == Some(&b"cut once"[..]), "it is read again");
    // An error's line may take its time: with RUST_BACKTRACE it carries the program's frames.
    wait::until("one line for one alarm", PATIENCE, || async {
        let lines = std::fs::read_to_string(node.log_path())?.matches(ALARM).count();
        ensure!(lines == 1, "there are {lines}");
        anyhow::Ok(())
    })
    .await?;
    cluster.finish().await
}

/// A node that deviates does not show what it holds, says so, and is there for clients.
async fn stands_aside(cluster: &Cluster, odd: usize) -> Result<()> {
    for local in [false, true] {
        let read = cluster.get(odd, KEY, local).await;
        let refused = read.err().with_context(|| format!("a state that is known to be wrong was read, {local}"))?;
        ensure!(refused.code == Some(ErrorCode::StorageCorrupt), "{refused}");
    }
    let watched = cluster.node(odd).values()?.watch("user/", 0).await;
    let refused = watched.err().context("changes of a state that is known to be wrong were watched")?;
    ensure!(refused.code == Some(ErrorCode::StorageCorrupt), "{refused}");
    let events = cluster.node(odd).ollamax(&["events"], PATIENCE).await?;
    let told = String::from_utf8_lossy(&events.stderr);
    ensure!(!events.status.success() && told.contains("differs from that of the majority"), "{told}");
    ensure!(cluster.metric(odd, "ollamax_raft_state_deviates").await? == Some(1.0), "its metric");
    let health = cluster.get_json(odd, "/health").await?;
    ensure!(health["status"] == "ok" && health["components"]["state"]["ok"] == false, "{health}");
    let leads = |status: &v1::StatusReply| status.raft.as_ref().is_some_and(|raft| raft.leader == status.node_id);
    ensure!(!leads(&cluster.status(odd).await?), "it leads");
    Ok(())
}

/// `ollamax raft verify` at a node ends with this exit code and says this.
async fn verify(cluster: &Cluster, index: usize, exit: i32, says: &str) -> Result<()> {
    let output = cluster.node(index).ollamax(&["raft", "verify"], PATIENCE).await?;
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    ensure!(output.status.code() == Some(exit) && told.contains(says), "{}: {told}", output.status);
    Ok(())
}
