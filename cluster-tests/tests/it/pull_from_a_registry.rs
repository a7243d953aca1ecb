//! Models pulled from a registry, by the command line and in Ollama's words, here and on another node: whole, visible
//! at once, with no byte asked for twice and nothing left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::cluster::{Builder, Runtime};
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::http::Answer;
use ollamax_testkit::{Cluster, FakeRegistry};
use ollamax_types::{Digest, ErrorCode};

use crate::bad_models::files_below;
use crate::model_owners::{self, PATIENCE};

/// Bytes of one MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Some pieces of a file and a short one.
const WEIGHTS_BYTES: u64 = 40_000_000;
/// A file of one piece.
const FEW_BYTES: u64 = 100_000;
/// Bytes that are compared at once.
const COMPARED_BYTES: usize = 4 << 20;
const UNKNOWN: &str = "pull model manifest: file does not exist";

/// A model that a fake Ollama chats with.
pub(crate) fn model(seed: u64, weights_bytes: u64) -> FakeModel {
    let mut model = FakeModel::of(seed, weights_bytes);
    model.config["capabilities"] = json!(["completion"]);
    model
}

/// Nodes with an empty store each, which ask this registry for names without a host.
pub(crate) fn plan(test: &str, registry: &FakeRegistry, nodes: usize) -> Builder {
    let plan = Cluster::builder(test)
        .nodes(nodes)
        .setting("transfer.registry_url", registry.url())
        // Whatever is free on the disk of whoever runs this.
        .setting("transfer.spare_bytes_min", 0)
        .setting("transfer.spare_percent", 0)
        .setting("runtime.models_interval_ms", 200);
    let with_store = |plan: Builder, index| plan.node(index, |node| node.runtime = Runtime::FakeStore(Box::default()));
    (0..nodes).fold(plan, with_store)
}

/// Starts them, and waits until their runtimes answer: a node without one is not chosen to pull.
pub(crate) async fn start(plan: Builder) -> Result<Cluster> {
    let cluster = plan.start().await?;
    model_owners::runtimes_up(&cluster, cluster.size()).await?;
    Ok(cluster)
}

/// The one copy that a pull told of.
pub(crate) fn pulled(told: &Output) -> Result<Value> {
    ensure!(told.status.success(), "{told:?}");
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    let copies = page["copies"].as_array().with_context(|| format!("no copies: {page}"))?;
    ensure!(copies.len() == 1 && copies[0]["stage"] == "done", "{page}");
    Ok(copies[0].clone())
}

/// Code and text of a command that failed.
pub(crate) fn refused(told: &Output) -> Result<(String, Value)> {
    ensure!(!told.status.success(), "it did not fail: {told:?}");
    let error: Value = serde_json::from_slice(&told.stderr).with_context(|| format!("{told:?}"))?;
    Ok((error["code"].as_str().unwrap_or_default().to_owned(), error))
}

/// Where a file of a store lies.
pub(crate) fn blob(store: &Path, sha256: Digest) -> PathBuf {
    store.join("blobs").join(format!("sha256-{sha256}"))
}

/// The weights lie in a store, byte for byte.
pub(crate) fn is_whole(store: &Path, model: &FakeModel) -> Result<()> {
    let path = blob(store, model.weights.sha256());
    let mut file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let size_bytes = file.metadata()?.len();
    ensure!(size_bytes == model.weights.size_bytes, "{} has {size_bytes} bytes", path.display());
    for from in (0..size_bytes).step_by(COMPARED_BYTES) {
        let length = usize::try_from(size_bytes - from)?.min(COMPARED_BYTES);
        let (mut expected, mut found) = (vec![0; length], vec![0; length]);
        model.weights.read(from, &mut expected);
        file.read_exact(&mut found)?;
        ensure!(found == expected, "{} has other bytes from {from} on", path.display());
    }
    Ok(())
}

