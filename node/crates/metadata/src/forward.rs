//! Changes and linearizable reads from any node: here when this node leads, else one hop to the leader.
//!
//! Each has one deadline, on all nodes together: the leader gets what is left of it. Before anything was sent, another
//! attempt is made for as long as the deadline allows; a change that was sent and not answered is sent again only
//! within a client session or with the key of a request, because it may have happened. The node that writes an entry
//! says in it whose key asked; what the message says of that is believed as far as [`principal::stamped`] goes.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::LinearizerOption;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use ollamax_core::catalog::command::Command;
use ollamax_core::catalog::principal::{self, Untrue};
use ollamax_core::catalog::{Answer, CLUSTER_VERSION, Cluster, Entry, Member, Refusal, read};
use ollamax_types::limits::{COMMAND_BYTES_MAX, PROPOSE_TIMEOUT, READ_TIMEOUT};
use ollamax_types::{ErrorCode, NodeId, RequestId, Timestamp};

use crate::envelope;
use crate::error::{ProposeError, ReadError, ServeError};
use crate::handle::{Change, Committed, Handle, millis};
use crate::metrics::Outcome;
use crate::peers::{Lane, PeerError};
use crate::proposer::Unanswered;
use crate::raft::Types;
use crate::wire::{self, Proposal, ReadTrust, Reply, Request};

/// Pause before the leader is looked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(40);
/// What a forwarded change leaves of its time for the leader's answer to come back.
const WAY_BACK: Duration = Duration::from_millis(50);
/// Longest wait for one answer to a read; several may fit into its deadline, because asking again is harmless.
const READ_ATTEMPT: Duration = Duration::from_millis(600);
/// Why one attempt brought no result.
enum Miss {
    /// Not the leader; perhaps this one is.
    NotLeader { hint: Option<NodeId> },
    /// It certainly did not happen.
    NotDone(String),
    /// The end.
    Final(ProposeError),
}

/// Follows one hint at most between two pauses: nodes that take each other for the leader are not asked in circles.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    followed: bool,
}

// === impl Hints ===

impl Hints {
    /// Whom to ask at once after `asked` gave this hint; `None`: pause first.
    pub(crate) fn next(&mut self, asked: Option<NodeId>, hint: Option<NodeId>) -> Option<NodeId> {
        let next = hint.filter(|node| Some(*node) != asked && !self.followed);
        self.followed = next.is_some();
        next
    }
}

// === impl Handle: changes ===

impl Handle {
    /// Creates the cluster: this node alone votes, and the command, an `InitCluster`, becomes its first entry. Called
    /// again after a crash in between, it goes on where it stopped.
    ///
    /// # Errors
    /// [`ProposeError::AlreadyInitialised`] when this node follows a cluster of others; else as [`Handle::propose`].
    pub async fn init_cluster(&self, request: RequestId, command: Command) -> Result<Committed, ProposeError> {
        let me = self.node().0;
        let membership = self.raft_metrics().membership_config;
        if membership.membership().nodes().next().is_some() && !membership.membership().voter_ids().eq([me]) {
            return Err(ProposeError::AlreadyInitialised);
        }
        let members = std::collections::BTreeMap::from([(me, openraft::EmptyNode::new())]);
        match self.0.raft.initialize(members).await {
            // Not allowed: it was done before, and the command decides whether anything is left to do.
            Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => {}
            Err(RaftError::APIError(error)) => return Err(ProposeError::NoQuorum(error.to_string())),
            Err(RaftError::Fatal(fatal)) => return Err(ProposeError::Fatal(fatal.to_string())),
        }
        self.propose(request, "node/1", command).await
    }

