//! What a caller may do wrong, or worse, at the doors of tools: each has its exact answer, and the call after it is
//! answered as if nothing had been.

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use futures::FutureExt as _;
use prometheus::Registry;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use tokio::time::Instant;

use ollamax_gateway::grpc::Admin;
use ollamax_gateway::http::{Parts, router};
use ollamax_gateway::{Config, Toolbox};
use ollamax_proto::v1::tasks_client::TasksClient;
use ollamax_proto::v1::tools_client::ToolsClient;
use ollamax_proto::v1::{CallToolRequest, ListTasksRequest, ListToolsRequest, ShowOpenApiRequest};
use ollamax_tools::mem::MemTasks;
use ollamax_tools::{
    Call, Catalogue, Class, Families, Hints, Limits, Permission, Principal, Spec, Tasks as _, Tool, ToolError,
};

use crate::desk::House;
use crate::mcp::{Words, ask, door_of, json_of, legacy, message, modern, modern_call, spec, tools, with};
use crate::tasks::toolbox;
use crate::tools::{by_root, local};
use crate::world::{call, get, header, post, with_m};

/// What is told beside the HTTP status.
enum Told {
    /// The tool's answer.
    Answer,
    /// An answer that is an error, with this code.
    Refusal(&'static str),
    /// An error of JSON-RPC.
    Error(i64),
    /// An error of the door itself, in words.
    Words,
    /// Nothing that could be read.
    Nothing,
}

/// What is done, and what must come of it.
struct Row(&'static str, Request<Body>, u16, Told);

/// Says that it has a number, and has a text.
#[derive(JsonSchema)]
struct Liar {
    #[expect(dead_code, reason = "a schema says it")]
    words: u32,
}

impl Serialize for Liar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({"words": "a text"}).serialize(serializer)
    }
}

/// Tools that do all that a tool should not, and one that is well.
fn catalogue() -> Catalogue {
    let short = Limits { timeout: Duration::from_millis(1), ..Limits::READ };
    let once = Limits { calls_per_minute: 1, ..Limits::READ };
    let hints = Hints { read_only: false, ..Hints::READ };
    let manages = Spec { class: Class::LeaderWrite, permission: Permission::Manage, hints, ..spec("manages") };
    let all = [
        Tool::reading(spec("says"), |words: Words| Ok(words)),
        Tool::reading(manages, |words: Words| Ok(words)),
        Tool::reading(Spec { limits: once, ..spec("rarely") }, |words: Words| Ok(words)),
        Tool::reading(spec("floods"), |words: Words| Ok(Words { words: "x".repeat(64 << 10), ..words })),
        Tool::reading(spec("dies"), |words: Words| match words.words.as_str() {
            "x" => unreachable!("a defect"),
            _ => Ok(words),
        }),
        Tool::new(Spec { limits: short, ..spec("hangs") }, |_: Call, _: Words| {
            pending::<Result<Words, ToolError>>().boxed()
        }),
        Tool::new(spec("lies"), |_: Call, _: Words| ready(Ok(Liar { words: 1 })).boxed()),
    ];
    Catalogue::new(all.map(|tool| tool.expect("declared well")).into(), &Families::All).expect("names differ")
}

fn door() -> Router {
    door_of(&with_m(), catalogue(), Config::default())
}

fn says() -> Request<Body> {
    modern_call("says", json!({"words": "x"}))
}

fn named(name: &str) -> Request<Body> {
    modern_call(name, json!({"words": "x"}))
}

