//! The power of a machine goes in the midst of a pull: what was never made durable is lost, or comes back as zeros or
//! garbage. Nothing of the model is visible then, nothing is believed that is not there, and the pull goes on by itself
//! to the right bytes. What was visible before stays, whole.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::disk_faults::{DiskFaults, Names, Tail, Variant};
use ollamax_testkit::fake_registry::{FakeModel, Hold};
use ollamax_testkit::{Cluster, FakeRegistry, Seed, wait};

use crate::model_owners::{PATIENCE, runtimes_up};
use crate::pull_from_a_registry::{MIB, blob, is_whole, model, nothing_is_left, plan, start};

/// Less than what makes a part durable on its way.
const WEIGHTS_BYTES: u64 = 60 * MIB;
/// What the registry gives before the power goes. Of each of its eight ranges at most one chunk is not whole then.
const HELD_BYTES: u64 = 44 * MIB;
/// What of it must be there then.
const VERIFIED_BYTES: u64 = 8 * MIB;
const PULL_BYTES: &str = "ollamax_transfer_pull_bytes";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What the disk does with bytes and names that no sync has made last.
const CUTS: [Variant; 6] = [
    Variant::STRICT,
    Variant { tail: Tail::Cut, names: Names::Kept },
    Variant { tail: Tail::Zeroed, names: Names::Kept },
    Variant { tail: Tail::Garbled, names: Names::Kept },
    Variant { tail: Tail::Torn, names: Names::Kept },
    Variant { tail: Tail::Torn, names: Names::Drawn },
];

/// Has a model pulled, lets a part of its weights come, and kills the node.
async fn killed_in_the_midst(cluster: &Cluster, registry: &FakeRegistry, name: &str, of: &FakeModel) -> Result<Hold> {
    registry.push(name, of);
    let hold = registry.hold_after(of.weights.sha256(), HELD_BYTES);
    let begun = cluster.begin_pull(0, name, &[]).await?;
    ensure!(begun.status.success(), "{begun:?}");
    let verified_bytes = cluster.pulled_up_to(0, name, VERIFIED_BYTES, PATIENCE).await?;
    // All of its bytes and those that are there have a row each.
    let shown = cluster.metric(0, PULL_BYTES).await?;
    ensure!(shown >= Some((WEIGHTS_BYTES + verified_bytes) as f64), "{shown:?} bytes are shown");
    cluster.kill(&[0]).await?;
    Ok(hold)
}

/// Nothing of a model is visible, neither its bytes nor its name.
async fn is_invisible(cluster: &Cluster, name: &str, model: &FakeModel) -> Result<()> {
    let path = blob(&cluster.node(0).store(), model.weights.sha256());
    ensure!(!path.exists(), "{} is visible", path.display());
    let tags = cluster.http().get_json(&format!("{}/api/tags", cluster.fake(0)?.url())).await?;
    ensure!(!tags.to_string().contains(name), "{name} is visible: {tags}");
    Ok(())
}

/// The node starts again and, without a word of anybody, has the model in the end.
async fn goes_on(cluster: &Cluster, hold: &Hold, name: &str, model: &FakeModel) -> Result<()> {
    cluster.restart(&[0]).await?;
    runtimes_up(cluster, 1).await?;
    hold.release();
    cluster.model_known(name, 1, PATIENCE).await?;
    is_whole(&cluster.node(0).store(), model)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_in_mid_pull_leaves_nothing_half_visible_and_the_right_bytes_in_the_end() -> Result<()> {
    let _turn = crate::turn().await;
    let seed = Seed::choose("a_pull_over_power_cuts", 20_261_128);
    let registry = FakeRegistry::start().await?;
    let cluster = start(plan("pull-power-cuts", &registry, 1)).await?;
    let store = cluster.node(0).store();
    cluster.kill(&[0]).await?;
    let mut disk = DiskFaults::prepare(&store, &cluster.directory().join("faults"))?;
    disk.environment().into_iter().for_each(|(name, value)| cluster.node(0).set_environment(&name, value));
    cluster.restart(&[0]).await?;
    runtimes_up(&cluster, 1).await?;

    let (mut unsynced_bytes, mut before) = (0, Vec::<FakeModel>::new());
    for (round, variant) in (0_u64..).zip(CUTS) {
        let (name, model) = (format!("cut-{round}"), model(200 + round, WEIGHTS_BYTES));
        let hold = killed_in_the_midst(&cluster, &registry, &name, &model).await?;
        let report = disk.cut_power(Seed(seed.0 + round), variant)?;
        ensure!(report.missing.is_empty() && report.untracked == 0, "not certain: {report}");
        unsynced_bytes += report.unsynced_bytes();
        let cut = async {
            is_invisible(&cluster, &name, &model).await?;
            // What came in the rounds before was visible when the power went.
            before.iter().try_for_each(|model| is_whole(&store, model))?;
            goes_on(&cluster, &hold, &name, &model).await
        };
        cut.await.with_context(|| format!("round {round}: {variant:?}, {report}"))?;
        before.push(model);
    }
    ensure!(unsynced_bytes > 0, "no cut took a byte: they prove nothing");

    // All of it was told to be there, and so it is after one more cut.
    cluster.kill(&[0]).await?;
    disk.cut_power(seed, Variant::STRICT)?;
    before.iter().try_for_each(|model| is_whole(&store, model))?;
    cluster.restart(&[0]).await?;
    runtimes_up(&cluster, 1).await?;
    for round in 0..CUTS.len() {
        cluster.model_known(&format!("cut-{round}"), 1, PATIENCE).await?;
    }
    cluster.finish().await
}

/// Writes zeros over a file, as a disk that had its length and not its bytes when the power went.
fn forget_bytes(path: &Path) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).with_context(|| format!("open {}", path.display()))?;
    for at in (0..fs::metadata(path)?.len()).step_by(ZEROS.len()) {
        let length = usize::try_from(fs::metadata(path)?.len() - at)?.min(ZEROS.len());
        file.write_all_at(&ZEROS[..length], at)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_record_of_a_part_and_not_on_the_disk_is_fetched_again() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let lost = model(210, WEIGHTS_BYTES);
    let cluster = start(plan("pull-lost-bytes", &registry, 1)).await?;
    let hold = killed_in_the_midst(&cluster, &registry, "lost", &lost).await?;
    let (store, data_dir) = (cluster.node(0).store(), cluster.node(0).data_dir());
    let part = format!("sha256-{}.part", lost.weights.sha256());
    forget_bytes(&store.join(".ollamax/parts").join(part))?;
    is_invisible(&cluster, "lost", &lost).await?;

    goes_on(&cluster, &hold, "lost", &lost).await?;
    let damaged = cluster.metric(0, "ollamax_transfer_chunks_damaged_total").await?;
    ensure!(damaged.is_some_and(|damaged| damaged >= 2.0), "{damaged:?} chunks were missed");
    wait::until("nothing to be left", PATIENCE, || async {
        let shown = cluster.metric(0, PULL_BYTES).await?;
        ensure!(shown.is_none(), "{shown:?} bytes are shown of a pull that is over");
        nothing_is_left(&store, &data_dir)
    })
    .await?;
    cluster.finish().await
}
