//! An engine whose disk is full refuses a model in clear words, keeps nothing of it, and goes on answering.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use serde_json::{Value, json};

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, Room};
use ollamax_types::ErrorCode;

use crate::bad_models::files_below;
use crate::model_owners::{self, PATIENCE};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 192 << 20;
/// Less than the demo model has.
const LEFT_BYTES: u64 = 1 << 20;
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");
/// The node with the small disk.
const SMALL: usize = 1;

/// `ollamax model import` to the node with the small disk.
async fn import(cluster: &Cluster, more: &[&str]) -> Result<Output> {
    let words = [more, &["model", "import", FILE, "--name", "demo", "--node", "n2"]].concat();
    cluster.node(0).ollamax(&words, COMMAND_LIMIT).await
}

/// The lists of the node and of its engine are there, with this many models.
async fn lists(cluster: &Cluster, count: usize) -> Result<()> {
    let engine = cluster.node(SMALL).facts()?.runtime.and_then(|runtime| runtime.url).context("no engine")?;
    for url in [cluster.url(SMALL, "")?, engine.trim_end_matches('/').to_owned()] {
        let tags = cluster.http().get_json(&format!("{url}/api/tags")).await?;
        ensure!(tags["models"].as_array().is_some_and(|models| models.len() == count), "{url}: {tags}");
    }
    let health = cluster.http().call(Method::GET, &cluster.url(SMALL, "/livez")?, "").await?;
    ensure!(health.status == 200, "/livez: {}", health.text().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_does_not_fit_on_the_engines_disk_leaves_nothing_there() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("full_disk_engine", Need::Disk).await? {
        return Ok(());
    }
    let room = Arc::new(Room::with_disk(DISK_BYTES).await?);
    let cluster = Cluster::builder("full-disk-engine")
        .nodes(2)
        .node(SMALL, |plan| {
            plan.runtime = Runtime::Engine;
            plan.room = Some(Arc::clone(&room));
            // The first node alone decides: what this one cannot write holds nobody up.
            "learner".clone_into(&mut plan.role);
            plan.settings.push(("store.write_buffer_bytes".to_owned(), (4 << 20).to_string()));
        })
        .start()
        .await?;
    model_owners::runtimes_up(&cluster, 1).await?;
    let models = || files_below(vec![cluster.node(SMALL).data_dir().join("models")]);
    let before = models()?;
    room.fill(LEFT_BYTES)?;

    let refused = import(&cluster, &[]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "{}: {said}", refused.status);
    let lines: Vec<&str> = said.lines().collect();
    let [error, why, next, _] = lines[..] else { bail!("not error, why, try and id: {said}") };
    ensure!(error.contains("node n2 could not take the model") && error.contains("nothing was kept"), "{said}");
    ensure!(why.contains("the disk with the model folder is full"), "{said}");
    ensure!(next.contains("free some space on n2"), "{said}");
    let refused = import(&cluster, &["-o", "json"]).await?;
    let error: Value = serde_json::from_slice(&refused.stderr).with_context(|| format!("{refused:?}"))?;
    ensure!(error["code"] == ErrorCode::DiskFull.as_str() && error["exit"] == 1, "{error}");
    ensure!(models()? == before, "left behind: {:?}", models()?);
    lists(&cluster, 0).await.context("on a full disk")?;

    room.clear()?;
    let imported = import(&cluster, &[]).await.context("with room again")?;
    ensure!(imported.status.success(), "{imported:?}");
    cluster.model_known("demo", 1, PATIENCE).await?;
    lists(&cluster, 1).await.context("with room again")?;
    let answer = cluster.chat(0, "demo", "hello", false).await?.ok_json().await?;
    ensure!(answer["done"] == json!(true), "{answer}");
    cluster.finish().await
}
