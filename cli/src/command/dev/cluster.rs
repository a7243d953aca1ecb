//! Up and down: starts what is missing, forms the cluster where there is none, waits until every node is ready.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use ollamax_proto::v1::status_reply::Phase;
use ollamax_proto::v1::{CreateTokenRequest, InitRequest, JoinRequest, NodeView, StatusReply, StatusRequest, runtime};

use super::ports::{self, Ports};
use super::process;
use crate::args::{DevUpArgs, Global, Output};
use crate::client;
use crate::error::Failure;
use crate::{output, place, program};

/// How long the whole cluster may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a daemon may take to end after it was asked to.
const END_PATIENCE: Duration = Duration::from_secs(20);
/// Time between two looks at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// One node as it is set up.
#[derive(Debug, Clone)]
struct Plan {
    name: String,
    data_dir: PathBuf,
    ports: Ports,
    /// An Ollama that somebody else runs; `None`: the bundled engine.
    ollama: Option<String>,
}

/// Starts the cluster, returns when it is ready; without `detach` stays until Ctrl-C and ends it.
pub(crate) async fn up(global: &Global, args: DevUpArgs) -> Result<(), Failure> {
    let root = root(global)?;
    let plans = plans(&root, args.nodes as usize, &args.runtime_urls)?;
    // One listener for the whole command: what comes between two waits is not lost.
    let interrupts = signal(SignalKind::interrupt());
    let mut interrupts = interrupts.map_err(|error| Failure::new(1, "hear Ctrl-C", error.to_string(), "try again"))?;
    let missing: Vec<Plan> = plans.iter().filter(|plan| process::running(&plan.data_dir).is_none()).cloned().collect();
    let outcome = tokio::select! {
        outcome = start(&plans, &missing) => outcome,
        _ = interrupts.recv() => {
            Err(Failure::new(130, "interrupted", "what this command had started is stopped again", "ollamax dev up"))
        }
    };
    let status = match outcome {
        Ok(status) => status,
        Err(failure) => {
            // Only what this command started: nodes that ran before go on.
            stop(&missing).await;
            return Err(failure);
        }
    };
    show(global, &root, &plans, &status)?;
    if args.detach {
        return Ok(());
    }
    output::talk(global.output, "The cluster runs until Ctrl-C.");
    interrupts.recv().await;
    stop(&plans).await;
    output::talk(global.output, "The cluster is stopped; its data stays.");
    Ok(())
}

/// Ends every daemon of the cluster.
pub(crate) async fn down(global: &Global) -> Result<(), Failure> {
    let root = root(global)?;
    let plans = load(&root)?.ok_or_else(|| {
        let what = format!("{} holds no development cluster", root.display());
        Failure::new(3, what, "dev.json is not there", "ollamax dev up --data-dir DIR")
    })?;
    let ended = stop(&plans).await;
    if global.output == Output::Json {
        return output::json("DevCluster", json!({"stopped": ended}));
    }
    output::line(&format!("Stopped {ended} of {} nodes; the data stays in {}.", plans.len(), root.display()))
}

async fn start(plans: &[Plan], missing: &[Plan]) -> Result<Vec<StatusReply>, Failure> {
    let program = program::sibling("ollamax-node")?;
    if plans.iter().any(|plan| plan.ollama.is_none()) {
        program::sibling("ollamax-engine")?;
    }
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut children = Vec::new();
    for plan in missing {
        // The socket of an earlier run would look like an answer.
        drop(fs::remove_file(plan.data_dir.join("admin.sock")));
        children.push(process::start(&program, &plan.data_dir, &flags(plan))?);
    }
    for (plan, child) in missing.iter().zip(&mut children) {
        answers(plan, child, deadline).await?;
    }
    form(plans).await?;
    ready(plans, deadline).await
}

