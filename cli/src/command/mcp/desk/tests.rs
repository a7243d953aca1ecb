//! The bridge between an assistant and nodes, all in memory: what each hears, whatever dies meanwhile.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::future::BoxFuture;
use futures::stream;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncBufReadExt as _, BufReader, DuplexStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::command::mcp::exchange::{Way, Ways};

const MODERN: &str = "2026-07-28";
const PATIENCE: Duration = Duration::from_secs(60);
/// Within which an assistant hears of a node's death.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

/// How a node takes connections.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Open,
    Refusing,
    /// It takes none.
    Silent,
    /// It takes them and says nothing.
    Mute,
}

/// A node that answers by what it is asked.
struct Node {
    name: &'static str,
    mood: Mutex<Mood>,
    /// It is asked with the caller's own rights; others do not know tasks and changes of this caller's.
    is_own: AtomicBool,
    /// Its cluster has no leader: nothing can be changed there.
    is_leaderless: AtomicBool,
    /// Its engines do not run yet.
    is_starting: AtomicBool,
    /// Calls of tools have no end there.
    holds: bool,
    connections: Mutex<JoinSet<()>>,
    asked: Mutex<Vec<Value>>,
    seen: mpsc::Sender<Value>,
    streams: mpsc::Sender<Stream>,
}

/// An answer that is still told: what it was asked, and where to tell more.
struct Stream {
    asked: Value,
    told: mpsc::Sender<Value>,
}

/// What a test has of a node.
struct Hold {
    node: Arc<Node>,
    seen: mpsc::Receiver<Value>,
    streams: mpsc::Receiver<Stream>,
}

struct Lab(Vec<Arc<Node>>);

/// An assistant with a bridge to some nodes.
struct Assistant {
    input: DuplexStream,
    output: tokio::io::Lines<BufReader<DuplexStream>>,
    orphan: Option<oneshot::Sender<()>>,
    bridge: JoinSet<io::Result<()>>,
}

impl Ways for Lab {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn name(&self, node: usize) -> String {
        self.0[node].name.to_owned()
    }

    fn has_own_rights(&self, node: usize) -> bool {
        self.0[node].is_own.load(Ordering::Relaxed)
    }

    fn is_same_node(&self, one: usize, other: usize) -> bool {
        self.0[one].name == self.0[other].name
    }

    fn connect(&self, node: usize) -> BoxFuture<'static, io::Result<Way>> {
        let node = Arc::clone(&self.0[node]);
        Box::pin(async move {
            let mood = *node.mood.lock().expect("no panic");
            match mood {
                Mood::Open => Ok(node.open()),
                Mood::Refusing => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                Mood::Silent => pending().await,
                Mood::Mute => Ok(node.hang()),
            }
        })
    }
}

// === impl Node ===

impl Node {
    fn open(self: Arc<Self>) -> Way {
        let (wire, other) = tokio::io::duplex(64 << 10);
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(other), TowerToHyperService::new(router));
        self.connections.lock().expect("no panic").spawn(async move { drop(serving.await) });
        Way { wire: Box::new(wire), host: "localhost".to_owned(), path: "/mcp".to_owned() }
    }

    fn hang(&self) -> Way {
        let (wire, other) = tokio::io::duplex(64 << 10);
        self.connections.lock().expect("no panic").spawn(async move {
            pending::<()>().await;
            drop(other);
        });
        Way { wire: Box::new(wire), host: "localhost".to_owned(), path: "/mcp".to_owned() }
    }

    fn told(&self, message: &Value) -> Option<(u16, Value)> {
        let id = &message["id"];
        let said = match (message["method"].as_str()?, message["params"]["name"].as_str()) {
            ("server/discover", _) => json!({
                "resultType": "complete",
                "capabilities": {"tools": {}},
                "instructions": "Ask.",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "ollamax", "version": "9"}},
            }),
            ("tools/list", _) => {
                let is_own = self.is_own.load(Ordering::Relaxed);
                json!({"resultType": "complete", "ttlMs": 1, "tools": tools(is_own)})
            }
            ("tasks/get", _) if self.is_own.load(Ordering::Relaxed) => json!({"status": "working"}),
            ("tasks/get", _) => {
                return Some((400, message::error(id, message::INVALID_PARAMS, "no such task", Value::Null)));
            }
            ("tools/call", _) if self.is_starting.load(Ordering::Relaxed) => {
                refused("starting", "it is starting", true)
            }
            ("tools/call", Some("administers")) if !self.is_own.load(Ordering::Relaxed) => {
                return Some((400, message::error(id, message::INVALID_PARAMS, "no such tool", Value::Null)));
            }
            ("tools/call", Some("looks_up")) if !self.is_own.load(Ordering::Relaxed) => {
                refused("task_not_found", "there is no such task", false)
            }
            ("tools/call", Some("manages")) if !self.is_own.load(Ordering::Relaxed) => {
                refused("forbidden", "manages needs the permission manage, which you do not have", false)
            }
            ("tools/call", Some("chats")) => refused("forbidden", "tiny is disabled", false),
            ("tools/call", Some("pulls")) if self.is_leaderless.load(Ordering::Relaxed) => {
                refused("no_quorum", "nobody leads", true)
            }
            ("tools/call", Some("turned_away")) => {
                return Some((403, message::error(&Value::Null, INVALID_REQUEST, "not you", Value::Null)));
            }
            ("tools/call", _) => json!({
                "resultType": "complete",
                "content": [],
                "structuredContent": {"node": self.name, "key": message["params"]["arguments"]["idempotency_key"]},
            }),
            _ => return Some((404, message::error(id, -32_601, "no such method", Value::Null))),
        };
        Some((200, message::result(id, said)))
    }
}

