//! The cluster's log shares its disk with models: while one comes to all nodes, changes go on under the same leader.
//!
//! The short form shows that alone: its bounds are for a busy machine, and on a quick disk they may hold without any
//! control of the writing. The strict form is that of `OLLAMAX_SOAK=1`. That a slow sync of the log slows a pull down
//! is shown on clocks that stand: what a sync took in `node/crates/store/src/sync.rs`, that it is told in
//! `node/src/follow/strain.rs`, and that a pull then writes more slowly in `node/crates/transfer/tests/it/limits.rs`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use tokio::time::Instant;

use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::model;
use crate::spread::{is_everywhere, spread, start};

/// What is pulled where others wait for the turn, and where somebody has the time.
const WEIGHTS_BYTES: u64 = 96 << 20;
const LARGE_BYTES: u64 = 512 << 20;
const WRITERS: usize = 8;
/// Time between two changes of one writer.
const PACE: Duration = Duration::from_millis(20);
/// How long a change may take beside a pull. All nodes and the pull share two cores here, so it is more in the short
/// form, which runs on any machine.
const LONGEST: Duration = Duration::from_secs(10);
const LONGEST_IN_SOAK: Duration = Duration::from_secs(1);
/// The slowest hundredth may take so many times as long as without a pull, and this long in any case, which is more in
/// the short form too.
const TIMES_MAX: u32 = 5;
const SLOW: Duration = Duration::from_secs(2);
const SLOW_IN_SOAK: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_go_on_while_a_model_is_written_to_the_disk_of_the_log() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let (size_bytes, calm, longest, slow) = if crate::soak() {
        (LARGE_BYTES, Duration::from_secs(10), LONGEST_IN_SOAK, SLOW_IN_SOAK)
    } else {
        (WEIGHTS_BYTES, Duration::from_secs(3), LONGEST, SLOW)
    };
    let model = model(171, size_bytes);
    let digest = registry.push("heavy", &model);
    let cluster = start("not-starved", &registry).await?;
    cluster.leader(PATIENCE).await?;
    let before = standing(&cluster).await?;

    let rest = async {
        wait::pause(calm).await;
        anyhow::Ok(())
    };
    let (usual, ()) = during(&cluster, "usual", rest).await?;
    let (beside, told) = during(&cluster, "beside", cluster.pull(0, "heavy", &["--replicas", "3"])).await?;
    spread(&told, &["n1", "n2", "n3"], digest)?;

    let after = standing(&cluster).await?;
    ensure!(before == after, "led by {before:?} (node, term) before the pull, and by {after:?} behind it");
    let (usual, slowest, last) = (hundredth(&usual)?, hundredth(&beside)?, *beside.last().context("no change")?);
    let allowed = (usual * TIMES_MAX).max(slow);
    let told = format!("{} changes: 99 % within {slowest:?}, {usual:?} before; the slowest {last:?}", beside.len());
    ensure!(slowest <= allowed && last <= longest, "{told}; allowed {allowed:?} and {longest:?}");
    is_everywhere(&cluster, &[0, 1, 2], &model).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

/// Who leads, and in which term.
async fn standing(cluster: &Cluster) -> Result<(u64, u64)> {
    let raft = cluster.status(0).await?.raft.context("it tells nothing of the log")?;
    Ok((raft.leader, raft.term))
}

/// How long changes took that went on meanwhile, the slowest last. None may fail.
async fn during<T>(
    cluster: &Cluster,
    name: &str,
    story: impl Future<Output = Result<T>>,
) -> Result<(Vec<Duration>, T)> {
    let (times, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let (times_of_all, over) = (&times, &is_over);
    let writers = (0..WRITERS).map(|writer| async move {
        for number in 0_u32.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let (key, begun) = (format!("starved/{name}/{writer}/{number}"), Instant::now());
            cluster.set(writer % cluster.size(), &key, b"value").await?;
            times_of_all.lock().expect("no writer panics").push(begun.elapsed());
            wait::pause(PACE).await;
        }
        anyhow::Ok(())
    });
    let story = async {
        let told = story.await;
        is_over.store(true, Ordering::SeqCst);
        told
    };
    let (written, told) = futures::join!(join_all(writers), story);
    written.into_iter().collect::<Result<Vec<()>>>().with_context(|| format!("change something, {name}"))?;
    let mut times = times.into_inner().expect("no writer panics");
    times.sort_unstable();
    Ok((times, told?))
}

/// What 99 of 100 changes took at most; they are sorted. On a machine that is busy there are few.
fn hundredth(times: &[Duration]) -> Result<Duration> {
    ensure!(times.len() >= 2 * WRITERS, "{} changes say nothing", times.len());
    Ok(times[times.len() * 99 / 100])
}
