//! `ollamax node`: the machines of the cluster.

use serde_json::{Value, json};

use ollamax_proto::v1::node_view::{Health, State};
use ollamax_proto::v1::{
    Cordon, DrainNodeRequest, Gpu, NodeView, RemoveNodeRequest, StatusReply, StatusRequest, runtime,
};

use crate::args::{Global, NodeCommand, Output};
use crate::client;
use crate::command::parting::Parting;
use crate::command::status;
use crate::consent;
use crate::error::Failure;
use crate::{output, text};

mod placement;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List => list(global).await,
        NodeCommand::Show { node } => show(global, &node).await,
        NodeCommand::Drain(args) if args.models => placement::empty(global, &args).await,
        NodeCommand::Drain(args) => drain(global, args.node, false).await,
        NodeCommand::Undrain { node } => drain(global, node, true).await,
        NodeCommand::Cordon { node } => placement::cordon(global, node, Cordon::Cordoned).await,
        NodeCommand::Uncordon { node } => placement::cordon(global, node, Cordon::Open).await,
        NodeCommand::Label { node, words } => placement::label(global, node, words).await,
        NodeCommand::Remove { node, force, yes } => remove(global, node, force, yes).await,
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let reply = client::connect(global).await?.status(StatusRequest {}).await?.into_inner();
    if global.output == Output::Json {
        let nodes: Vec<Value> = reply.nodes.iter().map(shown).collect();
        return output::json("NodeList", json!({"nodes": nodes, "view": status::view(&reply)}));
    }
    output::text(&(status::age(&reply).unwrap_or_default() + &table(&reply.nodes)))
}

async fn show(global: &Global, wanted: &str) -> Result<(), Failure> {
    let reply = client::connect(global).await?.status(StatusRequest {}).await?.into_inner();
    let node = find(&reply, wanted)?;
    if global.output == Output::Json {
        return output::json("Node", shown(node));
    }
    output::text(&(status::age(&reply).unwrap_or_default() + &page(node)))
}

async fn drain(global: &Global, node: String, undrain: bool) -> Result<(), Failure> {
    let request = DrainNodeRequest { node: node.clone(), undrain };
    let changed = client::connect(global).await?.drain_node(request).await?.into_inner();
    if global.output == Output::Json {
        return output::json("Node", json!({"id": changed.node_id, "drained": !undrain}));
    }
    let now = if undrain { "takes requests again" } else { "takes no new requests; running ones finish" };
    output::line(&format!("Node {node} {now}."))
}

async fn remove(global: &Global, node: String, force: bool, yes: bool) -> Result<(), Failure> {
    let mut admin = client::connect(global).await?;
    let reply = admin.status(StatusRequest {}).await.map(tonic::Response::into_inner);
    // Who agreed already is kept from nothing by a daemon that does not answer this.
    let reply = if yes { reply.unwrap_or_default() } else { reply? };
    let parting = match find(&reply, &node) {
        Ok(found) => Parting::of(global, found.id, &found.name).await,
        Err(_) => None,
    };
    if !yes {
        let NodeView { id, name, .. } = find(&reply, &node)?;
        let deed = format!("remove node {id} ({name}) from cluster {} for good", reply.cluster_name);
        consent::ask(global, &(deed + &Parting::words(parting.as_ref())), name).await?;
    }
    let id = admin.remove_node(RemoveNodeRequest { node: node.clone(), force }).await?.into_inner().node_id;
    if global.output == Output::Json {
        let (only, wishes) = Parting::fields(parting.as_ref());
        let fields = json!({"id": id, "state": "departed", "onlyCopies": only, "wishes": wishes});
        return output::json("Node", fields);
    }
    for line in Parting::told(parting.as_ref()) {
        output::talk(global.output, &line);
    }
    output::line(&format!("Node {node} is removed; id {id} is never used again."))
}

