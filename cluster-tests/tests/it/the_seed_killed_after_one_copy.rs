//! The node that had a model first may die as soon as a second one has all of it: the rest finish among themselves.

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::{copies, received_from};
use ollamax_testkit::link::Mode;
use ollamax_testkit::{FakeRegistry, wait};

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{is_whole, model, pulled};
use crate::spread::{WEIGHTS_BYTES, came_once, copy_on, is_everywhere, start};

/// So slow that the last one is not through before the second one has published what it got.
const SLOW: Mode = Mode::Slow(2 << 20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_finish_without_the_node_that_had_it_first() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(121, WEIGHTS_BYTES);
    registry.push("left", &model);
    let cluster = start("seed-killed", &registry).await?;
    make_it_lead(&cluster, 0).await?;
    pulled(&cluster.pull(0, "left", &["--node", "n3"]).await?)?;

    // The second node gets it at once, the last one slowly.
    cluster.links().divide(&[1], &[0, 2], SLOW);
    let dies = async {
        cluster.pulled_up_to(1, "left", WEIGHTS_BYTES / 10, PATIENCE).await?;
        let store = cluster.node(0).store();
        wait::until("the second copy", PATIENCE, || async { is_whole(&store, &model) }).await?;
        cluster.kill(&[2]).await?;
        ensure!(is_whole(&cluster.node(1).store(), &model).is_err(), "the last one was through before");
        cluster.links().heal();
        anyhow::Ok(())
    };
    let told = cluster.pull(0, "left", &["--node", "n1,n2,n3"]);
    let (told, ()) = tokio::try_join!(told, dies)?;

    let copies = copies(&told)?;
    let copy = copy_on(&copies, "n2")?;
    ensure!(copy["stage"] == "done" && copy["verifiedBytes"] == copy["totalBytes"], "{copy}");
    ensure!(received_from(copy, "node/1") > 0, "the second node sent nothing: {copy}");
    is_everywhere(&cluster, &[0, 1], &model).await?;
    came_once(&registry, &model)?;
    let listed = cluster.fake(1)?.models();
    ensure!(listed.iter().any(|model| model.name == "left:latest"), "its runtime does not see it");
    let answer = cluster.chat(1, "left", "hello", false).await.context("ask the last one")?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}
