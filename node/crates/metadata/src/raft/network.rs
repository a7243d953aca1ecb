//! openraft's network over the [`Peers`] port: one link per member and lane.
//!
//! Every call has a deadline of its own here, because openraft sets none on appends. A peer that cannot be reached is
//! reported as unreachable and never as a grant, so that a node that is cut off cannot collect votes from nobody.
//! A snapshot is offered before it is sent, so that only what the peer lacks of it goes out.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RPCTypes};

use ollamax_store::{Export, SnapshotId};
use ollamax_types::{ClusterId, ErrorCode, NodeId};

use crate::integrity::Integrity;
use crate::metrics::Metrics;
use crate::peers::{Lane, PeerError, Peers};
use crate::raft::held::Held;
use crate::raft::snapshot::{Labelled, SnapshotData};
use crate::raft::{Types, Vote};
use crate::record::Applied;
use crate::releases::Releases;
use crate::wire::{self, Reply, Request, SnapshotPart};

/// What all links of a node share.
pub(crate) struct Wiring {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    /// Longest wait for an append that carries entries.
    pub(crate) append_deadline: Duration,
    pub(crate) snapshot_idle: Duration,
    pub(crate) releases: Releases,
    pub(crate) integrity: Integrity,
    pub(crate) held: Held,
    pub(crate) metrics: Metrics,
}

/// Makes links; connects nothing.
#[derive(Clone)]
pub(crate) struct Network(pub(crate) Arc<Wiring>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { wiring: self.0.clone(), target: NodeId(target), lane: Lane::Consensus }
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Link {
        Link { wiring: self.0.clone(), target: NodeId(target), lane: Lane::Heartbeat }
    }
}

/// Calls to one member on one lane.
pub(crate) struct Link {
    wiring: Arc<Wiring>,
    target: NodeId,
    lane: Lane,
}

impl Link {
    async fn call(&self, action: RPCTypes, request: Request, deadline: Duration) -> Result<Reply, RPCError<Types>> {
        let answer = self.exchange(request, deadline).await;
        self.read(answer.map_err(|error| self.rpc_error(action, error, deadline))?)
    }

    async fn exchange(&self, request: Request, deadline: Duration) -> Result<Bytes, PeerError> {
        let Wiring { peers, cluster, .. } = &*self.wiring;
        let body = wire::encode_request(*cluster, self.target, request);
        let call = peers.call(self.target, self.lane, body, deadline);
        tokio::time::timeout(deadline, call).await.unwrap_or(Err(PeerError::TimedOut))
    }

    fn read(&self, answer: Bytes) -> Result<Reply, RPCError<Types>> {
        let (release, reply) = wire::decode_reply(answer).map_err(|error| unreachable(&error))?;
        self.wiring.releases.heard(self.target, release);
        Ok(reply)
    }

    fn rpc_error(&self, action: RPCTypes, error: PeerError, timeout: Duration) -> RPCError<Types> {
        match error {
            PeerError::TimedOut => {
                RPCError::Timeout(Timeout { action, id: self.wiring.node.0, target: self.target.0, timeout })
            }
            PeerError::Lost(reason) => RPCError::Network(NetworkError::from_string(reason)),
            PeerError::Unreachable(_) | PeerError::Refused { .. } => unreachable(&error),
        }
    }
}

fn unreachable(error: &impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(error.to_string()))
}