fn find<'a>(reply: &'a StatusReply, wanted: &str) -> Result<&'a NodeView, Failure> {
    let found = reply.nodes.iter().find(|node| node.name == wanted || node.id.to_string() == wanted);
    found.ok_or_else(|| {
        let why = text::similar(wanted, reply.nodes.iter().map(|node| node.name.as_str()));
        Failure::new(3, format!("there is no node {wanted:?}"), why, "ollamax node list")
    })
}

/// Members that have not departed, as a table.
pub(crate) fn table(nodes: &[NodeView]) -> String {
    let present = nodes.iter().filter(|node| node.state() != State::Departed);
    let rows = present.map(|node| {
        vec![
            node.id.to_string(),
            node.name.clone(),
            health(node).to_owned(),
            part_text(node),
            runtime_text(node),
            node.models.to_string(),
            node.resident.iter().map(|model| model.name.clone()).collect::<Vec<_>>().join(", "),
            node.api_addresses.first().cloned().unwrap_or_default(),
        ]
    });
    output::table(&["ID", "NAME", "HEALTH", "PART", "RUNTIME", "MODELS", "LOADED", "API"], rows.collect())
}

/// Its part, and that it takes no new models.
fn part_text(node: &NodeView) -> String {
    match node.cordon() {
        Cordon::Open | Cordon::Unspecified => part(node).to_owned(),
        cordon => format!("{} ({})", part(node), placement::word(cordon)),
    }
}

fn page(node: &NodeView) -> String {
    let memory = format!("{} of {}", text::bytes(node.memory_used_bytes), text::bytes(node.memory_total_bytes));
    let mut rows = vec![
        ("id", node.id.to_string()),
        ("name", node.name.clone()),
        ("health", health(node).to_owned()),
        ("removed in", node.removed_in_ms.map_or_else(String::new, text::span)),
        ("state", state(node).to_owned()),
        ("takes", takes(node).to_owned()),
        ("labels", placement::in_words(&node.labels)),
        ("own labels", placement::in_words(&node.own_labels)),
        ("part", part(node).to_owned()),
        ("role", node.role.clone()),
        ("runtime", runtime_text(node)),
        ("models", node.models.to_string()),
        ("loaded", node.resident.iter().map(|model| model.name.clone()).collect::<Vec<_>>().join(", ")),
        ("memory", memory),
        ("cpu", format!("{} %", node.cpu_permille / 10)),
        ("disk free", node.disk_free_bytes.map_or_else(String::new, text::bytes)),
    ];
    rows.extend(node.gpus.iter().map(|gpu| ("gpu", gpu_text(gpu))));
    rows.extend([
        ("api", node.api_addresses.join(", ")),
        ("peer", node.peer_addresses.join(", ")),
        ("p2p", node.p2p_addresses.join(", ")),
        ("key", node.peer_id.clone()),
        ("way", way(node)),
        ("release", node.daemon_version.clone()),
        ("applied", node.applied_index.to_string()),
        ("joined", text::time(node.joined_at_ms)),
        ("departed", text::time(node.departed_at_ms)),
    ]);
    rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name:<10} {value}\n")).collect()
}

/// How the node that was asked reaches this one.
fn way(node: &NodeView) -> String {
    match (node.way.as_str(), node.rtt_us) {
        (way, Some(rtt_us)) if !way.is_empty() => format!("{way}, round trip {:.1} ms", f64::from(rtt_us) / 1e3),
        (way, _) => way.to_owned(),
    }
}

fn gpu_text(gpu: &Gpu) -> String {
    let memory = match (gpu.memory_used_bytes, gpu.memory_total_bytes) {
        (Some(used), Some(total)) => format!(", {} of {}", text::bytes(used), text::bytes(total)),
        _ => String::new(),
    };
    let busy = gpu.use_permille.map_or_else(String::new, |permille| format!(", {} % busy", permille / 10));
    format!("{}{memory}{busy} ({})", gpu.name, gpu.uuid)
}

/// One word for how a node is heard.
pub(crate) fn health(node: &NodeView) -> &'static str {
    match (node.state(), node.health()) {
        (State::Departed, _) => "departed",
        (State::Drained, Health::Alive) => "drained",
        (_, Health::Alive) => "alive",
        (_, Health::Suspect) => "suspect",
        (_, Health::Dead) => "dead",
        (_, Health::Unspecified) => "unknown",
    }
}

