//! Carries the messages of consensus over `net`: the sending side is metadata's port, the receiving side a service.
//!
//! The sender is the member whose key opened the connection, which is closed when it departs; the cluster and the
//! receiver stand in every message and are checked. So a message can reach neither another cluster nor another node.

mod exchange;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Response, Status, Streaming};

use ollamax_metadata as metadata;
use ollamax_metadata::{Lane, PeerError, Peers};
use ollamax_net::{Caller, Class, NetHandle, was_never_sent};
use ollamax_proto::v1::raft_answer::Result as Answered;
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_proto::v1::raft_server::{Raft, RaftServer};
use ollamax_proto::v1::{RaftAnswer, RaftCall, RaftMessage, RaftRefusal};
use ollamax_types::limits::PEER_MESSAGE_BYTES_MAX;
use ollamax_types::{ClusterId, ErrorCode, NodeId};

use crate::adapters::outgoing::Outgoing;
use crate::adapters::status::{code_of, refusal};
use crate::slot::Slot;
use exchange::Line;

const NOT_READY: &str = "this node is not ready";
/// Calls of one exchange that are served at once; more wait on the connection.
const CALLS_SERVED_MAX: usize = 1_024;

/// The ways to other members, one per lane.
type Lines = Arc<Mutex<HashMap<(NodeId, Class), Arc<Line>>>>;

/// The sending side.
#[derive(Debug, Clone)]
pub(crate) struct RaftOverNet {
    net: NetHandle,
    cluster: ClusterId,
    node: NodeId,
    tasks: TaskTracker,
    lines: Lines,
}

// === impl RaftOverNet ===

impl RaftOverNet {
    /// Speaks as this node of this cluster. What reads answers runs in the given group.
    #[must_use]
    pub(crate) fn new(net: NetHandle, cluster: ClusterId, node: NodeId, tasks: TaskTracker) -> Self {
        Self { net, cluster, node, tasks, lines: Arc::default() }
    }

    fn client(&self, to: NodeId, class: Class) -> RaftClient<tonic::transport::Channel> {
        RaftClient::new(self.net.channel(to, class))
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    /// The way to a member on one lane; those to nodes that have departed are forgotten when another is made.
    fn line(&self, to: NodeId, class: Class) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&(to, class)) {
            return Arc::clone(line);
        }
        let members = self.net.members();
        lines.retain(|(node, _), _| members.contains(node));
        let line = Arc::new(Line::new(self.tasks.clone()));
        lines.insert((to, class), Arc::clone(&line));
        line
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
        let (own, line) = (self.clone(), self.line(to, class));
        async move {
            let client = || own.client(to, class);
            let message = |body| RaftMessage { cluster: own.cluster.0.to_vec(), from: own.node.0, to: to.0, body };
            // Before the client is made: its channel is of this epoch or a later one.
            let epoch = own.net.epoch(to);
            line.call(body, (deadline, epoch), client, message).await
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

/// Milliseconds, for a message.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct RaftService {
    slot: Slot,
    stop: CancellationToken,
}

// === impl RaftService ===

impl RaftService {
    /// The service for members' routes. When `stop` fires, senders are asked to send no more.
    #[must_use]
    pub(crate) fn server(slot: Slot, stop: CancellationToken) -> RaftServer<Self> {
        RaftServer::new(Self { slot, stop })
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }

    /// One call of an exchange; `None` when whoever asked has stopped waiting.
    async fn answer(self, from: NodeId, call: RaftCall) -> Option<RaftAnswer> {
        let serving = async {
            let member = self.slot.get().ok_or_else(|| (ErrorCode::NotInitialised, NOT_READY.to_owned()))?;
            member.metadata.serve(from, call.body).await.map_err(|error| (error.code(), error.to_string()))
        };
        let deadline = Duration::from_millis(u64::from(call.deadline_ms));
        let result = match tokio::time::timeout(deadline, serving).await.ok()? {
            Ok(body) => Answered::Body(body),
            Err((code, message)) => Answered::Refused(RaftRefusal { code: code.as_str().to_owned(), message }),
        };
        Some(RaftAnswer { number: call.number, result: Some(result) })
    }

    /// The engine, once the message is known to be from who it says and for this node.
    fn check(&self, caller: Option<&Caller>, message: &RaftMessage) -> Result<(metadata::Handle, NodeId), Status> {
        let member = self.slot.get().ok_or_else(|| refusal(ErrorCode::NotInitialised, NOT_READY))?;
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
    type ExchangeStream = BoxStream<'static, Result<RaftAnswer, Status>>;

    async fn exchange(&self, request: Request<Streaming<RaftCall>>) -> Result<Response<Self::ExchangeStream>, Status> {
        let caller = request.extensions().get::<Caller>().and_then(|caller| caller.node);
        let from = caller.ok_or_else(|| refusal(ErrorCode::NotMember, "the key of this connection is no member's"))?;
        let own = self.clone();
        let calls = tokio_stream::StreamExt::map_while(request.into_inner(), Result::ok);
        let served = calls.map(move |call| own.clone().answer(from, call)).buffer_unordered(CALLS_SERVED_MAX);
        // The sender hears of the stop, lets what is on its way arrive, and ends its half; so nothing is lost.
        let going = stream::once(self.stop.clone().cancelled_owned()).map(|()| Some(RaftAnswer::default()));
        let served = served.filter_map(ready).map(Some).chain(stream::once(ready(None)));
        let answers = tokio_stream::StreamExt::map_while(stream::select(going, served), |answer| answer.map(Ok));
        Ok(Response::new(answers.boxed()))
    }

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
        let chunks = stream::iter([Ok(first.body)]).chain(rest).boxed();
        let body = metadata.serve_snapshot(from, chunks).await.map_err(|error| serve_status(&error))?;
        Ok(Response::new(RaftMessage { cluster, from: own, to: from.0, body }))
    }
}

fn serve_status(error: &metadata::ServeError) -> Status {
    refusal(error.code(), &error.to_string())
}
