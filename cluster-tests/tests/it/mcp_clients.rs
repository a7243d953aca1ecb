//! Clients of MCP that others have written, at a cluster of three: rmcp's own, and the Python SDK in both of its
//! versions, in every era that they speak, over HTTP and through `ollamax mcp`, at the leader, at a follower, and while
//! the leader is killed. Through `ollamax mcp` no call fails then; over HTTP a client connects again, and only where
//! its node died. The list of tools has the same bytes at each node.
//!
//! What the Python clients must see stands in `cluster-tests/clients/mcp_client.py`; `cargo xtask setup` installs them.
//! The long form also has the TypeScript SDK in both of its versions, and the Inspector's command line in both eras; it
//! fails where these cannot be had.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::Request;
use http_body_util::Full;
use rmcp::model::{CallToolRequestParams, CallToolResult, ContentBlock, ErrorCode, ProtocolVersion};
use rmcp::service::{ClientInitializeError, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt as _, ErrorData, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use ollamax_testkit::cluster::{binary, clean_environment};
use ollamax_testkit::http::{HttpClient, send_over_socket};
use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{plan, start};
use crate::spread::all_seen_up;

mod programs;

const LEADER: usize = 0;
const FOLLOWER: usize = 1;
const THIRD: usize = 2;
/// Longest time for one call, connecting among them.
const CALL_TIME: Duration = Duration::from_secs(10);
/// How long what was started may go on after its assistant has left.
const END_TIME: Duration = Duration::from_secs(10);
/// Between two calls of one client. All clients together must not exceed what a caller may call a tool in a minute.
const PAUSE: Duration = Duration::from_millis(500);
/// Calls that each client makes after another node leads.
const CALLS_LAST: usize = 3;
const RECONNECTS_MAX: usize = 20;
/// A revision of each era: the last one with a handshake, and the one without.
const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];
/// What clients read while the leader dies.
const READING: [&str; 2] = ["health_check", "list_nodes"];

/// Where a client finds the lab.
#[derive(Debug, Clone)]
enum Way {
    /// Over HTTP; the next URL is taken where a node is gone.
    Http(Vec<String>),
    /// Over standard input and output of this command.
    Command(Vec<String>),
}

#[derive(Debug, Clone)]
struct Door {
    name: &'static str,
    way: Way,
    /// Its client talks to the node that is killed, and to no other by itself.
    breaks: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assistants_of_every_era_go_on_while_the_leader_is_killed() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let cluster = start(plan("mcp-clients", &registry, 3)).await?;
    all_seen_up(&cluster).await?;
    lists_are_the_same_everywhere(&cluster).await?;
    let doors = doors(&cluster)?;
    let mut programs = programs::start(&doors, cluster.directory()).await?;

