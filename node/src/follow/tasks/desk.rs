//! What a node does about the tasks on record: decisions, without doing anything.
//!
//! Always holds: a task is begun only while the record says that this node works at it, and once in each attempt; what
//! the record has moved elsewhere is dropped at once, without a word.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use ollamax_core::catalog::{Task, TaskOutcome, TaskProgress, TaskState, TaskTold};
use ollamax_tools::ToolError;
use ollamax_tools::progress::Step;
use ollamax_types::limits::{TASK_RESULT_BYTES_MAX, TASK_TEXT_BYTES_MAX, TASKS_PER_NODE_MAX};
use ollamax_types::{ErrorCode, NodeId, TaskId, Timestamp};

/// A task that this node has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// In which attempt.
    pub(super) attempt: u32,
    /// How far this node is with it.
    pub(super) stage: Stage,
}

/// How far this node is with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is at it, or tells how it ended.
    Works,
    /// That it ended is on record from this revision on.
    Ended(u64),
    /// It could not keep its lease, or stops: it is not begun again until the record has moved.
    LetGo,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// Begin it.
    Begin(Box<Task>),
    /// Ask the work to stop, and hear how it ends.
    Cancel(TaskId),
    /// Break it off: it is somebody else's, or over.
    Drop(TaskId),
}

/// A look at the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    /// This node.
    pub(super) node: NodeId,
    /// Log time at which this process began to look.
    pub(super) since: Timestamp,
    /// Those that are not over.
    pub(super) tasks: &'a [Task],
    /// The revision up to which they are complete.
    pub(super) revision: u64,
}

// === impl Look ===

impl Look<'_> {
    /// What follows, with what this node holds already.
    pub(super) fn deeds(&self, held: &BTreeMap<TaskId, Held>) -> Vec<Deed> {
        let mine = self.tasks.iter().filter(|task| task.state == TaskState::Working { node: self.node });
        let mine: BTreeMap<TaskId, &Task> = mine.map(|task| (task.id, task)).collect();
        let is_same = |id: &TaskId, held: &Held| {
            mine.get(id).is_some_and(|task| task.attempt == held.attempt && !held.is_over(self.revision))
        };
        let dropped = held.iter().filter(|(id, held)| !is_same(id, held)).map(|(id, _)| Deed::Drop(*id));
        let mut deeds: Vec<Deed> = dropped.collect();
        let kept: BTreeMap<TaskId, &Held> =
            held.iter().filter(|(id, held)| is_same(id, held)).map(|(id, held)| (*id, held)).collect();
        let works = |id: &TaskId| kept.get(id).is_some_and(|held| held.stage == Stage::Works);
        let cancelled = mine.values().filter(|task| task.cancel_asked && works(&task.id));
        deeds.extend(cancelled.map(|task| Deed::Cancel(task.id)));
        let mut new: Vec<&Task> =
            mine.into_values().filter(|task| !kept.contains_key(&task.id) && self.may_begin(task)).collect();
        new.sort_by_key(|task| (Reverse(task.priority), task.created_at, task.id));
        let room = TASKS_PER_NODE_MAX.saturating_sub(kept.len());
        deeds.extend(new.into_iter().take(room).map(|task| Deed::Begin(Box::new(task.clone()))));
        deeds
    }

    /// What was given to this node in an earlier life may be half done: where that matters, nobody begins it again, and
    /// it ends with its lease.
    fn may_begin(&self, task: &Task) -> bool {
        task.repeatable || task.begun_at >= self.since
    }
}

// === impl Held ===

impl Held {
    /// Whether this look shows its end: the same attempt on record is a new one then.
    const fn is_over(&self, revision: u64) -> bool {
        matches!(self.stage, Stage::Ended(at) if at <= revision)
    }
}

