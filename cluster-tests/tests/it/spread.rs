//! The set-up that the suites of spreading share: nodes with an empty store each, of which every one knows that all can
//! take a model, with links that can be made slow; what must hold when a model has come to several of them; and what
//! nodes tell of it.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_proto::v1::runtime::State;
use ollamax_testkit::cluster::copies;
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::link::Mode;
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::Digest;

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{is_whole, nothing_is_left, plan};

/// Ten chunks and a part of one.
pub(crate) const WEIGHTS_BYTES: u64 = 42_000_000;
/// A file of one chunk.
pub(crate) const FEW_BYTES: u64 = 300_000;
/// So slow that a transfer of this file can be met in its midst, and over in some seconds.
pub(crate) const SLOW: Mode = Mode::Slow(8 << 20);
/// What may come twice of a file whose end is asked for at two nodes.
pub(crate) const TWICE_BYTES_MAX: u64 = 12 << 20;

/// Three nodes of which each sees all runtimes up.
pub(crate) async fn start(test: &str, registry: &FakeRegistry) -> Result<Cluster> {
    let cluster = plan(test, registry, 3).with_links().start().await?;
    all_seen_up(&cluster).await?;
    Ok(cluster)
}

/// Waits until each running node sees the runtimes of all: where one is not seen, it is not counted on.
pub(crate) async fn all_seen_up(cluster: &Cluster) -> Result<()> {
    wait::until("every node to see all runtimes", PATIENCE, || async {
        for (index, status) in cluster.statuses().await? {
            let runtimes = status.nodes.iter().filter_map(|node| node.runtime.as_ref());
            let up = runtimes.filter(|runtime| runtime.state() == State::Up).count();
            ensure!(up == cluster.size(), "node {index} sees {up} runtimes up");
        }
        anyhow::Ok(())
    })
    .await
}

/// The copies of a command that ended well: as many as these nodes, each with all of it.
pub(crate) fn spread(told: &Output, nodes: &[&str], digest: Digest) -> Result<Vec<(String, Value)>> {
    ensure!(told.status.success(), "{told:?}");
    let copies = copies(told)?;
    let names: Vec<&str> = copies.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == nodes, "copies on {names:?}");
    for (name, copy) in &copies {
        ensure!(copy["stage"] == "done" && copy["digest"] == digest.to_string(), "{name}: {copy}");
        ensure!(copy["verifiedBytes"] == copy["totalBytes"], "{name}: {copy}");
    }
    Ok(copies)
}

/// The copy of a node.
pub(crate) fn copy_on<'a>(copies: &'a [(String, Value)], node: &str) -> Result<&'a Value> {
    let found = copies.iter().find(|(name, _)| name == node);
    found.map(|(_, copy)| copy).with_context(|| format!("no copy on {node}: {copies:?}"))
}

/// The model lies in the stores of these nodes, byte for byte, and nothing else was left there.
pub(crate) async fn is_everywhere(cluster: &Cluster, nodes: &[usize], model: &FakeModel) -> Result<()> {
    for index in nodes {
        let (store, data_dir) = (cluster.node(*index).store(), cluster.node(*index).data_dir());
        is_whole(&store, model).with_context(|| format!("node {index}"))?;
        // The cluster may hear of the model a moment before its pull has ended.
        wait::until("nothing to be left", PATIENCE, || async { nothing_is_left(&store, &data_dir) }).await?;
    }
    Ok(())
}

/// Nobody asked the registry for a byte of the weights twice.
pub(crate) fn came_once(registry: &FakeRegistry, model: &FakeModel) -> Result<()> {
    let (sent, size_bytes) = (registry.sent(model.weights.sha256()), model.weights.size_bytes);
    ensure!(sent == size_bytes, "the registry sent {sent} of {size_bytes} bytes");
    Ok(())
}

/// The events of a kind that a node keeps, the earliest first.
pub(crate) async fn events(cluster: &Cluster, index: usize, kind: &str) -> Result<Vec<Value>> {
    let told = cluster.node(index).ollamax(&["-o", "json", "events", "--kind", kind], PATIENCE).await?;
    ensure!(told.status.success(), "{told:?}");
    let page = String::from_utf8_lossy(&told.stdout);
    let lines: Vec<Value> = page.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().filter(|line| line["event"] == kind).collect())
}
