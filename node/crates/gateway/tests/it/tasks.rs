//! Tasks at every door: by the protocol's extension, over plain HTTP, on the administrator's socket; and models that
//! tools ask through the clients' door.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use prometheus::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_gateway::grpc::Admin;
use ollamax_gateway::http::{Parts, Stopping, router};
use ollamax_gateway::{Config, InferenceSlot, Toolbox, inference_port};
use ollamax_proto::v1::tasks_client::TasksClient;
use ollamax_proto::v1::tools_client::ToolsClient;
use ollamax_proto::v1::{
    CallToolRequest, CancelTaskRequest, DecideTaskRequest, GetTaskRequest, ListTasksRequest, RetryTaskRequest, TaskView,
};
use ollamax_tools::mem::MemTasks;
use ollamax_tools::{
    Call, Caller, Catalogue, Families, Foreseen, Idempotency, Principal, Progress, Spec, Tasks as _, Tool, ToolError,
    Work,
};
use ollamax_types::{ErrorCode, Trace};

use crate::desk::House;
use crate::mcp::{MODERN, Words, json_of, message, spec, with};
use crate::tools::{by_root, code, local};
use crate::world::{call, get, header, post, with_m};

/// The extension's name.
const EXTENSION: &str = "io.modelcontextprotocol/tasks";

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    dry_run: Option<bool>,
    idempotency_key: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Got {
    nodes: Vec<String>,
}

/// What a tool of this name works at, and one that tells how far it is.
fn catalogue() -> Catalogue {
    let long = Spec { task: true, idempotency: Idempotency::ByKey, ..spec("fetches") };
    let comes = |name: &str| Foreseen::of(vec![format!("{name} comes")]);
    let plan = move |_: &Call, wanted: &Wanted| ready(Ok::<_, ToolError>(comes(&wanted.name))).boxed();
    let work = |_: Work, wanted: Wanted| ready(Ok::<_, ToolError>(Got { nodes: vec![wanted.name] })).boxed();
    let counts = |call: Call, words: Words| {
        async move {
            for done in 1..=3 {
                call.progress.tell(done, Some(3), format!("step {done}"));
                yield_now().await;
            }
            Ok::<_, ToolError>(words)
        }
        .boxed()
    };
    let says = |call: Call, words: Words| {
        async move {
            for (done, piece) in (1..).zip(words.words.split_inclusive(' ')) {
                call.progress.say(done, piece);
                // Sometimes it is heard at once, and sometimes with others.
                if done % 3 == 0 {
                    yield_now().await;
                }
            }
            Ok::<_, ToolError>(words)
        }
        .boxed()
    };
    let all = [Tool::work(long, plan, work), Tool::new(spec("counts"), counts), Tool::new(spec("says"), says)];
    Catalogue::new(all.map(|tool| tool.expect("declared well")).into(), &Families::All).expect("names differ")
}

pub(crate) fn toolbox(tasks: &MemTasks, registry: &Registry) -> Toolbox {
    let catalogue = catalogue().with_tasks(Arc::new(tasks.clone()));
    Toolbox::new(catalogue, registry).expect("new names").with_tasks(Arc::new(tasks.clone()))
}

fn door(tasks: &MemTasks) -> Router {
    let parts = with_m().parts(Config::default());
    router(Parts { tools: toolbox(tasks, &parts.registry), ..parts })
}

/// What a client says that takes tasks.
fn takes_tasks() -> Value {
    json!({"extensions": {EXTENSION: {}}})
}

/// A request of a client with these capabilities.
pub(crate) fn asked(method: &str, name: &str, able: Value, mut params: Value) -> Request<Body> {
    let mut meta = params["_meta"].as_object().cloned().unwrap_or_default();
    meta.insert("io.modelcontextprotocol/protocolVersion".to_owned(), json!(MODERN));
    meta.insert("io.modelcontextprotocol/clientCapabilities".to_owned(), able);
    params["_meta"] = Value::Object(meta);
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let request = with(message(body.to_string()), &[("mcp-protocol-version", MODERN), ("mcp-method", method)]);
    if name.is_empty() { request } else { with(request, &[("mcp-name", name)]) }
}

