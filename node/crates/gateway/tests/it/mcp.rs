//! The assistants' door: both eras of the protocol, by raw requests and by rmcp's own client, and what is not let in.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use prometheus::Registry;
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_gateway::http::{ClientAddress, Door, Parts, bind, router, spawn};
use ollamax_gateway::{Config, Toolbox};
use ollamax_tools::{Call, Catalogue, Class, Families, Hints, Permission, Principal, Spec, Tool, ToolError};
use ollamax_types::ErrorCode;

use crate::world::{World, call, get, text, with_m};

pub(crate) const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-06-18";

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Words {
    pub(crate) words: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-ollamax-secret" = true))]
    pub(crate) token: Option<String>,
}

/// What is told when a call of a tool that hangs begins, and, by being dropped, when it ends.
pub(crate) type Signal = (oneshot::Sender<()>, oneshot::Sender<()>);

pub(crate) fn spec(name: &'static str) -> Spec {
    Spec { name, title: "A tool", description: "Says what it was told.", family: "tests", ..Spec::READ }
}

pub(crate) fn tools(signal: Option<Signal>) -> Catalogue {
    let signal = Mutex::new(signal);
    let fails = |_: Words| Err::<Words, _>(ToolError::new(ErrorCode::ModelNotFound, "nobody has it", "list_models"));
    let hints = Hints { read_only: false, ..Hints::READ };
    let manages = Spec { class: Class::LeaderWrite, permission: Permission::Manage, hints, ..spec("manages") };
    let hangs = move |_: Call, _: Words| {
        let signal = signal.lock().expect("not poisoned").take();
        async move {
            let (began, _ended) = signal.expect("called once");
            began.send(()).expect("somebody waits");
            pending::<Result<Words, ToolError>>().await
        }
        .boxed()
    };
    let all = [
        Tool::reading(spec("says"), |words: Words| Ok(words)),
        Tool::reading(spec("fails"), fails),
        Tool::reading(manages, |words: Words| Ok(words)),
        Tool::new(spec("hangs"), hangs),
    ];
    Catalogue::new(all.map(|tool| tool.expect("declared well")).into(), &Families::All).expect("names differ")
}

pub(crate) fn door() -> Router {
    door_of(&with_m(), tools(None), Config::default())
}

pub(crate) fn door_of(world: &World, tools: Catalogue, config: Config) -> Router {
    let parts = world.parts(config);
    router(Parts { tools: Toolbox::new(tools, &parts.registry).expect("new names"), ..parts })
}

/// A message from this machine.
pub(crate) fn message(body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::post("/mcp")
        .header("host", "localhost:11435")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body.into())
        .expect("a request");
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

pub(crate) fn with(mut request: Request<Body>, headers: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    request
}

/// A request as a client of 2026-07-28 sends it.
pub(crate) fn modern(method: &str, mut params: Value) -> Request<Body> {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    });
    let name = params["name"].as_str().map(ToOwned::to_owned);
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let request = with(message(body.to_string()), &[("mcp-protocol-version", MODERN), ("mcp-method", method)]);
    match name {
        Some(name) => with(request, &[("mcp-name", name.as_str())]),
        None => request,
    }
}

pub(crate) fn modern_call(tool: &str, arguments: Value) -> Request<Body> {
    modern("tools/call", json!({"name": tool, "arguments": arguments}))
}

/// A request as a client of the handshake sends it.
pub(crate) fn legacy(method: &str, params: Value) -> Request<Body> {
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    with(message(body.to_string()), &[("mcp-protocol-version", LEGACY)])
}

