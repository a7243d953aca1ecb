//! Tools over plain HTTP, as scripts list and call them, and on the administrator's socket.

use std::future::ready;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use futures::FutureExt as _;
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::{Endpoint, Server, Uri};

use ollamax_gateway::Toolbox;
use ollamax_gateway::grpc::daemon::CODE_KEY;
use ollamax_gateway::grpc::{Admin, SocketUser};
use ollamax_gateway::http::ClientAddress;
use ollamax_proto::v1::tools_client::ToolsClient;
use ollamax_proto::v1::{CallToolRequest, ListToolsRequest};
use ollamax_tools::{Call, Catalogue, Families, Principal, Tool};

use crate::desk::House;
use crate::mcp::{Words, door, modern, spec, tools};
use crate::world::{call, get, header, post, text};

pub(crate) fn local(mut request: Request<Body>) -> Request<Body> {
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

#[tokio::test]
async fn tools_are_listed_as_they_were_declared() {
    let (status, body) = text(&door(), local(get("/tools"))).await;
    let found: Value = serde_json::from_str(&body).expect("JSON");
    let declared = tools(None);
    let declared: Vec<Value> = declared.listed(&Principal::loopback()).map(Tool::describe).collect();
    assert_eq!((status, &found["tools"]), (200, &Value::from(declared)));
    let says = &found["tools"][2];
    assert_eq!((&says["name"], &says["class"], &says["permission"]), (&json!("says"), &json!("read"), &json!("read")));
}

#[tokio::test]
async fn a_tool_answers_with_its_result_or_with_its_codes_status() {
    let router = door();
    let asked = async |name: &str, body: &str| {
        let response = call(&router, local(post(&format!("/tools/{name}"), body.to_owned()))).await;
        let code = header(&response, "x-ollamamax-error").unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        let bytes = http_body_util::BodyExt::collect(response.into_body()).await.expect("whole").to_bytes();
        (status, code, String::from_utf8(bytes.to_vec()).expect("text"))
    };
    let answer = |status: u16, code: &str, body: &str| (status, code.to_owned(), body.to_owned());
    assert_eq!(asked("says", r#"{"words": "x"}"#).await, answer(200, "", r#"{"words":"x"}"#));
    let said = r#"{"error":"nobody has it; list_models"}"#;
    assert_eq!(asked("fails", r#"{"words": "x"}"#).await, answer(404, "model_not_found", said));
    let said = r#"{"error":"there is no tool \"nothing\"; GET /tools lists what there is"}"#;
    assert_eq!(asked("nothing", "{}").await, answer(404, "bad_request", said));
    for (name, body, status, code) in [
        ("says", "", 400, "bad_request"),
        ("says", "[]", 400, "bad_request"),
        ("says", "{", 400, "bad_request"),
        ("manages", r#"{"words": "x"}"#, 403, "forbidden"),
    ] {
        let (found, told, body) = asked(name, body).await;
        assert_eq!((found, told.as_str()), (status, code), "{body}");
    }
}

#[tokio::test]
async fn who_is_not_on_this_machine_neither_lists_nor_calls() {
    let router = door();
    for request in [get("/tools"), post("/tools/says", r#"{"words": "x"}"#)] {
        let (status, body) = text(&router, request).await;
        assert_eq!((status, body.contains("ssh -L")), (403, true), "{body}");
    }
    let mut forwarded = local(post("/tools/says", r#"{"words": "x"}"#));
    forwarded.headers_mut().insert("x-forwarded-for", "10.0.0.9".parse().expect("a value"));
    assert_eq!(text(&router, forwarded).await.0, 403);
    // Hosts and pages are those of `/mcp`: not every name that a name server of the local network may tell.
    for (name, value, expected) in [
        ("host", "printer.local", 403),
        ("host", "gpu-1:11435", 200),
        ("origin", "http://localhost:3000", 200),
        ("origin", "app://desk", 403),
    ] {
        let mut request = local(get("/tools"));
        request.headers_mut().insert(name, value.parse().expect("a value"));
        assert_eq!(text(&router, request).await.0, expected, "{name}: {value}");
    }
}

pub(crate) fn by_root<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.extensions_mut().insert(SocketUser(0));
    request
}

fn calls(name: &str, arguments_json: &str) -> CallToolRequest {
    CallToolRequest { name: name.to_owned(), arguments_json: arguments_json.to_owned(), no_wait: false }
}

pub(crate) fn code(status: &Status) -> &str {
    status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn an_administrator_has_every_tool_on_the_socket_and_a_call_of_nobody_is_refused() {
    let toolbox = Toolbox::new(tools(None), &Registry::new()).expect("new names");
    let mut client = ToolsClient::new(Admin::routes_with(Arc::new(House::default()), toolbox));
    let listed = client.list_tools(by_root(ListToolsRequest::default())).await.expect("listed").into_inner().tools;
    let names: Vec<&str> = listed.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["fails", "hangs", "manages", "says"]);
    assert_eq!(listed[2].permission, "manage");
    let declared: Value = serde_json::from_str(&listed[2].declared_json).expect("JSON");
    assert_eq!(declared["class"], "leader_write");
    let told = client.call_tool(by_root(calls("manages", r#"{"words": "x"}"#))).await.expect("called").into_inner();
    assert_eq!(told.result_json, r#"{"words":"x"}"#);
    let nobody = client.call_tool(calls("says", r#"{"words": "x"}"#)).await.expect_err("no user");
    assert_eq!(code(&nobody), "forbidden");
    let nobody = client.list_tools(ListToolsRequest::default()).await.expect_err("no user");
    assert_eq!(code(&nobody), "forbidden");
    for (name, arguments, expected) in [
        ("nothing", "", "bad_request"),
        ("says", "", "bad_request"),
        ("says", "{", "bad_request"),
        ("fails", r#"{"words": "x"}"#, "model_not_found"),
    ] {
        let refused = client.call_tool(by_root(calls(name, arguments))).await.expect_err("refused");
        assert_eq!(code(&refused), expected, "{name} {arguments}");
    }
    let missing = client.list_tools(by_root(ListToolsRequest { name: "nothing".to_owned() })).await;
    assert_eq!(code(&missing.expect_err("there is none")), "bad_request");
}

#[tokio::test]
async fn an_administrator_has_every_tool_by_mcp_on_the_socket_too() {
    let toolbox = Toolbox::new(tools(None), &Registry::new()).expect("new names");
    let router = Admin::routes_with(Arc::new(House::default()), toolbox).into_axum_router();
    let asked = async |method: &str, params: Value, by: Option<SocketUser>| {
        let mut request = modern(method, params);
        if let Some(by) = by {
            request.extensions_mut().insert(by);
        }
        let (status, body) = text(&router, request).await;
        (status, serde_json::from_str::<Value>(&body).expect("JSON"))
    };
    let (status, found) = asked("tools/list", json!({}), Some(SocketUser(0))).await;
    let listed = found["result"]["tools"].as_array().expect("a list");
    let names: Vec<&str> = listed.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!((status, names), (200, vec!["fails", "hangs", "manages", "says"]), "{found}");
    let calls = json!({"name": "manages", "arguments": {"words": "x"}});
    let (_, found) = asked("tools/call", calls, Some(SocketUser(0))).await;
    assert_eq!(found["result"]["structuredContent"], json!({"words": "x"}), "{found}");
    // What is said of the address does not count here.
    let (status, found) = asked("tools/list", json!({}), None).await;
    assert_eq!((status, &found["error"]["data"]["code"]), (403, &json!("forbidden")), "{found}");
}

#[tokio::test]
async fn who_opened_the_socket_is_who_calls() {
    let folder = tempfile::tempdir().expect("temp");
    let path = folder.path().join("admin.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let own = std::fs::metadata(&path).expect("there").uid();
    let tells = Tool::new(spec("tells"), |call: Call, _: Words| {
        let words = call.caller.principal.subject().to_string();
        ready(Ok(Words { words, token: None })).boxed()
    });
    let all = Catalogue::new(vec![tells.expect("declared well")], &Families::All).expect("one");
    let routes =
        Admin::routes_with(Arc::new(House::default()), Toolbox::new(all, &Registry::new()).expect("new names"));
    let tasks = TaskTracker::new();
    let served = Server::builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener));
    let server = tasks.spawn(served);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let channel = Endpoint::from_static("http://admin.sock").connect_with_connector(connector).await;
    let mut client = ToolsClient::new(channel.expect("connected"));
    let told = client.call_tool(calls("tells", r#"{"words": "who?"}"#)).await.expect("called").into_inner();
    assert_eq!(told.result_json, format!(r#"{{"words":"uid/{own}"}}"#));
    server.abort();
}
