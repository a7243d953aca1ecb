//! Stores that the daemon's user may only read: the runtime fetches from the node what the node pulled, as Ollama's
//! client fetches from a registry. What a kill leaves on the way is swept, and no byte is asked for twice.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use ollamax_testkit::cluster::shut_above;
use ollamax_testkit::fake_ollama::{Fault, FaultRule, ModelScript, On, shelve};
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::ErrorCode;

use crate::bad_models::files_below;
use crate::model_owners::{PATIENCE, runtimes_up};
use crate::pull_from_a_registry::{blob, is_whole, model, nothing_is_left, plan, pulled, refused, start};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Some ranges of the runtime, and some pieces of the node.
const WEIGHTS_BYTES: u64 = 24_000_000;
/// Whom every Linux knows, and who owns nothing.
pub(crate) const NOBODY: u32 = 65_534;
/// A disk that every Linux has beside that of its temporary files.
const OTHER_DISK: &str = "/dev/shm";
/// A name that a process gave which was killed.
const LEFT: &str = "127.0.0.1:9/ollamax-00112233445566ff/left:1b";

/// What `ollamax doctor` says of the store, and what would mend it.
async fn diagnosis(cluster: &Cluster) -> Result<(String, String, String)> {
    let told = cluster.node(0).ollamax(&["-o", "json", "doctor"], COMMAND_LIMIT).await?;
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let checks = page["checks"].as_array().with_context(|| format!("no checks: {page}"))?;
    let check = checks.iter().find(|check| check["id"] == "model_store").context("the store is not checked")?;
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Ok((text("outcome"), text("found"), text("fix")))
}

/// The names that the runtime lists.
fn listed(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.fake(0)?.models().into_iter().map(|model| model.name).collect())
}

/// How often the runtime was asked to pull.
fn pulls(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.fake(0)?.read(|record| record.counts.get("/api/pull").copied().unwrap_or_default()))
}

/// The model is in the store under its name and no other, and nothing is left of the way.
async fn is_handed_over(cluster: &Cluster, registry: &FakeRegistry, model: &FakeModel, names: &[&str]) -> Result<()> {
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    is_whole(&store, model)?;
    wait::until("nothing to be left", PATIENCE, || async {
        nothing_is_left(&store, &data_dir)?;
        let staged = files_below(vec![data_dir.join("transfer").join("staging")])?;
        ensure!(staged.is_empty(), "left behind: {staged:?}");
        anyhow::Ok(())
    })
    .await?;
    let mut listed = listed(cluster)?;
    listed.sort();
    ensure!(listed == names, "{listed:?}");
    let sent = registry.sent(model.weights.sha256());
    ensure!(sent == model.weights.size_bytes, "{sent} bytes of {} were sent", model.weights.size_bytes);
    Ok(())
}

/// Puts the manifests of a store on another disk than its files, which shuts it to everybody who would link into it.
fn part(store: &Path) -> Result<TempDir> {
    let other = tempfile::tempdir_in(OTHER_DISK).context("another disk")?;
    let manifests = store.join("manifests");
    fs::remove_dir(&manifests).context("there is no model yet")?;
    symlink(other.path(), &manifests)?;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    ensure!(device(&manifests)? != device(store)?, "temporary files lie in {OTHER_DISK} too");
    Ok(other)
}

