//! A node whose disk has changed a model sends nothing of it, and says so; who asked it gets the model elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::received_from;
use ollamax_testkit::{FakeRegistry, wait};

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{blob, model, plan};
use crate::spread::{SLOW, WEIGHTS_BYTES, all_seen_up, came_once, copy_on, is_everywhere, spread};

const CHUNK_BYTES: u64 = 4 << 20;

/// Turns a bit in each chunk of a file, as a disk does it: without a word, and without a new time.
fn rot(path: &Path) -> Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).context("open what is to rot")?;
    let modified = file.metadata()?.modified()?;
    let middles = (CHUNK_BYTES / 2..WEIGHTS_BYTES - 1).step_by(usize::try_from(CHUNK_BYTES)?);
    for at in middles.chain([WEIGHTS_BYTES - 1]) {
        turn_at(&mut file, at)?;
    }
    file.set_modified(modified).context("keep the time")
}

/// Turns the lowest bit of a byte.
pub(crate) fn turn_at(file: &mut File, at: u64) -> Result<()> {
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&[byte[0] ^ 1])?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotten_copy_is_found_by_its_own_node_and_never_spread() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(131, WEIGHTS_BYTES);
    let digest = registry.push("rotten", &model);
    // What is mended is seen in `damaged_models`.
    let plan = plan("flipped-byte", &registry, 3).setting("transfer.repair", false);
    let cluster = plan.with_links().start().await?;
    all_seen_up(&cluster).await?;
    spread(&cluster.pull(0, "rotten", &["--node", "n1,n2"]).await?, &["n1", "n2"], digest)?;

    let file = blob(&cluster.node(1).store(), model.weights.sha256());
    rot(&file)?;
    let rotten = fs::metadata(&file)?.len();
    // There is time to ask both.
    cluster.links().set_both(0, 2, SLOW);
    let copies = spread(&cluster.pull(0, "rotten", &["--replicas", "3"]).await?, &["n1", "n2", "n3"], digest)?;

    is_everywhere(&cluster, &[0, 2], &model).await?;
    came_once(&registry, &model)?;
    let copy = copy_on(&copies, "n3")?;
    ensure!(received_from(copy, "node/1") >= WEIGHTS_BYTES, "who else has a sound one? {copy}");
    wait::until("the node to doubt its copy", PATIENCE, || async {
        let suspect = cluster.metric(1, "ollamax_blobs_suspect").await?;
        ensure!(suspect == Some(1.0), "it doubts {suspect:?}");
        anyhow::Ok(())
    })
    .await?;
    ensure!(fs::metadata(&file)?.len() == rotten, "the file is the user's");
    cluster.finish().await
}
