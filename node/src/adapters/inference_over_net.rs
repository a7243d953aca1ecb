//! Sends inference to another node and takes in what others send: scheduler's `Remote` port, and its receiving side.
//!
//! Bytes pass untouched in both directions. Dropping the body on the sending side resets the gRPC stream, which
//! drops the body on the receiving side, which frees the slot and cancels at the runtime.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span};

use ollamax_net::{Class, NetHandle};
use ollamax_proto::v1;
use ollamax_proto::v1::dispatch_reply::Part;
use ollamax_proto::v1::inference_client::InferenceClient;
use ollamax_proto::v1::inference_server::{Inference, InferenceServer};
use ollamax_scheduler as scheduler;
use ollamax_scheduler::{AdmitError, Broken, Remote, Response as Answer, SendError};
use ollamax_security::draw_span;
use ollamax_types::limits::PEER_MESSAGE_BYTES_MAX;
use ollamax_types::{Api, Digest, ErrorCode, InferenceRequest, NodeId, RequestId, Trace};

use crate::adapters::status::{code_of, refusal};
use crate::import::runtime_side::{Events, Imports};
use crate::management::{self, Management};
use crate::slot::Slot;

/// The sending side.
#[derive(Debug, Clone)]
pub(crate) struct InferenceOverNet {
    net: NetHandle,
}

// === impl InferenceOverNet ===

impl InferenceOverNet {
    /// Sends over these connections.
    #[must_use]
    pub(crate) const fn new(net: NetHandle) -> Self {
        Self { net }
    }
}

impl Remote for InferenceOverNet {
    fn send(&self, to: NodeId, request: InferenceRequest) -> BoxFuture<'static, Result<Answer, SendError>> {
        let channel = self.net.channel(to, Class::Inference);
        send(channel, to, request).boxed()
    }
}

async fn send(channel: tonic::transport::Channel, to: NodeId, request: InferenceRequest) -> Result<Answer, SendError> {
    let mut client = InferenceClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let unreachable = |status: Status| send_error(&status);
    let mut parts = client.dispatch(wire_request(request)).await.map_err(unreachable)?.into_inner();
    match parts.message().await.map_err(unreachable)?.and_then(|reply| reply.part) {
        Some(Part::Head(head)) => Ok(Answer {
            status: u16::try_from(head.status).unwrap_or(502),
            headers: head.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            node: to,
            body: body_of(parts),
        }),
        Some(Part::Refusal(refused)) => Err(SendError::Refused {
            code: ErrorCode::from_text(&refused.code).unwrap_or(ErrorCode::RuntimeFailed),
            message: refused.message,
            started: refused.started,
        }),
        _ => Err(SendError::Unreachable("the node closed the stream before it answered".to_owned())),
    }
}

/// What the other node refused stays its refusal; everything else is a connection that failed.
fn send_error(status: &Status) -> SendError {
    match code_of(status) {
        Some(code) => SendError::Refused { code, message: status.message().to_owned(), started: false },
        None => SendError::Unreachable(status.message().to_owned()),
    }
}

fn wire_request(request: InferenceRequest) -> v1::DispatchRequest {
    v1::DispatchRequest {
        request_id: request.id.0,
        path: request.api.path().to_owned(),
        model: request.model.to_string(),
        digest: request.digest.map(|digest| digest.0.to_vec()).unwrap_or_default(),
        num_ctx: request.num_ctx.unwrap_or(0),
        stream: request.stream,
        body: request.body,
        traceparent: request.trace.as_ref().map(Trace::named).unwrap_or_default(),
        tracestate: request.trace.as_ref().map(Trace::state).unwrap_or_default().to_owned(),
    }
}

fn body_of(parts: Streaming<v1::DispatchReply>) -> BoxStream<'static, Result<Bytes, Broken>> {
    parts
        .map(|part| match part {
            Ok(v1::DispatchReply { part: Some(Part::Data(data)) }) => Ok(data),
            Ok(v1::DispatchReply { part: Some(Part::Broken(broken)) }) => Err(Broken { message: broken.message }),
            Ok(_) => Err(Broken { message: "the node sent something else than data".to_owned() }),
            Err(status) => Err(Broken { message: format!("the connection to the node broke: {}", status.message()) }),
        })
        .boxed()
}

/// The receiving side.
#[derive(Debug, Clone)]
pub(crate) struct InferenceService {
    slot: Slot,
    imports: Imports,
    management: Management,
}

// === impl InferenceService ===