/// What a tool says that did not do what was asked.
fn refused(code: &str, text: &str, retryable: bool) -> Value {
    let said = json!({"code": code, "message": text, "next": "look", "retryable": retryable});
    json!({"resultType": "complete", "content": [{"type": "text", "text": said.to_string()}], "isError": true})
}

fn tools(is_own: bool) -> Value {
    let tool = |name: &str, reads: bool, properties: Value| {
        json!({
            "name": name,
            "inputSchema": {"type": "object", "properties": properties},
            "annotations": {"readOnlyHint": reads, "idempotentHint": false},
        })
    };
    let key = json!({"idempotency_key": {"type": "string"}});
    let mut all = vec![
        tool("reads", true, json!({})),
        tool("adds", false, json!({})),
        tool("pulls", false, key.clone()),
        tool("administers", false, json!({})),
        tool("looks_up", true, json!({})),
        tool("manages", false, json!({})),
        tool("list_tasks", true, json!({})),
        tool("chats", false, json!({})),
        tool("turned_away", true, json!({})),
    ];
    // Others are not told of it.
    if is_own {
        all.push(tool("tends", false, key));
    }
    Value::Array(all)
}

async fn answer(State(node): State<Arc<Node>>, request: axum::extract::Request) -> Response {
    let bytes = axum::body::to_bytes(request.into_body(), LINE_BYTES_MAX).await.expect("a whole request");
    let message: Value = serde_json::from_slice(&bytes).expect("JSON");
    node.asked.lock().expect("no panic").push(message.clone());
    let method = message["method"].as_str().expect("a method").to_owned();
    let is_call = method == "tools/call";
    if is_call {
        node.seen.send(message.clone()).await.expect("the test looks");
    }
    if method == "subscriptions/listen" || message["params"]["name"] == "steps" {
        let (told, coming) = mpsc::channel(8);
        node.streams.send(Stream { asked: message, told }).await.expect("the test looks");
        let events = stream::unfold(coming, |mut coming| async move {
            let message: Value = coming.recv().await?;
            Some((Ok::<_, Infallible>(format!("data: {message}\n\n")), coming))
        });
        let response = Response::builder().header("content-type", "text/event-stream");
        return response.body(Body::from_stream(events)).expect("a response");
    }
    if is_call && node.holds {
        pending::<()>().await;
    }
    let (status, said) = node.told(&message).expect("a method");
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(said.to_string())).expect("a response")
}

// === impl Hold ===

impl Hold {
    fn new(name: &'static str, holds: bool) -> Self {
        let (seen_there, seen) = mpsc::channel(64);
        let (streams_there, streams) = mpsc::channel(64);
        let node = Node {
            name,
            mood: Mutex::new(Mood::Open),
            is_own: AtomicBool::new(false),
            is_leaderless: AtomicBool::new(false),
            is_starting: AtomicBool::new(false),
            holds,
            connections: Mutex::default(),
            asked: Mutex::default(),
            seen: seen_there,
            streams: streams_there,
        };
        Self { node: Arc::new(node), seen, streams }
    }

    fn of_caller(self) -> Self {
        self.node.is_own.store(true, Ordering::Relaxed);
        self
    }

    async fn call(&mut self) -> Value {
        timeout(PATIENCE, self.seen.recv()).await.expect("in time").expect("it runs")
    }

    async fn stream(&mut self) -> Stream {
        timeout(PATIENCE, self.streams.recv()).await.expect("in time").expect("it runs")
    }

    fn become_so(&self, mood: Mood) {
        *self.node.mood.lock().expect("no panic") = mood;
        if mood != Mood::Open {
            self.node.connections.lock().expect("no panic").abort_all();
        }
    }

    /// What it was asked by a method.
    fn asked(&self, method: &str) -> Vec<Value> {
        let asked = self.node.asked.lock().expect("no panic");
        asked.iter().filter(|message| message["method"] == method).cloned().collect()
    }
}

