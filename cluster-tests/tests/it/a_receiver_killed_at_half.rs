//! A node that is killed in the midst of what others send it goes on by itself, and asks for nothing that it had.

use anyhow::{Result, ensure};

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::cluster::received_from;

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{model, pulled};
use crate::spread::{SLOW, TWICE_BYTES_MAX, WEIGHTS_BYTES, came_once, copy_on, is_everywhere, spread, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_receiver_had_is_not_sent_again() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(111, WEIGHTS_BYTES);
    let digest = registry.push("half", &model);
    let cluster = start("receiver-killed", &registry).await?;
    pulled(&cluster.pull(0, "half", &["--node", "n1"]).await?)?;

    cluster.links().set_both(0, 2, SLOW);
    let dies = async {
        let verified_bytes = cluster.pulled_up_to(2, "half", WEIGHTS_BYTES / 2, PATIENCE).await?;
        cluster.kill(&[2]).await?;
        cluster.restart(&[2]).await?;
        anyhow::Ok(verified_bytes)
    };
    let told = cluster.pull(0, "half", &["--node", "n1,n3"]);
    let (told, verified_bytes) = tokio::try_join!(told, dies)?;

    let copies = spread(&told, &["n1", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 2], &model).await?;
    came_once(&registry, &model)?;
    let copy = copy_on(&copies, "n3")?;
    let (here, sent) = (received_from(copy, "here"), received_from(copy, "node/"));
    ensure!(here >= verified_bytes, "{verified_bytes} bytes were verified, {here} were found again: {copy}");
    let total = copy["totalBytes"].as_u64().unwrap_or_default();
    ensure!(sent <= total - here + TWICE_BYTES_MAX, "{sent} bytes of {total} came, {here} were there: {copy}");
    ensure!(received_from(copy, "origin") == 0, "it has no reason to ask the registry: {copy}");
    cluster.finish().await
}