/// Why no daemon can be started here as another user; `None`: one can. Root can be given that, so there it may be a
/// failure.
pub(crate) fn no_other_user(test: &str) -> Result<Option<String>> {
    if !geteuid().is_root() {
        return Ok(Some("only root starts a daemon as another user".to_owned()));
    }
    // What it runs and writes lies in a folder there.
    let Some(folder) = shut_above(&std::env::temp_dir().join("cluster")) else { return Ok(None) };
    let why = format!("other users do not get through {}; TMPDIR names another folder", folder.display());
    crate::may_be_left_out(test, &why)?;
    Ok(Some(why))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_of_another_user_fetches_what_this_node_pulled() -> Result<()> {
    let _turn = crate::turn().await;
    let test = "a_store_of_another_user";
    if let Some(why) = no_other_user(test)? {
        return crate::say_left_out(test, &why);
    }
    let registry = FakeRegistry::start().await?;
    let here = model(80, WEIGHTS_BYTES);
    let digest = registry.push("here", &here);
    let cluster = start(plan("store-of-another-user", &registry, 1).node(0, |node| node.user = Some(NOBODY))).await?;
    let copy = pulled(&cluster.pull(0, "here", &[]).await?)?;
    ensure!(copy["digest"] == digest.to_string() && copy["verifiedBytes"] == copy["totalBytes"], "{copy}");
    is_handed_over(&cluster, &registry, &here, &["here:latest"]).await?;
    ensure!(pulls(&cluster)? == 1, "{}", pulls(&cluster)?);
    let owner = fs::metadata(blob(&cluster.node(0).store(), here.weights.sha256()))?.uid();
    ensure!(owner == 0, "the file is of user {owner}, not the runtime's");
    cluster.model_known("here", 1, PATIENCE).await?;
    let answer = cluster.chat(0, "here", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    let (outcome, found, fix) = diagnosis(&cluster).await?;
    let is_told = found.contains("this node only reads it") && found.contains("the runtime fetches from this node at");
    ensure!(outcome == "warning" && is_told && fix.contains("sudo chmod g+rwx"), "{outcome}: {found}: {fix}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_leaves_of_it_is_swept_and_no_byte_is_asked_for_twice() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (first, second) = (model(81, WEIGHTS_BYTES), model(82, WEIGHTS_BYTES));
    registry.push("first", &first);
    registry.push("second", &second);
    let cluster = start(plan("store-on-two-disks", &registry, 1)).await?;
    let store = cluster.node(0).store();
    let _other = part(&store)?;
    let (outcome, found, _) = diagnosis(&cluster).await?;
    ensure!(outcome == "warning" && found.contains("the runtime fetches from this node at"), "{outcome}: {found}");

    // What another process offered once goes, and is no model of the cluster.
    shelve(&store, &ModelScript { size_bytes: 1_000, ..ModelScript::named(LEFT) })?;
    wait::until("the runtime to be rid of it", PATIENCE, || async {
        let listed = listed(&cluster)?;
        ensure!(listed.is_empty(), "{listed:?}");
        anyhow::Ok(())
    })
    .await?;
    pulled(&cluster.pull(0, "first", &[]).await?)?;
    is_handed_over(&cluster, &registry, &first, &["first:latest"]).await?;
    ensure!(!registry.record().seen.iter().any(|seen| seen.path.contains("ollamax-")), "it was asked at the registry");

    // All of it is here when the daemon is killed, and the runtime has not begun.
    let before = pulls(&cluster)?;
    cluster.fake(0)?.inject(FaultRule::once(On::Pull, Fault::Hang));
    let begun = cluster.node(0).ollamax(&["model", "pull", "second", "--insecure"], COMMAND_LIMIT).await?;
    ensure!(begun.status.success(), "{begun:?}");
    wait::until("the runtime to be asked", PATIENCE, || async {
        ensure!(pulls(&cluster)? > before, "nobody asks it");
        anyhow::Ok(())
    })
    .await?;
    cluster.kill(&[0]).await?;
    cluster.restart(&[0]).await?;
    runtimes_up(&cluster, 1).await?;
    cluster.model_known("second", 1, PATIENCE).await?;
    is_handed_over(&cluster, &registry, &second, &["first:latest", "second:latest"]).await?;

    // A runtime that breaks off in the midst is asked again; one that refuses ends the pull, in its words.
    let third = model(83, WEIGHTS_BYTES);
    registry.push("third", &third);
    cluster.fake(0)?.inject(FaultRule::once(On::Pull, Fault::CutAfterLines(2)));
    pulled(&cluster.pull(0, "third", &[]).await?)?;
    is_handed_over(&cluster, &registry, &third, &["first:latest", "second:latest", "third:latest"]).await?;
    let fourth = model(84, 100_000);
    registry.push("fourth", &fourth);
    let full = "no space left on device".to_owned();
    cluster.fake(0)?.inject(FaultRule::once(On::Pull, Fault::Status(500, full.clone())));
    let (code, error) = refused(&cluster.pull(0, "fourth", &[]).await?)?;
    ensure!(code == ErrorCode::DiskFull.as_str() && error.to_string().contains(&full), "{code}: {error}");
    ensure!(!listed(&cluster)?.iter().any(|name| name.contains("fourth")), "{:?}", listed(&cluster)?);
    cluster.finish().await
}
