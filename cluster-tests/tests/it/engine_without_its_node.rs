//! The engine of a node that is killed ends by itself, with its runners, also in the middle of an answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::{Cluster, remembered};

use crate::bad_models;
use crate::model_owners::{self, PATIENCE};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The engine lets requests go on for five seconds, and then its tasks.
const END_LIMIT: Duration = Duration::from_secs(30);
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/demo/demo.gguf");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_node_was_killed_ends_with_its_runners() -> Result<()> {
    let _turn = crate::turn().await;
    let plan = Cluster::builder("engine-alone").nodes(1).node(0, |plan| plan.runtime = Runtime::Engine);
    let cluster = plan.start().await?;
    model_owners::runtimes_up(&cluster, 1).await?;
    let imported = cluster.node(0).ollamax(&["model", "import", FILE, "--name", "demo"], COMMAND_LIMIT).await?;
    ensure!(imported.status.success(), "{imported:?}");
    cluster.model_known("demo", 1, PATIENCE).await?;

    let url = cluster.url(0, "/api/generate")?;
    let mut answer = cluster.http().post(&url, &bad_models::long_answer()).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    answer.next_piece().await?.context("no first line")?;
    let family = remembered::family(bad_models::engine(&cluster, 0)?)?;
    ensure!(family.len() > 1, "the engine has no runner: {family:?}");
    cluster.node(0).kill_alone().await?;
    remembered::all_ended("the engine and its runners", &family, END_LIMIT).await?;
    let (lines, end) = answer.lines().await;
    let done = lines.iter().any(|line| line.text.contains("\"done\":true"));
    ensure!(end.is_err() && !done, "an answer that was cut has a good end: {:?}", lines.last());

    cluster.restart(&[0]).await?;
    cluster.model_known("demo", 1, PATIENCE).await?;
    let answer = cluster.chat(0, "demo", "hello again", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
