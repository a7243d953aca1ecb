//! Tasks and the key of a request, within an envelope.
//!
//! An id or a key of another length, a priority beyond a byte, and an end of a task that this release does not know are
//! errors.

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::{OnceKey, TaskTold};
use ollamax_proto::disk;
use ollamax_proto::disk::envelope::Command as Stored;
use ollamax_store::answer::{decode_outcome, decode_progress, encode_outcome, encode_progress};
use ollamax_types::{NodeId, TaskId};

use super::{EnvelopeError, array};

pub(super) fn encode_once(once: OnceKey) -> disk::EnvelopeOnce {
    disk::EnvelopeOnce { key: once.key.to_vec(), digest: once.digest.to_vec() }
}

pub(super) fn decode_once(stored: &disk::EnvelopeOnce) -> Result<OnceKey, EnvelopeError> {
    Ok(OnceKey { key: array(&stored.key, "key")?, digest: array(&stored.digest, "digest")? })
}

/// A command about tasks; `None`: it is another one.
pub(super) fn encode(command: &Command) -> Option<Stored> {
    Some(match command {
        Command::OpenTask { id, tool, arguments_json, subject, priority, repeatable, needs_approval, plan } => {
            Stored::OpenTask(disk::CommandOpenTask {
                id: id.0.to_vec(),
                tool: tool.clone(),
                arguments_json: arguments_json.clone(),
                subject: subject.clone(),
                priority: u32::from(*priority),
                repeatable: *repeatable,
                needs_approval: *needs_approval,
                plan: plan.clone(),
            })
        }
        Command::DecideTask { id, approved, attempt } => {
            let (id, approved, attempt) = (id.0.to_vec(), *approved, *attempt);
            Stored::DecideTask(disk::CommandDecideTask { id, approved, attempt })
        }
        Command::AssignTask { id, node } => {
            Stored::AssignTask(disk::CommandAssignTask { id: id.0.to_vec(), node: node.0 })
        }
        Command::TellTasks { node, tasks } => {
            Stored::TellTasks(disk::CommandTellTasks { node: node.0, tasks: tasks.iter().map(encode_told).collect() })
        }
        Command::EndTask { node, id, attempt, outcome } => Stored::EndTask(disk::CommandEndTask {
            node: node.0,
            id: id.0.to_vec(),
            attempt: *attempt,
            outcome: Some(encode_outcome(outcome)),
        }),
        Command::CancelTask { id } => Stored::CancelTask(id.0.to_vec()),
        Command::RetryTask { id, plan } => {
            Stored::RetryTask(disk::CommandRetryTask { id: id.0.to_vec(), plan: plan.clone() })
        }
        _ => return None,
    })
}

fn encode_told(told: &TaskTold) -> disk::ToldTask {
    let TaskTold { id, attempt, progress } = told;
    disk::ToldTask { id: id.0.to_vec(), attempt: *attempt, progress: encode_progress(progress) }
}

pub(super) fn decode_open(stored: disk::CommandOpenTask) -> Result<Command, EnvelopeError> {
    Ok(Command::OpenTask {
        id: id(&stored.id)?,
        tool: stored.tool,
        arguments_json: stored.arguments_json,
        subject: stored.subject,
        priority: u8::try_from(stored.priority).map_err(|_| EnvelopeError::Field("priority"))?,
        repeatable: stored.repeatable,
        needs_approval: stored.needs_approval,
        plan: stored.plan,
    })
}

pub(super) fn decode_decide(stored: &disk::CommandDecideTask) -> Result<Command, EnvelopeError> {
    Ok(Command::DecideTask { id: id(&stored.id)?, approved: stored.approved, attempt: stored.attempt })
}

pub(super) fn decode_assign(stored: &disk::CommandAssignTask) -> Result<Command, EnvelopeError> {
    Ok(Command::AssignTask { id: id(&stored.id)?, node: NodeId(stored.node) })
}

pub(super) fn decode_tell(stored: disk::CommandTellTasks) -> Result<Command, EnvelopeError> {
    let told = |told: disk::ToldTask| -> Result<TaskTold, EnvelopeError> {
        let (id, progress) = (id(&told.id)?, decode_progress(told.progress));
        Ok(TaskTold { id, attempt: told.attempt, progress })
    };
    let tasks = stored.tasks.into_iter().map(told).collect::<Result<_, _>>()?;
    Ok(Command::TellTasks { node: NodeId(stored.node), tasks })
}

pub(super) fn decode_end(stored: disk::CommandEndTask) -> Result<Command, EnvelopeError> {
    let outcome = decode_outcome(stored.outcome).map_err(|_| EnvelopeError::Field("outcome"))?;
    Ok(Command::EndTask { node: NodeId(stored.node), id: id(&stored.id)?, attempt: stored.attempt, outcome })
}

pub(super) fn decode_cancel(stored: &[u8]) -> Result<Command, EnvelopeError> {
    Ok(Command::CancelTask { id: id(stored)? })
}

pub(super) fn decode_retry(stored: disk::CommandRetryTask) -> Result<Command, EnvelopeError> {
    Ok(Command::RetryTask { id: id(&stored.id)?, plan: stored.plan })
}

fn id(bytes: &[u8]) -> Result<TaskId, EnvelopeError> {
    Ok(TaskId(array(bytes, "task id")?))
}
