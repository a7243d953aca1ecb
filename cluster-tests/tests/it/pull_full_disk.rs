//! A disk without room for a model says so in numbers before a byte is asked for; one that others fill while a model
//! comes does not stop it, because its room was set aside.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::timeout;

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, FakeRegistry, Room, wait};
use ollamax_types::ErrorCode;

use crate::bad_models::files_below;
use crate::model_owners::{self, PATIENCE};
use crate::pull_from_a_registry::{MIB, is_whole, model, nothing_is_left, pulled, refused};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 256 * MIB;
const WEIGHTS_BYTES: u64 = 96 * MIB;
/// Less than the model, and more than what is kept for the cluster's log: what is wanted goes on record.
const SCARCE_BYTES: u64 = 80 * MIB;
/// More than a node needs to write what it was told before.
const LEFT_BYTES: u64 = 32 * MIB;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_fit_costs_no_byte_and_one_that_fits_comes_to_its_end() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("pull_full_disk", Need::Disk).await? {
        return Ok(());
    }
    let room = Arc::new(Room::with_disk(DISK_BYTES).await?);
    let registry = FakeRegistry::start().await?;
    let large = model(70, WEIGHTS_BYTES);
    let weights = large.weights.sha256();
    registry.push("large", &large);
    // The engine keeps its models in the data directory, which lies on the small disk.
    let cluster = Cluster::builder("pull-full-disk")
        .nodes(1)
        .setting("transfer.registry_url", registry.url())
        .setting("transfer.spare_percent", 0)
        .setting("transfer.spare_bytes_min", MIB)
        .setting("transfer.settle_ms", 1_000)
        .setting("store.write_buffer_bytes", 4 * MIB)
        .setting("runtime.models_interval_ms", 200)
        .node(0, |plan| {
            plan.runtime = Runtime::Engine;
            plan.room = Some(Arc::clone(&room));
        })
        .start()
        .await?;
    model_owners::runtimes_up(&cluster, 1).await?;
    let data_dir = cluster.node(0).data_dir();
    let models = data_dir.join("models");

    room.fill(SCARCE_BYTES)?;
    let (code, error) = refused(&cluster.pull(0, "large", &[]).await?)?;
    let text = error.to_string();
    ensure!(code == ErrorCode::DiskFull.as_str() && text.contains("bytes are needed"), "{error}");
    ensure!(text.contains(&format!("({} and", total(&large)?)) && text.contains("are free"), "{error}");
    ensure!(registry.sent(weights) == 0, "{} bytes were asked for", registry.sent(weights));
    let parts = files_below(vec![models.clone()])?;
    ensure!(!parts.iter().any(|path| path.to_string_lossy().contains(&weights.to_string())), "made: {parts:?}");
    room.clear()?;

    // Two thirds have come when somebody else takes what is left.
    let hold = registry.hold_after(weights, WEIGHTS_BYTES * 2 / 3);
    let begun = cluster.node(0).ollamax(&["model", "pull", "large"], COMMAND_LIMIT).await?;
    ensure!(begun.status.success(), "{begun:?}");
    timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
    room.fill(LEFT_BYTES)?;
    hold.release();
    wait::until("the model to come to its end", PATIENCE, || async {
        let told = cluster.node(0).ollamax(&["-o", "json", "model", "pulls"], COMMAND_LIMIT).await?;
        let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
        ensure!(page["pulls"].as_array().is_some_and(Vec::is_empty), "{page}");
        is_whole(&models, &large)
    })
    .await?;
    nothing_is_left(&models, &data_dir)?;
    ensure!(registry.sent(weights) == WEIGHTS_BYTES, "{} bytes were sent", registry.sent(weights));

    // The cluster hears of it as soon as changes are taken again.
    room.clear()?;
    cluster.model_known("large", 1, PATIENCE).await?;
    pulled(&cluster.pull(0, "large", &[]).await?)?;
    cluster.finish().await
}

/// Bytes of all files of the model, as its manifest says.
fn total(model: &FakeModel) -> Result<u64> {
    let manifest: Value = serde_json::from_slice(&model.manifest())?;
    let layers = manifest["layers"].as_array().context("layers")?.iter().chain([&manifest["config"]]);
    layers.map(|layer| layer["size"].as_u64().context("a size")).sum()
}
