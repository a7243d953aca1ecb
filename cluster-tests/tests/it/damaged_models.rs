//! A file of a model that is damaged on the disk of one node: found when somebody has it read again, replaced by the
//! sound one of another node, and told where it may not be replaced.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::a_flipped_byte_on_a_peers_disk::turn_at;
use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{self, blob, model, plan, refused};
use crate::spread::{WEIGHTS_BYTES, came_once, is_everywhere, spread, start};

/// Much less than the time between two looks of a node at its store.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Turns one bit in the midst of a file.
fn flip(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).context("open what is to be damaged")?;
    turn_at(&mut file, WEIGHTS_BYTES / 2)
}

/// What is told of the largest file that is read again.
async fn verified(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = ["-o", "json", "model", "verify", "rotten"].iter().chain(words).copied().collect();
    let told = cluster.node(index).ollamax(&words, PATIENCE).await?;
    ensure!(told.status.success(), "{told:?}");
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let files = page["files"].as_array().with_context(|| format!("no files: {page}"))?;
    let largest = files.iter().max_by_key(|file| file["sizeBytes"].as_u64());
    largest.cloned().with_context(|| format!("no file: {page}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_on_a_peers_disk_is_found_not_sent_and_mended() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(132, WEIGHTS_BYTES);
    let digest = registry.push("rotten", &model);
    let cluster = start("damaged-models", &registry).await?;
    spread(&cluster.pull(0, "rotten", &["--node", "n1,n2"]).await?, &["n1", "n2"], digest)?;

    let file = blob(&cluster.node(1).store(), model.weights.sha256());
    let before = fs::metadata(&file)?.ino();
    flip(&file)?;
    let found = verified(&cluster, 0, &["--node", "n2"]).await?;
    ensure!(found["node"] == "n2", "{found}");
    if found["result"] != "damaged" || found["repaired"] != true {
        // The node looked at its store in that very moment: then it has mended the file by itself.
        wait::until("the file to be mended", AT_ONCE, || async {
            let mended = cluster.metric(1, "ollamax_blobs_repairs_total").await?;
            ensure!(mended == Some(1.0), "{mended:?} files were: {found}");
            anyhow::Ok(())
        })
        .await?;
    }
    ensure!(fs::metadata(&file)?.ino() != before, "whoever has the old file open keeps it");
    is_everywhere(&cluster, &[0, 1], &model).await?;
    let again = verified(&cluster, 1, &[]).await?;
    ensure!(again["result"] == "sound", "{again}");
    ensure!(cluster.metric(1, "ollamax_blobs_repairs_total").await? == Some(1.0), "it was mended once");

    spread(&cluster.pull(2, "rotten", &["--replicas", "3"]).await?, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, 2], &model).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_be_mended_is_told_and_stays() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(133, WEIGHTS_BYTES);
    registry.push("rotten", &model);
    let plan = plan("damaged-models-told", &registry, 1).setting("transfer.repair", false);
    let cluster = pull_from_a_registry::start(plan).await?;
    let told = cluster.pull(0, "rotten", &[]).await?;
    ensure!(told.status.success(), "{told:?}");
    let file = blob(&cluster.node(0).store(), model.weights.sha256());
    flip(&file)?;
    let damaged = fs::read(&file)?;
    let words = ["-o", "json", "model", "verify", "rotten"];
    let (code, error) = refused(&cluster.node(0).ollamax(&words, PATIENCE).await?)?;
    let what = error["what"].as_str().unwrap_or_default();
    let is_named = what.contains(&format!("sha256-{}", model.weights.sha256().short()));
    ensure!(code == "digest_mismatch" && is_named, "{error}");
    ensure!(fs::read(&file)? == damaged, "the file is the user's");
    came_once(&registry, &model)?;
    cluster.finish().await
}
