//! A model goes in one file to a site where no registry has it: checked there, taken in, unpacked by hand, and spread.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use ollamax_testkit::{Cluster, FakeRegistry};
use ollamax_types::ErrorCode;

use crate::model_owners::{self, PATIENCE};
use crate::pull_from_a_registry::{is_whole, model, nothing_is_left, plan, refused};
use crate::spread::all_seen_up;

/// Some pieces and a short one.
const WEIGHTS_BYTES: u64 = 14_000_000;
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Runs a command at a node, in JSON.
pub(crate) async fn ollamax(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Output> {
    cluster.node(index).ollamax(&[["-o", "json"].as_slice(), words].concat(), COMMAND_LIMIT).await
}

/// What a command that ended well told.
pub(crate) fn page(told: &Output) -> Result<Value> {
    ensure!(told.status.success(), "{told:?}");
    serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))
}

async fn names(cluster: &Cluster, index: usize) -> Result<Vec<Value>> {
    let tags = cluster.get_json(index, "/api/tags").await?;
    let models = tags["models"].as_array().with_context(|| format!("no list: {tags}"))?;
    Ok(models.iter().map(|model| model["name"].clone()).collect())
}

/// Unpacks a bundle as anybody may, and proves it with what everybody has.
async fn unpack(bundle: &str, store: &Path) -> Result<()> {
    for (program, arguments) in [("tar", ["xf", bundle]), ("sha256sum", ["-c", "ollamamax/SHA256SUMS"])] {
        let told = Command::new(program).args(arguments).current_dir(store).kill_on_drop(true).output();
        let told = timeout(COMMAND_LIMIT, told).await?.with_context(|| format!("run {program}"))?;
        ensure!(told.status.success(), "{program}: {told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_in_one_file_to_a_site_where_no_registry_has_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let carried = model(211, WEIGHTS_BYTES);
    let digest = registry.push("carried", &carried).to_string();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("carried.ollamax");
    let bundle = file.to_str().context("a path that is text")?;

    let cluster = plan("bundle-from", &registry, 2).start().await?;
    model_owners::runtimes_up(&cluster, 2).await?;
    let told = cluster.pull(0, "carried", &["--node", "n1"]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known("carried", 1, PATIENCE).await?;
    let told = page(&ollamax(&cluster, 0, &["model", "export", "carried", bundle]).await?)?;
    ensure!(told["kind"] == "Bundle" && told["digest"] == digest, "{told}");
    ensure!(told["bytes"] == fs::metadata(&file)?.len(), "{told}");
    // Another node says who has it.
    let (code, error) = refused(&ollamax(&cluster, 1, &["model", "export", "carried", "elsewhere"]).await?)?;
    ensure!(code == ErrorCode::ModelNotFound.as_str() && error["why"] == "n1 has it", "{error}");
    cluster.finish().await?;

    let empty = FakeRegistry::start().await?;
    let cluster = plan("bundle-to", &empty, 3).start().await?;
    all_seen_up(&cluster).await?;
    let told = page(&ollamax(&cluster, 0, &["model", "import", bundle, "--check"]).await?)?;
    ensure!(told["kind"] == "BundleCheck" && told["digest"] == digest, "{told}");
    let damaged = folder.path().join("damaged.ollamax");
    let mut bytes = fs::read(&file)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&damaged, bytes)?;
    let damaged = damaged.to_str().context("a path that is text")?;
    let (code, error) = refused(&ollamax(&cluster, 0, &["model", "import", damaged]).await?)?;
    ensure!(code == ErrorCode::DigestMismatch.as_str(), "{error}");
    let what = error["what"].as_str().unwrap_or_default();
    ensure!(what.starts_with("piece ") && what.ends_with(" is damaged"), "{error}");
    ensure!(names(&cluster, 0).await?.is_empty(), "something of it is visible");

    let told = page(&ollamax(&cluster, 0, &["model", "import", bundle]).await?)?;
    let copy = &told["copies"][0];
    ensure!(copy["node"] == "n1" && copy["digest"] == digest && copy["stage"] == "done", "{told}");
    ensure!(copy["sources"][0]["source"] == "bundle", "{told}");
    let place = |index: usize| (cluster.node(index).store(), cluster.node(index).data_dir());
    is_whole(&place(0).0, &carried)?;
    nothing_is_left(&place(0).0, &place(0).1)?;
    cluster.model_known("carried", 1, PATIENCE).await?;
    ensure!(names(&cluster, 1).await? == ["carried:latest"], "another list");
    let answer = cluster.chat(1, "carried", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);

    // It needs no program of ours, and from there it goes to the others without a registry.
    unpack(bundle, &place(1).0).await?;
    is_whole(&place(1).0, &carried)?;
    cluster.model_known("carried", 2, PATIENCE).await?;
    let told = cluster.pull(0, "carried", &["--replicas", "3"]).await?;
    ensure!(told.status.success(), "{told:?}");
    is_whole(&place(2).0, &carried)?;
    cluster.model_known("carried", 3, PATIENCE).await?;
    ensure!(empty.sent(carried.weights.sha256()) == 0, "the registry was asked for a file");
    cluster.finish().await
}
