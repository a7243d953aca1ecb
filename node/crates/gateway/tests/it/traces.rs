//! Traces that clients name: they go along with what the node asks for them, under a span of its own.

use std::future::ready;

use axum::body::Body;
use axum::http::Request;
use futures::FutureExt as _;
use serde_json::json;

use ollamax_gateway::Config;
use ollamax_tools::{Call, Catalogue, Families, Tool, ToolError};
use ollamax_types::Trace;

use crate::mcp::{MODERN, Words, ask, door_of, message, spec, with};
use crate::world::{call, post, with_m};

const ID: &str = "0af7651916cd43dd8448eb211c80319c";
const OTHER: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn named(id: &str) -> String {
    format!("00-{id}-b7ad6b7169203331-01")
}

/// The same trace and state, and another span than the one that the client named.
fn goes_on(trace: &Trace, id: &str, state: &str) {
    assert_eq!((trace.id(), trace.state()), (id, state), "{trace:?}");
    let said = Trace::parse(&named(id)).expect("a trace");
    assert_ne!(trace.parent(), said.parent());
    assert_eq!(Trace::parse(&trace.named()).map(|trace| trace.with_state(state)).as_ref(), Some(trace));
}

#[tokio::test]
async fn a_question_to_a_model_goes_on_in_its_clients_trace_and_one_without_in_none() {
    let world = with_m();
    let runtime = &world.nodes[0].runtime;
    let sent = [("traceparent", named(ID)), ("tracestate", "a=1".to_owned())];
    for headers in [&sent[..], &sent[1..]] {
        runtime.answer_whole(200, "application/x-ndjson", &["{\"done\":true}\n"]);
        let headers: Vec<(&'static str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let asked = with(post("/api/chat", r#"{"model":"m"}"#), &headers);
        assert_eq!(call(&world.router(), asked).await.status(), 200);
    }
    let requests = runtime.requests.lock().expect("not poisoned").clone();
    goes_on(requests[0].trace.as_ref().expect("a trace"), ID, "a=1");
    assert_eq!(requests[1].trace, None);
}

/// A call of a tool at `/mcp`, whose message names this trace, and whose request names another one.
fn traced_call(said: Option<&str>) -> Request<Body> {
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "tracestate": "said=1",
    });
    if let Some(said) = said {
        meta["traceparent"] = json!(said);
    }
    let params = json!({"name": "follows", "arguments": {"words": ""}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let other = named(OTHER);
    let headers = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "follows"),
        ("traceparent", other.as_str()),
        ("tracestate", "sent=1"),
    ];
    with(message(body.to_string()), &headers)
}

#[tokio::test]
async fn a_tool_goes_on_in_the_trace_that_its_message_names_else_in_that_of_its_request() {
    let follows = |call: Call, _: Words| {
        let trace = call.caller.trace.map(|trace| format!("{} {}", trace.named(), trace.state()));
        ready(Ok::<_, ToolError>(Words { words: trace.unwrap_or_default(), token: None })).boxed()
    };
    let tool = Tool::new(spec("follows"), follows).expect("declared well");
    let tools = Catalogue::new(vec![tool], &Families::All).expect("one name");
    let router = door_of(&with_m(), tools, Config::default());
    for (said, id, state) in [(Some(named(ID)), ID, "said=1"), (None, OTHER, "sent=1")] {
        let (status, found) = ask(&router, traced_call(said.as_deref())).await;
        let words = found["result"]["structuredContent"]["words"].as_str().unwrap_or_default();
        let (trace, told) = words.split_once(' ').unwrap_or_default();
        let trace = Trace::parse(trace).map(|trace| trace.with_state(told));
        assert_eq!(status, 200, "{found}");
        goes_on(&trace.expect("a trace"), id, state);
    }
}
