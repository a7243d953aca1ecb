//! What a caller hears of a task: waiting for it, and its answer in the end.
//!
//! Always: a call that waited and a task that is asked for later give the same answer. Waiting costs nothing while
//! nothing is changed, and ends with the node's own word where it cannot hear of changes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use ollamax_types::ErrorCode;
use ollamax_types::limits::TASK_PLAN_BYTES_MAX;

use crate::error::ToolError;
use crate::ports::Tasks;
use crate::progress::Progress;
use crate::views::{TaskError, TaskView, lines_more};

/// Room for how many more lines there are of a plan that is cut.
const MORE_BYTES: usize = 48;
/// Least time between two looks of one that waits: a busy cluster changes more often than anybody reads.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// One task, also where this node does not show it yet: whoever has it from another node finds it here.
///
/// # Errors
/// When there is none of this id, the state cannot be read, or no leader is heard of a task that is not shown here.
pub async fn find(tasks: &dyn Tasks, id: &str) -> Result<TaskView, ToolError> {
    match tasks.task(id) {
        // Another node may have told of it before this one has applied it.
        Err(error) if error.code == ErrorCode::TaskNotFound => {
            tasks.catch_up().await?;
            tasks.task(id)
        }
        found => found,
    }
}

/// Waits until a task is over, for so long at most, and answers how it stands then. Tells how far it is.
pub async fn wait(tasks: &dyn Tasks, task: TaskView, progress: &Progress, up_to: Duration) -> TaskView {
    let (mut task, until) = (task, Instant::now() + up_to);
    let Some(mut changes) = tasks.changes() else { return task };
    loop {
        // What is changed after this line is heard of below, what was before is read here.
        changes.mark_unchanged();
        match tasks.task(&task.id) {
            Ok(found) => task = found,
            Err(_) => return task,
        }
        progress.tell(task.done, task.total, task.text.as_str());
        let changed = async {
            sleep(LOOK_PAUSE).await;
            changes.changed().await
        };
        if task.is_over() || !matches!(timeout_at(until, changed).await, Ok(Ok(()))) {
            return task;
        }
    }
}

/// What a tool answers that works in a task; its schema is [`crate::views::Done`]'s.
pub(crate) fn done(
    task: Option<&TaskView>,
    plan: Option<&[String]>,
    result: Option<&Value>,
    next: Option<&str>,
) -> Value {
    // What came of it stands beside it.
    let task = task.map(|task| TaskView { result: None, ..task.clone() });
    json!({"task": task, "plan": plan, "result": result, "next": next})
}

/// As much of a plan as a task keeps of one, and how many lines more there are: whoever agrees sees that it is not all.
pub(crate) fn kept(mut plan: Vec<String>) -> Vec<String> {
    // A line is one on record too, and moves nothing where it is shown.
    for line in &mut plan {
        *line = line.replace(char::is_control, " ");
    }
    let sized = |lines: &[String]| lines.iter().map(|line| line.len() + 1).sum::<usize>();
    if sized(&plan) <= TASK_PLAN_BYTES_MAX {
        return plan;
    }
    let whole = plan.len();
    while sized(&plan) > TASK_PLAN_BYTES_MAX - MORE_BYTES {
        plan.pop();
    }
    plan.push(lines_more(whole - plan.len()));
    plan
}

/// The answer of a task that is over.
pub(crate) fn finished(task: &TaskView) -> Option<Result<Value, ToolError>> {
    match task.status.as_str() {
        "completed" => Some(Ok(done(Some(task), None, task.result.as_ref(), None))),
        "failed" => Some(Err(failed(task))),
        "cancelled" => Some(Err(cancelled(task))),
        _ => None,
    }
}

fn failed(task: &TaskView) -> ToolError {
    let TaskError { code, message, next } = task.error.clone().unwrap_or_default();
    // A member of a newer release may have a code that is not known here.
    let code = ErrorCode::from_text(&code).unwrap_or(ErrorCode::Internal);
    let message = if message.is_empty() { format!("task {} failed", task.id) } else { message };
    ToolError::new(code, message, next)
}

