//! `bench snapshot`: what a large state costs on its way to an empty node: memory of both sides beyond what they held
//! before, bytes sent, and whether a cut in the middle costs more than a few messages.
//!
//! One node is the cluster and holds the state, as values under `user/` behind a raised quota; its log is kept so short
//! that another can only begin with a snapshot. That one joins, the link breaks when half has come, and heals. What is
//! wanted counts always: the exit code is 1 when an aim is missed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use ollamax_proto::v1;
use ollamax_proto::v1::read_level::Level;
use ollamax_testkit::cluster::Node;
use ollamax_testkit::link::Mode;
use ollamax_testkit::{Cluster, wait};

use crate::SnapshotOptions;
use crate::machine::Machine;
use crate::report::{Aim, Report, Row, Spread};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longest way of half a state.
const TRANSFER: Duration = Duration::from_secs(1_800);
/// What a node still does after its work is done is not the snapshot's.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// How long the link stays cut.
const CUT: Duration = Duration::from_secs(2);
/// Bytes of one value. They cannot be compressed.
const VALUE_BYTES: usize = 512 << 10;
const VALUES_PER_MIB: u64 = 2;
/// Values that are put at once.
const PUT_AT_ONCE: usize = 4;
/// Room of the quota beyond the values, for their keys, MiB.
const QUOTA_SPARE_MIB: u64 = 64;

/// Memory beyond what was held before, of either side.
const EXTRA_MB_MAX: f64 = 200.0;
/// Bytes sent, of those that the state has: what a cut may cost, and the frame around the records.
const SENT_SHARE_MAX: f64 = 1.1;
/// Until a node answers again that was killed.
const READY_S_MAX: f64 = 3.0;

const SENT: &str = "ollamax_raft_snapshot_bytes_sent_total";
const RECEIVED: &str = "ollamax_raft_snapshot_bytes_received_total";
const RESUMED: &str = "ollamax_raft_snapshots_resumed_total";

/// What was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    state_mb: f64,
    sender_mb: f64,
    receiver_mb: f64,
    sent_mb: f64,
    received_mb: f64,
    resumed: f64,
    seconds: f64,
    /// From the start of the receiver after a kill until it answers with the newest state.
    ready_s: f64,
}

pub(crate) async fn measure(options: &SnapshotOptions) -> Result<Report> {
    let cluster = Cluster::builder("bench-snapshot").nodes(2).unformed().unhurried().with_links();
    let cluster = cluster.setting("raft.snapshot_every", 50).setting("raft.keep_log", 20).start().await?;
    cluster.node(0).admin()?.init("bench-snapshot", cluster.node(0).name()).await.context("init")?;
    let begin = Instant::now();
    fill(&cluster, options.state_mib).await?;
    eprintln!("{} MiB written in {:?}", options.state_mib, begin.elapsed());
    let seen = transfer(&cluster, options.state_mib).await?;
    let version = cluster.status(0).await?.daemon_version;
    cluster.finish().await?;
    Ok(Report {
        bench: "snapshot",
        machine: Machine::here(),
        versions: vec![("ollamax-node".to_owned(), version)],
        runs: 1,
        point_seconds: seen.seconds,
        rows: vec![row(&seen, options.state_mib)],
        aims: aims(&seen),
        left_out: Vec::new(),
        notes: vec![
            format!("values of {VALUE_BYTES} random bytes; both nodes on one machine; the link is cut for {CUT:?}"),
            "memory: most that a daemon held (VmHWM), less what it held before the join; MB: 10^6 bytes".to_owned(),
        ],
    })
}

/// Writes the state through the first node's admin socket, and waits until its log begins behind it.
async fn fill(cluster: &Cluster, mib: u64) -> Result<()> {
    let values = cluster.node(0).values()?;
    let bytes_max = (mib + QUOTA_SPARE_MIB) << 20;
    wait::until("the quota to be raised", PATIENCE, || {
        let mut client = values.client();
        async move { client.set_quota(v1::SetQuotaRequest { prefix: "user/".to_owned(), bytes_max }).await }
    })
    .await?;
    let put = |number: u64| {
        let values = &values;
        async move {
            let mut value = vec![0_u8; VALUE_BYTES];
            StdRng::seed_from_u64(number).fill(&mut value[..]);
            let key = key(number);
            wait::until("a value to be put", PATIENCE, || values.put(&key, &value, 0, None)).await.map(drop)
        }
    };
    let all = stream::iter(0..mib * VALUES_PER_MIB).map(put).buffer_unordered(PUT_AT_ONCE);
    all.try_for_each(|()| async { Ok(()) }).await.context("write the state")?;
    wait::until("the log to begin behind its first entries", PATIENCE, || async {
        let first = cluster.status(0).await?.log_first_index;
        ensure!(first > 1, "the log begins at {first}");
        anyhow::Ok(())
    })
    .await
}

