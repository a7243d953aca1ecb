//! What the rest of the node holds of consensus: a cheap clone that proposes, reads, watches and answers peers.
//!
//! A change is acknowledged only when a majority has it on disk and this cluster's leader has applied it. A read
//! barrier asks the leader to confirm its majority; nothing old is returned in its place.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::vote::RaftLeaderId as _;
use openraft::{ChangeMembers, EmptyNode, Instant as _, Precondition};
use prometheus::Registry;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use ollamax_core::catalog::{Answer, ClusterEvent, Command, EventKind, OnceKey, View};
use ollamax_store as store;
use ollamax_types::limits::PROPOSALS_IN_FLIGHT_BYTES_MAX;
use ollamax_types::{ClusterId, ErrorCode, Incarnation, NodeId, RequestId, Timestamp};

use crate::config::Config;
use crate::error::{ChangeError, ProposeError};
use crate::feed::{Feeds, Filter, Watcher};
use crate::followers;
use crate::freshness::{Freshness, known_by_leader};
use crate::gauges::Gauges;
use crate::integrity::Integrity;
use crate::logtime::Stamper;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::proposer::Queue;
use crate::quotas::QuotaGauges;
use crate::raft::held::Held;
use crate::raft::{self, Raft, Types};
use crate::releases::Releases;
use crate::serve::Offered;
use crate::session::OwnSession;
use crate::status::{Outlook, Part, Status};
use crate::thread::Thread;

/// How long a stopping node waits for the changes that are under way.
const ANSWERS_TIMEOUT: Duration = Duration::from_millis(500);
/// Time between two looks at them.
const ANSWERS_LOOK: Duration = Duration::from_millis(5);

/// Who this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number in it.
    pub node: NodeId,
    /// Its data directory.
    pub incarnation: Incarnation,
}

/// A change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The client request behind it.
    pub request: RequestId,
    /// For whom: `admin`, or `node/3` when node 3 asks for itself.
    pub principal: String,
    /// Client session and sequence: with them it has effect once, however often it is sent.
    pub session: Option<(u64, u64)>,
    /// Refused unless the leader's term is this one.
    pub fence_term: Option<u64>,
    /// The key of the request behind it: with it the request has effect once, also when another node sends it again.
    pub once: Option<OnceKey>,
    /// What to change.
    pub command: Command,
}

impl Change {
    /// Without session, fence and key.
    #[must_use]
    pub fn new(request: RequestId, principal: &str, command: Command) -> Self {
        Self { request, principal: principal.to_owned(), session: None, fence_term: None, once: None, command }
    }
}

/// A change that is on the disks of a majority and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Index of its entry.
    pub revision: u64,
    /// Term of the leader that wrote it.
    pub term: u64,
    /// What the state answered; may be a refusal.
    pub answer: Answer,
}

impl Committed {
    /// The same, with a refusal as an error.
    ///
    /// # Errors
    /// [`ProposeError::Refused`] when the state refused the change.
    pub fn accepted(self) -> Result<Self, ProposeError> {
        match self.answer {
            Answer::Refused(refusal) => Err(ProposeError::Refused(refusal)),
            _ => Ok(self),
        }
    }
}

/// A cheap clone on this node's consensus.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) identity: Identity,
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    /// Where all of openraft runs; it ends with this value.
    pub(crate) _thread: Thread,
    pub(crate) store: store::Store,
    pub(crate) log: store::Log,
    pub(crate) state: store::State,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) stamper: Arc<Stamper>,
    /// Changes on their way into the log.
    pub(crate) queue: Queue,
    /// Bytes of proposals that may still enter.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) changes: watch::Receiver<u64>,
    pub(crate) feeds: Feeds,
    pub(crate) releases: Releases,
    pub(crate) integrity: Integrity,
    /// What this node has sent a part of.
    pub(crate) held: Held,
    /// What this node is about to receive.
    pub(crate) offered: Offered,
    pub(crate) session: OwnSession,
    /// A cluster version that was seen in the state. It never goes back, so this need not be the last.
    pub(crate) version_seen: AtomicU32,
    pub(crate) contact: Contact,
    pub(crate) metrics: Metrics,
    /// What the autopilot made of the group when it looked last, as the leader of a term.
    pub(crate) outlook: Mutex<Option<Outlook>>,
    pub(crate) stopped: AtomicBool,
    pub(crate) stopping: tokio::sync::Mutex<()>,
}

/// When the leader was heard last.
#[derive(Debug)]
pub(crate) struct Contact {
    start: Instant,
    /// Milliseconds from `start`, plus one; 0: never.
    at: AtomicU64,
    leader: Mutex<Option<NodeId>>,
    freshness: Mutex<Freshness>,
}

