//! The tasks of tools on the administrator's socket, for `ollamax task` and `ollamax approve`.
//!
//! Handlers only translate. Who opened the socket manages, and so sees every task.

use std::time::Duration;

use tonic::Request;

use ollamax_proto::v1;
use ollamax_proto::v1::tasks_server;
use ollamax_tools::views::{TaskError, TaskView};
use ollamax_tools::{TasksAsked, ToolError};

use super::daemon::AdminError;
use super::tools::{self, caller_of};
use super::{Reply, reply};
use crate::toolbox::Toolbox;

/// What shows the tasks there are.
const LIST: &str = "ollamax task list";

/// The tasks, at the socket of one node.
#[derive(Clone)]
pub(super) struct Tasks(pub(super) Toolbox);

/// As the API tells it.
pub(super) fn view(task: TaskView) -> v1::TaskView {
    let TaskView { id, tool, status, node, attempt, priority, done, total, text, subject, cancel_asked, .. } = task;
    v1::TaskView {
        id,
        tool,
        status,
        node,
        attempt,
        priority: u32::from(priority),
        done,
        total,
        text,
        subject,
        cancel_asked,
        created_at: task.created_at,
        updated_at: task.updated_at,
        result_json: task.result.map(|result| result.to_string()).unwrap_or_default(),
        plan: task.plan,
        error: task.error.map(|TaskError { code, message, next }| v1::TaskProblem { code, message, next }),
    }
}

fn asked(request: v1::ListTasksRequest) -> TasksAsked {
    let v1::ListTasksRequest { status, tool, mine, limit, cursor } = request;
    let limit = Some(limit).filter(|limit| *limit > 0);
    TasksAsked { status: Some(status), tool: Some(tool), mine, limit, cursor: Some(cursor) }
}

fn shown(task: TaskView) -> Option<v1::TaskView> {
    Some(view(task))
}

fn refused(error: ToolError) -> AdminError {
    tools::told(error, LIST)
}

#[tonic::async_trait]
impl tasks_server::Tasks for Tasks {
    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Reply<v1::ListTasksReply> {
        let caller = match caller_of(&request) {
            Ok(caller) => caller,
            Err(error) => return reply(Err(error)),
        };
        let listed = self.0.tasks(&caller, &asked(request.into_inner())).map_err(refused);
        reply(listed.map(|(tasks, next)| v1::ListTasksReply {
            tasks: tasks.into_iter().map(view).collect(),
            next_cursor: next.unwrap_or_default(),
        }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Reply<v1::GetTaskReply> {
        let caller = caller_of(&request)?;
        let v1::GetTaskRequest { id, wait_ms } = request.into_inner();
        let found = self.0.task_within(&caller, &id, Duration::from_millis(u64::from(wait_ms))).await;
        reply(found.map(|task| v1::GetTaskReply { task: shown(task) }).map_err(refused))
    }

    async fn cancel_task(&self, request: Request<v1::CancelTaskRequest>) -> Reply<v1::CancelTaskReply> {
        let caller = caller_of(&request)?;
        let ended = self.0.cancel_task(&caller, &request.into_inner().id).await;
        reply(ended.map(|task| v1::CancelTaskReply { task: shown(task) }).map_err(refused))
    }

    async fn retry_task(&self, request: Request<v1::RetryTaskRequest>) -> Reply<v1::RetryTaskReply> {
        let caller = caller_of(&request)?;
        let queued = self.0.retry_task(&caller, &request.into_inner().id).await;
        reply(queued.map(|task| v1::RetryTaskReply { task: shown(task) }).map_err(refused))
    }

    async fn decide_task(&self, request: Request<v1::DecideTaskRequest>) -> Reply<v1::DecideTaskReply> {
        let caller = caller_of(&request)?;
        let v1::DecideTaskRequest { id, approved, attempt } = request.into_inner();
        let decided = self.0.decide_task(&caller, &id, approved, attempt).await;
        reply(decided.map(|task| v1::DecideTaskReply { task: shown(task) }).map_err(refused))
    }
}