pub(crate) async fn json_of(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

pub(crate) async fn ask(router: &Router, request: Request<Body>) -> (u16, Value) {
    json_of(call(router, request).await).await
}

#[tokio::test]
async fn a_client_of_today_discovers_lists_and_calls_without_a_handshake() {
    let router = door();
    let (status, found) = ask(&router, modern("server/discover", json!({}))).await;
    let result = &found["result"];
    assert_eq!((status, &result["supportedVersions"]), (200, &json!([LEGACY, "2025-11-25", MODERN])), "{found}");
    assert_eq!((&result["ttlMs"], &result["cacheScope"]), (&json!(60_000), &json!("public")));
    assert!(result["capabilities"]["tools"].is_object(), "{found}");

    let (status, found) = ask(&router, modern("tools/list", json!({}))).await;
    let result = &found["result"];
    assert_eq!((status, &result["ttlMs"], &result["cacheScope"]), (200, &json!(60_000), &json!("private")), "{found}");
    // What loopback may not call it does not see; what it sees is the declaration, in order.
    let declared = tools(None);
    let declared: Vec<Value> = declared.listed(&Principal::loopback()).map(Tool::to_json).collect();
    assert_eq!(result["tools"], Value::from(declared));
    assert_eq!(ask(&router, modern("tools/list", json!({}))).await.1, found);

    let (status, found) = ask(&router, modern_call("says", json!({"words": "ä"}))).await;
    let result = &found["result"];
    assert_eq!((status, &found["id"], &result["isError"]), (200, &json!(7), &json!(false)), "{found}");
    assert_eq!((&result["structuredContent"], &result["resultType"]), (&json!({"words": "ä"}), &json!("complete")));
    assert_eq!(result["content"][0]["text"], r#"{"words":"ä"}"#);
}

#[tokio::test]
async fn a_client_of_the_handshake_needs_no_session() {
    let router = door();
    let hello = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let response = call(&router, legacy("initialize", hello)).await;
    assert!(!response.headers().contains_key("mcp-session-id"));
    let (status, found) = json_of(response).await;
    assert_eq!((status, &found["result"]["protocolVersion"]), (200, &json!(LEGACY)), "{found}");
    assert_eq!(found["result"]["serverInfo"]["name"], "ollamax");
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    assert_eq!(call(&router, with(message(note), &[("mcp-protocol-version", LEGACY)])).await.status(), 202);
    // Any node answers, also one that never saw the handshake.
    let elsewhere = door();
    let (_, found) = ask(&elsewhere, legacy("tools/list", json!({}))).await;
    assert_eq!(found["result"]["tools"].as_array().map(Vec::len), Some(3), "{found}");
    let (_, found) = ask(&elsewhere, legacy("tools/call", json!({"name": "says", "arguments": {"words": "x"}}))).await;
    assert_eq!(found["result"]["structuredContent"], json!({"words": "x"}), "{found}");
    assert!(found["result"].get("resultType").is_none(), "{found}");
    for method in ["GET", "DELETE"] {
        let request = with(get("/mcp"), &[("accept", "text/event-stream"), ("mcp-session-id", "x")]);
        let (mut head, body) = request.into_parts();
        head.method = method.parse().expect("a method");
        head.extensions.insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
        assert_eq!(call(&router, Request::from_parts(head, body)).await.status(), 405, "{method}");
    }
}

#[tokio::test]
async fn a_tools_refusal_is_an_answer_and_a_tool_that_does_not_exist_an_error() {
    let router = door();
    let refused = async |request: Request<Body>, code: &str, next: &str| {
        let (status, found) = ask(&router, request).await;
        let result = &found["result"];
        assert_eq!((status, &result["isError"]), (200, &json!(true)), "{found}");
        // What is structured must fit the output schema, and this does not.
        assert!(result.get("structuredContent").is_none(), "{found}");
        let told: Value = serde_json::from_str(result["content"][0]["text"].as_str().expect("text")).expect("JSON");
        assert_eq!(told["code"], code, "{told}");
        assert!(told["next"].as_str().is_some_and(|text| text.contains(next)), "{told}");
        told["message"].as_str().expect("text").to_owned()
    };
    assert_eq!(
        refused(modern_call("fails", json!({"words": "x"})), "model_not_found", "list_models").await,
        "nobody has it"
    );
    let message =
        refused(modern_call("says", json!({"words": 7, "token": ["hunter2"]})), "bad_request", "inputSchema").await;
    assert!(message.contains("/words: ") && message.contains("/token: ") && !message.contains("hunter2"), "{message}");
    refused(modern_call("manages", json!({"words": "x"})), "forbidden", "administrator").await;
    refused(legacy("tools/call", json!({"name": "says"})), "bad_request", "inputSchema").await;
    let large = json!({"words": "x".repeat(300 << 10)});
    refused(modern_call("says", large), "body_too_large", "less").await;

    for request in [modern_call("nothing", json!({})), legacy("tools/call", json!({"name": "nothing"}))] {
        let (_, found) = ask(&router, request).await;
        assert_eq!((&found["error"]["code"], &found["id"]), (&json!(-32_602), &json!(7)), "{found}");
    }
    let (status, found) = ask(&router, modern("tools/invent", json!({}))).await;
    assert_eq!((status, &found["error"]["code"]), (404, &json!(-32_601)), "{found}");
    let (_, found) = ask(&router, modern("tools/list", json!({"cursor": "x"}))).await;
    assert_eq!(found["error"]["code"], json!(-32_602), "{found}");
    // A method that is known, with params that are not its own.
    let odd = json!({"name": "says", "arguments": ["x"]});
    for request in [modern("tools/call", odd.clone()), legacy("tools/call", odd)] {
        let (_, found) = ask(&router, request).await;
        assert_eq!((&found["error"]["code"], &found["id"]), (&json!(-32_602), &json!(7)), "{found}");
    }
}

#[tokio::test]
async fn header_and_body_must_agree() {
    let router = door();
    let asked = || modern_call("says", json!({"words": "x"}));
    let check = async |request: Request<Body>, code: i64| {
        let (status, found) = ask(&router, request).await;
        assert_eq!((status, &found["error"]["code"]), (400, &json!(code)), "{found}");
    };
    check(with(asked(), &[("mcp-name", "manages")]), -32_020).await;
    check(with(asked(), &[("mcp-method", "tools/list")]), -32_020).await;
    check(with(asked(), &[("mcp-protocol-version", "2025-11-25")]), -32_020).await;
    for missing in ["mcp-name", "mcp-method", "mcp-protocol-version"] {
        let mut request = asked();
        request.headers_mut().remove(missing);
        check(request, -32_020).await;
    }
    let mut twice = asked();
    twice.headers_mut().append("mcp-name", "says".parse().expect("a value"));
    check(twice, -32_020).await;
    let mut twice = asked();
    twice.headers_mut().append("mcp-protocol-version", MODERN.parse().expect("a value"));
    check(twice, -32_020).await;
    let bare = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}).to_string();
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/list")];
    check(with(message(bare), &headers), -32_602).await;
}