fn fetches(able: Value, params: Value) -> Request<Body> {
    let mut whole = json!({"name": "fetches", "arguments": {"name": "m"}});
    for (key, value) in params.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    asked("tools/call", "fetches", able, whole)
}

fn of_task(method: &str, id: &str, able: Value, more: Value) -> Request<Body> {
    let mut params = json!({"taskId": id});
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    asked(method, id, able, params)
}

async fn ask(router: &Router, request: Request<Body>) -> Value {
    json_of(call(router, request).await).await.1
}

/// The id of the only task, as soon as there is one.
async fn begun(tasks: &MemTasks) -> String {
    let mut changes = tasks.changes().expect("they change");
    loop {
        changes.mark_unchanged();
        if let Some(task) = tasks.tasks().first() {
            return task.id.clone();
        }
        changes.changed().await.expect("the tasks live");
    }
}

pub(crate) fn completed(tasks: &MemTasks, id: &str) {
    tasks.set(id, |task| {
        task.status = "completed".to_owned();
        task.result = Some(json!({"nodes": ["n1"]}));
    });
}

#[tokio::test]
async fn a_client_that_takes_tasks_gets_one_and_looks_at_it_until_it_is_over() {
    let tasks = MemTasks::default();
    let router = door(&tasks);
    let found = ask(&router, asked("server/discover", "", json!({}), json!({}))).await;
    assert!(found["result"]["capabilities"]["extensions"][EXTENSION].is_object(), "{found}");
    let found = ask(&router, fetches(takes_tasks(), json!({}))).await;
    let result = &found["result"];
    assert_eq!((&result["resultType"], &result["status"]), (&json!("task"), &json!("working")), "{found}");
    assert_eq!((&result["pollIntervalMs"], &result["ttlMs"]), (&json!(1_000), &Value::Null), "{found}");
    let id = result["taskId"].as_str().expect("an id").to_owned();
    assert_eq!(tasks.asked(&id).expect("it is on record").arguments, json!({"name": "m"}));

    let found = ask(&router, of_task("tasks/get", &id, takes_tasks(), json!({}))).await;
    assert_eq!((&found["result"]["status"], &found["result"]["taskId"]), (&json!("working"), &json!(id)), "{found}");
    completed(&tasks, &id);
    // The node that is asked may not have heard of it yet.
    tasks.fall_behind();
    let found = ask(&router, of_task("tasks/get", &id, takes_tasks(), json!({}))).await;
    let result = &found["result"];
    assert_eq!((&result["status"], &result["result"]["isError"]), (&json!("completed"), &json!(false)), "{found}");
    assert_eq!(result["result"]["structuredContent"]["result"], json!({"nodes": ["n1"]}), "{found}");
    // A dry run is answered at once, whoever asks.
    let dry = json!({"arguments": {"name": "m", "dry_run": true}});
    let found = ask(&router, fetches(takes_tasks(), dry)).await;
    assert_eq!(found["result"]["structuredContent"]["plan"], json!(["m comes"]), "{found}");
}

#[tokio::test]
async fn everybody_else_waits_for_the_answer_and_may_leave_without_hurting_the_task() {
    let tasks = MemTasks::default();
    let router = door(&tasks);
    let worker = async {
        let id = begun(&tasks).await;
        completed(&tasks, &id);
        id
    };
    let (found, id) = tokio::join!(ask(&router, fetches(json!({}), json!({}))), worker);
    let result = &found["result"]["structuredContent"];
    assert_eq!((&result["task"]["id"], &result["result"]), (&json!(id), &json!({"nodes": ["n1"]})), "{found}");

    let (tasks, calls) = (MemTasks::default(), TaskTracker::new());
    let router = door(&tasks);
    let waiting = calls.spawn(async move { call(&router, fetches(json!({}), json!({}))).await.status() });
    let id = begun(&tasks).await;
    waiting.abort();
    assert!(waiting.await.expect_err("it was left").is_cancelled());
    let task = tasks.task(&id).expect("it goes on");
    assert_eq!((task.status.as_str(), task.cancel_asked), ("queued", false));
}