/// Neither a part nor a pull is left of what has ended well. A version that was replaced may be kept.
pub(crate) fn nothing_is_left(store: &Path, data_dir: &Path) -> Result<()> {
    let jobs = ["jobs", "wishes"].map(|folder| data_dir.join("transfer").join(folder));
    let folders = [store.join(".ollamax")].into_iter().chain(jobs);
    let mut left = files_below(folders.filter(|folder| folder.exists()).collect())?;
    left.retain(|file| !file.starts_with(store.join(".ollamax").join("keep")));
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_pulled_here_or_elsewhere_and_answers() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (here, elsewhere) = (model(1, WEIGHTS_BYTES), model(2, FEW_BYTES));
    let digest = registry.push("here", &here);
    let cluster = start(plan("pull", &registry, 2)).await?;
    let place = |index: usize| (cluster.node(index).store(), cluster.node(index).data_dir());

    let copy = pulled(&cluster.pull(0, "here", &["--node", "n1"]).await?)?;
    ensure!(copy["node"] == "n1" && copy["digest"] == digest.to_string(), "{copy}");
    ensure!(copy["verifiedBytes"] == copy["totalBytes"], "{copy}");
    let (store, data_dir) = place(0);
    is_whole(&store, &here)?;
    nothing_is_left(&store, &data_dir)?;
    cluster.model_known("here", 1, PATIENCE).await?;
    let answer = cluster.chat(1, "here", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);

    // It is there already: nobody asks for a byte of it.
    pulled(&cluster.pull(0, "here", &["--node", "n1"]).await?)?;
    let sent = registry.sent(here.weights.sha256());
    ensure!(sent == WEIGHTS_BYTES, "{sent} bytes were sent of {WEIGHTS_BYTES}");

    let digest = registry.push("lab/elsewhere:1b", &elsewhere);
    let copy = pulled(&cluster.pull(0, "lab/elsewhere:1b", &["--node", "n2"]).await?)?;
    ensure!(copy["node"] == "n2" && copy["digest"] == digest.to_string(), "{copy}");
    let (store, data_dir) = place(1);
    is_whole(&store, &elsewhere)?;
    nothing_is_left(&store, &data_dir)?;
    ensure!(!blob(&place(0).0, elsewhere.weights.sha256()).exists(), "the first node was not asked");
    cluster.model_known("lab/elsewhere:1b", 1, PATIENCE).await?;
    let answer = cluster.chat(0, "lab/elsewhere:1b", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);

    // A name that says where it is asked.
    let named = model(5, FEW_BYTES);
    registry.push("lab/named", &named);
    let name = format!("{}/lab/named", registry.host());
    pulled(&cluster.pull(0, &name, &["--node", "n1"]).await?)?;
    is_whole(&place(0).0, &named)?;
    cluster.model_known(&name, 1, PATIENCE).await?;

    for index in [0, 1] {
        let told = cluster.pull(index, "nobody/has:this", &["--node", "n2"]).await?;
        let (code, error) = refused(&told)?;
        ensure!(code == ErrorCode::ModelNotFound.as_str() && error.to_string().contains(UNKNOWN), "{error}");
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_ollama_pulls_as_it_is_used_to() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (first, second) = (model(3, WEIGHTS_BYTES), model(4, FEW_BYTES));
    registry.push("first", &first);
    registry.push("second", &second);
    let cluster = start(plan("pull-ollama", &registry, 1)).await?;
    let url = cluster.url(0, "/api/pull")?;

    let answer = cluster.http().post(&url, &json!({ "model": "first" })).await?;
    ensure!(answer.status == 200 && answer.header("content-type") == "application/x-ndjson", "{answer:?}");
    let lines = lines_of(answer).await?;
    ensure!(lines.first() == Some(&json!({ "status": "pulling manifest" })), "{lines:?}");
    ensure!(lines.last() == Some(&json!({ "status": "success" })), "{lines:?}");
    let completed = completed(&lines)?;
    ensure!(completed.len() == 4, "weights, template, parameters and what it is: {completed:?}");
    ensure!(completed.get(&first.weights.sha256().to_string()) == Some(&WEIGHTS_BYTES), "{completed:?}");
    let tags = cluster.get_json(0, "/api/tags").await?;
    ensure!(tags["models"][0]["name"] == "first:latest", "it is listed when the client is told: {tags}");

    let body = json!({ "name": "second", "stream": false });
    let answer = cluster.http().post(&url, &body).await?.ok_json().await?;
    ensure!(answer == json!({ "status": "success" }), "{answer}");
    is_whole(&cluster.node(0).store(), &second)?;

    let answer = cluster.http().post(&url, &json!({ "model": "nobody/has:this" })).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let lines = lines_of(answer).await?;
    ensure!(lines.last() == Some(&json!({ "error": UNKNOWN })), "{lines:?}");
    let answer = cluster.http().post(&url, &json!({ "model": "nobody/has:this", "stream": false })).await?;
    let (status, code) = (answer.status, answer.header("x-ollamamax-error").to_owned());
    let error = answer.json().await?;
    ensure!(status == 500 && code == ErrorCode::ModelNotFound.as_str() && error["error"] == UNKNOWN, "{code}: {error}");
    cluster.finish().await
}

/// The lines of a stream that ended as it should.
async fn lines_of(answer: Answer) -> Result<Vec<Value>> {
    let (lines, end) = answer.lines().await;
    end?;
    lines.iter().map(|line| serde_json::from_str(&line.text).with_context(|| line.text.clone())).collect()
}

/// Bytes of each file as last told. They never go back, and the last word is the whole file.
fn completed(lines: &[Value]) -> Result<BTreeMap<String, u64>> {
    let mut all: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.get("digest").is_some()) {
        let digest = line["digest"].as_str().and_then(|text| text.strip_prefix("sha256:"));
        let digest = digest.with_context(|| format!("no digest: {line}"))?;
        let (completed, total) = (line["completed"].as_u64().unwrap_or_default(), line["total"].as_u64());
        let before = all.insert(digest.to_owned(), (completed, total.with_context(|| format!("no total: {line}"))?));
        ensure!(before.is_none_or(|(before, _)| before <= completed), "it went back: {line}");
    }
    ensure!(all.values().all(|(completed, total)| completed == total), "not to the end: {all:?}");
    Ok(all.into_iter().map(|(digest, (completed, _))| (digest, completed)).collect())
}
