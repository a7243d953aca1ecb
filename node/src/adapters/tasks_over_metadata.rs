//! Tasks, as tools and doors see them, over the replicated record: any node answers for all of them.
//!
//! What is read is what this node has applied. What is changed goes to the leader and is acknowledged by a majority;
//! then it is waited for a little until this node shows it too, so that whoever looks here next does not see what was
//! before. A task of a call with a key has its id from that key: the same call, at whichever node, finds it again.

use futures::FutureExt as _;
use tokio::sync::watch;

use ollamax_core::catalog::{Command, Task, TaskState, read};
use ollamax_gateway::grpc::{Admin, By};
use ollamax_security::random_bytes;
use ollamax_tools::ports::{Answer, NewTask, Tasks};
use ollamax_tools::views::{TaskError, TaskView};
use ollamax_tools::{Caller, OnceKey, ToolError};
use ollamax_types::limits::TASK_TEXT_BYTES_MAX;
use ollamax_types::{ErrorCode, NodeId, TaskId, Timestamp};

use crate::adapters::changes_over_admin::by_caller;
use crate::adapters::lab_over_admin::refused;
use crate::slot::{MemberEngines, Slot};

/// The priority of what nobody says a priority of.
const PRIORITY: u8 = 5;

/// Room for how much more there is of a text that is cut.
const MORE_BYTES: usize = 48;

/// The tasks of the cluster, at one node.
#[derive(Debug, Clone)]
pub(crate) struct TasksOverMetadata {
    admin: Admin,
    slot: Slot,
}

// === impl TasksOverMetadata ===

impl TasksOverMetadata {
    pub(crate) const fn new(admin: Admin, slot: Slot) -> Self {
        Self { admin, slot }
    }

    fn engines(&self) -> Result<MemberEngines, ToolError> {
        self.slot.get().ok_or_else(|| refused(self.admin.without_engines()))
    }

    /// Makes a change, and tells how the task stands behind it.
    async fn changed(self, by: By, id: TaskId, command: Command) -> Result<TaskView, ToolError> {
        self.admin.change_by(&by, command).await.map_err(refused)?;
        self.found(id)?.ok_or_else(|| not_seen_yet(id))
    }

    fn found(&self, id: TaskId) -> Result<Option<TaskView>, ToolError> {
        let engines = self.engines()?;
        let task = read::task(&*engines.metadata.view(), &id).map_err(|fault| refused(fault.into()))?;
        Ok(task.map(|task| view(task, &|node| name_of(&engines, node))))
    }

    /// A change of one task that somebody names.
    fn change(&self, by: &Caller, id: &str, command: impl FnOnce(TaskId) -> Command) -> Answer<TaskView> {
        let (tasks, by) = (self.clone(), by_caller(by, None));
        let asked = parse(id).map(|id| (id, command(id)));
        async move {
            let (id, command) = asked?;
            tasks.changed(by, id, command).await
        }
        .boxed()
    }
}

impl Tasks for TasksOverMetadata {
    fn open(&self, by: &Caller, asked: NewTask) -> Answer<TaskView> {
        let tasks = self.clone();
        let (subject, by) = (by.principal.subject().to_string(), by_caller(by, asked.once));
        async move {
            let id = match asked.once {
                Some(once) => id_of(once),
                None => TaskId::draw(random_bytes().map_err(|_| no_chance())?),
            };
            let command = Command::OpenTask {
                id,
                tool: asked.tool.to_owned(),
                arguments_json: asked.arguments.to_string(),
                subject,
                priority: PRIORITY,
                repeatable: asked.repeatable,
                needs_approval: asked.needs_approval,
            };
            tasks.changed(by, id, command).await
        }
        .boxed()
    }

    fn task(&self, id: &str) -> Result<TaskView, ToolError> {
        self.found(parse(id)?)?.ok_or_else(|| unknown(id))
    }

