//! The tasks behind the doors: who may see which, who may do what with one, and how a caller waits for its own.
//!
//! Always: a task that a caller may not see is, to that caller, none. What waits for approval says so in its text, with
//! the command to type.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use ollamax_tools::views::TaskView;
use ollamax_tools::{
    CallError, Caller, Permission, Progress, TASK_WAIT_MAX, Tasks, TasksAsked, ToolError, task, tasklist,
};
use ollamax_types::{ErrorClass, ErrorCode};

use super::Toolbox;

/// Characters of an id that nobody knows, where it is told.
const ID_CHARS_MAX: usize = 64;

/// What a caller wants of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Cancel,
    Retry,
    /// As somebody saw it who was asked; in whichever attempt otherwise.
    Approve(Option<u32>),
    Deny(Option<u32>),
}

// === impl Wish ===

impl Wish {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Approve(_) => "approve",
            Self::Deny(_) => "deny",
        }
    }
}

// === impl Toolbox ===

impl Toolbox {
    /// Whether anything here can take longer than its call.
    pub(crate) const fn has_tasks(&self) -> bool {
        self.tasks.is_some()
    }

    /// Where tasks are on record.
    pub(crate) fn record(&self) -> Option<Arc<dyn Tasks>> {
        self.tasks.clone()
    }

