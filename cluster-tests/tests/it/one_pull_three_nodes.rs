//! One wish, one download: the registry is asked once for each byte, and the other nodes get the model from the first
//! and from each other, whoever was asked and in whose words; and every node is told of each copy and of its sources.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::cluster::received_from;
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{model, refused};
use crate::spread::{FEW_BYTES, WEIGHTS_BYTES, came_once, events, is_everywhere, spread, start};

/// A file for which it counts how much its first holder sends; it is pulled where somebody has the time.
const LARGE_BYTES: u64 = 256 << 20;

/// Waits until a node tells of three copies of a model: of each that it came, and of one that it came from outside.
async fn three_copies_are_told(cluster: &Cluster, index: usize, name: &str) -> Result<()> {
    let came = wait::until("three copies to be told of", PATIENCE, || async {
        let came = events(cluster, index, "copy_came").await?;
        ensure!(came.len() == 3, "{came:?}");
        anyhow::Ok(came)
    })
    .await?;
    ensure!(came.iter().all(|event| event["subject"] == format!("{name}:latest")), "{came:?}");
    let texts: Vec<&str> = came.iter().filter_map(|event: &Value| event["text"].as_str()).collect();
    let places: BTreeSet<&str> = texts.iter().filter_map(|text| text.split(':').next()).collect();
    ensure!(places.len() == 3, "{texts:?}");
    let count = |source: &str| texts.iter().filter(|text| text.contains(source)).count();
    ensure!((count("origin "), count("; from node/")) == (1, 2), "{texts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_downloaded_once_and_comes_to_all_nodes() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let size_bytes = if crate::soak() { LARGE_BYTES } else { WEIGHTS_BYTES };
    let (everywhere, usual, asked) = (model(101, size_bytes), model(102, FEW_BYTES), model(103, FEW_BYTES));
    let digest = registry.push("everywhere", &everywhere);
    let cluster = start("one-pull", &registry).await?;

    let told = cluster.pull(1, "everywhere", &["--replicas", "3"]).await?;
    let copies = spread(&told, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, 2], &everywhere).await?;
    came_once(&registry, &everywhere)?;
    let from_outside = copies.iter().filter(|(_, copy)| received_from(copy, "origin") > 0).count();
    ensure!(from_outside == 1, "{from_outside} nodes asked the registry: {copies:?}");
    let from_nodes = copies.iter().filter(|(_, copy)| received_from(copy, "node/") >= size_bytes).count();
    ensure!(from_nodes == 2, "{from_nodes} nodes got it from others: {copies:?}");
    three_copies_are_told(&cluster, 2, "everywhere").await?;
    if crate::soak() {
        // Both others want all of it, and get most of it from each other.
        let (seed, _) = copies.iter().find(|(_, copy)| received_from(copy, "origin") > 0).expect("there is one");
        let index = cluster.nodes().iter().position(|node| node.name() == seed).expect("a node of the cluster");
        let sent = cluster.metric(index, "ollamax_transfer_sent_bytes_total").await?;
        let limit = 1.2 * f64::from(u32::try_from(size_bytes)?);
        ensure!(sent.is_some_and(|sent| sent <= limit), "the first holder sent {sent:?} bytes, allowed {limit}");
    }
    for index in [0, 1, 2] {
        let answer = cluster.chat(index, "everywhere", "hello", false).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
    }

    // Without a number it is two.
    let digest = registry.push("usual", &usual);
    let told = cluster.pull(0, "usual", &[]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known("usual", 2, PATIENCE).await?;
    let known = cluster.node(2).admin()?.models("usual").await?;
    ensure!(known.iter().all(|model| model.digest == digest.0 && !model.conflict), "{known:?}");

    // A client of Ollama hears success when the first node has it; the second one follows.
    registry.push("asked", &asked);
    let body = json!({ "model": "asked", "stream": false });
    let answer = cluster.http().post(&cluster.url(2, "/api/pull")?, &body).await?.ok_json().await?;
    ensure!(answer == json!({ "status": "success" }), "{answer}");
    let answer = cluster.chat(2, "asked", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.model_known("asked", 2, PATIENCE).await?;
    came_once(&registry, &asked)?;

    // What cannot be is told before a byte is asked for.
    let told = cluster.pull(0, "usual", &["--replicas", "4"]).await?;
    let (code, error) = refused(&told)?;
    ensure!(told.status.code() == Some(4) && code == ErrorCode::PreconditionFailed.as_str(), "{told:?}");
    ensure!(error["next"] == "ollamax model pull usual:latest --replicas 3", "{error}");
    let told = cluster.pull(0, "nobody/has:this", &["--replicas", "3"]).await?;
    let (code, error) = refused(&told)?;
    ensure!(code == ErrorCode::ModelNotFound.as_str() && told.status.code() == Some(3), "{error}");
    cluster.finish().await
}