    /// Asks for a change, from any node, within `PROPOSE_TIMEOUT`. `principal` is for whom: `admin`, or `node/3` when
    /// node 3 asks for itself. The log names this node before it, whoever leads.
    ///
    /// A refusal by the state is an answer ([`Committed::accepted`] makes it an error).
    ///
    /// # Errors
    /// See [`ProposeError`]; only [`ProposeError::OutcomeUnknown`] leaves open whether the change happened.
    pub async fn propose(
        &self,
        request: RequestId,
        principal: &str,
        command: Command,
    ) -> Result<Committed, ProposeError> {
        self.propose_change(Change::new(request, principal, command)).await
    }

    /// As [`Handle::propose`], with what else a change may say. In a client session, or with a key, the same change is
    /// sent again after an answer was lost, for as long as the deadline allows: it has effect once.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose_change(&self, change: Change) -> Result<Committed, ProposeError> {
        self.propose_until(change, Instant::now() + PROPOSE_TIMEOUT).await
    }

    pub(crate) async fn propose_until(&self, change: Change, deadline: Instant) -> Result<Committed, ProposeError> {
        let entry = Entry {
            least_version: change.command.least_version(),
            log_time: Timestamp(0),
            request: change.request,
            principal: change.principal,
            namespace: String::new(),
            session: change.session,
            fence_term: change.fence_term,
            once: change.once,
            command: change.command,
        };
        // Boxed, so that what calls this does not nest deeper than the compiler follows.
        let result = Box::pin(self.propose_entry(&entry, deadline)).await;
        self.0.metrics.proposed(match &result {
            Ok(Committed { answer: Answer::Refused(_), .. }) => Outcome::Refused,
            Ok(_) => Outcome::Committed,
            Err(ProposeError::NoQuorum(_)) => Outcome::NoQuorum,
            Err(ProposeError::OutcomeUnknown(_)) => Outcome::Unknown,
            Err(_) => Outcome::Rejected,
        });
        result
    }

    async fn propose_entry(&self, entry: &Entry, deadline: Instant) -> Result<Committed, ProposeError> {
        let sealed = envelope::encode(entry);
        let _room = self.reserve(&sealed)?;
        let mut target = self.heard_leader();
        let mut why = ProposeError::NoQuorum("no leader is heard".to_owned());
        let mut hints = Hints::default();
        loop {
            let attempt = match target {
                None => Err(Miss::NotLeader { hint: None }),
                Some(node) if node == self.node() => self.write_own(entry, deadline).await,
                Some(node) => self.forward(node, sealed.clone(), deadline).await,
            };
            let miss = match attempt {
                // The attempt before may have happened, and nobody remembers.
                Ok(Committed { answer: Answer::Refused(refusal), .. }) if is_forgotten(&refusal, &why) => {
                    return Err(ProposeError::OutcomeUnknown(refusal.to_string()));
                }
                Ok(committed) => return Ok(committed),
                Err(miss) => miss,
            };
            let hint = match miss {
                Miss::Final(unknown @ ProposeError::OutcomeUnknown(_)) if has_effect_once(entry) => {
                    why = unknown;
                    hints.next(target, None)
                }
                Miss::Final(error) => return Err(last_word(why, error)),
                Miss::NotLeader { hint } => hints.next(target, hint),
                Miss::NotDone(reason) => {
                    why = last_word(why, ProposeError::NoQuorum(reason));
                    hints.next(target, None)
                }
            };
            if hint.is_none() && self.pause(deadline).await.is_break() {
                return Err(why);
            }
            target = hint.or_else(|| self.heard_leader());
        }
    }

    /// Room for these bytes on this node's disk, and among the proposals on their way; given back when the permit goes.
    fn reserve(&self, sealed: &Bytes) -> Result<OwnedSemaphorePermit, ProposeError> {
        let bytes = sealed.len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, limit: COMMAND_BYTES_MAX });
        }
        self.0.store.check_room()?;
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.0.room.clone().try_acquire_many_owned(permits).map_err(|_| ProposeError::Overloaded)
    }

    /// Waits a little for a leader to appear; breaks at the deadline.
    pub(crate) async fn pause(&self, deadline: Instant) -> ControlFlow<()> {
        let until = Instant::now() + RETRY_PAUSE;
        if until >= deadline {
            tokio::time::sleep_until(deadline).await;
            return ControlFlow::Break(());
        }
        tokio::time::sleep_until(until).await;
        ControlFlow::Continue(())
    }

    async fn forward(&self, to: NodeId, sealed: Bytes, deadline: Instant) -> Result<Committed, Miss> {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait_ms = millis(left.saturating_sub(WAY_BACK));
        if wait_ms == 0 {
            return Err(Miss::NotDone(format!("no time is left to ask leader {to}")));
        }
        let proposal = Proposal { envelope: sealed, wait_ms };
        let body = wire::encode_request(self.0.identity.cluster, to, Request::Propose(proposal));
        let unknown = |reason: String| Err(Miss::Final(ProposeError::OutcomeUnknown(reason)));
        let call = self.0.peers.call(to, Lane::Forward, body, left);
        match tokio::time::timeout(left, call).await.unwrap_or(Err(PeerError::TimedOut)) {
            Err(error @ PeerError::Unreachable(_)) => Err(Miss::NotDone(format!("leader {to} {error}"))),
            // It leads already, and its doors are not open yet.
            Err(PeerError::Refused { code: ErrorCode::NotInitialised, message }) => Err(Miss::NotDone(message)),
            Err(PeerError::Refused { code, message }) => {
                Err(Miss::Final(ProposeError::Leader { node: to, code, message }))
            }
            Err(error @ (PeerError::Lost(_) | PeerError::TimedOut)) => unknown(format!("leader {to}: {error}")),
            Ok(bytes) => match wire::decode_reply(bytes).map(|(_, reply)| reply) {
                Ok(Reply::Committed(committed)) => Ok(committed),
                Ok(Reply::NotLeader { hint }) => Err(Miss::NotLeader { hint }),
                Ok(Reply::Failure { message, effects_possible: true, .. }) => unknown(message),
                Ok(Reply::Failure { code: ErrorCode::NoQuorum, message, .. }) => Err(Miss::NotDone(message)),
                Ok(Reply::Failure { code, message, .. }) => {
                    Err(Miss::Final(ProposeError::Leader { node: to, code, message }))
                }
                Ok(other) => unknown(format!("leader {to} answered {other:?}")),
                Err(error) => unknown(error.to_string()),
            },
        }
    }

    /// Writes an entry of this node's own as the leader.
    async fn write_own(&self, entry: &Entry, deadline: Instant) -> Result<Committed, Miss> {
        let principal = principal::stamped(self.node(), &entry.principal);
        let principal =
            principal.map_err(|untrue| Miss::Final(ProposeError::Refused(Refusal::Invalid(untrue.to_string()))))?;
        self.write(Entry { principal, ..entry.clone() }, deadline).await
    }

    /// Writes an entry as the leader. Nothing is written that came too late for its answer to be heard.
    async fn write(&self, entry: Entry, deadline: Instant) -> Result<Committed, Miss> {
        let started = Instant::now();
        self.check_version(&entry).map_err(Miss::Final)?;
        if !self.quorum_is_fresh() {
            // Ask the majority first: an entry of a leader that lost it would end with an unknown outcome.
            self.confirm(deadline).await?;
        }
        let unknown = |reason: &str| Miss::Final(ProposeError::OutcomeUnknown(reason.to_owned()));
        match self.0.queue.write(entry, deadline).await {
            Err(Unanswered::Late) => Err(Miss::NotDone("its time was over before it could be written".to_owned())),
            Err(Unanswered::Stopped(reason)) => Err(self.not_taken(&reason)),
            Err(Unanswered::Unknown(reason)) => Err(unknown(reason)),
            Ok(Ok(written)) => {
                self.0.metrics.committed(started.elapsed());
                let of_entry = (written.log_id.index, crate::raft::term_of(&written.log_id));
                let (revision, term) = written.response.before.unwrap_or(of_entry);
                Ok(Committed { revision, term, answer: written.response.answer })
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => Err(self.not_leader(&forward)),
            Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => Err(unknown("the leader changed")),
            Ok(Err(error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)))) => {
                Err(Miss::NotDone(error.to_string()))
            }
        }
    }

    /// A command that members of an older release do not know must not enter the log: it would halt them.
    fn check_version(&self, entry: &Entry) -> Result<(), ProposeError> {
        if let Command::RaiseVersion { version } = entry.command {
            self.check_raise(version)?;
        }
        let needed = entry.needed_version();
        if needed <= self.0.version_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let cluster = read::cluster(&*self.view()).map_err(|fault| ProposeError::Fatal(fault.to_string()))?;
        let Some(Cluster { version: actual, .. }) = cluster else { return Ok(()) };
        self.0.version_seen.store(actual, Ordering::Relaxed);
        if needed > actual { Err(Refusal::VersionTooLow { needed, actual }.into()) } else { Ok(()) }
    }

    /// Every member must have told this node that it applies the version: below it, it would halt for good.
    fn check_raise(&self, version: u32) -> Result<(), ProposeError> {
        let heard = self.0.releases.all();
        let release = |node: NodeId| if node == self.node() { Some(self.release()) } else { heard.get(&node).copied() };
        let members = read::members(&*self.view()).map_err(|fault| ProposeError::Fatal(fault.to_string()))?;
        let below = |member: &&Member| member.is_standing() && release(member.id).is_none_or(|known| known < version);
        match members.iter().find(below) {
            Some(member) => {
                let why = format!("node {} has not said that it applies cluster version {version}", member.id);
                Err(Refusal::Invalid(why).into())
            }
            None => Ok(()),
        }
    }

    /// Consensus took nothing any more. Where it was told to stop, it knows who leads instead.
    fn not_taken(&self, fatal: &impl ToString) -> Miss {
        let other = self.leader().filter(|node| *node != self.node() && self.0.stopped.load(Ordering::Acquire));
        match other {
            Some(leader) => Miss::NotLeader { hint: Some(leader) },
            None => Miss::Final(ProposeError::Fatal(fatal.to_string())),
        }
    }

    fn not_leader(&self, forward: &ForwardToLeader<Types>) -> Miss {
        match forward.leader_id.map(NodeId) {
            Some(node) if node != self.node() => Miss::NotLeader { hint: Some(node) },
            _ => Miss::NotDone("the leader lost its majority".to_owned()),
        }
    }

    async fn confirm(&self, deadline: Instant) -> Result<(), Miss> {
        match self.read_index(ReadTrust::Majority, deadline).await {
            Ok(_) => Ok(()),
            Err(ReadMiss::NotLeader { hint }) => Err(Miss::NotLeader { hint }),
            Err(ReadMiss::NoQuorum(reason)) => Err(Miss::NotDone(reason)),
            Err(ReadMiss::Fatal(reason)) => Err(self.not_taken(&reason)),
        }
    }

    /// Answers a proposal that `from` has forwarded, within the time that its message gives.
    pub(crate) async fn serve_propose(&self, from: NodeId, proposal: Proposal) -> Result<Reply, ServeError> {
        let Proposal { envelope, wait_ms } = proposal;
        let deadline = Instant::now() + Duration::from_millis(wait_ms).min(PROPOSE_TIMEOUT);
        let mut entry =
            envelope::decode(&envelope, CLUSTER_VERSION).map_err(|error| ServeError::Unreadable(error.to_string()))?;
        entry.principal = principal::stamped(from, &entry.principal).map_err(refused)?;
        principal::check_subject(from, &entry.command).map_err(refused)?;
        let _room = match self.reserve(&envelope) {
            Ok(room) => room,
            Err(error) => return Ok(failure(error.code(), error.to_string(), false)),
        };
        Ok(match self.write(entry, deadline).await {
            Ok(committed) => Reply::Committed(committed),
            Err(Miss::NotLeader { hint }) => Reply::NotLeader { hint },
            Err(Miss::NotDone(reason)) => failure(ErrorCode::NoQuorum, reason, false),
            Err(Miss::Final(error)) => {
                let effects_possible = !error.code().is_free_of_effects();
                failure(error.code(), error.to_string(), effects_possible)
            }
        })
    }
}