    /// Ticks when a task may have changed; `None` where there are none.
    pub(crate) fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.tasks.as_ref()?.changes()
    }

    /// A task, as this node shows it.
    ///
    /// # Errors
    /// When there is none of this id that the caller may see, or the state cannot be read.
    pub(crate) fn task(&self, caller: &Caller, id: &str) -> Result<TaskView, ToolError> {
        Self::seen(caller, id, self.port(id)?.task(id))
    }

    /// A task, also where this node does not show it yet, since another one may have begun it just now.
    ///
    /// # Errors
    /// As [`Self::task`]; and of a task that this node does not show, when no leader is heard, or the caller has asked
    /// for such ones too often.
    pub(crate) async fn find_task(&self, caller: &Caller, id: &str) -> Result<TaskView, ToolError> {
        let port = self.port(id)?;
        let found = match port.task(id) {
            Err(error) if error.code == ErrorCode::TaskNotFound => {
                self.catalogue.admit_look(&caller.principal)?;
                task::find(&**port, id).await
            }
            found => found,
        };
        Self::seen(caller, id, found)
    }

    /// Waits until this node shows what is on record by now, as often as the caller may have it wait.
    ///
    /// # Errors
    /// As those of [`Self::find_task`] for a task that this node does not show.
    pub(crate) async fn catch_up(&self, caller: &Caller) -> Result<(), ToolError> {
        let Some(port) = &self.tasks else { return Ok(()) };
        self.catalogue.admit_look(&caller.principal)?;
        port.catch_up().await
    }

    fn seen(caller: &Caller, id: &str, found: Result<TaskView, ToolError>) -> Result<TaskView, ToolError> {
        match found {
            Ok(task) if task.is_seen_by(&caller.principal) => Ok(told(task)),
            Ok(_) => Err(unknown(id)),
            Err(error) if error.code.class() == ErrorClass::NotFound => Err(unknown(id)),
            Err(error) => Err(error),
        }
    }

    /// A page of the tasks that the caller asks for and may see, the newest first and without results, and the cursor
    /// of the next page where there is one.
    ///
    /// # Errors
    /// As [`tasklist::list`].
    pub(crate) fn tasks(
        &self,
        caller: &Caller,
        asked: &TasksAsked,
    ) -> Result<(Vec<TaskView>, Option<String>), ToolError> {
        let Some(port) = &self.tasks else { return Ok((Vec::new(), None)) };
        let (found, next) = tasklist::list(&**port, &caller.principal, asked)?;
        Ok((found.into_iter().map(told).collect(), next))
    }

    /// Ends a task, or asks the node that works at it to.
    ///
    /// # Errors
    /// As [`Self::task`], and when the change cannot be made.
    pub(crate) async fn cancel_task(&self, caller: &Caller, id: &str) -> Result<TaskView, ToolError> {
        self.wish(caller, id, Wish::Cancel).await
    }

    /// Puts a task that failed or was cancelled in the queue again.
    ///
    /// # Errors
    /// As [`Self::cancel_task`], and when the caller may not begin tasks.
    pub(crate) async fn retry_task(&self, caller: &Caller, id: &str) -> Result<TaskView, ToolError> {
        self.wish(caller, id, Wish::Retry).await
    }

    /// Says yes or no to a task that waits for it; with an attempt, only while it is the one in which it was shown.
    ///
    /// # Errors
    /// As [`Self::cancel_task`], and when the caller may not begin tasks.
    pub(crate) async fn decide_task(
        &self,
        caller: &Caller,
        id: &str,
        yes: bool,
        attempt: Option<u32>,
    ) -> Result<TaskView, ToolError> {
        self.wish(caller, id, if yes { Wish::Approve(attempt) } else { Wish::Deny(attempt) }).await
    }

    async fn wish(&self, caller: &Caller, id: &str, wish: Wish) -> Result<TaskView, ToolError> {
        let answer = self.try_wish(caller, id, wish).await;
        tracing::info!(
            request_id = caller.request.0,
            principal = caller.principal.subject().to_string(),
            task = id.chars().take(ID_CHARS_MAX).collect::<String>(),
            wish = wish.as_str(),
            code = answer.as_ref().err().map(|error| error.code.as_str()),
            "was asked to change a task"
        );
        answer
    }

    async fn try_wish(&self, caller: &Caller, id: &str, wish: Wish) -> Result<TaskView, ToolError> {
        self.find_task(caller, id).await?;
        if wish != Wish::Cancel && !caller.principal.may(Permission::Manage) {
            let message = format!("to {} a task needs the permission {}", wish.as_str(), Permission::Manage);
            return Err(ToolError::new(ErrorCode::Forbidden, message, next_of_an_administrator(id, wish)));
        }
        let port = self.port(id)?;
        let asked = match wish {
            Wish::Cancel => port.cancel(caller, id),
            Wish::Retry => port.retry(caller, id, self.foreseen_again(caller, id).await?),
            Wish::Approve(attempt) => port.decide(caller, id, true, attempt),
            Wish::Deny(attempt) => port.decide(caller, id, false, attempt),
        };
        asked.await.map(told)
    }

    /// What a task would do if it were done again, where somebody has to agree to that: nobody is asked for what would
    /// be refused.
    async fn foreseen_again(&self, caller: &Caller, id: &str) -> Result<Vec<String>, ToolError> {
        let port = self.port(id)?;
        // A node that is behind takes one that is over for one that is not.
        port.catch_up().await?;
        let task = port.task(id)?;
        // Whatever else stands there is not done again, and its record says why.
        if !matches!(task.status.as_str(), "failed" | "cancelled") || task.attempt == 0 {
            return Ok(Vec::new());
        }
        let arguments = port.arguments(id)?;
        if !self.catalogue.needs_approval(&task.tool, &arguments) {
            return Ok(Vec::new());
        }
        match self.catalogue.foresee(caller, &task.tool, &arguments).await {
            Err(CallError::Failed(error)) => Err(error),
            // Another release took it: whoever agrees reads what it was asked for with.
            Err(CallError::UnknownTool(_)) => Ok(Vec::new()),
            Ok(plan) => Ok(plan),
        }
    }

    /// The answer of a call that began a task: what came of it once it is over; else, when the call has waited long
    /// enough or somebody has to approve the task first, how it stands.
    pub(super) async fn waited(&self, task: TaskView, progress: &Progress) -> Result<Value, ToolError> {
        let task = self.catalogue.wait(task, progress, TASK_WAIT_MAX).await;
        self.catalogue.answer(&told(task))
    }

    /// The answer of a call whose caller was asked before its task was opened: no, or what comes of it. Who comes again
    /// with the same answer hears the same.
    pub(super) async fn decided(
        &self,
        caller: &Caller,
        task: TaskView,
        yes: bool,
        progress: &Progress,
    ) -> Result<Value, ToolError> {
        // One that waits again, as somebody has it done again, is another question.
        let is_asked = task.is_waiting() && task.attempt == 0;
        let task = if is_asked { self.decide_once(caller, task, yes).await? } else { task };
        if yes {
            return self.waited(task, progress).await;
        }
        Err(denied(&task))
    }

    /// Another node may have been told the answer at the same time: what is on record then counts.
    async fn decide_once(&self, caller: &Caller, task: TaskView, yes: bool) -> Result<TaskView, ToolError> {
        match self.decide_task(caller, &task.id, yes, Some(task.attempt)).await {
            Ok(task) => Ok(task),
            Err(error) => {
                // Where no majority can be asked, what this node has is told.
                drop(self.port(&task.id)?.catch_up().await);
                let found = self.task(caller, &task.id)?;
                if found.is_waiting() { Err(error) } else { Ok(found) }
            }
        }
    }

    /// A task, when it is over, waits for somebody, or the time is.
    ///
    /// # Errors
    /// As [`Self::task`].
    pub(crate) async fn task_within(&self, caller: &Caller, id: &str, time: Duration) -> Result<TaskView, ToolError> {
        let task = self.find_task(caller, id).await?;
        Ok(told(self.catalogue.wait(task, &Progress::nobody(), time.min(TASK_WAIT_MAX)).await))
    }

    fn port(&self, id: &str) -> Result<&Arc<dyn Tasks>, ToolError> {
        self.tasks.as_ref().ok_or_else(|| unknown(id))
    }
}

