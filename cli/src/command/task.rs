//! `ollamax task` and `ollamax approve`: what tools do that takes longer than a call.
//!
//! A task is on record in the cluster, and every node answers for it. This command shows, waits and decides; it may
//! leave at any time. A wait ends at a task that waits for somebody's approval: nothing else would end it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use ollamax_proto::v1::{
    CancelTaskRequest, DecideTaskRequest, GetTaskRequest, ListTasksRequest, RetryTaskRequest, TaskProblem, TaskView,
};
use ollamax_types::ErrorCode;

use crate::args::{ApproveArgs, Global, ListTasksArgs, Output, ShowTaskArgs, TaskCommand};
use crate::error::Failure;
use crate::{client, consent, output, text};

/// How long the daemon may wait for news with one answer.
const LOOK_MS: u32 = 1_000;
/// Least time between two looks, should it not wait.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a task that was heard of is waited for while its daemon is away.
const AWAY_MAX: Duration = Duration::from_secs(30);
/// What is typed to agree.
const CONSENT: &str = "approve";
/// Tasks that are asked for at once.
const PAGE: u32 = 200;
/// What is drawn while it is waited for.
const ROW: &str = "{spinner} {msg}";

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: TaskCommand) -> Result<(), Failure> {
    match command {
        TaskCommand::List(args) => list(global, args).await,
        TaskCommand::Show(ShowTaskArgs { id, wait: false }) => show(global, &look(global, &id, 0).await?),
        TaskCommand::Show(ShowTaskArgs { id, wait: true }) => show_the_end(global, &id).await,
        TaskCommand::Cancel { id } => {
            let task = client::connect_tasks(global).await?.cancel_task(CancelTaskRequest { id }).await?.into_inner();
            let task = known(task.task)?;
            over_before(&task).map_or_else(|| changed(global, &task), Err)
        }
        TaskCommand::Retry { id } => {
            let task = client::connect_tasks(global).await?.retry_task(RetryTaskRequest { id }).await?.into_inner();
            changed(global, &known(task.task)?)
        }
    }
}

/// Says yes or no to a task that waits for it; without one, shows those that do.
pub(crate) async fn approve(global: &Global, args: ApproveArgs) -> Result<(), Failure> {
    let ApproveArgs { id, deny, yes } = args;
    let Some(id) = id else { return list_waiting(global).await };
    let attempt = if deny || yes { None } else { Some(agree(global, &id).await?) };
    let request = DecideTaskRequest { id, approved: !deny, attempt };
    let told = client::connect_tasks(global).await?.decide_task(request).await?.into_inner();
    changed(global, &known(told.task)?)
}

/// Shows what would be done, and asks; the attempt in which that was so. Nothing is approved that is not shown first: a
/// daemon that is behind may tell of a task that waits again by now as it stood before.
async fn agree(global: &Global, id: &str) -> Result<u32, Failure> {
    let task = look(global, id, 0).await?;
    if !is_waiting(&task) {
        let what = format!("task {id} does not wait for approval: it is {}", task.status);
        let next = format!("ollamax task show {id}");
        return Err(Failure::told(ErrorCode::PreconditionFailed, &what, "nothing was approved", &next));
    }
    output::talk(global.output, page(&task).trim_end());
    consent::ask(global, &format!("let {} begin, as task {id}", task.tool), CONSENT).await?;
    Ok(task.attempt)
}

async fn list(global: &Global, args: ListTasksArgs) -> Result<(), Failure> {
    let tasks = listed(global, args).await?;
    if global.output == Output::Json {
        return show_all(&tasks);
    }
    if tasks.is_empty() {
        output::talk(global.output, "There are no such tasks. Tools begin them: ollamax tool list");
    }
    output::text(&table(&tasks))
}

async fn list_waiting(global: &Global) -> Result<(), Failure> {
    let waiting = ListTasksArgs { status: Some("waiting".to_owned()), ..ListTasksArgs::default() };
    let tasks = listed(global, waiting).await?;
    if global.output == Output::Json {
        return show_all(&tasks);
    }
    if tasks.is_empty() {
        output::talk(global.output, "No task waits for approval.");
        return Ok(());
    }
    output::text(&table_of_waiting(&tasks))?;
    output::talk(global.output, "Next: ollamax approve ID");
    Ok(())
}

