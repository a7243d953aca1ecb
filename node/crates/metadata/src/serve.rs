//! The receiving side of [`crate::Peers`]: messages of other members in, answers out.
//!
//! A message is looked at only if it is meant for this node of this cluster and its sender speaks for itself; a
//! vote, leadership or change that claims to be another node's is refused. Snapshots arrive in [`snapshot`].

mod snapshot;

use bytes::Bytes;
use openraft::vote::RaftLeaderId;

use ollamax_types::NodeId;

use crate::error::ServeError;
use crate::freshness::known_by_leader;
use crate::handle::Handle;
use crate::raft::Vote;
use crate::wire::{self, Reply, Request};

pub(crate) use snapshot::Offered;

impl Handle {
    /// Answers one message from another member. `from` is the member whose key opened the connection.
    ///
    /// # Errors
    /// When the message cannot be read, is meant for another node, or consensus has stopped here.
    pub async fn serve(&self, from: NodeId, body: Bytes) -> Result<Bytes, ServeError> {
        let reply = match self.addressed_to_me(body)? {
            Request::Append { append, alarm } => {
                let leader = speaks_for_itself(from, &append.vote)?;
                let is_heartbeat = append.entries.is_empty();
                if !is_heartbeat {
                    self.0.store.check_room()?;
                }
                let term = append.vote.leader_id().term();
                let committed = known_by_leader(term, append.leader_commit.as_ref());
                let reply = self.0.raft.append_entries(append).await.map_err(fatal)?;
                let mut marks = Vec::new();
                if !matches!(reply, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                    self.0.contact.heard(leader);
                    self.0.contact.heard_committed(committed, *self.0.changes.borrow());
                    if let Some(alarm) = alarm.filter(|alarm| alarm.index > 0) {
                        self.take_alarm(term, alarm);
                    }
                    if is_heartbeat {
                        marks = self.state_marks();
                    }
                }
                Reply::Append { reply, marks }
            }
            Request::Vote(vote) => {
                speaks_for_itself(from, &vote.vote)?;
                Reply::Vote(self.0.raft.vote(vote).await.map_err(fatal)?)
            }
            Request::PreVote(vote) => {
                speaks_for_itself(from, &vote.vote)?;
                Reply::Vote(self.0.raft.pre_vote(vote).await.map_err(fatal)?)
            }
            Request::Transfer(transfer) => {
                speaks_for_itself(from, transfer.from_leader())?;
                Reply::Transfer(self.0.raft.handle_transfer_leader(transfer).await.map_err(fatal)?)
            }
            Request::Propose(proposal) => self.serve_propose(from, proposal).await?,
            Request::ReadIndex { wait_ms, trust } => self.serve_read_index(wait_ms, trust).await,
            Request::HandOver { to, wait_ms } => Box::pin(self.serve_hand_over(from, to, wait_ms)).await,
            Request::SnapshotOffer { vote, id } => self.serve_offer(from, &vote, id).await?,
            Request::Snapshot(_) => {
                return Err(ServeError::Unreadable("a snapshot comes as a stream".to_owned()));
            }
        };
        Ok(self.sealed(reply))
    }

    fn sealed(&self, reply: Reply) -> Bytes {
        wire::encode_reply(reply, self.config().release())
    }

    fn addressed_to_me(&self, body: Bytes) -> Result<Request, ServeError> {
        let addressed = wire::decode_request(body).map_err(|error| ServeError::Unreadable(error.to_string()))?;
        let me = self.0.identity;
        if addressed.cluster != me.cluster || addressed.to != me.node {
            return Err(ServeError::NotForMe { to: addressed.to, cluster: addressed.cluster.to_string() });
        }
        Ok(addressed.request)
    }
}

/// The node of a vote, when it is the sender's own.
fn speaks_for_itself(from: NodeId, vote: &Vote) -> Result<NodeId, ServeError> {
    let claims = NodeId(*vote.leader_id().node_id());
    if claims == from { Ok(claims) } else { Err(ServeError::Impostor { from, claims }) }
}

fn fatal(error: impl ToString) -> ServeError {
    ServeError::Fatal(error.to_string())
}