    fn find(&self, id: &str) -> Answer<TaskView> {
        let (tasks, asked, none) = (self.clone(), parse(id), unknown(id));
        async move {
            let id = asked?;
            if let Some(task) = tasks.found(id)? {
                return Ok(task);
            }
            // Another node may have told of it before this one has applied it.
            let engines = tasks.engines()?;
            engines.metadata.read_barrier().await.map_err(|error| refused(error.into()))?;
            tasks.found(id)?.ok_or(none)
        }
        .boxed()
    }

    fn tasks(&self) -> Result<Vec<TaskView>, ToolError> {
        let engines = self.engines()?;
        let tasks = read::tasks(&*engines.metadata.view()).map_err(|fault| refused(fault.into()))?;
        Ok(tasks.into_iter().map(|task| view(task, &|node| name_of(&engines, node))).collect())
    }

    fn cancel(&self, by: &Caller, id: &str) -> Answer<TaskView> {
        self.change(by, id, |id| Command::CancelTask { id })
    }

    fn retry(&self, by: &Caller, id: &str) -> Answer<TaskView> {
        self.change(by, id, |id| Command::RetryTask { id })
    }

    fn decide(&self, by: &Caller, id: &str, approved: bool) -> Answer<TaskView> {
        self.change(by, id, |id| Command::DecideTask { id, approved })
    }

    fn catch_up(&self) -> Answer<()> {
        let engines = self.engines();
        async move {
            let caught_up = engines?.metadata.read_barrier().await;
            caught_up.map(drop).map_err(|error| refused(error.into()))
        }
        .boxed()
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.slot.get()?.metadata.changes())
    }
}

/// The same for the same call, whoever asks which node; nobody who does not know the key can guess it.
fn id_of(once: OnceKey) -> TaskId {
    let mut bytes = [0; 16];
    let halves = once.key.chunks_exact(16).chain(once.digest.chunks_exact(16));
    for half in halves {
        for (byte, part) in bytes.iter_mut().zip(half) {
            *byte ^= part;
        }
    }
    TaskId(bytes)
}

/// Of a text that is no id nothing more can be said than that there is no such task.
fn parse(id: &str) -> Result<TaskId, ToolError> {
    id.parse().map_err(|_| unknown(id))
}

fn unknown(id: &str) -> ToolError {
    ToolError::unknown_task(id, "ollamax task list")
}

fn not_seen_yet(id: TaskId) -> ToolError {
    let message = format!("task {id} is on record, and this node does not show it yet");
    ToolError::new(ErrorCode::OutcomeUnknown, message, format!("ollamax task show {id}"))
}

fn no_chance() -> ToolError {
    ToolError::new(ErrorCode::Internal, "this machine gives no random bytes", "ollamax logs --level error")
}

/// What a node is called.
pub(super) fn name_of(engines: &MemberEngines, node: NodeId) -> String {
    engines.placements.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
}

/// A record in the tools' words.
fn view(task: Task, name_of: &dyn Fn(NodeId) -> String) -> TaskView {
    let status = task.state.as_str().to_owned();
    let mut shown = TaskView {
        id: task.id.to_string(),
        tool: task.tool,
        status,
        node: None,
        attempt: task.attempt,
        priority: task.priority,
        done: task.progress.done,
        total: (task.progress.total != 0).then_some(task.progress.total),
        text: task.progress.text,
        subject: task.subject,
        cancel_asked: task.cancel_asked,
        created_at: moment(task.created_at),
        updated_at: moment(task.updated_at),
        result: None,
        error: None,
    };
    match task.state {
        // What is asked for is what is approved; how, every door says in its own words.
        TaskState::Waiting => shown.text = cut(&format!("{} {}", shown.tool, task.arguments_json)),
        TaskState::Working { node } => shown.node = Some(name_of(node)),
        TaskState::Completed { result_json } => shown.result = serde_json::from_str(&result_json).ok(),
        TaskState::Failed { code, text, next } => {
            shown.error = Some(TaskError { code: code.as_str().to_owned(), message: text, next });
        }
        TaskState::Queued | TaskState::Cancelled => {}
    }
    shown
}