fn plain(name: &str) -> Request<Body> {
    local(post(&format!("/tools/{name}"), r#"{"words": "x"}"#))
}

/// With another header of a name that it may have already.
fn again(mut request: Request<Body>, name: &'static str, value: &'static str) -> Request<Body> {
    request.headers_mut().append(name, HeaderValue::from_static(value));
    request
}

/// So many lists in each other.
fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn long(count: usize) -> Value {
    json!({"words": vec![1; count]})
}

/// Asks, and compares what is told with what was expected; then somebody else's call has to be well.
async fn check(router: &Router, rows: Vec<Row>) {
    for Row(what, request, expected, told) in rows {
        let (status, found) = ask(router, request).await;
        assert_eq!(status, expected, "{what}: {found}");
        let result = &found["result"];
        match told {
            Told::Answer => assert_eq!(result["structuredContent"], json!({"words": "x"}), "{what}: {found}"),
            Told::Refusal(code) => {
                assert_eq!(result["isError"], true, "{what}: {found}");
                let text = result["content"][0]["text"].as_str().expect("a text");
                let told: Value = serde_json::from_str(text).expect("JSON");
                assert_eq!(told["code"], code, "{what}: {told}");
                assert!(text.len() < 4_096, "{what}: {} bytes", text.len());
            }
            Told::Error(code) => assert_eq!(found["error"]["code"], code, "{what}: {found}"),
            Told::Words => assert!(found["error"].is_string(), "{what}: {found}"),
            Told::Nothing => assert_eq!(found, Value::Null, "{what}"),
        }
        let (status, found) = ask(router, says()).await;
        assert_eq!((status, &found["result"]["isError"]), (200, &json!(false)), "after {what}: {found}");
    }
}

#[tokio::test]
async fn who_calls_assistants_door_from_where_it_should_not_is_told_so() {
    let router = door();
    let rows = vec![
        Row("no origin", says(), 200, Told::Answer),
        Row("an origin of this machine", with(says(), &[("origin", "http://localhost:3000")]), 200, Told::Answer),
        Row("an evil origin", with(says(), &[("origin", "https://evil.example")]), 403, Told::Nothing),
        Row("an origin that is none", with(says(), &[("origin", "null")]), 403, Told::Nothing),
        Row("a program's page", with(says(), &[("origin", "app://desk")]), 403, Told::Nothing),
        Row("an evil host", with(says(), &[("host", "evil.example")]), 403, Told::Nothing),
        Row(
            "an evil host that agrees with its page",
            with(says(), &[("host", "evil.example"), ("origin", "http://evil.example")]),
            403,
            Told::Nothing,
        ),
        Row("two hosts", again(says(), "host", "evil.example"), 400, Told::Words),
        Row(
            "two origins",
            again(again(says(), "origin", "http://localhost:3000"), "origin", "https://evil.example"),
            400,
            Told::Words,
        ),
        Row("a proxy", with(says(), &[("x-forwarded-for", "10.0.0.9")]), 403, Told::Error(-32_600)),
        Row("what is not permitted", named("manages"), 200, Told::Refusal("forbidden")),
        Row(
            "a token, which nobody gave out",
            with(named("manages"), &[("authorization", "Bearer x")]),
            200,
            Told::Refusal("forbidden"),
        ),
    ];
    check(&router, rows).await;
}

#[tokio::test]
async fn what_a_header_says_and_the_message_does_not_is_refused_and_the_message_counts() {
    let router = door();
    let mut raw = says();
    raw.headers_mut().insert("mcp-name", HeaderValue::from_bytes(b"s\xe4ys").expect("a value"));
    let rows = vec![
        Row("another name", with(says(), &[("mcp-name", "manages")]), 400, Told::Error(-32_020)),
        Row("a harmless name", with(named("manages"), &[("mcp-name", "says")]), 400, Told::Error(-32_020)),
        Row("another method", with(says(), &[("mcp-method", "tools/list")]), 400, Told::Error(-32_020)),
        Row("another revision", with(says(), &[("mcp-protocol-version", "2025-11-25")]), 400, Told::Error(-32_020)),
        Row("two names", again(says(), "mcp-name", "says"), 400, Told::Error(-32_020)),
        Row("two methods", again(says(), "mcp-method", "tools/call"), 400, Told::Error(-32_020)),
        Row("two revisions", again(says(), "mcp-protocol-version", "2026-07-28"), 400, Told::Error(-32_020)),
        // The handshake has no such headers, so what they say is not read.
        Row(
            "a harmless name in an older era",
            with(
                legacy("tools/call", json!({"name": "manages", "arguments": {"words": "x"}})),
                &[("mcp-name", "says")],
            ),
            200,
            Told::Refusal("forbidden"),
        ),
        Row("a name in base64", with(says(), &[("mcp-name", "=?base64?c2F5cw==?=")]), 200, Told::Answer),
        Row(
            "another name in base64",
            with(says(), &[("mcp-name", "=?base64?bWFuYWdlcw==?=")]),
            400,
            Told::Error(-32_020),
        ),
        Row("no base64", with(says(), &[("mcp-name", "=?base64?!?=")]), 400, Told::Error(-32_020)),
        Row("base64 of no text", with(says(), &[("mcp-name", "=?base64?/w==?=")]), 400, Told::Error(-32_020)),
        Row("a name that is no ASCII", raw, 400, Told::Error(-32_020)),
        Row(
            "a name that no tool can have",
            with(nowhere("sägt"), &[("mcp-name", "=?base64?c8OkZ3Q=?=")]),
            200,
            Told::Error(-32_602),
        ),
        Row("a line behind the name", with(nowhere("says\n"), &[("mcp-name", "says")]), 400, Told::Error(-32_020)),
    ];
    check(&router, rows).await;
}

/// A call under a name that does not fit into a header as it is.
fn nowhere(name: &str) -> Request<Body> {
    let whole = modern("tools/call", json!({"arguments": {"words": "x"}}));
    let (head, _) = whole.into_parts();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": name, "arguments": {"words": "x"}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string();
    Request::from_parts(head, Body::from(body))
}

#[tokio::test]
async fn messages_of_no_sane_size_or_form_are_refused() {
    let router = door();
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let nested = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{}}}"#, deep(9_000));
    let levels: Value = serde_json::from_str(&deep(100)).expect("JSON");
    let rows = vec![
        Row("4 MiB", modern_call("says", json!({"words": "x".repeat(4 << 20)})), 413, Told::Error(-32_600)),
        Row(
            "300 KiB",
            modern_call("says", json!({"words": "x".repeat(300 << 10)})),
            200,
            Told::Refusal("body_too_large"),
        ),
        Row("9,000 levels", message(nested), 400, Told::Error(-32_600)),
        Row("100 levels", modern_call("says", json!({"words": levels})), 200, Told::Refusal("bad_request")),
        Row("100,000 items", modern_call("says", long(100_000)), 200, Told::Refusal("bad_request")),
        Row("400,000 items", modern_call("says", long(400_000)), 200, Told::Refusal("body_too_large")),
        Row("a batch", message(format!("[{ping},{ping}]")), 400, Told::Error(-32_600)),
        Row("an empty batch", message("[]"), 400, Told::Error(-32_600)),
        Row("no JSON", message("{"), 400, Told::Error(-32_700)),
        Row("no text", message(vec![0xff_u8, 0xfe]), 400, Told::Error(-32_700)),
        Row("two messages", message(format!("{ping}{ping}")), 400, Told::Error(-32_700)),
        Row("a packed one", with(message(ping), &[("content-encoding", "gzip")]), 415, Told::Error(-32_600)),
    ];
    check(&router, rows).await;
}

