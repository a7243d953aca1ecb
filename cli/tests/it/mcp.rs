//! `ollamax mcp` as an assistant starts it.

use std::path::Path;
use std::process::Stdio;

use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::daemon::Daemon;
use crate::lab;
use crate::terminal::{PATIENCE, command, run};

async fn answer(Json(message): Json<Value>) -> Json<Value> {
    Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": {"asked": message["method"]}}))
}

#[tokio::test]
async fn an_assistant_is_served_over_the_daemons_socket_and_the_program_ends_with_its_input() {
    let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().expect("a directory");
    let socket = UnixListener::bind(directory.path().join("admin.sock")).expect("the socket");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(socket, Router::new().route("/mcp", post(answer))).await.expect("served") });
    let mut command = command(Path::new(env!("CARGO_BIN_EXE_ollamax")), directory.path(), &["mcp"]);
    let mut program = command.stdin(Stdio::piped()).spawn().expect("started");
    let mut input = program.stdin.take().expect("piped");
    let mut output = BufReader::new(program.stdout.take().expect("piped")).lines();
    for (line, expected) in [
        (r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#, json!({"asked": "tools/list"})),
        (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, json!({})),
    ] {
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
        let told = timeout(PATIENCE, output.next_line()).await.expect("in time").expect("readable");
        let told: Value = serde_json::from_str(&told.expect("a line")).expect("JSON");
        assert_eq!(told, json!({"jsonrpc": "2.0", "id": "a", "result": expected}));
    }
    drop(input);
    let ended = timeout(PATIENCE, program.wait()).await.expect("in time").expect("ended");
    assert!(ended.success(), "{ended}");
    assert_eq!(output.next_line().await.expect("readable"), None);
}

#[tokio::test]
async fn a_node_that_cannot_be_one_is_refused_before_anything_is_read() {
    let daemon = Daemon::start(lab::script()).await;
    let said = run(&daemon, &["mcp", "--node", "https://b.lan"]).await;
    assert_eq!((said.exit, said.stdout.as_str()), (2, ""), "{said:?}");
    assert!(said.stderr.starts_with("error: --node https://b.lan: it must begin with http://"), "{said:?}");
}
