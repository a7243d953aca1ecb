//! A request for a model: reads what routing needs, asks the scheduler, hands the answer through.
//!
//! Dropping the answer, as hyper does when the client leaves, drops the dispatch and with it the work. A break is
//! logged here, once, and told to the client in the form of its stream.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt as _};

use ollamax_core::catalog::Phase;
use ollamax_scheduler as scheduler;
use ollamax_types::{Api, ErrorCode, InferenceRequest, ModelName, NodeId, RequestId, Trace};

use crate::error::{ApiError, Shape};
use crate::http::ending::{Ending, Form};
use crate::http::observe::AskedModel;
use crate::http::request::{Fields, read_fields};
use crate::http::{NODE_HEADER, OpenDoor, body};

/// Answers one request.
pub(crate) async fn answer(door: &Arc<OpenDoor>, api: Api, request: Request) -> Response<Body> {
    let mut model = String::new();
    let mut response = match try_answer(door, api, request, &mut model).await {
        Ok(response) => response,
        Err(error) => error.into_response(Shape::of(api)),
    };
    response.extensions_mut().insert(AskedModel(model));
    response
}

/// Says in `asked` which model the client named, as soon as that is known.
async fn try_answer(
    door: &Arc<OpenDoor>,
    api: Api,
    request: Request,
    asked: &mut String,
) -> Result<Response<Body>, ApiError> {
    let (head, client_body) = request.into_parts();
    let id = head.extensions.get::<RequestId>().cloned().unwrap_or_default();
    let trace = head.extensions.get::<Trace>().cloned();
    let held = body::read(door, &head.headers, client_body).await?;
    let fields =
        read_fields(api, &held.bytes).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    fields.model(api).clone_into(asked);
    let model = checked_model(api, &fields)?;
    check_phase(door, api, &fields, &model)?;
    let scheduler = door.parts.node.scheduler().ok_or_else(|| ApiError::without_engines(&*door.parts.node))?;
    let request = InferenceRequest {
        id: id.clone(),
        trace,
        api,
        model,
        digest: None,
        num_ctx: fields.num_ctx,
        stream: fields.streams(api),
        body: held.bytes.clone(),
    };
    let answer =
        if fields.is_unload(api) { unload(&scheduler, request).await } else { scheduler.dispatch(request).await };
    let response = answer.map_err(|error| {
        let code = error.code();
        tracing::debug!(%code, %error, "nobody answered");
        ApiError::of_dispatch(api, fields.model(api), &error)
    })?;
    drop(held);
    Ok(relayed(door, id, response))
}

/// The model as a name, or Ollama's words for what is wrong with it.
fn checked_model(api: Api, fields: &Fields) -> Result<ModelName, ApiError> {
    let sent = fields.model(api);
    match (api, sent) {
        (Api::Chat | Api::Show | Api::OpenAiChat, "") => Err(ApiError::new(ErrorCode::BadRequest, "model is required")),
        (Api::Generate | Api::Embed | Api::OpenAiEmbeddings, "") => Err(ApiError::model_not_found(api, "", "")),
        _ => sent.parse().map_err(|_| ApiError::new(ErrorCode::BadRequest, "invalid model name")),
    }
}

/// A disabled model answers nobody; it can be looked at, and be sent out of memory.
fn check_phase(door: &OpenDoor, api: Api, fields: &Fields, model: &ModelName) -> Result<(), ApiError> {
    let uses_it = match api {
        Api::Show => false,
        Api::Generate | Api::Chat | Api::Embed | Api::OpenAiChat | Api::OpenAiEmbeddings => !fields.is_unload(api),
    };
    match door.parts.node.phase(model) {
        Phase::Disabled(since) if uses_it => Err(ApiError::disabled(fields.model(api), &since.note)),
        Phase::Active | Phase::Deprecated(_) | Phase::Disabled(_) | Phase::Deleted(_) => Ok(()),
    }
}

/// Sends an unload to every node that has the model in memory, under whatever name; the first that did it answers.
async fn unload(
    scheduler: &scheduler::Handle,
    request: InferenceRequest,
) -> Result<scheduler::Response, scheduler::DispatchError> {
    let holders = scheduler.loaded_on(&request.model);
    if holders.is_empty() {
        return scheduler.dispatch(request).await;
    }
    let sent = holders.into_iter().map(|node| scheduler.dispatch_to(node, request.clone()));
    let mut answers = join_all(sent).await;
    let first = answers.iter().position(Result::is_ok).unwrap_or(0);
    answers.swap_remove(first)
}

/// The runtime's answer as ours: its status, its headers that belong to the answer, its bytes.
fn relayed(door: &OpenDoor, id: RequestId, response: scheduler::Response) -> Response<Body> {
    let node = response.node;
    let mut form = Form::Whole;
    let mut relayed = Response::new(Body::empty());
    *relayed.status_mut() = StatusCode::from_u16(response.status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in &response.headers {
        let kept = [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::RETRY_AFTER];
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| kept.contains(name));
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            if name == header::CONTENT_TYPE && relayed.status() == StatusCode::OK {
                form = Form::of(value.as_bytes());
            }
            relayed.headers_mut().insert(name, value);
        }
    }
    if form != Form::Whole {
        // A stream may get an error behind its last byte.
        relayed.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let name = door.parts.node.name_of(node).and_then(|name| HeaderValue::from_str(&name).ok());
    let name = name.unwrap_or_else(|| HeaderValue::from(node.0));
    relayed.headers_mut().insert(HeaderName::from_static(NODE_HEADER), name);
    *relayed.body_mut() = Body::from_stream(passing(response.body, Ending::new(form), id, node));
    relayed
}

/// The bytes as they arrive. A break becomes an error in the stream's form, or breaks the connection.
fn passing(
    body: scheduler::Body,
    ending: Ending,
    id: RequestId,
    node: NodeId,
) -> impl futures::Stream<Item = Result<Bytes, scheduler::Broken>> + Send {
    stream::unfold(Some((body, ending, id, node)), |flow| async move {
        let (mut body, mut ending, id, node) = flow?;
        let problem = match body.next().await {
            Some(Ok(bytes)) => {
                ending.see(&bytes);
                return Some((Ok(bytes), Some((body, ending, id, node))));
            }
            None if ending.is_complete() => return None,
            None => format!("the runtime of node {node} ended its answer before it was complete"),
            Some(Err(broken)) => broken.to_string(),
        };
        tracing::warn!(request_id = %id, %node, code = %ErrorCode::RuntimeFailed, problem, "answer broke off");
        let last = ending.error(&problem);
        Some((last.ok_or(scheduler::Broken { message: problem }), None))
    })
}
