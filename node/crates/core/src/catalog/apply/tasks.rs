//! Tasks: opened, approved, given to a node, told of, ended, cancelled and asked for again.
//!
//! Always holds: a task has one deadline, where its record says, or none while it is queued. It changes hands by a new
//! attempt alone, which only the leader begins; what is told of another attempt changes nothing. A node that is no
//! member any more tells and ends nothing, so what it worked at is lost when its lease is over. Whatever changes a task
//! leaves its index in `Counts::tasks_changed_at`.

use ollamax_types::limits::{
    TASK_ARGUMENTS_BYTES_MAX, TASK_PLAN_BYTES_MAX, TASK_PRIORITY_MAX, TASK_RESULT_BYTES_MAX, TASK_TEXT_BYTES_MAX,
    TASKS_MAX, TASKS_OPEN_MAX, TASKS_TOLD_MAX,
};
use ollamax_types::{NodeId, TaskId, Timestamp};

use super::draft::Draft;
use super::limit::{check_bytes, check_count, check_identifier, cut, exceeded};
use super::{Applied, Scene, Step, Stop, invalid, members};
use crate::catalog::command::{Command, Refusal};
use crate::catalog::read;
use crate::catalog::record::{
    Counts, Due, Key, KeyRange, Record, Task, TaskOutcome, TaskProgress, TaskState, TaskTold,
};
use crate::catalog::view::{Fault, View};

/// Deadlines among which the oldest task that is over is looked for, where there is no room for a new one.
const ROOM_LOOK_MAX: usize = 300;

/// A command about tasks.
pub(super) fn step(scene: &Scene<'_>) -> Step {
    match &scene.entry.command {
        Command::OpenTask { id, tool, arguments_json, subject, priority, repeatable, needs_approval, plan } => {
            let asked = Asked {
                tool,
                arguments_json,
                subject,
                priority: *priority,
                repeatable: *repeatable,
                needs_approval: *needs_approval,
                plan,
            };
            open(scene, *id, &asked)
        }
        Command::DecideTask { id, approved, attempt } => decide(scene, id, *approved, *attempt),
        Command::AssignTask { id, node } => assign(scene, id, *node),
        Command::TellTasks { node, tasks } => tell(scene, *node, tasks),
        Command::EndTask { node, id, attempt, outcome } => end(scene, (*node, *attempt), id, outcome),
        Command::CancelTask { id } => cancel(scene, id),
        Command::RetryTask { id, plan } => retry(scene, id, plan),
        other => Err(Fault::Invariant(format!("{} is no command about tasks", other.word())).into()),
    }
}

/// What is asked for.
struct Asked<'a> {
    tool: &'a str,
    arguments_json: &'a str,
    subject: &'a str,
    priority: u8,
    repeatable: bool,
    needs_approval: bool,
    plan: &'a str,
}

// === impl Asked ===

impl Asked<'_> {
    fn check(&self) -> Result<(), Stop> {
        check_identifier("the tool of a task", self.tool)?;
        check_bytes("the arguments of a task", self.arguments_json, TASK_ARGUMENTS_BYTES_MAX)?;
        check_identifier("the subject of a task", self.subject)?;
        check_plan(self.plan)?;
        if self.priority > TASK_PRIORITY_MAX {
            let priority = self.priority;
            return Err(invalid(format!("the priority of a task is 0 to {TASK_PRIORITY_MAX}, not {priority}")));
        }
        Ok(())
    }

    /// Who asks for the same again may foresee something else by now.
    fn is(&self, task: &Task) -> bool {
        let asked = (self.tool, self.arguments_json, self.subject, self.priority, self.repeatable);
        let (tool, arguments_json, subject) = (&*task.tool, &*task.arguments_json, &*task.subject);
        asked == (tool, arguments_json, subject, task.priority, task.repeatable)
    }
}