// === impl Stream ===

impl Stream {
    async fn tell(&self, message: Value) {
        self.told.send(message).await.expect("somebody listens");
    }

    async fn acknowledge(&self) {
        self.grant(json!({"toolsListChanged": true})).await;
    }

    async fn grant(&self, notifications: Value) {
        let params = self.of_subscription(json!({"notifications": notifications}));
        let method = "notifications/subscriptions/acknowledged";
        self.tell(json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    async fn change(&self) {
        let params = self.of_subscription(json!({}));
        self.tell(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": params})).await;
    }

    async fn task(&self, id: &str, status: &str) {
        let params = self.of_subscription(json!({"taskId": id, "status": status}));
        self.tell(json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params})).await;
    }

    fn of_subscription(&self, mut params: Value) -> Value {
        params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": self.asked["id"]});
        params
    }
}

// === impl Assistant ===

impl Assistant {
    fn start(nodes: &[&Hold]) -> Self {
        Self::with_room(64 << 10, nodes)
    }

    /// It may be told so many bytes before it reads.
    fn with_room(bytes: usize, nodes: &[&Hold]) -> Self {
        let lab = Lab(nodes.iter().map(|hold| Arc::clone(&hold.node)).collect());
        let (input, its_input) = tokio::io::duplex(64 << 10);
        let (its_output, output) = tokio::io::duplex(bytes);
        let (orphan, orphaned) = oneshot::channel::<()>();
        let mut bridge = JoinSet::new();
        bridge.spawn(async move {
            let orphaned = async { orphaned.await.unwrap_or_default() };
            serve(Arc::new(Bridge::new(Arc::new(lab))), BufReader::new(its_input), its_output, orphaned).await
        });
        Self { input, output: BufReader::new(output).lines(), orphan: Some(orphan), bridge }
    }

    async fn write(&mut self, line: &[u8]) {
        timeout(PATIENCE, self.input.write_all(line)).await.expect("in time").expect("it reads");
    }

    async fn send(&mut self, id: Value, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.write(format!("{message}\n").as_bytes()).await;
    }

    async fn call(&mut self, id: u64, tool: &str) {
        self.send(json!(id), "tools/call", json!({"name": tool, "arguments": {}})).await;
    }

    async fn cancel(&mut self, id: Value) {
        let message = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        self.write(format!("{message}\n").as_bytes()).await;
    }

    async fn hear(&mut self) -> Value {
        let line = timeout(PATIENCE, self.output.next_line()).await.expect("in time").expect("readable");
        serde_json::from_str(&line.expect("it runs")).expect("JSON")
    }

    /// The node that answered a call.
    async fn node_of(&mut self, id: u64) -> Value {
        let told = self.hear().await;
        assert_eq!(told["id"], id, "{told}");
        told["result"]["structuredContent"]["node"].clone()
    }

    /// It ends, and says no more.
    async fn end(mut self) {
        drop(self.input);
        let ended = timeout(PATIENCE, self.bridge.join_next()).await.expect("in time").expect("one task");
        ended.expect("no panic").expect("a good end");
        assert_eq!(self.output.next_line().await.expect("readable"), None);
    }
}

fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    });
    params
}

fn code_of(told: &Value) -> (&Value, &Value) {
    (&told["id"], &told["error"]["data"]["code"])
}

