//! The administrator's changes, for who asks in other words than gRPC's: the same guards, under the asker's own name.
//!
//! A change that carries a key has effect once, whichever node it is sent to and however often: key and effect are one
//! entry of the log. So where an answer is lost such a change is sent again here, and likewise one that names what it
//! makes or ends, since the second of two that are the same does nothing; any other without a key never is. What
//! certainly did not happen, since no leader was heard, is tried again either way, for a bounded time.

use futures::stream::{BoxStream, StreamExt as _};

use ollamax_core::catalog::{Answer, Command, OnceKey, Replicas, read};
use ollamax_metadata as metadata;
use ollamax_metadata::{Committed, ProposeError};
use ollamax_proto::v1;
use ollamax_types::RequestId;

use super::Admin;
use super::daemon::AdminError;
use super::events::{event, lost};
use super::pulls::{Pulls, parse};
use super::registry::phasing;
use super::tokens::shown_here;

/// How often a change is sent, each time with the time that a change has: long enough for another leader.
const ATTEMPTS_MAX: u32 = 3;

/// Who asks for a change.
#[derive(Debug, Clone)]
pub struct By {
    /// The call behind it.
    pub request: RequestId,
    /// For whom, as the log tells it behind this node's name.
    pub principal: String,
    /// What makes it have effect once, if anything.
    pub once: Option<OnceKey>,
}

/// How far nodes are with a model, as an administrator hears it.
pub type PullStates = BoxStream<'static, Result<v1::PullProgress, AdminError>>;

// === impl Admin ===

impl Admin {
    /// Why this node has no engines, where it has none.
    #[must_use]
    pub fn without_engines(&self) -> AdminError {
        AdminError::without_engines(self.daemon.facts().phase)
    }

    /// Makes a change for somebody, and waits a little until this node shows it.
    ///
    /// # Errors
    /// When the cluster refuses it, or cannot make it.
    pub async fn change_by(&self, by: &By, command: Command) -> Result<(), AdminError> {
        self.answered_by(by, command).await.map(drop)
    }

    /// As [`Admin::change_by`], with what the cluster answers: where the same was asked before under the same key, what
    /// it answered then.
    async fn answered_by(&self, by: &By, command: Command) -> Result<Answer, AdminError> {
        let metadata = self.metadata()?;
        let committed = committed(&metadata, by, &command).await?;
        if let Answer::Refused(refusal) = committed.answer {
            return Err(refusal.into());
        }
        shown_here(&metadata, committed.revision).await;
        Ok(committed.answer)
    }

    /// What the same request was answered before under the same key, as this node has it on record.
    fn remembered(&self, by: &By) -> Result<Option<Answer>, AdminError> {
        let Some(once) = by.once else { return Ok(None) };
        let metadata = self.metadata()?;
        let (held, now) = (read::once(&*metadata.view(), &once.key)?, metadata.log_time());
        Ok(held.filter(|held| held.digest == once.digest && held.ends_at > now).map(|held| held.answer))
    }

    /// Holds a model at a version, or lets it go. With a key, what is told is the version of the first time.
    ///
    /// # Errors
    /// When there is no such model or version, and as [`Admin::change_by`].
    pub async fn pin_by(&self, by: &By, asked: &v1::PinModelRequest) -> Result<v1::PinModelReply, AdminError> {
        let (command, reply) = match Pulls(self.clone()).pinning(asked).await {
            Ok(made) => made,
            // What it was asked for the first time may have gone by now.
            Err(error) => {
                let Some(Answer::Pinned { digest }) = self.remembered(by)? else { return Err(error) };
                return Ok(v1::PinModelReply { name: parse(&asked.name)?.to_string(), digest: digest.0.to_vec() });
            }
        };
        match self.answered_by(by, command).await? {
            Answer::Pinned { digest } => Ok(v1::PinModelReply { digest: digest.0.to_vec(), ..reply }),
            _ => Ok(reply),
        }
    }

    /// Takes a model out of use, or into it again.
    ///
    /// # Errors
    /// When that is no phase, and as [`Admin::change_by`].
    pub async fn set_phase_by(&self, by: &By, asked: v1::SetPhaseRequest) -> Result<(), AdminError> {
        self.change_by(by, phasing(asked)?).await
    }

    /// Has a node take no new work, or take it again.
    ///
    /// # Errors
    /// When there is no such node, and as [`Admin::change_by`].
    pub async fn drain_by(&self, by: &By, node: &str, drained: bool) -> Result<(), AdminError> {
        let node = self.find(node)?.id;
        self.change_by(by, Command::SetDrained { node, drained }).await
    }

    /// Puts on record that a model is wanted, and tells how far all nodes are, until it is over on each. A failure is
    /// the last word.
    ///
    /// # Errors
    /// When it cannot be put on record.
    pub async fn pull_by(&self, by: &By, asked: v1::PullRequest) -> Result<PullStates, AdminError> {
        let asked = v1::PullRequest { wait: true, ..asked };
        let states = Pulls(self.clone()).start(asked, &by.principal).await?;
        Ok(states.map(|state| state.map_err(|status| AdminError::from(&status))).boxed())
    }

    /// Where copies would be wanted by a pull.
    ///
    /// # Errors
    /// When it names no model, or nodes that are none, or contradicts itself.
    pub fn replicas_of_pull(&self, asked: &v1::PullRequest) -> Result<Replicas, AdminError> {
        Pulls(self.clone()).wanted(&self.metadata()?, &parse(&asked.name)?, asked)
    }