fn open(scene: &Scene<'_>, id: TaskId, asked: &Asked<'_>) -> Step {
    asked.check()?;
    if let Some(held) = read::task(scene.view, &id)? {
        let is_same = asked.is(&held);
        return if is_same { Ok(Applied::done(Vec::new())) } else { Err(invalid(format!("{id} is another task"))) };
    }
    check_share(scene.view, asked.subject)?;
    let draft = Draft::new(scene.view);
    let held = read::counts(&draft)?.tasks;
    if held >= TASKS_MAX && !make_room(&draft, scene.index)? {
        return Err(exceeded("this cluster", held + 1, TASKS_MAX, "tasks"));
    }
    let counts = read::counts(&draft)?;
    let tasks = counts.tasks + 1;
    draft.put(Key::Counts, Record::Counts(Counts { tasks, ..counts }));
    let (now, index) = (scene.entry.log_time, scene.index);
    let task = Task {
        id,
        tool: asked.tool.to_owned(),
        arguments_json: asked.arguments_json.to_owned(),
        subject: asked.subject.to_owned(),
        priority: asked.priority,
        repeatable: asked.repeatable,
        needs_approval: asked.needs_approval,
        plan: asked.plan.to_owned(),
        state: TaskState::Queued,
        attempt: 0,
        losses: 0,
        cancel_asked: false,
        progress: TaskProgress::default(),
        asked_by: scene.entry.principal.clone(),
        created_at: now,
        begun_at: Timestamp(0),
        updated_at: now,
        due_at: Timestamp(0),
    };
    let state = if asked.needs_approval { TaskState::Waiting } else { TaskState::Queued };
    write(&draft, task.into_state(state, now), index)?;
    Ok(Applied::done(draft.into_mutations()))
}

/// None is told where nobody has to read it.
fn check_plan(plan: &str) -> Result<(), Stop> {
    if plan.is_empty() { Ok(()) } else { check_bytes("the plan of a task", plan, TASK_PLAN_BYTES_MAX) }
}

/// One caller does not fill the queue of all.
fn check_share(view: &dyn View, subject: &str) -> Result<(), Stop> {
    let open = view.scan(&KeyRange::OpenTasksOf(subject.to_owned()), None, TASKS_OPEN_MAX)?.len();
    if open < TASKS_OPEN_MAX {
        return Ok(());
    }
    Err(exceeded(subject, open as u64 + 1, TASKS_OPEN_MAX as u64, "open tasks"))
}