#[tokio::test(start_paused = true)]
async fn an_assistant_of_the_handshake_is_served_and_nodes_hear_the_newer_words() {
    let n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    let editor = json!({"name": "editor", "version": "1"});
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {"roots": {}}, "clientInfo": editor});
    assistant.send(json!("hello"), "initialize", hello).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["protocolVersion"]), (&json!("hello"), &json!("2025-06-18")), "{told}");
    assert_eq!(told["result"]["instructions"], "Ask.");
    assistant.write(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n\n").await;
    assistant.send(json!(1), "ping", json!({})).await;
    assert_eq!(assistant.hear().await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assistant.send(json!(2), "tools/list", json!({})).await;
    assert_eq!(assistant.hear().await, json!({"jsonrpc": "2.0", "id": 2, "result": {"tools": tools(false)}}));
    assistant.send(json!(3), "logging/setLevel", json!({"level": "info"})).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(3), &json!(-32_601)));
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": editor,
    });
    for method in ["server/discover", "tools/list", "logging/setLevel"] {
        let asked = n1.asked(method);
        assert_eq!((asked.len(), &asked[0]["params"]["_meta"]), (1, &meta), "{method}");
    }
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_assistant_of_today_is_handed_on_as_it_speaks() {
    let n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.send(json!("a"), "server/discover", modern(json!({}))).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["resultType"]), (&json!("a"), &json!("complete")), "{told}");
    assert_eq!(n1.asked("server/discover")[0]["params"], modern(json!({})));
    let mut old = modern(json!({}));
    old["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2099-01-01");
    assistant.send(json!(7), "tools/list", old).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(7), &json!(-32_022)), "{told}");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_been_done_is_not_done_twice_and_the_next_one_goes_on_elsewhere() {
    let (mut n1, n2) = (Hold::new("n1", true), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.call(7, "adds").await;
    n1.call().await;
    let died_at = Instant::now();
    n1.become_so(Mood::Refusing);
    let told = assistant.hear().await;
    assert!(died_at.elapsed() <= TOLD_WITHIN, "{:?}", died_at.elapsed());
    assert_eq!(code_of(&told), (&json!(7), &json!("outcome_unknown")), "{told}");
    assert!(told["error"]["data"]["next"].as_str().is_some_and(|next| next.contains("before it is repeated")));
    assert!(n2.asked("tools/call").is_empty());
    assistant.call(8, "adds").await;
    assert_eq!(assistant.node_of(8).await, "n2");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_reads_or_has_a_key_goes_on_at_the_next_node() {
    for (tool, has_key) in [("reads", false), ("pulls", true)] {
        let (mut n1, n2) = (Hold::new("n1", true), Hold::new("n2", false));
        let mut assistant = Assistant::start(&[&n1, &n2]);
        assistant.call(7, tool).await;
        let first = n1.call().await;
        n1.become_so(Mood::Refusing);
        assert_eq!(assistant.node_of(7).await, "n2", "{tool}");
        let second = n2.asked("tools/call");
        assert_eq!((second.len(), &second[0]["params"]), (1, &first["params"]), "{tool}");
        // Asked again it is another request.
        assert_ne!(second[0]["id"], first["id"]);
        assert_eq!(first["params"]["arguments"]["idempotency_key"].is_string(), has_key, "{tool}");
        assistant.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_begun_is_never_told_as_not_done_and_its_key_is_told() {
    let (mut n1, n2) = (Hold::new("n1", true), Hold::new("n2", false));
    n2.become_so(Mood::Refusing);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    for (id, tool) in [(7, "pulls"), (8, "reads")] {
        n1.become_so(Mood::Open);
        assistant.call(id, tool).await;
        let asked = n1.call().await;
        let died_at = Instant::now();
        n1.become_so(Mood::Refusing);
        let told = assistant.hear().await;
        assert!(died_at.elapsed() <= TOLD_WITHIN, "{:?}", died_at.elapsed());
        let code = if tool == "pulls" { "outcome_unknown" } else { "peer_unreachable" };
        assert_eq!(code_of(&told), (&json!(id), &json!(code)), "{told}");
        assert_eq!(told["error"]["data"]["idempotency_key"], asked["params"]["arguments"]["idempotency_key"]);
    }
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_begun_is_not_told_as_not_done_by_a_node_that_cannot_say() {
    let (mut n1, n2) = (Hold::new("n1", true), Hold::new("n2", false));
    n2.node.is_leaderless.store(true, Ordering::Relaxed);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.call(7, "pulls").await;
    n1.call().await;
    n1.become_so(Mood::Refusing);
    let told = assistant.hear().await;
    assert_eq!(code_of(&told), (&json!(7), &json!("outcome_unknown")), "{told}");
    assert!(told["error"]["data"]["idempotency_key"].is_string(), "{told}");
    let asked = n2.asked("tools/call").len();
    assert!(asked > 1, "it is asked again while there is time");
    // Of what was not begun before, that is the answer.
    assistant.call(8, "pulls").await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["isError"]), (&json!(8), &json!(true)), "{told}");
    assert_eq!(n2.asked("tools/call").len(), asked + 1);
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_is_asked_again_for_a_little_while_and_then_has_the_word() {
    let mut n1 = Hold::new("n1", false).of_caller();
    n1.node.is_starting.store(true, Ordering::Relaxed);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.call(7, "adds").await;
    n1.call().await;
    n1.call().await;
    n1.node.is_starting.store(false, Ordering::Relaxed);
    assert_eq!(assistant.node_of(7).await, "n1");
    n1.node.is_starting.store(true, Ordering::Relaxed);
    let asked_at = Instant::now();
    assistant.call(8, "adds").await;
    let told = assistant.hear().await;
    assert!(asked_at.elapsed() <= TOLD_WITHIN, "{:?}", asked_at.elapsed());
    assert_eq!((&told["id"], &told["result"]["isError"]), (&json!(8), &json!(true)), "{told}");
    assistant.end().await;
    // Another node answers at once.
    let n2 = Hold::new("n2", false);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.call(9, "reads").await;
    assert_eq!(assistant.node_of(9).await, "n2");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_may_have_been_begun_goes_on_with_the_same_rights_alone() {
    let (mut n1, n2) = (Hold::new("n1", true).of_caller(), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.call(7, "pulls").await;
    let first = n1.call().await;
    n1.become_so(Mood::Refusing);
    // Its connection has broken, and it is back.
    n1.become_so(Mood::Open);
    let second = n1.call().await;
    assert_eq!(second["params"], first["params"]);
    // It dies of it once more, and is not asked a third time.
    n1.become_so(Mood::Refusing);
    let told = assistant.hear().await;
    assert_eq!(code_of(&told), (&json!(7), &json!("outcome_unknown")), "{told}");
    assert!(n2.asked("tools/call").is_empty());
    assistant.call(8, "pulls").await;
    assert_eq!(assistant.node_of(8).await, "n2");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn that_a_task_is_unknown_to_others_is_no_answer_while_its_caller_is_away() {
    let (n1, n2) = (Hold::new("n1", false).of_caller(), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    let task = || modern(json!({"taskId": "task_1"}));
    assistant.send(json!(7), "tasks/get", task()).await;
    assert_eq!(assistant.hear().await["result"]["status"], "working");
    n1.become_so(Mood::Refusing);
    // The second time it rests, and is asked last.
    for id in [8, 9] {
        assistant.send(json!(id), "tasks/get", task()).await;
        assert_eq!(code_of(&assistant.hear().await), (&json!(id), &json!("peer_unreachable")));
    }
    n1.become_so(Mood::Open);
    assistant.send(json!(10), "tasks/get", task()).await;
    assert_eq!(assistant.hear().await["result"]["status"], "working");
    assistant.end().await;
    // Whoever never had rights of their own hears what there is.
    n1.become_so(Mood::Refusing);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.send(json!(9), "tasks/get", task()).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["error"]["message"]), (&json!(9), &json!("no such task")), "{told}");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn that_a_tool_is_unknown_to_others_is_no_answer_while_its_caller_is_away() {
    let (n1, n2) = (Hold::new("n1", false).of_caller(), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    // Of the other one a tool itself says that it has no such task, or may not be used, or that it lists none.
    for tool in ["administers", "looks_up", "manages", "list_tasks"] {
        n1.become_so(Mood::Open);
        assistant.call(7, tool).await;
        assert_eq!(assistant.node_of(7).await, "n1", "{tool}");
        n1.become_so(Mood::Refusing);
        for id in [8, 9] {
            assistant.call(id, tool).await;
            let told = assistant.hear().await;
            assert_eq!(code_of(&told), (&json!(id), &json!("peer_unreachable")), "{tool}");
            let text = told["error"]["message"].as_str().expect("text");
            assert!(text.starts_with("only this machine's daemon"), "{tool}: {text}");
            assert!(text.contains("n2: it takes you for another caller"), "{tool}: {text}");
        }
        n1.become_so(Mood::Open);
        assistant.call(10, tool).await;
        assert_eq!(assistant.node_of(10).await, "n1", "{tool}");
    }
    // What rights do not decide is answered as ever.
    n1.become_so(Mood::Refusing);
    assistant.send(json!(11), "nonsense", modern(json!({}))).await;
    assert_eq!(assistant.hear().await["error"]["message"], "no such method");
    assistant.call(12, "chats").await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["isError"]), (&json!(12), &json!(true)), "{told}");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_others_are_not_told_of_is_looked_for_as_soon_as_its_caller_is_back() {
    let (n1, n2) = (Hold::new("n1", false).of_caller(), Hold::new("n2", false));
    n1.become_so(Mood::Refusing);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    let key_of = |told: &Value| told["result"]["structuredContent"]["key"].clone();
    for id in [7, 8] {
        assistant.call(id, "tends").await;
        assert_eq!(key_of(&assistant.hear().await), Value::Null, "nothing is known of it");
    }
    assert_eq!(n2.asked("tools/list").len(), 1, "it is not looked for at each call");
    n1.become_so(Mood::Open);
    // It has rested.
    tokio::time::advance(Duration::from_secs(11)).await;
    assistant.call(9, "tends").await;
    let told = assistant.hear().await;
    assert_eq!(told["result"]["structuredContent"]["node"], "n1", "{told}");
    assert!(key_of(&told).is_string(), "{told}");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_first_of_all_does_not_keep_from_what_tools_say() {
    let (n1, mut n2, n3) = (Hold::new("n1", false), Hold::new("n2", true), Hold::new("n3", false));
    n1.become_so(Mood::Silent);
    let mut assistant = Assistant::start(&[&n1, &n2, &n3]);
    assistant.call(7, "reads").await;
    n2.call().await;
    n2.become_so(Mood::Refusing);
    assert_eq!(assistant.node_of(7).await, "n3");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_back_is_asked_first_again() {
    let (n1, n2) = (Hold::new("n1", false), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    n1.become_so(Mood::Refusing);
    assistant.call(1, "reads").await;
    assert_eq!(assistant.node_of(1).await, "n2");
    n1.become_so(Mood::Open);
    tokio::time::advance(Duration::from_secs(11)).await;
    assistant.call(2, "reads").await;
    assert_eq!(assistant.node_of(2).await, "n1");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_any_node_each_request_is_told_so_in_time_and_handshakes_are_made() {
    let (n1, n2) = (Hold::new("n1", false), Hold::new("n2", false));
    n1.become_so(Mood::Refusing);
    n2.become_so(Mood::Silent);
    let mut assistant = Assistant::start(&[&n1, &n2]);
    let begun_at = Instant::now();
    assistant.call(7, "adds").await;
    let told = assistant.hear().await;
    assert_eq!(code_of(&told), (&json!(7), &json!("peer_unreachable")), "{told}");
    let text = told["error"]["message"].as_str().expect("text");
    assert!(text.contains("n1: ") && text.contains("n2: no connection within"), "{text}");
    assert!(told["error"]["data"]["next"].as_str().is_some_and(|next| next.contains("ollamax-node run")));
    assert!(begun_at.elapsed() <= TOLD_WITHIN, "{:?}", begun_at.elapsed());
    assistant.send(json!(8), "initialize", json!({"protocolVersion": "2025-11-25"})).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["capabilities"]), (&json!(8), &json!({"tools": {}})), "{told}");
    assistant.send(json!(9), "server/discover", modern(json!({}))).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["ttlMs"]), (&json!(9), &json!(0)), "{told}");
    assistant.send(json!(10), "subscriptions/listen", modern(json!({}))).await;
    assert_eq!(code_of(&assistant.hear().await), (&json!(10), &json!("peer_unreachable")));
    n1.become_so(Mood::Open);
    assistant.call(11, "adds").await;
    assert_eq!(assistant.node_of(11).await, "n1");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_by_every_node_hears_the_nodes_words_under_its_own_id() {
    let (n1, n2) = (Hold::new("n1", false), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    assistant.call(7, "turned_away").await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["error"]["message"]), (&json!(7), &json!("not you")), "{told}");
    assert_eq!((n1.asked("tools/call").len(), n2.asked("tools/call").len()), (1, 1));
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_handed_on_and_cancelling_closes_the_request_at_the_node() {
    let mut n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    let params = json!({"name": "steps", "arguments": {}, "_meta": {"progressToken": "p"}});
    assistant.send(json!(7), "tools/call", params.clone()).await;
    let steps = n1.stream().await;
    let progress = |done: u64| {
        let params = json!({"progressToken": "p", "progress": done});
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    };
    steps.tell(progress(1)).await;
    assert_eq!(assistant.hear().await, progress(1));
    steps.tell(message::result(&steps.asked["id"], json!({"content": []}))).await;
    assert_eq!(assistant.hear().await, json!({"jsonrpc": "2.0", "id": 7, "result": {"content": []}}));

    assistant.send(json!(8), "tools/call", params).await;
    let steps = n1.stream().await;
    steps.tell(progress(1)).await;
    assert_eq!(assistant.hear().await, progress(1));
    assistant.cancel(json!("8")).await;
    steps.tell(progress(2)).await;
    assert_eq!(assistant.hear().await, progress(2));
    assistant.cancel(json!(8)).await;
    timeout(PATIENCE, steps.told.closed()).await.expect("nobody listens any more");
    assistant.call(9, "reads").await;
    assert_eq!(assistant.node_of(9).await, "n1");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_at_the_next_node_and_says_what_may_have_been_missed() {
    let (mut n1, mut n2) = (Hold::new("n1", false), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    let filter = json!({"notifications": {"toolsListChanged": true}});
    assistant.send(json!("s"), "subscriptions/listen", modern(filter)).await;
    let named = json!({"io.modelcontextprotocol/subscriptionId": "s"});
    let first = n1.stream().await;
    first.acknowledge().await;
    let told = assistant.hear().await;
    assert_eq!(told["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(told["params"]["_meta"], named);
    n1.become_so(Mood::Refusing);
    let second = n2.stream().await;
    second.acknowledge().await;
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": named}});
    assert_eq!(assistant.hear().await, changed);
    second.change().await;
    assert_eq!(assistant.hear().await, changed);
    // Nobody is there for a while.
    n2.become_so(Mood::Refusing);
    tokio::time::advance(PATIENCE / 2).await;
    n1.become_so(Mood::Open);
    let third = n1.stream().await;
    third.acknowledge().await;
    assert_eq!(assistant.hear().await, changed);
    // A node that stops in good order ends it; another one goes on.
    n2.become_so(Mood::Open);
    third.tell(message::result(&third.asked["id"], json!({"resultType": "complete"}))).await;
    let fourth = n2.stream().await;
    fourth.acknowledge().await;
    assert_eq!(assistant.hear().await, changed);
    // That one dies, and the end of the one before it is no end of it.
    n2.become_so(Mood::Refusing);
    let fifth = n1.stream().await;
    fifth.acknowledge().await;
    assert_eq!(assistant.hear().await, changed);
    // Where there is none, it has ended.
    *n1.node.mood.lock().expect("no panic") = Mood::Refusing;
    fifth.tell(message::result(&fifth.asked["id"], json!({"resultType": "complete"}))).await;
    let told = assistant.hear().await;
    assert_eq!(told, json!({"jsonrpc": "2.0", "id": "s", "result": {"resultType": "complete"}}));
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_to_tasks_says_what_is_not_heard_elsewhere_and_comes_back_to_its_callers_rights() {
    let (mut n1, mut n2) = (Hold::new("n1", false).of_caller(), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&n1, &n2]);
    let wanted = json!({"toolsListChanged": true, "taskIds": ["a", "b"]});
    assistant.send(json!("s"), "subscriptions/listen", modern(json!({"notifications": wanted}))).await;
    let first = n1.stream().await;
    first.grant(wanted.clone()).await;
    assert_eq!(assistant.hear().await["params"]["notifications"], wanted);
    for (id, status) in [("a", "working"), ("b", "completed")] {
        first.task(id, status).await;
        let told = assistant.hear().await;
        assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!(id), &json!(status)), "{told}");
    }
    // Others do not know this caller's tasks.
    n1.become_so(Mood::Refusing);
    let second = n2.stream().await;
    second.acknowledge().await;
    let told = assistant.hear().await;
    assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!("a"), &json!("working")), "{told}");
    assert!(told["params"]["statusMessage"].as_str().is_some_and(|text| text.contains("last heard of")), "{told}");
    assert_eq!(assistant.hear().await["method"], "notifications/tools/list_changed");
    // It is back, and all is wanted there that was.
    n1.become_so(Mood::Open);
    let third = n1.stream().await;
    assert_eq!(third.asked["params"]["notifications"], wanted);
    timeout(PATIENCE, second.told.closed()).await.expect("nobody listens any more");
    third.grant(wanted.clone()).await;
    assert_eq!(assistant.hear().await["method"], "notifications/tools/list_changed");
    third.task("b", "completed").await;
    third.task("a", "completed").await;
    let told = assistant.hear().await;
    assert_eq!((&told["params"]["taskId"], &told["params"]["status"]), (&json!("a"), &json!("completed")), "{told}");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_is_refused_and_nothing_behind_it_is_lost() {
    let n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    for (line, id, code) in [
        ("nonsense", Value::Null, -32_700),
        ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", Value::Null, -32_600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1}", json!(1), -32_600),
    ] {
        assistant.write(format!("{line}\n").as_bytes()).await;
        let told = assistant.hear().await;
        assert_eq!((&told["id"], &told["error"]["code"]), (&id, &json!(code)), "{line}");
    }
    let long = json!({"jsonrpc": "2.0", "id": 4, "method": "ping", "params": {"x": "x".repeat(LINE_BYTES_MAX)}});
    assistant.write(format!("{long}\n").as_bytes()).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["error"]["code"]), (&json!(4), &json!(-32_600)));
    assistant.call(5, "reads").await;
    assert_eq!(assistant.node_of(5).await, "n1");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_has_no_answer_yet_is_not_taken_twice_and_nothing_else_is_told_under_it() {
    let mut n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.call(7, "steps").await;
    let stream = n1.stream().await;
    n1.call().await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "adds"}});
    let long = json!({"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"x": "x".repeat(LINE_BYTES_MAX)}});
    let broken = json!({"jsonrpc": "1.0", "id": 7, "method": "ping"});
    for (line, words) in [(call, "with the id 7 "), (long, "the line has more than "), (broken, "JSON-RPC 2.0")] {
        assistant.write(format!("{line}\n").as_bytes()).await;
        let told = assistant.hear().await;
        assert_eq!((&told["id"], &told["error"]["code"]), (&Value::Null, &json!(-32_600)), "{told}");
        assert!(told["error"]["message"].as_str().is_some_and(|text| text.contains(words)), "{told}");
    }
    assert_eq!(n1.asked("tools/call").len(), 1);
    // The first one has its answer, and its id is free then.
    stream.tell(message::result(&stream.asked["id"], json!({"content": []}))).await;
    let told = assistant.hear().await;
    assert_eq!((&told["id"], &told["result"]["content"]), (&json!(7), &json!([])), "{told}");
    assistant.call(7, "adds").await;
    assert_eq!(assistant.node_of(7).await, "n1");
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_before_the_input_ended_is_answered_and_then_it_ends() {
    let mut n1 = Hold::new("n1", false);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.send(json!("s"), "subscriptions/listen", modern(json!({}))).await;
    let subscribed = n1.stream().await;
    assistant.call(7, "reads").await;
    let Assistant { input, mut output, mut bridge, orphan } = assistant;
    drop(input);
    let line = output.next_line().await.expect("readable").expect("an answer");
    assert!(line.contains("\"id\":7"), "{line}");
    timeout(PATIENCE, bridge.join_next()).await.expect("in time").expect("one").expect("no panic").expect("an end");
    timeout(PATIENCE, subscribed.told.closed()).await.expect("nobody listens any more");
    drop(orphan);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_who_began_it_also_where_the_input_does_not() {
    let mut n1 = Hold::new("n1", true);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.call(7, "adds").await;
    n1.call().await;
    drop(assistant.orphan.take());
    timeout(PATIENCE, assistant.bridge.join_next())
        .await
        .expect("in time")
        .expect("one")
        .expect("no panic")
        .expect("an end");
}

#[tokio::test(start_paused = true)]
async fn an_assistant_that_does_not_read_is_still_heard() {
    for ends_by_itself in [true, false] {
        let mut n1 = Hold::new("n1", false);
        let mut assistant = Assistant::with_room(16, &[&n1]);
        assistant.send(json!(7), "tools/call", json!({"name": "steps", "arguments": {}})).await;
        let steps = n1.stream().await;
        assistant.send(json!(8), "ping", json!({})).await;
        assistant.cancel(json!(7)).await;
        timeout(PATIENCE, steps.told.closed()).await.expect("nobody listens any more");
        let ended_at = Instant::now();
        let Assistant { input, output, orphan, mut bridge } = assistant;
        let kept = if ends_by_itself {
            drop(input);
            (None, orphan)
        } else {
            drop(orphan);
            (Some(input), None)
        };
        timeout(PATIENCE, bridge.join_next()).await.expect("in time").expect("one").expect("no panic").expect("an end");
        assert!(ended_at.elapsed() < 2 * ENDING, "{:?}", ended_at.elapsed());
        drop((output, kept));
    }
}

#[tokio::test(start_paused = true)]
async fn an_assistant_that_reads_late_hears_all_in_order() {
    let n1 = Hold::new("n1", false);
    let mut assistant = Assistant::with_room(16, &[&n1]);
    for id in 0..9 {
        assistant.send(json!(id), "nonsense", json!([])).await;
    }
    for id in 0..9 {
        assert_eq!(assistant.hear().await["id"], id);
    }
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_connections_and_says_nothing_is_left() {
    for (tool, code) in [("reads", None), ("pulls", None), ("adds", Some("outcome_unknown"))] {
        let (mut n1, n2) = (Hold::new("n1", true), Hold::new("n2", false));
        let mut assistant = Assistant::start(&[&n1, &n2]);
        assistant.call(7, tool).await;
        n1.call().await;
        let hung_at = Instant::now();
        *n1.node.mood.lock().expect("no panic") = Mood::Mute;
        match code {
            None => assert_eq!(assistant.node_of(7).await, "n2", "{tool}"),
            Some(code) => assert_eq!(code_of(&assistant.hear().await), (&json!(7), &json!(code)), "{tool}"),
        }
        assert!(hung_at.elapsed() <= 4 * TOLD_WITHIN, "{:?}", hung_at.elapsed());
        assistant.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_is_waited_for_once_whatever_the_ways_to_it_and_rests_longer_than_that() {
    let mut socket = Hold::new("n1", true).of_caller();
    let (listener, n2) = (Hold::new("n1", false), Hold::new("n2", false));
    let mut assistant = Assistant::start(&[&socket, &listener, &n2]);
    assistant.call(7, "reads").await;
    socket.call().await;
    let hung_at = Instant::now();
    for way in [&socket, &listener] {
        *way.node.mood.lock().expect("no panic") = Mood::Mute;
    }
    assert_eq!(assistant.node_of(7).await, "n2");
    assert!(hung_at.elapsed() < Duration::from_secs(5), "{:?}", hung_at.elapsed());
    tokio::time::advance(Duration::from_secs(15)).await;
    let asked_at = Instant::now();
    for id in [8, 9] {
        assistant.call(id, "reads").await;
        assert_eq!(assistant.node_of(id).await, "n2");
    }
    assert!(asked_at.elapsed() < Duration::from_secs(1), "{:?}", asked_at.elapsed());
    assistant.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_long_is_waited_for_while_its_node_answers_others() {
    let mut n1 = Hold::new("n1", true);
    let mut assistant = Assistant::start(&[&n1]);
    assistant.call(7, "adds").await;
    n1.call().await;
    let heard = timeout(10 * PATIENCE, assistant.output.next_line()).await;
    assert!(heard.is_err(), "{heard:?}");
    assert!(n1.asked("server/discover").len() > 10);
    assistant.end().await;
}