#[tokio::test]
async fn a_key_beside_the_arguments_has_one_effect_and_one_among_them_comes_first() {
    let tasks = MemTasks::default();
    let router = door(&tasks);
    let id = async |params: Value| {
        let found = ask(&router, fetches(takes_tasks(), params)).await;
        found["result"]["taskId"].as_str().map(ToOwned::to_owned).unwrap_or_else(|| panic!("{found}"))
    };
    let beside = |key: &str| json!({"_meta": {"ollamax.dev/idempotency-key": key}});
    let first = id(beside("a")).await;
    assert!(tasks.asked(&first).expect("on record").once.is_some());
    assert_eq!(id(beside("a")).await, first);
    assert_ne!(id(beside("b")).await, first);
    let mut among = beside("b");
    among["arguments"] = json!({"name": "m", "idempotency_key": "a"});
    assert_eq!(id(among).await, first);
    // Null says nothing.
    let mut unsaid = beside("a");
    unsaid["arguments"] = json!({"name": "m", "idempotency_key": null});
    assert_eq!(id(unsaid).await, first);
    // A tool that takes no key is called as it was.
    let params = json!({"name": "counts", "arguments": {"words": "x"}, "_meta": beside("a")["_meta"]});
    let found = ask(&router, asked("tools/call", "counts", json!({}), params)).await;
    assert_eq!(found["result"]["structuredContent"], json!({"words": "x"}), "{found}");
}

#[tokio::test]
async fn a_task_of_somebody_else_is_as_one_that_does_not_exist() {
    let tasks = MemTasks::default();
    tasks.set("task_other", |task| task.subject = "uid/0".to_owned());
    tasks.set("task_own", |task| (task.subject, task.status) = ("loopback".to_owned(), "working".to_owned()));
    let router = door(&tasks);
    let refusal = async |method: &str, id: &str, able: Value| {
        let found = ask(&router, of_task(method, id, able, json!({"inputResponses": {}}))).await;
        (found["error"]["code"].clone(), found["error"]["message"].as_str().unwrap_or_default().replace(id, "ID"))
    };
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let missing = refusal(method, "task_none", takes_tasks()).await;
        assert_eq!(missing.0, json!(-32_602), "{method}: {missing:?}");
        assert_eq!(refusal(method, "task_other", takes_tasks()).await, missing, "{method}");
        assert_eq!(refusal(method, "task_own", json!({})).await.0, json!(-32_021), "{method}");
    }
    assert!(!tasks.task("task_other").expect("there").cancel_asked);
    let found = ask(&router, of_task("tasks/cancel", "task_own", takes_tasks(), json!({}))).await;
    assert_eq!(found["result"]["resultType"], "complete", "{found}");
    assert!(tasks.task("task_own").expect("there").cancel_asked);
    // Middle boxes route by the header.
    let wrong = with(of_task("tasks/get", "task_own", takes_tasks(), json!({})), &[("mcp-name", "task_other")]);
    assert_eq!(ask(&router, wrong).await["error"]["code"], json!(-32_020));
}

