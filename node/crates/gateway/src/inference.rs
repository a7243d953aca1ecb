//! What tools ask models through: the clients' door itself, in process, as a request of this machine.
//!
//! Always: a tool's question goes the way of a client's, with the same limits, the same choice of a node and the same
//! refusals. It is the call of a tool in the metrics and in the log, and no request of its own there. The answer is
//! streamed inside, so that how far it is can be told, and put together at its end. Before the door is open, and when
//! it has closed, the answer says so.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode, header};
use bytes::BytesMut;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Collected, Limited};
use serde_json::Value;

use ollamax_tools::{Caller, Inference, Progress, ToolError};
use ollamax_types::{Api, ErrorCode};

use crate::error::ERROR_HEADER;

mod answer;

use self::answer::Answer;

/// Bytes of one answer, with everything that frames its pieces. A tool's result may be far smaller.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// How a door is asked; `None`: it has closed.
type Ask = Arc<dyn Fn(Api, Request) -> Option<BoxFuture<'static, Response<Body>>> + Send + Sync>;

/// Where the clients' door stands once it is open. Clones are the same place.
#[derive(Clone, Default)]
pub struct InferenceSlot(Arc<Mutex<Option<Ask>>>);

impl fmt::Debug for InferenceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InferenceSlot").finish_non_exhaustive()
    }
}

/// What tools ask models through. It can be had before the door is open: give the slot to the toolbox
/// ([`crate::Toolbox::with_inference`]) with which the door is opened.
#[must_use]
pub fn inference_port(slot: &InferenceSlot) -> Arc<dyn Inference> {
    Arc::new(slot.clone())
}

// === impl InferenceSlot ===

impl InferenceSlot {
    /// From now on questions are asked so.
    pub(crate) fn fill(
        &self,
        ask: impl Fn(Api, Request) -> Option<BoxFuture<'static, Response<Body>>> + Send + Sync + 'static,
    ) {
        *self.lock() = Some(Arc::new(ask));
    }

    fn send(&self, api: Api, request: Request) -> Option<BoxFuture<'static, Response<Body>>> {
        let ask = self.lock().clone()?;
        ask(api, request)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inference for InferenceSlot {
    fn ask(
        &self,
        by: &Caller,
        path: &'static str,
        body: Value,
        progress: Progress,
    ) -> BoxFuture<'static, Result<Value, ToolError>> {
        let (slot, by) = (self.clone(), by.clone());
        async move {
            let api = Api::from_path(path).ok_or_else(|| no_route(path))?;
            let asked = slot.send(api, request(api, by, body)?).ok_or_else(closed)?;
            heard(api, asked.await, &progress).await
        }
        .boxed()
    }
}

/// As a client sends it, always with a stream where there can be one.
fn request(api: Api, by: Caller, mut body: Value) -> Result<Request, ToolError> {
    let Some(fields) = body.as_object_mut() else {
        return Err(ToolError::new(ErrorCode::BadRequest, "the question is no object", ""));
    };
    if matches!(api, Api::Chat | Api::Generate) {
        fields.insert("stream".to_owned(), Value::Bool(true));
    }
    let mut request = Request::new(Body::from(body.to_string()));
    request.extensions_mut().insert(by.request);
    if let Some(trace) = by.trace {
        request.extensions_mut().insert(trace);
    }
    Ok(request)
}

/// Hears an answer to its end.
async fn heard(api: Api, response: Response<Body>, progress: &Progress) -> Result<Value, ToolError> {
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    let mut pieces = Answer::new(api);
    let (mut bytes, mut body, mut count) = (BytesMut::new(), response.into_body(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| answer::broke(&error.to_string()))?;
        let data = frame.into_data().unwrap_or_default();
        count += data.len();
        if count > ANSWER_BYTES_MAX {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
        while let Some(end) = memchr::memchr(b'\n', &bytes) {
            let line = bytes.split_to(end + 1);
            pieces.take(&line, progress)?;
        }
    }
    pieces.take(&bytes, progress)?;
    pieces.whole()
}

/// Why there is no answer, in the words of who refused it.
async fn refused(response: Response<Body>) -> ToolError {
    let status = response.status().as_u16();
    let code = response.headers().get(ERROR_HEADER).and_then(|code| ErrorCode::from_text(code.to_str().ok()?));
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = told["error"].as_str().map_or_else(|| format!("the answer has status {status}"), ToOwned::to_owned);
    let code = code.unwrap_or(match status {
        404 => ErrorCode::ModelNotFound,
        400..=499 => ErrorCode::BadRequest,
        _ => ErrorCode::RuntimeFailed,
    });
    ToolError::new(code, text, next(code, wait.as_deref()))
}

fn next(code: ErrorCode, wait: Option<&str>) -> String {
    match (code, wait) {
        (ErrorCode::ModelNotFound, _) => "call list_models_detailed, and name one of those".to_owned(),
        (ErrorCode::NotInitialised, _) => "ollamax status on the node says what to do".to_owned(),
        (_, Some(seconds)) => format!("try again in {seconds} s"),
        (ErrorCode::RuntimeFailed | ErrorCode::RuntimeUnavailable, None) => "call get_health_status".to_owned(),
        _ => String::new(),
    }
}

fn no_route(path: &str) -> ToolError {
    ToolError::new(ErrorCode::NotImplemented, format!("no model answers at {path}"), "")
}

fn closed() -> ToolError {
    let message = "the clients' door of this node is not open";
    ToolError::new(ErrorCode::Draining, message, "try again in a moment, or at another node")
}

fn too_large() -> ToolError {
    let message = format!("the answer is larger than {} MiB", ANSWER_BYTES_MAX >> 20);
    ToolError::new(ErrorCode::BodyTooLarge, message, "ask for less: options.num_predict bounds an answer")
}
