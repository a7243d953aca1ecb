//! `ollama rm` at one of the nodes that a pull named: the copy is not put back, its room is free at once, and a new
//! pull that names the node brings it back, without the registry.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use http::Method;
use serde_json::json;

use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::bad_models::files_below;
use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{blob, model};
use crate::spread::{FEW_BYTES, WEIGHTS_BYTES, all_seen_up, came_once, is_everywhere, spread, start};

const STAT_BLOCK_BYTES: u64 = 512;
/// More than manifests and what else is small take.
const REST_BYTES: u64 = 1 << 20;
/// The node whose user removes the copy.
const REMOVES: usize = 1;

/// What everything takes of the disk that a node has of models, each file once however many names it has.
fn taken_bytes(cluster: &Cluster, index: usize) -> Result<u64> {
    let node = cluster.node(index);
    let folders = [node.store(), node.data_dir().join("transfer")];
    let (mut seen, mut bytes) = (BTreeSet::new(), 0);
    for path in files_below(folders.into_iter().filter(|folder| folder.exists()).collect())? {
        // What goes meanwhile takes nothing.
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if seen.insert((found.dev(), found.ino())) {
            bytes += found.blocks() * STAT_BLOCK_BYTES;
        }
    }
    Ok(bytes)
}

/// The copy is on neither the disk nor the record.
async fn is_gone(cluster: &Cluster, name: &str, path: &Path) -> Result<()> {
    cluster.model_known(name, 1, PATIENCE).await?;
    ensure!(!path.exists(), "{} was put back", path.display());
    // A node that has just started listens before it knows its pulls.
    let pulls = wait::until("the node to show its pulls", PATIENCE, || cluster.pulls(REMOVES)).await?;
    ensure!(pulls.is_empty(), "it is on its way back: {pulls:?}");
    Ok(())
}

/// What `ollamax status` says of nodes that are left out: the command that brings each copy back.
async fn left_out(cluster: &Cluster) -> Result<Vec<String>> {
    let attention = cluster.status(0).await?.attention;
    Ok(attention.into_iter().filter(|entry| entry.id == "copy_left_out").map(|entry| entry.next).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_removes_is_not_put_back_and_its_room_is_free_at_once() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (removed, other) = (model(231, WEIGHTS_BYTES), model(232, FEW_BYTES));
    let digest = registry.push("removed", &removed);
    let digest_of_other = registry.push("other", &other);
    let cluster = start("removed-by-its-user", &registry).await?;
    let before = taken_bytes(&cluster, REMOVES)?;
    let named = ["--node", "n1,n2"];
    spread(&cluster.pull(0, "removed", &named).await?, &["n1", "n2"], digest)?;
    is_everywhere(&cluster, &[0, REMOVES], &removed).await?;
    cluster.model_known("removed", 2, PATIENCE).await?;
    let with_it = taken_bytes(&cluster, REMOVES)?;
    ensure!(with_it >= before + WEIGHTS_BYTES, "{before} bytes were taken before, {with_it} with the model");

    // The stock client sends the same.
    let url = format!("{}/api/delete", cluster.fake(REMOVES)?.url());
    let gone = cluster.http().call(Method::DELETE, &url, json!({ "model": "removed" }).to_string()).await?;
    ensure!(gone.status == 200, "{}", gone.text().await?);
    let without_it = taken_bytes(&cluster, REMOVES)?;
    ensure!(without_it <= before + REST_BYTES, "{before} bytes were taken before, {without_it} after it was removed");
    let path = blob(&cluster.node(REMOVES).store(), removed.weights.sha256());
    is_gone(&cluster, "removed", &path).await?;
    wait::until("the node to be told as left out", PATIENCE, || async {
        let told = left_out(&cluster).await?;
        let again = "to have it there again: ollamax model pull removed:latest --node n1,n2";
        ensure!(told == [again], "{told:?}");
        anyhow::Ok(())
    })
    .await?;

    // Neither a plan for another model nor a start of the node changes that.
    spread(&cluster.pull(2, "other", &named).await?, &["n1", "n2"], digest_of_other)?;
    is_everywhere(&cluster, &[0, REMOVES], &other).await?;
    is_gone(&cluster, "removed", &path).await?;
    cluster.kill(&[REMOVES]).await?;
    cluster.restart(&[REMOVES]).await?;
    all_seen_up(&cluster).await?;
    cluster.converged(PATIENCE).await?;
    is_gone(&cluster, "removed", &path).await?;

    spread(&cluster.pull(2, "removed", &named).await?, &["n1", "n2"], digest)?;
    is_everywhere(&cluster, &[0, REMOVES], &removed).await?;
    cluster.model_known("removed", 2, PATIENCE).await?;
    came_once(&registry, &removed)?;
    let told = left_out(&cluster).await?;
    ensure!(told.is_empty(), "it is back: {told:?}");
    let answer = cluster.chat(2, "removed", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
