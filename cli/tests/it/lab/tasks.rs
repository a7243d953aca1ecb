//! The tasks of the scripted cluster: one of each kind that a page shows.

use ollamax_proto::v1::{CallToolReply, ListTasksReply, TaskProblem, TaskView};

/// A tool answered at once.
pub(crate) fn answered(result_json: &str) -> CallToolReply {
    CallToolReply { result_json: result_json.to_owned(), task: None }
}

/// The only page, the newest first.
pub(crate) fn listed() -> ListTasksReply {
    ListTasksReply { tasks: vec![waiting(), working(), failed()], next_cursor: String::new() }
}

fn task(number: u8, tool: &str, status: &str) -> TaskView {
    TaskView {
        id: format!("task_{number:032x}"),
        tool: tool.to_owned(),
        status: status.to_owned(),
        priority: 5,
        subject: "uid/0".to_owned(),
        created_at: "2026-01-02T03:04:05Z".to_owned(),
        updated_at: "2026-01-02T03:05:05Z".to_owned(),
        ..TaskView::default()
    }
}

pub(crate) fn queued() -> TaskView {
    task(1, "pull_model", "queued")
}

pub(crate) fn working() -> TaskView {
    TaskView {
        node: Some("n2".to_owned()),
        attempt: 1,
        done: 500_000,
        total: Some(2_000_000),
        text: "n2 fetches llama3.2".to_owned(),
        ..task(2, "pull_model", "working")
    }
}

/// It is working, and somebody wants it to end.
pub(crate) fn ending() -> TaskView {
    TaskView { cancel_asked: true, ..working() }
}

pub(crate) fn completed() -> TaskView {
    TaskView {
        status: "completed".to_owned(),
        done: 2_000_000,
        text: String::new(),
        result_json: r#"{"nodes":["n1","n2"]}"#.to_owned(),
        ..working()
    }
}

pub(crate) fn waiting() -> TaskView {
    let text = "delete_model {}; waits for approval: ollamax approve task_00000000000000000000000000000003".to_owned();
    let plan = ["n1", "n2"].map(|node| format!("demo goes from {node}: 2.0 GB, 4 B of it become free"));
    TaskView { text, plan: plan.into(), ..task(3, "delete_model", "waiting") }
}

pub(crate) fn failed() -> TaskView {
    let error = TaskProblem {
        code: "model_not_found".to_owned(),
        message: "the registry has no model nope".to_owned(),
        next: "look at the name".to_owned(),
    };
    TaskView { error: Some(error), attempt: 5, node: Some("n3".to_owned()), ..task(4, "pull_model", "failed") }
}
