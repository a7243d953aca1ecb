//! The administrator's changes, for who asks in other words than gRPC's: the same guards, under the asker's own name.
//!
//! A change that carries a key has effect once, whichever node it is sent to and however often: key and effect are one
//! entry of the log. So where an answer is lost such a change is sent again here, and likewise one that names what it
//! makes or ends, since the second of two that are the same does nothing; any other without a key never is. What
//! certainly did not happen, since no leader was heard, is tried again either way, for a bounded time.

use futures::stream::{BoxStream, StreamExt as _};

use ollamax_core::catalog::principal::asker_of;
use ollamax_core::catalog::{Answer, Command, Once, OnceKey, Refusal, Replicas, Wish, read};
use ollamax_metadata as metadata;
use ollamax_metadata::{Committed, ProposeError};
use ollamax_proto::v1;
use ollamax_types::{ErrorCode, RequestId};

use super::Admin;
use super::daemon::AdminError;
use super::events::{event, lost};
use super::pulls::{Pulls, parse};
use super::registry::phasing;
use super::tokens::shown_here;
use crate::order;

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

/// What became of what was asked for of a model, when it was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBack {
    /// It is not wanted any more.
    Ended,
    /// There is nothing to end: it was never asked for, or somebody ended it before.
    Nothing,
    /// All that were to have the model do, and it stays so.
    Met,
    /// It stays wanted: others wanted the model before, or want it since, or nobody knows any more who asked for it.
    Stays,
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
    fn remembered(&self, by: &By) -> Result<Option<Once>, AdminError> {
        let Some(OnceKey { key, digest }) = by.once else { return Ok(None) };
        let metadata = self.metadata()?;
        let (held, now) = (read::once(&*metadata.view(), &key)?, metadata.log_time());
        Ok(held.filter(|held| held.digest == digest && held.ends_at > now))
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
                let Some(Once { answer: Answer::Pinned { digest }, .. }) = self.remembered(by)? else {
                    return Err(error);
                };
                return Ok(v1::PinModelReply { name: parse(&asked.name)?.to_string(), digest: digest.0.to_vec() });
            }
        };
        match self.answered_by(by, command).await? {
            Answer::Pinned { digest } => Ok(v1::PinModelReply { digest: digest.0.to_vec(), ..reply }),
            _ => Ok(reply),
        }
    }

    /// The version at which a model would be held, or was. Changes nothing.
    ///
    /// # Errors
    /// When there is no such model or version, and when nobody leads.
    pub async fn foresee_pin(&self, asked: &v1::PinModelRequest) -> Result<v1::PinModelReply, AdminError> {
        Ok(Pulls(self.clone()).pinning(asked).await?.1)
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

    /// What the same request was answered before under the same key, by what is newest on record.
    ///
    /// # Errors
    /// When no majority says what is newest, or the state cannot be read.
    pub async fn answered(&self, by: &By) -> Result<Option<Once>, AdminError> {
        if by.once.is_some() {
            self.metadata()?.read_barrier().await?;
        }
        self.remembered(by)
    }

    /// Puts on record that a model is wanted, and tells how far all nodes are, until it is over on each. A failure is
    /// the last word. What was asked for before with the same key is not asked for again: what is told is how far that
    /// is which is wanted by now.
    ///
    /// # Errors
    /// When it cannot be put on record, and where it was there before and somebody ended it.
    pub async fn pull_by(&self, by: &By, asked: v1::PullRequest) -> Result<PullStates, AdminError> {
        let asked = v1::PullRequest { wait: true, ..asked };
        if self.answered(by).await?.is_some() {
            let name = parse(&asked.name)?;
            if read::wish(&*self.metadata()?.view(), &name)?.is_none() {
                let (what, why) = (format!("{name} is not wanted any more"), "somebody ended that meanwhile");
                let next = format!("ollamax model pull {name} goes on where it stopped");
                return Err(AdminError::new(ErrorCode::PullCancelled, what, why, next));
            }
        }
        let states = Pulls(self.clone()).start(asked, &by.principal, by.once).await?;
        Ok(states.map(|state| state.map_err(|status| AdminError::from(&status))).boxed())
    }

    /// Where copies would be wanted by a pull.
    ///
    /// # Errors
    /// When it names no model, or nodes that are none, or contradicts itself.
    pub fn replicas_of_pull(&self, asked: &v1::PullRequest) -> Result<Replicas, AdminError> {
        Pulls(self.clone()).wanted(&self.metadata()?, &parse(&asked.name)?, asked)
    }

    /// Ends what a request with this key asked for of a model, while it is on its way and nobody else's; what came so
    /// far is kept. `heard` is what it was answered, for when the key is forgotten by now.
    ///
    /// # Errors
    /// When that cannot be put on record.
    pub async fn take_back_by(&self, by: &By, name: &str, heard: Option<&Once>) -> Result<TakenBack, AdminError> {
        let (name, answered, metadata) = (parse(name)?, self.answered(by).await?, self.metadata()?);
        let answered = answered.as_ref().or(heard);
        let view = metadata.view();
        let round = match own_round(answered, read::wish(&*view, &name)?.as_ref(), &by.principal) {
            Ok(round) => round,
            Err(not_its_own) => return Ok(not_its_own),
        };
        if order::is_met(&*view, &name)? {
            return Ok(TakenBack::Met);
        }
        // Doing this twice does it once: the round passes.
        let by = By { once: None, ..by.clone() };
        let committed = committed(&metadata, &by, &Command::ForgetWish { name, round: Some(round) }).await?;
        let taken_back = match committed.answer {
            Answer::Refused(Refusal::WishNotFound(_)) => TakenBack::Nothing,
            Answer::Refused(Refusal::RoundPassed { .. }) => TakenBack::Stays,
            Answer::Refused(refusal) => return Err(refusal.into()),
            _ => TakenBack::Ended,
        };
        shown_here(&metadata, committed.revision).await;
        Ok(taken_back)
    }

    /// Removes copies, or only says which would go. What was removed before with the same key is not removed again: it
    /// is told what is still to go of it.
    ///
    /// # Errors
    /// When a guard forbids it, and as [`Admin::change_by`].
    pub async fn remove_by(&self, by: &By, asked: &v1::RemoveModelRequest) -> Result<v1::RemoveModelReply, AdminError> {
        if asked.dry_run {
            return Pulls(self.clone()).remove_copies(by.request.clone(), asked, false).await;
        }
        if self.answered(by).await?.is_some() {
            return Pulls(self.clone()).going(asked);
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

/// The round in which is wanted what a request asked for, and nobody but whoever made it.
fn own_round(once: Option<&Once>, wish: Option<&Wish>, asker: &str) -> Result<u64, TakenBack> {
    let wish = wish.ok_or(TakenBack::Nothing)?;
    let Some(Once { answer: Answer::Wish { round }, .. }) = once else { return Err(TakenBack::Stays) };
    let is_own = wish.round == *round && !wish.declared && !wish.shared && asker_of(&wish.asked_by) == asker;
    if is_own { Ok(*round) } else { Err(TakenBack::Stays) }
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
    use ollamax_types::{TaskId, Timestamp};

    use super::*;

    #[test]
    fn a_request_ends_what_it_asked_for_alone_and_nobody_elses() {
        let once = |answer: Answer| Once { digest: [1; 32], revision: 7, term: 1, answer, ends_at: Timestamp(9) };
        let own = || Some(once(Answer::Wish { round: 7 }));
        let wish = |round: u64, asked_by: &str, declared: bool| Wish {
            name: "m".parse().expect("a name"),
            round,
            insecure: false,
            replicas: Replicas::Count(2),
            digest: None,
            size_bytes: 0,
            plan: None,
            failures: Default::default(),
            asked_at: Timestamp(1),
            asked_by: asked_by.to_owned(),
            want: Default::default(),
            declared,
            surplus: Default::default(),
            shared: false,
        };
        let of = |round: u64, asked_by: &str| Some(wish(round, asked_by, false));
        let check = |what: &str, once: Option<Once>, wish: Option<Wish>, expected: Result<u64, TakenBack>| {
            assert_eq!(own_round(once.as_ref(), wish.as_ref(), "uid/7"), expected, "{what}");
        };
        check("its own", own(), of(7, "node/2 for uid/7"), Ok(7));
        check("never asked for", None, None, Err(TakenBack::Nothing));
        check("never asked for, or forgotten", None, of(7, "node/2 for uid/7"), Err(TakenBack::Stays));
        check("ended before", own(), None, Err(TakenBack::Nothing));
        check("no pull", Some(once(Answer::Done)), of(7, "node/2 for uid/7"), Err(TakenBack::Stays));
        check("changed since", own(), of(8, "node/2 for uid/7"), Err(TakenBack::Stays));
        let joined = Some(once(Answer::Wish { round: 5 }));
        check("it joined another's", joined, of(5, "node/1 for admin"), Err(TakenBack::Stays));
        let in_place = Some(Wish { shared: true, ..wish(7, "node/2 for uid/7", false) });
        check("in the place of another's", own(), in_place, Err(TakenBack::Stays));
        let declared = Some(wish(7, "node/2 for uid/7", true));
        check("a file says it", own(), declared, Err(TakenBack::Stays));
    }

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