/// The oldest task that is over goes before its time. `false`: none was found.
fn make_room(draft: &Draft<'_>, index: u64) -> Result<bool, Stop> {
    for (at, due) in read::deadlines(draft, ROOM_LOOK_MAX)? {
        let Due::Task(id) = due else { continue };
        if read::task(draft, &id)?.is_some_and(|task| task.state.is_over()) {
            draft.delete(Key::Deadline(at, due));
            forget(draft, &id, index)?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn decide(scene: &Scene<'_>, id: &TaskId, approved: bool, attempt: Option<u32>) -> Step {
    let task = known(scene.view, id)?;
    if task.state == TaskState::Waiting && attempt.is_some_and(|attempt| attempt != task.attempt) {
        let state = "waiting again, and what it would do is to be looked at anew".to_owned();
        return Err(Refusal::TaskStands { id: *id, state }.into());
    }
    match (&task.state, approved) {
        (TaskState::Waiting, true) => moved(scene, task, TaskState::Queued),
        (TaskState::Waiting, false) => {
            let progress = TaskProgress { text: "it was not approved".to_owned(), ..TaskProgress::default() };
            moved(scene, Task { progress, ..task }, TaskState::Cancelled)
        }
        _ => Err(stands(&task)),
    }
}

fn assign(scene: &Scene<'_>, id: &TaskId, node: NodeId) -> Step {
    members::standing(scene, node)?;
    let task = known(scene.view, id)?;
    match &task.state {
        // The leader did not hear that it was done.
        TaskState::Working { node: holder } if *holder == node => Ok(Applied::done(Vec::new())),
        TaskState::Queued => {
            let (attempt, progress) = (task.attempt.saturating_add(1), TaskProgress::default());
            let begun_at = scene.entry.log_time;
            moved(scene, Task { attempt, progress, begun_at, ..task }, TaskState::Working { node })
        }
        _ => Err(stands(&task)),
    }
}

fn tell(scene: &Scene<'_>, node: NodeId, told: &[TaskTold]) -> Step {
    check_count("the list of tasks", told.len(), TASKS_TOLD_MAX)?;
    members::standing(scene, node)?;
    let draft = Draft::new(scene.view);
    for TaskTold { id, attempt, progress } in told {
        let Some(task) = read::task(&draft, id)?.filter(|task| task.is_with(node, *attempt)) else { continue };
        // It never goes back; what came late says only that the node is at it still.
        let progress = if progress.done < task.progress.done { task.progress.clone() } else { cut_progress(progress) };
        let when = (scene.entry.log_time, scene.index);
        change(&draft, Task { progress, ..task }, TaskState::Working { node }, when)?;
    }
    Ok(Applied::done(draft.into_mutations()))
}

fn end(scene: &Scene<'_>, (node, attempt): (NodeId, u32), id: &TaskId, outcome: &TaskOutcome) -> Step {
    members::standing(scene, node)?;
    let task = known(scene.view, id)?;
    let outcome = checked(outcome)?;
    let text = match &outcome {
        TaskOutcome::Cancelled { text } => text.clone(),
        TaskOutcome::Completed { .. } | TaskOutcome::Failed { .. } => String::new(),
    };
    let state = TaskState::from(outcome);
    if task.attempt == attempt && task.state == state {
        // It did not hear that it was done.
        return Ok(Applied::done(Vec::new()));
    }
    if !task.is_with(node, attempt) {
        return Err(Refusal::TaskMoved(*id).into());
    }
    let progress = task.progress.at_the_end(&state, text);
    moved(scene, Task { progress, ..task }, state)
}

fn checked(outcome: &TaskOutcome) -> Result<TaskOutcome, Stop> {
    match outcome {
        TaskOutcome::Completed { result_json } => {
            check_bytes("the result of a task", result_json, TASK_RESULT_BYTES_MAX)?;
            Ok(outcome.clone())
        }
        TaskOutcome::Failed { code, text, next } => {
            Ok(TaskOutcome::Failed { code: *code, text: cut_text(text), next: cut_text(next) })
        }
        TaskOutcome::Cancelled { text } => Ok(TaskOutcome::Cancelled { text: cut_text(text) }),
    }
}

fn cancel(scene: &Scene<'_>, id: &TaskId) -> Step {
    let task = known(scene.view, id)?;
    // What a lost node began may go on; whoever has the task next ends that.
    let is_begun = task.losses > 0;
    match &task.state {
        TaskState::Queued if !is_begun => moved(scene, task, TaskState::Cancelled),
        TaskState::Waiting => moved(scene, task, TaskState::Cancelled),
        TaskState::Queued | TaskState::Working { .. } if !task.cancel_asked => {
            let draft = Draft::new(scene.view);
            let mut progress = task.progress.clone();
            if task.state == TaskState::Queued {
                "whoever has it next ends it".clone_into(&mut progress.text);
            }
            let asked = Task { cancel_asked: true, progress, updated_at: scene.entry.log_time, ..task };
            write(&draft, asked, scene.index)?;
            Ok(Applied::done(draft.into_mutations()))
        }
        TaskState::Queued
        | TaskState::Working { .. }
        | TaskState::Completed { .. }
        | TaskState::Failed { .. }
        | TaskState::Cancelled => Ok(Applied::done(Vec::new())),
    }
}

/// One that was never begun may be one that nobody approved: it is opened anew. What needed an approval needs one more,
/// and whoever approves that reads what it would do now.
fn retry(scene: &Scene<'_>, id: &TaskId, plan: &str) -> Step {
    check_plan(plan)?;
    let task = known(scene.view, id)?;
    match &task.state {
        TaskState::Failed { .. } | TaskState::Cancelled if task.attempt > 0 => {
            check_share(scene.view, &task.subject)?;
            let (plan, progress) = (plan.to_owned(), TaskProgress::default());
            let again = Task { losses: 0, cancel_asked: false, plan, progress, ..task };
            let state = if again.needs_approval { TaskState::Waiting } else { TaskState::Queued };
            moved(scene, again, state)
        }
        TaskState::Cancelled => {
            let state = "cancelled and was never begun; call its tool again".to_owned();
            Err(Refusal::TaskStands { id: *id, state }.into())
        }
        _ => Err(stands(&task)),
    }
}

/// What becomes of a task whose deadline has come, at this log time by the entry of this index.
pub(super) fn look(draft: &Draft<'_>, id: &TaskId, (now, index): (Timestamp, u64)) -> Result<(), Stop> {
    let Some(task) = read::task(draft, id)?.filter(|task| task.due_at <= now) else { return Ok(()) };
    match &task.state {
        TaskState::Queued => {}
        TaskState::Waiting => {
            let progress = TaskProgress { text: "nobody approved it in time".to_owned(), ..TaskProgress::default() };
            change(draft, Task { progress, ..task }, TaskState::Cancelled, (now, index))?;
        }
        TaskState::Working { .. } => {
            if let Some(lost) = task.after_loss(now) {
                write(draft, lost, index)?;
            }
        }
        TaskState::Completed { .. } | TaskState::Failed { .. } | TaskState::Cancelled => {
            forget(draft, id, index)?;
        }
    }
    Ok(())
}

/// A task that is over is on record no more.
fn forget(draft: &Draft<'_>, id: &TaskId, index: u64) -> Result<(), Stop> {
    draft.delete(Key::Task(*id));
    let counts = read::counts(draft)?;
    let tasks = counts.tasks.checked_sub(1);
    let tasks = tasks.ok_or_else(|| Fault::Invariant("more tasks than counted".to_owned()))?;
    draft.put(Key::Counts, Record::Counts(Counts { tasks, tasks_changed_at: index, ..counts }));
    Ok(())
}

fn known(view: &dyn View, id: &TaskId) -> Result<Task, Stop> {
    Ok(read::task(view, id)?.ok_or(Refusal::TaskNotFound(*id))?)
}

fn stands(task: &Task) -> Stop {
    Refusal::TaskStands { id: task.id, state: task.state.as_str().to_owned() }.into()
}

/// The one change of a command.
fn moved(scene: &Scene<'_>, task: Task, state: TaskState) -> Step {
    let draft = Draft::new(scene.view);
    change(&draft, task, state, (scene.entry.log_time, scene.index))?;
    Ok(Applied::done(draft.into_mutations()))
}

/// Another state, with its own deadline in the place of the one before.
fn change(draft: &Draft<'_>, task: Task, state: TaskState, (now, index): (Timestamp, u64)) -> Result<(), Stop> {
    if task.due_at != Timestamp(0) {
        draft.delete(Key::Deadline(task.due_at, Due::Task(task.id)));
    }
    write(draft, task.into_state(state, now), index)
}

/// By the entry of this index.
fn write(draft: &Draft<'_>, task: Task, index: u64) -> Result<(), Stop> {
    if task.due_at != Timestamp(0) {
        draft.put(Key::Deadline(task.due_at, Due::Task(task.id)), Record::Present);
    }
    let open = Key::OpenTask(task.subject.clone(), task.id);
    if task.state.is_over() {
        draft.delete(open);
    } else if draft.get(&open)?.is_none() {
        draft.put(open, Record::Present);
    }
    draft.put(Key::Task(task.id), Record::Task(Box::new(task)));
    let counts = read::counts(draft)?;
    draft.put(Key::Counts, Record::Counts(Counts { tasks_changed_at: index, ..counts }));
    Ok(())
}

fn cut_progress(told: &TaskProgress) -> TaskProgress {
    TaskProgress { text: cut_text(&told.text), ..*told }
}

fn cut_text(text: &str) -> String {
    cut(text, TASK_TEXT_BYTES_MAX).to_owned()
}