fn flags(plan: &Plan) -> Vec<String> {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let (kind, url) = match &plan.ollama {
        Some(url) => ("ollama", url.clone()),
        None => ("engine", address(plan.ports.runtime)),
    };
    let pairs = [
        ("--node.name", plan.name.clone()),
        ("--api.listen", address(plan.ports.api)),
        ("--peer.listen", address(plan.ports.peer)),
        ("--p2p.listen", address(plan.ports.p2p)),
        ("--p2p.mdns", "false".to_owned()),
        // The nodes share a disk, and nothing on it is dear.
        ("--store.ballast_bytes", "0".to_owned()),
        // Nobody keeps a key for a cluster that is for trying out.
        ("--backup.every_hours", "0".to_owned()),
        ("--runtime.kind", kind.to_owned()),
        ("--runtime.url", url),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

/// Waits until a daemon answers on its socket, or has ended.
async fn answers(plan: &Plan, child: &mut Child, deadline: Instant) -> Result<StatusReply, Failure> {
    loop {
        if let Ok(status) = status(plan).await {
            return Ok(status);
        }
        let ended = !matches!(child.try_wait(), Ok(None));
        if ended || Instant::now() > deadline {
            let what = format!("{} did not start", plan.name);
            let next = format!("look at {}", plan.data_dir.join("node.log").display());
            return Err(Failure::new(1, what, process::last_lines(&plan.data_dir), next));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// The first node makes the cluster, the others join it; who is a member already is left alone.
async fn form(plans: &[Plan]) -> Result<(), Failure> {
    let Some((first, others)) = plans.split_first() else { return Ok(()) };
    let mut admin = client::connect_at(&first.data_dir.join("admin.sock")).await?;
    if status(first).await?.phase() == Phase::Waiting {
        admin.init(InitRequest { cluster_name: "dev".to_owned(), node_name: first.name.clone() }).await?;
    }
    for plan in others {
        if status(plan).await?.phase() != Phase::Waiting {
            continue;
        }
        let token = admin.create_token(CreateTokenRequest::default()).await?.into_inner().token;
        let request = JoinRequest {
            token,
            seeds: vec![format!("127.0.0.1:{}", first.ports.peer)],
            role: String::new(),
            node_name: plan.name.clone(),
        };
        client::connect_at(&plan.data_dir.join("admin.sock")).await?.join(request).await?;
    }
    Ok(())
}

/// Waits until every node takes part, sees a quorum and all others, and has a working runtime.
async fn ready(plans: &[Plan], deadline: Instant) -> Result<Vec<StatusReply>, Failure> {
    loop {
        let mut replies = Vec::new();
        let mut waiting_for = String::new();
        for plan in plans {
            let reply = status(plan).await?;
            if let Some(reason) = unready(&reply, plans.len()) {
                waiting_for = format!("{}: {reason}", plan.name);
            }
            replies.push(reply);
        }
        if waiting_for.is_empty() {
            return Ok(replies);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(
                9,
                "the cluster is not ready in time",
                waiting_for,
                "ollamax dev down, then look at node.log",
            ));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn unready(reply: &StatusReply, nodes: usize) -> Option<String> {
    let raft = reply.raft.clone().unwrap_or_default();
    if reply.phase() != Phase::Member {
        return Some("not a member yet".to_owned());
    }
    if !raft.has_quorum || raft.leader == 0 {
        return Some("no leader yet".to_owned());
    }
    if raft.voters.len() < wanted_voters(nodes) {
        return Some(format!("{} of {} voters", raft.voters.len(), wanted_voters(nodes)));
    }
    let unready: Vec<&str> = reply.nodes.iter().filter(|node| !is_up(node)).map(|node| node.name.as_str()).collect();
    (!unready.is_empty()).then(|| format!("no frame with a working runtime from {}", unready.join(", ")))
}

fn is_up(node: &NodeView) -> bool {
    node.runtime.as_ref().is_some_and(|runtime| runtime.state() == runtime::State::Up)
}

/// Voters by size: 1, 2, 3 for three or four nodes, 5 above.
const fn wanted_voters(nodes: usize) -> usize {
    match nodes {
        0..=3 => nodes,
        4 => 3,
        _ => 5,
    }
}

async fn status(plan: &Plan) -> Result<StatusReply, Failure> {
    let mut admin = client::connect_at(&plan.data_dir.join("admin.sock")).await?;
    Ok(admin.status(StatusRequest {}).await?.into_inner())
}

async fn stop(plans: &[Plan]) -> usize {
    let ends = plans.iter().map(|plan| process::end(&plan.data_dir, END_PATIENCE));
    futures::future::join_all(ends).await.into_iter().filter(|ended| *ended).count()
}

fn show(global: &Global, root: &Path, plans: &[Plan], replies: &[StatusReply]) -> Result<(), Failure> {
    let nodes: Vec<Value> = plans.iter().zip(replies).map(|(plan, reply)| shown(plan, reply)).collect();
    if global.output == Output::Json {
        return output::line(&output::object("DevCluster", json!({"nodes": nodes})).to_string());
    }
    let rows = nodes.iter().map(|node| {
        let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let part = if node["leader"] == true { "leader" } else { "" };
        vec![
            word(&node["id"]),
            word(&node["name"]),
            word(&node["api"]),
            word(&node["runtime"]["url"]),
            part.to_owned(),
            word(&node["pid"]),
        ]
    });
    output::text(&output::table(&["ID", "NAME", "API", "RUNTIME", "PART", "PID"], rows.collect()))?;
    let first = &plans[0];
    let next = [
        format!("Next: ollamax status --data-dir {}", first.data_dir.display()),
        format!("      OLLAMA_HOST=127.0.0.1:{} ollama list", first.ports.api),
        format!("      ollamax dev down --data-dir {}", root.display()),
    ];
    output::talk(global.output, &next.join("\n"));
    Ok(())
}

fn shown(plan: &Plan, reply: &StatusReply) -> Value {
    let own = reply.nodes.iter().find(|node| node.id == reply.node_id).cloned().unwrap_or_default();
    let runtime = own.runtime.unwrap_or_default();
    let leader = reply.raft.as_ref().is_some_and(|raft| raft.leader == reply.node_id);
    json!({
        "id": reply.node_id,
        "name": plan.name,
        "api": format!("http://127.0.0.1:{}", plan.ports.api),
        "peer": format!("127.0.0.1:{}", plan.ports.peer),
        "p2p": own.p2p_addresses.first().cloned().unwrap_or_else(|| format!("/ip4/127.0.0.1/tcp/{}", plan.ports.p2p)),
        "pid": reply.pid,
        "runtime": {
            "kind": if plan.ollama.is_some() { "ollama" } else { "engine" },
            "url": runtime.url,
            "pid": runtime.pid,
        },
        "data_dir": plan.data_dir.display().to_string(),
        "leader": leader,
    })
}

fn root(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(given) = &global.data_dir {
        return std::path::absolute(given)
            .map_err(|error| Failure::new(1, "data directory", error.to_string(), "--data-dir DIR"));
    }
    place::own_data_dir()
        .map(|base| base.with_file_name("ollamax-dev"))
        .ok_or_else(|| Failure::usage("HOME is not set", "--data-dir DIR"))
}

/// The cluster that lies there, or a new one with ports of its own.
fn plans(root: &Path, nodes: usize, runtime_urls: &[String]) -> Result<Vec<Plan>, Failure> {
    if let Some(known) = load(root)? {
        check_same(root, &known, nodes, runtime_urls)?;
        return Ok(known);
    }
    if !runtime_urls.is_empty() && runtime_urls.len() != nodes {
        return Err(Failure::usage("one --runtime-url for each node", "repeat --runtime-url as often as --nodes says"));
    }
    let failed = |error: std::io::Error| {
        Failure::new(
            1,
            format!("make {}", root.display()),
            error.to_string(),
            "choose another place with --data-dir DIR",
        )
    };
    fs::create_dir_all(root).map_err(failed)?;
    let mut taken = BTreeSet::new();
    let salt = u64::from(std::process::id()).wrapping_mul(97);
    let mut plans = Vec::new();
    for number in 1..=nodes {
        plans.push(Plan {
            name: format!("n{number}"),
            data_dir: root.join(format!("n{number}")),
            ports: ports::draw(salt, &mut taken).ok_or_else(no_ports)?,
            ollama: runtime_urls.get(number - 1).cloned(),
        });
    }
    save(root, &plans).map_err(failed)?;
    Ok(plans)
}

/// Refuses to start what lies there as something else; runtimes that are not named stay as they are.
fn check_same(root: &Path, known: &[Plan], nodes: usize, runtime_urls: &[String]) -> Result<(), Failure> {
    let place = root.display();
    if known.len() != nodes {
        let what = format!("{place} holds a cluster of {} nodes, not {nodes}", known.len());
        let next = format!("--nodes {}, or another --data-dir", known.len());
        return Err(Failure::new(4, what, "a development cluster keeps its size", next));
    }
    let held = known.iter().map(|plan| plan.ollama.as_deref());
    if runtime_urls.is_empty() || held.clone().eq(runtime_urls.iter().map(|url| Some(url.as_str()))) {
        return Ok(());
    }
    let held: Vec<&str> = held.map(|url| url.unwrap_or("the bundled engine")).collect();
    let what = format!("{place} holds a cluster beside other runtimes: {}", held.join(", "));
    let next = format!(
        "leave --runtime-url out; or ollamax dev down --data-dir {place}, then ollamax dev up with another --data-dir"
    );
    Err(Failure::new(4, what, "a development cluster keeps its runtimes", next))
}

fn no_ports() -> Failure {
    let why = format!(
        "each from {} to {} is in use, or net.ipv4.ip_local_port_range gives it to anybody",
        ports::CANDIDATES.start(),
        ports::CANDIDATES.end()
    );
    let next = "end what listens there: ss -tulpn; or move the range: sysctl -w";
    Failure::new(1, "no free ports", why, next)
}

fn save(root: &Path, plans: &[Plan]) -> std::io::Result<()> {
    let nodes: Vec<Value> = plans
        .iter()
        .map(|plan| {
            let Ports { api, peer, p2p, runtime } = plan.ports;
            json!({"name": plan.name, "api": api, "peer": peer, "p2p": p2p, "runtime": runtime, "ollama": plan.ollama})
        })
        .collect();
    let fresh = root.join("dev.json.new");
    fs::write(&fresh, json!({"version": 1, "nodes": nodes}).to_string())?;
    fs::rename(fresh, root.join("dev.json"))
}

fn load(root: &Path) -> Result<Option<Vec<Plan>>, Failure> {
    let path = root.join("dev.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let exit = if error.kind() == std::io::ErrorKind::PermissionDenied { 6 } else { 1 };
            let next = "do it as the user that made the cluster, or name another --data-dir";
            return Err(Failure::new(exit, format!("read {}", path.display()), error.to_string(), next));
        }
    };
    let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
    let nodes = parsed["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let plans: Option<Vec<Plan>> = nodes.iter().map(|node| plan(root, node)).collect();
    match plans {
        Some(plans) if !plans.is_empty() => Ok(Some(plans)),
        _ => Err(Failure::new(1, format!("{} is damaged", path.display()), "", "remove the directory and start again")),
    }
}

fn plan(root: &Path, node: &Value) -> Option<Plan> {
    let port = |name: &str| node[name].as_u64().and_then(|port| u16::try_from(port).ok());
    let name = node["name"].as_str()?.to_owned();
    Some(Plan {
        data_dir: root.join(&name),
        name,
        ports: Ports { api: port("api")?, peer: port("peer")?, p2p: port("p2p")?, runtime: port("runtime")? },
        ollama: node["ollama"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_keeps_its_ports_and_its_size() {
        let temp = tempfile::tempdir().expect("temp");
        let first = plans(temp.path(), 2, &[]).expect("drawn");
        let again = plans(temp.path(), 2, &[]).expect("loaded");
        let ports = |plans: &[Plan]| plans.iter().map(|plan| plan.ports).collect::<Vec<_>>();
        assert_eq!(ports(&first), ports(&again));
        assert_eq!(plans(temp.path(), 3, &[]).expect_err("another size").exit(), 4);
        fs::write(temp.path().join("dev.json"), "{\"nodes\":[{}]}").expect("written");
        assert!(load(temp.path()).is_err());
    }

    #[test]
    fn a_cluster_keeps_its_runtimes_whether_they_are_named_again_or_not() {
        let own = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned);
        let others = ["http://127.0.0.1:2", "http://127.0.0.1:1"].map(str::to_owned);
        let temp = tempfile::tempdir().expect("temp");
        for urls in [&own[..], &own[..], &own[..0]] {
            let plans = plans(temp.path(), 2, urls).expect("made, then the same");
            assert!(plans.iter().map(|plan| plan.ollama.as_ref()).eq(own.iter().map(Some)), "{plans:?}");
        }
        for urls in [&others[..], &own[..1]] {
            let failure = plans(temp.path(), 2, urls).expect_err("other runtimes");
            assert_eq!(failure.exit(), 4);
            let page = failure.page(false);
            for words in ["http://127.0.0.1:1, http://127.0.0.1:2", "ollamax dev down", "another --data-dir"] {
                assert!(page.contains(words), "{words:?} in {page}");
            }
        }
        let engines = tempfile::tempdir().expect("temp");
        plans(engines.path(), 2, &[]).expect("drawn");
        let page = plans(engines.path(), 2, &own).expect_err("it has engines").page(false);
        assert!(page.contains("the bundled engine, the bundled engine"), "{page}");
    }

    #[test]
    fn voters_by_size() {
        assert_eq!([1, 2, 3, 4, 5, 9].map(wanted_voters), [1, 2, 3, 3, 5, 5]);
    }
}
