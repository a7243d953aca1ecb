//! Around every request: its id, its log lines, its metrics, and what happens when a handler panics.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use axum::middleware::Next;
use bytes::Bytes;
use futures::FutureExt as _;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use ollamax_security::draw_span;
use ollamax_types::{ErrorCode, RequestId, Trace};

use crate::error::{ApiError, Shape};
use crate::http::{NODE_HEADER, OpenDoor, REQUEST_ID_HEADER, trace};
use crate::metrics::Metrics;

/// Which model a request for inference named; empty where it named none. Travels with the answer to its log line.
#[derive(Debug, Clone)]
pub(crate) struct AskedModel(pub(crate) String);

/// Counts one request until its answer has ended or was dropped, and writes its line in the log.
struct Watched {
    metrics: Metrics,
    route: String,
    started_at: Instant,
    saw_byte: bool,
    span: Span,
    head: Option<Head>,
}

/// What the line in the log says of an answer.
struct Head {
    status: u16,
    node: HeaderValue,
    model: Option<AskedModel>,
}

/// An answer's body, watched.
struct WatchedBody {
    inner: Body,
    watched: Watched,
}

/// Gives the request an id and follows it to the end of its answer.
pub(crate) async fn observe(State(door): State<Arc<OpenDoor>>, mut request: Request, next: Next) -> Response<Body> {
    let id = request_id(&door, request.headers());
    request.extensions_mut().insert(id.clone());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let metrics = door.parts.metrics.clone();
    metrics.in_flight.inc();
    let said = trace::of_headers(request.headers());
    let own = said.as_ref().map(draw_span);
    let (trace_id, parent_id) = (said.as_ref().map(Trace::id), said.as_ref().map(Trace::parent));
    // Few fields, and on at every level: even a lone error names its request.
    let span_id = own.as_ref().map(Trace::parent);
    let span = tracing::error_span!("request", request_id = id.0, trace_id, parent_id, span_id);
    if let Some(own) = own {
        request.extensions_mut().insert(own);
    }
    let mut watched =
        Watched { metrics, route, started_at: Instant::now(), saw_byte: false, span: span.clone(), head: None };
    let shape = Shape::of_path(request.uri().path());
    // What a panic leaves behind is this request's alone.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span).await;
    let mut response = answered.unwrap_or_else(|_panic| panicked(shape));
    watched.metrics.requests.with_label_values(&[watched.route.as_str(), response.status().as_str()]).inc();
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(HeaderName::from_static(REQUEST_ID_HEADER), id);
    }
    if !headers.contains_key(NODE_HEADER) {
        let name = HeaderValue::from_str(&door.parts.node.name()).unwrap_or(HeaderValue::from_static("?"));
        headers.insert(HeaderName::from_static(NODE_HEADER), name);
    }
    let node = headers[NODE_HEADER].clone();
    let model = response.extensions_mut().remove::<AskedModel>();
    watched.head = Some(Head { status: response.status().as_u16(), node, model });
    if HttpBody::is_end_stream(response.body()) {
        watched.saw();
        return response;
    }
    response.map(|inner| Body::new(WatchedBody { inner, watched }))
}

/// The client's own id where it is short and plain, else a new one.
fn request_id(door: &OpenDoor, headers: &HeaderMap) -> RequestId {
    let sent = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    sent.and_then(RequestId::chosen).unwrap_or_else(|| RequestId(door.draw_request_id()))
}

/// A handler panicked: that request only. The process's panic hook has told the log.
fn panicked(shape: Shape) -> Response<Body> {
    let error = "internal error; the node's log says more under this request's id";
    ApiError::new(ErrorCode::Internal, error).into_response(shape)
}

// === impl Watched ===

impl Watched {
    fn saw(&mut self) {
        if !std::mem::replace(&mut self.saw_byte, true) {
            let seconds = self.started_at.elapsed().as_secs_f64();
            self.metrics.first_byte.with_label_values(&[self.route.as_str()]).observe(seconds);
        }
    }

    /// One line for each answer: at info where a model was asked, at debug for what probes and lists ask all day.
    fn log(&self) {
        let took_ms = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let route = self.route.as_str();
        let _entered = self.span.enter();
        match &self.head {
            Some(Head { status, node, model: Some(AskedModel(model)) }) => {
                let node = node.to_str().unwrap_or_default();
                tracing::info!(route, model, node, status, took_ms, "answered");
            }
            Some(Head { status, .. }) => tracing::debug!(route, status, took_ms, "answered"),
            None => tracing::debug!(route, took_ms, "the client left before the answer began"),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let seconds = self.started_at.elapsed().as_secs_f64();
        self.metrics.duration.with_label_values(&[self.route.as_str()]).observe(seconds);
        self.log();
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_ready() {
            self.watched.saw();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::http::Parts;
    use crate::mem::MemNode;

    async fn breaks() -> &'static str {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_panic_is_told_in_the_shape_of_its_path_under_its_id() {
        let registry = prometheus::Registry::new();
        let door = Arc::new(OpenDoor::new(Parts {
            node: Arc::new(MemNode::new("n1")),
            tools: crate::Toolbox::default(),
            config: crate::config::Config::default(),
            bound: ([127, 0, 0, 1], 11_435).into(),
            hostname: "gpu-1".to_owned(),
            metrics: Metrics::register(&registry).expect("fresh registry"),
            registry,
            seed: 1,
        }));
        let router = Router::new().route("/api/chat", get(breaks)).route("/v1/models", get(breaks));
        let router = router.layer(from_fn_with_state(door, observe));
        for (path, shape) in [("/api/chat", Shape::Ollama), ("/v1/models", Shape::OpenAi)] {
            let request = Request::get(path).header(REQUEST_ID_HEADER, "r-7").body(Body::empty()).expect("a request");
            let (head, body) = router.clone().oneshot(request).await.expect("infallible").into_parts();
            let text = "internal error; the node's log says more under this request's id";
            assert_eq!(body.collect().await.expect("whole").to_bytes(), shape.body(500, text), "{path}");
            assert_eq!(
                (head.status.as_u16(), &head.headers[REQUEST_ID_HEADER]),
                (500, &HeaderValue::from_static("r-7"))
            );
            assert_eq!(head.headers[crate::error::ERROR_HEADER], "internal");
        }
    }
}
