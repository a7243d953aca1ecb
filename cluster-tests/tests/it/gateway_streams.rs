//! Streams pass through a node untouched, each line when it arrives.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ollamax_testkit::cluster::chat_body;
use ollamax_testkit::http::Line;

use crate::model_owners;

/// What differs between two answers to one question: times, nothing else.
fn without_times(line: &Line) -> Result<Value> {
    let text = line.text.strip_prefix("data: ").unwrap_or(&line.text);
    if text == "[DONE]" || text.is_empty() {
        return Ok(json!(text));
    }
    let mut value: Value = serde_json::from_str(text).with_context(|| format!("not JSON: {text:.200}"))?;
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| key != "created_at" && !key.ends_with("_duration"));
    }
    Ok(value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_arrive_in_order_as_the_runtime_wrote_them_and_when_it_wrote_them() -> Result<()> {
    let _turn = crate::turn().await;
    let pace = Duration::from_millis(100);
    let cluster = model_owners::start("streams", |script| {
        script.tokens = 10;
        script.token_us = 100_000;
    })
    .await?;
    for (path, mark) in [("/api/chat", "application/x-ndjson"), ("/v1/chat/completions", "text/event-stream")] {
        let body = chat_body("demo", "hello", true);
        let direct = cluster.http().post(&format!("{}{path}", cluster.fake(1)?.url()), &body).await?;
        let (direct, _) = direct.lines().await;
        for index in 0..2 {
            let answer = cluster.http().post(&cluster.url(index, path)?, &body).await?;
            ensure!(answer.status == 200, "{path} at node {index}: {}", answer.status);
            ensure!(answer.header("content-type").starts_with(mark), "{}", answer.header("content-type"));
            ensure!(!answer.node().is_empty(), "X-OllamaMax-Node is missing");
            let (lines, end) = answer.lines().await;
            end.with_context(|| format!("{path} at node {index}"))?;
            ensure!(lines.len() == direct.len(), "{} lines instead of {}", lines.len(), direct.len());
            for (ours, theirs) in lines.iter().zip(&direct) {
                ensure!(without_times(ours)? == without_times(theirs)?, "{} instead of {}", ours.text, theirs.text);
            }
            let tokens: Vec<&Line> = lines.iter().filter(|line| !line.text.is_empty()).take(10).collect();
            let late = tokens.windows(2).filter(|pair| pair[1].after - pair[0].after < pace / 2).count();
            ensure!(late <= 2, "{path} at node {index}: {late} of 9 lines came together with the one before");
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_through_a_node_without_runtime() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("routes", |_| {}).await?;
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let rows = [
        ("/api/show", json!({ "model": "demo" }), "/details/family", json!("llama")),
        ("/api/generate", json!({ "model": "demo", "prompt": "hi", "stream": false }), "/done", json!(true)),
        ("/api/generate", json!({ "model": "demo" }), "/done_reason", json!("load")),
        (
            "/api/chat",
            json!({ "model": "DEMO:latest", "messages": messages, "stream": false }),
            "/model",
            json!("DEMO:latest"),
        ),
        ("/api/embed", json!({ "model": "demo", "input": ["a", "b"] }), "/model", json!("demo")),
        (
            "/v1/chat/completions",
            json!({ "model": "demo", "messages": messages }),
            "/choices/0/finish_reason",
            json!("stop"),
        ),
        ("/v1/embeddings", json!({ "model": "demo", "input": "a" }), "/data/0/object", json!("embedding")),
    ];
    for (path, body, pointer, expected) in rows {
        let answer = cluster.http().post(&cluster.url(0, path)?, &body).await?;
        let value = answer.ok_json().await?;
        ensure!(value.pointer(pointer) == Some(&expected), "{path}: {value}");
    }
    cluster.finish().await
}