impl Contact {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), at: AtomicU64::new(0), leader: Mutex::new(None), freshness: Mutex::default() }
    }

    pub(crate) fn heard(&self, leader: NodeId) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = Some(leader);
        self.at.store(millis(self.start.elapsed()).saturating_add(1), Ordering::Release);
    }

    /// A leader said that everything up to `committed` is committed, while `applied` was applied here.
    pub(crate) fn heard_committed(&self, committed: Option<u64>, applied: u64) {
        let now = self.start.elapsed();
        let mut freshness = self.freshness.lock().unwrap_or_else(PoisonError::into_inner);
        freshness.age(applied, now);
        if let Some(committed) = committed {
            freshness.heard(committed, now);
        }
    }

    /// How old a state that has applied everything up to `applied` is at most, milliseconds.
    fn age_ms(&self, applied: u64) -> Option<u64> {
        let now = self.start.elapsed();
        let mut freshness = self.freshness.lock().unwrap_or_else(PoisonError::into_inner);
        freshness.age(applied, now).map(millis)
    }

    /// Since any leader was heard, or since the start.
    pub(crate) fn silence(&self) -> Duration {
        let at = Duration::from_millis(self.at.load(Ordering::Acquire).saturating_sub(1));
        self.start.elapsed().saturating_sub(at)
    }

    /// Milliseconds since this leader was heard.
    fn silence_ms(&self, leader: NodeId) -> Option<u64> {
        let same = *self.leader.lock().unwrap_or_else(PoisonError::into_inner) == Some(leader);
        let at = self.at.load(Ordering::Acquire).checked_sub(1)?;
        same.then(|| millis(self.start.elapsed()).saturating_sub(at))
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("identity", &self.0.identity).finish_non_exhaustive()
    }
}

// === impl Handle: what can be seen without asking anybody ===

impl Handle {
    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.0.identity.node
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    /// The state as this node has applied it: consistent, and possibly behind. For what must not be old, call
    /// [`Handle::read_barrier`] first.
    #[must_use]
    pub fn view(&self) -> Arc<dyn View + Send + Sync> {
        self.view_at().0
    }

    /// As [`Handle::view`], with the revision up to which it is complete.
    #[must_use]
    pub fn view_at(&self) -> (Arc<dyn View + Send + Sync>, u64) {
        let view = self.0.state.view();
        let revision = view.applied().map_or(0, |meta| meta.index);
        (Arc::new(view), revision)
    }

    /// The highest cluster version that this node applies.
    #[must_use]
    pub fn release(&self) -> u32 {
        self.0.config.release()
    }

