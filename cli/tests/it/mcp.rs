//! `ollamax mcp` as an assistant starts it.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::daemon::Daemon;
use crate::lab;
use crate::terminal::{PATIENCE, command, run};

/// An assistant's side of the running program.
struct Program {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// When a call has come, and when its daemon dies of it.
#[derive(Default)]
struct Fate {
    called: Notify,
    dies: Notify,
}

// === impl Program ===

impl Program {
    fn start(data_dir: &Path, words: &[&str]) -> Self {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), data_dir, words);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("started");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, output }
    }

    async fn send(&mut self, id: &Value, method: &str, params: Value) {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.input.write_all(format!("{message}\n").as_bytes()).await.expect("it reads");
    }

    async fn hear(&mut self) -> Value {
        let line = timeout(PATIENCE, self.output.next_line()).await.expect("in time").expect("readable");
        serde_json::from_str(&line.expect("a line")).expect("JSON")
    }

    /// It ends with its input, and says no more.
    async fn end(mut self) {
        drop(self.input);
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("in time").expect("ended");
        assert!(ended.success(), "{ended}");
        assert_eq!(self.output.next_line().await.expect("readable"), None);
    }
}

async fn answer(Json(message): Json<Value>) -> Json<Value> {
    Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": {"asked": message["method"]}}))
}

/// As [`answer`], but a call breaks off when its daemon dies.
async fn answer_until(State(fate): State<Arc<Fate>>, message: Json<Value>) -> Response {
    if message["method"] != "tools/call" {
        return answer(message).await.into_response();
    }
    fate.called.notify_one();
    let end = stream::once(async move {
        fate.dies.notified().await;
        Err::<Bytes, io::Error>(io::ErrorKind::ConnectionReset.into())
    });
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(Body::from_stream(end)).expect("a response")
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().expect("a directory");
    // Nobody listens there, whatever runs on this machine.
    let file = json!({"api": "http://127.0.0.1:1"}).to_string();
    std::fs::write(directory.path().join("node.json"), file).expect("written");
    directory
}

#[tokio::test]
async fn an_assistant_is_served_over_the_daemons_socket_and_the_program_ends_with_its_input() {
    let directory = directory();
    let socket = UnixListener::bind(directory.path().join("admin.sock")).expect("the socket");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(socket, Router::new().route("/mcp", post(answer))).await.expect("served") });
    let mut program = Program::start(directory.path(), &["mcp"]);
    let id = json!("a");
    for (method, expected) in [("tools/list", json!({"asked": "tools/list"})), ("ping", json!({}))] {
        program.send(&id, method, json!({})).await;
        assert_eq!(program.hear().await, json!({"jsonrpc": "2.0", "id": id, "result": expected}));
    }
    program.end().await;
}

#[tokio::test]
async fn a_daemon_that_dies_in_the_midst_of_a_call_is_told_and_the_next_call_goes_to_another_node() {
    let directory = directory();
    let socket = UnixListener::bind(directory.path().join("admin.sock")).expect("the socket");
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", other.local_addr().expect("bound"));
    let fate = Arc::new(Fate::default());
    let dying = Router::new().route("/mcp", post(answer_until)).with_state(Arc::clone(&fate));
    let (mut daemon, mut elsewhere) = (JoinSet::new(), JoinSet::new());
    daemon.spawn(async move { axum::serve(socket, dying).await.expect("served") });
    elsewhere
        .spawn(async move { axum::serve(other, Router::new().route("/mcp", post(answer))).await.expect("served") });
    let mut program = Program::start(directory.path(), &["mcp", "--node", &url]);
    let call = json!({"name": "adds", "arguments": {}});
    program.send(&json!(7), "tools/call", call.clone()).await;
    timeout(PATIENCE, fate.called.notified()).await.expect("in time");
    daemon.shutdown().await;
    fate.dies.notify_one();
    let told = program.hear().await;
    assert_eq!((&told["id"], &told["error"]["data"]["code"]), (&json!(7), &json!("outcome_unknown")), "{told}");
    program.send(&json!(8), "tools/call", call).await;
    assert_eq!(program.hear().await, json!({"jsonrpc": "2.0", "id": 8, "result": {"asked": "tools/call"}}));
    program.end().await;
}

#[tokio::test]
async fn a_node_that_cannot_be_one_is_refused_before_anything_is_read() {
    let daemon = Daemon::start(lab::script()).await;
    let said = run(&daemon, &["mcp", "--node", "https://b.lan"]).await;
    assert_eq!((said.exit, said.stdout.as_str()), (2, ""), "{said:?}");
    assert!(said.stderr.starts_with("error: --node https://b.lan: it must begin with http://"), "{said:?}");
}
