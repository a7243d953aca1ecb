//! The clients' door over HTTP: Ollama's routes, OpenAI's, pulls, tools, health, metrics.
//!
//! Handlers only translate. Always: a request body is read once, bounded, and goes on as it came; an answer's bytes go
//! out as they arrive; an error has the shape of its route's protocol; an answer that broke never looks whole. What
//! this release does not serve says so (501) and what to use instead.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware;
use axum::routing::{any, get, post};
use futures::FutureExt as _;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_types::Api;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::ports::Node;
use crate::toolbox::Toolbox;

pub(crate) mod body;
pub(crate) mod edge;
mod ending;
mod health;
mod infer;
mod lists;
pub(crate) mod loopback;
pub(crate) mod mcp;
mod observe;
pub(crate) mod progress;
pub(crate) mod pull;
pub(crate) mod request;
mod serve;
mod tasks;
mod tools;
mod trace;
mod unserved;

pub use serve::{ClientAddress, Limits, Stopping, serve};
pub(crate) use serve::{LocalAddress, Serving, serve_with};

/// Names who answered, on every answer.
pub const NODE_HEADER: &str = "x-ollamamax-node";
/// Follows a request through all logs; taken from the client where it is sane.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The things that the door works with.
pub struct Parts {
    /// The node behind it.
    pub node: Arc<dyn Node>,
    /// What assistants can call.
    pub tools: Toolbox,
    /// `api.*`.
    pub config: Config,
    /// Where the door is bound: on loopback, hosts are checked.
    pub bound: SocketAddr,
    /// This machine's host name: clients may call it so.
    pub hostname: String,
    /// What `/metrics` shows.
    pub registry: Registry,
    /// Where the door counts; registered in `registry`.
    pub metrics: Metrics,
    /// Makes request ids differ between processes; any random number.
    pub seed: u64,
}

/// A door that is bound and not yet served.
pub struct Door {
    /// The bound listener, see [`bind`].
    pub listener: TcpListener,
    /// `api.*`.
    pub config: Config,
    /// The node behind it.
    pub node: Arc<dyn Node>,
    /// What assistants can call.
    pub tools: Toolbox,
    /// What `/metrics` shows; the door registers its own in it.
    pub registry: Registry,
    /// How long running answers may go on after the stop.
    pub grace: Duration,
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The registry holds metrics of these names already.
    #[error("register the gateway's metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The listener does not say where it is bound.
    #[error("read the address of api.listen: {0}")]
    Address(#[from] io::Error),
    /// No random seed for request ids.
    #[error(transparent)]
    Random(#[from] ollamax_security::RandomError),
}

/// The door, shared by all requests.
pub(crate) struct OpenDoor {
    pub(crate) parts: Parts,
    /// Kilobytes of request bodies that may still be held.
    pub(crate) body_memory: Arc<Semaphore>,
    pub(crate) callers: edge::Callers,
    requests: AtomicU64,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("config", &self.config).field("bound", &self.bound).finish_non_exhaustive()
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Binds a listener, ready to be put into a [`Door`]. Must be called inside a tokio runtime.
///
/// # Errors
/// When the address is taken or not of this machine.
pub fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves the door in `tasks` until `stop`, then lets answers finish within the grace. The task ends when the last
/// connection is closed; it does not fail.
///
/// # Errors
/// When metrics or the seed of request ids cannot be had.
pub fn spawn(door: Door, tasks: &TaskTracker, stop: CancellationToken) -> Result<JoinHandle<()>, OpenError> {
    let Door { listener, config, node, tools, registry, grace } = door;
    let metrics = Metrics::register(&registry)?;
    let limits = Limits::of(&config, grace);
    let bound = listener.local_addr()?;
    let seed = u64::from_le_bytes(ollamax_security::random_bytes()?);
    let hostname = edge::hostname();
    let parts = Parts { node, tools, config, bound, hostname, registry, metrics: metrics.clone(), seed };
    let router = router(parts);
    Ok(tasks.spawn(serve(listener, router, limits, metrics, stop)))
}

// === impl OpenDoor ===

impl OpenDoor {
    fn new(parts: Parts) -> Self {
        let kilobytes = usize::try_from(parts.config.body_memory_bytes_max >> 10).unwrap_or(usize::MAX);
        Self {
            body_memory: Arc::new(Semaphore::new(kilobytes.min(Semaphore::MAX_PERMITS))),
            callers: edge::Callers {
                checks_hosts: parts.bound.ip().is_loopback(),
                hostname: parts.hostname.clone(),
                origins: parts.config.origins.clone(),
                is_own: edge::is_own_address,
            },
            requests: AtomicU64::new(0),
            parts,
        }
    }

    /// A request id that no other request has, unless two processes drew the same seed.
    pub(crate) fn draw_request_id(&self) -> String {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        let low = ollamax_core::routing::mix(self.parts.seed.wrapping_add(count));
        format!("{:08x}{low:016x}", self.parts.seed >> 32)
    }
}

/// All routes of the door.
pub fn router(parts: Parts) -> Router {
    let door = Arc::new(OpenDoor::new(parts));
    let weak = Arc::downgrade(&door);
    // Weak: the tools belong to the door, and would keep it otherwise.
    door.parts.tools.inference().fill(move |api, request| {
        let door = weak.upgrade()?;
        Some(async move { infer::answer(&door, api, request).await }.boxed())
    });
    let inference = |api: Api| {
        post(move |State(door): State<Arc<OpenDoor>>, request: Request| async move {
            infer::answer(&door, api, request).await
        })
    };
    let mcp = mcp::service(&door);
    let assistants = any(move |State(door): State<Arc<OpenDoor>>, request: Request| {
        let mcp = mcp.clone();
        async move { mcp::answer(&door, &mcp, request).await }
    });
    let mut router = Router::new()
        .route("/", get(|| ready("Ollama is running")))
        .route("/api/version", get(lists::version))
        .route("/api/tags", get(lists::tags))
        .route("/api/ps", get(lists::ps))
        .route("/api/pull", post(pull::answer))
        .route("/v1/models", get(lists::models))
        .route("/v1/models/{model}", get(lists::model))
        .route("/metrics", get(health::metrics))
        .route("/mcp", assistants)
        .route("/tools", get(tools::list))
        .route("/tools/{name}", post(tools::call))
        .route("/openapi.json", get(tools::openapi))
        .route("/tasks", get(tasks::list))
        .route("/tasks/{id}", get(tasks::show))
        .route("/tasks/{id}/cancel", post(tasks::cancel));
    if door.parts.config.mcp.legacy_sse {
        router = router.merge(mcp::sse::routes(&door));
    }
    for api in Api::ALL {
        router = router.route(api.path(), inference(api));
    }
    for path in ["/livez", "/live"] {
        router = router.route(path, get(health::live));
    }
    for path in ["/readyz", "/ready"] {
        router = router.route(path, get(health::ready));
    }
    router = router.route("/health", get(health::health)).route("/startupz", get(health::started));
    for path in unserved::PATHS {
        router = router.route(path, any(unserved::answer));
    }
    router
        .fallback(|| ready(plain(StatusCode::NOT_FOUND, "404 page not found")))
        .method_not_allowed_fallback(|| ready(plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed")))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), edge::check))
        .layer(middleware::from_fn_with_state(Arc::clone(&door), observe::observe))
        .with_state(door)
}

/// A text/plain answer.
pub(crate) fn plain(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer that is JSON.
pub(crate) fn json_text(status: StatusCode, text: impl Into<Body>) -> Response<Body> {
    let mut response = plain(status, text);
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
