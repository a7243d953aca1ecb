//! Two of three are gone for ever: the third is planned, recovered, and leads alone with every acknowledged value. A
//! fresh machine joins it, an old member reaches nobody, and joins too once it was reset.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_proto::v1::node_view::State;
use ollamax_testkit::{Cluster, wait};
use ollamax_types::ErrorCode;

use crate::acknowledged::read_back;

const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const PREFIX: &str = "kept/";
const WRITES: usize = 30;
/// The node that survives; the others are gone.
const SURVIVOR: usize = 2;

async fn ollamax(cluster: &Cluster, index: usize, words: &[&str], exit: i32) -> Result<Output> {
    let output = cluster.node(index).ollamax(words, COMMAND_LIMIT).await?;
    ensure!(output.status.code() == Some(exit), "{words:?}: {output:?}");
    Ok(output)
}

async fn told(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let output = ollamax(cluster, index, &words, 0).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {output:?}"))
}

/// Changes that a majority has acknowledged.
async fn acknowledged(cluster: &Cluster) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut written = BTreeMap::new();
    for number in 0..WRITES {
        let (key, value) = (format!("{PREFIX}{number:03}"), format!("value {number}").into_bytes());
        cluster.set(number % cluster.size(), &key, &value).await?;
        written.insert(key, value);
    }
    // The survivor alone has to know of the last one too.
    cluster.converged(PATIENCE).await?;
    Ok(written)
}

/// Makes a node a member of the survivor's cluster. Returns its id.
async fn join(cluster: &Cluster, index: usize) -> Result<u64> {
    let token = cluster.node(SURVIVOR).admin()?.create_token("voter", 1).await?;
    let seeds = vec![cluster.node(SURVIVOR).advertised()];
    let joined = cluster.node(index).admin()?.join(&token, seeds, cluster.node(index).name()).await?;
    ensure!(!joined.already, "{joined:?}");
    Ok(joined.node_id)
}

async fn voters(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until("the voters", PATIENCE, || async {
        let raft = cluster.status(SURVIVOR).await?.raft.context("no raft view")?;
        ensure!(raft.voters.len() == count && raft.has_quorum, "{raft:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_three_goes_on_alone_with_every_acknowledged_value() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("disaster").start().await?;
    let written = acknowledged(&cluster).await?;
    let before = cluster.status(SURVIVOR).await?;
    let refused = ollamax(&cluster, SURVIVOR, &["recover", "plan"], 4).await?;
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("in use"), "its daemon runs: {refused:?}");
    cluster.kill(&[0, 1, SURVIVOR]).await?;

    // With one of the others there is nothing to recover; without, there is.
    let file = cluster.directory().join("n1.json").display().to_string();
    told(&cluster, 0, &["recover", "plan", "--write", &file]).await?;
    let both = told(&cluster, SURVIVOR, &["recover", "plan", "--with", &file]).await?;
    ensure!(both["needed"] == false, "{both}");
    let alone = told(&cluster, SURVIVOR, &["recover", "plan"]).await?;
    ensure!(alone["needed"] == true && alone["mayLose"] == true && alone["safest"] == before.node_id, "{alone}");
    let hash: String = before.state_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(alone["survivor"]["stateHash"] == hash, "another state than {hash}: {alone}");
    ollamax(&cluster, SURVIVOR, &["recover", "apply", "--confirm", "disaster", "--with", &file], 4).await?;
    ollamax(&cluster, SURVIVOR, &["recover", "apply"], 2).await?;
    let done = told(&cluster, SURVIVOR, &["recover", "apply", "--confirm", "disaster"]).await?;
    ensure!(done["recovered"] == true && done["already"] == false, "{done}");
    let again = told(&cluster, SURVIVOR, &["recover", "apply", "--confirm", "disaster"]).await?;
    ensure!(again["already"] == true && again["cluster"] == done["cluster"], "{again}");

    cluster.restart(&[SURVIVOR]).await?;
    cluster.leader_among(&[SURVIVOR], PATIENCE).await?;
    let found = cluster.node(SURVIVOR).admin()?.settings(PREFIX, false).await?;
    let found: BTreeMap<_, _> = found.into_iter().map(|entry| (entry.key, entry.value)).collect();
    ensure!(found == written, "lost or changed: {found:?}");
    let after = cluster.status(SURVIVOR).await?;
    ensure!(after.cluster != before.cluster && after.node_id == before.node_id, "{after:?}");
    let ack = cluster.set(SURVIVOR, "alone", b"and able to").await?;
    ensure!(ack.revision > 1_000_000_000, "{ack:?}");

    // A machine whose disk is lost begins anew.
    std::fs::remove_dir_all(cluster.node(1).data_dir()).context("lose a disk")?;
    cluster.restart(&[1]).await?;
    ensure!(join(&cluster, 1).await? > 3, "an id was used again");
    voters(&cluster, 2).await?;
    old_member_is_refused(&cluster).await?;

    let shown = told(&cluster, 0, &["reset"]).await?;
    ensure!(shown["reset"] == false, "{shown}");
    let reset = told(&cluster, 0, &["reset", "--confirm"]).await?;
    ensure!(reset["reset"] == true, "{reset}");
    cluster.restart(&[0]).await?;
    join(&cluster, 0).await?;
    voters(&cluster, 3).await?;
    cluster.converged(PATIENCE).await?;
    read_back(&cluster, PREFIX, &written).await?;
    cluster.finish().await
}

/// It has the old cluster's id, key and credential, and none of them counts any more.
async fn old_member_is_refused(cluster: &Cluster) -> Result<()> {
    let before = cluster.status(SURVIVOR).await?.raft.context("no raft view")?;
    cluster.restart(&[0]).await?;
    let answer = wait::until("the old member to have started", PATIENCE, || async {
        match cluster.set(0, "from", b"before").await {
            Err(error) if error.code == Some(ErrorCode::Starting) => Err(error),
            answer => Ok(answer),
        }
    })
    .await?;
    let error = answer.err().context("an old member changed something")?;
    ensure!(error.code == Some(ErrorCode::NoQuorum), "{error}");
    let status = cluster.status(SURVIVOR).await?;
    let raft = status.raft.context("no raft view")?;
    ensure!((raft.term, raft.leader) == (before.term, before.leader), "it disturbed the others: {raft:?}");
    let present = status.nodes.iter().filter(|node| node.state() != State::Departed).count();
    ensure!(present == 2, "{present} members");
    ensure!(cluster.get(SURVIVOR, "from", false).await?.is_none(), "its change arrived");
    cluster.kill(&[0]).await
}
