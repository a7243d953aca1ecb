//! A tag that moves while a model comes: all copies of one round are one version, whoever asks meanwhile, and the next
//! round brings the next version to everybody.

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::cluster::copies;

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::model;
use crate::spread::{WEIGHTS_BYTES, came_once, is_everywhere, spread, start};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ALL: [usize; 3] = [0, 1, 2];
/// The second version; another length, so that nothing of it fits.
const OTHER_BYTES: u64 = 12_345_678;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_one_round_are_one_version_although_the_tag_moves() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (old, new) = (model(151, WEIGHTS_BYTES), model(152, OTHER_BYTES));
    let digest = registry.push("moving", &old);
    let cluster = start("moving-tag", &registry).await?;

    let hold = registry.hold_after(old.weights.sha256(), WEIGHTS_BYTES / 2);
    let moves = async {
        timeout(PATIENCE, hold.reached()).await.context("the registry does not get so far")?;
        let moved = registry.push("moving", &new);
        // The same wish on another node: it joins what is under way.
        let joined = cluster.begin_pull(1, "moving", &["--replicas", "3"]).await?;
        hold.release();
        anyhow::Ok((moved, joined))
    };
    let told = cluster.pull(0, "moving", &["--replicas", "3"]);
    let (told, (moved, joined)) = tokio::try_join!(told, moves)?;

    spread(&told, &NODES, digest)?;
    ensure!(joined.status.success(), "{joined:?}");
    let joined = copies(&joined)?;
    let versions: Vec<_> = joined.iter().filter_map(|(_, copy)| copy["digest"].as_str()).collect();
    ensure!(versions.contains(&digest.to_string().as_str()), "it heard of another round: {joined:?}");
    ensure!(!versions.contains(&moved.to_string().as_str()), "two versions in one round: {joined:?}");
    is_everywhere(&cluster, &ALL, &old).await?;
    came_once(&registry, &old)?;

    // Who asks now gets what the tag stands for now, everywhere.
    spread(&cluster.pull(2, "moving", &["--replicas", "3"]).await?, &NODES, moved)?;
    is_everywhere(&cluster, &ALL, &new).await?;
    came_once(&registry, &new)?;
    cluster.model_known("moving", 3, PATIENCE).await?;
    for index in ALL {
        let known = cluster.node(index).admin()?.models("moving").await?;
        ensure!(known.iter().all(|model| model.digest == moved.0 && !model.conflict), "{known:?}");
    }
    cluster.finish().await
}