/// What is to be said after an attempt: what was sent once may have happened, whatever became of it later.
fn last_word(before: ProposeError, now: ProposeError) -> ProposeError {
    if matches!(before, ProposeError::OutcomeUnknown(_)) { before } else { now }
}

/// Whether the state remembers that it was executed.
fn has_effect_once(entry: &Entry) -> bool {
    entry.session.is_some() || entry.once.is_some()
}

/// Whether a session does not know any more what became of a change that was sent before without an answer.
fn is_forgotten(refusal: &Refusal, before: &ProposeError) -> bool {
    matches!(before, ProposeError::OutcomeUnknown(_))
        && matches!(refusal, Refusal::SessionExpired(_) | Refusal::SequenceTooOld { .. })
}

/// What a member says of another node is not looked at.
fn refused(untrue: Untrue) -> ServeError {
    match untrue {
        Untrue::OtherNode { node, claims } => ServeError::Impostor { from: node, claims },
        Untrue::Malformed(_) => ServeError::Unreadable(untrue.to_string()),
    }
}

fn failure(code: ErrorCode, message: String, effects_possible: bool) -> Reply {
    Reply::Failure { code, message, effects_possible }
}

/// Why one attempt to confirm the leader's majority failed.
enum ReadMiss {
    NotLeader { hint: Option<NodeId> },
    NoQuorum(String),
    Fatal(String),
}

