//! The question before a call that destroys something: asked at one node, answered at another one, and once.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt as _;
use prometheus::Registry;
use rmcp::model::{RequestStateCodec, SealOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::yield_now;

use ollamax_gateway::Toolbox;
use ollamax_gateway::grpc::{Admin, SocketUser};
use ollamax_gateway::mem::MemKeys;
use ollamax_gateway::ports::Keys;
use ollamax_tools::mem::MemTasks;
use ollamax_tools::once::digest_of;
use ollamax_tools::{Call, Catalogue, Families, Foreseen, Hints, Spec, Tasks as _, Tool, ToolError, Work};
use ollamax_types::{Digest, ErrorCode};

use crate::desk::House;
use crate::mcp::json_of;
use crate::tasks::{asked as request, completed};
use crate::world::call;

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    dry_run: Option<bool>,
    idempotency_key: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Gone {
    nodes: Vec<String>,
}

/// What would go; "pinned" would not.
fn foreseen(name: &str) -> Foreseen {
    let refusal = (name == "pinned").then(|| ToolError::new(ErrorCode::PreconditionFailed, "it is pinned", "unpin it"));
    Foreseen { lines: vec![format!("{name} goes")], refusal }
}

/// A node of a cluster: its own doors, with the tasks and the keys that all nodes have.
fn node(tasks: &MemTasks, keys: Option<&MemKeys>) -> Router {
    let hints = Hints { destructive: true, ..Hints::CHANGE };
    let spec = Spec {
        name: "drops",
        title: "Drops",
        description: "Drops it.",
        family: "tests",
        needs_approval: true,
        hints,
        ..Spec::TASK
    };
    let plan = |_: &Call, wanted: &Wanted| ready(Ok::<_, ToolError>(foreseen(&wanted.name))).boxed();
    let work = |_: Work, wanted: Wanted| ready(Ok::<_, ToolError>(Gone { nodes: vec![wanted.name] })).boxed();
    let drops = Tool::work(spec, plan, work).expect("declared well");
    let catalogue = Catalogue::new(vec![drops], &Families::All).expect("one").with_tasks(Arc::new(tasks.clone()));
    let toolbox = Toolbox::new(catalogue, &Registry::new()).expect("new names").with_tasks(Arc::new(tasks.clone()));
    let toolbox = match keys {
        Some(keys) => toolbox.with_keys(Arc::new(keys.clone())),
        None => toolbox,
    };
    Admin::routes_with(Arc::new(House::default()), toolbox).into_axum_router()
}

/// The answer to a call by a user whose client can do so much.
async fn asked(node: &Router, uid: u32, able: Value, params: Value) -> Value {
    let mut whole = json!({"name": "drops", "arguments": {"name": "m"}});
    for (key, value) in params.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let mut request = request("tools/call", "drops", able, whole);
    request.extensions_mut().insert(SocketUser(uid));
    json_of(call(node, request).await).await.1
}

/// That of a client that can ask its user and takes no tasks.
async fn ask(node: &Router, params: Value) -> Value {
    asked(node, 0, json!({"elicitation": {}}), params).await
}

/// The state of a question that is asked at this node.
async fn question(node: &Router) -> String {
    let found = ask(node, json!({})).await;
    found["result"]["requestState"].as_str().expect("a state").to_owned()
}

fn answer(state: &str, said: Value) -> Value {
    json!({"requestState": state, "inputResponses": {"approval": said}})
}

fn yes() -> Value {
    json!({"action": "accept", "content": {"approve": true}})
}

/// What the tool itself answered where it did not do what was asked.
fn refusal(found: &Value) -> Value {
    assert_eq!(found["result"]["isError"], json!(true), "{found}");
    let text = found["result"]["content"][0]["text"].as_str().unwrap_or_default();
    serde_json::from_str(text).expect("JSON")
}

/// Ends every task as soon as somebody may work at it.
async fn work_at(tasks: &MemTasks) {
    let mut changes = tasks.changes().expect("they change");
    loop {
        changes.mark_unchanged();
        if let Some(task) = tasks.tasks().iter().find(|task| task.status == "queued") {
            return completed(tasks, &task.id);
        }
        changes.changed().await.expect("the tasks live");
    }
}

fn statuses(tasks: &MemTasks) -> Vec<String> {
    tasks.tasks().into_iter().map(|task| task.status).collect()
}

#[tokio::test]
async fn a_user_is_asked_at_one_node_and_the_answer_counts_at_another_one_and_once() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let (one, other) = (node(&tasks, Some(&keys)), node(&tasks, Some(&keys)));
    let found = ask(&one, json!({})).await;
    let result = &found["result"];
    assert_eq!(result["resultType"], "input_required", "{found}");
    let form = &result["inputRequests"]["approval"];
    assert_eq!(form["method"], "elicitation/create", "{found}");
    assert_eq!(form["params"]["requestedSchema"]["required"], json!(["approve"]), "{found}");
    let words = form["params"]["message"].as_str().unwrap_or_default();
    assert_eq!(words, "drops needs your approval: {\"name\":\"m\"}\n- m goes", "{found}");
    assert_eq!(statuses(&tasks), [""; 0], "nothing is on record before there is an answer");

    let state = result["requestState"].as_str().expect("a state");
    let (found, ()) = tokio::join!(ask(&other, answer(state, yes())), work_at(&tasks));
    assert_eq!(found["result"]["structuredContent"]["result"], json!({"nodes": ["n1"]}), "{found}");
    assert_eq!(statuses(&tasks), ["completed"]);

    // Who did not hear the answer asks again, at whichever node: nothing is done twice.
    for node in [&one, &other] {
        let again = ask(node, answer(state, yes())).await;
        assert_eq!(again["result"]["structuredContent"], found["result"]["structuredContent"], "{again}");
    }
    // An answer is not taken back.
    let found = refusal(&ask(&one, answer(state, json!({"action": "decline"}))).await);
    assert_eq!(found["code"], "precondition_failed", "{found}");
    assert!(found["message"].as_str().is_some_and(|text| text.contains("had the answer yes before")), "{found}");
    assert_eq!(statuses(&tasks), ["completed"]);
    // Another question is another call.
    assert_ne!(question(&one).await, state);
}