/// With the command to type where it waits for somebody.
pub(super) fn told(task: TaskView) -> TaskView {
    let how = format!("ollamax approve {}", task.id);
    if !task.is_waiting() || task.text.contains(&how) {
        return task;
    }
    let waits = waits(&task);
    let text = if task.text.is_empty() { waits } else { format!("{}; {waits}", task.text) };
    TaskView { text, ..task }
}

/// What a task says of itself, without the command: whoever is asked there and then types none.
pub(crate) fn what_it_does(task: &TaskView) -> &str {
    match task.text.strip_suffix(waits(task).as_str()) {
        Some(text) => text.strip_suffix("; ").unwrap_or(text),
        None => &task.text,
    }
}

fn waits(task: &TaskView) -> String {
    format!("waits for approval: ollamax approve {}", task.id)
}

fn unknown(id: &str) -> ToolError {
    ToolError::unknown_task(id, "ollamax task list")
}

fn next_of_an_administrator(id: &str, wish: Wish) -> String {
    let command = match wish {
        Wish::Cancel => "task cancel",
        Wish::Retry => "task retry",
        Wish::Approve(_) | Wish::Deny(_) => "approve",
    };
    let id: String = id.chars().take(ID_CHARS_MAX).collect();
    format!("an administrator does this on a node: ollamax {command} {id}")
}

