//! Pulls under limits: slowed down on every node by a command and let go by another, and held back by a setting.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use ollamax_testkit::{FakeRegistry, wait};

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{self, model, plan};
use crate::spread::{WEIGHTS_BYTES, is_everywhere, spread, start};

/// Some chunks at this rate take minutes.
const RATE: &str = "256KiB/s";
const RATE_BYTES: u64 = 256 << 10;
/// What the registry gives of the weights while the limit is looked at: a chunk.
const HELD_BYTES: u64 = 4 << 20;
/// Longest wait for a command that waits for nothing.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_is_slowed_down_wherever_it_goes_and_let_go() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(181, WEIGHTS_BYTES);
    let digest = registry.push("slowed", &model);
    // Whatever the limit does, nobody is done before it is seen.
    let hold = registry.hold_after(model.weights.sha256(), HELD_BYTES);
    let cluster = start("slowed", &registry).await?;

    let lets_go = async {
        wait::until("both nodes to show the limit", PATIENCE, || async {
            let mut limited = 0;
            for index in 0..3 {
                let pulls = cluster.pulls(index).await?;
                limited += pulls.iter().filter(|pull| pull["limitBytesPerSecond"] == RATE_BYTES).count();
            }
            ensure!(limited == 2, "{limited} nodes are limited");
            anyhow::Ok(())
        })
        .await?;
        let words = ["-o", "json", "model", "limit", "slowed", "none"];
        let told = cluster.node(2).ollamax(&words, COMMAND_LIMIT).await?;
        ensure!(told.status.success(), "{told:?}");
        let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
        ensure!(page["nodes"] == 2 && page["bytesPerSecond"].is_null(), "{page}");
        hold.release();
        anyhow::Ok(())
    };
    let told = cluster.pull(0, "slowed", &["--node", "n1,n2", "--limit-rate", RATE]);
    let (told, ()) = tokio::try_join!(told, lets_go)?;
    spread(&told, &["n1", "n2"], digest)?;
    is_everywhere(&cluster, &[0, 1], &model).await?;

    let told = cluster.node(0).ollamax(&["model", "limit", "slowed", "1MB/s"], COMMAND_LIMIT).await?;
    let error = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.status.code() == Some(3) && error.contains("no node pulls slowed"), "{told:?}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_may_not_begin_now_waits_and_the_node_says_so() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(182, WEIGHTS_BYTES);
    registry.push("closed", &model);
    let plan = plan("closed", &registry, 1).setting("transfer.limit_origin", "off");
    let cluster = pull_from_a_registry::start(plan).await?;
    let told = cluster.begin_pull(0, "closed", &[]).await?;
    ensure!(told.status.success(), "{told:?}");
    wait::until("the pull to wait", PATIENCE, || async {
        let pulls = cluster.pulls(0).await?;
        ensure!(pulls.iter().any(|pull| pull["stage"] == "waiting" && pull["verifiedBytes"] == 0), "{pulls:?}");
        anyhow::Ok(())
    })
    .await?;
    ensure!(registry.sent(model.weights.sha256()) == 0, "something was sent");
    let attention = cluster.status(0).await?.attention;
    let is_told = attention.iter().any(|entry| entry.id == "transfers_off" && entry.what.contains("registries"));
    ensure!(is_told, "{attention:?}");
    let told = cluster.node(0).ollamax(&["model", "pull", "closed", "--cancel"], COMMAND_LIMIT).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.finish().await
}
