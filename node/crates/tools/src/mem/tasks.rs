//! Tasks in memory. Nobody works at them: a test says what they come to.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::watch;

use ollamax_types::ErrorCode;

use crate::error::ToolError;
use crate::once::OnceKey;
use crate::ports::{Answer, NewTask, Tasks};
use crate::principal::Caller;
use crate::views::TaskView;

/// Tasks in memory. Clones are the same tasks.
#[derive(Debug, Clone)]
pub struct MemTasks {
    kept: Arc<Mutex<Kept>>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    tasks: BTreeMap<String, TaskView>,
    asked: BTreeMap<String, NewTask>,
    /// It shows no task until it has caught up.
    is_behind: bool,
    /// How often a task was looked at.
    looks: usize,
    /// How often it was waited for what the others know.
    catch_ups: usize,
    /// On record, and not shown here yet.
    late: BTreeSet<String>,
    /// Shown as they stood, until it has caught up.
    before: BTreeMap<String, TaskView>,
}

// === impl MemTasks ===

impl Default for MemTasks {
    fn default() -> Self {
        Self { kept: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl MemTasks {
    /// Has a task be what the test says; one that is not there is made, and belongs to nobody.
    pub fn set(&self, id: &str, change: impl FnOnce(&mut TaskView)) {
        let empty = || TaskView { id: id.to_owned(), ..TaskView::default() };
        change(self.kept().tasks.entry(id.to_owned()).or_insert_with(empty));
        self.tick();
    }

    /// Has it show no task until it has caught up, as a node does that is behind.
    pub fn fall_behind(&self) {
        self.kept().is_behind = true;
    }

    /// Has a task that is on record be one that this node does not show yet.
    pub fn hide(&self, id: &str) {
        self.kept().late.insert(id.to_owned());
    }

    /// Has it show a task as the test says until it has caught up.
    pub fn lag(&self, id: &str, change: impl FnOnce(&mut TaskView)) {
        let mut kept = self.kept();
        let mut before = kept.tasks.get(id).cloned().unwrap_or_default();
        change(&mut before);
        kept.before.insert(id.to_owned(), before);
    }

    /// All of them, by id.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskView> {
        self.kept().tasks.values().cloned().collect()
    }

    /// What was asked for with a task.
    #[must_use]
    pub fn asked(&self, id: &str) -> Option<NewTask> {
        self.kept().asked.get(id).cloned()
    }

    /// How often a task was looked at.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.kept().looks
    }

    /// How often it was waited for what the others know.
    #[must_use]
    pub fn catch_ups(&self) -> usize {
        self.kept().catch_ups
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.changes.send_modify(|revision| *revision += 1);
    }

    fn put(&self, by: &Caller, asked: NewTask) -> Result<TaskView, ToolError> {
        let mut kept = self.kept();
        if let Some(once) = asked.once
            && let Some((id, digest)) = kept.of_key(once)
        {
            if digest != once.digest {
                let next = "send another idempotency_key";
                return Err(ToolError::new(
                    ErrorCode::PreconditionFailed,
                    "the key was used with other arguments",
                    next,
                ));
            }
            return kept.find(&id);
        }
        // Who approves it reads what was asked for.
        let text = if asked.needs_approval { format!("{} {}", asked.tool, asked.arguments) } else { String::new() };
        let drawn = format!("task_{:032x}", kept.tasks.len() + 1);
        let task = TaskView {
            id: asked.once.map_or(drawn, |once| once.task().to_string()),
            text,
            plan: asked.plan.clone(),
            tool: asked.tool.to_owned(),
            status: if asked.needs_approval { "waiting" } else { "queued" }.to_owned(),
            priority: asked.priority,
            subject: by.principal.subject().to_string(),
            created_at: format!("1970-01-01T00:00:{:02}Z", kept.tasks.len() % 60),
            ..TaskView::default()
        };
        kept.asked.insert(task.id.clone(), asked);
        kept.tasks.insert(task.id.clone(), task.clone());
        Ok(task)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut TaskView) -> Result<(), ToolError>) -> Answer<TaskView> {
        let mut kept = self.kept();
        let changed = kept.find(id).and_then(|mut task| {
            change(&mut task)?;
            kept.tasks.insert(id.to_owned(), task.clone());
            Ok(task)
        });
        drop(kept);
        self.tick();
        ready(changed).boxed()
    }
}