#[tokio::test]
async fn an_answer_counts_once_whatever_keys_come_with_it_and_a_key_once_however_often_it_is_asked() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let one = node(&tasks, Some(&keys));
    let with_key = |mut params: Value, key: Value| {
        params["arguments"] = json!({"name": "m", "idempotency_key": key});
        params
    };
    let state_of = |found: &Value| found["result"]["requestState"].as_str().expect("a state").to_owned();
    // As a bridge does that draws a key for each request.
    let found = ask(&one, with_key(json!({}), json!("a"))).await;
    let words = &found["result"]["inputRequests"]["approval"]["params"]["message"];
    assert_eq!(words, "drops needs your approval: {\"name\":\"m\"}\n- m goes", "{found}");
    let first = state_of(&found);
    let (found, ()) = tokio::join!(ask(&one, with_key(answer(&first, yes()), json!("b"))), work_at(&tasks));
    assert_eq!(found["result"]["isError"], json!(false), "{found}");
    for key in [json!("c"), json!("a"), Value::Null] {
        let again = ask(&one, with_key(answer(&first, yes()), key)).await;
        assert_eq!(again["result"]["structuredContent"], found["result"]["structuredContent"], "{again}");
    }
    // As a client does that heard nothing of all that, and begins anew with its key: nobody is asked twice.
    let again = ask(&one, with_key(json!({}), json!("a"))).await;
    assert_eq!(again["result"]["structuredContent"], found["result"]["structuredContent"], "{again}");
    assert_eq!(statuses(&tasks), ["completed"]);
    // Of other arguments, and by another user, it is another call, about which somebody is asked.
    let other = json!({"arguments": {"name": "n", "idempotency_key": "a"}});
    assert_ne!(state_of(&ask(&one, other).await), first);
    let others = asked(&one, 7, json!({"elicitation": {}}), with_key(json!({}), json!("a"))).await;
    assert_ne!(state_of(&others), first);
    // A question without a key is a call of its own, whatever comes with its answer.
    let third = question(&one).await;
    let (other, ()) = tokio::join!(ask(&one, with_key(answer(&third, yes()), json!("a"))), work_at(&tasks));
    assert_eq!(other["result"]["isError"], json!(false), "{other}");
    assert_eq!(statuses(&tasks), ["completed", "completed"]);
}

