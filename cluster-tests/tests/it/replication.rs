//! Copies of models go where they are wished for: made anew when a node is lost, and not when it is only away; moved
//! when people say so; asked for by a file. In no case is a byte fetched from the registry twice.
//!
//! What takes minutes by default takes seconds here.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::Instant;

use ollamax_proto::v1::node_view::Health;
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::model_owners::make_it_lead;
use crate::pull_from_a_registry::{blob, is_whole, model, plan, refused};
use crate::spread::{SLOW, WEIGHTS_BYTES, all_seen_up, came_once};

/// Longest wait: a node is lost, a copy is made, another goes.
const PATIENCE: Duration = Duration::from_secs(90);
/// After so long a silent node is lost.
const REPAIR_AFTER: Duration = Duration::from_secs(8);
/// How long a node is silent that comes and goes: some looks of the leader, which looks each second.
const SILENCE: Duration = Duration::from_millis(2_500);
/// The node that is asked; it lives through all of these tests.
pub(crate) const ASKED: usize = 0;

/// Three nodes, and in how short a time they do what they do by default in minutes.
pub(crate) async fn start(test: &str, registry: &FakeRegistry, repair_after: Duration) -> Result<Cluster> {
    let cluster = plan(test, registry, 3).with_links().start().await?;
    all_seen_up(&cluster).await?;
    let admin = cluster.node(ASKED).admin()?;
    admin.set("models/repair_after_ms", repair_after.as_millis().to_string().as_bytes()).await?;
    admin.set("models/steady_for_ms", b"1000").await?;
    Ok(cluster)
}

/// Runs a command at the node that is asked, in JSON.
async fn asked(cluster: &Cluster, words: &[&str]) -> Result<Output> {
    let words: Vec<&str> = ["-o", "json"].iter().chain(words).copied().collect();
    cluster.node(ASKED).ollamax(&words, PATIENCE).await
}

/// What a command says in JSON; it must end well.
pub(crate) async fn said(cluster: &Cluster, words: &[&str]) -> Result<Value> {
    let told = asked(cluster, words).await?;
    ensure!(told.status.success(), "{words:?}: {told:?}");
    serde_json::from_slice(&told.stdout).with_context(|| format!("{words:?}: {told:?}"))
}

/// The wish for a model.
pub(crate) async fn wish(cluster: &Cluster, name: &str) -> Result<Value> {
    let page = said(cluster, &["model", "wishes"]).await?;
    let wishes = page["wishes"].as_array().with_context(|| format!("no wishes: {page}"))?;
    let wish = wishes.iter().find(|wish| wish["name"] == format!("{name}:latest"));
    wish.cloned().with_context(|| format!("no wish for {name}: {page}"))
}

/// Who has what is wished for, by index.
async fn holders(cluster: &Cluster, name: &str) -> Result<Vec<usize>> {
    let wish = wish(cluster, name).await?;
    let named = wish["holders"].as_array().with_context(|| format!("no holders: {wish}"))?;
    let index = |name: &Value| cluster.nodes().iter().position(|node| *name == node.name());
    Ok(named.iter().filter_map(index).collect())
}

/// Waits until exactly these nodes have a model, in their stores too.
async fn held_by(cluster: &Cluster, (name, model): (&str, &FakeModel), expected: &[usize]) -> Result<()> {
    wait::until(&format!("{name} to be on nodes {expected:?} alone"), PATIENCE, || async {
        let found = holders(cluster, name).await?;
        ensure!(found == expected, "it is on {found:?}");
        for (index, node) in cluster.nodes().iter().enumerate() {
            if expected.contains(&index) {
                is_whole(&node.store(), model)?;
            } else {
                ensure!(!blob(&node.store(), model.weights.sha256()).exists(), "node {index} has its file still");
            }
        }
        anyhow::Ok(())
    })
    .await
}