/// What whoever said no hears of the task.
fn denied(task: &TaskView) -> ToolError {
    let (id, status) = (&task.id, &task.status);
    // What was cancelled before it began was denied, whoever did it.
    let (message, next) = if status == "cancelled" && task.attempt == 0 {
        let message = format!("it was not approved, and nothing was done; task {id} is cancelled");
        (message, "to be asked again, call the tool again, with another idempotency_key if it had one".to_owned())
    } else {
        let what = if task.is_over() { "show" } else { "cancel" };
        let message = format!("the question had the answer yes before; task {id} is {status}");
        (message, format!("ollamax task {what} {id}"))
    };
    ToolError::new(ErrorCode::PreconditionFailed, message, next)
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use ollamax_tools::mem::MemTasks;
    use ollamax_tools::{Call, Catalogue, Families, Foreseen, Hints, Principal, Spec, Started, Tool, Work};

    use super::*;

    #[test]
    fn who_says_no_to_what_is_over_is_not_told_to_cancel_it() {
        let check = |status: &str, attempt: u32, next: &str| {
            let (id, status) = ("task_1".to_owned(), status.to_owned());
            let told = denied(&TaskView { id, status, attempt, ..TaskView::default() });
            assert!(told.next.starts_with(next), "{told:?}");
        };
        check("cancelled", 0, "to be asked again");
        check("queued", 0, "ollamax task cancel task_1");
        check("working", 1, "ollamax task cancel task_1");
        check("completed", 1, "ollamax task show task_1");
        check("cancelled", 1, "ollamax task show task_1");
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        name: String,
        dry_run: Option<bool>,
        idempotency_key: Option<String>,
    }

    /// A tool that somebody must agree to, which is refused while this is so.
    fn drops(is_pinned: Arc<AtomicBool>) -> Tool {
        let hints = Hints { destructive: true, ..Hints::CHANGE };
        let (name, title, description, family) = ("drops", "Drops", "Drops it.", "tests");
        let spec = Spec { name, title, description, family, hints, needs_approval: true, ..Spec::TASK };
        let plan = move |_: &Call, asked: &Asked| {
            let refused = || ToolError::new(ErrorCode::PreconditionFailed, "it is pinned", "unpin it");
            let refusal = is_pinned.load(Ordering::Relaxed).then(refused);
            ready(Ok::<_, ToolError>(Foreseen { lines: vec![format!("{} goes", asked.name)], refusal })).boxed()
        };
        let work = |_: Work, asked: Asked| ready(Ok::<_, ToolError>(asked)).boxed();
        Tool::work(spec, plan, work).expect("declared well")
    }

    fn caller(principal: Principal) -> Caller {
        Caller { principal, request: Default::default(), trace: None }
    }

    #[test]
    fn what_waits_says_once_which_command_lets_it_go_on() {
        let check = |status: &str, text: &str, expected: &str| {
            let (id, status) = ("task_1".to_owned(), status.to_owned());
            let task = TaskView { id, status, text: text.to_owned(), ..TaskView::default() };
            let once = told(task);
            assert_eq!(once.text, expected);
            let twice = told(once);
            assert_eq!((twice.text.as_str(), what_it_does(&twice)), (expected, text));
        };
        check("waiting", "", "waits for approval: ollamax approve task_1");
        check("waiting", "m goes from n2", "m goes from n2; waits for approval: ollamax approve task_1");
        check("queued", "", "");
        check("working", "half", "half");
    }

    #[tokio::test]
    async fn a_task_that_another_node_has_begun_just_now_is_found() {
        let (tasks, own) = (MemTasks::default(), caller(Principal::of_socket(0)));
        tasks.set("task_1", |task| task.status = "queued".to_owned());
        tasks.hide("task_1");
        let toolbox = Toolbox { tasks: Some(Arc::new(tasks.clone())), ..Toolbox::default() };
        assert!(toolbox.task(&own, "task_1").is_err());
        assert_eq!(toolbox.find_task(&own, "task_1").await.expect("found").id, "task_1");
        tasks.hide("task_1");
        assert_eq!(toolbox.cancel_task(&own, "task_1").await.expect("found").status, "cancelled");
        let none = toolbox.find_task(&own, "task_2").await.expect_err("none");
        assert_eq!(none.code, ErrorCode::TaskNotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_for_tasks_that_are_not_there_asks_the_others_no_more_and_hears_of_those_that_are() {
        let (tasks, own, other) = (MemTasks::default(), caller(Principal::loopback()), caller(Principal::of_socket(0)));
        tasks.set("task_1", |task| task.subject = "loopback".to_owned());
        let toolbox = Toolbox { tasks: Some(Arc::new(tasks.clone())), ..Toolbox::default() };
        let code =
            async |of: &Caller, id: &str| toolbox.find_task(of, id).await.map(|_| ()).map_err(|error| error.code);
        let mut asked = 0;
        while code(&own, "task_none").await == Err(ErrorCode::TaskNotFound) {
            asked += 1;
            assert_eq!(tasks.catch_ups(), asked);
            assert!(asked < 100_000, "without end");
        }
        assert_eq!(code(&own, "task_none").await, Err(ErrorCode::Overloaded));
        let cancelled = toolbox.cancel_task(&own, "task_none").await.expect_err("too often");
        assert_eq!((cancelled.code, cancelled.retry_after.is_some()), (ErrorCode::Overloaded, true));
        assert_eq!(toolbox.catch_up(&own).await.expect_err("too often").code, ErrorCode::Overloaded);
        assert_eq!(tasks.catch_ups(), asked);
        assert_eq!(code(&own, "task_1").await, Ok(()));
        assert_eq!(code(&other, "task_none").await, Err(ErrorCode::TaskNotFound), "nobody else is hurt");
    }

    #[tokio::test]
    async fn what_is_done_again_is_foreseen_again() {
        let (tasks, own, is_pinned) = (MemTasks::default(), caller(Principal::of_socket(0)), Arc::default());
        let all = Catalogue::new(vec![drops(Arc::clone(&is_pinned))], &Families::All).expect("one");
        let catalogue = Arc::new(all.with_tasks(Arc::new(tasks.clone())));
        let toolbox = Toolbox { catalogue, tasks: Some(Arc::new(tasks.clone())), ..Toolbox::default() };
        let started = toolbox.start(own.clone(), "drops", json!({"name": "m"}), Progress::nobody()).await;
        let Ok(Started::Task(task)) = started else { panic!("{started:?}") };
        assert_eq!(task.plan, ["m goes"]);
        tasks.set(&task.id, |task| (task.status, task.attempt, task.plan) = ("failed".to_owned(), 1, Vec::new()));
        is_pinned.store(true, Ordering::Relaxed);
        // This node has not seen yet that it failed.
        tasks.lag(&task.id, |task| task.status = "working".to_owned());
        let refused = toolbox.retry_task(&own, &task.id).await.expect_err("it would be refused");
        assert_eq!(refused.message, "it is pinned");
        is_pinned.store(false, Ordering::Relaxed);
        assert_eq!(toolbox.retry_task(&own, &task.id).await.expect("again").plan, ["m goes"]);
        // Of what is not over its record says why it is not done again.
        is_pinned.store(true, Ordering::Relaxed);
        let stands = toolbox.retry_task(&own, &task.id).await.expect_err("it is queued");
        assert!(stands.message.contains("neither failed nor was cancelled"), "{stands}");
    }

    #[tokio::test]
    async fn an_answer_counts_for_its_question_and_not_when_the_task_is_done_again() {
        let (tasks, own) = (MemTasks::default(), caller(Principal::of_socket(0)));
        let all = Catalogue::new(vec![drops(Arc::default())], &Families::All).expect("one");
        let catalogue = Arc::new(all.with_tasks(Arc::new(tasks.clone())));
        let toolbox = Toolbox { catalogue, tasks: Some(Arc::new(tasks.clone())), ..Toolbox::default() };
        let started = toolbox.start(own.clone(), "drops", json!({"name": "m"}), Progress::nobody()).await;
        let Ok(Started::Task(task)) = started else { panic!("{started:?}") };
        tasks.set(&task.id, |task| task.attempt = 1);
        let again = toolbox.task(&own, &task.id).expect("it waits");
        let answer = toolbox.decided(&own, again.clone(), true, &Progress::nobody()).await.expect("it stands");
        assert_eq!(answer["task"]["status"], "waiting", "{answer}");
        let refused = toolbox.decided(&own, again, false, &Progress::nobody()).await.expect_err("it had an answer");
        assert!(refused.message.contains("had the answer yes before"), "{refused}");
        assert!(toolbox.task(&own, &task.id).expect("it waits still").is_waiting());
    }

    #[test]
    fn a_node_without_tasks_has_none_of_any_id() {
        let toolbox = Toolbox::default();
        let found = toolbox.task(&caller(Principal::of_socket(0)), &"x".repeat(5_000)).expect_err("none");
        assert_eq!(found.code.class(), ErrorClass::NotFound);
        assert!(found.message.len() < 100, "{found}");
        let listed = toolbox.tasks(&caller(Principal::of_socket(0)), &TasksAsked::default());
        assert_eq!(listed, Ok((Vec::new(), None)));
    }
}
