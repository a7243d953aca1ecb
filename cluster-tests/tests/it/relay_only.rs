//! Nodes that nobody can dial: they join, fetch, serve chunks and answer chats over the libp2p connections that they
//! have made themselves, and through a member that relays between them.
//!
//! The leaves of a star have no route to each other, and the daemons in them listen on their own loopback alone. So
//! every byte between them goes through the daemon in the hub.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::status_reply::Phase;
use ollamax_testkit::cluster::{Builder, Runtime, binary, chat_body, copies, received_from};
use ollamax_testkit::room::Need;
use ollamax_testkit::{Cluster, Room, port, wait};
use ollamax_types::ErrorCode;

use crate::model_owners::runtimes_up;
use crate::pull_from_a_registry::refused;
use crate::spread::copy_on;

/// Longest wait: what a node takes itself for is found out with some pauses.
const PATIENCE: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Where the registry listens in its room.
const REGISTRY_PORT: u16 = 5_000;
pub(crate) const NAME: &str = "hidden";
/// Two chunks and a part of one.
pub(crate) const WEIGHTS_BYTES: u32 = 9_000_000;
/// The nodes: the hub, and the two leaves.
const HUB: usize = 0;
const LEAVES: [usize; 2] = [1, 2];

/// Listeners that nobody outside the room reaches.
fn hidden() -> Result<Vec<(String, String)>> {
    let at = |key: &str| anyhow::Ok((key.to_owned(), format!("127.0.0.1:{}", port::free()?)));
    Ok(vec![at("peer.listen")?, at("p2p.listen")?])
}

/// A plan whose first node is in the hub.
fn plan(test: &str, nodes: usize, hub: &Arc<Room>) -> Builder {
    Cluster::builder(test)
        .nodes(nodes)
        .setting("p2p.mdns", false)
        .setting("transfer.spare_bytes_min", 0)
        .setting("transfer.spare_percent", 0)
        .setting("runtime.models_interval_ms", 200)
        .node(HUB, |node| node.room = Some(Arc::clone(hub)))
        .unformed()
}

/// A registry in a room that has one model, and where it listens. It ends with its process.
pub(crate) async fn registry(room: &Room) -> Result<(String, Child)> {
    let address = room.address().context("a room with a network")?;
    let mut command = room.command(&binary("fake-registry")?);
    command.args(["--listen", &format!("{address}:{REGISTRY_PORT}"), "--model", NAME, "--capability", "completion"]);
    command.args(["--weights-bytes", &WEIGHTS_BYTES.to_string()]).stdout(Stdio::piped());
    let mut process = command.spawn().context("start a registry in a room")?;
    let said = process.stdout.take().context("its standard output")?;
    let line = timeout(PATIENCE, BufReader::new(said).lines().next_line()).await.context("it does not listen")??;
    let line: Value = serde_json::from_str(&line.context("it ended at once")?).context("read its line")?;
    let url = line["listening"].as_str().context("it says where it listens")?;
    Ok((url.to_owned(), process))
}

/// A cluster of the hub and two leaves. The first leaf reaches the registry; the second has none that answers.
/// `reach` is what each leaf is told of itself.
async fn star(test: &str, reach: [&str; 2]) -> Result<(Cluster, Child)> {
    let (hub, leaves) = Room::star(2).await?;
    let hub = Arc::new(hub);
    let (url, registry) = registry(&hub).await?;
    let mut plan = plan(test, 3, &hub);
    let told = [(reach[0], url), (reach[1], "http://127.0.0.1:9".to_owned())];
    for ((index, room), (reach, registry)) in LEAVES.into_iter().zip(leaves).zip(told) {
        let mut settings = hidden()?;
        settings.push(("p2p.reach".to_owned(), reach.to_owned()));
        settings.push(("transfer.registry_url".to_owned(), registry));
        plan = plan.node(index, |node| {
            node.room = Some(Arc::new(room));
            node.runtime = Runtime::FakeStore(Box::default());
            node.settings.extend(settings);
        });
    }
    let cluster = plan.start().await?;
    cluster.node(HUB).admin()?.init("home", "n1").await?;
    Ok((cluster, registry))
}

/// Where a leaf reaches the hub.
fn seed(cluster: &Cluster, leaf: usize) -> Result<String> {
    let advertised = cluster.node(HUB).advertised();
    let (_, port) = advertised.rsplit_once(':').context("host and port")?;
    Ok(format!("10.77.{leaf}.1:{port}"))
}

