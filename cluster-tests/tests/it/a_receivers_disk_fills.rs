//! A disk that takes no more in the midst of a transfer, although room was set aside, as those do that are promised to
//! more people than they have room for, or when all came and the manifest is to be written. The node says so in
//! numbers, on record; nothing of the model is visible there, the others finish; and when there is room again, it goes
//! on with what it had.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::cluster::received_from;
use ollamax_testkit::disk_faults::DiskFaults;
use ollamax_types::ErrorCode;

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{blob, model, pulled, refused};
use crate::spread::{
    SLOW, TWICE_BYTES_MAX, WEIGHTS_BYTES, all_seen_up, came_once, copy_on, is_everywhere, spread, start,
};

const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// The node whose disk fills.
const FULL: usize = 2;
/// Bytes of files on their way, and nothing else of a store.
const PARTS: &str = "sha256-*.part";
/// More writes than a node tries.
const ALL_WRITES: u64 = 1 << 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_in_the_midst_is_told_in_numbers_and_the_pull_goes_on_when_there_is_room() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(191, WEIGHTS_BYTES);
    let digest = registry.push("filling", &model);
    let cluster = start("receiver-full", &registry).await?;
    let disk = DiskFaults::prepare(&cluster.node(FULL).store(), &cluster.directory().join("faults"))?;
    disk.environment().into_iter().for_each(|(name, value)| cluster.node(FULL).set_environment(&name, value));
    disk.only(PARTS)?;
    cluster.kill(&[FULL]).await?;
    cluster.restart(&[FULL]).await?;
    all_seen_up(&cluster).await?;
    pulled(&cluster.pull(0, "filling", &["--node", "n1"]).await?)?;

    // There is time to meet it in the midst, whoever sends.
    [0, 1].into_iter().for_each(|sender| cluster.links().set_both(sender, FULL, SLOW));
    let fills = async {
        let verified_bytes = cluster.pulled_up_to(FULL, "filling", WEIGHTS_BYTES / 3, PATIENCE).await?;
        disk.fail_writes(Errno::ENOSPC, ALL_WRITES)?;
        anyhow::Ok(verified_bytes)
    };
    let told = cluster.pull(0, "filling", &["--node", "n1,n2,n3"]);
    let (told, verified_bytes) = tokio::try_join!(told, fills)?;
    let (code, error) = refused(&told)?;
    ensure!(code == ErrorCode::DiskFull.as_str(), "{error}");
    let is_in_numbers = |text: &str| text.contains("bytes of filling:latest were still to come, ");
    ensure!(is_in_numbers(&error.to_string()) && error.to_string().contains("n3"), "{error}");
    let refused_writes: u64 = disk.processes()?.iter().map(|process| process.failed_writes).sum();
    ensure!(refused_writes > 0, "the disk refused nothing");

    // The others finish, and every node knows why this one does not.
    is_everywhere(&cluster, &[0, 1], &model).await?;
    cluster.model_known("filling", 2, PATIENCE).await?;
    cluster.converged(PATIENCE).await?;
    for node in cluster.nodes() {
        let told = node.ollamax(&["-o", "json", "events", "--kind", "pull_failed"], COMMAND_LIMIT).await?;
        let page = String::from_utf8_lossy(&told.stdout).into_owned();
        // The node that was started anew keeps what it has applied since.
        ensure!(is_in_numbers(&page) && page.contains(ErrorCode::DiskFull.as_str()), "{}: {page}", node.name());
    }
    ensure!(!blob(&cluster.node(FULL).store(), model.weights.sha256()).exists(), "half a file is visible");
    let tags = cluster.http().get_json(&format!("{}/api/tags", cluster.fake(FULL)?.url())).await?;
    ensure!(tags["models"].as_array().is_some_and(Vec::is_empty), "half a model is visible: {tags}");

    // All of it comes, and there is no room for its manifest, which is written under a name that ends with the process.
    let process = disk.processes()?.pop().context("no process writes there")?;
    disk.only(&format!("*.{}", process.pid))?;
    let (code, error) = refused(&cluster.pull(0, "filling", &["--node", "n1,n2,n3"]).await?)?;
    ensure!(code == ErrorCode::DiskFull.as_str(), "{error}");
    ensure!(error.to_string().contains("; 0 bytes of filling:latest were still to come, "), "{error}");

    // Somebody made room.
    disk.fail_writes(Errno::ENOSPC, 0)?;
    let copies = spread(&cluster.pull(0, "filling", &["--node", "n1,n2,n3"]).await?, &["n1", "n2", "n3"], digest)?;
    is_everywhere(&cluster, &[0, 1, FULL], &model).await?;
    came_once(&registry, &model)?;
    let copy = copy_on(&copies, "n3")?;
    let (here, sent) = (received_from(copy, "here"), received_from(copy, "node/"));
    ensure!(here >= verified_bytes, "{verified_bytes} bytes were verified, {here} were found again: {copy}");
    let total = copy["totalBytes"].as_u64().unwrap_or_default();
    ensure!(sent <= total - here + TWICE_BYTES_MAX, "{sent} bytes of {total} came, {here} were there: {copy}");
    cluster.finish().await
}