    for door in &doors {
        for mode in modes() {
            let checked = Box::pin(check(door, &mode)).await;
            checked.with_context(|| format!("rmcp, {mode:?}, {}", door.name))?;
        }
    }
    programs::inspect(&doors, cluster.directory()).await?;
    for program in &mut programs {
        program.reads().await?;
    }
    let (answered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let clients: Vec<_> = doors.iter().flat_map(|door| modes().map(|mode| (door, mode))).collect();
    let count = clients.len();
    let reading = clients.into_iter().map(|(door, mode)| Box::pin(read_on(door, mode, &answered, &is_over)));
    let killing = async {
        let has_begun = || async { answered.load(Ordering::SeqCst) == count };
        wait::until_true("each client's first answer", PATIENCE, has_begun).await?;
        wait::until("it to lead", PATIENCE, || make_it_lead(&cluster, LEADER)).await?;
        cluster.kill(&[LEADER]).await?;
        cluster.leader_among(&[FOLLOWER, THIRD], PATIENCE).await.context("the next one")?;
        is_over.store(true, Ordering::SeqCst);
        for program in programs {
            program.finish(&doors).await?;
        }
        anyhow::Ok(())
    };
    let inspecting = Box::pin(programs::inspect_on(&doors, cluster.directory(), &is_over));
    tokio::try_join!(try_join_all(reading), inspecting, Box::pin(killing))?;

    cluster.restart(&[LEADER]).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

/// The list of tools has the same bytes at each node, in both eras: that of an administrator, and that of programs that
/// come over loopback.
async fn lists_are_the_same_everywhere(cluster: &Cluster) -> Result<()> {
    let http = HttpClient::new();
    for revision in REVISIONS {
        let mut told = Vec::new();
        for node in cluster.nodes() {
            let socket = node.data_dir().join("admin.sock");
            let (_, whole) = send_over_socket(&socket, list_request(revision, "/mcp")?).await?;
            let request = list_request(revision, &format!("{}/mcp", node.api()?))?;
            told.push([whole, http.send(request.map(Full::new)).await?.text().await?]);
        }
        let (first, others) = told.split_first().context("a cluster without nodes")?;
        ensure!(others.len() == 2, "{} nodes beside the first one", others.len());
        ensure!(first.iter().all(|list| list.contains(r#""name":"health_check""#)), "{revision}: {first:?}");
        for other in others {
            ensure!(other == first, "{revision}: {first:?} and {other:?}");
        }
    }
    Ok(())
}

fn list_request(revision: &str, uri: &str) -> Result<Request<Bytes>> {
    let mut message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
    if revision == REVISIONS[1] {
        message["params"]["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": revision,
            "io.modelcontextprotocol/clientCapabilities": {},
        });
    }
    Request::post(uri)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", revision)
        .header("mcp-method", "tools/list")
        .body(Bytes::from(message.to_string()))
        .context("build the request")
}

/// The same lab, over HTTP and by a command, of which the nodes that stay are named too.
fn doors(cluster: &Cluster) -> Result<Vec<Door>> {
    let url = |index: usize| Ok::<_, anyhow::Error>(format!("{}/mcp", cluster.node(index).api()?));
    let program = binary("ollamax")?.display().to_string();
    let bridge = |index: usize, others: [usize; 2]| {
        let data_dir = cluster.node(index).data_dir().display().to_string();
        let mut words = vec![program.clone(), "mcp".to_owned(), "--data-dir".to_owned(), data_dir];
        for other in others {
            words.extend(["--node".to_owned(), url(other)?]);
        }
        anyhow::Ok(Way::Command(words))
    };
    let at_leader = Way::Http(vec![url(LEADER)?, url(FOLLOWER)?]);
    let at_follower = Way::Http(vec![url(FOLLOWER)?]);
    Ok(vec![
        Door { name: "the leader over HTTP", way: at_leader, breaks: true },
        Door { name: "a follower over HTTP", way: at_follower, breaks: false },
        Door { name: "the leader by a command", way: bridge(LEADER, [FOLLOWER, THIRD])?, breaks: false },
        Door { name: "a follower by a command", way: bridge(FOLLOWER, [LEADER, THIRD])?, breaks: false },
    ])
}

/// How rmcp's client may begin.
fn modes() -> [ClientLifecycleMode; 3] {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    [
        ClientLifecycleMode::Initialize,
        ClientLifecycleMode::Discover { preferred_versions: preferred_versions.clone() },
        ClientLifecycleMode::Auto { preferred_versions, legacy_version: None },
    ]
}

// === impl Door ===

impl Door {
    /// As programs take it.
    fn word(&self) -> String {
        match &self.way {
            Way::Http(urls) => urls.join(","),
            Way::Command(words) => words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        }
    }

    const fn is_http(&self) -> bool {
        matches!(self.way, Way::Http(_))
    }

    /// A client of rmcp; one that has connected so often before takes the next way.
    async fn open(&self, mode: &ClientLifecycleMode, reconnects: usize) -> Result<Assistant> {
        match &self.way {
            Way::Http(urls) => {
                let url = urls.get(reconnects % urls.len()).context("a door without a URL")?;
                // What the environment says of proxies is not for this machine's own address.
                let plain = reqwest::Client::builder().no_proxy().build()?;
                let config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                let transport = StreamableHttpClientTransport::with_client(plain, config);
                let client = timeout(CALL_TIME, ().serve_with_lifecycle(transport, mode.clone())).await??;
                Ok(Assistant { client, child: None })
            }
            Way::Command(words) => {
                let (program, arguments) = words.split_first().context("a door without a command")?;
                let mut command = Command::new(program);
                command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
                clean_environment(&mut command);
                let mut child = command.kill_on_drop(true).spawn().with_context(|| format!("start {program}"))?;
                let output = child.stdout.take().context("its standard output")?;
                let input = child.stdin.take().context("its standard input")?;
                let served = ().serve_with_lifecycle((output, input), mode.clone());
                let client = timeout(CALL_TIME, served).await??;
                Ok(Assistant { client, child: Some(child) })
            }
        }
    }
}

/// A client of rmcp, and the command through which it speaks.
struct Assistant {
    client: RunningService<RoleClient, ()>,
    child: Option<Child>,
}

// === impl Assistant ===

impl Assistant {
    async fn call(&self, tool: &'static str, arguments: &Value) -> Result<CallToolResult> {
        let arguments = arguments.as_object().cloned().with_context(|| format!("{arguments} is no object"))?;
        let asked = CallToolRequestParams::new(tool).with_arguments(arguments);
        Ok(timeout(CALL_TIME, self.client.call_tool(asked)).await??)
    }

    /// What a tool answers.
    async fn told(&self, tool: &'static str, arguments: &Value) -> Result<Value> {
        let answer = self.call(tool, arguments).await?;
        ensure!(answer.is_error != Some(true), "{tool}: {answer:?}");
        answer.structured_content.with_context(|| format!("{tool} tells nothing"))
    }

    /// The code with which a tool refuses: in an answer, and not as an error of the protocol.
    async fn refused(&self, tool: &'static str, arguments: &Value) -> Result<String> {
        let answer = self.call(tool, arguments).await?;
        ensure!(answer.is_error == Some(true) && answer.structured_content.is_none(), "{tool}: {answer:?}");
        let text = answer.content.first().and_then(ContentBlock::as_text).context("a refusal without text")?;
        let told: Value = serde_json::from_str(&text.text).with_context(|| format!("{tool}: {}", text.text))?;
        Ok(told["code"].as_str().unwrap_or_default().to_owned())
    }

    /// Leaves; the command ends with it.
    async fn leave(self) -> Result<()> {
        self.client.cancel().await.context("close the connection")?;
        let Some(mut child) = self.child else { return Ok(()) };
        let ended = timeout(END_TIME, child.wait()).await.context("the command goes on without its assistant")??;
        ensure!(ended.success(), "the command ended with {ended}");
        Ok(())
    }
}

/// What an assistant asks of a lab that is well.
async fn check(door: &Door, mode: &ClientLifecycleMode) -> Result<()> {
    let assistant = door.open(mode, 0).await?;
    let revision = match mode {
        ClientLifecycleMode::Initialize => ProtocolVersion::V_2025_11_25,
        _ => ProtocolVersion::V_2026_07_28,
    };
    let server = assistant.client.peer_info().context("it knows nothing of the server")?;
    ensure!(server.protocol_version == revision, "it came to {}", server.protocol_version);

    let listed = timeout(CALL_TIME, assistant.client.list_all_tools()).await??;
    for tool in &listed {
        let told = serde_json::to_value(tool)?;
        let hints = ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"];
        ensure!(hints.iter().all(|hint| told["annotations"][hint].is_boolean()), "{told}");
        ensure!(told["description"].is_string() && told["outputSchema"]["type"] == "object", "{told}");
    }
    let names: Vec<&str> = listed.iter().map(|tool| &*tool.name).collect();
    ensure!(READING.iter().all(|name| names.contains(name)), "{names:?}");
    // Over HTTP nobody may change anything, and nobody is told of what changes something.
    ensure!(names.contains(&"pull_model") != door.is_http(), "{names:?}");

    let health = assistant.told("health_check", &json!({})).await?;
    ensure!(health["status"] == "ok" || health["status"] == "degraded", "{health}");
    let nodes = assistant.told("list_nodes", &json!({})).await?;
    let mut members: Vec<&str> =
        nodes["nodes"].as_array().into_iter().flatten().flat_map(|node| node["name"].as_str()).collect();
    members.sort_unstable();
    ensure!(members == ["n1", "n2", "n3"], "{nodes}");
    let code = assistant.refused("get_model_info_extended", &json!({"name": "no-such-model"})).await?;
    ensure!(code == "model_not_found", "{code}");
    let nothing = assistant.call("no_such_tool", &json!({})).await;
    let code = nothing.as_ref().err().and_then(error_of_protocol).map(|error| error.code);
    ensure!(code == Some(ErrorCode::INVALID_PARAMS), "{nothing:?}");

    let asked = json!({"name": "wanted", "all": true, "dry_run": true});
    if door.is_http() {
        let code = assistant.refused("pull_model", &asked).await?;
        ensure!(code == "forbidden", "{code}");
    } else {
        let done = assistant.told("pull_model", &asked).await?;
        ensure!(done["task"].is_null() && done["plan"].to_string().contains("asks the registry"), "{done}");
    }
    assistant.leave().await
}

/// Reads until another node has led for some calls.
async fn read_on(door: &Door, mode: ClientLifecycleMode, answered: &AtomicUsize, is_over: &AtomicBool) -> Result<()> {
    let (mut assistant, mut calls, mut reconnects, mut left) = (None, 0, 0, CALLS_LAST);
    while left > 0 {
        // What is told after this line was asked for after it.
        let was_over = is_over.load(Ordering::SeqCst);
        let tool = READING[calls % READING.len()];
        match read(door, &mode, reconnects, &mut assistant, tool).await {
            Ok(()) => {
                if calls == 0 {
                    answered.fetch_add(1, Ordering::SeqCst);
                }
                calls += 1;
                left -= usize::from(was_over);
            }
            Err(error) if door.is_http() && is_lost(&error) && reconnects < RECONNECTS_MAX => {
                assistant = None;
                reconnects += 1;
            }
            Err(error) => {
                let context = format!("rmcp, {mode:?}, {}, after {calls} calls", door.name);
                return Err(error.context(context));
            }
        }
        wait::pause(PAUSE).await;
    }
    ensure!((reconnects > 0) == door.breaks, "rmcp, {mode:?}, {}: {reconnects} times anew", door.name);
    match assistant {
        Some(assistant) => assistant.leave().await,
        None => Ok(()),
    }
}

/// One call, by a client that is opened where there is none.
async fn read(
    door: &Door,
    mode: &ClientLifecycleMode,
    reconnects: usize,
    assistant: &mut Option<Assistant>,
    tool: &'static str,
) -> Result<()> {
    if assistant.is_none() {
        *assistant = Some(door.open(mode, reconnects).await?);
    }
    let assistant = assistant.as_ref().context("nobody asks")?;
    assistant.told(tool, &json!({})).await.map(drop)
}

/// Whether the connection is what failed, and nothing else.
fn is_lost(error: &anyhow::Error) -> bool {
    let has_failed = error.is::<ServiceError>() || error.is::<ClientInitializeError>() || error.is::<Elapsed>();
    has_failed && error_of_protocol(error).is_none()
}

/// What the other side answered instead of a result.
fn error_of_protocol(error: &anyhow::Error) -> Option<&ErrorData> {
    match error.downcast_ref::<ServiceError>() {
        Some(ServiceError::McpError(error)) => Some(error),
        _ => None,
    }
}
