//! Long work and changes of tools, whoever dies: a task outlives the node that works at it, one call with a key is one
//! change, and what must be approved waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use ollamax_proto::v1;
use ollamax_testkit::http::send_over_socket;
use ollamax_testkit::{Cluster, FakeRegistry, wait};

use crate::model_owners::{PATIENCE, make_it_lead};
use crate::pull_from_a_registry::{blob, model, pulled};
use crate::spread::{FEW_BYTES, WEIGHTS_BYTES, events, is_everywhere, start};

/// A lease that runs out, an election, and a pull.
const RECOVERY: Duration = Duration::from_secs(60);
/// A node that does not work at a task answers for it as fast as for anything else.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Changes that are made while a leader is killed again and again, an even number, and most kills meanwhile. In the
/// long form there are more.
const CHANGES: (usize, usize) = (200, 5);
const CHANGES_IN_SOAK: (usize, usize) = (1_000, 40);
/// The revision of MCP in which clients carry a state.
const REVISION: &str = "2026-07-28";

/// What a node answers an assistant that can ask its user, takes no tasks, and wants `delete_model` of it.
async fn assisted(cluster: &Cluster, index: usize, asked: &Value, back: &Value) -> Result<Value> {
    let mut params = json!({"name": "delete_model", "arguments": asked, "_meta": {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }});
    for (key, value) in back.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let request = Request::post("/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", REVISION)
        .header("mcp-method", "tools/call")
        .header("mcp-name", "delete_model")
        .body(Bytes::from(message.to_string()))
        .context("build the request")?;
    let socket = cluster.node(index).data_dir().join("admin.sock");
    let (_, answer) = send_over_socket(&socket, request).await?;
    serde_json::from_str(&answer).with_context(|| answer)
}

