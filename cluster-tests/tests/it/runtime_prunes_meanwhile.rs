//! A runtime that clears its store while a model comes, or goes down meanwhile and does so when it comes up: what grows
//! is out of its sight, and what it took away of files that were there already is fetched again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::json;
use tokio::time::timeout;

use ollamax_testkit::fake_ollama::{Fault, FaultRule, On};
use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::bad_models::files_below;
use crate::model_owners::{PATIENCE, runtimes_up};
use crate::pull_from_a_registry::{is_whole, model, nothing_is_left, plan, pulled, start};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const WEIGHTS_BYTES: u64 = 24 << 20;
/// Longer than a pull waits for its runtime to list a model: a runtime that hangs is not taken for one that is down.
const HEALTH_PATIENCE_MS: u64 = 30_000;

/// Removes what no manifest names, and folders without a manifest, as a runtime does when it starts. Answers how many
/// files went.
fn prune(store: &Path) -> Result<usize> {
    let texts =
        files_below(vec![store.join("manifests")])?.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let named: BTreeSet<String> =
        texts.iter().flat_map(|text| text.split('"')).map(|word| word.replace(':', "-")).collect();
    let mut gone = 0;
    for path in files_below(vec![store.join("blobs")])? {
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        if !named.contains(&name) {
            fs::remove_file(&path)?;
            gone += 1;
        }
    }
    remove_empty(&store.join("manifests"))?;
    Ok(gone)
}

/// Removes the folders below this one that have no file in them.
fn remove_empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_empty(&path)?;
            if fs::read_dir(&path)?.next().is_none() {
                fs::remove_dir(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes a model at the runtime itself.
async fn delete(cluster: &Cluster, name: &str) -> Result<()> {
    let url = format!("{}/api/delete", cluster.fake(0)?.url());
    let gone = cluster.http().call(Method::DELETE, &url, json!({ "model": name }).to_string()).await?;
    ensure!(gone.status == 200, "{}", gone.text().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_runtime_clears_away_meanwhile_is_there_in_the_end() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    // They share template and parameters.
    let (old, new) = (model(80, 100_000), model(81, WEIGHTS_BYTES));
    registry.push("old", &old);
    registry.push("new", &new);
    let cluster = start(plan("pull-pruned", &registry, 1)).await?;
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    pulled(&cluster.pull(0, "old", &[]).await?)?;

    let hold = registry.hold_after(new.weights.sha256(), WEIGHTS_BYTES / 2);
    let begun = cluster.node(0).ollamax(&["model", "pull", "new"], COMMAND_LIMIT).await?;
    ensure!(begun.status.success(), "{begun:?}");
    timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
    ensure!(prune(&store)? == 0, "of what is half there the runtime sees nothing");
    // The files that both use go with the old model.
    delete(&cluster, "old").await?;
    prune(&store)?;
    let left = files_below(vec![store.join("blobs"), store.join("manifests")])?;
    ensure!(left.is_empty(), "the runtime keeps what nobody names: {left:?}");
    hold.release();

    cluster.model_known("new", 1, PATIENCE).await?;
    pulled(&cluster.pull(0, "new", &[]).await?)?;
    is_whole(&store, &new)?;
    nothing_is_left(&store, &data_dir)?;
    let sent = registry.sent(new.weights.sha256());
    ensure!(sent == WEIGHTS_BYTES, "{sent} bytes of the weights were sent");
    ensure!(prune(&store)? == 0, "everything has a name now");
    let answer = cluster.chat(0, "new", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}

/// Starts the runtime again, which clears its store first as Ollama does; nothing of it may be without a name.
async fn comes_up(cluster: &Cluster) -> Result<()> {
    let gone = prune(&cluster.node(0).store())?;
    ensure!(gone == 0, "it removed {gone} files, and half of a model was in its sight");
    cluster.fake(0)?.resume().await?;
    runtimes_up(cluster, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_goes_down_meanwhile_comes_up_with_all_of_a_model_or_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (coming, published) = (model(82, WEIGHTS_BYTES), model(83, WEIGHTS_BYTES));
    registry.push("coming", &coming);
    registry.push("published", &published);
    let plan = plan("runtime-restarts", &registry, 1).setting("runtime.health_timeout_ms", HEALTH_PATIENCE_MS);
    let cluster = start(plan).await?;
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    let runtime = cluster.fake(0)?;

    // While its bytes come, which goes on without the runtime.
    let hold = registry.hold_after(coming.weights.sha256(), WEIGHTS_BYTES / 2);
    let begun = cluster.begin_pull(0, "coming", &[]).await?;
    ensure!(begun.status.success(), "{begun:?}");
    timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
    runtime.stop();
    runtimes_up(&cluster, 0).await?;
    comes_up(&cluster).await?;
    ensure!(runtime.models().is_empty(), "half of a model is listed: {:?}", runtime.models());
    hold.release();
    cluster.model_known("coming", 1, PATIENCE).await?;
    pulled(&cluster.pull(0, "coming", &[]).await?)?;
    is_whole(&store, &coming)?;
    nothing_is_left(&store, &data_dir)?;

    // Between the moment in which it is visible and that in which the runtime lists it.
    let hold = registry.hold_after(published.weights.sha256(), WEIGHTS_BYTES / 2);
    let begun = cluster.begin_pull(0, "published", &[]).await?;
    ensure!(begun.status.success(), "{begun:?}");
    timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
    runtime.inject(FaultRule::always(On::Health, Fault::Hang));
    hold.release();
    wait::until("the pull to wait for the runtime", PATIENCE, || async {
        let pulls = cluster.pulls(0).await?;
        let is_there = pulls.iter().any(|pull| pull["name"] == "published:latest" && pull["stage"] == "settling");
        ensure!(is_there, "{pulls:?}");
        anyhow::Ok(())
    })
    .await?;
    // It is waited for. Where it takes too long to come up, the pull says so, and the copy counts all the same.
    runtime.stop();
    runtimes_up(&cluster, 0).await?;
    runtime.heal();
    comes_up(&cluster).await?;
    cluster.model_known("published", 1, PATIENCE).await?;
    pulled(&cluster.pull(0, "published", &[]).await?)?;
    nothing_is_left(&store, &data_dir)?;
    for (name, model) in [("coming", &coming), ("published", &published)] {
        is_whole(&store, model)?;
        let sent = registry.sent(model.weights.sha256());
        ensure!(sent == WEIGHTS_BYTES, "{sent} bytes of the weights of {name} were sent");
        let answer = cluster.chat(0, name, "hello", false).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
    }
    cluster.finish().await
}