// === impl Handle: reads ===

impl Handle {
    /// Waits, at most `READ_TIMEOUT`, until this node has applied everything that was acknowledged anywhere before
    /// the call, and returns the applied index. What [`Handle::view`] shows from then on is linearizable.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when the majority cannot be asked or this node cannot catch up in time,
    /// [`ReadError::Deviates`] when this node's state is known to be wrong.
    pub async fn read_barrier(&self) -> Result<u64, ReadError> {
        self.barrier(ReadTrust::Majority).await
    }

    /// As [`Handle::read_barrier`], on the leader's lease: it does not ask its majority again while the last answer is
    /// younger than its lease. As good as linearizable while the clocks of the members run equally fast, and a leader
    /// is not stopped between its look at the clock and its answer.
    ///
    /// # Errors
    /// As [`Handle::read_barrier`].
    pub async fn lease_barrier(&self) -> Result<u64, ReadError> {
        self.barrier(ReadTrust::Lease).await
    }

    /// Waits, at most `READ_TIMEOUT`, until this node has applied `revision`.
    ///
    /// # Errors
    /// [`ReadError::NoQuorum`] when it has not by then.
    pub async fn reach(&self, revision: u64) -> Result<u64, ReadError> {
        self.wait_applied(revision, Instant::now() + READ_TIMEOUT).await
    }

