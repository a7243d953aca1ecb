//! What is done for models without a pull: rules, versions that were kept for too long, copies that are missing or lie
//! on the fuller disk. People are shown first what would be done; then it is done, nothing else is, and it is told who
//! did it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, FakeRegistry, Room, wait};
use ollamax_types::Digest;

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{blob, is_whole, model, plan};
use crate::registry_of_models::is_served;
use crate::replication::{ASKED, a_repair_is_counted, mortal, on_two, repair_of, said, start, wish};
use crate::spread::{FEW_BYTES, WEIGHTS_BYTES, all_seen_up, came_once, events, is_everywhere, spread};

/// Another file of one chunk.
const OTHER_BYTES: u64 = 200_000;
/// Disks of nodes; only what lies on them takes memory. Beside a copy a node keeps 1 GiB free.
const DISK_BYTES: u64 = 2 << 30;
/// What lies on one disk besides models: more than the part of a disk that is worth a move here, 5 percent.
const BALLAST_BYTES: u64 = 192 << 20;
/// Longer than a version is kept by default.
const TOO_LONG: Duration = Duration::from_secs(8 * 24 * 3_600);
/// No day need pass for them.
const RULES: &str = r#"{ "on": false, "rules": [
    { "match": "worn", "unused_days": 0, "then": "deprecate" },
    { "match": "spare", "unused_days": 0, "then": "drop_copy" }
] }"#;

/// Three nodes; the second and the third have these models in their stores, as somebody put them there.
async fn with_found(test: &str, names: [&str; 2]) -> Result<Cluster> {
    let small = |name: &str| ModelScript { size_bytes: FEW_BYTES, ..ModelScript::named(name) };
    let found = Script::with_models(names.map(small));
    let beside = || Runtime::FakeStore(Box::new(found.clone()));
    let plan = Cluster::builder(test).nodes(3).setting("runtime.models_interval_ms", 200);
    let plan = plan.node(1, |node| node.runtime = beside()).node(2, |node| node.runtime = beside());
    let cluster = plan.start().await?;
    for name in names {
        cluster.model_known(name, 2, PATIENCE).await?;
    }
    Ok(cluster)
}

/// What the rules would do now, in their order.
async fn planned(cluster: &Cluster, is_on: bool) -> Result<Vec<Value>> {
    let plan = said(cluster, &["model", "rules", "plan"]).await?;
    ensure!(plan["on"] == is_on, "{plan}");
    plan["acts"].as_array().cloned().with_context(|| format!("no acts: {plan}"))
}

