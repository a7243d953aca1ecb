//! What the official suite of MCP looks for: not there unless it is switched on, and then beside the node's own tools.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use ollamax_gateway::http::{ClientAddress, Parts, router};
use ollamax_gateway::{Config, Toolbox};
use ollamax_tools::mem::MemTasks;

use crate::mcp::tools;
use crate::world::{call, with_m};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
/// Longest wait for what a stream has to bring.
const PATIENCE: Duration = Duration::from_secs(10);

fn door(conformance_fixtures: bool) -> Router {
    door_of(&MemTasks::default(), conformance_fixtures)
}

/// The door of one of the nodes that have these tasks.
fn door_of(tasks: &MemTasks, conformance_fixtures: bool) -> Router {
    let parts = with_m().parts(Config { conformance_fixtures, ..Config::default() });
    let toolbox = Toolbox::new(tools(None), &parts.registry).expect("new names");
    router(Parts { tools: toolbox.with_tasks(Arc::new(tasks.clone())), ..parts })
}

fn post(headers: &[(&str, &str)], body: &Value) -> Request<Body> {
    let mut request =
        Request::post("/mcp").header("host", "localhost:11435").header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header("accept", "application/json, text/event-stream");
    let mut request = request.body(Body::from(body.to_string())).expect("a request");
    request.extensions_mut().insert(ClientAddress("127.0.0.1:4711".parse().expect("an address")));
    request
}

/// A request of 2026-07-28, of a client that can do everything.
fn modern(method: &str, mut params: Value) -> Request<Body> {
    let extensions = json!({"io.modelcontextprotocol/tasks": {}});
    let capabilities = json!({"elicitation": {}, "sampling": {}, "roots": {}, "extensions": extensions});
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "progressToken": "p",
    });
    let name = ["name", "uri", "taskId"].into_iter().find_map(|key| params[key].as_str()).map(ToOwned::to_owned);
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", method)];
    headers.extend(name.as_deref().map(|name| ("mcp-name", name)));
    post(&headers, &body)
}

fn legacy(message: &Value) -> Request<Body> {
    post(&[("mcp-protocol-version", LEGACY)], message)
}

/// All messages of an answer, whether it is one or a stream that ends.
async fn messages(response: Response<Body>) -> Vec<Value> {
    let bytes = response.into_body().collect().await.expect("whole").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    match serde_json::from_str(&text) {
        Ok(message) => vec![message],
        Err(_) => data_in(&text),
    }
}

fn data_in(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect()
}

async fn ask(router: &Router, request: Request<Body>) -> Value {
    messages(call(router, request).await).await.pop().expect("an answer")
}

/// The messages of a stream up to this many.
async fn first(body: &mut Body, count: usize) -> Vec<Value> {
    let reading = async {
        let mut text = String::new();
        while data_in(&text).len() < count {
            let frame = body.frame().await.expect("it goes on").expect("whole");
            let data = frame.into_data().expect("data");
            text.push_str(std::str::from_utf8(&data).expect("text"));
        }
        data_in(&text)
    };
    timeout(PATIENCE, reading).await.expect("in time")
}

/// Changes tools and prompts again and again: who listens may do so a moment after it was told that it does.
async fn change_everything(router: &Router) -> Infallible {
    loop {
        for trigger in ["test_trigger_tool_change", "test_trigger_prompt_change"] {
            let found = ask(router, modern("tools/call", json!({"name": trigger}))).await;
            assert!(found["result"].is_object(), "{found}");
        }
    }
}

