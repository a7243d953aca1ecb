//! Tasks, as tools and doors see them, over the replicated record: any node answers for all of them.
//!
//! What is read is what this node has applied. What is changed goes to the leader and is acknowledged by a majority;
//! then it is waited for a little until this node shows it too, so that whoever looks here next does not see what was
//! before. A task of a call with a key has its id from that key: the same call, at whichever node, finds it again.

use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::watch;

use ollamax_core::catalog::{Command, Task, TaskState, read};
use ollamax_gateway::grpc::{Admin, By};
use ollamax_security::random_bytes;
use ollamax_tools::ports::{Answer, NewTask, Tasks};
use ollamax_tools::views::{TaskError, TaskView};
use ollamax_tools::{Caller, ToolError};
use ollamax_types::limits::TASK_TEXT_BYTES_MAX;
use ollamax_types::{ErrorCode, NodeId, TaskId, Timestamp};

use crate::adapters::changes_over_admin::by_caller;
use crate::adapters::lab_over_admin::refused;
use crate::slot::{MemberEngines, Slot};

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
                Some(once) => once.task(),
                None => TaskId::draw(random_bytes().map_err(|_| no_chance())?),
            };
            let command = Command::OpenTask {
                id,
                tool: asked.tool.to_owned(),
                arguments_json: asked.arguments.to_string(),
                subject,
                priority: asked.priority,
                repeatable: asked.repeatable,
                needs_approval: asked.needs_approval,
                plan: asked.plan.join("\n"),
            };
            tasks.changed(by, id, command).await
        }
        .boxed()
    }

    fn task(&self, id: &str) -> Result<TaskView, ToolError> {
        self.found(parse(id)?)?.ok_or_else(|| unknown(id))
    }

    fn each(&self, open_alone: bool, tell: &mut dyn FnMut(TaskView)) -> Result<(), ToolError> {
        let engines = self.engines()?;
        let state = engines.metadata.view();
        let mut show = |task: Task| tell(view(without_result(task), &|node| name_of(&engines, node)));
        let shown =
            if open_alone { read::each_open_task(&*state, &mut show) } else { read::each_task(&*state, &mut show) };
        shown.map_err(|fault| refused(fault.into()))
    }

    fn cancel(&self, by: &Caller, id: &str) -> Answer<TaskView> {
        self.change(by, id, |id| Command::CancelTask { id })
    }

    fn arguments(&self, id: &str) -> Result<Value, ToolError> {
        let engines = self.engines()?;
        let task = read::task(&*engines.metadata.view(), &parse(id)?).map_err(|fault| refused(fault.into()))?;
        let task = task.ok_or_else(|| unknown(id))?;
        serde_json::from_str(&task.arguments_json).map_err(|_| not_understood(id))
    }

    fn retry(&self, by: &Caller, id: &str, plan: Vec<String>) -> Answer<TaskView> {
        self.change(by, id, |id| Command::RetryTask { id, plan: plan.join("\n") })
    }

    fn decide(&self, by: &Caller, id: &str, approved: bool, attempt: Option<u32>) -> Answer<TaskView> {
        self.change(by, id, |id| Command::DecideTask { id, approved, attempt })
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

fn not_understood(id: &str) -> ToolError {
    let message = format!("what task {id} was asked for with is no JSON");
    ToolError::new(ErrorCode::Internal, message, "this is a defect of the program: please report it")
}

fn no_chance() -> ToolError {
    ToolError::new(ErrorCode::Internal, "this machine gives no random bytes", "ollamax logs --level error")
}

/// What a node is called.
pub(super) fn name_of(engines: &MemberEngines, node: NodeId) -> String {
    engines.placements.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
}

/// As a list has it: what came of a task may be large.
fn without_result(mut task: Task) -> Task {
    if let TaskState::Completed { result_json } = &mut task.state {
        result_json.clear();
    }
    task
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
        plan: task.plan.lines().map(ToOwned::to_owned).collect(),
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
            plan: String::new(),
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
        let (arguments_json, plan) = (r#"{"model":"m"}"#.to_owned(), "m goes\nand n".to_owned());
        let waiting = view(Task { arguments_json, plan, ..task(TaskState::Waiting) }, &|_| String::new());
        assert_eq!(waiting.text, r#"pull_model {"model":"m"}"#);
        assert_eq!((waiting.plan, working.plan), (vec!["m goes".to_owned(), "and n".to_owned()], Vec::new()));
        let long = Task { arguments_json: "ä".repeat(400), ..task(TaskState::Waiting) };
        let text = view(long, &|_| String::new()).text;
        assert!(text.len() <= TASK_TEXT_BYTES_MAX, "{text}");
        let (kept, more) = text.split_once(" ... and ").expect("it is told that it is cut");
        assert_eq!(more, format!("{} bytes more", "pull_model ".len() + 800 - kept.len()));
        let completed = shown(TaskState::Completed { result_json: r#"["a"]"#.to_owned() });
        assert_eq!((completed.result, completed.node), (Some(json!(["a"])), None));
        let listed = without_result(task(TaskState::Completed { result_json: r#"["a"]"#.to_owned() }));
        assert_eq!((listed.state.as_str(), view(listed, &|_| String::new()).result), ("completed", None));
        let (text, next) = ("full".to_owned(), "free some".to_owned());
        let failed = shown(TaskState::Failed { code: ErrorCode::DiskFull, text, next });
        assert_eq!(failed.error.map(|error| error.code).as_deref(), Some("disk_full"));
    }

    #[test]
    fn what_is_no_id_is_no_task() {
        for text in ["", "task_", "7", &format!("task_{}", "AB".repeat(16))] {
            assert_eq!(parse(text).map_err(|error| error.code), Err(ErrorCode::TaskNotFound), "{text}");
        }
    }
}