#[tokio::test]
async fn what_waits_for_approval_asks_a_client_that_can_be_asked_and_takes_an_answer_from_who_manages_alone() {
    let tasks = MemTasks::default();
    tasks.set("task_own", |task| (task.subject, task.status) = ("loopback".to_owned(), "waiting".to_owned()));
    let router = door(&tasks);
    let asks = json!({"extensions": {EXTENSION: {}}, "elicitation": {}});
    let found = ask(&router, of_task("tasks/get", "task_own", asks.clone(), json!({}))).await;
    assert_eq!(found["result"]["status"], "input_required", "{found}");
    let form = &found["result"]["inputRequests"]["approval"];
    assert_eq!(form["method"], "elicitation/create", "{found}");
    let found = ask(&router, of_task("tasks/get", "task_own", takes_tasks(), json!({}))).await;
    assert_eq!(found["result"]["status"], "working", "{found}");
    let said = found["result"]["statusMessage"].as_str().unwrap_or_default();
    assert!(said.contains("ollamax approve task_own"), "{found}");
    let yes = json!({"approval": {"action": "accept", "content": {"approve": true}}});
    let update = |answer: &Value| of_task("tasks/update", "task_own", asks.clone(), json!({"inputResponses": answer}));
    for (answer, expected) in [(yes.clone(), "forbidden"), (json!({"approval": true}), "")] {
        let found = ask(&router, update(&answer)).await;
        assert_eq!(found["error"]["code"], json!(-32_602), "{found}");
        assert_eq!(found["error"]["data"]["code"].as_str().unwrap_or_default(), expected, "{found}");
    }
    // What was not asked for is acknowledged and passed over.
    for answer in [json!({"other": {"action": "accept"}}), json!({})] {
        let found = ask(&router, update(&answer)).await;
        assert_eq!(found["result"]["resultType"], "complete", "{found}");
    }
    assert_eq!(tasks.task("task_own").expect("there").status, "waiting");
    // So is an answer that comes again.
    tasks.set("task_own", |task| task.status = "queued".to_owned());
    let found = ask(&router, update(&yes)).await;
    assert_eq!(found["result"]["resultType"], "complete", "{found}");
    assert_eq!(tasks.task("task_own").expect("there").status, "queued");
}

/// The next message of a stream.
async fn next(body: &mut Body) -> Option<Value> {
    loop {
        let frame = timeout(Duration::from_secs(10), body.frame()).await.expect("in time")?.expect("whole");
        let data = frame.into_data().expect("data");
        let text = std::str::from_utf8(&data).expect("text");
        if let Some(told) = text.lines().find_map(|line| line.strip_prefix("data:")) {
            return Some(serde_json::from_str(told).expect("JSON"));
        }
    }
}

#[tokio::test]
async fn who_gave_a_token_hears_how_far_its_call_is_before_the_answer() {
    let router = door(&MemTasks::default());
    let params = json!({"name": "counts", "arguments": {"words": "x"}, "_meta": {"progressToken": "t"}});
    let mut body = call(&router, asked("tools/call", "counts", json!({}), params)).await.into_body();
    let mut done = Vec::new();
    let answer = loop {
        let told = next(&mut body).await.expect("an answer comes");
        if told.get("result").is_some() {
            break told;
        }
        let params = &told["params"];
        assert_eq!((&told["method"], &params["progressToken"]), (&json!("notifications/progress"), &json!("t")));
        assert_eq!(params["total"].as_f64(), Some(3.0), "{told}");
        done.push(params["progress"].as_f64().expect("a number"));
    };
    assert_eq!(answer["result"]["structuredContent"], json!({"words": "x"}), "{answer}");
    assert!(done.is_sorted_by(|one, other| one < other) && done.last() == Some(&3.0), "{done:?}");
}

#[tokio::test]
async fn what_is_said_is_heard_whole_however_it_was_cut() {
    let router = door(&MemTasks::default());
    let said = "A quorum is a majority of the voting nodes";
    let params = json!({"name": "says", "arguments": {"words": said}, "_meta": {"progressToken": "t"}});
    let mut body = call(&router, asked("tools/call", "says", json!({}), params)).await.into_body();
    let mut heard = String::new();
    loop {
        let told = next(&mut body).await.expect("an answer comes");
        if told.get("result").is_some() {
            break;
        }
        heard += told["params"]["message"].as_str().expect("words");
    }
    assert_eq!(heard, said);
}