#[tokio::test]
async fn whoever_does_not_say_yes_has_said_no_and_cannot_say_yes_later() {
    for said in [
        json!({"action": "decline"}),
        json!({"action": "cancel"}),
        json!({"action": "accept", "content": {"approve": false}}),
    ] {
        let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
        let (one, other) = (node(&tasks, Some(&keys)), node(&tasks, Some(&keys)));
        let state = question(&one).await;
        for node in [&other, &one] {
            let found = refusal(&ask(node, answer(&state, said.clone())).await);
            assert_eq!(found["code"], "precondition_failed", "{found}");
            assert!(found["message"].as_str().is_some_and(|text| text.contains("it was not approved")), "{found}");
        }
        let found = refusal(&ask(&one, answer(&state, yes())).await);
        assert!(found["message"].as_str().is_some_and(|text| text.contains("was cancelled")), "{found}");
        assert_eq!(statuses(&tasks), ["cancelled"], "{said}");
    }
}

#[tokio::test]
async fn a_state_counts_for_its_caller_its_arguments_and_its_time_alone() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let (one, other) = (node(&tasks, Some(&keys)), node(&tasks, Some(&keys)));
    let state = question(&one).await;
    let asks = || json!({"elicitation": {}});
    let refused = |found: &Value, expected: &str| {
        assert_eq!(found["error"]["code"], json!(-32_602), "{found}");
        let message = found["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(message, format!("requestState: {expected}; begin the call anew"), "{found}");
    };
    let broken = "request state failed integrity verification";
    // One letter is another one; the last ones may be of bits that do not count.
    let (head, tail) = state.split_at(state.len() - 8);
    let letter = if tail.starts_with('A') { 'B' } else { 'A' };
    refused(&ask(&other, answer(&format!("{head}{letter}{}", &tail[1..]), yes())).await, broken);
    refused(&ask(&other, answer("nothing", yes())).await, "request state is malformed or uses an unsupported format");
    refused(&asked(&other, 7, asks(), answer(&state, yes())).await, broken);
    let with = |state: &str, arguments: Value| {
        let mut params = answer(state, yes());
        params["arguments"] = arguments;
        params
    };
    refused(&ask(&other, with(&state, json!({"name": "n"}))).await, broken);
    let elsewhere = node(&tasks, Some(&MemKeys::draw()));
    refused(&ask(&elsewhere, answer(&state, yes())).await, broken);

    // The same question, asked longer ago than it holds.
    let ring = keys.ring().expect("a key");
    let secrets = ring.keys.iter().map(|(name, key)| (name.clone(), key.expose().to_vec()));
    let codec = RequestStateCodec::new_with_keyring(ring.seals.clone(), secrets).expect("keys");
    let arguments = Digest(digest_of(&json!({"name": "m"}))).to_string();
    let bound_to = json!(["tools/call", "uid/0", "drops", arguments]).to_string();
    let sealed = |ttl: Duration| {
        let options = SealOptions::new().associated_data(bound_to.as_bytes()).ttl(ttl);
        codec.seal_json_with(&json!({"round": "r"}), &options).expect("sealed")
    };
    let old = sealed(Duration::ZERO);
    // It holds for what is left of this millisecond.
    while codec.open_json_with::<Value>(&old, bound_to.as_bytes()).is_ok() {
        yield_now().await;
    }
    refused(&ask(&other, answer(&old, yes())).await, "request state has expired");
    assert_eq!(statuses(&tasks), [""; 0]);
    let lasting = sealed(Duration::from_secs(60));
    // Its own key is no argument: who draws one for each request comes to the same call.
    let keyed = with(&lasting, json!({"name": "m", "idempotency_key": "k"}));
    let (found, ()) = tokio::join!(ask(&other, keyed), work_at(&tasks));
    assert_eq!(found["result"]["isError"], json!(false), "it is the time alone: {found}");
    let other = with(&lasting, json!({"name": "m", "idempotency_key": "of another request"}));
    let again = ask(&one, other).await;
    assert_eq!(again["result"]["structuredContent"], found["result"]["structuredContent"], "{again}");
    assert_eq!(statuses(&tasks), ["completed"], "one answer is one call");
}

