//! A transfer needs no leader once it is planned: the one that planned it may die, and the next one plans what comes.

use anyhow::{Context, Result, ensure};

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::cluster::received_from;

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{model, pulled};
use crate::spread::{SLOW, WEIGHTS_BYTES, all_seen_up, came_once, copy_on, is_everywhere, spread, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_outlives_the_leader_that_planned_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(141, WEIGHTS_BYTES);
    let digest = registry.push("headless", &model);
    let cluster = start("leader-changes", &registry).await?;
    make_it_lead(&cluster, 0).await?;
    pulled(&cluster.pull(1, "headless", &["--node", "n2"]).await?)?;

    cluster.links().set_both(1, 2, SLOW);
    let dies = async {
        cluster.pulled_up_to(2, "headless", WEIGHTS_BYTES / 4, PATIENCE).await?;
        cluster.kill(&[0]).await?;
        cluster.leader_among(&[1, 2], PATIENCE).await.context("the next one")
    };
    let told = cluster.pull(1, "headless", &["--node", "n2,n3"]);
    let (told, _) = tokio::try_join!(told, dies)?;

    let copies = spread(&told, &["n2", "n3"], digest)?;
    is_everywhere(&cluster, &[1, 2], &model).await?;
    let copy = copy_on(&copies, "n3")?;
    ensure!(received_from(copy, "node/2") >= WEIGHTS_BYTES, "who else has it? {copy}");

    // Whoever leads now plans what is asked for now.
    cluster.links().heal();
    cluster.restart(&[0]).await?;
    cluster.settled(PATIENCE).await?;
    all_seen_up(&cluster).await?;
    spread(&cluster.pull(2, "headless", &["--node", "n1,n2,n3"]).await?, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, 2], &model).await?;
    came_once(&registry, &model)?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}
