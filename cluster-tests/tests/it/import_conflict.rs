//! Runtimes that make different models of one file are found out by the digests, and an import undoes all of it.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_types::ErrorCode;

use crate::model_owners::PATIENCE;

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");
/// What the releases of the two runtimes add to the models that they make.
const SALTS: [&str; 2] = ["", "of another release"];

fn runtime(salt: &str) -> Runtime {
    let script = Script { create_salt: salt.to_owned(), ..Script::with_models([ModelScript::named("kept")]) };
    Runtime::Fake(Box::new(script))
}

/// `ollamax model import` to both nodes.
async fn import(cluster: &Cluster) -> Result<Output> {
    let words = ["-o", "json", "model", "import", FILE, "--name", "x", "--node", "n1", "--node", "n2"];
    cluster.node(0).ollamax(&words, COMMAND_LIMIT).await
}

/// What people see of the digest of the model that a runtime made of the file.
fn made(cluster: &Cluster, index: usize) -> Result<String> {
    let blobs = cluster.fake(index)?.blobs();
    let file = blobs.keys().next().with_context(|| format!("the file never came to node {index}"))?;
    let model = ModelScript { content: format!("{file}{}", SALTS[index]), ..ModelScript::default() };
    Ok(model.digest().short())
}

/// The names that `ollamax model list` shows at a node.
async fn listed(cluster: &Cluster, index: usize) -> Result<Vec<String>> {
    let told = cluster.node(index).ollamax(&["-o", "json", "model", "list"], COMMAND_LIMIT).await?;
    let told: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let models = told["models"].as_array().with_context(|| format!("no list: {told}"))?;
    Ok(models.iter().filter_map(|model| model["name"].as_str()).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_that_disagree_about_a_file_keep_nothing_of_it() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("import-conflict")
        .nodes(2)
        .node(0, |plan| plan.runtime = runtime(SALTS[0]))
        .node(1, |plan| plan.runtime = runtime(SALTS[1]))
        .start()
        .await?;
    cluster.model_known("kept", 2, PATIENCE).await?;
    let before = [cluster.fake(0)?.models(), cluster.fake(1)?.models()];

    let refused = import(&cluster).await?;
    let error: Value = serde_json::from_slice(&refused.stderr).with_context(|| format!("{refused:?}"))?;
    ensure!(refused.status.code() == Some(4) && error["exit"] == 4, "{}: {error}", refused.status);
    ensure!(error["code"] == ErrorCode::DigestConflict.as_str(), "{error}");
    ensure!(error["what"].as_str().is_some_and(|what| what.contains("nothing was kept")), "{error}");
    let (one, other) = (made(&cluster, 0)?, made(&cluster, 1)?);
    let why = error["why"].as_str().unwrap_or_default();
    ensure!(one != other, "the runtimes agree on {one}");
    ensure!(why.contains(&format!("n1 {one}")) && why.contains(&format!("n2 {other}")), "{error}");

    for (index, before) in before.iter().enumerate() {
        let after = cluster.fake(index)?.models();
        ensure!(after == *before, "the runtime of node {index} has {after:?}");
        let listed = listed(&cluster, index).await?;
        ensure!(listed == ["kept:latest"], "node {index} lists {listed:?}");
    }

    // Once they agree, the same command goes through: what was refused stands in nobody's way.
    cluster.fake(1)?.change(|script| script.create_salt.clear());
    let imported = import(&cluster).await?;
    ensure!(imported.status.success(), "{imported:?}");
    cluster.model_known("x", 2, PATIENCE).await?;
    let answer = cluster.chat(1, "x", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