fn state(node: &NodeView) -> &'static str {
    match node.state() {
        State::Drained => "drained",
        State::Departed => "departed",
        State::Active | State::Unspecified => "active",
    }
}

/// What it does not take, or does not keep; nothing where it takes all.
fn takes(node: &NodeView) -> &'static str {
    match node.cordon() {
        Cordon::Open | Cordon::Unspecified => "",
        Cordon::Cordoned => "no new models",
        Cordon::Emptying => "no new models; those it has go elsewhere",
    }
}

fn part(node: &NodeView) -> &'static str {
    match node {
        node if node.leader => "leader",
        node if node.voter => "voter",
        node if node.role == "gateway" => "gateway",
        _ => "learner",
    }
}

fn runtime_text(node: &NodeView) -> String {
    let Some(runtime) = &node.runtime else { return "unknown".to_owned() };
    match runtime.state() {
        runtime::State::Up => format!("{} {}", kind(runtime), runtime.version),
        runtime::State::Down => format!("{} down", kind(runtime)),
        runtime::State::Absent | runtime::State::Unspecified => "none".to_owned(),
    }
}

fn kind(runtime: &ollamax_proto::v1::Runtime) -> &'static str {
    match runtime.kind() {
        runtime::Kind::Engine => "engine",
        runtime::Kind::Ollama | runtime::Kind::Unspecified => "ollama",
    }
}

/// One node as JSON.
pub(crate) fn shown(node: &NodeView) -> Value {
    let resident: Vec<Value> = node
        .resident
        .iter()
        .map(|model| json!({"name": model.name, "digest": hex::encode(&model.digest), "sizeBytes": model.size_bytes, "sizeVramBytes": model.size_vram_bytes, "contextLength": model.context_length}))
        .collect();
    let gpus: Vec<Value> = node
        .gpus
        .iter()
        .map(|gpu| json!({"uuid": gpu.uuid, "name": gpu.name, "memoryTotalBytes": gpu.memory_total_bytes, "memoryUsedBytes": gpu.memory_used_bytes, "usePermille": gpu.use_permille}))
        .collect();
    let runtime = node.runtime.clone().unwrap_or_default();
    let runtime_state = match runtime.state() {
        runtime::State::Up => "up",
        runtime::State::Down => "down",
        runtime::State::Absent => "absent",
        runtime::State::Unspecified => "unknown",
    };
    json!({
        "id": node.id,
        "name": node.name,
        "role": node.role,
        "part": part(node),
        "leader": node.leader,
        "voter": node.voter,
        "state": state(node),
        "health": health(node),
        "silentMs": node.silent_ms,
        "neverHeard": node.never_heard,
        "removedInMs": node.removed_in_ms,
        "clockSkewMs": node.clock_skew_ms,
        "runtime": {"kind": kind(&runtime), "state": runtime_state, "version": runtime.version, "reason": runtime.reason},
        "models": node.models,
        "loaded": resident,
        "appliedIndex": node.applied_index,
        "release": node.daemon_version,
        "apiAddresses": node.api_addresses,
        "peerAddresses": node.peer_addresses,
        "p2pAddresses": node.p2p_addresses,
        "peerId": node.peer_id,
        "memoryUsedBytes": node.memory_used_bytes,
        "memoryTotalBytes": node.memory_total_bytes,
        "diskFreeBytes": node.disk_free_bytes,
        "cpuPermille": node.cpu_permille,
        "gpus": gpus,
        "way": node.way,
        "rttMs": node.rtt_us.map(|rtt_us| f64::from(rtt_us) / 1e3),
        "cordon": placement::word(node.cordon()),
        "labels": placement::as_object(&node.labels),
        "ownLabels": placement::as_object(&node.own_labels),
        "joinedAtMs": node.joined_at_ms,
        "departedAtMs": node.departed_at_ms,
    })
}

