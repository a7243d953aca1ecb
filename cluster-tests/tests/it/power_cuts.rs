//! The power of all machines goes at once: what was never synced is lost, or comes back as zeros or garbage, and no
//! acknowledged change is among it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use rand::RngExt;

use ollamax_testkit::disk_faults::{DiskFaults, Names, Tail, Variant};
use ollamax_testkit::{Cluster, Seed, wait};

use crate::acknowledged::{Acknowledged, read_back, write};

const CUTS: usize = 8;
const ACKNOWLEDGED_EACH: usize = 150;
const WRITERS: usize = 8;
const SYNC_DELAY: Duration = Duration::from_millis(15);
const PATIENCE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_all_nodes_loses_no_acknowledged_change() -> Result<()> {
    let _turn = crate::turn().await;
    let seed = Seed::choose("power_cuts", 20_261_127);
    let mut chance = seed.generator(1);
    let scratch = tempfile::tempdir()?;
    let cluster = Cluster::builder("power-cuts")
        .setting("raft.snapshot_every", 300)
        .setting("raft.keep_log", 50)
        .setting("store.flush_entries_max", 100)
        .start()
        .await?;
    let everybody: Vec<usize> = (0..cluster.size()).collect();
    cluster.kill(&everybody).await?;
    let mut disks = Vec::new();
    for node in cluster.nodes() {
        let disk = DiskFaults::prepare(&node.data_dir().join("raft"), &scratch.path().join(node.name()))?;
        disk.environment().into_iter().for_each(|(name, value)| node.set_environment(&name, value));
        // Long enough for every cut to find writes that wait for their sync.
        disk.delay_syncs(SYNC_DELAY)?;
        disks.push(disk);
    }
    cluster.restart(&everybody).await?;

    let mut unsynced = 0;
    for round in 0..CUTS {
        let names = [Names::Undone, Names::Kept, Names::Drawn][chance.random_range(0..3_usize)];
        let tail = [Tail::Cut, Tail::Torn, Tail::Zeroed, Tail::Garbled][chance.random_range(0..4_usize)];
        let (variant, after) = (Variant { tail, names }, chance.random_range(10..ACKNOWLEDGED_EACH - 20));
        let cut = Seed(seed.0 + round as u64);
        let lost = one_cut(&cluster, &mut disks, (cut, variant), (round, after)).await;
        unsynced += lost.with_context(|| format!("round {round}: seed {cut}, {variant:?}, after {after} writes"))?;
    }
    ensure!(unsynced > 0, "no cut took anything of a log: they prove nothing");
    cluster.finish().await
}

/// Returns how many bytes of write-ahead logs the cut took that were never synced.
async fn one_cut(
    cluster: &Cluster,
    disks: &mut [DiskFaults],
    (seed, variant): (Seed, Variant),
    (round, after): (usize, usize),
) -> Result<u64> {
    let everybody: Vec<usize> = (0..cluster.size()).collect();
    let (acknowledged, prefix) = (Acknowledged::default(), format!("cuts/{round:02}/"));
    let writers = join_all((0..WRITERS).map(|writer| write(cluster, &prefix, writer, &acknowledged)));
    let cut = async {
        let count = || acknowledged.count.load(Ordering::SeqCst);
        wait::until_true("writes before the cut", PATIENCE, || async { count() >= after }).await?;
        cluster.kill(&everybody).await?;
        let mut unsynced = 0;
        for disk in disks {
            let report = disk.cut_power(seed, variant)?;
            // The lock file holds a number for people, which each start writes over.
            let certain = report.inexact.iter().all(|path| path.as_os_str() == "lock");
            ensure!(certain && report.missing.is_empty() && report.untracked == 0, "not certain: {report}");
            let log = report.tails.iter().filter(|tail| tail.path.extension().is_some_and(|kind| kind == "log"));
            unsynced += log.map(|tail| tail.written_bytes - tail.synced_bytes).sum::<u64>();
        }
        cluster.restart(&everybody).await?;
        wait::until_true("writes after the cut", PATIENCE, || async { count() >= ACKNOWLEDGED_EACH }).await?;
        Ok(unsynced)
    };
    let cut = async {
        let cut: Result<u64> = cut.await;
        acknowledged.enough.store(true, Ordering::SeqCst);
        cut
    };
    let (_, cut) = futures::join!(writers, cut);
    let unsynced = cut?;
    cluster.converged(PATIENCE).await?;
    let written = acknowledged.writes.into_inner().expect("no writer panics");
    read_back(cluster, &prefix, &written).await?;
    Ok(unsynced)
}
