//! The receiving side of [`crate::Peers`]: messages of other members in, answers out.
//!
//! A message is looked at only if it is meant for this node of this cluster and its sender speaks for itself; a
//! vote, leadership or change that claims to be another node's is refused. A snapshot is written to the store as it
//! arrives and handed to consensus only when it is whole: one that was cut costs the sender another attempt, no more.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::vote::RaftLeaderId;

use ollamax_store as store;
use ollamax_types::NodeId;

use crate::error::ServeError;
use crate::handle::Handle;
use crate::raft::Vote;
use crate::raft::snapshot::{Labelled, SnapshotData, meta_of};
use crate::record::Applied;
use crate::wire::{self, Reply, Request, SnapshotPart};

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
                let committed = append.leader_commit.map(|id| id.index);
                let reply = self.0.raft.append_entries(append).await.map_err(fatal)?;
                let mut marks = Vec::new();
                if !matches!(reply, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
                    self.0.contact.heard(leader);
                    self.0.contact.heard_committed(committed, *self.0.changes.borrow());
                    if let Some(alarm) = alarm.filter(|alarm| alarm.index > 0) {
                        self.take_alarm(alarm);
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
            Request::Snapshot(_) => {
                return Err(ServeError::Unreadable("a snapshot comes as a stream".to_owned()));
            }
        };
        Ok(self.sealed(reply))
    }

    /// Receives a snapshot, installs it, and answers. An error within the stream drops what was received.
    ///
    /// # Errors
    /// When the stream breaks, falls silent, is damaged, or cannot be written; nothing was installed then.
    pub async fn serve_snapshot(
        &self,
        from: NodeId,
        mut chunks: BoxStream<'static, Result<Bytes, String>>,
    ) -> Result<Bytes, ServeError> {
        let first = self.next_part(&mut chunks).await?;
        let Some(SnapshotPart::Header { vote, applied }) = first else {
            return Err(ServeError::Snapshot("the stream does not start with a header".to_owned()));
        };
        let leader = speaks_for_itself(from, &vote)?;
        let known = *self.0.raft.metrics().borrow_watched().vote.leader_id();
        if vote.leader_id().term() < known.term() {
            // An old leader's: the answer tells it so, without reading the rest.
            return Ok(self.sealed(Reply::Snapshot(self.raft_metrics().vote)));
        }
        self.0.store.check_room()?;
        let state = self.0.state.clone();
        let mut import = blocking(move || state.import()).await?;
        loop {
            match self.next_part(&mut chunks).await? {
                None => break,
                Some(SnapshotPart::Header { .. }) => {
                    return Err(ServeError::Snapshot("a second header in the stream".to_owned()));
                }
                Some(SnapshotPart::Data(data)) => {
                    self.0.contact.heard(leader);
                    self.0.metrics.snapshot_bytes_received.inc_by(data.len() as u64);
                    import = blocking(move || import.add(&data).map(|()| import)).await?;
                }
            }
        }
        let snapshot = received(import, &applied)?;
        let reply = Box::pin(self.0.raft.install_full_snapshot(vote, snapshot)).await;
        let reply = reply.map_err(|error| ServeError::Fatal(error.to_string()))?;
        Ok(self.sealed(Reply::Snapshot(reply.vote)))
    }

    async fn next_part(
        &self,
        chunks: &mut BoxStream<'static, Result<Bytes, String>>,
    ) -> Result<Option<SnapshotPart>, ServeError> {
        let idle = self.config().snapshot_idle();
        let next = tokio::time::timeout(idle, chunks.next()).await;
        match next.map_err(|_| ServeError::Snapshot("the stream fell silent".to_owned()))? {
            None => Ok(None),
            Some(Err(reason)) => Err(ServeError::Snapshot(reason)),
            Some(Ok(bytes)) => match self.addressed_to_me(bytes)? {
                Request::Snapshot(part) => Ok(Some(part)),
                _ => Err(ServeError::Unreadable("another message within a snapshot".to_owned())),
            },
        }
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::ImportError> + Send + 'static,
) -> Result<T, ServeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServeError::Snapshot(error.to_string()))?
        .map_err(|error| ServeError::Snapshot(error.to_string()))
}

/// Checks that what arrived is whole, and what was announced.
fn received(import: store::Import, announced: &Applied) -> Result<Labelled, ServeError> {
    import.verify().map_err(|error| ServeError::Snapshot(error.to_string()))?;
    let meta = import.meta().ok_or_else(|| ServeError::Snapshot("no data in the stream".to_owned()))?;
    let applied = Applied::from_store(meta).map_err(|error| ServeError::Snapshot(error.to_string()))?;
    if applied != *announced {
        return Err(ServeError::Snapshot("the data is not what the header announced".to_owned()));
    }
    Ok(Labelled { meta: meta_of(&applied), snapshot: SnapshotData::Received(import) })
}

#[cfg(test)]
mod tests;