#[tokio::test]
async fn a_handshake_of_an_older_revision_ends_in_one_that_is_spoken_and_its_requests_are_refused() {
    let router = door();
    let old = [("mcp-protocol-version", "2025-03-26")];
    let hello =
        json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let (status, found) = ask(&router, with(legacy("initialize", hello), &old)).await;
    assert_eq!((status, &found["result"]["protocolVersion"]), (200, &json!("2025-11-25")), "{found}");
    let (status, found) = ask(&router, with(legacy("tools/list", json!({})), &old)).await;
    assert_eq!((status, &found["error"]["code"], &found["id"]), (400, &json!(-32_022), &json!(7)), "{found}");
    let data = &found["error"]["data"];
    assert_eq!((&data["requested"], &data["supported"][0]), (&json!("2025-03-26"), &json!(LEGACY)), "{found}");
}

#[tokio::test]
async fn what_is_no_single_message_of_a_sane_size_is_refused_in_the_words_of_the_protocol() {
    let router = door();
    let check = async |request: Request<Body>, status: u16, code: i64, says: &str| {
        let (found, body) = ask(&router, request).await;
        assert_eq!((found, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(says)), "{body}");
        assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &Value::Null));
    };
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    check(message(format!("[{ping},{ping}]")), 400, -32_600, "several messages").await;
    check(message("[]"), 400, -32_600, "several messages").await;
    check(message(""), 400, -32_700, "no JSON").await;
    check(message(r#"{"jsonrpc":"#), 400, -32_700, "no JSON").await;
    check(message("7"), 400, -32_600, "no JSON-RPC").await;
    check(message(r#"{"hello":"you"}"#), 400, -32_600, "no JSON-RPC").await;
    let deep =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{}{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
    check(message(deep), 400, -32_600, "no JSON-RPC").await;
    check(message(vec![b' '; 4 << 20]), 413, -32_600, "larger than 1 MiB").await;
    check(with(message(ping), &[("content-length", "4194304")]), 413, -32_600, "larger than 1 MiB").await;
    check(with(message(ping), &[("content-encoding", "gzip")]), 415, -32_600, "gzip").await;
    assert_eq!(call(&router, with(message(ping), &[("content-type", "text/plain")])).await.status(), 415);
    assert_eq!(call(&router, with(message(ping), &[("accept", "application/json")])).await.status(), 406);
}

#[tokio::test]
async fn only_programs_on_this_machine_get_in() {
    let router = door();
    let asked = || modern("tools/list", json!({}));
    let from = |address: &str| {
        let mut request = asked();
        request.extensions_mut().insert(ClientAddress(SocketAddr::new(address.parse().expect("an address"), 4_711)));
        request
    };
    let check = async |router: &Router, request: Request<Body>, expected: u16| {
        let response = call(router, request).await;
        assert_eq!(response.status(), expected);
        if expected == 403 {
            assert_eq!(response.headers()["x-ollamamax-error"], "forbidden");
            let (_, body) = json_of(response).await;
            assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("ssh -L")), "{body}");
        }
    };
    for (address, expected) in [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("10.0.0.9", 403)] {
        check(&router, from(address), expected).await;
    }
    for header in ["forwarded", "via", "x-forwarded-for", "x-real-ip"] {
        check(&router, with(asked(), &[(header, "10.0.0.9")]), 403).await;
    }
    let mut nobody = asked();
    nobody.extensions_mut().remove::<ClientAddress>();
    check(&router, nobody, 403).await;
    // Where the door is open to the network, a page whose name was pointed here is no program of this machine.
    let open = Config { listen: "0.0.0.0:11435".to_owned(), allow_unauthenticated: true, ..Config::default() };
    let bound = "0.0.0.0:11435".parse().expect("an address");
    let open = router_at(open, bound);
    check(&open, asked(), 200).await;
    check(&open, with(asked(), &[("host", "evil.example")]), 403).await;
}

fn router_at(config: Config, bound: SocketAddr) -> Router {
    let parts = with_m().parts(config);
    router(Parts { tools: Toolbox::new(tools(None), &parts.registry).expect("new names"), bound, ..parts })
}

#[tokio::test]
async fn foreign_hosts_and_pages_are_refused_and_those_of_this_machine_are_served() {
    let config = Config { origins: vec!["https://chat.lab".to_owned()], ..Config::default() };
    let router = door_of(&with_m(), tools(None), config);
    let check = async |headers: &[(&'static str, &str)], expected: u16| {
        let response = call(&router, with(modern("tools/list", json!({})), headers)).await;
        assert_eq!(response.status(), expected, "{headers:?}");
    };
    check(&[("host", "evil.example")], 403).await;
    check(&[("host", "gpu-1:11435")], 200).await;
    check(&[("origin", "http://evil.example")], 403).await;
    check(&[("origin", "null")], 403).await;
    check(&[("origin", "http://localhost:3000")], 200).await;
    check(&[("origin", "https://chat.lab")], 200).await;
    check(&[("origin", "https://chat.lab:8443")], 403).await;
    check(&[("host", "evil.example"), ("origin", "http://localhost:3000")], 403).await;
    // A page asks first whether it may send the protocol's headers.
    let question = Request::options("/mcp").header("host", "localhost").header("origin", "http://localhost:3000");
    let told = call(&router, question.body(Body::empty()).expect("a request")).await;
    let allowed: Vec<_> = told.headers().get_all("access-control-allow-headers").iter().collect();
    assert!(allowed.iter().any(|line| *line == "MCP-Protocol-Version,Mcp-Method,Mcp-Name"), "{allowed:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_ends_its_call_and_every_call_is_counted() {
    let ((began, has_begun), (ended, has_ended)) = (oneshot::channel(), oneshot::channel::<()>());
    let router = door_of(&with_m(), tools(Some((began, ended))), Config::default());
    let tasks = TaskTracker::new();
    let hangs = {
        let router = router.clone();
        tasks.spawn(async move { call(&router, modern_call("hangs", json!({"words": "x"}))).await })
    };
    has_begun.await.expect("it began");
    hangs.abort();
    let gone = timeout(Duration::from_secs(10), has_ended).await.expect("the call ended with its caller");
    assert!(gone.is_err(), "dropped, not told");
    for request in [
        modern_call("says", json!({"words": "x"})),
        modern_call("fails", json!({"words": "x"})),
        modern_call("says", json!({})),
        modern_call("nothing", json!({})),
    ] {
        ask(&router, request).await;
    }
    let counted = timeout(Duration::from_secs(10), async {
        loop {
            let (_, metrics) = text(&router, get("/metrics")).await;
            if metrics.contains(r#"ollamax_gateway_tool_calls_total{outcome="left",tool="hangs"} 1"#) {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    });
    let metrics = counted.await.expect("the call that was left is counted");
    for line in [
        r#"ollamax_gateway_tool_calls_total{outcome="answered",tool="says"} 1"#,
        r#"ollamax_gateway_tool_calls_total{outcome="refused",tool="says"} 1"#,
        r#"ollamax_gateway_tool_calls_total{outcome="refused",tool="fails"} 1"#,
        r#"ollamax_gateway_tool_calls_total{outcome="unknown",tool="unknown"} 1"#,
        r#"ollamax_gateway_tool_duration_seconds_count{tool="hangs"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn rmcps_own_client_lists_and_calls_in_both_eras() {
    let world = with_m();
    let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let registry = Registry::new();
    let door = Door {
        listener,
        config: Config::default(),
        node: Arc::new(world.door.clone()),
        tools: Toolbox::new(tools(None), &registry).expect("new names"),
        registry,
        grace: Duration::from_secs(1),
    };
    let served = spawn(door, &tasks, stop.clone()).expect("an empty registry");
    let today = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    for lifecycle in [today, ClientLifecycleMode::Initialize] {
        // What the environment says of proxies is not for this machine's own address.
        let plain = reqwest::Client::builder().no_proxy().build().expect("a client");
        let config = StreamableHttpClientTransportConfig::with_uri(format!("http://{address}/mcp"));
        let transport = StreamableHttpClientTransport::with_client(plain, config);
        let era = format!("{lifecycle:?}");
        let client =
            ().serve_with_lifecycle(transport, lifecycle).await.unwrap_or_else(|error| panic!("{era}: {error}"));
        let listed = client.list_all_tools().await.unwrap_or_else(|error| panic!("{era}: {error}"));
        let names: Vec<&str> = listed.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, ["fails", "hangs", "says"], "{era}");
        let arguments = json!({"words": "x"}).as_object().cloned().expect("an object");
        let says = CallToolRequestParams::new("says").with_arguments(arguments);
        let told = client.call_tool(says).await.unwrap_or_else(|error| panic!("{era}: {error}"));
        assert_eq!((told.is_error, told.structured_content), (Some(false), Some(json!({"words": "x"}))), "{era}");
        let nothing = client.call_tool(CallToolRequestParams::new("nothing")).await;
        assert!(nothing.is_err(), "{era}: {nothing:?}");
        client.cancel().await.unwrap_or_else(|error| panic!("{era}: {error}"));
    }
    stop.cancel();
    served.await.expect("the door closes");
}