/// As much of a text as a task keeps of one, and how much more there is: whoever approves it sees that it is not all.
fn cut(text: &str) -> String {
    if text.len() <= TASK_TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let (shown, more) = text.split_at(text.floor_char_boundary(TASK_TEXT_BYTES_MAX - MORE_BYTES));
    format!("{shown} ... and {} bytes more", more.len())
}

/// Log time, as RFC 3339 writes it.
pub(super) fn moment(at: Timestamp) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use ollamax_core::catalog::TaskProgress;

    use super::*;

    fn task(state: TaskState) -> Task {
        Task {
            id: TaskId([0xab; 16]),
            tool: "pull_model".to_owned(),
            arguments_json: "{}".to_owned(),
            subject: "uid/7".to_owned(),
            priority: 5,
            repeatable: true,
            needs_approval: false,
            state,
            attempt: 2,
            losses: 0,
            cancel_asked: false,
            progress: TaskProgress { done: 3, total: 0, text: String::new() },
            asked_by: "node/1 for uid/7".to_owned(),
            created_at: Timestamp(0),
            begun_at: Timestamp(0),
            updated_at: Timestamp(1_500),
            due_at: Timestamp(0),
        }
    }

    fn shown(state: TaskState) -> TaskView {
        view(task(state), &|node| format!("n{node}"))
    }

    #[test]
    fn a_record_is_told_in_the_tools_words() {
        let working = shown(TaskState::Working { node: NodeId(2) });
        assert_eq!((working.status.as_str(), working.node.as_deref()), ("working", Some("n2")));
        assert_eq!((working.done, working.total, working.attempt), (3, None, 2));
        assert_eq!(working.created_at, "1970-01-01T00:00:00Z");
        assert_eq!(working.updated_at, "1970-01-01T00:00:01.5Z");
        let waiting = Task { arguments_json: r#"{"model":"m"}"#.to_owned(), ..task(TaskState::Waiting) };
        assert_eq!(view(waiting, &|_| String::new()).text, r#"pull_model {"model":"m"}"#);
        let long = Task { arguments_json: "ä".repeat(400), ..task(TaskState::Waiting) };
        let text = view(long, &|_| String::new()).text;
        assert!(text.len() <= TASK_TEXT_BYTES_MAX, "{text}");
        let (kept, more) = text.split_once(" ... and ").expect("it is told that it is cut");
        assert_eq!(more, format!("{} bytes more", "pull_model ".len() + 800 - kept.len()));
        let completed = shown(TaskState::Completed { result_json: r#"["a"]"#.to_owned() });
        assert_eq!((completed.result, completed.node), (Some(json!(["a"])), None));
        let (text, next) = ("full".to_owned(), "free some".to_owned());
        let failed = shown(TaskState::Failed { code: ErrorCode::DiskFull, text, next });
        assert_eq!(failed.error.map(|error| error.code).as_deref(), Some("disk_full"));
    }

    #[test]
    fn one_call_with_a_key_is_one_task_and_another_call_another() {
        let id = |key: u8, digest: u8| {
            let mut once = OnceKey { key: [0; 32], digest: [0; 32] };
            (once.key[0], once.digest[17]) = (key, digest);
            id_of(once)
        };
        assert_eq!(id(1, 2), id(1, 2));
        for other in [id(1, 3), id(3, 2), id(2, 1)] {
            assert_ne!(id(1, 2), other);
        }
    }

    #[test]
    fn what_is_no_id_is_no_task() {
        for text in ["", "task_", "7", &format!("task_{}", "AB".repeat(16))] {
            assert_eq!(parse(text).map_err(|error| error.code), Err(ErrorCode::TaskNotFound), "{text}");
        }
    }
}
