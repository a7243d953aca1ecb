//! What callers see of tasks, and whose.

use serde_json::{Value, json};

use ollamax_tools::mem::MemPorts;
use ollamax_tools::{CallError, Caller, Catalogue, Families};
use ollamax_types::ErrorCode;

use super::*;

/// Three tasks: the first two were asked for by user 1, the last by nobody in particular.
fn ports() -> MemPorts {
    let ports = MemPorts::default();
    let set = |id: &str, status: &str, subject: &str, second: u32| {
        ports.tasks.set(id, |task| {
            (task.status, task.subject) = (status.to_owned(), subject.to_owned());
            task.created_at = format!("1970-01-01T00:00:0{second}Z");
            task.result = Some(json!({"bytes": 7}));
        });
    };
    set("task_b", "working", "uid/1", 1);
    set("task_a", "completed", "uid/1", 2);
    set("task_c", "queued", "loopback", 2);
    ports
}

fn catalogue(ports: &MemPorts) -> Catalogue {
    Catalogue::new(crate::tools(&ports.ports()).expect("declared well"), &Families::All).expect("names differ")
}

async fn call(ports: &MemPorts, by: Principal, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
    let caller = Caller { principal: by, request: Default::default(), trace: None };
    match catalogue(ports).call(caller, tool, arguments).await {
        Ok(value) => Ok(value),
        Err(CallError::Failed(error)) => Err(error.code),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn tasks_are_listed_newest_first_by_status_and_page_and_only_ones_own() {
    let ports = ports();
    let ids = async |by: Principal, arguments: Value| {
        let value = call(&ports, by, "list_tasks", arguments).await.expect("listed");
        let rows = value["tasks"].as_array().expect("a list").clone();
        assert!(rows.iter().all(|row| row["result"].is_null()), "{rows:?}");
        let ids: Vec<String> = rows.iter().filter_map(|row| Some(row["id"].as_str()?.to_owned())).collect();
        (ids, value["next_cursor"].clone())
    };
    let admin = || Principal::of_socket(1);
    assert_eq!(ids(admin(), json!({})).await.0, ["task_a", "task_c", "task_b"]);
    assert_eq!(ids(admin(), json!({"status": "working"})).await.0, ["task_b"]);
    assert_eq!(ids(admin(), json!({"status": "open"})).await.0, ["task_c", "task_b"]);
    assert_eq!(ids(admin(), json!({"status": "open", "mine": true})).await.0, ["task_b"]);
    assert_eq!(ids(admin(), json!({"tool": "pull_model"})).await.0, Vec::<String>::new());
    assert_eq!(ids(Principal::loopback(), json!({})).await.0, ["task_c"]);
    let (first, cursor) = ids(admin(), json!({"limit": 2})).await;
    assert_eq!((first, cursor.is_string()), (vec!["task_a".to_owned(), "task_c".to_owned()], true));
    assert_eq!(ids(admin(), json!({"limit": 2, "cursor": cursor})).await, (vec!["task_b".to_owned()], Value::Null));
    let wrong = call(&ports, admin(), "list_tasks", json!({"cursor": "no place"})).await;
    assert_eq!(wrong, Err(ErrorCode::BadRequest));
}

#[tokio::test(start_paused = true)]
async fn a_task_is_told_at_once_or_when_it_is_over() {
    let ports = ports();
    let get = |arguments: Value| call(&ports, Principal::of_socket(1), "get_task", arguments);
    let now = get(json!({"id": "task_b"})).await.expect("it is there");
    assert_eq!((&now["task"]["status"], now["next"].is_string()), (&json!("working"), true));
    let over = get(json!({"id": "task_a", "wait_seconds": 45})).await.expect("it is there");
    assert_eq!((&over["task"]["result"], &over["next"]), (&json!({"bytes": 7}), &Value::Null));
    let ends = async { ports.tasks.set("task_b", |task| task.status = "completed".to_owned()) };
    let (waited, ()) = tokio::join!(get(json!({"id": "task_b", "wait_seconds": 45})), ends);
    assert_eq!(waited.expect("it is there")["task"]["status"], "completed");
    let started_at = tokio::time::Instant::now();
    let standing = get(json!({"id": "task_c", "wait_seconds": 9})).await.expect("it is there");
    assert_eq!(standing["task"]["status"], "queued");
    let waited = started_at.elapsed();
    assert!(waited >= Duration::from_secs(9) && waited < Duration::from_secs(10), "{waited:?}");
}

#[tokio::test]
async fn other_peoples_tasks_are_as_if_they_were_not_there() {
    let ports = ports();
    for id in ["task_a", "task_none"] {
        let found = call(&ports, Principal::loopback(), "get_task", json!({"id": id})).await;
        assert_eq!(found, Err(ErrorCode::TaskNotFound), "{id}");
    }
    let own = call(&ports, Principal::loopback(), "get_task", json!({"id": "task_c"})).await.expect("it is there");
    assert_eq!(own["task"]["id"], "task_c");
}

#[tokio::test]
async fn a_task_is_told_to_end_by_who_manages() {
    let ports = ports();
    let cancel = |by: Principal, id: &str| call(&ports, by, "cancel_task", json!({"id": id}));
    let ended = cancel(Principal::of_socket(1), "task_c").await;
    assert_eq!(ended, Ok(json!({"id": "task_c", "status": "cancelled", "cancel_asked": false})));
    let ends = cancel(Principal::of_socket(1), "task_b").await;
    assert_eq!(ends, Ok(json!({"id": "task_b", "status": "working", "cancel_asked": true})));
    let over = cancel(Principal::of_socket(1), "task_a").await.expect("it stays as it is");
    assert_eq!(over["status"], "completed");
    assert_eq!(cancel(Principal::of_socket(1), "task_none").await, Err(ErrorCode::TaskNotFound));
    assert_eq!(cancel(Principal::loopback(), "task_c").await, Err(ErrorCode::Forbidden));
}
