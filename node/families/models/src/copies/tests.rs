//! What is asked for with copies of models, what is refused, and what is done.

use serde_json::{Value, json};

use ollamax_tools::mem::{MemLab, MemPorts};
use ollamax_tools::views::{Model, TaskView};
use ollamax_tools::{CallError, Caller, Catalogue, Families, Principal, Progress, Started};
use ollamax_types::{ErrorCode, RequestId, TaskId};

use super::*;

fn ports() -> MemPorts {
    let model = Model { name: "m:latest".to_owned(), ..Model::default() };
    MemPorts::of(MemLab { nodes: Some(Vec::new()), models: vec![model], ..MemLab::default() })
}

fn catalogue(ports: &MemPorts) -> Catalogue {
    let all = Catalogue::new(crate::tools(&ports.ports()).expect("declared well"), &Families::All);
    all.expect("names differ").with_tasks(Arc::new(ports.tasks.clone()))
}

fn caller() -> Caller {
    Caller { principal: Principal::of_socket(1), request: RequestId::default(), trace: None }
}

async fn start(ports: &MemPorts, tool: &str, arguments: Value) -> Result<Started, ErrorCode> {
    match catalogue(ports).start(caller(), tool, arguments, Progress::nobody()).await {
        Ok(started) => Ok(started),
        Err(CallError::Failed(error)) => Err(error.code),
        Err(error) => panic!("{error}"),
    }
}

/// What would be done, by its first line.
async fn plan(tool: &str, mut arguments: Value) -> Result<String, ErrorCode> {
    arguments["dry_run"] = json!(true);
    let ports = ports();
    let started = start(&ports, tool, arguments).await?;
    assert_eq!(ports.changes.made(), Vec::<String>::new());
    let Started::Answered(answer) = started else { panic!("{started:?}") };
    Ok(answer["plan"][0].as_str().expect("a line").to_owned())
}

/// What is done with the task that a call opens.
async fn done(tool: &str, arguments: Value, is_cancelled: bool) -> (TaskView, Result<Value, ErrorCode>, Vec<String>) {
    let ports = ports();
    let started = start(&ports, tool, arguments).await;
    let Ok(Started::Task(task)) = started else { panic!("{started:?}") };
    let asked = ports.tasks.asked(&task.id).expect("it was asked for");
    let (progress, cancelled) = (Progress::nobody(), Default::default());
    let work = Work { caller: caller(), task: TaskId([1; 16]), begun: 1, progress, cancelled };
    if is_cancelled {
        work.cancelled.cancel();
    }
    let result = catalogue(&ports).work(work, asked.tool, asked.arguments).await;
    (task, result.map_err(|error| error.code), ports.changes.made())
}

#[tokio::test]
async fn a_pull_goes_to_a_number_of_nodes_to_all_or_to_those_named_and_not_to_two_of_them() {
    let check = async |place: Value, expected: Result<&str, ErrorCode>| {
        let mut arguments = place.clone();
        arguments["name"] = json!("m");
        let expected = expected.map(|line| format!("pull m {line}"));
        assert_eq!(plan("pull_model", arguments.clone()).await, expected, "{place}");
        // What cannot be planned is not put on record either.
        let started = start(&ports(), "pull_model", arguments).await;
        assert_eq!(started.is_err(), expected.is_err(), "{place}");
    };
    check(json!({}), Ok("replicas None all false nodes [] insecure false")).await;
    check(json!({"replicas": 2}), Ok("replicas Some(2) all false nodes [] insecure false")).await;
    check(json!({"all": true, "nodes": []}), Ok("replicas None all true nodes [] insecure false")).await;
    check(json!({"nodes": ["a"], "insecure": true}), Ok(r#"replicas None all false nodes ["a"] insecure true"#)).await;
    for wrong in [
        json!({"replicas": 2, "all": true}),
        json!({"replicas": 2, "nodes": ["a"]}),
        json!({"all": true, "nodes": ["a"]}),
        json!({"replicas": 0}),
        json!({"replicas": 2.0}),
        json!({"nodes": [""]}),
        json!({"nodes": "a"}),
    ] {
        check(wrong, Err(ErrorCode::BadRequest)).await;
    }
}

#[tokio::test]
async fn what_is_placed_is_there_and_it_is_said_where_to() {
    let check = async |arguments: Value, expected: Result<&str, ErrorCode>| {
        let expected = expected.map(str::to_owned);
        assert_eq!(plan("place_model", arguments.clone()).await, expected, "{arguments}");
    };
    let line = "pull m:latest replicas Some(2) all false nodes [] insecure false";
    check(json!({"name": "m:latest", "replicas": 2}), Ok(line)).await;
    check(json!({"name": "m:latest"}), Err(ErrorCode::BadRequest)).await;
    check(json!({"name": "m:latest", "all": false}), Err(ErrorCode::BadRequest)).await;
    check(json!({"name": "m:latest", "all": true, "replicas": 2}), Err(ErrorCode::BadRequest)).await;
    check(json!({"name": "none", "replicas": 2}), Err(ErrorCode::ModelNotFound)).await;
}

#[tokio::test]
async fn a_task_does_what_was_planned() {
    let asked = json!({"name": "m", "nodes": ["a", "b"], "idempotency_key": "k"});
    let (task, result, made) = done("pull_model", asked, false).await;
    assert_eq!((task.status.as_str(), result), ("queued", Ok(json!({"nodes": ["a", "b"]}))));
    assert_eq!(made, [r#"pull m replicas None all false nodes ["a", "b"] insecure false"#]);
    let (_, result, _) = done("place_model", json!({"name": "m:latest", "nodes": ["a"]}), false).await;
    assert_eq!(result, Ok(json!({"nodes": ["a"]})));
    let (_, result, made) = done("place_model", json!({"name": "none", "all": true}), false).await;
    assert_eq!((result, made), (Err(ErrorCode::ModelNotFound), Vec::new()));
    let (_, result, _) = done("pull_model", json!({"name": "m"}), true).await;
    assert_eq!(result, Err(ErrorCode::PullCancelled));
    // What it began is ended, also where no node has the model any more.
    let (_, result, made) = done("place_model", json!({"name": "none", "all": true}), true).await;
    assert_eq!((result, made.len()), (Err(ErrorCode::PullCancelled), 1));
}

#[tokio::test]
async fn deleting_waits_for_a_person_and_can_be_done_twice() {
    let line = "delete m nodes [] force false".to_owned();
    assert_eq!(plan("delete_model", json!({"name": "m"})).await, Ok(line));
    let (task, result, made) = done("delete_model", json!({"name": "m", "nodes": ["a"], "force": true}), false).await;
    assert_eq!((task.status.as_str(), result), ("waiting", Ok(json!({"nodes": ["a"], "bytes": 7}))));
    assert_eq!(made, [r#"delete m nodes ["a"] force true"#]);
    let ports = ports();
    assert!(start(&ports, "delete_model", json!({"name": "m"})).await.is_ok());
    let tools = catalogue(&ports);
    let spec = tools.find("delete_model").expect("it is there").spec();
    assert!(spec.hints.destructive && spec.hints.idempotent && spec.needs_approval);
}