/// How a task ends by what its work answered; `None`: it is worked at again in this attempt, since what was in the way
/// passes.
pub(super) fn outcome(answer: Result<Value, ToolError>, repeatable: bool, cancel_asked: bool) -> Option<TaskOutcome> {
    match answer {
        Ok(answer) => {
            let result_json = answer.to_string();
            Some(if result_json.len() > TASK_RESULT_BYTES_MAX {
                too_large()
            } else {
                TaskOutcome::Completed { result_json }
            })
        }
        // Only what says so has ended it: after any other failure it is not cancelled, it failed.
        Err(ToolError { code: ErrorCode::PullCancelled, message, .. }) if cancel_asked => {
            Some(TaskOutcome::Cancelled { text: cut(&message) })
        }
        Err(ToolError { code, .. }) if repeatable && passes(code) => None,
        Err(ToolError { code, message, next, .. }) => {
            Some(TaskOutcome::Failed { code, text: cut(&message), next: cut(&next) })
        }
    }
}

/// Whether a failure says nothing of the work: no leader is heard, there is no room just now, another node stops. That
/// this node stops is looked at before its work's answer is.
const fn passes(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NoQuorum | ErrorCode::OutcomeUnknown | ErrorCode::Overloaded | ErrorCode::Draining)
}

/// The end of a task whose result nobody can keep.
pub(super) fn too_large() -> TaskOutcome {
    let text = format!("it is done, and its result is larger than {} KiB", TASK_RESULT_BYTES_MAX >> 10);
    TaskOutcome::Failed { code: ErrorCode::BodyTooLarge, text, next: "look at what it was to change".to_owned() }
}

/// What is told of a task that is worked at.
pub(super) fn told(id: TaskId, attempt: u32, step: &Step) -> TaskTold {
    let progress = TaskProgress { done: step.done, total: step.total.unwrap_or(0), text: cut(&step.text) };
    TaskTold { id, attempt, progress }
}