    async fn barrier(&self, trust: ReadTrust) -> Result<u64, ReadError> {
        self.check_agreement()?;
        let deadline = Instant::now() + READ_TIMEOUT;
        let mut target = self.leader();
        let mut why = "no leader is known".to_owned();
        let mut hints = Hints::default();
        loop {
            let attempt = match target {
                None => Err(ReadMiss::NotLeader { hint: None }),
                Some(node) if node == self.node() => self.read_index(trust, deadline).await,
                Some(node) => self.ask_read_index(node, trust, deadline).await,
            };
            let hint = match attempt {
                Ok(index) => return self.wait_applied(index, deadline).await,
                Err(ReadMiss::Fatal(reason)) => return Err(ReadError::Fatal(reason)),
                Err(ReadMiss::NotLeader { hint }) => hints.next(target, hint),
                Err(ReadMiss::NoQuorum(reason)) => {
                    why = reason;
                    hints.next(target, None)
                }
            };
            if hint.is_none() && self.pause(deadline).await.is_break() {
                return Err(ReadError::NoQuorum(why));
            }
            target = hint.or_else(|| self.leader());
        }
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<u64, ReadError> {
        let mut changes = self.changes();
        let reached = timeout_at(deadline, changes.wait_for(|applied| *applied >= index)).await;
        match reached {
            Ok(Ok(applied)) => Ok(*applied),
            Ok(Err(_)) => Err(ReadError::Fatal("consensus has stopped".to_owned())),
            Err(_) => Err(ReadError::NoQuorum(format!("entry {index} was not applied here in time"))),
        }
    }

    /// As the leader: has the majority confirm it, and says what a reader must have applied.
    async fn read_index(&self, trust: ReadTrust, deadline: Instant) -> Result<u64, ReadMiss> {
        let wait = deadline.saturating_duration_since(Instant::now());
        let age_max = match trust {
            ReadTrust::Majority => Some(Duration::ZERO),
            ReadTrust::Lease => None, // the leader's lease
        };
        let option = LinearizerOption::new(age_max, true).with_wait_timeout(wait);
        let asked = timeout_at(deadline, self.0.raft.get_read_linearizer(option)).await;
        match asked {
            Err(_) => Err(ReadMiss::NoQuorum("no majority answered in time".to_owned())),
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadMiss::Fatal(fatal.to_string())),
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(missing)))) => {
                let voters = self.raft_metrics().membership_config.membership().voter_ids().count();
                Err(ReadMiss::NoQuorum(format!("{} of {voters} voters answered", missing.got.len())))
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ReadMiss::NotLeader { hint: forward.leader_id.map(NodeId).filter(|node| *node != self.node()) })
            }
        }
    }

    async fn ask_read_index(&self, to: NodeId, trust: ReadTrust, deadline: Instant) -> Result<u64, ReadMiss> {
        let left = deadline.saturating_duration_since(Instant::now()).min(READ_ATTEMPT);
        let request = Request::ReadIndex { wait_ms: millis(left), trust };
        let body = wire::encode_request(self.0.identity.cluster, to, request);
        let call = self.0.peers.call(to, Lane::Forward, body, left);
        let bytes = match tokio::time::timeout(left, call).await.unwrap_or(Err(PeerError::TimedOut)) {
            Ok(bytes) => bytes,
            Err(error) => return Err(ReadMiss::NoQuorum(format!("leader {to}: {error}"))),
        };
        match wire::decode_reply(bytes).map(|(_, reply)| reply) {
            Ok(Reply::ReadIndex(index)) => Ok(index),
            Ok(Reply::NotLeader { hint }) => Err(ReadMiss::NotLeader { hint }),
            Ok(Reply::Failure { message, .. }) => Err(ReadMiss::NoQuorum(message)),
            Ok(other) => Err(ReadMiss::NoQuorum(format!("leader {to} answered {other:?}"))),
            Err(error) => Err(ReadMiss::NoQuorum(error.to_string())),
        }
    }

    /// Answers a reader on another node.
    pub(crate) async fn serve_read_index(&self, wait_ms: u64, trust: ReadTrust) -> Reply {
        let wait = Duration::from_millis(wait_ms).min(READ_TIMEOUT);
        match self.read_index(trust, Instant::now() + wait).await {
            Ok(index) => Reply::ReadIndex(index),
            Err(ReadMiss::NotLeader { hint }) => Reply::NotLeader { hint },
            Err(ReadMiss::NoQuorum(reason)) => failure(ErrorCode::NoQuorum, reason, false),
            Err(ReadMiss::Fatal(reason)) => failure(ErrorCode::StorageFailed, reason, false),
        }
    }
}

#[cfg(test)]
mod tests;