/// Has two nodes pull a model: which they are, and which one is left.
pub(crate) async fn on_two(cluster: &Cluster, (name, model): (&str, &FakeModel)) -> Result<([usize; 2], usize)> {
    let told = cluster.pull(ASKED, name, &["--replicas", "2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    let two = wait::until("two copies", PATIENCE, || async {
        let found = holders(cluster, name).await?;
        <[usize; 2]>::try_from(found).map_err(|found| anyhow::anyhow!("it is on {found:?}"))
    })
    .await?;
    for index in two {
        is_whole(&cluster.node(index).store(), model)?;
    }
    let other = (0..cluster.size()).find(|index| !two.contains(index)).context("three nodes")?;
    Ok((two, other))
}

/// One of the two that is not asked in these tests, and the other one.
pub(crate) const fn mortal(two: [usize; 2]) -> (usize, usize) {
    if two[0] == ASKED { (two[1], two[0]) } else { (two[0], two[1]) }
}

/// In order.
fn sorted(nodes: [usize; 2]) -> Vec<usize> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes
}

/// Waits until the node that is asked hears another one, or does not.
async fn is_heard(cluster: &Cluster, index: usize, heard: bool) -> Result<()> {
    wait::until(&format!("node {index} to be heard: {heard}"), PATIENCE, || async {
        let status = cluster.status(ASKED).await?;
        let node = status.nodes.iter().find(|node| node.name == cluster.node(index).name()).context("no member")?;
        ensure!((node.health() == Health::Alive) == heard, "it is {:?}", node.health());
        Ok(())
    })
    .await
}

/// What `ollamax model repair` would do for a model, as soon as it would do anything.
pub(crate) async fn repair_of(cluster: &Cluster, name: &str) -> Result<Value> {
    wait::until(&format!("a repair of {name} to be shown"), PATIENCE, || async {
        let shown = said(cluster, &["model", "repair", "--dry-run"]).await?;
        let steps = shown["moves"].as_array().with_context(|| format!("no moves: {shown}"))?;
        let step = steps.iter().find(|step| step["name"] == format!("{name}:latest"));
        step.cloned().with_context(|| format!("none of {name}: {shown}"))
    })
    .await
}

/// Moves with all of these labels that nobody asked for. Whoever led when they ended has counted them; every node
/// that runs must count.
async fn moves(cluster: &Cluster, labels: &[&str]) -> Result<f64> {
    let mut sum = 0.0;
    for (index, _) in cluster.nodes().iter().enumerate().filter(|(_, node)| node.is_running()) {
        let counted = cluster.metric_of(index, "ollamax_model_moves_total", labels).await?;
        sum += counted.with_context(|| format!("node {index} does not count moves with {labels:?}"))?;
    }
    Ok(sum)
}

