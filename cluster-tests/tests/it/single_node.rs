//! One node by itself, from nothing to an answer: what has to hold before clusters are worth starting.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use ollamax_testkit::cluster::{Runtime, binary, clean_environment, run_to_exit};
use ollamax_testkit::{Cluster, wait};

const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A health question, answered with this status.
async fn says(cluster: &Cluster, path: &str, wanted: u16) -> Result<()> {
    let answer = cluster.http().call(Method::GET, &cluster.url(0, path)?, "").await?;
    let status = answer.status;
    ensure!(status == wanted, "{path}: {status}: {}", answer.text().await?);
    Ok(())
}

/// A command of `ollamax` at the node, which must succeed.
async fn command(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let data_dir = cluster.node(0).data_dir().display().to_string();
    let words: Vec<&str> = ["--data-dir", &data_dir].into_iter().chain(words.iter().copied()).collect();
    let output = run_to_exit("ollamax", &words, COMMAND_LIMIT).await?;
    ensure!(output.status.success(), "{words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What an assistant of either era hears through `ollamax mcp`.
async fn assistant(cluster: &Cluster) -> Result<()> {
    let mut command = Command::new(binary("ollamax")?);
    command.arg("--data-dir").arg(cluster.node(0).data_dir()).arg("mcp");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    clean_environment(&mut command);
    let mut program = command.spawn().context("start ollamax mcp")?;
    let mut input = program.stdin.take().context("no input")?;
    let mut output = BufReader::new(program.stdout.take().context("no output")?).lines();
    let client = json!({"name": "test", "version": "1"});
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client});
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for (method, params, path, wanted) in [
        ("initialize", hello, "/result/protocolVersion", json!("2025-06-18")),
        ("tools/call", json!({"name": "health_check"}), "/result/isError", json!(false)),
        ("server/discover", json!({"_meta": meta}), "/result/supportedVersions/2", json!("2026-07-28")),
        ("tools/call", json!({"name": "health_check", "_meta": meta}), "/result/resultType", json!("complete")),
    ] {
        let message = json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params});
        input.write_all(format!("{message}\n").as_bytes()).await?;
        let line = timeout(PATIENCE, output.next_line()).await.context("no answer in time")??;
        let told: Value = serde_json::from_str(&line.context("it ended")?)?;
        ensure!(told["id"] == method && told.pointer(path) == Some(&wanted), "{method}: {told}");
    }
    drop(input);
    let ended = timeout(COMMAND_LIMIT, program.wait()).await.context("it goes on without its assistant")??;
    ensure!(ended.success(), "ended with {ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_made_serves_a_model_stops_and_comes_back() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster =
        Cluster::builder("single-node").nodes(1).node(0, |plan| plan.runtime = Runtime::Engine).unformed().start();
    let cluster = cluster.await?;
    says(&cluster, "/livez", 200).await?;
    says(&cluster, "/readyz", 503).await.context("before it belongs to a cluster")?;

    command(&cluster, &["init"]).await?;
    cluster.settled(PATIENCE).await?;
    wait::until("the node to be ready", PATIENCE, || says(&cluster, "/readyz", 200)).await?;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");
    command(&cluster, &["model", "import", file, "--name", "demo"]).await?;
    cluster.model_known("demo", 1, PATIENCE).await?;
    let answer = cluster.chat(0, "demo", "What is OllamaMax?", false).await?.ok_json().await?;
    let text = answer["message"]["content"].as_str().unwrap_or_default().to_owned();
    ensure!(!text.trim().is_empty(), "{answer}");
    cluster.set(0, "kept", b"over the restart").await?;
    command(&cluster, &["status"]).await.context("nothing wants attention")?;
    let told = command(&cluster, &["events", "-o", "json"]).await?;
    for kind in ["cluster_made", "leader_elected", "member_joined", "model_appeared", "setting_changed"] {
        ensure!(told.contains(&format!("\"event\":\"{kind}\"")), "no {kind} in {told}");
    }
    assistant(&cluster).await.context("through ollamax mcp")?;

    let ended = cluster.node(0).stop(STOP_LIMIT).await?;
    ensure!(ended.success(), "ended with {ended}");
    cluster.restart(&[0]).await?;
    wait::until("the node to be ready again", PATIENCE, || says(&cluster, "/readyz", 200)).await?;
    ensure!(cluster.get(0, "kept", false).await?.as_deref() == Some(b"over the restart"), "it forgot");
    cluster.model_known("demo", 1, PATIENCE).await?;
    let answer = cluster.chat(0, "demo", "hello again", true).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
