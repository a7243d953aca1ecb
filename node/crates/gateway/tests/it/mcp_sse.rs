//! Assistants that know HTTP+SSE alone: not there unless it is switched on, and then by the rules of the other door.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use ollamax_gateway::http::{ClientAddress, Parts, Stopping, router};
use ollamax_gateway::{Config, McpConfig, Toolbox};
use ollamax_tools::Catalogue;

use crate::mcp::{json_of, message, tools, with};
use crate::world::{World, call, header, text};

const REVISION: &str = "2024-11-05";
/// Longest wait for what a stream has to bring.
const PATIENCE: Duration = Duration::from_secs(10);

/// A stream, as its client reads it.
struct Reader {
    body: Body,
    /// Where it is sent messages.
    path: String,
}

// === impl Reader ===

impl Reader {
    async fn open(router: &Router) -> Self {
        Self::open_until(router, CancellationToken::new()).await
    }

    /// One whose node stops.
    async fn open_until(router: &Router, stop: CancellationToken) -> Self {
        let mut request = stream();
        request.extensions_mut().insert(Stopping(stop));
        let response = call(router, request).await;
        assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, Some("text/event-stream")));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        let mut opened = Self { body: response.into_body(), path: String::new() };
        let (kind, path) = opened.event().await.expect("an event");
        assert_eq!(kind, "endpoint");
        opened.path = path;
        opened
    }

    /// The next event: its kind and its data; `None`: the stream has ended well.
    async fn event(&mut self) -> Option<(String, String)> {
        let frame = timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
        let data = frame.expect("unbroken").into_data().expect("data");
        let event = String::from_utf8(data.to_vec()).expect("text");
        let event = event.strip_prefix("event: ").and_then(|event| event.strip_suffix("\n\n")).expect("one event");
        let (kind, data) = event.split_once("\ndata: ").expect("data");
        assert!(!data.contains('\n'), "{data}");
        Some((kind.to_owned(), data.to_owned()))
    }

    /// The next message.
    async fn message(&mut self) -> Value {
        let (kind, data) = self.event().await.expect("a message");
        assert_eq!(kind, "message");
        serde_json::from_str(&data).expect("JSON")
    }

    /// Sends a message, which is taken.
    async fn say(&self, router: &Router, said: &Value) {
        let answer = text(router, posted(&self.path, said.to_string())).await;
        assert_eq!(answer, (202, "Accepted".to_owned()), "{said}");
    }

    async fn ask(&mut self, router: &Router, method: &str, params: &Value) -> Value {
        self.say(router, &request(method, params)).await;
        self.message().await
    }

    /// Shakes hands; gives the revision that was agreed on.
    async fn shake_hands(&mut self, router: &Router, revision: &str) -> Value {
        let client = json!({"name": "test", "version": "1"});
        let hello = json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": client});
        let answer = self.ask(router, "initialize", &hello).await;
        self.say(router, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!((&answer["id"], &answer["result"]["serverInfo"]["name"]), (&json!(7), &json!("ollamax")));
        answer["result"]["protocolVersion"].clone()
    }
}

fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