impl InferenceService {
    /// The service for members' routes.
    #[must_use]
    pub(crate) fn server(slot: Slot, imports: Imports, management: Management) -> InferenceServer<Self> {
        InferenceServer::new(Self { slot, imports, management })
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type DispatchStream = BoxStream<'static, Result<v1::DispatchReply, Status>>;
    type ImportModelStream = Events;
    type ManageStream = management::Events;

    async fn dispatch(&self, request: Request<v1::DispatchRequest>) -> Result<Response<Self::DispatchStream>, Status> {
        let member = self.slot.get().ok_or_else(|| refusal(ErrorCode::NotInitialised, "this node is not ready"))?;
        let mut request = domain_request(request.into_inner())?;
        let scheduler = member.scheduler;
        let said = request.trace.take();
        request.trace = said.as_ref().map(draw_span);
        let span = span_of(&request, said.as_ref());
        // The stream opens at once; admission is its first part, so that a caller who leaves cancels the wait too.
        let first = admit(scheduler, request).instrument(span).into_stream();
        let parts = first.flat_map(|admitted| match admitted {
            Ok(answer) => answer_parts(answer),
            Err(error) => futures::stream::iter([Ok(part(Part::Refusal(refusal_part(&error))))]).boxed(),
        });
        Ok(Response::new(parts.boxed()))
    }

    async fn import_model(
        &self,
        request: Request<Streaming<v1::ImportOrder>>,
    ) -> Result<Response<Self::ImportModelStream>, Status> {
        Ok(Response::new(self.imports.take_part(request.into_inner().boxed())))
    }

    async fn manage(
        &self,
        request: Request<Streaming<v1::RuntimeOrder>>,
    ) -> Result<Response<Self::ManageStream>, Status> {
        Ok(Response::new(self.management.take_part(request.into_inner().boxed())))
    }
}

/// What has a request's lines tell of the trace that the other node names, and of the span under which it goes on.
fn span_of(request: &InferenceRequest, said: Option<&Trace>) -> Span {
    let (trace_id, parent_id) = (said.map(Trace::id), said.map(Trace::parent));
    let span_id = request.trace.as_ref().map(Trace::parent);
    tracing::error_span!("request", request_id = request.id.0, trace_id, parent_id, span_id)
}

/// Admits what another node sends, and says so in the log: with the line of the node that the client asked, one
/// request can be followed through both.
async fn admit(scheduler: scheduler::Handle, request: InferenceRequest) -> Result<Answer, AdmitError> {
    let model = request.model.clone();
    let started_at = Instant::now();
    let outcome = scheduler.admit(request).await;
    let waited_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    match &outcome {
        Ok(answer) => tracing::info!(%model, status = answer.status, waited_ms, "answers for another node"),
        Err(error) => tracing::info!(%model, code = %error.code(), %error, waited_ms, "refuses another node"),
    }
    outcome
}

fn domain_request(wire: v1::DispatchRequest) -> Result<InferenceRequest, Status> {
    let bad = |what: &str| refusal(ErrorCode::BadRequest, what);
    Ok(InferenceRequest {
        id: RequestId(wire.request_id),
        trace: Trace::parse(&wire.traceparent).map(|trace| trace.with_state(&wire.tracestate)),
        api: Api::from_path(&wire.path).ok_or_else(|| bad("unknown path"))?,
        model: wire.model.parse().map_err(|_| bad("invalid model name"))?,
        digest: match wire.digest.len() {
            0 => None,
            _ => Some(Digest(wire.digest.try_into().map_err(|_| bad("invalid digest"))?)),
        },
        num_ctx: (wire.num_ctx != 0).then_some(wire.num_ctx),
        stream: wire.stream,
        body: wire.body,
    })
}

fn answer_parts(answer: Answer) -> BoxStream<'static, Result<v1::DispatchReply, Status>> {
    let headers = answer.headers.into_iter().map(|(name, value)| v1::Header { name, value }).collect();
    let head = Part::Head(v1::ResponseHead { status: u32::from(answer.status), headers });
    let data = answer.body.map(|chunk| match chunk {
        Ok(data) => Ok(part(Part::Data(data))),
        Err(broken) => Ok(part(Part::Broken(v1::DispatchBreak { message: broken.message }))),
    });
    futures::stream::iter([Ok(part(head))]).chain(data).boxed()
}

fn refusal_part(error: &AdmitError) -> v1::DispatchRefusal {
    v1::DispatchRefusal { code: error.code().as_str().to_owned(), message: error.to_string(), started: error.started() }
}

const fn part(part: Part) -> v1::DispatchReply {
    v1::DispatchReply { part: Some(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_takes_in_is_what_was_sent_with_its_trace() {
        let named = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let check = |trace: Option<Trace>| {
            let sent = InferenceRequest {
                id: RequestId("r-7".to_owned()),
                trace,
                api: Api::Chat,
                model: "m".parse().expect("a name"),
                digest: Some(Digest([7; 32])),
                num_ctx: Some(512),
                stream: true,
                body: Bytes::from_static(b"{}"),
            };
            let taken = domain_request(wire_request(sent.clone())).expect("taken in");
            assert_eq!(format!("{taken:?}"), format!("{sent:?}"));
        };
        check(None);
        check(Trace::parse(named));
        check(Trace::parse(named).map(|trace| trace.with_state("a=1")));
    }
}