/// Lets the second node join, breaks the link half-way, and waits until both have the same state.
async fn transfer(cluster: &Cluster, mib: u64) -> Result<Seen> {
    let (sender, receiver) = (cluster.node(0), cluster.node(1));
    wait::pause(SETTLES_WITHIN).await;
    sender.forget_peak()?;
    let (sender_before, receiver_before) = (megabytes(sender.resident_bytes()?), megabytes(receiver.resident_bytes()?));
    let token = sender.admin()?.create_token("learner", 1).await.context("create a token")?;
    let begin = Instant::now();
    let state_mb = megabytes(mib << 20);
    let admin = receiver.admin()?;
    // It is answered when the whole has come, or before, when that takes long.
    let join = async {
        let joined = admin.join(&token, vec![sender.advertised()], receiver.name()).await;
        if let Err(error) = joined {
            eprintln!("join: {error}");
        }
        anyhow::Ok(())
    };
    let cut = async {
        wait::until("half of the snapshot to come", TRANSFER, || async {
            let received = metric_mb(cluster, receiver, RECEIVED).await?;
            ensure!(received >= state_mb / 2.0, "{received:.1} MB have come");
            anyhow::Ok(())
        })
        .await?;
        eprintln!("half-way after {:?}: the link is cut", begin.elapsed());
        cluster.links().set_both(0, 1, Mode::Cut);
        wait::pause(CUT).await;
        cluster.links().heal();
        Ok(())
    };
    futures::try_join!(join, cut)?;
    cluster.converged(TRANSFER).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let seen = Seen {
        state_mb,
        sender_mb: megabytes(sender.peak_resident_bytes()?) - sender_before,
        receiver_mb: megabytes(receiver.peak_resident_bytes()?) - receiver_before,
        sent_mb: metric_mb(cluster, sender, SENT).await?,
        received_mb: metric_mb(cluster, receiver, RECEIVED).await?,
        resumed: cluster.metric(sender.index(), RESUMED).await?.unwrap_or(0.0),
        seconds,
        ready_s: 0.0,
    };
    Ok(Seen { ready_s: ready(cluster).await?, ..seen })
}

/// Kills the receiver, starts it, and waits until it answers a linearizable read.
async fn ready(cluster: &Cluster) -> Result<f64> {
    cluster.kill(&[1]).await?;
    let begin = Instant::now();
    cluster.restart(&[1]).await?;
    wait::until("a linearizable read", PATIENCE, || async {
        let found = cluster.node(1).values()?.get(&key(0), Level::Linearizable).await?;
        found.value.context("the value is gone")
    })
    .await?;
    Ok(begin.elapsed().as_secs_f64())
}

fn key(number: u64) -> String {
    format!("user/{number:06}")
}

async fn metric_mb(cluster: &Cluster, node: &Node, name: &str) -> Result<f64> {
    Ok(cluster.metric(node.index(), name).await?.unwrap_or(0.0) / 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one machine are far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn row(seen: &Seen, mib: u64) -> Row {
    let values = [
        ("sender extra MB", seen.sender_mb),
        ("receiver extra MB", seen.receiver_mb),
        ("sent MB", seen.sent_mb),
        ("received MB", seen.received_mb),
        ("resumed", seen.resumed),
        ("seconds", seen.seconds),
        ("ready s", seen.ready_s),
    ];
    let values = values.into_iter().filter_map(|(name, value)| Some((name, Spread::of(vec![value])?))).collect();
    Row { case: format!("a state of {mib} MiB, cut once"), clients: 0, success_rate: 1.0, values }
}

fn aims(seen: &Seen) -> Vec<Aim> {
    let memory = |side: &str, found: f64| Aim {
        what: format!("{side}: memory for the snapshot"),
        wanted: format!("below {EXTRA_MB_MAX} MB"),
        found: format!("{found:.1} MB"),
        met: found < EXTRA_MB_MAX,
    };
    let share = seen.sent_mb / seen.state_mb;
    vec![
        memory("sender", seen.sender_mb),
        memory("receiver", seen.receiver_mb),
        Aim {
            what: "the snapshot goes on where it was cut".to_owned(),
            wanted: "at least once".to_owned(),
            found: format!("{} times", seen.resumed),
            met: seen.resumed >= 1.0,
        },
        Aim {
            what: "bytes sent, of those of the state".to_owned(),
            wanted: format!("below {SENT_SHARE_MAX}"),
            found: format!("{share:.3}"),
            met: share < SENT_SHARE_MAX,
        },
        Aim {
            what: "from its start until a killed node with this state answers".to_owned(),
            wanted: format!("at most {READY_S_MAX} s"),
            found: format!("{:.2} s", seen.ready_s),
            met: seen.ready_s <= READY_S_MAX,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_aim_is_missed_by_itself() {
        let good = Seen {
            state_mb: 2_000.0,
            sender_mb: 60.0,
            receiver_mb: 120.0,
            sent_mb: 2_050.0,
            received_mb: 2_040.0,
            resumed: 1.0,
            seconds: 30.0,
            ready_s: 1.0,
        };
        let met = |seen: Seen| aims(&seen).iter().map(|aim| aim.met).collect::<Vec<bool>>();
        assert_eq!(met(good), [true; 5]);
        assert_eq!(met(Seen { sender_mb: 200.0, ..good }), [false, true, true, true, true]);
        assert_eq!(met(Seen { receiver_mb: 900.0, ..good }), [true, false, true, true, true]);
        assert_eq!(met(Seen { resumed: 0.0, ..good }), [true, true, false, true, true]);
        assert_eq!(met(Seen { sent_mb: 3_000.0, ..good }), [true, true, true, false, true]);
        assert_eq!(met(Seen { ready_s: 3.1, ..good }), [true, true, true, true, false]);
    }
}
