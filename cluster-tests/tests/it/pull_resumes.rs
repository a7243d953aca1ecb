//! What came of a model is not asked for again: after kill -9, after a stop, after a cancelled pull. Counted exactly.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::timeout;

use ollamax_testkit::fake_registry::{FakeModel, Hold};
use ollamax_testkit::{Cluster, FakeRegistry, wait};
use ollamax_types::Digest;

use crate::model_owners::{PATIENCE, runtimes_up};
use crate::pull_from_a_registry::{MIB, is_whole, model, nothing_is_left, plan, pulled, start};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What may be asked for again after kill -9.
const AGAIN_BYTES_MAX: u64 = 64 * MIB;
/// Looks at a pull that must show the same until it counts as standing still.
const LOOKS: u32 = 12;

/// A pull that stands still in the midst of its weights.
struct Halted {
    hold: Hold,
    weights: Digest,
    size_bytes: u64,
    /// Bytes of the weights that were verified.
    verified_bytes: u64,
    /// Requests that the registry had seen.
    requests: usize,
}

// === impl Halted ===

impl Halted {
    /// Has a model pulled, of whose weights so many bytes come, and waits until all of them are taken in.
    async fn begin(cluster: &Cluster, registry: &FakeRegistry, name: &str, model: &FakeModel, at: u64) -> Result<Self> {
        let weights = model.weights.sha256();
        let hold = registry.hold_after(weights, at);
        let begun = cluster.node(0).ollamax(&["model", "pull", name], COMMAND_LIMIT).await?;
        ensure!(begun.status.success(), "{begun:?}");
        let verified_bytes = taken_in(cluster, 0, &hold, weights, at).await?;
        let requests = registry.record().seen.len();
        Ok(Self { hold, weights, size_bytes: model.weights.size_bytes, verified_bytes, requests })
    }

    /// Waits until somebody asks for more of the weights, and lets them go.
    async fn release(&self, registry: &FakeRegistry) -> Result<()> {
        wait::until("more to be asked for", PATIENCE, || async {
            ensure!(self.asked(registry) > 0, "nobody asks");
            anyhow::Ok(())
        })
        .await?;
        self.hold.release();
        Ok(())
    }

    /// Bytes of the weights that were asked for since it stood still.
    fn asked(&self, registry: &FakeRegistry) -> u64 {
        let file = format!("sha256:{}", self.weights);
        let seen = registry.record().seen;
        let since = seen.iter().skip(self.requests);
        let of_file = since.filter(|seen| seen.path.starts_with("/direct/") && seen.path.ends_with(&file));
        of_file.filter_map(|seen| seen.range).map(|(from, until)| until - from).sum()
    }

    /// What was verified was not asked for again, and everything else once.
    fn check(&self, registry: &FakeRegistry) -> Result<()> {
        let Self { size_bytes, verified_bytes, .. } = *self;
        let (asked, sent) = (self.asked(registry), registry.sent(self.weights));
        ensure!(asked == size_bytes - verified_bytes, "{asked} asked, {verified_bytes} of {size_bytes} were there");
        ensure!(sent <= size_bytes + AGAIN_BYTES_MAX, "{sent} of {size_bytes} sent");
        Ok(())
    }
}

/// Waits until a node has verified whatever comes of a file that is held, and answers how much that is.
async fn taken_in(cluster: &Cluster, index: usize, hold: &Hold, weights: Digest, at: u64) -> Result<u64> {
    timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
    let seen = Mutex::new((None, 0));
    let verified_bytes = wait::until("the pull to stand still", PATIENCE, || async {
        let now = verified(&cluster.pulls(index).await?, weights);
        let mut seen = seen.lock().expect("no look panics");
        let (last, looks) = *seen;
        *seen = (now, if last == now { looks + 1 } else { 0 });
        now.filter(|_| seen.1 >= LOOKS).with_context(|| format!("{now:?} bytes are verified"))
    })
    .await?;
    // Of each of its streams at most one piece is not whole.
    ensure!(verified_bytes <= at && at - verified_bytes <= AGAIN_BYTES_MAX / 2, "{verified_bytes} of {at}");
    Ok(verified_bytes)
}

/// Verified bytes of a file, in the one pull that has it.
fn verified(pulls: &[Value], sha256: Digest) -> Option<u64> {
    let blobs = pulls.iter().filter_map(|pull| pull["blobs"].as_array()).flatten();
    let mut found =
        blobs.filter(|blob| blob["sha256"].as_str().is_some_and(|text| text.ends_with(&sha256.to_string())));
    found.next()?["verifiedBytes"].as_u64()
}

