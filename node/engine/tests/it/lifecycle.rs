//! Runners: loading, staying, leaving, being cancelled, being killed.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::future::try_join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::server::{Server, demo, endless, first_chunk, gone};

const FRANCE: (&str, &str) = ("What is the capital of France?", "The capital of France is Paris.");

fn kill_now(pid: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_loaded_and_unloaded_on_request() -> Result<()> {
    let server = Server::with_demo().await?;
    let loaded = server.post("/api/generate", json!({"model": "demo", "keep_alive": -1})).await?;
    assert_eq!(
        (&loaded["done"], &loaded["done_reason"], &loaded["response"]),
        (&json!(true), &json!("load"), &json!(""))
    );
    let ps = server.get("/api/ps").await?;
    let model = &ps["models"][0];
    assert_eq!(
        (&model["name"], &model["context_length"], &model["size_vram"]),
        (&json!("demo:latest"), &json!(512), &json!(0))
    );
    assert!(model["size"].as_u64() > Some(2_000_000));
    assert!(model["expires_at"].as_str() > Some("2200"), "{model}");
    assert_eq!(server.runners().len(), 1);

    let unloaded = server.post("/api/chat", json!({"model": "demo", "messages": [], "keep_alive": 0})).await?;
    assert_eq!(unloaded["done_reason"], json!("unload"));
    server.loaded(0).await?;
    let again = server.post("/api/embed", json!({"model": "demo", "input": [], "keep_alive": "10m"})).await?;
    assert_eq!(again["embeddings"], json!([]));
    server.loaded(1).await?;
    Ok(())
}

/// The demo model's file, saying that it only embeds.
fn embedder() -> Vec<u8> {
    let mut bytes = demo();
    for (old, new) in [("general.description", "general.descripti"), ("llama.vocab_size", "llama.pooling_type")] {
        let at = bytes.windows(old.len()).position(|part| part == old.as_bytes()).expect("the key");
        let key = [&(new.len() as u64).to_le_bytes()[..], new.as_bytes()].concat();
        bytes.splice(at - 8..at + old.len(), key);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_only_embeds_can_be_unloaded_as_the_command_line_does_it() -> Result<()> {
    let server = Server::start().await?;
    server.create("embedder", &embedder()).await?;
    let show = server.post("/api/show", json!({"model": "embedder"})).await?;
    assert_eq!(show["capabilities"], json!(["embedding"]));
    let unload = json!({"model": "embedder", "prompt": "", "keep_alive": "0s", "options": null});
    assert_eq!(server.post("/api/generate", unload).await?["done_reason"], json!("unload"));
    let unload = json!({"model": "embedder", "messages": null, "keep_alive": 0});
    assert_eq!(server.post("/api/chat", unload).await?["done_reason"], json!("unload"));
    let (status, answer) = server.ask(Method::POST, "/api/generate", Some(json!({"model": "embedder"}))).await?;
    assert_eq!((status.as_u16(), &answer["error"]), (400, &json!("\"embedder\" does not support generate")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_leaves_when_its_time_is_over() -> Result<()> {
    let server = Server::with_demo().await?;
    server.post("/api/generate", json!({"model": "demo", "keep_alive": "100ms"})).await?;
    let runner = *server.runners().first().context("a runner")?;
    server.loaded(0).await?;
    gone(runner).await?;
    let body = json!({"model": "demo", "prompt": "Hello", "stream": false, "keep_alive": 0});
    server.post("/api/generate", body).await?;
    server.loaded(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_of_the_same_weights_share_a_runner_and_another_context_replaces_it() -> Result<()> {
    let server = Server::with_demo().await?;
    server.create("twin", &demo()).await?;
    server.post("/api/generate", json!({"model": "demo"})).await?;
    let first = server.runners();
    server.post("/api/generate", json!({"model": "twin"})).await?;
    server.post("/api/generate", json!({"model": "demo", "options": {"num_ctx": 100_000}})).await?;
    assert_eq!(server.runners(), first);
    server.post("/api/generate", json!({"model": "demo", "options": {"num_ctx": 256}})).await?;
    assert_ne!(server.runners(), first);
    let ps = server.get("/api/ps").await?;
    assert_eq!(ps["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(ps["models"][0]["context_length"], json!(256));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_their_turn_and_all_are_answered() -> Result<()> {
    let server = Server::with_demo().await?;
    let answers = try_join_all((0..12).map(|_| server.answer(FRANCE.0))).await?;
    assert!(answers.iter().all(|answer| answer == FRANCE.1), "{answers:?}");
    assert_eq!(server.runners().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_runner() -> Result<()> {
    let server = Server::with_demo().await?;
    let started = Instant::now();
    let whole = server.post("/api/generate", endless(false)).await?;
    let full_length = started.elapsed();
    assert_eq!((&whole["done_reason"], &whole["eval_count"]), (&json!("length"), &json!(5000)));

    let runners = server.runners();
    let started = Instant::now();
    for _ in 0..3 {
        let (_, rest) = first_chunk(server.send(Method::POST, "/api/generate", Some(endless(true))).await?).await?;
        drop(rest);
        let waiting = timeout(Duration::from_millis(20), server.post("/api/generate", endless(false))).await;
        assert!(waiting.is_err(), "a request without stream is cancelled as well");
    }
    assert_eq!(server.answer(FRANCE.0).await?, FRANCE.1);
    let cancelled = started.elapsed();
    assert!(cancelled < full_length, "six cancelled requests took {cancelled:?}, one whole {full_length:?}");
    assert_eq!(server.runners(), runners, "cancelling costs no runner");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_dies_costs_its_request_and_nothing_else() -> Result<()> {
    let server = Server::with_demo().await?;
    let response = server.send(Method::POST, "/api/generate", Some(endless(true))).await?;
    let (_, rest) = first_chunk(response).await?;
    kill_now(*server.runners().first().context("a runner")?)?;
    let rest: Vec<_> = rest.map(|chunk| chunk.unwrap_or_default()).collect().await;
    let text = String::from_utf8(rest.concat())?;
    let last = text.lines().last().context("a last line")?;
    assert!(last.starts_with(r#"{"error":"model runner has unexpectedly stopped"#), "{last}");
    assert!(!text.contains(r#""done":true"#));

    let (waiting, killed) = tokio::join!(server.ask(Method::POST, "/api/generate", Some(endless(false))), async {
        server.loaded(1).await?;
        let runner = *server.runners().first().context("a runner")?;
        kill_now(runner)
    });
    killed?;
    let (status, answer) = waiting?;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer["error"].as_str().is_some_and(|text| text.starts_with("model runner has unexpectedly stopped")));

    assert_eq!(server.answer(FRANCE.0).await?, FRANCE.1);
    kill_now(*server.runners().first().context("a runner")?)?;
    assert_eq!(server.answer(FRANCE.0).await?, FRANCE.1, "one that died while idle is replaced unseen");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runners_leave_with_their_server_and_the_server_with_its_parent() -> Result<()> {
    let mut server = Server::with_demo().await?;
    server.answer(FRANCE.0).await?;
    let runner = *server.runners().first().context("a runner")?;
    kill_now(server.process.id().context("a process")?)?;
    gone(runner).await?;

    server = Server::with_demo().await?;
    server.answer(FRANCE.0).await?;
    let runner = *server.runners().first().context("a runner")?;
    drop(server.process.stdin.take());
    let status = timeout(Duration::from_secs(30), server.process.wait()).await??;
    assert!(status.success(), "{status}");
    gone(runner).await
}
