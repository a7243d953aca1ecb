//! Tasks, by id.
//!
//! Key: `15`, id, 16 bytes. Value: version 1, `TaskRecord`; the id is in the key alone. Replaced by what happens to the
//! task, deleted when it is over since long ago.

use ollamax_core::catalog::{Key, Task, TaskOutcome, TaskProgress, TaskState};
use ollamax_proto::disk;
use ollamax_proto::disk::task_outcome::Outcome;
use ollamax_proto::disk::task_standing::Standing;
use ollamax_types::{ErrorCode, NodeId, TaskId, Timestamp};

use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x15;
const VERSION: u8 = 1;
const WHAT: &str = "task record";

pub(super) fn encode_key(id: &TaskId) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&id.0);
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Task(TaskId(fixed("task key", rest)?)))
}

pub(super) fn encode(record: &Task) -> Vec<u8> {
    let message = disk::TaskRecord {
        tool: record.tool.clone(),
        arguments_json: record.arguments_json.clone(),
        subject: record.subject.clone(),
        priority: u32::from(record.priority),
        repeatable: record.repeatable,
        needs_approval: record.needs_approval,
        standing: Some(disk::TaskStanding { standing: Some(standing(&record.state)) }),
        attempt: record.attempt,
        losses: record.losses,
        cancel_asked: record.cancel_asked,
        progress: progress(&record.progress),
        asked_by: record.asked_by.clone(),
        created_at_ms: record.created_at.0,
        begun_at_ms: record.begun_at.0,
        updated_at_ms: record.updated_at.0,
        due_at_ms: record.due_at.0,
        plan: record.plan.clone(),
    };
    seal(VERSION, &message)
}

pub(super) fn decode(id: TaskId, bytes: &[u8]) -> Result<Task, Malformed> {
    let message: disk::TaskRecord = unseal(WHAT, VERSION, bytes)?;
    let priority = u8::try_from(message.priority)
        .map_err(|_| Malformed::new(WHAT, format!("{} is no priority", message.priority)))?;
    let state = message.standing.and_then(|standing| state(standing.standing?));
    let state = state.ok_or_else(|| Malformed::new(WHAT, "it stands where this release does not know"))?;
    Ok(Task {
        id,
        tool: message.tool,
        arguments_json: message.arguments_json,
        subject: message.subject,
        priority,
        repeatable: message.repeatable,
        needs_approval: message.needs_approval,
        plan: message.plan,
        state,
        attempt: message.attempt,
        losses: message.losses,
        cancel_asked: message.cancel_asked,
        progress: progress_of(message.progress),
        asked_by: message.asked_by,
        created_at: Timestamp(message.created_at_ms),
        begun_at: Timestamp(message.begun_at_ms),
        updated_at: Timestamp(message.updated_at_ms),
        due_at: Timestamp(message.due_at_ms),
    })
}

fn standing(state: &TaskState) -> Standing {
    match state {
        TaskState::Waiting => Standing::Waiting(disk::LogBlank {}),
        TaskState::Queued => Standing::Queued(disk::LogBlank {}),
        TaskState::Working { node } => Standing::Working(node.0),
        TaskState::Completed { result_json } => {
            Standing::Over(outcome(&TaskOutcome::Completed { result_json: result_json.clone() }))
        }
        TaskState::Failed { code, text, next } => {
            let (code, text, next) = (*code, text.clone(), next.clone());
            Standing::Over(outcome(&TaskOutcome::Failed { code, text, next }))
        }
        TaskState::Cancelled => Standing::Over(outcome(&TaskOutcome::Cancelled { text: String::new() })),
    }
}

/// `None`: a newer release wrote it.
fn state(standing: Standing) -> Option<TaskState> {
    Some(match standing {
        Standing::Waiting(disk::LogBlank {}) => TaskState::Waiting,
        Standing::Queued(disk::LogBlank {}) => TaskState::Queued,
        Standing::Working(node) => TaskState::Working { node: NodeId(node) },
        Standing::Over(over) => outcome_of(over)?.into(),
    })
}

pub(crate) fn outcome(outcome: &TaskOutcome) -> disk::TaskOutcome {
    let outcome = match outcome {
        TaskOutcome::Completed { result_json } => Outcome::Completed(result_json.clone()),
        TaskOutcome::Failed { code, text, next } => {
            let (code, text, next) = (code.as_str().to_owned(), text.clone(), next.clone());
            Outcome::Failed(disk::TaskFailure { code, text, next })
        }
        TaskOutcome::Cancelled { text } => Outcome::Cancelled(text.clone()),
    };
    disk::TaskOutcome { outcome: Some(outcome) }
}

/// `None`: a newer release wrote it.
pub(crate) fn outcome_of(stored: disk::TaskOutcome) -> Option<TaskOutcome> {
    Some(match stored.outcome? {
        Outcome::Completed(result_json) => TaskOutcome::Completed { result_json },
        Outcome::Failed(disk::TaskFailure { code, text, next }) => {
            TaskOutcome::Failed { code: ErrorCode::from_text(&code)?, text, next }
        }
        Outcome::Cancelled(text) => TaskOutcome::Cancelled { text },
    })
}

/// Nothing is written of a task of which nothing was told.
pub(crate) fn progress(progress: &TaskProgress) -> Option<disk::TaskProgress> {
    let TaskProgress { done, total, text } = progress;
    let message = disk::TaskProgress { done: *done, total: *total, text: text.clone() };
    (*progress != TaskProgress::default()).then_some(message)
}

pub(crate) fn progress_of(stored: Option<disk::TaskProgress>) -> TaskProgress {
    let disk::TaskProgress { done, total, text } = stored.unwrap_or_default();
    TaskProgress { done, total, text }
}