    /// Ends what is wanted of a model while it is on its way; what came so far is kept. Whether there was anything.
    ///
    /// # Errors
    /// When that cannot be put on record.
    pub async fn cancel_pull(&self, name: &str) -> Result<bool, AdminError> {
        let asked = v1::CancelPullRequest { name: name.to_owned(), node: String::new() };
        Ok(Pulls(self.clone()).cancel(asked).await?.found)
    }

    /// Removes copies, or only says which would go.
    ///
    /// # Errors
    /// When a guard forbids it, and as [`Admin::change_by`].
    pub async fn remove_by(&self, by: &By, asked: &v1::RemoveModelRequest) -> Result<v1::RemoveModelReply, AdminError> {
        if asked.dry_run {
            return Pulls(self.clone()).remove_copies(by.request.clone(), asked, false).await;
        }
        let (command, told, refusal) = Pulls(self.clone()).removing(asked, false).await?;
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        self.change_by(by, command).await?;
        Ok(told)
    }

    /// What happened in the cluster: the first from a revision on, that one too; else the last that this node keeps.
    /// The oldest stands first.
    ///
    /// # Errors
    /// When what was asked for is not kept any more, or this node has no engines.
    pub fn kept_events(&self, since: Option<u64>, limit: usize) -> Result<Vec<v1::ClusterEvent>, AdminError> {
        let since = since.filter(|since| *since > 0);
        let mut watcher = self.metadata()?.events(Vec::new(), since);
        let mut kept = Vec::new();
        while let Some(batch) = watcher.next_kept().map_err(|error| lost(&error))? {
            kept.extend(batch.events.into_iter().map(event));
            if since.is_some() && kept.len() >= limit {
                break;
            }
        }
        let surplus = kept.len().saturating_sub(limit);
        if since.is_some() {
            kept.truncate(limit);
        } else {
            kept.drain(..surplus);
        }
        Ok(kept)
    }
}

/// Sends a change until it is answered, as often as that is harmless.
async fn committed(metadata: &metadata::Handle, by: &By, command: &Command) -> Result<Committed, ProposeError> {
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let change = metadata::Change::new(by.request.clone(), &by.principal, command.clone());
        let error = match metadata.propose_change(metadata::Change { once: by.once, ..change }).await {
            Ok(committed) => return Ok(committed),
            Err(error) => error,
        };
        let (is_again, error) = heard(last.take(), error, by.once.is_some() || is_once(command));
        if !is_again {
            return Err(error);
        }
        last = Some(error);
    }
    Err(last.unwrap_or_else(|| ProposeError::NoQuorum("no leader is heard".to_owned())))
}

/// Whether the change is sent again after this error, and which error counts: what may have happened once may have
/// happened, whatever is heard later.
fn heard(before: Option<ProposeError>, error: ProposeError, is_once: bool) -> (bool, ProposeError) {
    let is_again = match &error {
        ProposeError::NoQuorum(_) => true,
        ProposeError::OutcomeUnknown(_) => is_once,
        _ => false,
    };
    let unknown = before.filter(|before| matches!(before, ProposeError::OutcomeUnknown(_)));
    (is_again, unknown.unwrap_or(error))
}

/// Whether it has effect once also without a key: the id of a task is drawn before it is opened, and a task that was
/// told to end is not told again.
const fn is_once(command: &Command) -> bool {
    matches!(command, Command::OpenTask { .. } | Command::CancelTask { .. })
}

#[cfg(test)]
mod tests {
    use ollamax_types::{ErrorCode, TaskId};

    use super::*;

    #[test]
    fn a_change_is_sent_again_where_that_is_harmless_and_what_may_have_happened_stays_unknown() {
        let none = || ProposeError::NoQuorum("no leader".to_owned());
        let unknown = || ProposeError::OutcomeUnknown("no answer".to_owned());
        let check = |before: Option<ProposeError>, error: ProposeError, is_keyed: bool, expected: (bool, ErrorCode)| {
            let (is_again, counts) = heard(before, error, is_keyed);
            assert_eq!((is_again, counts.code()), expected);
        };
        check(None, none(), false, (true, ErrorCode::NoQuorum));
        check(None, unknown(), false, (false, ErrorCode::OutcomeUnknown));
        check(None, unknown(), true, (true, ErrorCode::OutcomeUnknown));
        check(None, ProposeError::Overloaded, true, (false, ErrorCode::Overloaded));
        check(Some(none()), ProposeError::Overloaded, true, (false, ErrorCode::Overloaded));
        check(Some(unknown()), none(), true, (true, ErrorCode::OutcomeUnknown));
        check(Some(unknown()), ProposeError::Overloaded, true, (false, ErrorCode::OutcomeUnknown));
    }

    #[test]
    fn a_task_is_opened_and_told_to_end_once_without_a_key_too_and_nothing_else_is() {
        let id = TaskId([7; 16]);
        let open = Command::OpenTask {
            id,
            tool: "pull_model".to_owned(),
            arguments_json: "{}".to_owned(),
            subject: "uid/7".to_owned(),
            priority: 5,
            repeatable: true,
            needs_approval: false,
            plan: String::new(),
        };
        assert!(is_once(&open) && is_once(&Command::CancelTask { id }));
        assert!(!is_once(&Command::RetryTask { id, plan: String::new() }) && !is_once(&Command::Expire));
    }
}
