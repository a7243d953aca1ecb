//! Leadership given away: by the leader, and from any node on an administrator's word.
//!
//! Only the leader can do it, and only to a voter that it has just heard. A node that does not lead asks the one that
//! does, once: after a question without an answer it is not known who leads, and a second one might give it away again.

use std::time::Duration;

use openraft::metrics::WaitError;
use tokio::time::Instant;

use ollamax_types::limits::PROPOSE_TIMEOUT;
use ollamax_types::{ErrorCode, NodeId};

use crate::error::{ChangeError, Declined, HandOverError};
use crate::followers::{self, Moment};
use crate::forward::Hints;
use crate::handle::{Handle, millis};
use crate::peers::{Lane, PeerError};
use crate::raft;
use crate::wire::{self, Reply, Request};

/// How long somebody may take to take over when an administrator asks for it.
const TAKE_OVER_WAIT: Duration = Duration::from_secs(5);
/// What the question and its answer may take beyond that.
const WAY: Duration = Duration::from_millis(500);
/// How long the node that was asked waits to hear the new leader itself.
const HEARD_WAIT: Duration = Duration::from_secs(1);

/// Leadership went from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandedOver {
    /// Who led.
    pub before: NodeId,
    /// Who leads now; another one than was named, if that one was faster.
    pub leader: NodeId,
    /// From the question to the leader until somebody else led.
    pub took: Duration,
}

/// Why one attempt did not make somebody else lead.
enum Miss {
    /// Not the leader; perhaps this one is.
    NotLeader { hint: Option<NodeId> },
    /// Nothing was changed, and the next attempt may do it.
    NotDone(String),
    /// The end.
    Final(HandOverError),
}

// === impl Handle: who leads ===

