//! Static peers: a node that is told whom to speak to asks them alone, discovers nobody and is discovered by nobody.
//! What such nodes have of a model they give each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::cluster::{Runtime, copies, received_from, run_to_exit};
use ollamax_testkit::fake_registry::FakeModel;
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, Room, port, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::runtimes_up;
use crate::pull_from_a_registry::is_whole;
use crate::relay_only::{NAME, WEIGHTS_BYTES, registry};
use crate::spread::copy_on;

const PATIENCE: Duration = Duration::from_secs(30);
/// The number of which a registry in a room makes the weights of its model.
const SEED: u64 = 1;
/// The nodes: two that form a cluster by static peers, two that find each other by themselves, and one with a static
/// peer that nobody is.
const HOME: usize = 0;
const JOINER: usize = 1;
const OTHERS: [usize; 2] = [2, 3];
const MISLED: usize = 4;

/// One of the two fetches a model from the registry, and the other one, which reaches no registry, from that one.
async fn a_model_goes_from_one_to_the_other(cluster: &Cluster) -> Result<()> {
    runtimes_up(cluster, 2).await?;
    let told = cluster.pull(HOME, NAME, &["--node", "n1"]).await?;
    ensure!(told.status.success(), "{told:?}");
    wait::until("the other to know of the copy", PATIENCE, || async {
        let models = cluster.node(JOINER).admin()?.models(NAME).await?;
        ensure!(models.len() == 1 && models[0].copies.len() == 1, "{models:?}");
        anyhow::Ok(())
    })
    .await?;
    let told = cluster.pull(JOINER, NAME, &["--node", "n2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    let copies = copies(&told)?;
    let copy = copy_on(&copies, "n2")?;
    let (from_peer, from_origin) = (received_from(copy, "node/1"), received_from(copy, "origin"));
    ensure!(from_peer >= u64::from(WEIGHTS_BYTES) && from_origin == 0, "{copy}");
    is_whole(&cluster.node(JOINER).store(), &FakeModel::of(SEED, WEIGHTS_BYTES.into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_peers_are_asked_alone_and_nobody_is_discovered() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("static_peers", Need::Network).await? {
        return Ok(());
    }
    let [here, there] = Room::joined_by_a_cable().await?.map(Arc::new);
    let home_port = port::free()?;
    let home_peer = format!("{}:{home_port}", here.address().context("a room with a network")?);
    let nobody = format!("127.0.0.1:{}", port::free()?);
    let fixed = |peer: &str| ("static-peers".to_owned(), peer.to_owned());
    let (registry_url, _registry) = registry(&here).await?;
    let asked = |url: &str| ("transfer.registry_url".to_owned(), url.to_owned());
    let mut plan = Cluster::builder("static-peers")
        .nodes(5)
        .setting("transfer.spare_bytes_min", 0)
        .setting("transfer.spare_percent", 0)
        .setting("runtime.models_interval_ms", 200);
    for (index, room) in [&here, &there, &there, &here, &there].into_iter().enumerate() {
        plan = plan.node(index, |node| node.room = Some(Arc::clone(room)));
    }
    for (index, url) in [(HOME, registry_url.as_str()), (JOINER, "http://127.0.0.1:9")] {
        plan = plan.node(index, |node| {
            node.runtime = Runtime::FakeStore(Box::default());
            node.settings.push(asked(url));
        });
    }
    let cluster = plan
        .node(HOME, |node| node.settings.push(("peer.listen".to_owned(), format!("0.0.0.0:{home_port}"))))
        .node(HOME, |node| node.settings.push(fixed(&home_peer)))
        .node(JOINER, |node| node.settings.push(fixed(&home_peer)))
        .node(MISLED, |node| node.settings.push(fixed(&nobody)))
        .unformed()
        .start()
        .await?;
    let (home, other) = (cluster.node(HOME).admin()?, cluster.node(OTHERS[0]).admin()?);
    home.init("home", "n1").await?;
    other.init("other", "n3").await?;
    let token = home.create_token("voter", 3).await?;

    // By the token alone, and at once: there is nothing to be found first.
    let reply = cluster.node(JOINER).admin()?.join(&token, Vec::new(), "n2").await?;
    ensure!(reply.cluster_name == "home" && reply.node_id == 2, "{reply:?}");
    cluster.set(JOINER, "over", b"static peers").await?;
    a_model_goes_from_one_to_the_other(&cluster).await?;

    // Those that discover find each other, and none of those that do not.
    let other_token = other.create_token("voter", 3).await?;
    let newcomer = cluster.node(OTHERS[1]).admin()?;
    let refused = newcomer.join(&token, Vec::new(), "n4").await.err();
    let refused = refused.context("it found a node that is not to be found")?;
    ensure!([Some(ErrorCode::PeerUnreachable), Some(ErrorCode::TokenInvalid)].contains(&refused.code), "{refused}");
    let reply =
        wait::until("the others to find each other", PATIENCE, || newcomer.join(&other_token, Vec::new(), "n4"))
            .await?;
    ensure!(reply.cluster_name == "other", "{reply:?}");

    // It does not go to those that it could find by now.
    let misled = cluster.node(MISLED).admin()?.join(&other_token, Vec::new(), "n5").await;
    let misled = misled.err().context("it asked somebody who is no static peer")?;
    ensure!(misled.code == Some(ErrorCode::PeerUnreachable), "{misled}");
    ensure!(misled.to_string().contains(&nobody), "{misled}");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_peers_beside_seeds_of_discovery_are_refused_at_the_start() -> Result<()> {
    let home = tempfile::tempdir().context("a directory")?;
    let data_dir = home.path().join("data").display().to_string();
    let words = ["run", "--data-dir", &data_dir, "--static-peers", "a.lan:11436", "--p2p.seeds", "b.lan:11437"];
    let told = run_to_exit("ollamax-node", &words, PATIENCE).await?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(!told.status.success() && said.contains("p2p.seeds: not together with p2p.static_peers"), "{said}");
    ensure!(!home.path().join("data").exists(), "it made its directory");
    Ok(())
}