/// Asks for a stream from this machine.
fn stream() -> Request<Body> {
    let request = Request::get("/sse").header("host", "localhost:11435").header("accept", "text/event-stream");
    let mut request = request.body(Body::empty()).expect("a request");
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

/// A message from this machine to a path.
fn posted(path: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = message(body);
    *request.uri_mut() = path.parse().expect("a path");
    request
}

fn door_with(catalogue: Catalogue, legacy_sse: bool) -> Router {
    let config = Config { mcp: McpConfig { legacy_sse }, ..Config::default() };
    let parts = World::start(2).parts(config);
    router(Parts { tools: Toolbox::new(catalogue, &parts.registry).expect("new names"), ..parts })
}

fn door() -> Router {
    door_with(tools(None), true)
}

#[tokio::test]
async fn it_is_not_there_unless_it_is_switched_on() {
    let router = door_with(tools(None), false);
    assert_eq!(call(&router, stream()).await.status(), 404);
    let ping = request("ping", &json!({})).to_string();
    assert_eq!(text(&router, posted("/messages?sessionId=1.00", ping)).await, (404, "404 page not found".to_owned()));
}

#[tokio::test]
async fn a_client_of_2024_shakes_hands_lists_and_calls() {
    let router = door();
    let mut reader = Reader::open(&router).await;
    // The id names its node and cannot be guessed.
    let id = reader.path.strip_prefix("/messages?sessionId=1.").expect("of node 1");
    assert!(id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    assert_eq!(reader.shake_hands(&router, REVISION).await, REVISION);
    let found = reader.ask(&router, "tools/list", &json!({})).await;
    assert_eq!(found["result"]["tools"].as_array().map(Vec::len), Some(3), "{found}");
    let says = json!({"name": "says", "arguments": {"words": "ä\nb"}});
    let found = reader.ask(&router, "tools/call", &says).await;
    let result = &found["result"];
    assert_eq!((&found["id"], &result["isError"]), (&json!(7), &json!(false)), "{found}");
    assert_eq!(result["content"][0]["text"], r#"{"words":"ä\nb"}"#);
    assert!(result.get("resultType").is_none(), "{found}");
    let found = reader.ask(&router, "tools/call", &json!({"name": "fails", "arguments": {"words": "x"}})).await;
    assert_eq!(found["result"]["isError"], true, "{found}");
    let found = reader.ask(&router, "tools/call", &json!({"name": "nothing"})).await;
    assert_eq!(found["error"]["code"], json!(-32_602), "{found}");
    assert_eq!(reader.ask(&router, "ping", &json!({})).await["result"], json!({}));
    let found = reader.ask(&router, "tools/invent", &json!({})).await;
    assert_eq!(found["error"]["code"], json!(-32_601), "{found}");
}

#[tokio::test]
async fn the_oldest_revision_is_spoken_on_streams_and_nowhere_else() {
    let router = door();
    for (asked, agreed) in [
        (REVISION, REVISION),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2025-03-26", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
    ] {
        let mut reader = Reader::open(&router).await;
        assert_eq!(reader.shake_hands(&router, asked).await, agreed, "{asked}");
    }
    let client = json!({"name": "test", "version": "1"});
    let hello = json!({"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client});
    let (status, found) = json_of(call(&router, message(request("initialize", &hello).to_string())).await).await;
    assert_eq!((status, &found["result"]["protocolVersion"]), (200, &json!("2025-11-25")), "{found}");
    let later = with(message(request("tools/list", &json!({})).to_string()), &[("mcp-protocol-version", REVISION)]);
    let (status, found) = json_of(call(&router, later).await).await;
    assert_eq!((status, &found["error"]["code"]), (400, &json!(-32_022)), "{found}");
}

#[tokio::test]
async fn a_message_for_no_stream_of_this_node_is_refused_at_once_and_told_where_to_go() {
    let router = door();
    let reader = Reader::open(&router).await;
    let own = reader.path.clone();
    drop(reader);
    let ping = request("ping", &json!({})).to_string();
    let other = format!("/messages?sessionId=2.{}", "0".repeat(32));
    let gone = format!("/messages?sessionId=99.{}", "0".repeat(32));
    for (path, says) in [
        ("/messages", "no such stream"),
        ("/messages?sessionId=", "no such stream"),
        ("/messages?sessionId=../../x", "no such stream"),
        (own.as_str(), "no such stream"),
        (gone.as_str(), "its node is gone"),
        (other.as_str(), "node n2"),
    ] {
        let response = call(&router, posted(path, ping.clone())).await;
        assert_eq!(header(&response, "x-ollamamax-error"), Some("bad_request"), "{path}");
        let (status, found) = json_of(response).await;
        assert_eq!((status, &found["error"]["code"]), (404, &json!(-32_600)), "{path}: {found}");
        let told = found["error"]["message"].as_str().expect("text");
        assert!(told.contains(says) && told.contains("GET /sse"), "{path}: {told}");
    }
}

#[tokio::test]
async fn what_is_no_single_message_of_a_sane_size_is_refused_and_the_stream_goes_on() {
    let router = door();
    let mut reader = Reader::open(&router).await;
    assert_eq!(reader.shake_hands(&router, REVISION).await, REVISION);
    let path = reader.path.clone();
    let check = async |request: Request<Body>, status: u16, code: i64, says: &str| {
        let (found, body) = json_of(call(&router, request).await).await;
        assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{body}");
    };
    let ping = request("ping", &json!({})).to_string();
    check(posted(&path, format!("[{ping},{ping}]")), 400, -32_600, "several messages").await;
    check(posted(&path, ""), 400, -32_700, "no JSON").await;
    check(posted(&path, "7"), 400, -32_600, "no JSON-RPC").await;
    check(posted(&path, r#"{"hello":"you"}"#), 400, -32_600, "no JSON-RPC").await;
    check(posted(&path, vec![b' '; 4 << 20]), 413, -32_600, "larger than 1 MiB").await;
    check(with(posted(&path, ping.clone()), &[("content-encoding", "gzip")]), 415, -32_600, "gzip").await;
    check(with(posted(&path, ping.clone()), &[("content-type", "text/plain")]), 415, -32_600, "application/json").await;
    let mut wrong = posted("/sse", ping.clone());
    assert_eq!(call(&router, wrong).await.status(), 405);
    wrong = stream();
    *wrong.uri_mut() = path.parse().expect("a path");
    assert_eq!(call(&router, wrong).await.status(), 405);
    assert_eq!(reader.ask(&router, "ping", &json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn only_programs_on_this_machine_get_a_stream_or_are_heard_on_one() {
    let router = door();
    let reader = Reader::open(&router).await;
    let ping = request("ping", &json!({})).to_string();
    let check = async |change: &dyn Fn(Request<Body>) -> Request<Body>, expected: [u16; 2], what: &str| {
        let opened = call(&router, change(stream())).await.status().as_u16();
        let heard = call(&router, change(posted(&reader.path, ping.clone()))).await.status().as_u16();
        assert_eq!([opened, heard], expected, "{what}");
    };
    check(&|request| with(request, &[("origin", "http://localhost:3000")]), [200, 202], "a page of this machine").await;
    check(&|request| with(request, &[("origin", "http://evil.example")]), [403, 403], "another page").await;
    let by_browser = |origin: Option<&'static str>, site: &'static str| {
        let said = origin.map(|origin| ("origin", origin)).into_iter().chain([("sec-fetch-site", site)]);
        with(stream(), &said.collect::<Vec<_>>())
    };
    for (origin, site, expected) in [
        (None, "cross-site", 403),
        (None, "same-origin", 200),
        (None, "none", 200),
        (Some("http://localhost:3000"), "cross-site", 200),
    ] {
        let opened = call(&router, by_browser(origin, site)).await.status();
        assert_eq!(opened.as_u16(), expected, "{origin:?} {site}");
    }
    check(&|request| with(request, &[("host", "evil.example")]), [403, 403], "another host").await;
    check(&|request| with(request, &[("x-forwarded-for", "10.0.0.9")]), [403, 403], "behind a proxy").await;
    let from_elsewhere = |mut request: Request<Body>| {
        request.extensions_mut().insert(ClientAddress("10.0.0.9:4711".parse().expect("an address")));
        request
    };
    check(&from_elsewhere, [403, 403], "another machine").await;
}

#[tokio::test]
async fn a_call_ends_with_its_stream_and_when_it_is_cancelled() {
    for leaves in [true, false] {
        let ((began, has_begun), (ended, has_ended)) = (oneshot::channel(), oneshot::channel::<()>());
        let router = door_with(tools(Some((began, ended))), true);
        let mut reader = Reader::open(&router).await;
        assert_eq!(reader.shake_hands(&router, REVISION).await, REVISION);
        reader.say(&router, &request("tools/call", &json!({"name": "hangs", "arguments": {"words": "x"}}))).await;
        timeout(PATIENCE, has_begun).await.expect("in time").expect("it began");
        if leaves {
            drop(reader);
        } else {
            let params = json!({"requestId": 7});
            let cancels = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
            reader.say(&router, &cancels).await;
        }
        let gone = timeout(PATIENCE, has_ended).await.expect("the call ended");
        assert!(gone.is_err(), "dropped, not told; leaves: {leaves}");
    }
}

#[tokio::test]
async fn a_stream_too_many_is_refused_until_another_one_is_closed() {
    let router = door();
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Reader::open(&router).await);
    }
    let refused = call(&router, stream()).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, Some("10")));
    let (_, found) = json_of(refused).await;
    assert!(found["error"]["message"].as_str().is_some_and(|text| text.contains("POST /mcp")), "{found}");
    drop(open.pop());
    Reader::open(&router).await;
}

#[tokio::test]
async fn a_thousand_streams_that_come_and_go_take_no_place_and_count_no_request() {
    let router = door();
    for _ in 0..1_000 {
        drop(Reader::open(&router).await);
    }
    let (_, metrics) = text(&router, crate::world::get("/metrics")).await;
    let in_flight = metrics.lines().find(|line| line.starts_with("ollamax_gateway_in_flight "));
    // The one that asks.
    assert_eq!(in_flight, Some("ollamax_gateway_in_flight 1"), "{metrics}");
    let mut reader = Reader::open(&router).await;
    assert_eq!(reader.shake_hands(&router, REVISION).await, REVISION);
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams_in_good_order() {
    let router = door();
    let stop = CancellationToken::new();
    let mut reader = Reader::open_until(&router, stop.clone()).await;
    assert_eq!(reader.shake_hands(&router, REVISION).await, REVISION);
    stop.cancel();
    assert_eq!(reader.event().await, None);
    let ping = request("ping", &json!({})).to_string();
    assert_eq!(call(&router, posted(&reader.path, ping)).await.status(), 404);
}