impl Handle {
    /// Gives leadership to `to`, or to the voter that is least behind, and waits until somebody else leads. A voter
    /// that has fallen silent, or whose state differs from that of the majority, gets it in no case.
    ///
    /// # Errors
    /// When this node does not lead, or leadership stays for one of the reasons of [`Declined`]; also when nobody took
    /// over within `hand_over_ms`.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, ChangeError> {
        self.transfer_within(to, Duration::from_millis(self.config().hand_over_ms)).await
    }

    async fn transfer_within(&self, to: Option<NodeId>, wait: Duration) -> Result<NodeId, ChangeError> {
        let metrics = self.raft_metrics();
        if !metrics.state.is_leader() {
            return Err(ChangeError::NotLeader { leader: metrics.current_leader.map(NodeId) });
        }
        let me = self.node();
        let deviating = self.0.integrity.alarm().deviating;
        let voters = metrics.membership_config.membership().voter_ids().map(NodeId);
        let voters = voters.filter(|voter| !deviating.contains(voter)).collect();
        let followers = followers::followers(&metrics, me);
        let next = metrics.last_log_index.map_or(0, |index| index + 1);
        let now = Moment { next, lease: self.config().lease() };
        let NodeId(best) = followers::successor(me, &followers, &voters, to, now)?;
        self.0.raft.trigger().transfer_leader(best).await.map_err(|fatal| ChangeError::Fatal(fatal.to_string()))?;
        let taken = |now: &raft::Metrics| now.current_leader.is_some_and(|leader| leader != me.0);
        match self.0.raft.wait(Some(wait)).metrics(taken, "somebody else leads").await {
            Ok(now) => Ok(NodeId(now.current_leader.unwrap_or(best))),
            Err(WaitError::ShuttingDown) => Err(ChangeError::Fatal("consensus has stopped".to_owned())),
            Err(WaitError::Timeout(..)) => Err(Declined::NotTaken(NodeId(best)).into()),
        }
    }

    /// Has the leader give leadership to `to`, or to the voter that is best placed, whichever node this is; returns
    /// when somebody else leads.
    ///
    /// # Errors
    /// See [`HandOverError`]; only [`HandOverError::OutcomeUnknown`] and [`Declined::NotTaken`] leave open who leads.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<HandedOver, HandOverError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let mut target = self.heard_leader();
        let mut why = "no leader is heard".to_owned();
        let mut hints = Hints::default();
        loop {
            let started = Instant::now();
            let attempt = match target {
                None => Err(Miss::NotLeader { hint: None }),
                Some(node) if node == self.node() => self.give_away(to).await.map(|leader| (node, leader)),
                Some(node) => self.ask_to_give_away(node, to).await.map(|leader| (node, leader)),
            };
            let miss = match attempt {
                Ok((before, leader)) => {
                    let took = started.elapsed();
                    self.wait_for(leader).await;
                    return Ok(HandedOver { before, leader, took });
                }
                Err(miss) => miss,
            };
            let hint = match miss {
                Miss::Final(error) => return Err(error),
                Miss::NotLeader { hint } => hints.next(target, hint),
                Miss::NotDone(reason) => {
                    why = reason;
                    hints.next(target, None)
                }
            };
            if hint.is_none() && self.pause(deadline).await.is_break() {
                return Err(HandOverError::NoQuorum(why));
            }
            target = hint.or_else(|| self.heard_leader());
        }
    }

    /// As the leader.
    async fn give_away(&self, to: Option<NodeId>) -> Result<NodeId, Miss> {
        self.transfer_within(to, TAKE_OVER_WAIT).await.map_err(|error| match error {
            ChangeError::NotLeader { leader } => Miss::NotLeader { hint: leader.filter(|node| *node != self.node()) },
            ChangeError::Declined(declined) => Miss::Final(declined.into()),
            ChangeError::Fatal(reason) => Miss::Final(HandOverError::Fatal(reason)),
            ChangeError::NotNow(reason) | ChangeError::NoQuorum(reason) => Miss::NotDone(reason),
        })
    }

    async fn ask_to_give_away(&self, node: NodeId, to: Option<NodeId>) -> Result<NodeId, Miss> {
        let limit = TAKE_OVER_WAIT + WAY;
        let request = Request::HandOver { to, wait_ms: millis(TAKE_OVER_WAIT) };
        let body = wire::encode_request(self.0.identity.cluster, node, request);
        let call = self.0.peers.call(node, Lane::Forward, body, limit);
        let unknown = |reason: String| Err(Miss::Final(HandOverError::OutcomeUnknown(reason)));
        match tokio::time::timeout(limit, call).await.unwrap_or(Err(PeerError::TimedOut)) {
            Err(error @ PeerError::Unreachable(_)) => Err(Miss::NotDone(format!("leader {node} {error}"))),
            // It leads already, and its doors are not open yet.
            Err(PeerError::Refused { code: ErrorCode::NotInitialised, message }) => Err(Miss::NotDone(message)),
            Err(PeerError::Refused { code, message }) => {
                Err(Miss::Final(HandOverError::Leader { node, code, message }))
            }
            Err(error @ (PeerError::Lost(_) | PeerError::TimedOut)) => unknown(format!("leader {node}: {error}")),
            Ok(bytes) => match wire::decode_reply(bytes).map(|(_, reply)| reply) {
                Ok(Reply::HandOver(result)) => result.map_err(|declined| Miss::Final(declined.into())),
                Ok(Reply::NotLeader { hint }) => Err(Miss::NotLeader { hint }),
                Ok(Reply::Failure { code, message, effects_possible: false }) => {
                    Err(Miss::Final(HandOverError::Leader { node, code, message }))
                }
                Ok(Reply::Failure { message, .. }) => unknown(message),
                Ok(other) => unknown(format!("leader {node} answered {other:?}")),
                Err(error) => unknown(error.to_string()),
            },
        }
    }

    /// Waits a little until this node hears the new leader, so that what it says next fits to what it answered.
    async fn wait_for(&self, NodeId(leader): NodeId) {
        let heard = |now: &raft::Metrics| now.current_leader == Some(leader);
        drop(self.0.raft.wait(Some(HEARD_WAIT)).metrics(heard, "the new leader is heard").await);
    }

    /// Answers a member that asks for another leader. Whom it asks for is its administrator's business: each member's
    /// are trusted with every change.
    pub(crate) async fn serve_hand_over(&self, from: NodeId, to: Option<NodeId>, wait_ms: u64) -> Reply {
        tracing::info!(%from, to = to.map(|node| node.0), "a member asks for another leader");
        let wait = Duration::from_millis(wait_ms).min(TAKE_OVER_WAIT);
        match self.transfer_within(to, wait).await {
            Ok(leader) => Reply::HandOver(Ok(leader)),
            Err(ChangeError::Declined(declined)) => Reply::HandOver(Err(declined)),
            Err(ChangeError::NotLeader { leader }) => {
                Reply::NotLeader { hint: leader.filter(|node| *node != self.node()) }
            }
            Err(error @ (ChangeError::NotNow(_) | ChangeError::NoQuorum(_) | ChangeError::Fatal(_))) => {
                let (code, message) = (error.code(), error.to_string());
                Reply::Failure { code, message, effects_possible: !code.is_free_of_effects() }
            }
        }
    }
}
