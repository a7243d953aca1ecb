//! A byte that arrives wrong between two nodes: TLS refuses what it is part of, so it never comes to the chunk's hash;
//! the connection is made anew, the model arrives whole, and nobody is blamed for it.

use anyhow::{Context, Result, ensure};

use ollamax_testkit::FakeRegistry;
use ollamax_testkit::cluster::received_from;
use ollamax_testkit::{Cluster, wait};

use crate::model_owners::PATIENCE;
use crate::pull_from_a_registry::{model, pulled};
use crate::spread::{SLOW, TWICE_BYTES_MAX, WEIGHTS_BYTES, came_once, copy_on, is_everywhere, spread, start};

/// Pieces so large are of chunks: what else nodes say to each other is short.
const PIECE_BYTES: usize = 32 << 10;
/// The one that has the model and the one that gets it.
const ENDS: [usize; 2] = [0, 2];

/// How often these nodes have opened a connection to another.
async fn dials(cluster: &Cluster) -> Result<f64> {
    let mut sum = 0.0;
    for index in ENDS {
        let dials = cluster.metric(index, "ollamax_peer_dials_total").await?;
        sum += dials.with_context(|| format!("node {index} tells of no dials"))?;
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_that_is_flipped_in_flight_costs_a_connection_and_no_chunk() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(221, WEIGHTS_BYTES);
    let digest = registry.push("flight", &model);
    let cluster = start("flipped-in-flight", &registry).await?;
    pulled(&cluster.pull(0, "flight", &["--node", "n1"]).await?)?;

    let [here, there] = ENDS;
    cluster.links().set_both(here, there, SLOW);
    let spoils = async {
        cluster.pulled_up_to(there, "flight", WEIGHTS_BYTES / 3, PATIENCE).await?;
        let before = dials(&cluster).await?;
        // Who of them called is the nodes' affair.
        cluster.links().flip(here, there, PIECE_BYTES);
        cluster.links().flip(there, here, PIECE_BYTES);
        wait::until_true("a byte to be flipped", PATIENCE, || async { cluster.links().flipped() > 0 }).await?;
        wait::until("a connection to be made anew", PATIENCE, || async {
            let now = dials(&cluster).await?;
            ensure!(now > before, "{now} dials, {before} before");
            anyhow::Ok(())
        })
        .await
    };
    let told = cluster.pull(0, "flight", &["--node", "n1,n3"]);
    let (told, ()) = tokio::try_join!(told, spoils)?;

    let copies = spread(&told, &["n1", "n3"], digest)?;
    is_everywhere(&cluster, &ENDS, &model).await?;
    came_once(&registry, &model)?;
    let copy = copy_on(&copies, "n3")?;
    let (sent, total) = (received_from(copy, "node/"), copy["totalBytes"].as_u64().unwrap_or_default());
    ensure!(sent <= total + TWICE_BYTES_MAX && received_from(copy, "origin") == 0, "{copy}");
    for index in ENDS {
        for counted in ["ollamax_transfer_chunks_damaged_total", "ollamax_transfer_peer_strikes_total"] {
            let counts = cluster.metric(index, counted).await?;
            ensure!(counts.is_none_or(|counts| counts == 0.0), "node {index}: {counted} is {counts:?}");
        }
    }
    cluster.finish().await
}