/// Asked for page by page, the newest first; the newest stands where people look: at the end.
async fn listed(global: &Global, args: ListTasksArgs) -> Result<Vec<TaskView>, Failure> {
    let mut client = client::connect_tasks(global).await?;
    let (mut tasks, mut left) = (Vec::new(), args.limit.unwrap_or(u32::MAX));
    let (status, tool) = (args.status.unwrap_or_default(), args.tool.unwrap_or_default());
    let mut request = ListTasksRequest { status, tool, mine: args.mine, ..ListTasksRequest::default() };
    loop {
        request.limit = left.min(PAGE);
        let page = client.list_tasks(request.clone()).await?.into_inner();
        left = left.saturating_sub(u32::try_from(page.tasks.len()).unwrap_or(u32::MAX));
        tasks.extend(page.tasks);
        if left == 0 || page.next_cursor.is_empty() {
            tasks.reverse();
            return Ok(tasks);
        }
        request.cursor = page.next_cursor;
    }
}

fn show_all(tasks: &[TaskView]) -> Result<(), Failure> {
    output::json("TaskList", json!({"tasks": tasks.iter().map(fields).collect::<Vec<_>>()}))
}

async fn show_the_end(global: &Global, id: &str) -> Result<(), Failure> {
    let task = tokio::select! {
        // In this order: Ctrl-C is listened to before anything is begun.
        biased;
        _ = tokio::signal::ctrl_c() => return Err(left(id)),
        task = wait(global, id) => task?,
    };
    result(&task)?;
    show(global, &task)
}

