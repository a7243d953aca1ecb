//! Two machines in one lab find each other without any address, and only those of their own cluster.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, Room, wait};
use ollamax_types::ErrorCode;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_by_token_alone_and_is_not_led_to_another_cluster() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("met_by_mdns", Need::Network).await? {
        return Ok(());
    }
    let [here, there] = Room::joined_by_a_cable().await?.map(Arc::new);
    // The home cluster on one machine; a foreign one and the newcomer on the other.
    let cluster = Cluster::builder("mdns")
        .nodes(3)
        .node(0, |plan| plan.room = Some(Arc::clone(&here)))
        .node(1, |plan| plan.room = Some(Arc::clone(&there)))
        .node(2, |plan| plan.room = Some(Arc::clone(&there)))
        .unformed()
        .start()
        .await?;
    let (home, foreign, newcomer) = (cluster.node(0).admin()?, cluster.node(1).admin()?, cluster.node(2).admin()?);
    home.init("home", "n1").await?;
    foreign.init("foreign", "n2").await?;
    let token = home.create_token("voter", 1).await?;

    // Every attempt goes by what was found until then: nobody, the foreign cluster alone, or both.
    let reply = wait::until("the newcomer to find its cluster", PATIENCE, || async {
        let answer = newcomer.join(&token, Vec::new(), "n3").await;
        if let Err(error) = &answer {
            let early = [Some(ErrorCode::PeerUnreachable), Some(ErrorCode::TokenInvalid)];
            ensure!(early.contains(&error.code), "not a question of who was found: {error}");
        }
        Ok(answer?)
    })
    .await?;
    ensure!(reply.cluster_name == "home" && reply.node_id == 2, "{reply:?}");
    let address = |index: usize| cluster.node(index).advertised();
    wait::until("both machines to see both members", PATIENCE, || async {
        for index in [0, 2] {
            let status = cluster.status(index).await?;
            let mut shown: Vec<&str> =
                status.nodes.iter().flat_map(|node| &node.peer_addresses).map(String::as_str).collect();
            shown.sort_unstable();
            ensure!(shown == [address(0), address(2)], "node {index} shows {shown:?}");
        }
        Ok(())
    })
    .await?;
    cluster.set(2, "over", b"the cable").await?;
    let foreigners = cluster.status(1).await?.nodes.len();
    ensure!(foreigners == 1, "the foreign cluster has {foreigners} members");
    let lost = foreign.get("over", true).await.context("the foreign cluster answers")?;
    ensure!(lost.is_none(), "a change of one cluster arrived in the other");
    cluster.finish().await
}
