//! Model files that are cut, or that make native code abort: one clear error, nothing left behind, one runner lost.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::Cluster;
use ollamax_testkit::cluster::{Runtime, abort, children, run_to_exit};

use crate::model_owners::{self, PATIENCE};

const IMPORT_LIMIT: Duration = Duration::from_secs(60);
/// Nodes with an engine of their own; the first node has none.
const OWNERS: [usize; 3] = [1, 2, 3];
const ATTEMPTS: &str = "ollamax_scheduler_attempts_total";

fn demo() -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/demo/demo.gguf");
    std::fs::read(&path).with_context(|| format!("read {}", path.display()))
}

/// The demo model with a head that every check passes and at which llama.cpp aborts: it says that it has no layers.
fn without_layers() -> Result<Vec<u8>> {
    const KEY: &[u8] = b"llama.block_count";
    let mut bytes = demo()?;
    let at = bytes.windows(KEY.len()).position(|window| window == KEY).context("the key is in the file")?;
    // After the key stands the type of the value, four bytes, and then the value.
    bytes[at + KEY.len() + 4..][..4].fill(0);
    Ok(bytes)
}

fn file(cluster: &Cluster, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = cluster.directory().join(name);
    std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// `ollamax model import` at the first node, to all owners.
async fn import(cluster: &Cluster, file: &Path, name: &str) -> Result<Output> {
    let (data_dir, file) = (cluster.node(0).data_dir().display().to_string(), file.display().to_string());
    let mut words = vec!["--data-dir", &data_dir, "model", "import", &file, "--name", name];
    for owner in OWNERS {
        words.extend(["--node", cluster.node(owner).name()]);
    }
    run_to_exit("ollamax", &words, IMPORT_LIMIT).await
}

/// Everything that lies in the model stores.
fn stored(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    files_below(OWNERS.iter().map(|owner| cluster.node(*owner).data_dir().join("models")).collect())
}

/// All files below these folders.
pub(crate) fn files_below(mut folders: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

async fn start(test: &str) -> Result<Cluster> {
    let mut plan = Cluster::builder(test).nodes(1 + OWNERS.len());
    for owner in OWNERS {
        plan = plan.node(owner, |node| node.runtime = Runtime::Engine);
    }
    let cluster = plan.start().await?;
    model_owners::runtimes_up(&cluster, OWNERS.len()).await?;
    Ok(cluster)
}

/// Process id of the engine beside a node.
pub(crate) fn engine(cluster: &Cluster, owner: usize) -> Result<u32> {
    let runtime = cluster.node(owner).facts()?.runtime.context("no runtime in node.json")?;
    runtime.pid.filter(|pid| *pid > 1).context("no engine in node.json")
}

fn engines(cluster: &Cluster) -> Result<Vec<u32>> {
    OWNERS.iter().map(|owner| engine(cluster, *owner)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_is_refused_and_one_that_aborts_native_code_costs_its_runners_only() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = start("bad-models").await?;
    cut_files_leave_nothing_behind(&cluster).await?;
    let good = import(&cluster, &file(&cluster, "good.gguf", &demo()?)?, "demo").await?;
    ensure!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let engines_before = engines(&cluster)?;
    native_aborts_end_after_two_runners(&cluster).await?;
    a_runner_that_aborts_mid_answer_is_told_and_not_asked_elsewhere(&cluster).await?;
    ensure!(engines(&cluster)? == engines_before, "an engine went down with its runner");
    let answer = cluster.chat(0, "demo", "Hello", false).await?;
    ensure!(answer.status == 200, "the next request: {}", answer.text().await?);
    cluster.finish().await
}

async fn cut_files_leave_nothing_behind(cluster: &Cluster) -> Result<()> {
    let (demo, before) = (demo()?, stored(cluster)?);
    for (what, length) in [("half", demo.len() / 2), ("head", 4_000)] {
        let cut = import(cluster, &file(cluster, "cut.gguf", &demo[..length])?, "cut").await?;
        let said = String::from_utf8_lossy(&cut.stderr).into_owned();
        ensure!(cut.status.code() == Some(2), "{what}: {}: {said}", cut.status);
        let lines: Vec<&str> = said.lines().collect();
        let [error, why, next, id] = lines[..] else { anyhow::bail!("{what}: not error, why, try and id: {said}") };
        ensure!(id.starts_with("  request_id: "), "{what}: {said}");
        ensure!(error.starts_with("error: ") && error.contains("nothing was kept"), "{what}: {said}");
        ensure!(why.contains("truncated") && next.contains("whole GGUF"), "{what}: {said}");
        ensure!(stored(cluster)? == before, "{what}: left behind: {:?}", stored(cluster)?);
    }
    let tags = cluster.get_json(0, "/api/tags").await?;
    ensure!(tags["models"] == json!([]), "{tags}");
    Ok(())
}

async fn native_aborts_end_after_two_runners(cluster: &Cluster) -> Result<()> {
    let poison = import(cluster, &file(cluster, "poison.gguf", &without_layers()?)?, "poison").await?;
    ensure!(poison.status.success(), "{}", String::from_utf8_lossy(&poison.stderr));
    cluster.model_known("poison", OWNERS.len(), PATIENCE).await?;
    for stream in [false, true] {
        let before = cluster.metric(0, ATTEMPTS).await?.unwrap_or(0.0);
        let answer = cluster.chat(0, "poison", "hello", stream).await?;
        let (status, code) = (answer.status, answer.header("x-ollamamax-error").to_owned());
        let text = answer.text().await?;
        ensure!(status == 502 && code == "runtime_failed", "{status} {code}: {text}");
        ensure!(text.contains("terminated") && text.contains("GGML_ASSERT"), "what happened: {text}");
        let attempts = cluster.metric(0, ATTEMPTS).await?.unwrap_or(0.0) - before;
        ensure!((attempts - 2.0).abs() < f64::EPSILON, "{attempts} runners were lost, stream {stream}");
    }
    Ok(())
}

/// A request whose answer goes on for long: paid for repeating itself, the demo model says thousands of tokens.
pub(crate) fn long_answer() -> Value {
    let options = json!({ "temperature": 0, "repeat_penalty": 0.01, "num_predict": 5_000 });
    json!({ "model": "demo", "prompt": "a a a a", "raw": true, "options": options })
}

async fn a_runner_that_aborts_mid_answer_is_told_and_not_asked_elsewhere(cluster: &Cluster) -> Result<()> {
    let before = cluster.metric(0, ATTEMPTS).await?.unwrap_or(0.0);
    let mut answer = cluster.http().post(&cluster.url(0, "/api/generate")?, &long_answer()).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    answer.next_piece().await?.context("no first line")?;
    let runners: Vec<u32> = engines(cluster)?.into_iter().flat_map(children).collect();
    let [runner] = runners[..] else { anyhow::bail!("runners: {runners:?}") };
    abort(runner)?;
    let (lines, end) = answer.lines().await;
    end.context("the stream broke instead of saying why")?;
    let last = lines.last().map(|line| line.text.clone()).unwrap_or_default();
    ensure!(last.starts_with("{\"error\":") && last.contains("unexpectedly stopped"), "{last}");
    ensure!(!lines.iter().any(|line| line.text.contains("\"done\":true")), "a broken answer says that it is done");
    let attempts = cluster.metric(0, ATTEMPTS).await?.unwrap_or(0.0) - before;
    ensure!((attempts - 1.0).abs() < f64::EPSILON, "asked {attempts} times");
    Ok(())
}