/// The peer answered something else than what was asked.
fn unexpected(reply: &Reply) -> RPCError<Types> {
    match reply {
        Reply::Failure { message, .. } => unreachable(message),
        other => unreachable(&format!("unexpected answer: {other:?}")),
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // An append with entries waits for the follower's disk; openraft's figure is meant for heartbeats.
        let is_heartbeat = rpc.entries.is_empty();
        let deadline =
            if is_heartbeat { option.hard_ttl() } else { self.wiring.append_deadline.max(option.hard_ttl()) };
        let alarm = is_heartbeat.then(|| self.wiring.integrity.alarm()).filter(|alarm| alarm.index > 0);
        match self.call(RPCTypes::AppendEntries, Request::Append { append: rpc, alarm }, deadline).await? {
            Reply::Append { reply, marks } => {
                self.wiring.integrity.heard(self.target, &marks);
                Ok(reply)
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::Vote(rpc), option.soft_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, Request::PreVote(rpc), option.soft_ttl()).await? {
            Reply::Vote(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Labelled,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::Exported(export) = snapshot.snapshot else {
            return Err(StreamingError::Network(NetworkError::from_string("only an own export can be sent")));
        };
        let (again, begun) = (export.again(), AtomicBool::new(false));
        let sent = tokio::select! {
            sent = Box::pin(self.send(vote, export, &begun)) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        };
        match &sent {
            Ok(_) => self.wiring.held.release(self.target),
            Err(_) if begun.load(Ordering::Relaxed) => self.wiring.held.keep(self.target, again),
            Err(_) => {}
        }
        sent
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let (from, last) = (*req.from_leader(), req.last_log_id().copied());
        match self.call(RPCTypes::TransferLeader, Request::Transfer(req), option.soft_ttl()).await? {
            Reply::Transfer(reply) => Ok(reply.map_err(|error| match error {
                TransferLeaderError::VoteChanged { actual, .. } => {
                    TransferLeaderError::VoteChanged { expected: from, actual }
                }
                TransferLeaderError::LogNotFlushed { actual, .. } => {
                    TransferLeaderError::LogNotFlushed { expected: last, actual }
                }
            })),
            other => Err(unexpected(&other)),
        }
    }
}

impl Link {
    /// Asks what the peer has of a snapshot. `None`: its release does not know the question.
    async fn offer(&self, vote: Vote, id: SnapshotId) -> Result<Option<Reply>, RPCError<Types>> {
        let deadline = self.wiring.snapshot_idle;
        match self.exchange(Request::SnapshotOffer { vote, id }, deadline).await {
            Ok(answer) => self.read(answer).map(Some),
            Err(PeerError::Refused { code: ErrorCode::BadRequest, .. }) => Ok(None),
            Err(error) => Err(self.rpc_error(RPCTypes::InstallSnapshot, error, deadline)),
        }
    }

    /// Sends what the peer lacks of a snapshot; says in `begun` that it may have a part of it, to go on with.
    async fn send(
        &self,
        vote: Vote,
        export: Export,
        begun: &AtomicBool,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let unsent = |reason: String| StreamingError::Network(NetworkError::<Types>::from_string(reason));
        let applied = Applied::from_store(export.meta()).map_err(|error| unsent(error.to_string()))?;
        let id = export.id();
        let after = match self.offer(vote, id.clone()).await? {
            Some(Reply::SnapshotFrom(after)) => {
                begun.store(true, Ordering::Relaxed);
                after
            }
            Some(Reply::Snapshot(vote)) => return Ok(SnapshotResponse::new(vote)),
            Some(other) => return Err(unexpected(&other).into()),
            // It keeps nothing of a stream that breaks off.
            None => Vec::new(),
        };
        if !after.is_empty() {
            self.wiring.metrics.snapshots_resumed.inc();
            let reaches = applied.last.map(|id| id.index);
            tracing::info!(to = %self.target, reaches, "a snapshot goes on where it broke off");
        }
        let export = export.behind(&after);
        let header = Request::Snapshot(SnapshotPart::Header { vote, applied, after });
        let header = wire::encode_request(self.wiring.cluster, self.target, header);
        let broken = Arc::new(Mutex::new(None));
        let chunks = self.chunks(header, export, broken.clone());
        let answer = self.wiring.peers.send_snapshot(self.target, chunks, self.wiring.snapshot_idle).await;
        if let Some(reason) = broken.lock().expect("no holder of this lock can panic").take() {
            // The next attempt reads the state as it is then.
            begun.store(false, Ordering::Relaxed);
            self.wiring.held.forget(&id);
            return Err(unsent(reason));
        }
        let bytes =
            answer.map_err(|error| self.rpc_error(RPCTypes::InstallSnapshot, error, self.wiring.snapshot_idle))?;
        match self.read(bytes)? {
            Reply::Snapshot(vote) => Ok(SnapshotResponse::new(vote)),
            other => Err(unexpected(&other).into()),
        }
    }

    /// The header and then the export, read chunk by chunk as the peer takes them. When the export cannot be read the
    /// stream ends without its trailer, which no receiver installs, and `broken` says why.
    fn chunks(&self, header: Bytes, export: Export, broken: Arc<Mutex<Option<String>>>) -> BoxStream<'static, Bytes> {
        let wiring = self.wiring.clone();
        let target = self.target;
        let data = stream::unfold(Some(export), move |export| {
            let (wiring, broken) = (wiring.clone(), broken.clone());
            async move {
                let mut export = export?;
                let read = tokio::task::spawn_blocking(move || {
                    let chunk = export.next_chunk();
                    (export, chunk)
                });
                let (export, chunk) = match read.await {
                    Ok((export, Ok(chunk))) => (export, chunk?),
                    Ok((_, Err(error))) => return end(&broken, &error),
                    Err(error) => return end(&broken, &error),
                };
                wiring.metrics.snapshot_bytes_sent.inc_by(chunk.len() as u64);
                let part = Request::Snapshot(SnapshotPart::Data(chunk.into()));
                Some((wire::encode_request(wiring.cluster, target, part), Some(export)))
            }
        });
        stream::once(async { header }).chain(data).boxed()
    }
}

/// Notes why the export broke off and ends the stream.
fn end<T>(broken: &Mutex<Option<String>>, error: &impl ToString) -> Option<T> {
    *broken.lock().expect("no holder of this lock can panic") =
        Some(format!("read own snapshot: {}", error.to_string()));
    None
}

#[cfg(test)]
mod tests;