#[tokio::test]
async fn nothing_of_it_is_there_unless_it_is_switched_on() {
    let names = async |router: &Router| {
        let listed = ask(router, modern("tools/list", json!({}))).await;
        let tools = listed["result"]["tools"].as_array().expect("tools").clone();
        tools.iter().filter_map(|tool| tool["name"].as_str().map(ToOwned::to_owned)).collect::<Vec<_>>()
    };
    let (off, on) = (door(false), door(true));
    assert_eq!(names(&off).await, ["fails", "hangs", "says"]);
    let listed = names(&on).await;
    for name in ["says", "test_simple_text", "test_input_required_result_elicitation", "slow_compute"] {
        assert!(listed.iter().any(|found| found == name), "{name} in {listed:?}");
    }
    let found = ask(&off, modern("tools/call", json!({"name": "test_simple_text"}))).await;
    assert_eq!(found["error"]["code"], -32_602, "{found}");
    for method in ["prompts/list", "resources/list"] {
        let found = ask(&off, modern(method, json!({}))).await;
        assert_eq!(found["error"]["code"], -32_601, "{method}: {found}");
    }
    let call = legacy(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_sampling"}}));
    assert_eq!(ask(&off, call).await["error"]["code"], -32_602);
}

#[tokio::test]
async fn a_fixture_answers_in_both_eras_and_the_nodes_own_tools_answer_as_ever() {
    let router = door(true);
    let found = ask(&router, modern("tools/call", json!({"name": "says", "arguments": {"words": "x"}}))).await;
    assert_eq!(found["result"]["structuredContent"], json!({"words": "x"}), "{found}");
    let params = json!({"name": "test_simple_text"});
    let older = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    for request in [modern("tools/call", params.clone()), legacy(&older)] {
        let found = ask(&router, request).await;
        assert_eq!(found["result"]["content"][0]["text"], "This is a simple text response for testing.", "{found}");
    }
    for (method, params, key) in [
        ("prompts/list", json!({}), "prompts"),
        ("prompts/get", json!({"name": "test_simple_prompt"}), "messages"),
        ("resources/list", json!({}), "resources"),
        ("resources/templates/list", json!({}), "resourceTemplates"),
        ("resources/read", json!({"uri": "test://static-text"}), "contents"),
    ] {
        let found = ask(&router, modern(method, params)).await;
        assert!(found["result"][key].as_array().is_some_and(|list| !list.is_empty()), "{method}: {found}");
        assert_eq!(found["result"]["resultType"], "complete", "{method}: {found}");
    }
    let found = ask(&router, modern("resources/read", json!({"uri": "test://nowhere"}))).await;
    assert_eq!(found["error"]["code"], -32_602, "{found}");
}

#[tokio::test]
async fn progress_comes_before_the_result_and_a_change_to_those_who_listen() {
    let router = door(true);
    let response = call(&router, modern("tools/call", json!({"name": "test_tool_with_progress"}))).await;
    let found = messages(response).await;
    let steps: Vec<f64> = found.iter().filter_map(|message| message["params"]["progress"].as_f64()).collect();
    assert_eq!(steps, [0.0, 50.0, 100.0], "{found:?}");
    assert!(found.last().is_some_and(|last| last["result"].is_object()), "{found:?}");

    let listens = modern("subscriptions/listen", json!({"notifications": {"promptsListChanged": true}}));
    let mut body = call(&router, listens).await.into_body();
    let told = first(&mut body, 1).await;
    assert_eq!(told[0]["method"], "notifications/subscriptions/acknowledged", "{told:?}");
    let told = tokio::select! {
        told = first(&mut body, 1) => told,
        never = change_everything(&router) => match never {},
    };
    assert_eq!(told[0]["method"], "notifications/prompts/list_changed", "{told:?}");
}

#[tokio::test]
async fn a_call_of_the_handshake_asks_and_the_answer_comes_in_a_request_of_its_own() {
    let parts = with_m().parts(Config {
        conformance_fixtures: true,
        origins: vec!["https://*.lab".to_owned()],
        ..Config::default()
    });
    let router = router(Parts { tools: Toolbox::new(tools(None), &parts.registry).expect("new names"), ..parts });
    let params = json!({"name": "test_sampling", "arguments": {"prompt": "What is a quorum?"}});
    let asking = json!({"jsonrpc": "2.0", "id": "c", "method": "tools/call", "params": params});
    // A page that `/mcp` does not take elsewhere is not asked either: a pattern is no name.
    let page = post(&[("mcp-protocol-version", LEGACY), ("origin", "https://chat.lab")], &asking);
    assert_eq!(call(&router, page).await.status(), 403);
    let request = legacy(&asking);
    let mut body = call(&router, request).await.into_body();
    let asked = first(&mut body, 1).await.remove(0);
    assert_eq!(asked["params"]["messages"][0]["content"]["text"], "What is a quorum?", "{asked}");
    let answer = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "A majority."}});
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": answer});
    assert_eq!(call(&router, legacy(&answer)).await.status(), 202);
    let told = first(&mut body, 1).await.remove(0);
    assert_eq!(
        (&told["id"], &told["result"]["content"][0]["text"]),
        (&json!("c"), &json!("LLM response: A majority."))
    );
    assert_eq!(call(&router, legacy(&answer)).await.status(), 404, "nobody waits any more");
}

#[tokio::test]
async fn a_job_is_a_task_that_can_be_asked_for_answered_and_cancelled() {
    let tasks = MemTasks::default();
    let (router, other) = (door_of(&tasks, true), door_of(&tasks, true));
    let begun = ask(&other, modern("tools/call", json!({"name": "confirm_delete"}))).await;
    assert_eq!(begun["result"]["resultType"], "task", "{begun}");
    let id = begun["result"]["taskId"].clone();
    let status = async |expected: &str| {
        let reading = async {
            loop {
                let found = ask(&router, modern("tasks/get", json!({"taskId": id}))).await;
                if found["result"]["status"] == expected {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reading).await.expect("in time")
    };
    let found = status("input_required").await;
    assert!(found["result"]["inputRequests"]["confirm"].is_object(), "{found}");
    let responses = json!({"confirm": {"action": "accept", "content": {"confirm": true}}});
    let taken = ask(&other, modern("tasks/update", json!({"taskId": id, "inputResponses": responses}))).await;
    assert_eq!(taken["result"]["resultType"], "complete", "{taken}");
    status("completed").await;
    let unknown = ask(&router, modern("tasks/cancel", json!({"taskId": "nobody"}))).await;
    assert_eq!(unknown["error"]["code"], -32_602, "{unknown}");
}