/// Waits until the node that is asked tells of one event of a kind, which is about this model, and gives its text.
async fn one_event(cluster: &Cluster, kind: &str, name: &str) -> Result<String> {
    wait::until(&format!("{kind} of {name}"), PATIENCE, || async {
        let events = events(cluster, ASKED, kind).await?;
        ensure!(events.len() == 1 && events[0]["subject"] == name, "{events:?}");
        anyhow::Ok(events[0]["text"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// The nodes whose runtimes list a model.
fn listed_on(cluster: &Cluster, name: &str) -> Result<Vec<String>> {
    let mut nodes = Vec::new();
    for index in [1, 2] {
        if cluster.fake(index)?.models().iter().any(|model| model.name == name) {
            nodes.push(cluster.node(index).name().to_owned());
        }
    }
    Ok(nodes)
}

/// Where a node keeps a version that its name does not stand for any more.
fn kept(store: &Path, digest: Digest) -> PathBuf {
    store.join(".ollamax").join("keep").join(digest.to_string())
}

/// Makes it look as if a version had been kept since so long ago.
fn age(store: &Path, digest: Digest) -> Result<()> {
    let manifest = kept(store, digest).join("manifest.json");
    let file = File::open(&manifest).with_context(|| format!("open {}", manifest.display()))?;
    let since = file.metadata()?.modified()?;
    Ok(file.set_modified(since - TOO_LONG)?)
}

/// Who keeps a version aside, in order.
async fn keepers(cluster: &Cluster, name: &str, digest: Digest) -> Result<Vec<String>> {
    let page = said(cluster, &["model", "history", name]).await?;
    let versions = page["versions"].as_array().into_iter().flatten();
    let meant = versions.filter(|version| version["digest"] == digest.to_string());
    let nodes = meant.filter_map(|version| version["keptOn"].as_array()).flatten();
    let aside = nodes.filter(|node| node["aside"] == true);
    let mut names: Vec<String> = aside.filter_map(|node| Some(node["node"].as_str()?.to_owned())).collect();
    names.sort_unstable();
    Ok(names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rules_would_do_is_shown_while_they_are_off_and_done_and_told_when_they_are_on() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = with_found("upkeep-rules", ["worn", "spare"]).await?;
    let file = cluster.directory().join("rules.json");
    fs::write(&file, RULES)?;
    said(&cluster, &["model", "rules", "set", &file.to_string_lossy()]).await?;
    let acts = wait::until("both models to be in the plan", PATIENCE, || async {
        // The leader notes what was found a moment after everybody lists it.
        let acts = planned(&cluster, false).await?;
        ensure!(acts.len() == 2, "{acts:?}");
        anyhow::Ok(acts)
    })
    .await?;
    let (worn, spare) = (&acts[0], &acts[1]);
    ensure!(worn["name"] == "worn:latest" && worn["deed"] == "deprecate" && worn["rule"] == 1, "{acts:?}");
    ensure!(spare["name"] == "spare:latest" && spare["deed"] == "drop" && spare["rule"] == 2, "{acts:?}");
    let why = worn["why"].as_str().unwrap_or_default();
    ensure!(why.starts_with("not used for ") && why.ends_with("rule 1 says 0"), "{acts:?}");
    ensure!(events(&cluster, ASKED, "phase_set").await?.is_empty(), "they are off");
    ensure!(listed_on(&cluster, "spare:latest")? == ["n2", "n3"], "they are off");

    said(&cluster, &["model", "rules", "on"]).await?;
    let text = one_event(&cluster, "phase_set", "worn:latest").await?;
    ensure!(text.starts_with("is deprecated, by node/") && text.ends_with(" for rules"), "{text}");
    let history = said(&cluster, &["model", "history", "worn"]).await?;
    ensure!(history["phase"] == "deprecated" && history["note"] == why, "{history}");
    let text = one_event(&cluster, "copies_dropped", "spare:latest").await?;
    ensure!(text.starts_with("from node/") && text.ends_with(" for rules"), "{text}");
    let goes = spare["node"].as_str().context("a node loses it")?;
    let stays = if goes == "n2" { "n3" } else { "n2" };
    wait::until("one copy to go", PATIENCE, || async {
        let listed = listed_on(&cluster, "spare:latest")?;
        ensure!(listed == [stays], "it is on {listed:?}");
        anyhow::Ok(())
    })
    .await?;
    cluster.model_known("spare", 1, PATIENCE).await?;

    // The last copy stays, and both models answer.
    let left = planned(&cluster, true).await?;
    ensure!(left.is_empty(), "{left:?}");
    ensure!(listed_on(&cluster, "worn:latest")? == ["n2", "n3"], "nothing else went");
    for name in ["worn", "spare"] {
        let answer = cluster.chat(ASKED, name, "hello", false).await?;
        ensure!(answer.status == 200, "{}", answer.text().await?);
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_was_kept_for_too_long_is_shown_and_goes_and_no_other_does() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (old, new) = (model(341, FEW_BYTES), model(342, OTHER_BYTES));
    let cluster = plan("upkeep-gc", &registry, 2).start().await?;
    all_seen_up(&cluster).await?;
    let stores = [0, 1].map(|index| cluster.node(index).store());
    let first = registry.push("moving", &old);
    spread(&cluster.pull(0, "moving", &["--replicas", "2"]).await?, &["n1", "n2"], first)?;
    is_served(&cluster, "moving", first, 2).await?;
    let second = registry.push("moving", &new);
    spread(&cluster.pull(1, "moving", &["--replicas", "2"]).await?, &["n1", "n2"], second)?;
    is_everywhere(&cluster, &[0, 1], &new).await?;
    is_served(&cluster, "moving", second, 2).await?;
    wait::until("both nodes to keep the first version", PATIENCE, || async {
        let keepers = keepers(&cluster, "moving", first).await?;
        ensure!(keepers == ["n1", "n2"], "{keepers:?}");
        anyhow::Ok(())
    })
    .await?;
    let shown = said(&cluster, &["model", "gc", "--dry-run"]).await?;
    ensure!(shown["versions"].as_array().is_some_and(Vec::is_empty), "nothing is due yet: {shown}");

    // A node looks by itself when something changes, and each ten minutes.
    age(&stores[0], first)?;
    let shown = said(&cluster, &["model", "gc", "--dry-run"]).await?;
    let due = shown["versions"].as_array().context("no versions")?;
    ensure!(due.len() == 1 && due[0]["node"] == "n1" && due[0]["digest"] == first.to_string(), "{shown}");
    ensure!(shown["dryRun"] == true && kept(&stores[0], first).exists(), "nothing was to be changed: {shown}");
    let gone = said(&cluster, &["model", "gc"]).await?;
    ensure!(gone["versions"] == shown["versions"] && gone["dryRun"] == false, "{gone} instead of {shown}");
    ensure!(!kept(&stores[0], first).exists(), "it is kept still");
    ensure!(kept(&stores[1], first).exists(), "it was not due there");
    let keepers = keepers(&cluster, "moving", first).await?;
    ensure!(keepers == ["n2"], "{keepers:?}");
    let again = said(&cluster, &["model", "gc"]).await?;
    ensure!(again["versions"].as_array().is_some_and(Vec::is_empty), "{again}");
    is_everywhere(&cluster, &[0, 1], &new).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_somebody_asks_for_is_shown_first_and_waits_for_nothing() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(343, WEIGHTS_BYTES);
    registry.push("mended", &model);
    // By itself the leader would wait for longer than this test does.
    let cluster = start("upkeep-repair", &registry, 20 * PATIENCE).await?;
    make_it_lead(&cluster, ASKED).await?;
    let (two, other) = on_two(&cluster, ("mended", &model)).await?;
    let (dies, stays) = mortal(two);
    // All nodes share one disk here.
    let even = said(&cluster, &["model", "rebalance", "--dry-run"]).await?;
    ensure!(even["moves"].as_array().is_some_and(Vec::is_empty) && even["dryRun"] == true, "{even}");

    cluster.kill(&[dies]).await?;
    let step = repair_of(&cluster, "mended").await?;
    let (from, to) = (cluster.node(stays).name(), cluster.node(other).name());
    ensure!(step["kind"] == "repair" && step["from"] == from && step["to"][0] == to, "{step}");
    ensure!(step["leaves"].is_null(), "{step}");
    let kind = wish(&cluster, "mended").await?["kind"].clone();
    ensure!(kind == "asked" && !blob(&cluster.node(other).store(), model.weights.sha256()).exists(), "{kind}");

    let made = said(&cluster, &["model", "repair"]).await?;
    ensure!(made["moves"][0] == step && made["dryRun"] == false, "{made} instead of {step}");
    wait::until("the new copy", PATIENCE, || async { is_whole(&cluster.node(other).store(), &model) }).await?;
    a_repair_is_counted(&cluster, PATIENCE).await?;
    came_once(&registry, &model)?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_from_the_fuller_disk_to_the_emptier_one_as_it_was_shown() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("upkeep_of_models, copies that go to another disk", Need::Disk).await? {
        return Ok(());
    }
    let registry = FakeRegistry::start().await?;
    let model = model(344, WEIGHTS_BYTES);
    let (digest, weights) = (registry.push("weighed", &model), model.weights.sha256());
    let (full, empty) = (Arc::new(Room::with_disk(DISK_BYTES).await?), Arc::new(Room::with_disk(DISK_BYTES).await?));
    let mut plan = plan("upkeep-rebalance", &registry, 2).setting("store.write_buffer_bytes", 4 << 20);
    for (index, room) in [&full, &empty].into_iter().enumerate() {
        // The engine keeps its models in the data directory.
        plan = plan.node(index, |node| {
            node.runtime = Runtime::Engine;
            node.room = Some(Arc::clone(room));
        });
    }
    let cluster = plan.start().await?;
    all_seen_up(&cluster).await?;
    let admin = cluster.node(ASKED).admin()?;
    admin.set("models/steady_for_ms", b"1000").await?;
    admin.set("models/rebalance_percent", b"5").await?;
    let stores = [0, 1].map(|index| cluster.node(index).data_dir().join("models"));
    spread(&cluster.pull(ASKED, "weighed", &["--node", "n1"]).await?, &["n1"], digest)?;
    // The same one, chosen by the cluster: named nodes are not left by a move.
    let told = cluster.pull(ASKED, "weighed", &["--replicas", "1"]).await?;
    ensure!(told.status.success(), "{told:?}");

    full.fill(full.free_bytes()?.saturating_sub(BALLAST_BYTES))?;
    let step = wait::until("a move to be shown", PATIENCE, || async {
        let shown = said(&cluster, &["model", "rebalance", "--dry-run"]).await?;
        let first = shown["moves"].as_array().and_then(|moves| moves.first().cloned());
        first.with_context(|| format!("no move: {shown}"))
    })
    .await?;
    ensure!(step["name"] == "weighed:latest" && step["kind"] == "rebalance", "{step}");
    ensure!(step["from"] == "n1" && step["leaves"] == "n1" && step["to"][0] == "n2", "{step}");
    is_whole(&stores[0], &model)?;
    ensure!(!blob(&stores[1], weights).exists(), "nothing was to be moved yet");

    let made = said(&cluster, &["model", "rebalance"]).await?;
    ensure!(made["moves"][0] == step && made["dryRun"] == false, "{made} instead of {step}");
    wait::until("the copy to be on the other disk alone", 2 * PATIENCE, || async {
        is_whole(&stores[1], &model)?;
        ensure!(!blob(&stores[0], weights).exists(), "it lies on both disks");
        anyhow::Ok(())
    })
    .await?;
    is_served(&cluster, "weighed", digest, 1).await?;
    came_once(&registry, &model)?;
    let again = said(&cluster, &["model", "rebalance", "--dry-run"]).await?;
    ensure!(again["moves"].as_array().is_some_and(Vec::is_empty), "{again}");
    cluster.finish().await
}
