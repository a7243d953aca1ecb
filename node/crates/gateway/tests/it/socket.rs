//! The listener, over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_gateway::http::{Door, bind, spawn};
use ollamax_gateway::{Config, Toolbox};

use crate::world::{World, with_m};

pub(crate) struct Served {
    world: World,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _tasks: TaskTracker,
}

pub(crate) fn serve(config: Config, grace: Duration) -> Served {
    let world = with_m();
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let node = std::sync::Arc::new(world.door.clone());
    let (tools, registry) = (Toolbox::default(), Registry::new());
    let door = Door { listener, config, node, tools, registry, grace };
    let task = spawn(door, &tasks, stop.clone()).expect("an empty registry");
    Served { world, address, stop, task, _tasks: tasks }
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the door is open")
}

fn chat(address: SocketAddr) -> String {
    let body = r#"{"model":"m"}"#;
    format!("POST /api/chat HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads until the text has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(end) {
            let mut bytes = [0; 4_096];
            let count = stream.read(&mut bytes).await.expect("readable");
            assert!(count > 0, "closed after {text}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    timeout(Duration::from_secs(10), reading).await.expect("in time");
    text
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.expect("in time");
    drop(read);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A connection that was answered and stays.
pub(crate) async fn hold(address: SocketAddr) -> TcpStream {
    let mut client = connect(address).await;
    client.write_all(format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await.expect("sent");
    read_until(&mut client, "Ollama is running").await;
    client
}

/// One connection with one question, and all that is said on it.
pub(crate) async fn ask_once(address: SocketAddr) -> String {
    let mut client = connect(address).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("sent");
    read_all(&mut client).await
}

#[tokio::test]
async fn a_line_reaches_the_client_before_the_next_is_produced_and_leaving_cancels() {
    let served = serve(Config::default(), Duration::from_secs(1));
    let runtime = served.world.nodes[0].runtime.clone();
    let pieces = runtime.answer(200, "application/x-ndjson");
    let mut client = connect(served.address).await;
    client.write_all(chat(served.address).as_bytes()).await.expect("sent");
    pieces.send(Ok(Bytes::from_static(b"{\"n\":1}\n"))).await.expect("read");
    let seen = read_until(&mut client, "{\"n\":1}\n").await;
    assert!(seen.to_lowercase().contains("x-ollamamax-node: n1"), "{seen}");
    drop(client);
    timeout(Duration::from_secs(5), runtime.idle()).await.expect("cancelled");
}

#[tokio::test]
async fn where_a_client_is_decides_whether_it_may_have_models_pulled() {
    let served = serve(Config::default(), Duration::from_secs(1));
    let ask = async |header: &str| {
        let mut client = connect(served.address).await;
        let body = r#"{"model":"m"}"#;
        let head = format!("POST /api/pull HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        client.write_all(request.as_bytes()).await.expect("sent");
        read_all(&mut client).await
    };
    // It may, but the node behind this door has no engine for it.
    let own = ask("").await;
    assert!(own.starts_with("HTTP/1.1 503 ") && own.contains("x-ollamamax-error: not_initialised"), "{own}");
    let forwarded = ask("x-forwarded-for: 10.0.0.9\r\n").await;
    assert!(forwarded.starts_with("HTTP/1.1 403 ") && forwarded.contains("the loopback address alone"), "{forwarded}");
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let served = serve(Config { connections_max: 1, ..Config::default() }, Duration::from_secs(1));
    let first = hold(served.address).await;
    let mut second = connect(served.address).await;
    second.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let refusal = read_all(&mut second).await;
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("too many client connections"), "{refusal}");
    drop(first);
    let again = async { while !ask_once(served.address).await.starts_with("HTTP/1.1 200 ") {} };
    timeout(Duration::from_secs(10), again).await.expect("room again");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let served = serve(Config { head_timeout_ms: 100, ..Config::default() }, Duration::from_secs(1));
    let mut client = connect(served.address).await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: loc").await.expect("sent");
    read_all(&mut client).await;
}

#[tokio::test]
async fn a_body_that_stalls_is_answered_408() {
    let served = serve(Config { body_idle_timeout_ms: 100, ..Config::default() }, Duration::from_secs(1));
    let mut client = connect(served.address).await;
    let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{";
    client.write_all(head.as_bytes()).await.expect("sent");
    let answer = read_until(&mut client, "}").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("no byte of the request body"), "{answer}");
}

#[tokio::test]
async fn on_stop_running_answers_finish_and_nothing_new_is_taken() {
    let served = serve(Config::default(), Duration::from_secs(30));
    let pieces = served.world.nodes[0].runtime.answer(200, "application/x-ndjson");
    let mut client = connect(served.address).await;
    client.write_all(chat(served.address).as_bytes()).await.expect("sent");
    pieces.send(Ok(Bytes::from_static(b"{\"n\":1}\n"))).await.expect("read");
    read_until(&mut client, "{\"n\":1}\n").await;
    served.stop.cancel();
    let refused = async { while TcpStream::connect(served.address).await.is_ok() {} };
    timeout(Duration::from_secs(10), refused).await.expect("closed to new clients");
    pieces.send(Ok(Bytes::from_static(b"{\"done\":true}\n"))).await.expect("read");
    drop(pieces);
    let rest = read_all(&mut client).await;
    assert!(rest.contains("{\"done\":true}\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
    timeout(Duration::from_secs(10), served.task).await.expect("ends").expect("does not fail");
}

#[tokio::test]
async fn what_is_not_done_within_the_grace_is_cut_and_does_not_look_whole() {
    let served = serve(Config::default(), Duration::from_millis(50));
    let pieces = served.world.nodes[0].runtime.answer(200, "application/x-ndjson");
    let mut client = connect(served.address).await;
    client.write_all(chat(served.address).as_bytes()).await.expect("sent");
    pieces.send(Ok(Bytes::from_static(b"{\"n\":1}\n"))).await.expect("read");
    read_until(&mut client, "{\"n\":1}\n").await;
    served.stop.cancel();
    timeout(Duration::from_secs(10), served.task).await.expect("ends").expect("does not fail");
    let rest = read_all(&mut client).await;
    assert!(!rest.contains("0\r\n\r\n"), "{rest}");
}