    /// Log time as this node knows it: what the next entry would be stamped with if this node wrote it.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.0.stamper.peek()
    }

    /// The term that this node knows.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.0.raft.metrics().borrow_watched().current_term
    }

    /// How old [`Handle::view`] may be, milliseconds: nothing that was acknowledged longer ago is missing in it, save
    /// for the way from the leader to here. `None`: no leader was heard since the start.
    #[must_use]
    pub fn age_ms(&self) -> Option<u64> {
        let metrics = self.raft_metrics();
        let knows_all = known_by_leader(metrics.current_term, metrics.last_applied.as_ref()).is_some();
        if metrics.state.is_leader() && knows_all {
            return self.contact_ms(&metrics);
        }
        self.0.contact.age_ms(*self.0.changes.borrow())
    }

    /// Watches values from revision `from` on; `None`: from what comes after everything that is applied here now.
    #[must_use]
    pub fn watch(&self, filter: Filter, from: Option<u64>) -> Watcher {
        Watcher::new(self.0.feeds.values.clone(), self.0.changes.clone(), self.agreement(), filter, from)
    }

    /// Watches what happens in the cluster, these kinds of it (none: all), from revision `since` on; `None`: from the
    /// oldest that is kept here.
    #[must_use]
    pub fn events(&self, kinds: Vec<EventKind>, since: Option<u64>) -> Watcher<ClusterEvent> {
        let feed = self.0.feeds.cluster.clone();
        let from = since.unwrap_or_else(|| feed.oldest());
        Watcher::new(feed, self.0.changes.clone(), self.agreement(), kinds, Some(from))
    }

    /// The applied index, each time it moves.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.clone()
    }

    /// Shows what consensus is at and counts, and what the store below counts.
    ///
    /// # Errors
    /// When the registry holds one of the names already.
    pub fn register_metrics(&self, registry: &Registry) -> prometheus::Result<()> {
        self.0.metrics.register(registry)?;
        registry.register(Box::new(Gauges::new(Arc::downgrade(&self.0))))?;
        registry.register(Box::new(QuotaGauges::of(self)))?;
        self.0.store.metrics().register(registry)
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// A picture of this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = &*self.0;
        let metrics = self.raft_metrics();
        let held = inner.log.state();
        let (applied, state_hash) = inner.state.applied_and_hash();
        let membership = metrics.membership_config.membership();
        let leader = metrics.current_leader.map(NodeId);
        let contact_ms = self.contact_ms(&metrics);
        let fresh = contact_ms.is_some_and(|silent| Duration::from_millis(silent) < inner.config.lease());
        let next = metrics.last_log_index.map_or(0, |index| index + 1);
        let followers = followers::followers(&metrics, inner.identity.node);
        let sync = &inner.store.metrics().sync_seconds;
        let has_quorum = leader.is_some() && metrics.running_state.is_ok() && fresh;
        let outlook = self.outlook(&metrics).filter(|_| has_quorum);
        Status {
            node: inner.identity.node,
            term: metrics.current_term,
            leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            applied: applied.map_or(0, |meta| meta.index),
            log_first_index: held.first.unwrap_or_else(|| held.purged.map_or(0, |(index, _)| index + 1)),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
            voters: membership.voter_ids().map(NodeId).collect(),
            voters_changing: membership.get_joint_config().len() > 1,
            learners: membership.learner_ids().map(NodeId).collect(),
            has_quorum,
            last_leader_contact_ms: contact_ms,
            state_hash,
            alarm: inner.integrity.alarm(),
            fsync_p50_us: crate::status::quantile_us(sync, 0.5),
            fsync_p99_us: crate::status::quantile_us(sync, 0.99),
            fsyncs: sync.get_sample_count(),
            part: Part::of(metrics.state, metrics.running_state.is_ok()),
            followers: followers.iter().map(|follower| follower.shown(next)).collect(),
            outlook,
        }
    }

    /// What the autopilot made of the group, as the leader of this term.
    pub(crate) fn outlook(&self, metrics: &raft::Metrics) -> Option<Outlook> {
        let last = self.0.outlook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.filter(|outlook| metrics.state.is_leader() && outlook.term == metrics.current_term)
    }

    /// On the leader: since a majority answered. On a follower: since its leader was heard.
    fn contact_ms(&self, metrics: &raft::Metrics) -> Option<u64> {
        if !metrics.state.is_leader() {
            return self.0.contact.silence_ms(NodeId(metrics.current_leader?));
        }
        if metrics.membership_config.membership().voter_ids().eq([self.node().0]) {
            return Some(0);
        }
        metrics.last_quorum_acked.map(|at| millis(at.elapsed()))
    }

    /// Whether the majority answered so recently that it need not be asked before an entry is written.
    pub(crate) fn quorum_is_fresh(&self) -> bool {
        self.contact_ms(&self.raft_metrics()).is_some_and(|silence| self.0.config.is_fresh(silence))
    }

    /// Why the store has taken no writes since; `None` while it does.
    #[must_use]
    pub fn store_failure(&self) -> Option<store::SyncError> {
        self.0.store.fatal().borrow().clone()
    }

    /// Why consensus cannot go on here and the process must stop, with its code; `None` while it can, and during a stop
    /// that was asked for.
    #[must_use]
    pub fn failure(&self) -> Option<(ErrorCode, String)> {
        if let Some(error) = self.store_failure() {
            return Some((error.code(), error.to_string()));
        }
        match &self.0.raft.metrics().borrow_watched().running_state {
            Err(Fatal::Stopped) if self.0.stopped.load(Ordering::Acquire) => None,
            Err(fatal) => Some((ErrorCode::StorageFailed, fatal.to_string())),
            Ok(()) => None,
        }
    }

    /// Resolves with the first [`Handle::failure`].
    pub fn fatal(&self) -> impl Future<Output = (ErrorCode, String)> + Send + 'static {
        let handle = self.clone();
        // This channel closes when consensus ends, and is quiet while nobody is elected, added or removed.
        let (mut consensus, mut sync) = (self.0.raft.server_metrics(), self.0.store.fatal());
        async move {
            let mut ended = false;
            loop {
                consensus.borrow_and_update();
                sync.borrow_and_update();
                if let Some(failure) = handle.failure() {
                    return failure;
                }
                if ended && handle.0.stopped.load(Ordering::Acquire) {
                    std::future::pending::<()>().await;
                }
                if ended {
                    return (ErrorCode::StorageFailed, "consensus has stopped".to_owned());
                }
                tokio::select! {
                    changed = consensus.changed() => ended = changed.is_err(),
                    _ = sync.changed() => {}
                }
            }
        }
    }

    /// Resolves with the term as soon as it is another than `known`; never after consensus has stopped.
    pub fn next_term(&self, known: u64) -> impl Future<Output = u64> + Send + 'static {
        let mut votes = self.0.raft.server_metrics();
        async move {
            loop {
                let term = votes.borrow_and_update().vote.leader_id().term();
                if term != known {
                    return term;
                }
                if votes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Who leads, unless it has been silent: a change sent into silence would end with an unknown outcome.
    pub(crate) fn heard_leader(&self) -> Option<NodeId> {
        let heard = |leader: NodeId| {
            let silence = self.0.contact.silence_ms(leader);
            leader == self.node() || silence.is_some_and(|silence| self.0.config.is_fresh(silence))
        };
        self.leader().filter(|leader| heard(*leader))
    }

    /// Whether this node's log may grow.
    pub(crate) fn check_room(&self) -> Result<(), store::NoRoom> {
        self.0.store.check_room()
    }

    /// Makes, keeps or deletes the store's ballast, whatever the disk asks for now. Blocks while it is made. Ask from
    /// time to time, from one place.
    pub fn tend_ballast(&self) {
        self.0.store.tend_ballast();
    }

    /// How long the slowest sync of the log took since this was last asked, one that still runs included. `None`: there
    /// was none. Ask from one place.
    #[must_use]
    pub fn slowest_sync(&self) -> Option<Duration> {
        self.0.store.slowest_sync()
    }

    /// The store's ballast, if it was released and not made again since.
    #[must_use]
    pub fn released_ballast(&self) -> Option<store::ReleasedBallast> {
        self.0.store.released_ballast()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn raft_metrics(&self) -> raft::Metrics {
        self.0.raft.metrics().borrow_watched().clone()
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.0.raft.metrics().borrow_watched().current_leader.map(NodeId)
    }
}

// === impl Handle: voters, and the end ===

impl Handle {
    /// Makes exactly these nodes vote; each must be a learner or voter already. The autopilot goes on from there.
    ///
    /// # Errors
    /// When this node does not lead, another change is under way, or a node is unknown to the Raft group.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters = ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect());
        self.change_members(voters, Vec::new()).await
    }

    /// Changes the membership if all of that still holds at the moment in which it enters the log.
    pub(crate) async fn change_members(
        &self,
        change: ChangeMembers<u64, EmptyNode>,
        only_if: Vec<Precondition<Types>>,
    ) -> Result<(), ChangeError> {
        match self.0.raft.change_membership_if(change, true, only_if).await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(ChangeError::Fatal(fatal.to_string())),
            Err(RaftError::APIError(error)) => Err(change_error(error)),
        }
    }

    /// Hands leadership over, answers the changes that are under way, stops consensus, and flushes the state; each
    /// bounded in time. A second call returns when the first has finished.
    pub async fn shutdown(&self) {
        let _one_at_a_time = self.0.stopping.lock().await;
        if self.0.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let status = self.status();
        if status.leader == Some(self.node()) && status.has_quorum && status.voters.len() > 1 {
            match self.transfer_leader(None).await {
                Ok(to) => tracing::info!(%to, "leadership handed over"),
                Err(error) => tracing::warn!(%error, "leadership not handed over"),
            }
        }
        self.answered().await;
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::error!(code = %ErrorCode::Internal, %error, "stop consensus");
        }
        self.0.held.close();
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(code = %error.code(), %error, "close the store"),
            Err(error) => tracing::error!(code = %ErrorCode::Internal, %error, "close the store"),
        }
    }

    /// Waits for the changes that are under way here: an entry that this node wrote as the leader is committed by the
    /// next one, and its caller hears of it as soon as it is applied here.
    async fn answered(&self) {
        let none_left = async {
            while self.0.room.available_permits() < PROPOSALS_IN_FLIGHT_BYTES_MAX {
                tokio::time::sleep(ANSWERS_LOOK).await;
            }
        };
        if tokio::time::timeout(ANSWERS_TIMEOUT, none_left).await.is_err() {
            tracing::info!("consensus stops while changes are under way");
        }
    }
}

fn change_error(error: ClientWriteError<Types>) -> ChangeError {
    match error {
        ClientWriteError::ForwardToLeader(to) => ChangeError::NotLeader { leader: to.leader_id.map(NodeId) },
        ClientWriteError::LogEntryDiscarded(_) => ChangeError::NoQuorum("the leader changed".to_owned()),
        ClientWriteError::ChangeMembershipError(error) => ChangeError::NotNow(error.to_string()),
        ClientWriteError::PreconditionFailed(error) => ChangeError::NotNow(error.to_string()),
    }
}