/// As much of a text as a record takes.
fn cut(text: &str) -> String {
    let (kept, _) = text.split_at(text.floor_char_boundary(TASK_TEXT_BYTES_MAX));
    kept.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::follow::tasks::mem::task;

    const OWN: NodeId = NodeId(2);

    fn id(number: u8) -> TaskId {
        TaskId([number; 16])
    }

    /// What is done where these tasks stand on record and these are held, as words.
    fn deeds(tasks: &[Task], held: &[(u8, u32, Stage)]) -> Vec<String> {
        let held = held.iter().map(|(number, attempt, stage)| (id(*number), Held { attempt: *attempt, stage: *stage }));
        let look = Look { node: OWN, since: Timestamp(100), tasks, revision: 50 };
        let word = |deed: Deed| match deed {
            Deed::Begin(task) => format!("begin {}", task.id.0[0]),
            Deed::Cancel(id) => format!("cancel {}", id.0[0]),
            Deed::Drop(id) => format!("drop {}", id.0[0]),
        };
        look.deeds(&held.collect()).into_iter().map(word).collect()
    }

    fn working(number: u8, node: u64, attempt: u32) -> Task {
        Task { state: TaskState::Working { node: NodeId(node) }, attempt, ..task(number) }
    }

    #[test]
    fn only_what_the_record_gives_to_this_node_is_begun_and_once_in_each_attempt() {
        let check = |tasks: &[Task], held: &[(u8, u32, Stage)], expected: &[&str]| {
            assert_eq!(deeds(tasks, held), expected, "{tasks:?} {held:?}");
        };
        let works = Stage::Works;
        check(&[], &[], &[]);
        check(&[task(1), working(2, 3, 1)], &[], &[]);
        check(&[working(1, 2, 1)], &[], &["begin 1"]);
        check(&[working(1, 2, 1)], &[(1, 1, works)], &[]);
        check(&[working(1, 2, 2)], &[(1, 1, works)], &["drop 1", "begin 1"]);
        check(&[working(1, 3, 2)], &[(1, 1, works)], &["drop 1"]);
        check(&[], &[(1, 1, works)], &["drop 1"]);
        // Its end is not seen here yet; then it is, and the same number is another round of a task asked for again.
        check(&[working(1, 2, 1)], &[(1, 1, Stage::Ended(51))], &[]);
        check(&[working(1, 2, 1)], &[(1, 1, Stage::Ended(50))], &["drop 1", "begin 1"]);
        check(&[working(1, 2, 1)], &[(1, 1, Stage::LetGo)], &[]);
        check(&[working(1, 2, 2)], &[(1, 1, Stage::LetGo)], &["drop 1", "begin 1"]);
    }

    #[test]
    fn what_is_to_stop_is_asked_to_while_it_works() {
        let asked = Task { cancel_asked: true, ..working(1, 2, 1) };
        assert_eq!(deeds(std::slice::from_ref(&asked), &[(1, 1, Stage::Works)]), ["cancel 1"]);
        assert!(deeds(std::slice::from_ref(&asked), &[(1, 1, Stage::Ended(60))]).is_empty());
        assert_eq!(deeds(&[asked], &[]), ["begin 1"], "whoever begins it ends it at once");
    }

    #[test]
    fn the_first_have_the_highest_priority_and_a_node_works_at_so_many() {
        let mut tasks: Vec<Task> = (1..=100).map(|number| working(number, 2, 1)).collect();
        tasks[99].priority = 9;
        let all = deeds(&tasks, &[(1, 1, Stage::Works)]);
        assert_eq!(all.len(), TASKS_PER_NODE_MAX - 1);
        assert_eq!(all[..2], ["begin 100", "begin 2"]);
    }

    #[test]
    fn what_may_be_half_done_since_an_earlier_life_is_not_begun() {
        let told_at = Timestamp(500);
        let once = |begun_at: u64| Task {
            repeatable: false,
            begun_at: Timestamp(begun_at),
            updated_at: told_at,
            ..working(1, 2, 1)
        };
        assert!(deeds(&[once(99)], &[]).is_empty());
        assert_eq!(deeds(&[once(100)], &[]), ["begin 1"]);
    }

    #[test]
    fn a_task_ends_by_what_its_work_answers() {
        let failed = |code: ErrorCode| Err(ToolError::new(code, "no room", "free some"));
        let done = outcome(Ok(json!({"nodes": ["a"]})), true, true);
        assert_eq!(done, Some(TaskOutcome::Completed { result_json: r#"{"nodes":["a"]}"#.to_owned() }));
        let (text, next) = ("no room".to_owned(), "free some".to_owned());
        let full = TaskOutcome::Failed { code: ErrorCode::DiskFull, text, next };
        assert_eq!(outcome(failed(ErrorCode::DiskFull), true, false), Some(full.clone()));
        assert_eq!(outcome(failed(ErrorCode::DiskFull), true, true), Some(full), "nobody has ended it");
        let cancelled = TaskOutcome::Cancelled { text: "no room".to_owned() };
        assert_eq!(outcome(failed(ErrorCode::PullCancelled), true, true), Some(cancelled));
        let large = outcome(Ok(json!("x".repeat(TASK_RESULT_BYTES_MAX))), true, false);
        assert!(matches!(large, Some(TaskOutcome::Failed { code: ErrorCode::BodyTooLarge, .. })), "{large:?}");
    }

    #[test]
    fn what_passes_ends_no_task_that_may_be_done_twice() {
        let outcome = |code: ErrorCode, repeatable: bool, cancel_asked: bool| {
            outcome(Err(ToolError::new(code, "not now", "")), repeatable, cancel_asked)
        };
        for code in [ErrorCode::NoQuorum, ErrorCode::OutcomeUnknown, ErrorCode::Overloaded, ErrorCode::Draining] {
            assert_eq!(outcome(code, true, false), None, "{code}");
            assert_eq!(outcome(code, true, true), None, "{code}: it goes on until it is ended");
            assert!(matches!(outcome(code, false, false), Some(TaskOutcome::Failed { .. })), "{code}");
        }
        for code in [ErrorCode::ModelNotFound, ErrorCode::PeerUnreachable, ErrorCode::PullCancelled] {
            assert!(matches!(outcome(code, true, false), Some(TaskOutcome::Failed { .. })), "{code}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let check = |text: &str, bytes: usize| assert_eq!(cut(text).len(), bytes);
        check("short", 5);
        check(&"x".repeat(TASK_TEXT_BYTES_MAX + 1), TASK_TEXT_BYTES_MAX);
        check(&"€".repeat(TASK_TEXT_BYTES_MAX), TASK_TEXT_BYTES_MAX / 3 * 3);
    }
}
