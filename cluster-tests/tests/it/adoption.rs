//! Models that lie in a runtime's store: known while the runtime is still coming up, hashed in the background, followed
//! when somebody changes the store, and told when a file is not what its name says.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use ollamax_proto::v1::runtime::State;
use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{Fault, FaultRule, ModelScript, On, Script, shelve};
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::PATIENCE;

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of the weights of each model.
const WEIGHTS_BYTES: u32 = 100_000;

fn small(name: &str) -> ModelScript {
    ModelScript { size_bytes: WEIGHTS_BYTES.into(), ..ModelScript::named(name) }
}

/// What a command shows as JSON, whatever its exit code.
async fn shown(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    let words: Vec<&str> = ["-o", "json"].into_iter().chain(words.iter().copied()).collect();
    let told = cluster.node(0).ollamax(&words, COMMAND_LIMIT).await?;
    serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))
}

/// Names and digests in `ollamax model list`.
async fn listed(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let told = shown(cluster, &["model", "list"]).await?;
    let models = told["models"].as_array().with_context(|| format!("no list: {told}"))?.iter();
    let rows = models.filter_map(|row| Some((row["name"].as_str()?.to_owned(), row["digest"].as_str()?.to_owned())));
    Ok(rows.collect())
}

/// Names and digests in the store.
fn stored(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let models = cluster.fake(0)?.models().into_iter();
    Ok(models.map(|model| (model.name.clone(), model.digest().to_string())).collect())
}

async fn lists_what_is_stored(cluster: &Cluster) -> Result<()> {
    wait::until("the list to be what is stored", PATIENCE, || async {
        let (listed, stored) = (listed(cluster).await?, stored(cluster)?);
        ensure!(listed == stored, "listed {listed:?}, stored {stored:?}");
        anyhow::Ok(())
    })
    .await
}

/// Waits until a metric has this value.
async fn counts(cluster: &Cluster, metric: &str, expected: u32) -> Result<()> {
    wait::until(&format!("{metric} to be {expected}"), PATIENCE, || async {
        let found = cluster.metric(0, metric).await?;
        ensure!(found == Some(f64::from(expected)), "it is {found:?}");
        anyhow::Ok(())
    })
    .await
}

/// What `ollamax doctor` says of the store.
async fn diagnosis(cluster: &Cluster) -> Result<(String, String)> {
    let told = shown(cluster, &["doctor"]).await?;
    let checks = told["checks"].as_array().with_context(|| format!("no checks: {told}"))?;
    let check = checks.iter().find(|check| check["id"] == "model_store").context("the store is not checked")?;
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Ok((text("outcome"), text("found")))
}

async fn start(test: &str, script: Script) -> Result<Cluster> {
    let plan = Cluster::builder(test).nodes(1).setting("runtime.models_interval_ms", 200);
    plan.node(0, |plan| plan.runtime = Runtime::FakeStore(Box::new(script))).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_the_store_are_listed_while_their_runtime_is_still_coming_up() -> Result<()> {
    let _turn = crate::turn().await;
    let silent = vec![FaultRule::always(On::Everything, Fault::Reset)];
    let models = [small("one"), small("lab/two:1b")];
    let cluster = start("adoption", Script { faults: silent, ..Script::with_models(models) }).await?;
    lists_what_is_stored(&cluster).await?;
    ensure!(listed(&cluster).await?.len() == 2);
    let runtime = cluster.status(0).await?.nodes.into_iter().find_map(|node| node.runtime);
    ensure!(runtime.as_ref().is_none_or(|runtime| runtime.state() != State::Up), "{runtime:?}");
    let (outcome, found) = diagnosis(&cluster).await?;
    let store = cluster.node(0).store().display().to_string();
    ensure!(outcome == "ok" && found.contains(&store) && found.contains("is owned by"), "{outcome}: {found}");

    // The runtime comes up; what it lists counts from then on, and it is the same.
    cluster.fake(0)?.heal();
    cluster.model_known("one", 1, PATIENCE).await?;
    lists_what_is_stored(&cluster).await?;
    let answer = cluster.chat(0, "one", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);

    // Somebody pulls and removes models behind the cluster's back.
    shelve(&cluster.node(0).store(), &small("three"))?;
    cluster.model_known("three", 1, PATIENCE).await?;
    lists_what_is_stored(&cluster).await?;
    counts(&cluster, "ollamax_blobs_models", 3).await?;
    let url = format!("{}/api/delete", cluster.fake(0)?.url());
    let gone = cluster.http().call(Method::DELETE, &url, json!({ "model": "one" }).to_string()).await?;
    ensure!(gone.status == 200, "{}", gone.text().await?);
    lists_what_is_stored(&cluster).await?;
    ensure!(!listed(&cluster).await?.contains_key("one:latest"));
    counts(&cluster, "ollamax_blobs_models", 2).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_what_its_name_says_is_told_and_what_is_on_record_is_not_read_again() -> Result<()> {
    let _turn = crate::turn().await;
    let script = Script::with_models([small("one"), small("two")]);
    // Nobody else has it, and no registry is asked.
    let plan = Cluster::builder("adoption-suspect").nodes(1).setting("transfer.repair", false);
    let plan = plan.setting("runtime.models_interval_ms", 200);
    let cluster = plan.node(0, |plan| plan.runtime = Runtime::FakeStore(Box::new(script))).start().await?;
    cluster.model_known("one", 1, PATIENCE).await?;
    let models = cluster.fake(0)?.models();
    let bytes: u64 = models.iter().map(|model| model.size_bytes).sum();
    counts(&cluster, "ollamax_blobs_hashed_bytes_total", bytes.try_into()?).await?;
    counts(&cluster, "ollamax_blobs_unhashed_bytes", 0).await?;
    counts(&cluster, "ollamax_blobs_suspect", 0).await?;

    cluster.node(0).stop(PATIENCE).await?;
    let model = models.iter().find(|model| model.name == "one:latest").context("it was put there")?;
    let file = cluster.node(0).store().join("blobs").join(format!("sha256-{}", model.weights_digest()));
    let mut damaged = fs::read(&file)?;
    damaged[0] ^= 1;
    fs::write(&file, &damaged)?;
    cluster.restart(&[0]).await?;

    counts(&cluster, "ollamax_blobs_suspect", 1).await?;
    counts(&cluster, "ollamax_blobs_hashed_bytes_total", WEIGHTS_BYTES).await?;
    let (outcome, found) = wait::until("doctor to see it", PATIENCE, || async {
        let (outcome, found) = diagnosis(&cluster).await?;
        ensure!(outcome == "failed", "{outcome}: {found}");
        anyhow::Ok((outcome, found))
    })
    .await?;
    let is_told = found.contains(&format!("sha256-{} of one:latest", model.weights_digest().short()));
    ensure!(is_told && !found.contains("two:latest"), "{outcome}: {found}");
    ensure!(fs::read(&file)? == damaged, "the file is the user's");
    cluster.finish().await
}