/// Waits until a repair that has come to its end is counted.
pub(crate) async fn a_repair_is_counted(cluster: &Cluster, patience: Duration) -> Result<()> {
    wait::until("the repair to be counted", patience, || async {
        let done = moves(cluster, &["kind=\"repair\"", "outcome=\"done\""]).await?;
        ensure!(done >= 1.0, "{done} repairs");
        anyhow::Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_copy_is_made_anew_after_a_while_and_the_surplus_goes_when_the_node_is_back() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(161, WEIGHTS_BYTES);
    registry.push("lost", &model);
    let cluster = start("replication-lost", &registry, REPAIR_AFTER).await?;
    make_it_lead(&cluster, ASKED).await?;
    let (two, other) = on_two(&cluster, ("lost", &model)).await?;
    let (dies, stays) = mortal(two);

    let killed_at = Instant::now();
    cluster.kill(&[dies]).await?;
    wait::until("a new copy", PATIENCE, || async { is_whole(&cluster.node(other).store(), &model) }).await?;
    let after = killed_at.elapsed();
    ensure!(after >= REPAIR_AFTER, "it was made after {after:?}");
    a_repair_is_counted(&cluster, PATIENCE).await?;
    wait::until("the wish to be met", PATIENCE, || async {
        let found = holders(&cluster, "lost").await?;
        ensure!(found.contains(&other) && found.contains(&stays), "it is on {found:?}");
        anyhow::Ok(())
    })
    .await?;

    cluster.restart(&[dies]).await?;
    held_by(&cluster, ("lost", &model), &sorted(two)).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_and_goes_moves_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(162, WEIGHTS_BYTES);
    registry.push("flaps", &model);
    let cluster = start("replication-flaps", &registry, PATIENCE).await?;
    make_it_lead(&cluster, ASKED).await?;
    let (two, other) = on_two(&cluster, ("flaps", &model)).await?;
    let (flaps, _) = mortal(two);
    for _ in 0..3 {
        cluster.node(flaps).pause()?;
        is_heard(&cluster, flaps, false).await?;
        // Who does not wait for `repair_after` would make a third copy now, and drop one when the node is back.
        let step = repair_of(&cluster, "flaps").await?;
        ensure!(step["to"][0] == cluster.node(other).name() && step["kind"] == "repair", "{step}");
        // The leader looks meanwhile, more than once.
        wait::pause(SILENCE).await;
        cluster.node(flaps).resume()?;
        is_heard(&cluster, flaps, true).await?;
    }
    held_by(&cluster, ("flaps", &model), &sorted(two)).await?;
    let planned = wish(&cluster, "flaps").await?["kind"].clone();
    ensure!(planned == "asked", "a plan was made for {planned}");
    let moves = moves(&cluster, &[]).await?;
    ensure!(moves == 0.0, "{moves} moves, the last onto node {other}");
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_emptied_and_then_taken_out() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(163, WEIGHTS_BYTES);
    registry.push("emptied", &model);
    let cluster = start("replication-emptied", &registry, REPAIR_AFTER).await?;
    let (two, other) = on_two(&cluster, ("emptied", &model)).await?;
    let (leaves, stays) = mortal(two);
    let name = cluster.node(leaves).name().to_owned();

    let (code, error) = refused(&asked(&cluster, &["node", "remove", &name, "--yes"]).await?)?;
    let next = format!("ollamax node drain {name} --models --wait");
    ensure!(
        code == "precondition_failed" && error["next"].as_str().is_some_and(|text| text.starts_with(&next)),
        "{error}"
    );

    let shown = said(&cluster, &["node", "drain", &name, "--models", "--dry-run"]).await?;
    ensure!(shown["models"][0]["fate"] == "goes" && shown["cordon"].is_null(), "{shown}");
    ensure!(holders(&cluster, "emptied").await? == sorted(two), "nothing was to be changed");

    let emptied = said(&cluster, &["node", "drain", &name, "--models", "--wait"]).await?;
    ensure!(emptied["models"].as_array().is_some_and(Vec::is_empty), "{emptied}");
    held_by(&cluster, ("emptied", &model), &sorted([stays, other])).await?;
    said(&cluster, &["node", "remove", &name, "--force", "--yes"]).await?;
    held_by(&cluster, ("emptied", &model), &sorted([stays, other])).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wish_without_a_place_says_why_and_is_met_when_there_is_one() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(164, WEIGHTS_BYTES);
    registry.push("placed", &model);
    let cluster = start("replication-placed", &registry, REPAIR_AFTER).await?;
    said(&cluster, &["node", "label", "n2", "room=a"]).await?;
    let words = ["model", "pull", "placed", "--replicas", "2", "--label", "room=a"];
    let (code, error) = refused(&asked(&cluster, &words).await?)?;
    let why = error["why"].as_str().unwrap_or_default();
    ensure!(code == "precondition_failed" && why.contains("n3 is not labelled room=a"), "{error}");

    let file = cluster.directory().join("wishes.toml");
    std::fs::write(&file, "[[model]]\nname = \"placed\"\nreplicas = 2\nlabels = { room = \"a\" }\n")?;
    let file = file.to_string_lossy();
    said(&cluster, &["model", "apply", &file, "--yes"]).await?;
    wait::until("the wish to be impossible", PATIENCE, || async {
        let wish = wish(&cluster, "placed").await?;
        let why = wish["reason"].as_str().unwrap_or_default();
        ensure!(wish["state"] == "impossible" && why.contains("n3 is not labelled room=a"), "{wish}");
        let status = cluster.status(ASKED).await?;
        let ids: Vec<&str> = status.attention.iter().map(|attention| attention.id.as_str()).collect();
        ensure!(ids.contains(&"wish_impossible"), "{ids:?}");
        anyhow::Ok(())
    })
    .await?;

    said(&cluster, &["node", "label", "n3", "room=a"]).await?;
    held_by(&cluster, ("placed", &model), &[1, 2]).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_says_what_is_wished_for_once() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(165, WEIGHTS_BYTES);
    registry.push("declared", &model);
    let cluster = start("replication-declared", &registry, REPAIR_AFTER).await?;
    let path = cluster.directory().join("wishes.toml");
    let file = path.to_string_lossy().into_owned();
    std::fs::write(&path, "[[model]]\nname = \"declared\"\nnodes = [\"n1\", \"n4\"]\n")?;
    let (code, error) = refused(&asked(&cluster, &["model", "plan", &file]).await?)?;
    let why = error["why"].as_str().unwrap_or_default();
    ensure!(code == "bad_request" && why == "line 3: there is no node \"n4\"", "{error}");

    std::fs::write(&path, "[[model]]\nname = \"declared\"\nreplicas = 2\navoid = [\"n2\"]\n")?;
    let planned = said(&cluster, &["model", "plan", &file]).await?;
    ensure!(planned["changes"][0]["text"] == "+ wanted on 2 nodes", "{planned}");
    let applied = said(&cluster, &["model", "apply", &file, "--yes", "--wait"]).await?;
    ensure!(applied["wishes"][0]["state"] == "met" && applied["wishes"][0]["declared"] == true, "{applied}");
    held_by(&cluster, ("declared", &model), &[0, 2]).await?;

    let again = said(&cluster, &["model", "apply", &file, "--yes"]).await?;
    ensure!(again["changes"].as_array().is_some_and(Vec::is_empty), "{again}");
    std::fs::write(&path, "")?;
    let gone = said(&cluster, &["model", "apply", &file, "--yes"]).await?;
    ensure!(gone["changes"][0]["kind"] == "forget", "{gone}");
    let left = said(&cluster, &["model", "wishes"]).await?;
    ensure!(left["wishes"].as_array().is_some_and(Vec::is_empty), "{left}");
    for index in [0, 2] {
        is_whole(&cluster.node(index).store(), &model).context("copies stay")?;
    }
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_in_mid_move_leaves_a_copy_too_many_at_most() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(166, WEIGHTS_BYTES);
    registry.push("moved", &model);
    // Nothing is repaired here: what happens is the move alone.
    let cluster = start("replication-moved", &registry, 10 * PATIENCE).await?;
    let told = cluster.pull(ASKED, "moved", &["--node", "n1,n2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    // The same two, chosen by the cluster: named nodes are not left by a move.
    let told = cluster.pull(ASKED, "moved", &["--replicas", "2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    held_by(&cluster, ("moved", &model), &[0, 1]).await?;
    make_it_lead(&cluster, 1).await?;

    cluster.links().divide(&[2], &[0, 1], SLOW);
    let shown = said(&cluster, &["model", "move", "moved", "--from", "n1", "--to", "n3", "--dry-run"]).await?;
    ensure!(shown["moves"][0]["leaves"] == "n1" && shown["moves"][0]["to"][0] == "n3", "{shown}");
    said(&cluster, &["model", "move", "moved", "--from", "n1", "--to", "n3"]).await?;
    cluster.pulled_up_to(2, "moved", WEIGHTS_BYTES / 10, PATIENCE).await?;
    cluster.kill(&[1]).await?;
    cluster.links().heal();
    wait::until("the new copy", PATIENCE, || async { is_whole(&cluster.node(2).store(), &model) }).await?;
    is_whole(&cluster.node(0).store(), &model).context("two living copies are wanted")?;

    cluster.restart(&[1]).await?;
    held_by(&cluster, ("moved", &model), &[1, 2]).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}