#[tokio::test]
async fn a_page_of_elsewhere_has_no_tasks_looked_for() {
    let tasks = MemTasks::default();
    let router = door(&tasks);
    let listens = || {
        let params = json!({"notifications": {"taskIds": ["task_none"]}});
        asked("subscriptions/listen", "", takes_tasks(), params)
    };
    let refused = call(&router, with(listens(), &[("origin", "https://evil.example")])).await;
    assert_eq!((refused.status().as_u16(), tasks.looks(), tasks.catch_ups()), (403, 0, 0));
    drop(call(&router, listens()).await);
    assert_eq!(tasks.catch_ups(), 1);
}

#[tokio::test]
async fn a_client_that_listens_hears_of_its_tasks_when_they_change_and_gets_an_end_when_the_node_stops() {
    let tasks = MemTasks::default();
    tasks.set("task_own", |task| (task.subject, task.status) = ("loopback".to_owned(), "working".to_owned()));
    tasks.set("task_second", |task| (task.subject, task.status) = ("loopback".to_owned(), "working".to_owned()));
    tasks.set("task_other", |task| task.subject = "uid/0".to_owned());
    let (router, stop) = (door(&tasks), CancellationToken::new());
    // It was begun at another node just now.
    tasks.hide("task_second");
    let params = json!({"notifications": {"taskIds": ["task_other", "task_own", "task_none", "task_second"]}});
    let mut request = asked("subscriptions/listen", "", takes_tasks(), params);
    request.extensions_mut().insert(Stopping(stop.clone()));
    let mut body = call(&router, request).await.into_body();
    let told = next(&mut body).await.expect("it is acknowledged");
    assert_eq!(told["method"], "notifications/subscriptions/acknowledged", "{told}");
    assert_eq!(told["params"]["notifications"]["taskIds"], json!(["task_own", "task_second"]), "{told}");
    assert_eq!(tasks.catch_ups(), 1, "however many are not there");
    let status = |told: &Value, id: &str| {
        assert_eq!(told["method"], "notifications/tasks", "{told}");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], json!(7), "{told}");
        assert_eq!(told["params"]["taskId"], id, "{told}");
        told["params"]["status"].clone()
    };
    assert_eq!(status(&next(&mut body).await.expect("how it stands"), "task_own"), "working");
    assert_eq!(status(&next(&mut body).await.expect("how it stands"), "task_second"), "working");
    // What changes nothing of it is not told.
    tasks.set("task_other", |task| task.done = 3);
    completed(&tasks, "task_own");
    assert_eq!(status(&next(&mut body).await.expect("how it ended"), "task_own"), "completed");
    // What was told to be over is looked at no more, also where somebody has it done again.
    tasks.set("task_own", |task| task.status = "queued".to_owned());
    tasks.set("task_second", |task| task.status = "cancelled".to_owned());
    assert_eq!(status(&next(&mut body).await.expect("how it ended"), "task_second"), "cancelled");
    stop.cancel();
    let end = next(&mut body).await.expect("an end");
    assert_eq!((&end["id"], end["result"].is_object()), (&json!(7), true), "{end}");
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test]
async fn who_names_tasks_to_listen_for_declares_that_it_takes_them() {
    let tasks = MemTasks::default();
    tasks.set("task_own", |task| task.subject = "loopback".to_owned());
    let router = door(&tasks);
    let named = || json!({"notifications": {"taskIds": ["task_own"]}});
    let (status, found) = json_of(call(&router, asked("subscriptions/listen", "", json!({}), named())).await).await;
    let error = &found["error"];
    assert_eq!((status, &error["code"], &found["id"]), (400, &json!(-32_021), &json!(7)), "{found}");
    assert_eq!(error["data"]["requiredCapabilities"], takes_tasks(), "{found}");
    // What the protocol refuses for another reason is told that, and who names none may listen.
    let old = json!({"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": named()});
    let old = with(message(old.to_string()), &[("mcp-protocol-version", "2025-11-25")]);
    assert_eq!(ask(&router, old).await["error"]["code"], -32_601);
    let mut body =
        call(&router, asked("subscriptions/listen", "", json!({}), json!({"notifications": {}}))).await.into_body();
    let told = next(&mut body).await.expect("it is acknowledged");
    assert_eq!(told["method"], "notifications/subscriptions/acknowledged", "{told}");
}

