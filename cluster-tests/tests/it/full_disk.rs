//! A node whose disk is full refuses changes in clear words, loses nothing, goes on serving models, and recovers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::Runtime;
use ollamax_testkit::fake_ollama::{ModelScript, Script};
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, Room, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::{self, PATIENCE, asked};

const DISK_BYTES: u64 = 192 << 20;
/// `store.reserve_bytes` by default.
const RESERVE_BYTES: u64 = 64 << 20;
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const END_LIMIT: Duration = Duration::from_secs(20);
/// Less than what lies in a data directory before the first entry.
const SHORT_BYTES: u64 = 256 << 10;
/// The node with the small disk.
const SMALL: usize = 2;
/// A ballast that fits on the disk, and what must be free for it to stay.
const BALLAST_BYTES: u64 = 8 << 20;
const BALLAST_MARK_BYTES: u64 = 80 << 20;
/// Changes that a disk without a free byte takes at most: what was set aside for the log before.
const CHANGES_MAX: usize = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_changes_at_that_node_and_nothing_else() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("full_disk", Need::Disk).await? {
        return Ok(());
    }
    let room = Arc::new(Room::with_disk(DISK_BYTES).await?);
    let script = Script::with_models([ModelScript::named("demo")]);
    let cluster = Cluster::builder("full-disk")
        .node(1, |plan| plan.runtime = Runtime::Fake(Box::new(script.clone())))
        .node(SMALL, |plan| {
            plan.runtime = Runtime::Fake(Box::new(script.clone()));
            plan.room = Some(Arc::clone(&room));
            plan.settings.push(("store.write_buffer_bytes".to_owned(), (4 << 20).to_string()));
        })
        .start()
        .await?;
    cluster.model_known("demo", 2, PATIENCE).await?;
    let mut acknowledged = Acknowledged::default();
    acknowledged.set(&cluster, SMALL, 20).await?;
    below_the_reserve(&cluster, &room, &mut acknowledged).await.context("below the reserve")?;
    to_the_last_byte(&cluster, &room, &mut acknowledged).await.context("to the last byte")?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_a_full_disk_kept_from_being_made_is_made_later() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("full_disk, of the first node", Need::Disk).await? {
        return Ok(());
    }
    let room = Arc::new(Room::with_disk(DISK_BYTES).await?);
    let cluster = Cluster::builder("full-disk-init")
        .nodes(1)
        .node(0, |plan| plan.room = Some(Arc::clone(&room)))
        .unformed()
        .start()
        .await?;
    // No room at all, and then so much that it is used up by what has to lie there before the first entry.
    for (free_bytes, left) in
        [(RESERVE_BYTES / 2, "belongs to no cluster yet"), (RESERVE_BYTES + SHORT_BYTES, "waits for")]
    {
        room.fill(free_bytes)?;
        let refused = cluster.node(0).ollamax(&["init"], END_LIMIT).await?;
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(!refused.status.success() && text.contains("MiB are free"), "{text}");
        ensure!(!text.contains("why:"), "the reason is told twice: {text}");
        let status = cluster.node(0).ollamax(&["status"], END_LIMIT).await?;
        let page = String::from_utf8_lossy(&status.stdout).into_owned();
        ensure!(page.contains(left), "{page}");
        room.clear()?;
    }
    let made = cluster.node(0).ollamax(&["init"], END_LIMIT).await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    cluster.settled(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ballast_is_given_back_when_the_disk_fills_and_made_again() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("full_disk, with a ballast", Need::Disk).await? {
        return Ok(());
    }
    let room = Arc::new(Room::with_disk(DISK_BYTES).await?);
    let cluster = Cluster::builder("full-disk-given-back")
        .nodes(1)
        .node(0, |plan| {
            plan.room = Some(Arc::clone(&room));
            plan.settings.push(("store.ballast_bytes".to_owned(), BALLAST_BYTES.to_string()));
            plan.settings.push(("store.ballast_release_bytes".to_owned(), BALLAST_MARK_BYTES.to_string()));
        })
        .start()
        .await?;
    let file = cluster.node(0).data_dir().join("raft").join("ballast");
    let lies_there = || file.metadata().is_ok_and(|found| found.blocks() * 512 >= BALLAST_BYTES);
    let page = || async {
        let told = cluster.node(0).ollamax(&["status"], END_LIMIT).await?;
        anyhow::Ok(String::from_utf8_lossy(&told.stdout).into_owned())
    };
    wait::until_true("a ballast", PATIENCE, || async { lies_there() }).await?;
    ensure!(!page().await?.contains("ballast"), "there is nothing to say of it");

    // Another program fills the disk, perhaps with what is given back meanwhile.
    room.fill(BALLAST_MARK_BYTES - BALLAST_BYTES)?;
    wait::until_true("the ballast to go", PATIENCE, || async { !file.exists() }).await?;
    cluster.set(0, "after", b"the release").await?;
    let told = page().await?;
    ensure!(told.contains("the ballast of n1 is released: 8 MiB"), "{told}");

    room.clear()?;
    wait::until_true("the ballast to come back", PATIENCE, || async { lies_there() }).await?;
    ensure!(!page().await?.contains("ballast"), "it is there again");
    cluster.finish().await
}