// === impl Kept ===

impl Kept {
    fn of_key(&self, once: OnceKey) -> Option<(String, [u8; 32])> {
        let of = |asked: &NewTask| asked.once.filter(|found| found.key == once.key);
        self.asked.iter().find_map(|(id, asked)| Some((id.clone(), of(asked)?.digest)))
    }

    fn find(&self, id: &str) -> Result<TaskView, ToolError> {
        self.tasks.get(id).cloned().ok_or_else(|| missing(id))
    }
}

impl Tasks for MemTasks {
    fn open(&self, by: &Caller, asked: NewTask) -> Answer<TaskView> {
        let opened = self.put(by, asked);
        self.tick();
        ready(opened).boxed()
    }

    fn task(&self, id: &str) -> Result<TaskView, ToolError> {
        let mut kept = self.kept();
        kept.looks += 1;
        if let Some(before) = kept.before.get(id) {
            return Ok(before.clone());
        }
        if kept.is_behind || kept.late.contains(id) { Err(missing(id)) } else { kept.find(id) }
    }

    fn each(&self, open_alone: bool, tell: &mut dyn FnMut(TaskView)) -> Result<(), ToolError> {
        for task in self.tasks().into_iter().filter(|task| !open_alone || !task.is_over()) {
            tell(TaskView { result: None, ..task });
        }
        Ok(())
    }

    fn cancel(&self, _by: &Caller, id: &str) -> Answer<TaskView> {
        self.change(id, |task| {
            match task.status.as_str() {
                "waiting" | "queued" => task.status = "cancelled".to_owned(),
                "working" => task.cancel_asked = true,
                _ => {}
            }
            Ok(())
        })
    }

    fn arguments(&self, id: &str) -> Result<Value, ToolError> {
        let kept = self.kept();
        kept.find(id)?;
        // One that a test has made was asked for with nothing.
        Ok(kept.asked.get(id).map(|asked| asked.arguments.clone()).unwrap_or_default())
    }

    fn retry(&self, _by: &Caller, id: &str, plan: Vec<String>) -> Answer<TaskView> {
        self.change(id, |task| {
            if !matches!(task.status.as_str(), "failed" | "cancelled") {
                return Err(not_so(task, "neither failed nor was cancelled"));
            }
            // It may be one that nobody approved.
            if task.attempt == 0 {
                return Err(not_so(task, "was never begun"));
            }
            (task.status, task.attempt, task.error, task.plan) = ("queued".to_owned(), 0, None, plan);
            Ok(())
        })
    }

    fn decide(&self, _by: &Caller, id: &str, approved: bool, attempt: Option<u32>) -> Answer<TaskView> {
        self.change(id, |task| {
            if !task.is_waiting() {
                return Err(not_so(task, "waits for nobody"));
            }
            if attempt.is_some_and(|attempt| attempt != task.attempt) {
                return Err(not_so(task, "waits again"));
            }
            task.status = if approved { "queued" } else { "cancelled" }.to_owned();
            Ok(())
        })
    }

    fn catch_up(&self) -> Answer<()> {
        let mut kept = self.kept();
        kept.is_behind = false;
        kept.late.clear();
        kept.catch_ups += 1;
        kept.before.clear();
        drop(kept);
        ready(Ok(())).boxed()
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.changes.subscribe())
    }
}

fn missing(id: &str) -> ToolError {
    ToolError::unknown_task(id, "list_tasks")
}

fn not_so(task: &TaskView, problem: &str) -> ToolError {
    ToolError::new(ErrorCode::PreconditionFailed, format!("task {} {problem}", task.id), "list_tasks")
}
