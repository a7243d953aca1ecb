//! No acknowledged change is lost, whoever is killed: thirty rounds, all nodes at once among them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;

use ollamax_testkit::{Cluster, Seed, wait};

use crate::acknowledged::{Acknowledged, read_back, write};

const ROUNDS: usize = 30;
const ACKNOWLEDGED_EACH: usize = 200;
const WRITERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(40);

/// Who dies in a round, and after how many acknowledged writes.
#[derive(Debug)]
struct Blow {
    victims: Vec<usize>,
    after: usize,
    down: Duration,
}

fn choose_blow(round: usize, nodes: usize, chance: &mut StdRng) -> Blow {
    let everybody = round.is_multiple_of(6);
    let mut victims: Vec<usize> = (0..nodes).filter(|_| everybody || chance.random_bool(0.45)).collect();
    if victims.is_empty() {
        victims.push(chance.random_range(0..nodes));
    }
    let after = chance.random_range(20..ACKNOWLEDGED_EACH - 20);
    Blow { victims, after, down: Duration::from_millis(chance.random_range(0..400)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_seeded_kills_lose_no_acknowledged_write() -> Result<()> {
    let _turn = crate::turn().await;
    let seed = Seed::choose("thirty_kills", 20_260_101);
    let mut chance = seed.generator(1);
    let cluster = Cluster::builder("thirty-kills").setting("raft.snapshot_every", 1_000).start().await?;
    let mut all = BTreeMap::new();
    for round in 0..ROUNDS {
        let blow = choose_blow(round, cluster.size(), &mut chance);
        let written = one_round(&cluster, round, &blow).await.with_context(|| format!("round {round}: {blow:?}"))?;
        all.extend(written);
    }
    ensure!(all.len() >= ROUNDS * ACKNOWLEDGED_EACH, "only {} writes were acknowledged", all.len());
    read_back(&cluster, "kills/", &all).await?;
    cluster.finish().await
}

async fn one_round(cluster: &Cluster, round: usize, blow: &Blow) -> Result<BTreeMap<String, Vec<u8>>> {
    let (acknowledged, prefix) = (Acknowledged::default(), format!("kills/{round:02}/"));
    let writers = join_all((0..WRITERS).map(|writer| write(cluster, &prefix, writer, &acknowledged)));
    let strike = async {
        let count = || acknowledged.count.load(Ordering::SeqCst);
        wait::until_true("writes before the blow", PATIENCE, || async { count() >= blow.after }).await?;
        cluster.kill(&blow.victims).await?;
        wait::pause(blow.down).await;
        cluster.restart(&blow.victims).await?;
        wait::until_true("writes after the blow", PATIENCE, || async { count() >= ACKNOWLEDGED_EACH }).await
    };
    let struck = async {
        let struck = strike.await;
        acknowledged.enough.store(true, Ordering::SeqCst);
        struck
    };
    let (_, struck) = futures::join!(writers, struck);
    struck?;
    cluster.converged(PATIENCE).await?;
    let written = acknowledged.writes.into_inner().expect("no writer panics");
    read_back(cluster, &prefix, &written).await?;
    Ok(written)
}