/// Both leaves join with tokens that would give them a vote.
async fn join(cluster: &Cluster) -> Result<()> {
    let token = cluster.node(HUB).admin()?.create_token("voter", 2).await?;
    let [by_person, by_program] = LEAVES;
    let at = seed(cluster, by_person)?;
    let words = ["join", &token, "--peer", &at];
    let told = cluster.node(by_person).ollamax(&words, COMMAND_LIMIT).await?;
    let said = String::from_utf8_lossy(&told.stderr);
    ensure!(told.status.success(), "{}: {said}", told.status);
    ensure!(said.contains("warning: no member can dial this node; it joined over its own connections"), "{said}");
    let at = seed(cluster, by_program)?;
    let words = ["-o", "json", "join", &token, "--peer", &at];
    let told = cluster.node(by_program).ollamax(&words, COMMAND_LIMIT).await?;
    ensure!(told.status.success(), "{told:?}");
    let membership: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    ensure!(membership["way"] == "p2p", "{membership}");
    all_hear_all(cluster).await
}

/// Waits until every node hears all others, the leaves each other too. No leaf votes.
async fn all_hear_all(cluster: &Cluster) -> Result<()> {
    wait::until("every node to hear all others", PATIENCE, || async {
        for (index, status) in cluster.statuses().await? {
            let alive = status.nodes.iter().filter(|node| node.health() == Health::Alive).count();
            ensure!(alive == cluster.size(), "node {index} hears {alive}, itself included");
            let voters: Vec<&str> =
                status.nodes.iter().filter(|node| node.voter).map(|node| node.name.as_str()).collect();
            ensure!(voters == ["n1"], "node {index} sees votes of {voters:?}");
        }
        Ok(())
    })
    .await
}

/// How one node last reached another one.
async fn way(cluster: &Cluster, from: usize, to: &str) -> Result<String> {
    let status = cluster.status(from).await?;
    let node = status.nodes.iter().find(|node| node.name == to).with_context(|| format!("no node {to}"))?;
    Ok(node.way.clone())
}

/// A metric of a node, which must be this or more.
async fn is_at_least(cluster: &Cluster, index: usize, (name, labels): (&str, &[&str]), least: f64) -> Result<()> {
    let found = cluster.node(index).metric_inside(name, labels).await?;
    ensure!(found.is_some_and(|found| found >= least), "node {index}: {name} {labels:?}: {found:?}, wanted {least}");
    Ok(())
}

async fn chat(cluster: &Cluster, index: usize) -> Result<()> {
    let answer = cluster.node(index).ask("POST", "/api/chat", &chat_body(NAME, "hello", false).to_string()).await?;
    ensure!(answer.status == 200 && answer.body.contains("\"done\":true"), "{answer:?}");
    Ok(())
}

/// What `ollamax doctor` finds at a node.
async fn checks(cluster: &Cluster, index: usize) -> Result<Vec<Value>> {
    let told = cluster.node(index).ollamax(&["-o", "json", "doctor"], COMMAND_LIMIT).await?;
    let page: Value = serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))?;
    page["checks"].as_array().cloned().with_context(|| format!("no checks: {page}"))
}