#[tokio::test]
async fn a_call_with_a_key_is_one_call_however_often_its_user_is_asked() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let one = node(&tasks, Some(&keys));
    let question = async || {
        let found = ask(&one, json!({"arguments": {"name": "m", "idempotency_key": "k"}})).await;
        found["result"]["requestState"].as_str().expect("a state").to_owned()
    };
    let (first, second) = (question().await, question().await);
    assert_ne!(first, second);
    let (found, ()) = tokio::join!(ask(&one, answer(&first, yes())), work_at(&tasks));
    let again = ask(&one, answer(&second, yes())).await;
    assert_eq!(again["result"]["structuredContent"], found["result"]["structuredContent"], "{again}");
    assert_eq!(statuses(&tasks), ["completed"]);
}

#[tokio::test]
async fn a_call_whose_key_was_denied_is_told_so_and_one_that_waits_is_asked_about() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let one = node(&tasks, Some(&keys));
    let keyed = || json!({"arguments": {"name": "m", "idempotency_key": "k"}});
    // As a client does that cannot ask: its task waits.
    let found = asked(&one, 0, json!({}), keyed()).await;
    assert_eq!(found["result"]["structuredContent"]["task"]["status"], "waiting", "{found}");
    let found = ask(&one, keyed()).await;
    let state = found["result"]["requestState"].as_str().expect("a state");
    let mut denied = answer(state, json!({"action": "decline"}));
    denied["arguments"] = keyed()["arguments"].clone();
    let found = refusal(&ask(&one, denied).await);
    assert!(found["message"].as_str().is_some_and(|text| text.contains("it was not approved")), "{found}");
    let found = refusal(&ask(&one, keyed()).await);
    assert!(found["message"].as_str().is_some_and(|text| text.contains("was cancelled")), "{found}");
    assert_eq!(statuses(&tasks), ["cancelled"]);
}

#[tokio::test]
async fn an_answer_that_is_none_is_refused_and_a_missing_one_is_asked_for_again() {
    let (tasks, keys) = (MemTasks::default(), MemKeys::draw());
    let one = node(&tasks, Some(&keys));
    let state = question(&one).await;
    for said in [json!(true), json!({"action": "accept"}), json!({"action": "accept", "content": {"approve": "yes"}})] {
        let found = ask(&one, answer(&state, said.clone())).await;
        assert_eq!(found["error"]["code"], json!(-32_602), "{said}: {found}");
    }
    for params in [
        json!({"requestState": state}),
        json!({"requestState": state, "inputResponses": {"other": yes()}}),
        // Nobody has asked for it.
        json!({"inputResponses": {"approval": yes()}}),
    ] {
        let found = ask(&one, params.clone()).await;
        assert_eq!(found["result"]["resultType"], "input_required", "{params}: {found}");
    }
    // What cannot be done is told before anybody is asked; what only looks is answered.
    let found = refusal(&ask(&one, json!({"arguments": {"nome": "m"}})).await);
    assert_eq!(found["code"], "bad_request", "{found}");
    let found = refusal(&ask(&one, json!({"arguments": {"name": "pinned"}})).await);
    assert_eq!((&found["code"], &found["next"]), (&json!("precondition_failed"), &json!("unpin it")), "{found}");
    let found = ask(&one, json!({"arguments": {"name": "m", "dry_run": true}})).await;
    assert_eq!(found["result"]["structuredContent"]["plan"], json!(["m goes"]), "{found}");
    // Whoever agrees sees that what is shown is not all.
    let found = ask(&one, json!({"arguments": {"name": "x".repeat(600)}})).await;
    let words = found["result"]["inputRequests"]["approval"]["params"]["message"].as_str().unwrap_or_default();
    assert!(words.contains("xxx ... and 99 bytes more\n- xxx"), "{found}");
    assert_eq!(statuses(&tasks), [""; 0]);
}

#[tokio::test]
async fn a_client_that_cannot_ask_and_a_node_without_keys_leave_the_task_to_an_administrator() {
    let keys = MemKeys::draw();
    let elicits = || json!({"elicitation": {}});
    for (keys, able) in [(Some(&keys), json!({})), (None, elicits()), (Some(&MemKeys::default()), elicits())] {
        let tasks = MemTasks::default();
        let found = asked(&node(&tasks, keys), 0, able, json!({})).await;
        let content = &found["result"]["structuredContent"];
        assert_eq!(content["task"]["status"], "waiting", "{found}");
        assert_eq!(content["task"]["plan"], json!(["m goes"]), "{found}");
        assert!(content["next"].as_str().is_some_and(|next| next.contains("ollamax approve")), "{found}");
    }
}