/// Waits until a node shows a task in one of these states.
async fn stands(cluster: &Cluster, index: usize, id: &str, status: &str, deadline: Duration) -> Result<v1::TaskView> {
    let tools = cluster.node(index).tools()?;
    wait::until(&format!("the task to be {status}"), deadline, || async {
        let task = tools.task(id).await?;
        ensure!(task.status == status, "it is {}: {task:?}", task.status);
        anyhow::Ok(task)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_the_node_that_works_at_it() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(151, WEIGHTS_BYTES);
    registry.push("durable", &model);
    let cluster = start("tasks-owner", &registry).await?;
    make_it_lead(&cluster, 0).await?;
    let hold = registry.hold_after(model.weights.sha256(), WEIGHTS_BYTES / 2);

    let asked = json!({"name": "durable", "nodes": ["n1", "n3"]});
    let task = cluster.node(1).tools()?.begin("pull_model", &asked).await?;
    let working = stands(&cluster, 1, &task.id, "working", PATIENCE).await?;
    ensure!(working.node.as_deref() == Some("n2") && working.attempt == 1, "{working:?}");
    timeout(PATIENCE, hold.reached()).await.context("the pull to be in its midst")?;
    cluster.kill(&[1]).await?;

    let asked_at = Instant::now();
    let seen = cluster.node(2).tools()?.task(&task.id).await?;
    ensure!(asked_at.elapsed() < AT_ONCE, "it took {:?}", asked_at.elapsed());
    ensure!(["working", "queued"].contains(&seen.status.as_str()), "{seen:?}");
    hold.release();
    let done = stands(&cluster, 2, &task.id, "completed", RECOVERY).await?;
    ensure!(done.attempt == 2, "another node has begun it again: {done:?}");
    ensure!(done.result_json.contains("n1") && done.result_json.contains("n3"), "{done:?}");
    is_everywhere(&cluster, &[0, 2], &model).await?;

    cluster.restart(&[1]).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_began_is_not_asked_for_again_once_people_ended_it_and_ends_with_its_task() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let models = [("by-hand", model(155, WEIGHTS_BYTES)), ("by-task", model(156, WEIGHTS_BYTES))];
    let mut holds = Vec::new();
    for (name, model) in &models {
        registry.push(name, model);
        holds.push(registry.hold_after(model.weights.sha256(), WEIGHTS_BYTES / 2));
    }
    let cluster = start("tasks-ended", &registry).await?;
    make_it_lead(&cluster, 0).await?;
    let mut tasks = Vec::new();
    for (name, _) in &models {
        let asked = json!({"name": name, "nodes": ["n1", "n3"]});
        let task = cluster.node(1).tools()?.begin("pull_model", &asked).await?;
        let working = stands(&cluster, 1, &task.id, "working", PATIENCE).await?;
        ensure!(working.node.as_deref() == Some("n2"), "{working:?}");
        tasks.push(task.id);
    }
    wait::until("both to be asked for", PATIENCE, || async {
        let asked = events(&cluster, 2, "model_asked").await?;
        ensure!(asked.len() == 2, "{asked:?}");
        anyhow::Ok(())
    })
    .await?;
    cluster.kill(&[1]).await?;

    let told = cluster.node(0).ollamax(&["model", "pull", "by-hand", "--cancel"], PATIENCE).await?;
    ensure!(told.status.success(), "{told:?}");
    cluster.node(2).tools()?.call("cancel_task", &json!({"id": tasks[1]})).await?;
    let failed = stands(&cluster, 2, &tasks[0], "failed", RECOVERY).await?;
    let code = failed.error.as_ref().map(|error| error.code.as_str());
    ensure!(failed.attempt == 2 && code == Some("pull_cancelled"), "{failed:?}");
    let cancelled = stands(&cluster, 2, &tasks[1], "cancelled", RECOVERY).await?;
    ensure!(cancelled.attempt == 2 && cancelled.text.contains("was ended"), "{cancelled:?}");
    let (asked, forgotten) = (events(&cluster, 2, "model_asked").await?, events(&cluster, 2, "wish_forgotten").await?);
    ensure!((asked.len(), forgotten.len()) == (2, 2), "{asked:?} {forgotten:?}");

    for hold in &holds {
        hold.release();
    }
    cluster.restart(&[1]).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_with_a_key_is_one_task_and_one_wish_at_whichever_node() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(152, FEW_BYTES);
    registry.push("twice", &model);
    let cluster = start("tasks-twice", &registry).await?;
    let (one, other) = (cluster.node(0).tools()?, cluster.node(2).tools()?);

    let asked = json!({"name": "twice", "nodes": ["n1", "n3"], "idempotency_key": "k-1"});
    let (first, second) = tokio::try_join!(one.begin("pull_model", &asked), other.begin("pull_model", &asked))?;
    ensure!(first.id == second.id, "{first:?} {second:?}");
    stands(&cluster, 1, &first.id, "completed", PATIENCE).await?;
    let again = other.begin("pull_model", &asked).await?;
    ensure!(again.id == first.id && again.status == "completed", "{again:?}");
    let (tasks, asked_for) = (one.tasks().await?, events(&cluster, 1, "model_asked").await?);
    ensure!(tasks.len() == 1 && asked_for.len() == 1, "{tasks:?} {asked_for:?}");

    let others = json!({"name": "twice", "nodes": ["n1"], "idempotency_key": "k-1"});
    let refused = one.begin("pull_model", &others).await.expect_err("another call under the same key");
    ensure!(refused.message.contains("key"), "{refused}");
    is_everywhere(&cluster, &[0, 2], &model).await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_waits_until_somebody_approves_it_at_any_node() -> Result<()> {
    let _turn = crate::turn().await;
    let registry = FakeRegistry::start().await?;
    let model = model(153, FEW_BYTES);
    registry.push("unloved", &model);
    let cluster = start("tasks-approval", &registry).await?;
    pulled(&cluster.pull(0, "unloved", &["--node", "n1"]).await?)?;
    cluster.model_known("unloved", 1, PATIENCE).await?;
    let file = blob(&cluster.node(0).store(), model.weights.sha256());

    // Nobody is asked for what cannot be done.
    for asked in [json!({"name": "unloved"}), json!({"name": "unknown"}), json!({"name": "unloved", "nodes": ["n9"]})] {
        let refused = cluster.node(1).tools()?.begin("delete_model", &asked).await;
        ensure!(refused.is_err(), "{asked}: {refused:?}");
    }
    ensure!(!cluster.node(0).tools()?.tasks().await?.iter().any(|task| task.tool == "delete_model"), "nobody is asked");
    let asked = json!({"name": "unloved", "force": true});
    let denied = cluster.node(1).tools()?.begin("delete_model", &asked).await?;
    ensure!(denied.status == "waiting", "{denied:?}");
    ensure!(denied.plan.iter().any(|line| line.contains("goes from n1")), "{denied:?}");
    cluster.node(2).tools()?.decide(&denied.id, false).await?;
    stands(&cluster, 0, &denied.id, "cancelled", PATIENCE).await?;
    ensure!(file.exists(), "nobody approved it");

    // Asked at one node, answered at another one, and once: the keys that seal the question are the cluster's.
    let state = wait::until("the question", PATIENCE, || async {
        let found = assisted(&cluster, 1, &asked, &Value::Null).await?;
        found["result"]["requestState"].as_str().map(ToOwned::to_owned).with_context(|| format!("asked: {found}"))
    })
    .await?;
    let back = |state: &str, action: &str| {
        let said = json!({"action": action, "content": {"approve": true}});
        json!({"requestState": state, "inputResponses": {"approval": said}})
    };
    let found = assisted(&cluster, 2, &asked, &back(&format!("{state}A"), "accept")).await?;
    ensure!(found["error"]["code"] == -32_602, "{found}");
    for (index, action, expected) in [(2, "decline", "it was not approved"), (0, "accept", "was cancelled")] {
        let found = assisted(&cluster, index, &asked, &back(&state, action)).await?;
        let text = found["result"]["content"][0]["text"].as_str().unwrap_or_default();
        ensure!(found["result"]["isError"] == true && text.contains(expected), "{index} {action}: {found}");
    }
    ensure!(file.exists(), "nobody approved it");

    let task = cluster.node(1).tools()?.begin("delete_model", &asked).await?;
    ensure!(task.status == "waiting" && task.id != denied.id, "{task:?}");
    cluster.node(2).tools()?.decide(&task.id, true).await?;
    stands(&cluster, 0, &task.id, "completed", PATIENCE).await?;
    wait::until("nobody to have it", PATIENCE, || async {
        for node in cluster.nodes() {
            let models = node.admin()?.models("").await?;
            ensure!(models.iter().all(|model| model.name != "unloved:latest"), "{} knows it", node.name());
        }
        anyhow::Ok(())
    })
    .await?;
    cluster.converged(PATIENCE).await?;
    cluster.finish().await
}

/// Makes one change at one of the nodes that stay, and again with the same key until it is acknowledged.
async fn change(cluster: &Cluster, number: usize) -> Result<()> {
    let tools = cluster.node(1 + number % 2).tools()?;
    let key = format!("change-{number}");
    let asked = json!({"name": "kept", "pinned": number.is_multiple_of(2), "idempotency_key": key});
    wait::until(&format!("change {number}"), RECOVERY, || tools.call("pin_model", &asked)).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_with_keys_are_made_once_each_while_the_leader_is_killed() -> Result<()> {
    let _turn = crate::turn().await;
    let (count, kills_max) = if crate::soak() { CHANGES_IN_SOAK } else { CHANGES };
    let registry = FakeRegistry::start().await?;
    registry.push("kept", &model(154, FEW_BYTES));
    let cluster = start("tasks-once", &registry).await?;
    pulled(&cluster.pull(2, "kept", &["--node", "n3"]).await?)?;
    cluster.model_known("kept", 1, PATIENCE).await?;

    let is_over = AtomicBool::new(false);
    let changes = async {
        let mut made = Ok(());
        for number in 0..count {
            made = change(&cluster, number).await;
            // The one before comes once more: if that had effect again, it would undo this one, and be an event more.
            if made.is_ok() && number > 0 {
                made = change(&cluster, number - 1).await;
            }
            if made.is_err() {
                break;
            }
        }
        is_over.store(true, Ordering::SeqCst);
        made
    };
    let kills = async {
        let mut killed = 0;
        while !is_over.load(Ordering::SeqCst) && killed < kills_max {
            // The nodes that are asked stay, so that they know all that happened.
            wait::until("it to lead", PATIENCE, || make_it_lead(&cluster, 0)).await?;
            cluster.kill(&[0]).await?;
            cluster.leader_among(&[1, 2], PATIENCE).await.context("the next one")?;
            cluster.restart(&[0]).await?;
            cluster.settled(PATIENCE).await?;
            killed += 1;
        }
        ensure!(killed > 0, "nobody was killed");
        anyhow::Ok(())
    };
    tokio::try_join!(changes, kills)?;
    cluster.converged(PATIENCE).await?;
    for index in [1, 2] {
        let (pinned, unpinned) = (
            events(&cluster, index, "model_pinned").await?.len(),
            events(&cluster, index, "model_unpinned").await?.len(),
        );
        ensure!((pinned, unpinned) == (count / 2, count / 2), "pinned {pinned} times, unpinned {unpinned} times");
    }
    cluster.finish().await
}