/// A task, when it is over or waits for somebody.
pub(super) async fn wait(global: &Global, id: &str) -> Result<TaskView, Failure> {
    let drawn = output::may_draw(global.output).then(|| {
        let bar = ProgressBar::new_spinner();
        match ProgressStyle::with_template(ROW) {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    });
    let (begun_at, mut heard_at): (Instant, Option<Instant>) = (Instant::now(), None);
    let ended = loop {
        let next_look = Instant::now() + LOOK_INTERVAL;
        let said = match look(global, id, LOOK_MS).await {
            Ok(task) if is_over(&task) || is_waiting(&task) => break Ok(task),
            Ok(task) => {
                heard_at = Some(Instant::now());
                doing(&task)
            }
            Err(failure) => match after(id, failure, heard_at.map(|heard_at| heard_at.elapsed()), begun_at.elapsed()) {
                Some(failure) => break Err(failure),
                None => "no answer; the task goes on".to_owned(),
            },
        };
        if let Some(bar) = &drawn {
            bar.set_message(said);
            bar.tick();
        }
        sleep_until(next_look).await;
    };
    if let Some(bar) = drawn {
        bar.finish_and_clear();
    }
    ended
}

/// What ends a wait when a look has failed; nothing while the daemon, or its cluster, may be back soon, or while it
/// starts. The task was heard of so long ago, and is waited for since so long.
fn after(id: &str, failure: Failure, heard: Option<Duration>, waited: Duration) -> Option<Failure> {
    let is_away = matches!(failure.exit(), 7 | 8);
    let starts = failure.code() == Some(ErrorCode::Starting);
    match heard.filter(|_| is_away) {
        None if starts && waited < AWAY_MAX => None,
        None => Some(failure),
        Some(heard) if heard < AWAY_MAX => None,
        Some(_) => {
            let next = format!("ollamax task show {id} --wait");
            Some(Failure::new(9, "the task goes on, and nothing is heard of it", failure.what(), next))
        }
    }
}

async fn look(global: &Global, id: &str, wait_ms: u32) -> Result<TaskView, Failure> {
    let request = GetTaskRequest { id: id.to_owned(), wait_ms };
    known(client::connect_tasks(global).await?.get_task(request).await?.into_inner().task)
}

fn known(task: Option<TaskView>) -> Result<TaskView, Failure> {
    let strange = || {
        let next = "use ollamax and ollamax-node of one release: ollamax --version";
        Failure::new(1, "the daemon's answer makes no sense here", "it has no task", next)
    };
    task.ok_or_else(strange)
}

/// Whoever waited does so no more.
fn left(id: &str) -> Failure {
    Failure::new(130, "interrupted", "the task goes on", format!("ollamax task show {id} --wait"))
}

fn is_over(task: &TaskView) -> bool {
    matches!(task.status.as_str(), "completed" | "failed" | "cancelled")
}

fn is_waiting(task: &TaskView) -> bool {
    task.status == "waiting"
}

/// What came of a task that was waited for.
pub(super) fn result(task: &TaskView) -> Result<Value, Failure> {
    let TaskView { id, tool, status, .. } = task;
    match (status.as_str(), &task.error) {
        ("completed", _) => Ok(value(&task.result_json)),
        ("failed", Some(TaskProblem { code, message, next })) => {
            let next = if next.is_empty() { format!("ollamax task retry {id}") } else { next.clone() };
            let why = format!("it is task {id}, and was begun {} times", task.attempt);
            Err(Failure::told_as(code, message, &why, &next))
        }
        ("waiting", _) => {
            let next = format!("ollamax approve {id}; then ollamax task show {id} --wait");
            Err(Failure::new(4, format!("{tool} waits for approval"), format!("it is task {id}"), next))
        }
        _ => {
            let next = format!("ollamax task retry {id}");
            Err(Failure::new(4, format!("the task of {tool} is {status}"), format!("it is task {id}"), next))
        }
    }
}

/// Shows a task.
fn show(global: &Global, task: &TaskView) -> Result<(), Failure> {
    if global.output == Output::Json {
        return output::json("Task", json!({"task": fields(task)}));
    }
    output::text(&page(task))
}

/// Why a task that somebody wants to end has an end of its own.
fn over_before(task: &TaskView) -> Option<Failure> {
    let TaskView { id, status, .. } = task;
    let why = "what it did is not undone";
    let is_over = matches!(status.as_str(), "completed" | "failed");
    let what = format!("task {id} is over already: {status}");
    let next = format!("ollamax task show {id}");
    is_over.then(|| Failure::told(ErrorCode::PreconditionFailed, &what, why, &next))
}

/// Shows a task that was just changed.
pub(super) fn changed(global: &Global, task: &TaskView) -> Result<(), Failure> {
    if global.output == Output::Json {
        return show(global, task);
    }
    let end = if task.cancel_asked && !is_over(task) { ", and is to end" } else { "" };
    output::line(&format!("task {} is {}{end}", task.id, task.status))?;
    let next = if is_waiting(task) { "approve" } else { "task show" };
    let wait = if is_waiting(task) || is_over(task) { "" } else { " --wait" };
    output::talk(global.output, &format!("Next: ollamax {next} {}{wait}", task.id));
    Ok(())
}

fn table(tasks: &[TaskView]) -> String {
    let rows = tasks.iter().map(|task| {
        vec![
            task.id.clone(),
            task.tool.clone(),
            task.status.clone(),
            task.node.clone().unwrap_or_default(),
            share(task),
            task.created_at.clone(),
            note(task),
        ]
    });
    output::table(&["ID", "TOOL", "STATUS", "NODE", "DONE", "WANTED AT", "NOTE"], rows.collect())
}

/// What each would do, as far as lists tell it.
fn table_of_waiting(tasks: &[TaskView]) -> String {
    let rows = tasks.iter().map(|task| {
        let would_do = if task.plan.is_empty() { task.text.clone() } else { task.plan.join(" ") };
        vec![
            task.id.clone(),
            task.tool.clone(),
            task.subject.clone(),
            task.created_at.clone(),
            text::in_one_line(would_do.as_bytes()),
        ]
    });
    output::table(&["ID", "TOOL", "WANTED BY", "WANTED AT", "WOULD DO"], rows.collect())
}

fn page(task: &TaskView) -> String {
    let mut page = format!("{}: {}\n\n", task.id, task.tool);
    let line = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name:<10}{value}\n") };
    let end = if task.cancel_asked && !is_over(task) { ", and is to end" } else { "" };
    page += &line("status", &format!("{}{end}", task.status));
    page += &line("node", task.node.as_deref().unwrap_or_default());
    page += &line("attempt", &if task.attempt == 0 { String::new() } else { task.attempt.to_string() });
    page += &line("done", &share(task));
    page += &line("note", &text::whole_line(&task.text));
    page += &line("wanted by", &task.subject);
    page += &line("wanted at", &task.created_at);
    page += &line("changed", &task.updated_at);
    if let Some(TaskProblem { message, next, .. }) = &task.error {
        page += &line("failed", &text::whole_line(message));
        page += &line("try", &text::whole_line(next));
    }
    if !task.plan.is_empty() {
        page += "\nPlan:\n";
        for line in &task.plan {
            page += &format!("  {}\n", text::whole_line(line));
        }
    }
    if !task.result_json.is_empty() {
        page += &format!("\nResult:\n{}\n", output::pretty(&value(&task.result_json)));
    }
    page
}

