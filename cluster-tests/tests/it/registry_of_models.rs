//! The registry of models: a version that was replaced comes back without a byte from outside, a pin holds, copies go
//! for good and where they are wanted, and what a person removes is respected.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use ollamax_testkit::cluster::copies;
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::{Digest, ErrorCode};

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{blob, model, nothing_is_left, refused};
use crate::spread::{FEW_BYTES, SLOW, WEIGHTS_BYTES, came_once, is_everywhere, spread, start};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ALL: [usize; 3] = [0, 1, 2];
/// Another length, so that nothing of it fits.
const OTHER_BYTES: u64 = 12_345_678;
/// Longest wait for a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How soon copies are repaired here, milliseconds.
const REPAIR_AFTER_MS: &[u8] = b"3000";

/// `ollamax model …` at a node, in JSON.
async fn asked(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Output> {
    let words: Vec<&str> = ["-o", "json", "model"].iter().chain(words).copied().collect();
    cluster.node(index).ollamax(&words, COMMAND_LIMIT).await
}

/// What it told, when it ended well.
async fn told(cluster: &Cluster, index: usize, words: &[&str]) -> Result<Value> {
    let said = asked(cluster, index, words).await?;
    ensure!(said.status.success(), "{words:?}: {said:?}");
    serde_json::from_slice(&said.stdout).with_context(|| format!("{said:?}"))
}

/// Waits until so many versions of a name are noted, and tells how each came.
async fn noted(cluster: &Cluster, name: &str, count: usize) -> Result<Vec<Value>> {
    wait::until(&format!("{count} versions of {name} to be noted"), PATIENCE, || async {
        let page = told(cluster, 0, &["history", name]).await?;
        let versions: Vec<Value> = page["versions"].as_array().cloned().unwrap_or_default();
        let noted = versions.iter().filter(|version| version["version"].is_u64()).count();
        ensure!(noted == count, "{page}");
        anyhow::Ok(versions)
    })
    .await
}

/// Waits until every node shows that version of a name as served, on so many nodes.
pub(crate) async fn is_served(cluster: &Cluster, name: &str, digest: Digest, nodes: usize) -> Result<()> {
    wait::until(&format!("{name} to be served on {nodes} nodes"), PATIENCE, || async {
        for node in cluster.nodes().iter().filter(|node| node.is_running()) {
            let models = node.admin()?.models(name).await?;
            let served = models.iter().filter(|model| model.digest == digest.0);
            let copies: usize = served.map(|model| model.copies.iter().filter(|copy| copy.served).count()).sum();
            ensure!(copies == nodes, "{} sees {models:?}", node.name());
        }
        anyhow::Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_was_replaced_comes_back_without_a_byte_and_a_pin_holds_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (old, new) = (model(301, WEIGHTS_BYTES), model(302, OTHER_BYTES));
    let first = registry.push("moving", &old);
    let cluster = start("registry-rollback", &registry).await?;
    spread(&cluster.pull(0, "moving", &["--replicas", "3"]).await?, &NODES, first)?;
    noted(&cluster, "moving", 1).await?;
    let second = registry.push("moving", &new);
    spread(&cluster.pull(1, "moving", &["--replicas", "3"]).await?, &NODES, second)?;
    is_everywhere(&cluster, &ALL, &new).await?;
    let versions = noted(&cluster, "moving", 2).await?;
    let keepers = versions[1]["keptOn"].as_array().map_or(0, Vec::len);
    ensure!(versions[0]["head"] == true && keepers == 3, "who keeps it? {versions:?}");

    let dry = told(&cluster, 2, &["rollback", "moving", "--dry-run"]).await?;
    ensure!(dry["version"] == 1 && dry["digest"] == first.to_string(), "{dry}");
    is_served(&cluster, "moving", second, 3).await?;
    let before = registry.record().count("/v2/library/moving/manifests/");
    spread(&asked(&cluster, 2, &["rollback", "moving", "--wait"]).await?, &NODES, first)?;
    is_served(&cluster, "moving", first, 3).await?;
    is_everywhere(&cluster, &ALL, &old).await?;
    came_once(&registry, &old)?;
    ensure!(registry.record().count("/v2/library/moving/manifests/") == before, "the registry was asked");
    for index in ALL {
        let answer = cluster.chat(index, "moving", "hello", false).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
    }
    let versions = noted(&cluster, "moving", 3).await?;
    ensure!(versions[0]["how"] == "rolled_back" && versions[0]["to"] == 1, "{versions:?}");

    // The registry still says otherwise, and a pull does not move a pinned name.
    let pinned = told(&cluster, 0, &["pin", "moving"]).await?;
    ensure!(pinned["digest"] == first.to_string(), "{pinned}");
    spread(&cluster.pull(1, "moving", &["--replicas", "3"]).await?, &NODES, first)?;
    let (code, error) = refused(&asked(&cluster, 1, &["rollback", "moving", "--to", "2"]).await?)?;
    ensure!(code == ErrorCode::PreconditionFailed.as_str(), "{error}");
    ensure!(error["next"] == "ollamax model unpin moving:latest", "{error}");
    told(&cluster, 0, &["unpin", "moving"]).await?;
    spread(&cluster.pull(1, "moving", &["--replicas", "3"]).await?, &NODES, second)?;
    is_served(&cluster, "moving", second, 3).await?;

    // Another name for it, without a byte.
    spread(&asked(&cluster, 1, &["tag", "moving", "lab/stable", "--wait"]).await?, &NODES, second)?;
    is_served(&cluster, "lab/stable", second, 3).await?;
    came_once(&registry, &new)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_are_removed_are_gone_from_the_disks_and_guarded_until_somebody_insists() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let gone = model(311, FEW_BYTES);
    let digest = registry.push("gone", &gone);
    let cluster = start("registry-rm", &registry).await?;
    spread(&cluster.pull(0, "gone", &["--replicas", "3"]).await?, &NODES, digest)?;
    is_served(&cluster, "gone", digest, 3).await?;

    for (words, next) in [
        (&["rm", "gone", "--node", "n2", "--yes"][..], "ollamax model pull gone:latest --replicas 2"),
        (&["rm", "gone", "--yes"][..], "ollamax model rm gone:latest --force"),
        (&["rm", "gone", "--dry-run"][..], "ollamax model rm gone:latest --force"),
    ] {
        let (code, error) = refused(&asked(&cluster, 1, words).await?)?;
        ensure!(code == ErrorCode::PreconditionFailed.as_str() && error["next"] == next, "{words:?}: {error}");
    }
    is_served(&cluster, "gone", digest, 3).await?;

    // A disabled one answers nobody, and may go as a whole.
    told(&cluster, 2, &["disable", "gone", "--note", "use another"]).await?;
    wait::until("every node to refuse it", PATIENCE, || async {
        for index in ALL {
            let answer = cluster.chat(index, "gone", "hello", false).await?;
            let (status, text) = (answer.status, answer.text().await?);
            ensure!(status == 403 && text.contains("gone is disabled: use another"), "{status}: {text}");
        }
        anyhow::Ok(())
    })
    .await?;
    let plan = told(&cluster, 1, &["rm", "gone", "--dry-run"]).await?;
    ensure!(plan["copies"].as_array().is_some_and(|copies| copies.len() == 3), "{plan}");
    told(&cluster, 1, &["rm", "gone", "--yes"]).await?;
    for index in ALL {
        let (store, data_dir) = (cluster.node(index).store(), cluster.node(index).data_dir());
        wait::until("its files to be gone", PATIENCE, || async {
            let path = blob(&store, gone.weights.sha256());
            ensure!(!path.exists(), "{} is there", path.display());
            nothing_is_left(&store, &data_dir)
        })
        .await?;
    }
    wait::until("nobody to list it", PATIENCE, || async {
        let (code, error) = refused(&asked(&cluster, 0, &["show", "gone"]).await?)?;
        ensure!(code == ErrorCode::ModelNotFound.as_str(), "{error}");
        anyhow::Ok(())
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_a_person_removes_comes_back_elsewhere_and_why_says_so() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let kept = model(321, FEW_BYTES);
    let digest = registry.push("wanted", &kept);
    let cluster = start("registry-by-hand", &registry).await?;
    for knob in ["models/repair_after_ms", "models/steady_for_ms"] {
        cluster.set(0, knob, REPAIR_AFTER_MS).await?;
    }
    let pulled = cluster.pull(0, "wanted", &["--replicas", "2"]).await?;
    ensure!(pulled.status.success(), "{pulled:?}");
    let holders: Vec<String> = copies(&pulled)?.into_iter().map(|(node, _)| node).collect();
    is_served(&cluster, "wanted", digest, 2).await?;
    let index_of = |name: &str| NODES.iter().position(|node| *node == name).context("a node of the cluster");
    let left = index_of(&holders[0])?;
    let other =
        ALL.into_iter().find(|index| !holders.iter().any(|holder| NODES[*index] == holder)).context("a third")?;

    let url = format!("{}/api/delete", cluster.fake(left)?.url());
    let answer = cluster.http().call(Method::DELETE, &url, json!({ "model": "wanted" }).to_string()).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    wait::until("the third node to have it", PATIENCE, || async {
        let models = cluster.node(other).admin()?.models("wanted").await?;
        let names: Vec<&str> =
            models.iter().flat_map(|model| &model.copies).map(|copy| copy.node_name.as_str()).collect();
        ensure!(names.contains(&NODES[other]) && !names.contains(&NODES[left]), "copies on {names:?}");
        anyhow::Ok(())
    })
    .await?;
    is_everywhere(&cluster, &[other], &kept).await?;
    let why = told(&cluster, other, &["why", "wanted"]).await?;
    let reasons: Vec<&str> =
        why["reasons"].as_array().into_iter().flatten().filter_map(|reason| reason["text"].as_str()).collect();
    let expected = format!("{} has not: it was removed there by hand", NODES[left]);
    ensure!(reasons.contains(&expected.as_str()), "{reasons:?}");
    came_once(&registry, &kept)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_outlives_the_leader_that_began_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (old, new) = (model(331, WEIGHTS_BYTES), model(332, OTHER_BYTES));
    let first = registry.push("headless", &old);
    let cluster = start("registry-headless", &registry).await?;
    // The first node alone keeps the first version.
    let pulled = cluster.pull(0, "headless", &["--node", "n1"]).await?;
    ensure!(pulled.status.success(), "{pulled:?}");
    noted(&cluster, "headless", 1).await?;
    let second = registry.push("headless", &new);
    spread(&cluster.pull(0, "headless", &["--replicas", "3"]).await?, &NODES, second)?;
    noted(&cluster, "headless", 2).await?;
    make_it_lead(&cluster, 2).await?;

    cluster.links().set_both(0, 1, SLOW);
    cluster.links().set_both(0, 2, SLOW);
    let begun = asked(&cluster, 0, &["rollback", "headless", "--to", "1"]).await?;
    ensure!(begun.status.success(), "{begun:?}");
    cluster.pulled_up_to(1, "headless", WEIGHTS_BYTES / 4, PATIENCE).await?;
    cluster.kill(&[2]).await?;
    cluster.leader_among(&[0, 1], PATIENCE).await.context("the next one")?;
    cluster.links().heal();
    let both = || async { is_everywhere(&cluster, &[0, 1], &old).await };
    wait::until("the others to have it", PATIENCE, both).await?;
    cluster.restart(&[2]).await?;
    cluster.settled(PATIENCE).await?;
    is_served(&cluster, "headless", first, 3).await?;
    is_everywhere(&cluster, &ALL, &old).await?;
    came_once(&registry, &old)?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}
