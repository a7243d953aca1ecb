//! Carries the messages of consensus over `net`: the sending side is metadata's port, the receiving side a service.
//!
//! The cluster, the sender and the receiver stand in every message and are checked against the key that opened the
//! connection, so that a message can reach neither another cluster nor another node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};

use ollamax_metadata as metadata;
use ollamax_metadata::{Lane, PeerError, Peers};
use ollamax_net::{Caller, Class, NetHandle, was_never_sent};
use ollamax_proto::v1::RaftMessage;
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_proto::v1::raft_server::{Raft, RaftServer};
use ollamax_types::limits::PEER_MESSAGE_BYTES_MAX;
use ollamax_types::{ClusterId, ErrorCode, NodeId};

use crate::adapters::outgoing::Outgoing;
use crate::adapters::status::{code_of, refusal};
use crate::slot::Slot;

/// The sending side.
#[derive(Debug, Clone)]
pub(crate) struct RaftOverNet {
    net: NetHandle,
    cluster: ClusterId,
    node: NodeId,
}

// === impl RaftOverNet ===

impl RaftOverNet {
    /// Speaks as this node of this cluster.
    #[must_use]
    pub(crate) const fn new(net: NetHandle, cluster: ClusterId, node: NodeId) -> Self {
        Self { net, cluster, node }
    }

    fn client(&self, to: NodeId, class: Class) -> RaftClient<tonic::transport::Channel> {
        RaftClient::new(self.net.channel(to, class))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    fn message(&self, to: NodeId, body: Bytes) -> RaftMessage {
        RaftMessage { cluster: self.cluster.0.to_vec(), from: self.node.0, to: to.0, body }
    }
}

impl Peers for RaftOverNet {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let class = match lane {
            Lane::Consensus => Class::Raft,
            Lane::Heartbeat => Class::Heartbeat,
            Lane::Forward => Class::Forward,
        };
        let mut client = self.client(to, class);
        let message = self.message(to, body);
        async move {
            match tokio::time::timeout(deadline, client.call(message)).await {
                Ok(Ok(reply)) => Ok(reply.into_inner().body),
                Ok(Err(status)) => Err(peer_error(&status)),
                Err(_) => Err(PeerError::TimedOut),
            }
        }
        .boxed()
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, Bytes>,
        deadline_idle: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let mut client = self.client(to, Class::Snapshot);
        let (cluster, from) = (self.cluster.0.to_vec(), self.node.0);
        let progress = Arc::new(tokio::sync::Notify::new());
        let ticking = Arc::clone(&progress);
        let messages = chunks.map(move |body| {
            ticking.notify_one();
            RaftMessage { cluster: cluster.clone(), from, to: to.0, body }
        });
        let messages = Outgoing(messages.boxed());
        async move {
            let sending = client.install_snapshot(messages);
            tokio::pin!(sending);
            loop {
                tokio::select! {
                    answer = &mut sending => {
                        return answer.map(|reply| reply.into_inner().body).map_err(|status| peer_error(&status));
                    }
                    () = progress.notified() => {}
                    () = tokio::time::sleep(deadline_idle) => return Err(PeerError::TimedOut),
                }
            }
        }
        .boxed()
    }
}

fn peer_error(status: &Status) -> PeerError {
    if was_never_sent(status) {
        return PeerError::Unreachable(status.message().to_owned());
    }
    match code_of(status) {
        Some(code) => PeerError::Refused { code, message: status.message().to_owned() },
        None if status.code() == Code::DeadlineExceeded => PeerError::TimedOut,
        None => PeerError::Lost(status.message().to_owned()),
    }
}

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct RaftService {
    slot: Slot,
}

// === impl RaftService ===

impl RaftService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot) -> RaftServer<Self> {
        RaftServer::new(Self { slot })
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    /// The engine, once the message is known to be from who it says and for this node.
    fn check(&self, caller: Option<&Caller>, message: &RaftMessage) -> Result<(metadata::Handle, NodeId), Status> {
        let member = self.slot.get().ok_or_else(|| refusal(ErrorCode::NotInitialised, "this node is not ready"))?;
        let from = NodeId(message.from);
        if caller.and_then(|caller| caller.node) != Some(from) {
            return Err(refusal(ErrorCode::NotMember, "the key of this connection is not that of the sender"));
        }
        if message.cluster != member.cluster.0 || message.to != member.node.0 {
            return Err(refusal(ErrorCode::IdentityConflict, "this message is for another cluster or node"));
        }
        Ok((member.metadata, from))
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn call(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let message = request.into_inner();
        let (metadata, from) = self.check(caller.as_ref(), &message)?;
        let body = metadata.serve(from, message.body).await.map_err(|error| serve_status(&error))?;
        Ok(Response::new(RaftMessage { cluster: message.cluster, from: message.to, to: message.from, body }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else {
            return Err(refusal(ErrorCode::BadRequest, "a snapshot without a first message"));
        };
        let (metadata, from) = self.check(caller.as_ref(), &first)?;
        let (cluster, own) = (first.cluster, first.to);
        let rest = messages.map(|message| message.map(|m| m.body).map_err(|status| status.message().to_owned()));
        let chunks = futures::stream::iter([Ok(first.body)]).chain(rest).boxed();
        let body = metadata.serve_snapshot(from, chunks).await.map_err(|error| serve_status(&error))?;
        Ok(Response::new(RaftMessage { cluster, from: own, to: from.0, body }))
    }
}

fn serve_status(error: &metadata::ServeError) -> Status {
    refusal(error.code(), &error.to_string())
}
