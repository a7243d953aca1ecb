//! The set-up that the gateway suites share: three nodes, the model `demo` beside the second and third, asked at the
//! first, which has no runtime.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_proto::v1::runtime::State;
use ollamax_testkit::cluster::{Runtime, chat_body};
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::{Cluster, wait};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the cluster; `change` edits the script of both fakes.
pub(crate) async fn start(test: &str, change: impl FnOnce(&mut Script)) -> Result<Cluster> {
    start_among(test, 3, change).await
}

/// Starts the cluster among more nodes; those after the third have no runtime either.
pub(crate) async fn start_among(test: &str, nodes: usize, change: impl FnOnce(&mut Script)) -> Result<Cluster> {
    let mut script = Script::with_models([ModelScript::named("demo")]);
    change(&mut script);
    let fake = || Runtime::Fake(Box::new(script.clone()));
    let cluster = Cluster::builder(test)
        .nodes(nodes)
        .node(1, |plan| plan.runtime = fake())
        .node(2, |plan| plan.runtime = fake())
        .start()
        .await?;
    cluster.model_known("demo", 2, PATIENCE).await?;
    Ok(cluster)
}

/// What `X-OllamaMax-Node` says when this node answers: its name or its id, whichever the first answer shows.
pub(crate) async fn label(cluster: &Cluster, index: usize) -> Result<String> {
    let answer = cluster.chat(0, "demo", "who is there?", false).await?;
    let shown = answer.node();
    let by_id = shown.parse::<u64>().is_ok();
    let status = cluster.status(0).await?;
    let view = status.nodes.iter().find(|node| node.name == cluster.node(index).name()).context("not a member")?;
    Ok(if by_id { view.id.to_string() } else { view.name.clone() })
}

/// Loads the model beside one node behind the cluster's back, out of the other's memory, and waits until node 0 knows.
pub(crate) async fn make_resident(cluster: &Cluster, index: usize) -> Result<()> {
    for other in [1, 2].into_iter().filter(|other| *other != index) {
        for model in cluster.fake(other)?.models() {
            cluster.fake(other)?.unload(model.weights_digest());
        }
    }
    let url = format!("{}/api/chat", cluster.fake(index)?.url());
    let answer = cluster.http().post(&url, &chat_body("demo", "load", false)).await?;
    ensure!(answer.status == 200, "the fake answered {}", answer.status);
    wait::until("residency to be known", PATIENCE, || async {
        let status = cluster.status(0).await?;
        for node in &status.nodes {
            let resident = !node.resident.is_empty();
            let wanted = node.name == cluster.node(index).name();
            ensure!(resident == wanted, "{} resident: {resident}", node.name);
        }
        anyhow::Ok(())
    })
    .await
}

/// Waits until node 0 sees this many runtimes up.
pub(crate) async fn runtimes_up(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until(&format!("{count} runtimes to be up"), PATIENCE, || async {
        let status = cluster.status(0).await?;
        let runtimes = status.nodes.iter().filter_map(|node| node.runtime.as_ref());
        let up = runtimes.filter(|runtime| runtime.state() == State::Up).count();
        ensure!(up == count, "{up} are up");
        Ok(())
    })
    .await
}

/// Hands leadership to a node.
pub(crate) async fn make_it_lead(cluster: &Cluster, index: usize) -> Result<()> {
    cluster.make_lead(index, PATIENCE).await
}

/// Inference requests that a fake has received.
pub(crate) fn asked(cluster: &Cluster, index: usize) -> Result<u64> {
    Ok(cluster.fake(index)?.read(|record| record.count("/api/chat")))
}
