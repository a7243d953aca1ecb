//! `ollamax status`: one sentence of health, what needs attention, the next command.

use serde_json::{Value, json};

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{Attention, NodeView, StatusReply, StatusRequest};

use crate::args::{Global, Output};
use crate::client;
use crate::command::node;
use crate::error::Failure;
use crate::{output, text};

/// Age of this node's view above which the page says so, milliseconds.
const VIEW_AGE_SHOWN_MS: u64 = 3_000;

/// Asks the node; exit code 10 when something needs attention that is more than advice.
pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let reply = client::connect(global).await?.status(StatusRequest {}).await?.into_inner();
    if global.output == Output::Json {
        output::json("Status", shown(&reply))?;
    } else {
        output::text(&page(&reply))?;
    }
    if is_degraded(&reply) { Err(Failure::degraded()) } else { Ok(()) }
}

fn is_degraded(reply: &StatusReply) -> bool {
    let harmless = ["two_voters", "digest_conflict", "copy_left_out", "api_open", "transfers_off", "not_initialised"];
    reply.attention.iter().any(|entry| !harmless.contains(&entry.id.as_str()))
}

/// The whole page.
pub(crate) fn page(reply: &StatusReply) -> String {
    let mut page = sentence(reply) + "\n";
    page += &borne(reply).unwrap_or_default();
    if let Some(line) = age(reply) {
        page += &line;
    }
    if !reply.attention.is_empty() {
        page += "\nNeeds attention:\n";
        for Attention { what, why, next, .. } in &reply.attention {
            // Some of it was said by a registry or another program.
            let [what, why, next] = [what, why, next].map(|said| text::whole_line(said));
            page += &format!("  ! {what}\n      why: {why}\n      try: {next}\n");
        }
    }
    if matches!(reply.phase(), Phase::Waiting | Phase::Removed) {
        return page;
    }
    page += "\n";
    page += &node::table(&reply.nodes);
    page += &format!("\nNext: {}\n", next(reply));
    page
}

fn sentence(reply: &StatusReply) -> String {
    match reply.phase() {
        Phase::Waiting => return format!("Node {} runs and belongs to no cluster yet.", reply.node_name),
        Phase::Joining => return format!("Node {} waits for the state of its cluster.", reply.node_name),
        Phase::Removed => return format!("Node {} was removed from its cluster.", reply.node_name),
        Phase::Stopping | Phase::Member | Phase::Unspecified => {}
    }
    let present: Vec<&NodeView> = reply.nodes.iter().filter(|node| node.state() != State::Departed).collect();
    let alive = present.iter().filter(|node| node.health() == Health::Alive).count();
    let raft = reply.raft.clone().unwrap_or_default();
    let health = match (raft.has_quorum, alive == present.len()) {
        (true, true) => "healthy",
        (true, false) => "serving, with nodes missing",
        (false, _) => "without a quorum: inference goes on, changes wait",
    };
    let leader = present.iter().find(|node| node.leader).filter(|_| raft.has_quorum);
    let leader = leader.map_or_else(|| "nobody leads".to_owned(), |node| format!("{} leads", node.name));
    format!(
        "Cluster {} is {health}: {alive} of {} alive, {}, {leader}.",
        reply.cluster_name,
        text::count(present.len(), "node"),
        text::count(raft.voters.len(), "voter"),
    )
}

/// How many failures the cluster bears, where it can bear any.
fn borne(reply: &StatusReply) -> Option<String> {
    let raft = reply.raft.as_ref().filter(|raft| raft.has_quorum && raft.voters.len() > 2)?;
    Some(match raft.failure_tolerance as usize {
        0 => "No other voter may fail: the next one stops changes, not inference.\n".to_owned(),
        count => format!("{} may fail before changes stop.\n", text::count(count, "voter")),
    })
}

/// Where the answer comes from and how old it is, when no leader stands behind it.
pub(crate) fn age(reply: &StatusReply) -> Option<String> {
    let view = reply.view.as_ref()?;
    let raft = reply.raft.as_ref()?;
    (view.age_ms > VIEW_AGE_SHOWN_MS && !raft.has_quorum).then(|| {
        let age = match view.age_ms {
            u64::MAX => "none since its daemon started".to_owned(),
            ms => format!("{} ago", text::span(ms)),
        };
        format!(
            "This is the view of node {} at index {}; last contact with a leader: {age}.\n",
            reply.node_id, view.applied_index
        )
    })
}

fn next(reply: &StatusReply) -> String {
    if let Some(first) = reply.attention.first() {
        return text::whole_line(&first.next);
    }
    if reply.phase() == Phase::Joining {
        return "ollamax status; a member sends the state by itself, whatever command began this".to_owned();
    }
    let models: u32 = reply.nodes.iter().map(|node| node.models).sum();
    match (reply.nodes.len(), models) {
        (1, _) => "ollamax token create, then ollamax join on the next machine".to_owned(),
        (_, 0) => "ollamax model pull NAME".to_owned(),
        _ => "ollamax model list; ollamax run MODEL".to_owned(),
    }
}

/// Where the answer comes from.
pub(crate) fn view(reply: &StatusReply) -> Value {
    let view = reply.view.unwrap_or_default();
    let age = if view.age_ms == u64::MAX { Value::Null } else { view.age_ms.into() };
    json!({"node": reply.node_id, "appliedIndex": view.applied_index, "ageMs": age})
}

/// The status as JSON.
pub(crate) fn shown(reply: &StatusReply) -> Value {
    let raft = reply.raft.clone().unwrap_or_default();
    let phase = match reply.phase() {
        Phase::Waiting => "waiting",
        Phase::Joining => "joining",
        Phase::Member => "member",
        Phase::Stopping => "stopping",
        Phase::Removed => "removed",
        Phase::Unspecified => "unknown",
    };
    let attention: Vec<Value> = reply
        .attention
        .iter()
        .map(|entry| json!({"id": entry.id, "what": entry.what, "why": entry.why, "next": entry.next}))
        .collect();
    json!({
        "health": sentence(reply),
        "phase": phase,
        "degraded": is_degraded(reply),
        "attention": attention,
        "next": next(reply),
        "node": {"id": reply.node_id, "name": reply.node_name, "peerId": reply.peer_id, "dataDir": reply.data_dir, "pid": reply.pid, "api": reply.api_url, "release": reply.daemon_version},
        "cluster": {"id": hex::encode(&reply.cluster), "name": reply.cluster_name},
        "raft": {
            "term": raft.term,
            "leader": raft.leader,
            "hasQuorum": raft.has_quorum,
            "healthyNodes": raft.healthy_nodes,
            "failureTolerance": raft.failure_tolerance,
            "voters": raft.voters,
            "learners": raft.learners,
            "lastLogIndex": raft.last_log_index,
            "committedIndex": raft.committed_index,
            "logFirstIndex": reply.log_first_index,
            "snapshotIndex": reply.snapshot_index,
            "stateHash": hex::encode(&reply.state_hash),
        },
        "nodes": reply.nodes.iter().map(node::shown).collect::<Vec<_>>(),
        "view": view(reply),
    })
}

#[cfg(test)]
mod tests;
