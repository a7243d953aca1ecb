//! Long work: what there is of it, how far it is, and ending it.
//!
//! Always: whoever may not manage the cluster sees the tasks that it asked for itself; others are not there for it.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_tools::views::TaskView;
use ollamax_tools::{
    Call, DeclarationError, Example, Idempotency, Limits, Principal, Spec, TASK_WAIT_MAX, Tasks, Tool, ToolError, task,
    tasklist,
};

use crate::cluster::FAMILY;

const LIST_TASKS: Spec = Spec {
    name: "list_tasks",
    title: "List tasks",
    description: "Lists long work, such as pulls, newest first: where it stands and how far it is.",
    family: FAMILY,
    examples: &[
        Example { title: "All tasks", arguments: "{}" },
        Example { title: "What is not over?", arguments: r#"{"status": "open"}"# },
    ],
    ..Spec::READ
};

const GET_TASK: Spec = Spec {
    name: "get_task",
    title: "Get a task",
    description: "Tells how far a task is and what came of it. With wait_seconds it answers when the task is over, or \
                  when so many seconds have passed.",
    // Longer than anybody waits.
    limits: Limits { timeout: Duration::from_secs(60), ..Limits::READ },
    examples: &[Example {
        title: "Wait for one",
        arguments: r#"{"id": "task_00000000000000000000000000000001", "wait_seconds": 45}"#,
    }],
    ..LIST_TASKS
};

const CANCEL_TASK: Spec = Spec {
    name: "cancel_task",
    title: "Cancel a task",
    description: "Ends a task. What it has done by then stays done.",
    family: FAMILY,
    idempotency: Idempotency::Natural,
    examples: &[Example { title: "One task", arguments: r#"{"id": "task_00000000000000000000000000000001"}"# }],
    ..Spec::CHANGE
};

// Which tasks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TasksAsked {
    status: Option<Status>,
    /// Those of this tool alone.
    #[schemars(length(max = 128))]
    tool: Option<String>,
    /// Your own alone, also where you see all.
    mine: Option<bool>,
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
    /// The next_cursor of the page before.
    #[schemars(length(max = 128))]
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Waiting,
    Queued,
    Working,
    Completed,
    Failed,
    Cancelled,
    Open,
    Over,
}

// Tasks, and where the next page begins.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// The newest first, without results.
    tasks: Vec<TaskView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

// Which task, and how long to wait for its end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaskAsked {
    #[schemars(length(min = 1, max = 64))]
    id: String,
    #[schemars(range(min = 0, max = 45))]
    wait_seconds: Option<u32>,
}

// Which task.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelAsked {
    #[schemars(length(min = 1, max = 64))]
    id: String,
}

// A task, and what to do about it.
#[derive(Debug, Serialize, JsonSchema)]
struct Told {
    /// The task.
    task: TaskView,
    /// What to do about it as it stands.
    next: Option<String>,
}

// A task that was to end.
#[derive(Debug, Serialize, JsonSchema)]
struct Ended {
    /// Its id.
    id: String,
    /// Where it stands: one that is worked at ends a moment later.
    status: String,
    /// It was told to end.
    cancel_asked: bool,
}

/// The tools of the family that are about tasks.
pub(crate) fn tools(tasks: &Arc<dyn Tasks>) -> Result<Vec<Tool>, DeclarationError> {
    let (all, one, ended) = (Arc::clone(tasks), Arc::clone(tasks), Arc::clone(tasks));
    Ok(vec![
        Tool::new(LIST_TASKS, move |call: Call, asked: TasksAsked| {
            ready(list(&*all, &call.caller.principal, asked)).boxed()
        })?,
        Tool::new(GET_TASK, move |call: Call, asked: TaskAsked| get(Arc::clone(&one), call, asked).boxed())?,
        Tool::new(CANCEL_TASK, move |call: Call, asked: CancelAsked| cancel(Arc::clone(&ended), call, asked).boxed())?,
    ])
}

// === impl Status ===

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Working => "working",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Open => "open",
            Self::Over => "over",
        }
    }
}

fn list(tasks: &dyn Tasks, principal: &Principal, asked: TasksAsked) -> Result<Listed, ToolError> {
    let TasksAsked { status, tool, mine, limit, cursor } = asked;
    let status = status.map(|status| status.as_str().to_owned());
    let asked = ollamax_tools::TasksAsked { status, tool, mine: mine.unwrap_or(false), limit, cursor };
    let (tasks, next_cursor) = tasklist::list(tasks, principal, &asked)?;
    Ok(Listed { tasks, next_cursor })
}

async fn get(tasks: Arc<dyn Tasks>, call: Call, asked: TaskAsked) -> Result<Told, ToolError> {
    let found = seen(&*tasks, &call, &asked.id).await?;
    let up_to = Duration::from_secs(asked.wait_seconds.unwrap_or(0).into()).min(TASK_WAIT_MAX);
    let task = if up_to.is_zero() { found } else { task::wait(&*tasks, found, &call.progress, up_to).await };
    Ok(Told { next: task.next(), task })
}

async fn cancel(tasks: Arc<dyn Tasks>, call: Call, asked: CancelAsked) -> Result<Ended, ToolError> {
    seen(&*tasks, &call, &asked.id).await?;
    let TaskView { id, status, cancel_asked, .. } = tasks.cancel(&call.caller, &asked.id).await?;
    Ok(Ended { id, status, cancel_asked })
}

/// A task that the caller may know of.
async fn seen(tasks: &dyn Tasks, call: &Call, id: &str) -> Result<TaskView, ToolError> {
    let found = task::find(tasks, id).await?;
    if found.is_seen_by(&call.caller.principal) {
        return Ok(found);
    }
    // The same as where there is none.
    Err(ToolError::unknown_task(id, "list_tasks"))
}

#[cfg(test)]
mod tests;