/// The model is there, whole, and nothing else is.
async fn is_there(cluster: &Cluster, name: &str, model: &FakeModel) -> Result<()> {
    cluster.model_known(name, 1, PATIENCE).await?;
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    is_whole(&store, model)?;
    // The cluster may hear of the model a moment before its pull has ended.
    wait::until("nothing to be left", PATIENCE, || async { nothing_is_left(&store, &data_dir) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_minus_nine_at_half_fetches_at_most_64_mib_again() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let large = model(11, 256 * MIB);
    registry.push("large", &large);
    let cluster = start(plan("pull-killed", &registry, 1)).await?;
    let halted = Halted::begin(&cluster, &registry, "large", &large, 128 * MIB).await?;

    cluster.kill(&[0]).await?;
    // The tag moves meanwhile: what was begun is what comes.
    registry.push("large", &model(12, MIB));
    // Nobody asks for the model again: the pull goes on by itself.
    cluster.restart(&[0]).await?;
    halted.release(&registry).await?;
    is_there(&cluster, "large", &large).await?;
    halted.check(&registry)?;
    let manifests = registry.record().count("/v2/library/large/manifests/");
    ensure!(manifests == 1, "the manifest was asked for {manifests} times");
    let answer = cluster.chat(0, "large", "hello", false).await?;
    ensure!(answer.status == 200, "{}", answer.text().await?);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_and_a_cancelled_pull_keep_what_came() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (stopped, cancelled) = (model(13, 96 * MIB), model(14, 96 * MIB));
    registry.push("stopped", &stopped);
    registry.push("cancelled", &cancelled);
    let cluster = start(plan("pull-stopped", &registry, 1)).await?;

    let halted = Halted::begin(&cluster, &registry, "stopped", &stopped, 64 * MIB).await?;
    cluster.node(0).stop(PATIENCE).await?;
    cluster.restart(&[0]).await?;
    halted.release(&registry).await.context("after the stop")?;
    is_there(&cluster, "stopped", &stopped).await?;
    halted.check(&registry).context("after the stop")?;

    let halted = Halted::begin(&cluster, &registry, "cancelled", &cancelled, 64 * MIB).await?;
    let told = cluster.node(0).ollamax(&["model", "pull", "cancelled", "--cancel"], COMMAND_LIMIT).await?;
    ensure!(told.status.success(), "{told:?}");
    wait::until("the pull to end", PATIENCE, || async {
        let left = cluster.pulls(0).await?;
        ensure!(left.is_empty(), "{left:?}");
        anyhow::Ok(())
    })
    .await?;
    // Without a word of anybody it stays as it is, also over a restart.
    cluster.kill(&[0]).await?;
    cluster.restart(&[0]).await?;
    runtimes_up(&cluster, 1).await?;
    // It listens before its engines are in place.
    let left = wait::until("the node to show its pulls", PATIENCE, || cluster.pulls(0)).await?;
    ensure!(left.is_empty(), "nobody asked for it again: {left:?}");
    let (again, released) = tokio::join!(cluster.pull(0, "cancelled", &[]), halted.release(&registry));
    released.context("after the cancelled pull")?;
    pulled(&again?)?;
    is_there(&cluster, "cancelled", &cancelled).await?;
    halted.check(&registry).context("after the cancelled pull")?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_on_another_node_is_followed_over_the_death_of_that_node() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    // More is sent before the death than may be asked for again: who fetches everything once more is found out.
    let far = model(15, 256 * MIB);
    registry.push("far", &far);
    let cluster = start(plan("pull-followed", &registry, 2)).await?;
    let held_at = 160 * MIB;
    let hold = registry.hold_after(far.weights.sha256(), held_at);
    let dies = async {
        taken_in(&cluster, 1, &hold, far.weights.sha256(), held_at).await?;
        cluster.kill(&[1]).await?;
        cluster.restart(&[1]).await?;
        hold.release();
        anyhow::Ok(())
    };
    let (told, ()) = tokio::try_join!(cluster.pull(0, "far", &["--node", "n2"]), dies)?;
    let copy = pulled(&told)?;
    ensure!(copy["node"] == "n2", "{copy}");
    is_whole(&cluster.node(1).store(), &far)?;
    let sent = registry.sent(far.weights.sha256());
    ensure!(sent <= far.weights.size_bytes + AGAIN_BYTES_MAX, "{sent} bytes were sent");
    cluster.finish().await
}