#[cfg(test)]
mod tests {
    use ollamax_proto::v1::NodeLabel;

    use super::*;

    fn node() -> NodeView {
        let h100 = Gpu {
            uuid: "GPU-8f6a".to_owned(),
            name: "NVIDIA H100".to_owned(),
            memory_total_bytes: Some(80_000_000_000),
            memory_used_bytes: Some(3_000_000_000),
            use_permille: Some(420),
        };
        let gb10 = Gpu { uuid: "gpu-1".to_owned(), name: "NVIDIA GB10".to_owned(), ..Gpu::default() };
        NodeView {
            id: 2,
            name: "n2".to_owned(),
            memory_used_bytes: 1_000_000_000,
            memory_total_bytes: 8_000_000_000,
            cpu_permille: 57,
            disk_free_bytes: Some(0),
            gpus: vec![h100, gb10],
            api_addresses: vec!["http://10.0.0.2:11435".to_owned()],
            way: "relayed".to_owned(),
            rtt_us: Some(1_540),
            ..NodeView::default()
        }
    }

    #[test]
    fn the_page_of_a_node_shows_each_gpu() {
        insta::assert_snapshot!(page(&node()), @r"
        id         2
        name       n2
        health     unknown
        state      active
        part       learner
        runtime    unknown
        models     0
        memory     1.0 GB of 8.0 GB
        cpu        5 %
        disk free  0 B
        gpu        NVIDIA H100, 3.0 GB of 80.0 GB, 42 % busy (GPU-8f6a)
        gpu        NVIDIA GB10 (gpu-1)
        api        http://10.0.0.2:11435
        way        relayed, round trip 1.5 ms
        applied    0
        ");
    }

    #[test]
    fn what_a_node_is_for_models_is_shown_where_there_is_something_to_say() {
        let label = |key: &str| NodeLabel { key: key.to_owned(), value: "1".to_owned() };
        let (labels, own_labels) = (vec![label("rack"), label("room")], vec![label("os")]);
        let mut emptied = NodeView { labels, own_labels, ..node() };
        emptied.set_cordon(Cordon::Emptying);
        let page = page(&emptied);
        assert!(table(std::slice::from_ref(&emptied)).contains("learner (emptying)"), "it is seen in a list");
        assert!(table(&[node()]).contains("  learner  "), "{}", table(&[node()]));
        for line in ["takes      no new models; those it", "labels     rack=1, room=1\n", "own labels os=1\n"] {
            assert!(page.contains(line), "{page}");
        }
        assert_eq!(
            (&shown(&emptied)["cordon"], &shown(&emptied)["ownLabels"]["os"]),
            (&json!("emptying"), &json!("1"))
        );
    }

    #[test]
    fn the_json_of_a_node_tells_what_is_not_known_from_nothing() {
        let shown = shown(&node());
        assert_eq!(shown["diskFreeBytes"], 0);
        let h100 = json!({
            "uuid": "GPU-8f6a",
            "name": "NVIDIA H100",
            "memoryTotalBytes": 80_000_000_000_u64,
            "memoryUsedBytes": 3_000_000_000_u64,
            "usePermille": 420,
        });
        let gb10 = json!({
            "uuid": "gpu-1",
            "name": "NVIDIA GB10",
            "memoryTotalBytes": null,
            "memoryUsedBytes": null,
            "usePermille": null,
        });
        assert_eq!(shown["gpus"], json!([h100, gb10]));
        assert_eq!((&shown["way"], &shown["rttMs"]), (&json!("relayed"), &json!(1.54)));
        let unknown = super::shown(&NodeView::default());
        assert_eq!((&unknown["way"], &unknown["rttMs"]), (&json!(""), &Value::Null));
        let unmeasured = NodeView { way: "tcp".to_owned(), ..NodeView::default() };
        assert_eq!((way(&unmeasured), way(&NodeView::default())), ("tcp".to_owned(), String::new()));
        assert_eq!((&unknown["diskFreeBytes"], &unknown["gpus"]), (&Value::Null, &json!([])));
    }
}