async fn plain(router: &Router, request: Request<Body>) -> (Response<()>, Value) {
    let (head, body) = call(router, local(request)).await.into_parts();
    let bytes = body.collect().await.expect("whole").to_bytes();
    (Response::from_parts(head, ()), serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn over_plain_http_a_task_is_begun_looked_at_and_ended() {
    let tasks = MemTasks::default();
    tasks.set("task_other", |task| task.subject = "uid/0".to_owned());
    let router = door(&tasks);
    let begin = with(post("/tools/fetches", r#"{"name": "m"}"#), &[("prefer", "respond-async")]);
    let (head, found) = plain(&router, begin).await;
    let id = found["task"]["id"].as_str().expect("an id").to_owned();
    let place = head.headers().get("location").and_then(|value| value.to_str().ok());
    assert_eq!((head.status().as_u16(), place), (202, Some(format!("/tasks/{id}").as_str())), "{found}");
    assert_eq!(head.headers()["preference-applied"], "respond-async");
    let (_, listed) = plain(&router, get("/tasks")).await;
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(1), "{listed}");
    let (_, listed) = plain(&router, get("/tasks?status=working")).await;
    assert_eq!(listed["tasks"], json!([]), "{listed}");
    let (head, found) = plain(&router, get(&format!("/tasks/{id}"))).await;
    assert_eq!((head.status().as_u16(), &found["task"]["status"]), (200, &json!("queued")), "{found}");
    tasks.set("task_done", |task| task.subject = "loopback".to_owned());
    completed(&tasks, "task_done");
    let (_, listed) = plain(&router, get("/tasks?status=completed")).await;
    let first = &listed["tasks"][0];
    assert_eq!((&first["id"], &first["result"]), (&json!("task_done"), &Value::Null), "{listed}");
    let (_, page) = plain(&router, get("/tasks?status=over&limit=1&mine=true")).await;
    assert_eq!((&page["tasks"][0]["id"], &page["next_cursor"]), (&json!("task_done"), &Value::Null), "{page}");
    for nonsense in ["status=dead", "limit=many", "mine=perhaps", "cursor=nowhere"] {
        let (head, found) = plain(&router, get(&format!("/tasks?{nonsense}"))).await;
        let code = head.headers()["x-ollamamax-error"].to_str();
        assert_eq!((head.status().as_u16(), code.ok()), (400, Some("bad_request")), "{nonsense}: {found}");
    }
    let (_, found) = plain(&router, get("/tasks/task_done")).await;
    assert_eq!(found["task"]["result"], json!({"nodes": ["n1"]}), "{found}");
    let (head, found) = plain(&router, post(&format!("/tasks/{id}/cancel"), "")).await;
    assert_eq!((head.status().as_u16(), &found["task"]["status"]), (200, &json!("cancelled")), "{found}");
    for request in [get("/tasks/task_other"), get("/tasks/task_none"), post("/tasks/task_other/cancel", "")] {
        let (head, found) = plain(&router, request).await;
        let code = head.headers()["x-ollamamax-error"].to_str();
        assert_eq!((head.status().as_u16(), code.ok()), (404, Some("task_not_found")), "{found}");
    }
    let elsewhere = call(&router, get("/tasks")).await;
    assert_eq!((elsewhere.status().as_u16(), header(&elsewhere, "x-ollamamax-error")), (403, Some("forbidden")));
}

#[tokio::test]
async fn on_the_socket_an_administrator_sees_every_task_and_decides() {
    let tasks = MemTasks::default();
    tasks.set("task_1", |task| (task.subject, task.status) = ("loopback".to_owned(), "waiting".to_owned()));
    let toolbox = toolbox(&tasks, &Registry::new());
    let routes = || Admin::routes_with(Arc::new(House::default()), toolbox.clone());
    let (mut client, mut tools) = (TasksClient::new(routes()), ToolsClient::new(routes()));
    let wanted =
        || CallToolRequest { name: "fetches".to_owned(), arguments_json: r#"{"name": "m"}"#.to_owned(), no_wait: true };
    let begun = tools.call_tool(by_root(wanted())).await.expect("begun").into_inner();
    let begun = begun.task.expect("nobody waits for it");
    assert_eq!((begun.subject.as_str(), begun.tool.as_str(), begun.priority), ("uid/0", "fetches", 5));
    let listed = client.list_tasks(by_root(ListTasksRequest::default())).await.expect("listed").into_inner().tasks;
    assert_eq!(listed.len(), 2, "{listed:?}");
    let first = ListTasksRequest { limit: 1, ..ListTasksRequest::default() };
    let page = client.list_tasks(by_root(first.clone())).await.expect("listed").into_inner();
    let rest = ListTasksRequest { cursor: page.next_cursor.clone(), ..first };
    let rest = client.list_tasks(by_root(rest)).await.expect("listed").into_inner();
    assert_eq!((page.tasks.len(), rest.tasks.len(), rest.next_cursor.as_str()), (1, 1, ""), "{page:?} {rest:?}");
    assert_ne!(page.tasks[0].id, rest.tasks[0].id);
    let mine = ListTasksRequest { mine: true, tool: "fetches".to_owned(), ..ListTasksRequest::default() };
    let mine = client.list_tasks(by_root(mine)).await.expect("listed").into_inner().tasks;
    assert!(mine.len() == 1 && mine[0].id == begun.id, "{mine:?}");
    let waiting = ListTasksRequest { status: "waiting".to_owned(), ..ListTasksRequest::default() };
    let listed = client.list_tasks(by_root(waiting)).await.expect("listed").into_inner().tasks;
    assert!(listed.len() == 1 && listed[0].text.contains("ollamax approve task_1"), "{listed:?}");

    let (id, shown) = ("task_1".to_owned(), |task: Option<TaskView>| task.expect("a task").status);
    let decided = DecideTaskRequest { id: id.clone(), approved: true, attempt: Some(0) };
    let of_before = DecideTaskRequest { attempt: Some(1), ..decided.clone() };
    assert_eq!(code(&client.decide_task(by_root(of_before)).await.expect_err("another one")), "precondition_failed");
    let told = client.decide_task(by_root(decided.clone())).await.expect("decided").into_inner();
    assert_eq!(shown(told.task), "queued");
    let again = client.decide_task(by_root(decided)).await.expect_err("it waits for nobody");
    assert_eq!(code(&again), "precondition_failed");
    let told = client.cancel_task(by_root(CancelTaskRequest { id: id.clone() })).await.expect("ended").into_inner();
    assert_eq!(shown(told.task), "cancelled");
    // What was never begun is not done again: that would go round the approval.
    let retry = || by_root(RetryTaskRequest { id: id.clone() });
    assert_eq!(code(&client.retry_task(retry()).await.expect_err("never begun")), "precondition_failed");
    tasks.set(&id, |task| (task.status, task.attempt) = ("waiting".to_owned(), 0));
    let denied = DecideTaskRequest { id: id.clone(), approved: false, attempt: None };
    let told = client.decide_task(by_root(denied)).await.expect("decided").into_inner();
    assert_eq!(shown(told.task), "cancelled");
    assert_eq!(code(&client.retry_task(retry()).await.expect_err("denied")), "precondition_failed");
    tasks.set(&id, |task| task.attempt = 1);
    let told = client.retry_task(retry()).await.expect("again").into_inner();
    assert_eq!(shown(told.task), "queued");

    // Who waits is answered when it is over.
    let wait = client.get_task(by_root(GetTaskRequest { id: id.clone(), wait_ms: 10_000 }));
    let end = async {
        yield_now().await;
        completed(&tasks, &id);
    };
    let (told, ()) = tokio::join!(wait, end);
    let task = told.expect("there").into_inner().task.expect("a task");
    assert_eq!((task.status.as_str(), task.result_json.as_str()), ("completed", r#"{"nodes":["n1"]}"#));

    let missing = client.get_task(by_root(GetTaskRequest { id: "task_none".to_owned(), wait_ms: 0 })).await;
    assert_eq!(code(&missing.expect_err("there is none")), "task_not_found");
    let nobody = client.list_tasks(ListTasksRequest::default()).await.expect_err("no user");
    assert_eq!(code(&nobody), "forbidden");
}

#[tokio::test]
async fn a_tool_asks_models_as_a_client_of_this_machine_does_once_the_door_is_open() {
    let (slot, world) = (InferenceSlot::default(), with_m());
    let port = inference_port(&slot);
    let trace = Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let caller = Caller { principal: Principal::loopback(), request: Default::default(), trace };
    let chat = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let early = port.ask(&caller, "/api/chat", chat("m"), Progress::nobody()).await.expect_err("not open");
    assert_eq!(early.code, ErrorCode::Draining);

    let parts = world.parts(Config::default());
    let router = router(Parts { tools: Toolbox::default().with_inference(slot), ..parts });
    let pieces = [
        "{\"message\":{\"role\":\"assistant\",\"content\":\"Hel\"},\"done\":false}\n",
        "{\"message\":{\"role\":\"assistant\",\"content\":\"lo\"},\"done\":true}\n",
    ];
    world.nodes[0].runtime.answer_whole(200, "application/x-ndjson", &pieces);
    let (progress, told) = Progress::channel();
    let answer = port.ask(&caller, "/api/chat", chat("m"), progress).await.expect("an answer");
    assert_eq!(answer["message"]["content"], "Hello", "{answer}");
    assert_eq!((told.borrow().done, told.borrow().text.as_str()), (2, "Hello"));
    let sent = world.nodes[0].runtime.requests.lock().expect("not poisoned").last().cloned().expect("it was asked");
    assert_eq!((&sent.id, &sent.trace), (&caller.request, &caller.trace));
    let sent: Value = serde_json::from_slice(&sent.body).expect("JSON");
    assert_eq!(sent["stream"], json!(true), "{sent}");

    let unknown = port.ask(&caller, "/api/chat", chat("nope"), Progress::nobody()).await.expect_err("nobody has it");
    assert_eq!(unknown.code, ErrorCode::ModelNotFound);
    let nowhere = port.ask(&caller, "/api/none", chat("m"), Progress::nobody()).await.expect_err("no such route");
    assert_eq!(nowhere.code, ErrorCode::NotImplemented);
    drop(router);
    let late = port.ask(&caller, "/api/chat", chat("m"), Progress::nobody()).await.expect_err("closed");
    assert_eq!(late.code, ErrorCode::Draining);
}

#[tokio::test]
async fn what_a_listener_has_sent_counts_among_the_bodies_that_a_node_holds_until_it_leaves() {
    let tasks = MemTasks::default();
    tasks.set("task_own", |task| (task.subject, task.status) = ("loopback".to_owned(), "working".to_owned()));
    let parts = with_m().parts(Config { body_memory_bytes_max: 1 << 20, ..Config::default() });
    let door = router(Parts { tools: toolbox(&tasks, &parts.registry), ..parts });
    let params = json!({"_meta": {"padding": "x".repeat(600 << 10)}, "notifications": {"taskIds": ["task_own"]}});
    let listens = || asked("subscriptions/listen", "", takes_tasks(), params.clone());
    let mut body = call(&door, listens()).await.into_body();
    assert_eq!(next(&mut body).await.expect("told")["method"], "notifications/subscriptions/acknowledged");
    let refused = call(&door, listens()).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "x-ollamamax-error")), (503, Some("overloaded")));
    drop(body);
    assert_eq!(call(&door, listens()).await.status(), 200);
}
