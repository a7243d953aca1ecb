//! A machine joins only where a member can connect back to it, or where the machine's own libp2p connection may carry
//! what the member has to say; then it joins without a vote. A closed port is told with the command that opens it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use ollamax_proto::v1::status_reply::Phase;
use ollamax_testkit::{Cluster, port};
use ollamax_types::ErrorCode;

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// The node of which nobody can be told a good address.
const CLOSED: usize = 1;
/// Nodes that tell a closed address beside their own.
const HALF_OPEN: [usize; 2] = [2, 3];
/// As [`CLOSED`], with lanes.
const CLOSED_WITH_LANES: usize = 4;

/// How often the token may still be used, as an administrator sees it.
async fn uses_left(cluster: &Cluster, token: &str) -> Result<u64> {
    let listed = cluster.node(0).ollamax(&["-o", "json", "token", "list"], COMMAND_LIMIT).await?;
    let listed: Value = serde_json::from_slice(&listed.stdout).with_context(|| format!("{listed:?}"))?;
    let is_own = |entry: &&Value| entry["id"].as_str().is_some_and(|id| token.contains(id));
    let own = listed["tokens"].as_array().into_iter().flatten().find(is_own);
    own.and_then(|entry| entry["usesLeft"].as_u64()).with_context(|| format!("not on record: {listed}"))
}

/// Joins in vain, as a person and as a program, at the node that nobody reaches at this address.
async fn is_refused(cluster: &Cluster, token: &str, closed: &str) -> Result<()> {
    let (node, seed) = (cluster.node(CLOSED), cluster.node(0).advertised());
    let peer = node.facts()?.peer;
    let (_, port) = peer.rsplit_once(':').context("its peer port")?;
    let opens = format!("sudo ufw allow {port}/tcp");

    let told = node.ollamax(&["join", token, "--peer", &seed], COMMAND_LIMIT).await?;
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    ensure!(told.status.code() == Some(7), "{}: {said}", told.status);
    let lines: Vec<&str> = said.lines().collect();
    let [error, why, next, id] = lines[..] else { bail!("not error, why, try and id: {said}") };
    ensure!(error.contains("cannot connect back") && why.contains(closed), "{said}");
    ensure!(next.contains(&opens) && next.contains("peer.advertise") && next.contains("p2p.lanes = true"), "{said}");
    ensure!(id.starts_with("  request_id: "), "{said}");

    let told = node.ollamax(&["-o", "json", "join", token, "--peer", &seed], COMMAND_LIMIT).await?;
    let error: Value = serde_json::from_slice(&told.stderr).with_context(|| format!("{told:?}"))?;
    ensure!(told.status.code() == Some(7) && error["exit"] == 7, "{}: {error}", told.status);
    ensure!(error["code"] == ErrorCode::PeerUnreachable.as_str(), "{error}");
    ensure!(error["next"].as_str().is_some_and(|next| next.contains(&opens)), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_reached_back_is_refused_and_one_good_address_is_enough() -> Result<()> {
    let _turn = crate::turn().await;
    // Nobody listens there, and no other node of this test gets it. An address without a port gets the listener's.
    let closed = format!("127.0.0.1:{}", port::free()?);
    let told = |addresses: String| ("peer.advertise".to_owned(), addresses);
    let mut plan = Cluster::builder("reach-back")
        .nodes(5)
        .node(CLOSED, |node| node.settings.extend([told(closed.clone()), ("p2p.lanes".to_owned(), "false".to_owned())]))
        .node(CLOSED_WITH_LANES, |node| node.settings.push(told(closed.clone())));
    for index in HALF_OPEN {
        plan = plan.node(index, |node| node.settings.push(told(format!("{closed},127.0.0.1"))));
    }
    let cluster = plan.unformed().start().await?;
    let home = cluster.node(0).admin()?;
    home.init("home", "n1").await?;
    let token = home.create_token("voter", 3).await?;

    is_refused(&cluster, &token, &closed).await?;
    ensure!(uses_left(&cluster, &token).await? == 3, "refusals spent the token");
    let (members, phase) = (cluster.status(0).await?.nodes.len(), cluster.status(CLOSED).await?.phase());
    ensure!(members == 1 && phase == Phase::Waiting, "{members} members; the refused node: {phase:?}");

    let seed = cluster.node(0).advertised();
    let [by_person, by_program] = HALF_OPEN.map(|index| cluster.node(index));
    let joined = by_person.ollamax(&["join", &token, "--peer", &seed], COMMAND_LIMIT).await?;
    let (out, said) = (String::from_utf8_lossy(&joined.stdout), String::from_utf8_lossy(&joined.stderr));
    ensure!(joined.status.success(), "{}: {said}", joined.status);
    ensure!(out.contains("This node joined: ") && out.contains("of cluster home"), "{out}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    let [warning] = warnings[..] else { bail!("warnings: {said}") };
    ensure!(warning.starts_with(&format!("warning: {closed} was not reached back: ")), "{warning}");

    let joined = by_program.ollamax(&["-o", "json", "join", &token, "--peer", &seed], COMMAND_LIMIT).await?;
    ensure!(joined.status.success() && joined.stderr.is_empty(), "{joined:?}");
    let membership: Value = serde_json::from_slice(&joined.stdout).with_context(|| format!("{joined:?}"))?;
    ensure!(membership["unreachedAddresses"] == json!([closed]) && membership["way"] == "tcp", "{membership}");

    let hidden = cluster.node(CLOSED_WITH_LANES);
    let joined = hidden.ollamax(&["-o", "json", "join", &token, "--peer", &seed], COMMAND_LIMIT).await?;
    ensure!(joined.status.success() && joined.stderr.is_empty(), "{joined:?}");
    let membership: Value = serde_json::from_slice(&joined.stdout).with_context(|| format!("{joined:?}"))?;
    ensure!(membership["unreachedAddresses"] == json!([closed]) && membership["way"] == "p2p", "{membership}");
    ensure!(uses_left(&cluster, &token).await? == 0, "three have joined with it");
    let status = cluster.status(0).await?;
    let roles: Vec<&str> = status.nodes.iter().map(|node| node.role.as_str()).collect();
    ensure!(roles == ["voter", "voter", "voter", "learner"], "{roles:?}");
    for index in [HALF_OPEN[0], HALF_OPEN[1], CLOSED_WITH_LANES] {
        cluster.set(index, "through", b"a node with one good way").await?;
    }
    cluster.finish().await
}