/// Every change that was acknowledged, by key.
#[derive(Default)]
struct Acknowledged(BTreeMap<String, Vec<u8>>);

impl Acknowledged {
    async fn set(&mut self, cluster: &Cluster, through: usize, count: usize) -> Result<()> {
        for _ in 0..count {
            let key = format!("kept/{:05}", self.0.len());
            cluster.set(through, &key, key.as_bytes()).await?;
            self.0.insert(key.clone(), key.into_bytes());
        }
        Ok(())
    }

    /// All nodes are at one index, and each has everything.
    async fn check(&self, cluster: &Cluster) -> Result<()> {
        cluster.converged(PATIENCE).await?;
        for node in cluster.nodes() {
            let found = node.admin()?.settings("kept/", true).await?;
            let found: BTreeMap<String, Vec<u8>> = found.into_iter().map(|entry| (entry.key, entry.value)).collect();
            let lost = self.0.iter().filter(|(key, value)| found.get(*key) != Some(value)).count();
            ensure!(lost == 0, "{} lost {lost} acknowledged changes", node.name());
        }
        Ok(())
    }
}

async fn below_the_reserve(cluster: &Cluster, room: &Room, acknowledged: &mut Acknowledged) -> Result<()> {
    // The one whose disk matters most.
    model_owners::make_it_lead(cluster, SMALL).await?;
    room.fill(RESERVE_BYTES / 2)?;
    let refusal = cluster.set(SMALL, "one", b"more").await.err().context("it took a change without room")?;
    ensure!(refusal.code == Some(ErrorCode::DiskFull) && refusal.took <= ANSWER_LIMIT, "{refusal}");
    ensure!(refusal.message.contains("MiB are free") && refusal.message.contains("free some space"), "{refusal}");

    // Somebody else leads, and changes go on; models are served as before, this node's as well.
    wait::until("leadership to move away", PATIENCE, || async {
        let leader = cluster.leader(ANSWER_LIMIT).await?;
        ensure!(leader != SMALL, "it still leads");
        Ok(())
    })
    .await?;
    acknowledged.set(cluster, 0, 50).await.context("changes through another node")?;
    model_owners::make_resident(cluster, SMALL).await?;
    let before = asked(cluster, SMALL)?;
    for index in [0, SMALL] {
        let answer = cluster.chat(index, "demo", "are you there?", false).await?;
        ensure!(answer.status == 200, "chat at node {index}: {}", answer.text().await?);
    }
    ensure!(asked(cluster, SMALL)? == before + 2, "its own model was not used");
    let behind = cluster.node(SMALL).admin()?.settings("kept/", true).await?.len();
    ensure!(behind == 20, "a node without room wrote {behind} changes");

    room.clear()?;
    acknowledged.check(cluster).await.context("with room again")?;
    acknowledged.set(cluster, SMALL, 5).await.context("with room again")
}

async fn to_the_last_byte(cluster: &Cluster, room: &Room, acknowledged: &mut Acknowledged) -> Result<()> {
    // Without a reserve, the disk can be filled under it.
    cluster.kill(&[SMALL]).await?;
    cluster.node(SMALL).set_environment("OLLAMAX_STORE_RESERVE_BYTES", 0);
    cluster.restart(&[SMALL]).await?;
    cluster.converged(PATIENCE).await?;
    room.fill(0)?;
    // Each is acknowledged by the other two, whatever becomes of this node; the last ones find it gone.
    let ended = cluster.node(SMALL).ended(END_LIMIT);
    let writing = async {
        for _ in 0..CHANGES_MAX {
            acknowledged.set(cluster, 0, 1).await?;
        }
        std::future::pending::<Result<Infallible>>().await
    };
    let status = tokio::select! {
        status = ended => status?,
        failed = writing => failed.map(|never| match never {})?,
    };
    ensure!(status.code() == Some(1), "ended with {status}");
    let said = cluster.node(SMALL).log_tail();
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("the disk is full") && last.contains("free some space"), "its last words: {said}");

    acknowledged.set(cluster, 0, 5).await.context("the others go on")?;
    let answer = cluster.chat(0, "demo", "are you there?", false).await?;
    ensure!(answer.status == 200, "inference goes on: {}", answer.text().await?);

    room.clear()?;
    cluster.restart(&[SMALL]).await.context("with room again")?;
    acknowledged.check(cluster).await.context("with room again")
}