/// What it does, where somebody watches.
fn doing(task: &TaskView) -> String {
    let place = task.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let parts = [format!("{}{place}", task.status), share(task), text::in_one_line(task.text.as_bytes())];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// Why it failed, else what is told of it.
fn note(task: &TaskView) -> String {
    let failed = task.error.as_ref().map(|error| error.message.as_str());
    text::in_one_line(failed.unwrap_or(&task.text).as_bytes())
}

/// Which part is done, where the whole is known and comes or has come.
fn share(task: &TaskView) -> String {
    match task.total {
        _ if matches!(task.status.as_str(), "failed" | "cancelled") => String::new(),
        Some(total) if total > 0 => {
            let percent = u128::from(task.done.min(total)) * 100 / u128::from(total);
            format!("{percent} %")
        }
        _ => String::new(),
    }
}

/// What a tool or its task brought, as it was told.
pub(super) fn value(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned()))
}

fn fields(task: &TaskView) -> Value {
    let result = (!task.result_json.is_empty()).then(|| value(&task.result_json));
    let error = task.error.as_ref().map(|TaskProblem { code, message, next }| {
        let next = (!next.is_empty()).then_some(next);
        json!({"code": code, "message": message, "next": next})
    });
    json!({
        "id": task.id,
        "tool": task.tool,
        "status": task.status,
        "node": task.node,
        "attempt": task.attempt,
        "priority": task.priority,
        "done": task.done,
        "total": task.total,
        "text": task.text,
        "plan": task.plan,
        "subject": task.subject,
        "cancelAsked": task.cancel_asked,
        "createdAt": task.created_at,
        "updatedAt": task.updated_at,
        "result": result,
        "error": error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(status: &str) -> TaskView {
        let (id, tool, status) = ("task_1".to_owned(), "pull_model".to_owned(), status.to_owned());
        TaskView { id, tool, status, ..TaskView::default() }
    }

    #[test]
    fn what_was_waited_for_ends_with_its_result_or_with_its_exit_code() {
        let check = |task: TaskView, expected: Result<Value, u8>| {
            assert_eq!(result(&task).map_err(|failure| failure.exit()), expected, "{task:?}");
        };
        let failed = |code: &str| {
            let error = TaskProblem { code: code.to_owned(), message: "it broke".to_owned(), next: String::new() };
            TaskView { error: Some(error), ..task("failed") }
        };
        check(TaskView { result_json: r#"["n1"]"#.to_owned(), ..task("completed") }, Ok(json!(["n1"])));
        check(failed("model_not_found"), Err(3));
        check(failed("of_a_later_release"), Err(1));
        check(task("failed"), Err(4));
        check(task("waiting"), Err(4));
        check(task("cancelled"), Err(4));
    }

    #[test]
    fn a_wait_bears_a_daemon_that_is_away_for_a_while_and_then_names_the_command_that_goes_on() {
        let check = |exit: u8, heard: Option<u64>, expected: Option<u8>| {
            let failure = Failure::new(exit, "it broke", "", "");
            let ended = after("task_1", failure, heard.map(Duration::from_secs), Duration::ZERO);
            assert_eq!(ended.as_ref().map(Failure::exit), expected, "{exit} {heard:?}");
            ended
        };
        check(7, None, Some(7));
        check(3, Some(0), Some(3));
        check(7, Some(0), None);
        check(8, Some(29), None);
        let ended = check(7, Some(30), Some(9)).expect("an end");
        assert_eq!(ended.next(), "ollamax task show task_1 --wait");
    }

    #[test]
    fn a_wait_bears_a_daemon_that_starts_also_before_it_has_heard_of_the_task() {
        let check = |heard: Option<u64>, waited: u64, expected: Option<u8>| {
            let failure = Failure::told(ErrorCode::Starting, "it starts", "", "");
            let ended = after("task_1", failure, heard.map(Duration::from_secs), Duration::from_secs(waited));
            assert_eq!(ended.map(|failure| failure.exit()), expected, "{heard:?} {waited}");
        };
        check(None, 0, None);
        check(None, 29, None);
        check(None, 30, Some(7));
        check(Some(29), 90, None);
        check(Some(30), 90, Some(9));
    }

    #[test]
    fn what_would_be_done_is_shown_to_whoever_is_asked() {
        let plan = vec!["m goes from n1".to_owned(), "a\nb".to_owned()];
        let planned = TaskView { plan, text: "delete_model {}".to_owned(), ..task("waiting") };
        assert!(page(&planned).ends_with("\nPlan:\n  m goes from n1\n  a\\nb\n"), "{}", page(&planned));
        let long = "n".repeat(200);
        let of_many = TaskView { plan: vec![long.clone()], ..planned.clone() };
        assert!(page(&of_many).ends_with(&format!("\n  {long}\n")), "whoever agrees has read all of it");
        assert!(!page(&task("waiting")).contains("Plan"), "{}", page(&task("waiting")));
        let last = |task: TaskView| table_of_waiting(&[task]).trim_end().rsplit("  ").next().map(str::to_owned);
        assert_eq!(last(planned.clone()).as_deref(), Some("m goes from n1 a\\nb"));
        assert_eq!(last(TaskView { plan: Vec::new(), ..planned }).as_deref(), Some("delete_model {}"));
    }

    #[test]
    fn who_ends_a_task_that_has_ended_is_told_how() {
        let check = |status: &str, expected: Option<u8>| {
            let failure = over_before(&task(status));
            assert_eq!(failure.as_ref().map(Failure::exit), expected, "{status}");
            failure
        };
        let failure = check("completed", Some(4)).expect("it is over");
        assert_eq!(failure.what(), "task task_1 is over already: completed");
        check("failed", Some(4));
        for status in ["cancelled", "working", "queued"] {
            check(status, None);
        }
    }

    #[test]
    fn a_task_that_is_over_is_listed_with_its_outcome() {
        let half = |status: &str| TaskView { done: 1, total: Some(2), ..task(status) };
        let error = TaskProblem { message: "it\nbroke".to_owned(), ..TaskProblem::default() };
        let failed = TaskView { error: Some(error), ..half("failed") };
        assert_eq!((share(&failed), note(&failed)), (String::new(), "it\\nbroke".to_owned()));
        assert_eq!((share(&half("cancelled")), share(&half("working"))), (String::new(), "50 %".to_owned()));
        let denied = "it was not approved";
        assert_eq!(note(&TaskView { text: denied.to_owned(), ..task("cancelled") }), denied);
    }

    #[test]
    fn a_task_is_told_in_a_line_that_stays_one() {
        let node = Some("n2".to_owned());
        let text = "a\nb".to_owned();
        let shown = doing(&TaskView { node, text, done: 1, total: Some(3), ..task("working") });
        assert_eq!(shown, "working on n2, 33 %, a\\nb");
        assert_eq!(doing(&task("queued")), "queued");
        let more = share(&TaskView { done: u64::MAX, total: Some(7), ..task("working") });
        assert_eq!((more.as_str(), share(&task("working")).as_str()), ("100 %", ""));
    }
}