/// One that was never begun has changed nothing; of another, what it had done by then stays done.
fn cancelled(task: &TaskView) -> ToolError {
    let code = if task.attempt == 0 { ErrorCode::PreconditionFailed } else { ErrorCode::OutcomeUnknown };
    let why = if task.text.is_empty() { String::new() } else { format!(": {}", task.text) };
    ToolError::new(code, format!("task {} was cancelled{why}", task.id), format!("ollamax task retry {}", task.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemTasks;
    use crate::ports::NewTask;
    use crate::principal::{Caller, Principal};

    async fn opened(tasks: &MemTasks) -> TaskView {
        let caller = Caller { principal: Principal::of_socket(1), request: Default::default(), trace: None };
        let (arguments, plan) = (json!({}), Vec::new());
        let (priority, repeatable, needs_approval, once) = (5, true, false, None);
        let asked = NewTask { tool: "pull", arguments, priority, repeatable, needs_approval, plan, once };
        tasks.open(&caller, asked).await.expect("opened")
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_how_far_it_is_and_when_it_is_over() {
        let tasks = MemTasks::default();
        let task = opened(&tasks).await;
        let (progress, mut told) = Progress::channel();
        let waiting = wait(&tasks, task.clone(), &progress, Duration::from_secs(45));
        let working = async {
            tasks.set(&task.id, |task| (task.status, task.done, task.total) = ("working".to_owned(), 3, Some(9)));
            told.wait_for(|step| (step.done, step.total) == (3, Some(9))).await.expect("it is told");
            tasks.set(&task.id, |task| task.status = "completed".to_owned());
        };
        let (task, ()) = tokio::join!(waiting, working);
        assert_eq!((task.status.as_str(), task.done), ("completed", 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_cluster_costs_whoever_waits_no_more_than_a_look_in_a_while() {
        let tasks = MemTasks::default();
        let task = opened(&tasks).await;
        let nobody = Progress::nobody();
        let waiting = wait(&tasks, task.clone(), &nobody, Duration::from_secs(45));
        let busy = async {
            for _ in 0..1_000 {
                tasks.set("task_other", |task| task.done += 1);
                sleep(Duration::from_millis(1)).await;
            }
            tasks.set(&task.id, |task| task.status = "completed".to_owned());
        };
        let (task, ()) = tokio::join!(waiting, busy);
        assert_eq!(task.status, "completed");
        assert!(tasks.looks() <= 12, "{} looks", tasks.looks());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_its_time_and_with_a_task_that_is_gone() {
        let tasks = MemTasks::default();
        let (task, started_at) = (opened(&tasks).await, Instant::now());
        assert_eq!(wait(&tasks, task.clone(), &Progress::nobody(), Duration::from_secs(45)).await, task);
        let waited = started_at.elapsed();
        assert!(waited >= Duration::from_secs(45), "{waited:?}");
        let gone = TaskView { id: "task_gone".to_owned(), ..task };
        assert_eq!(wait(&tasks, gone.clone(), &Progress::nobody(), Duration::from_secs(45)).await, gone);
        assert_eq!(started_at.elapsed(), waited);
    }

    #[test]
    fn a_plan_is_kept_whole_or_says_how_much_more_there_is() {
        let lines = |count: usize| vec!["x".repeat(63); count];
        assert_eq!(kept(lines(64)), lines(64));
        assert_eq!(kept(vec!["a\nb".to_owned(), "\u{1b}[2Kc".to_owned()]), ["a b", " [2Kc"]);
        let cut = kept(lines(100));
        let (more, shown) = cut.split_last().expect("lines");
        assert_eq!(more, &format!("... and {} lines more", 100 - shown.len()));
        assert!(!shown.is_empty() && cut.join("\n").len() <= TASK_PLAN_BYTES_MAX, "{}", cut.len());
        assert_eq!(kept(vec!["x".repeat(TASK_PLAN_BYTES_MAX)]), ["... and 1 line more"]);
    }

    #[test]
    fn what_is_over_has_an_answer_and_nothing_else_has() {
        let task = |status: &str, attempt| TaskView {
            id: "task_1".to_owned(),
            status: status.to_owned(),
            attempt,
            result: Some(json!({"nodes": ["a"]})),
            ..TaskView::default()
        };
        for status in ["waiting", "queued", "working"] {
            assert_eq!(finished(&task(status, 1)), None, "{status}");
        }
        let completed = finished(&task("completed", 1)).expect("it is over").expect("it is completed");
        assert_eq!(completed["result"], json!({"nodes": ["a"]}));
        assert_eq!((&completed["task"]["result"], &completed["task"]["id"]), (&Value::Null, &json!("task_1")));
        let code = |task: &TaskView| finished(task).expect("it is over").expect_err("it did not complete").code;
        assert_eq!(code(&task("cancelled", 0)), ErrorCode::PreconditionFailed);
        assert_eq!(code(&task("cancelled", 1)), ErrorCode::OutcomeUnknown);
        let failed = |code: &str| {
            let error =
                TaskError { code: code.to_owned(), message: "no room".to_owned(), next: "make some".to_owned() };
            TaskView { error: Some(error), ..task("failed", 1) }
        };
        assert_eq!(code(&failed("disk_full")), ErrorCode::DiskFull);
        assert_eq!(code(&failed("of_another_release")), ErrorCode::Internal);
        assert_eq!(code(&task("failed", 1)), ErrorCode::Internal);
    }
}