#[tokio::test]
async fn a_tool_that_misbehaves_spoils_its_own_call_at_the_door_too() {
    let router = door();
    let rows = vec![
        Row("it hangs", named("hangs"), 200, Told::Refusal("deadline_exceeded")),
        Row("it floods", named("floods"), 200, Told::Refusal("body_too_large")),
        Row("it lies", named("lies"), 200, Told::Refusal("internal")),
        Row("it dies", named("dies"), 200, Told::Refusal("internal")),
        Row("it is none", named("nothing"), 200, Told::Error(-32_602)),
        Row("it is called once", named("rarely"), 200, Told::Answer),
        Row("it is called too often", named("rarely"), 200, Told::Refusal("overloaded")),
    ];
    check(&router, rows).await;
}

#[tokio::test]
async fn over_plain_http_each_has_its_status_and_code() {
    let router = door();
    let sent = |body: Vec<u8>| local(post("/tools/says", body));
    let rows = [
        ("no origin", plain("says"), 200, ""),
        ("an origin of this machine", with(plain("says"), &[("origin", "http://localhost:3000")]), 200, ""),
        ("an evil origin", with(plain("says"), &[("origin", "https://evil.example")]), 403, ""),
        ("an evil host", with(plain("says"), &[("host", "evil.example")]), 403, ""),
        ("two hosts", again(plain("says"), "host", "evil.example"), 400, "bad_request"),
        ("a proxy", with(plain("says"), &[("x-forwarded-for", "10.0.0.9")]), 403, "forbidden"),
        ("what is not permitted", plain("manages"), 403, "forbidden"),
        ("a token", with(plain("manages"), &[("authorization", "Bearer x")]), 403, "forbidden"),
        ("4 MiB", sent(vec![b' '; 4 << 20]), 413, "body_too_large"),
        ("300 KiB", sent(json!({"words": "x".repeat(300 << 10)}).to_string().into()), 413, "body_too_large"),
        ("9,000 levels", sent(deep(9_000).into()), 400, "bad_request"),
        ("100 levels", sent(format!(r#"{{"words": {}}}"#, deep(100)).into()), 400, "bad_request"),
        ("100,000 items", sent(long(100_000).to_string().into()), 400, "bad_request"),
        ("400,000 items", sent(long(400_000).to_string().into()), 413, "body_too_large"),
        ("a list", sent(br#"[{"words": "x"}]"#.to_vec()), 400, "bad_request"),
        ("two of them", sent(br#"{"words": "x"}{"words": "x"}"#.to_vec()), 400, "bad_request"),
        ("no text", sent(vec![0xff, 0xfe]), 400, "bad_request"),
        ("a packed one", with(plain("says"), &[("content-encoding", "gzip")]), 415, "bad_request"),
        ("a name that no tool can have", plain("s%C3%A4gt"), 404, "bad_request"),
        ("it hangs", plain("hangs"), 504, "deadline_exceeded"),
        ("it floods", plain("floods"), 413, "body_too_large"),
        ("it lies", plain("lies"), 500, "internal"),
        ("it dies", plain("dies"), 500, "internal"),
        ("it is called once", plain("rarely"), 200, ""),
        ("it is called too often", plain("rarely"), 429, "overloaded"),
    ];
    for (what, request, expected, code) in rows {
        let response = call(&router, request).await;
        let told = header(&response, "x-ollamamax-error").unwrap_or_default().to_owned();
        let after: Option<u64> = header(&response, "retry-after").map(|after| after.parse().expect("seconds"));
        let (status, body) = json_of(response).await;
        assert_eq!((status, told.as_str()), (expected, code), "{what}: {body}");
        assert_eq!(after.is_some(), expected == 429, "{what}: {after:?}");
        assert!(after.is_none_or(|after| (1..=60).contains(&after)), "{what}: {after:?}");
        assert_eq!(json_of(call(&router, plain("says")).await).await, (200, json!({"words": "x"})), "after {what}");
    }
}

#[tokio::test]
async fn ten_thousand_calls_of_one_caller_are_answered_or_told_when_to_come_back_and_nobody_else_is_hurt() {
    const CALLS: u32 = 10_000;
    const PER_MINUTE: u64 = 600;
    let parts = with_m().parts(Config::default());
    let shared = Toolbox::new(tools(None), &parts.registry).expect("new names");
    let router = router(Parts { tools: shared.clone(), ..parts });
    let mut other = ToolsClient::new(Admin::routes_with(Arc::new(House::default()), shared));
    let (started_at, mut answered) = (Instant::now(), 0_u64);
    for number in 0..CALLS {
        let response = call(&router, plain("says")).await;
        match response.status().as_u16() {
            200 => answered += 1,
            429 => {
                let told = (header(&response, "x-ollamamax-error"), header(&response, "retry-after"));
                assert_eq!(told, (Some("overloaded"), Some("1")), "{number}");
            }
            status => panic!("{number}: {status}"),
        }
        if number % 1_000 == 0 {
            let arguments_json = r#"{"words": "x"}"#.to_owned();
            let asked = CallToolRequest { name: "says".to_owned(), arguments_json, no_wait: false };
            let told = other.call_tool(by_root(asked)).await.expect("another caller").into_inner();
            assert_eq!(told.result_json, r#"{"words":"x"}"#, "{number}");
        }
    }
    // A minute's calls at once, and what time brings.
    let brought = (started_at.elapsed().as_secs() + 1) * PER_MINUTE / 60;
    assert!((PER_MINUTE..=PER_MINUTE + brought).contains(&answered), "{answered} of {CALLS}, {brought} by time");
}

#[tokio::test]
async fn what_belongs_to_one_caller_never_reaches_another() {
    let tasks = MemTasks::default();
    let parts = with_m().parts(Config::default());
    let shared = toolbox(&tasks, &parts.registry);
    let router = router(Parts { tools: shared.clone(), ..parts });
    let routes = || Admin::routes_with(Arc::new(House::default()), shared.clone());
    let (mut tools, mut admin) = (ToolsClient::new(routes()), TasksClient::new(routes()));

    // One key of two callers is two keys.
    let arguments = r#"{"name": "m", "idempotency_key": "k"}"#;
    let asked = CallToolRequest { name: "fetches".to_owned(), arguments_json: arguments.to_owned(), no_wait: true };
    let by_admin = tools.call_tool(by_root(asked)).await.expect("begun").into_inner().task.expect("a task").id;
    let begin = || with(local(post("/tools/fetches", arguments)), &[("prefer", "respond-async")]);
    let (status, found) = json_of(call(&router, begin()).await).await;
    let by_loopback = found["task"]["id"].as_str().expect("an id").to_owned();
    assert_eq!((status, by_loopback == by_admin), (202, false), "{found}");
    let (_, found) = json_of(call(&router, begin()).await).await;
    assert_eq!(found["task"]["id"], by_loopback, "the same call again");

    // Lists and handles.
    let (_, listed) = json_of(call(&router, local(get("/tasks"))).await).await;
    let ids: Vec<&Value> = listed["tasks"].as_array().into_iter().flatten().map(|task| &task["id"]).collect();
    assert_eq!(ids, [&json!(by_loopback)], "{listed}");
    let cancel = local(post(&format!("/tasks/{by_admin}/cancel"), ""));
    for request in [local(get(&format!("/tasks/{by_admin}"))), cancel] {
        let response = call(&router, request).await;
        let code = header(&response, "x-ollamamax-error").unwrap_or_default().to_owned();
        assert_eq!((response.status().as_u16(), code.as_str()), (404, "task_not_found"));
    }
    assert!(!tasks.task(&by_admin).expect("there").cancel_asked);
    let seen = admin.list_tasks(by_root(ListTasksRequest::default())).await.expect("listed").into_inner().tasks;
    assert_eq!(seen.len(), 2, "who manages sees all: {seen:?}");
}

#[tokio::test]
async fn every_list_shows_a_caller_what_it_may_call_alone() {
    let shared = Toolbox::new(catalogue(), &Registry::new()).expect("new names");
    let own: Vec<Value> = catalogue().listed(&Principal::loopback()).map(|tool| json!(tool.spec().name)).collect();
    assert!(!own.contains(&json!("manages")), "{own:?}");
    let router = door();
    let (_, found) = ask(&router, modern("tools/list", json!({}))).await;
    let (_, over_http) = json_of(call(&router, local(get("/tools"))).await).await;
    for listed in [&found["result"]["tools"], &over_http["tools"]] {
        let names: Vec<Value> = listed.as_array().into_iter().flatten().map(|tool| tool["name"].clone()).collect();
        assert_eq!(names, own);
    }
    let mut client = ToolsClient::new(Admin::routes_with(Arc::new(House::default()), shared));
    let all = client.list_tools(by_root(ListToolsRequest::default())).await.expect("listed").into_inner().tools;
    assert_eq!(all.len(), own.len() + 1, "{all:?}");

    // The document of the same routes.
    let (status, document) = json_of(call(&router, local(get("/openapi.json"))).await).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let is_told = |document: &Value, name: &Value| {
        let path = format!("/tools/{}", name.as_str().unwrap_or_default());
        document["paths"][path]["post"]["operationId"] == *name
    };
    assert!(own.iter().all(|name| is_told(&document, name)) && !is_told(&document, &json!("manages")), "{document}");
    let told = client.show_open_api(by_root(ShowOpenApiRequest {})).await.expect("shown").into_inner();
    let document: Value = serde_json::from_str(&told.document_json).expect("JSON");
    assert!(own.iter().all(|name| is_told(&document, name)) && is_told(&document, &json!("manages")), "{document}");
    let elsewhere = call(&router, get("/openapi.json")).await;
    assert_eq!((elsewhere.status().as_u16(), header(&elsewhere, "x-ollamamax-error")), (403, Some("forbidden")));
}
