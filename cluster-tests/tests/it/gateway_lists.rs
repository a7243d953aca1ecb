//! One endpoint: every node lists the models and residents of all, and says who has what.

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::Value;

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::{self, PATIENCE};

fn names(list: &Value) -> Vec<&str> {
    let models = list["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    models.iter().filter_map(|model| model["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_merged_at_every_node() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("lists", |script| {
        script
            .models
            .push(ModelScript { modified_at: "2026-02-01T00:00:00Z".to_owned(), ..ModelScript::named("big:7b") });
    })
    .await?;
    cluster.model_known("big:7b", 2, PATIENCE).await?;
    model_owners::make_resident(&cluster, 2).await?;
    for index in 0..cluster.size() {
        let tags = cluster.get_json(index, "/api/tags").await?;
        ensure!(names(&tags) == ["big:7b", "demo:latest"], "newest first, each once: {tags}");
        let digest = ModelScript::named("demo").digest().to_string();
        ensure!(tags["models"][1]["digest"] == digest.as_str(), "{tags}");
        ensure!(tags["models"][1]["details"]["family"] == "llama", "{tags}");
        ensure!(!tags["models"][1]["node"].is_null(), "who has it: {tags}");
        let ps = cluster.get_json(index, "/api/ps").await?;
        ensure!(names(&ps) == ["demo:latest"], "{ps}");
        ensure!(!ps["models"][0]["node"].is_null(), "where it is loaded: {ps}");
        let openai = cluster.get_json(index, "/v1/models").await?;
        ensure!(openai["data"].as_array().is_some_and(|data| data.len() == 2), "{openai}");
        let root = cluster.http().call(Method::GET, &cluster.url(index, "/")?, "").await?;
        ensure!(root.text().await? == "Ollama is running", "/");
        let version = cluster.get_json(index, "/api/version").await?;
        ensure!(
            version["version"].as_str().is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit())),
            "{version}"
        );
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_of_one_name_are_shown_as_a_conflict_and_never_mixed() -> Result<()> {
    let _turn = crate::turn().await;
    let variant = |content: &str, modified: &str| {
        let model =
            ModelScript { content: content.to_owned(), modified_at: modified.to_owned(), ..ModelScript::named("demo") };
        Runtime::Fake(Box::new(Script::with_models([model])))
    };
    let cluster = Cluster::builder("conflict")
        .node(1, |plan| plan.runtime = variant("old weights", "2026-01-01T00:00:00Z"))
        .node(2, |plan| plan.runtime = variant("new weights", "2026-06-01T00:00:00Z"))
        .start()
        .await?;
    cluster.model_known("demo", 2, PATIENCE).await?;
    let newer = model_owners::label(&cluster, 2).await?;
    for _ in 0..10 {
        let answer = cluster.chat(0, "demo", "hello", false).await?;
        ensure!(answer.status == 200 && answer.node() == newer, "{} answered {}", answer.node(), answer.status);
    }
    ensure!(model_owners::asked(&cluster, 1)? == 0, "the older weights were asked");
    let status = cluster.status(0).await?;
    ensure!(status.attention.iter().any(|entry| entry.id == "digest_conflict"), "{:?}", status.attention);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_listing_and_inference_go_on() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = model_owners::start("no-majority", |_| {}).await?;
    cluster.kill(&[0, 2]).await?;
    wait::until("the quorum to be missed", PATIENCE, || async {
        let raft = cluster.status(1).await?.raft.context("no raft view")?;
        ensure!(!raft.has_quorum, "it still believes in a majority");
        Ok(())
    })
    .await?;
    let tags = cluster.get_json(1, "/api/tags").await?;
    ensure!(names(&tags) == ["demo:latest"], "{tags}");
    let answer = cluster.chat(1, "demo", "alone?", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
