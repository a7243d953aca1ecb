//! While one node still downloads a model, the others receive what has come; what is wrong in the end is visible
//! nowhere; and the node that downloads may die in the midst of it, although it leads.

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use ollamax_testkit::cluster::received_from;
use ollamax_testkit::{FakeRegistry, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{MIB, blob, is_whole, model, nothing_is_left, pulled, refused};
use crate::spread::{FEW_BYTES, WEIGHTS_BYTES, came_once, is_everywhere, spread, start};

/// So many chunks that what is half there of them when a node dies is little.
const LARGE_BYTES: u64 = 2 * WEIGHTS_BYTES;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_have_half_when_the_origin_ends_and_wrong_bytes_are_visible_nowhere() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (early, wrong) = (model(151, WEIGHTS_BYTES), model(152, WEIGHTS_BYTES));
    let digest = registry.push("early", &early);
    let cluster = start("receivers-follow", &registry).await?;

    // The last byte stays where it is until everybody has most of the file.
    let hold = registry.hold_after(early.weights.sha256(), WEIGHTS_BYTES - 1);
    let follow = async {
        timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
        for index in [0, 1, 2] {
            cluster.pulled_up_to(index, "early", WEIGHTS_BYTES / 2, PATIENCE).await?;
        }
        hold.release();
        anyhow::Ok(())
    };
    let told = cluster.pull(1, "early", &["--replicas", "3"]);
    let (told, ()) = tokio::try_join!(told, follow)?;
    let copies = spread(&told, &["n1", "n2", "n3"], digest)?;
    let from_outside = copies.iter().filter(|(_, copy)| received_from(copy, "origin") > 0).count();
    ensure!(from_outside == 1, "{from_outside} nodes asked the registry: {copies:?}");
    is_everywhere(&cluster, &[0, 1, 2], &early).await?;
    came_once(&registry, &early)?;

    let digest = registry.push("wrong", &wrong);
    registry.corrupt(wrong.weights.sha256(), 5 * MIB);
    let (code, error) = refused(&cluster.pull(1, "wrong", &["--replicas", "3"]).await?)?;
    ensure!(code == ErrorCode::DigestMismatch.as_str(), "{error}");
    for index in [0, 1, 2] {
        let (store, data_dir) = (cluster.node(index).store(), cluster.node(index).data_dir());
        wait::until("nothing to be left", PATIENCE, || async { nothing_is_left(&store, &data_dir) }).await?;
        ensure!(!blob(&store, wrong.weights.sha256()).exists(), "node {index} shows a file with wrong bytes");
    }
    registry.heal();
    spread(&cluster.pull(2, "wrong", &["--replicas", "3"]).await?, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, 2], &wrong).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_the_ingester_and_dies_at_half() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (old, new) = (model(153, FEW_BYTES), model(154, LARGE_BYTES));
    registry.push("moved", &old);
    let cluster = start("ingester-dies", &registry).await?;
    // Who has what is served asks the registry for what comes after it.
    pulled(&cluster.pull(0, "moved", &["--node", "n1"]).await?)?;
    make_it_lead(&cluster, 0).await?;
    let digest = registry.push("moved", &new);

    let hold = registry.hold_after(new.weights.sha256(), LARGE_BYTES / 4 * 3);
    let dies = async {
        timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
        for index in [1, 2] {
            cluster.pulled_up_to(index, "moved", LARGE_BYTES / 4, PATIENCE).await?;
        }
        cluster.kill(&[0]).await?;
        hold.release();
        // Where somebody has the time, it stays dead until another one has taken its place.
        if crate::soak() {
            let store = cluster.node(1).store();
            wait::until("another to bring the model", 2 * PATIENCE, || async { is_whole(&store, &new) }).await?;
        }
        cluster.restart(&[0]).await
    };
    let told = cluster.pull(1, "moved", &["--node", "n1,n2,n3"]);
    let (told, ()) = tokio::try_join!(told, dies)?;

    spread(&told, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, 2], &new).await?;
    let (sent, limit) = (registry.sent(new.weights.sha256()), LARGE_BYTES / 10 * 16);
    ensure!(sent <= limit, "the registry sent {sent} bytes of {LARGE_BYTES}");
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}