/// The first leaf fetches the model from the registry; only it has it.
async fn fetch(cluster: &Cluster) -> Result<()> {
    runtimes_up(cluster, LEAVES.len()).await?;
    let told = cluster.pull(LEAVES[0], NAME, &["--node", "n2"]).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.model_known(NAME, 1, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_none_can_dial_joins_fetches_serves_chunks_and_serves_inference() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("relay_only", Need::Network).await? {
        return Ok(());
    }
    // The second finds out by itself.
    let (cluster, _registry) = star("relay-only", ["relayed", "auto"]).await?;
    join(&cluster).await?;
    wait::until("the second leaf to know that none can dial it", PATIENCE, || {
        is_at_least(&cluster, 2, ("ollamax_p2p_reach", &["reach=\"relayed\""]), 1.0)
    })
    .await?;

    fetch(&cluster).await?;
    wait::until("a chat at the other leaf", PATIENCE, || chat(&cluster, 2)).await?;
    ensure!(way(&cluster, 2, "n2").await? == "relayed" && way(&cluster, HUB, "n2").await? == "p2p", "other ways");

    let told = cluster.pull(2, NAME, &["--node", "n3"]).await?;
    ensure!(told.status.success(), "{told:?}");
    let copies = copies(&told)?;
    let copy = copy_on(&copies, "n3")?;
    let received = received_from(copy, "node/2");
    ensure!(received >= u64::from(WEIGHTS_BYTES) && received_from(copy, "origin") == 0, "{copy}");
    let bulk = ("ollamax_peer_bytes_total", &["class=\"bulk\"", "way=\"relayed\""][..]);
    is_at_least(&cluster, 2, bulk, f64::from(WEIGHTS_BYTES)).await?;
    is_at_least(&cluster, HUB, ("ollamax_relay_circuits", &[]), 1.0).await?;
    for label in ["node=\"2\"", "node=\"3\""] {
        is_at_least(&cluster, HUB, ("ollamax_peer_rtt_seconds", &[label]), f64::MIN_POSITIVE).await?;
    }

    let found = checks(&cluster, 2).await?;
    let of_way = "only over this node's own libp2p connections";
    for (id, outcome, found_so) in [
        ("reach_back", "warning", of_way),
        ("reachability", "ok", "n1 at 10.77.2.1:"),
        ("reachability", "ok", "n2 through a relay"),
    ] {
        let is_it = |check: &Value| check["found"].as_str().is_some_and(|found| found.contains(found_so));
        let is_there = found.iter().any(|check| check["id"] == id && check["outcome"] == outcome && is_it(check));
        ensure!(is_there, "{id} should say {found_so:?}: {found:?}");
    }

    cluster.set(2, "over", b"the relay").await?;
    for index in 0..cluster.size() {
        wait::until("the change to arrive", PATIENCE, || async {
            let found = cluster.get(index, "over", true).await?;
            ensure!(found.as_deref() == Some(&b"the relay"[..]), "node {index} has {found:?}");
            Ok(())
        })
        .await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_leaf_is_cut_off() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("a_removed_leaf", Need::Network).await? {
        return Ok(());
    }
    let (cluster, _registry) = star("removed-leaf", ["relayed", "relayed"]).await?;
    join(&cluster).await?;
    is_at_least(&cluster, HUB, ("ollamax_relay_circuits", &[]), 1.0).await?;
    cluster.node(HUB).admin()?.remove("n3", true).await?;
    wait::until("the removed leaf to be cut off", PATIENCE, || async {
        let phase = cluster.status(2).await?.phase();
        ensure!(phase == Phase::Removed, "it takes itself for {phase:?}");
        for (name, most) in [("ollamax_relay_circuits", 0.0), ("ollamax_relay_reservations", 1.0)] {
            let found = cluster.node(HUB).metric_inside(name, &[]).await?;
            ensure!(found.is_some_and(|found| found <= most), "{name}: {found:?}");
        }
        Ok(())
    })
    .await?;
    let status = cluster.status(1).await?;
    let present = status.nodes.iter().filter(|node| node.state() != State::Departed).count();
    ensure!(present == 2, "the other leaf sees {present} members");
    cluster.set(1, "over", b"a connection that stays").await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_hub_is_found_again() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("a_restarted_hub", Need::Network).await? {
        return Ok(());
    }
    let (cluster, _registry) = star("restarted-hub", ["relayed", "relayed"]).await?;
    join(&cluster).await?;
    fetch(&cluster).await?;
    wait::until("a chat before", PATIENCE, || chat(&cluster, 2)).await?;
    cluster.kill(&[HUB]).await?;
    cluster.restart(&[HUB]).await?;
    wait::until("a chat through the hub that came back", PATIENCE, || chat(&cluster, 2)).await?;
    all_hear_all(&cluster).await?;
    cluster.set(2, "after", b"the restart").await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_dialled_gets_no_vote_and_without_lanes_no_membership() -> Result<()> {
    let _turn = crate::turn().await;
    if crate::left_out("no_vote_without_an_address", Need::Network).await? {
        return Ok(());
    }
    let (hub, mut leaves) = Room::star(1).await?;
    let (hub, leaf) = (Arc::new(hub), Arc::new(leaves.pop().context("a star of one leaf")?));
    let mut plan = plan("no-vote", 3, &hub);
    for (index, lanes) in LEAVES.into_iter().zip(["true", "false"]) {
        let mut settings = hidden()?;
        settings.push(("p2p.lanes".to_owned(), lanes.to_owned()));
        plan = plan.node(index, |node| {
            node.room = Some(Arc::clone(&leaf));
            node.settings.extend(settings);
        });
    }
    let cluster = plan.start().await?;
    let home = cluster.node(HUB).admin()?;
    home.init("home", "n1").await?;
    let (token, seed) = (home.create_token("voter", 1).await?, seed(&cluster, 1)?);
    let words = ["-o", "json", "join", &token, "--peer", &seed];

    let told = cluster.node(1).ollamax(&[&words[..], &["--role", "voter"]].concat(), COMMAND_LIMIT).await?;
    let (code, error) = refused(&told)?;
    ensure!(code == ErrorCode::PreconditionFailed.as_str(), "{error}");
    let next = error["next"].as_str().unwrap_or_default();
    ensure!(next.starts_with("ollamax join TOKEN --role learner"), "{error}");

    let told = cluster.node(2).ollamax(&words, COMMAND_LIMIT).await?;
    let (code, error) = refused(&told)?;
    ensure!(code == ErrorCode::PeerUnreachable.as_str() && told.status.code() == Some(7), "{error}");
    ensure!(error["next"].as_str().is_some_and(|next| next.contains("p2p.lanes = true")), "{error}");
    let members = cluster.status(HUB).await?.nodes.len();
    ensure!(members == 1, "{members} members");

    let told = cluster.node(1).ollamax(&words, COMMAND_LIMIT).await?;
    ensure!(told.status.success(), "the refusals spent the token: {told:?}");
    cluster.finish().await
}
