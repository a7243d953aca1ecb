//! Speaks Ollama's protocol to the one runtime beside this node.
//!
//! Always: no proxy, no redirects, the runtime's own name in `Host`; a bounded answer and a deadline on every control
//! call, on the silence of an upload; no deadline on inference and on pulls, which end when the caller drops them. A
//! body that does not end as HTTP says it must is an error, never a short answer. Whatever carries `X-OllamaMax-Node`
//! is refused before a byte of it is used. On failure nothing is retried here; hyper alone repeats a request that never
//! left on a pooled connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::Instant;
use url::Url;

use ollamax_types::{Api, Digest, ModelName, ModelRecord, Residency, Trace};

use crate::cause::{deepest, is_refused};
use crate::error::{Broken, RuntimeError};
use crate::weights::Told;
use crate::wire;

mod pull;
mod upload;
mod work;

pub use pull::PullStep;
pub use work::WorkStep;

/// The header by which every OllamaMax door names itself.
pub const NODE_HEADER: &str = "x-ollamamax-node";
/// How long a connection may take to stand.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a list of models may take: large stores on network disks are slow.
pub const TAGS_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer to a control call.
pub const CONTROL_BYTES_MAX: usize = 16 << 20;
/// How long one upload of a model file may stand still.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(2 * 3_600);
/// How long `create` and `push` may be silent between two lines of progress.
pub const CREATE_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Longest line of progress.
const PROGRESS_LINE_BYTES_MAX: usize = 64 << 10;
/// Response headers that are handed on; all others speak of the connection to the runtime.
const HEADERS_KEPT: [&str; 3] = ["content-type", "content-length", "retry-after"];

/// The status of a runtime whose handler broke down. It says nothing beside it, as nobody is left to say it.
const BROKE_DOWN: u16 = 500;

/// The head of an answer, and its body as it arrives.
pub struct RuntimeResponse {
    /// HTTP status.
    pub status: u16,
    /// The headers that belong to the answer, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The bytes, untouched; dropping it cancels the request at the runtime.
    pub body: BoxStream<'static, Result<Bytes, Broken>>,
}

/// A cheap handle on one runtime.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    base: Url,
    shown: String,
    health_timeout: Duration,
    activity: Activity,
}

/// What this node's own calls show of the runtime's life.
struct Activity {
    in_flight: AtomicU32,
    since: Instant,
    last_heard_ms: AtomicU64,
    stirred: Notify,
    models_changed: Notify,
}

/// Counts one request until it is dropped.
struct InFlight(Client);

// === impl RuntimeResponse ===

impl fmt::Debug for RuntimeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

// === impl Client ===

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.url())
    }
}

impl Client {
    /// A client of the runtime at `base`; opens no connection yet.
    ///
    /// # Errors
    /// When the TLS roots of this machine, needed for an `https` runtime, cannot be read.
    pub fn new(base: Url, health_timeout: Duration) -> Result<Self, RuntimeError> {
        let shown = base.as_str().trim_end_matches('/').to_owned();
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if base.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| {
            let (url, reason) = (shown.clone(), deepest(&error));
            RuntimeError::Unreachable { url, reason, is_refused: false }
        })?;
        let activity = Activity {
            in_flight: AtomicU32::new(0),
            since: Instant::now(),
            last_heard_ms: AtomicU64::new(0),
            stirred: Notify::new(),
            models_changed: Notify::new(),
        };
        Ok(Self(Arc::new(Inner { http, base, shown, health_timeout, activity })))
    }

    /// The runtime's base URL, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.shown
    }

    /// Requests that this node has at the runtime now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.0.activity.in_flight.load(Ordering::Relaxed)
    }

    /// Time since the runtime last answered a control call or sent a byte of any inference, or since this client was
    /// made. That something was sent to it is no sign of its life.
    #[must_use]
    pub fn quiet_for(&self) -> Duration {
        let last = Duration::from_millis(self.0.activity.last_heard_ms.load(Ordering::Relaxed));
        self.0.activity.since.elapsed().saturating_sub(last)
    }

    /// Notified when an inference request gets its first byte or ends, in whatever way: what is in the runtime's memory
    /// may have changed, or the runtime may be gone.
    pub(crate) fn stirred(&self) -> &Notify {
        &self.0.activity.stirred
    }

    /// Says that the runtime's store was changed past it: its models are listed again now. Does not wait for that.
    pub fn note_models_changed(&self) {
        self.0.activity.models_changed.notify_one();
    }

    /// Resolves when this client made or deleted a model, or heard of a change.
    pub(crate) async fn models_changed(&self) {
        self.0.activity.models_changed.notified().await;
    }

    /// `GET /api/version`.
    ///
    /// # Errors
    /// When the runtime cannot be reached, hangs, or is no Ollama.
    pub async fn version(&self) -> Result<String, RuntimeError> {
        let version: wire::Version = self.get("/api/version", self.0.health_timeout).await?;
        Ok(version.version)
    }

    /// `GET /api/tags`: every model in the runtime's store.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn tags(&self) -> Result<Vec<ModelRecord>, RuntimeError> {
        let tags: wire::Tags = self.get("/api/tags", TAGS_TIMEOUT).await?;
        let (records, skipped) = tags.into_records();
        if skipped > 0 {
            tracing::debug!(runtime = self.url(), skipped, "models with an unreadable name or digest are left out");
        }
        Ok(records)
    }

    /// `GET /api/ps`: every model in the runtime's memory.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn ps(&self) -> Result<Vec<Residency>, RuntimeError> {
        let processes: wire::Processes = self.get("/api/ps", self.0.health_timeout).await?;
        let (resident, skipped) = processes.into_residencies();
        if skipped > 0 {
            tracing::debug!(runtime = self.url(), skipped, "loaded models with an unreadable name are left out");
        }
        Ok(resident)
    }

    /// `POST /api/show`, as the JSON text that the runtime gives.
    ///
    /// # Errors
    /// As [`Client::version`], and when the runtime does not have the model.
    pub async fn show(&self, name: &ModelName) -> Result<Bytes, RuntimeError> {
        let request = self.request(Method::POST, "/api/show").json(&wire::Named { model: &name.to_string() });
        self.call(request, "/api/show", TAGS_TIMEOUT).await
    }

    /// The SHA-256 of a listed model's weights file and what the model can do, as `/api/show` tells it.
    ///
    /// # Errors
    /// As [`Client::show`].
    pub(crate) async fn learn(&self, model: &ModelRecord) -> Result<Told, RuntimeError> {
        let shown: wire::Shown = self.parse("/api/show", &self.show(&model.name).await?)?;
        Ok(shown.told(model.modified_at))
    }

    /// Sends one inference request and its trace. Any answer in Ollama's form is handed through, whatever its status.
    ///
    /// # Errors
    /// When no answer begins, or what begins is not in Ollama's form.
    pub async fn infer(&self, api: Api, body: Bytes, trace: Option<&Trace>) -> Result<RuntimeResponse, RuntimeError> {
        let path = api.path();
        let guard = InFlight::enter(self.clone());
        let request = self.request(Method::POST, path).header(CONTENT_TYPE, JSON).body(body);
        let response = traced(request, trace).send().await.map_err(|error| self.failed(path, &error))?;
        self.refuse_ollamamax(&response)?;
        self.heard();
        self.stirred().notify_one();
        let status = response.status().as_u16();
        if status == BROKE_DOWN && !response.headers().contains_key(CONTENT_TYPE) {
            return Err(broke_down(path));
        }
        if !matches!(
            essence(response.headers()),
            Some("application/json" | "application/x-ndjson" | "text/event-stream")
        ) {
            let found = described(response.headers());
            return Err(RuntimeError::NotOllama { url: self.0.shown.clone(), path: path.to_owned(), status, found });
        }
        let headers = kept(response.headers());
        let body = response.bytes_stream().map(move |chunk| {
            guard.byte_seen();
            chunk.map_err(|error| Broken { reason: deepest(&error) })
        });
        Ok(RuntimeResponse { status, headers, body: body.boxed() })
    }

    /// Whether the runtime has the file with this SHA-256.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn has_blob(&self, digest: Digest) -> Result<bool, RuntimeError> {
        let path = blob_path(digest);
        let request = self.request(Method::HEAD, &path);
        let head = async { request.send().await.map_err(|error| self.failed(&path, &error)) };
        let response = self.within(&path, TAGS_TIMEOUT, head).await?;
        self.refuse_ollamamax(&response)?;
        Ok(response.status().is_success())
    }

    /// Makes a model from an uploaded file.
    ///
    /// # Errors
    /// When the runtime refuses the file (its own text says why) or breaks off.
    pub async fn create(&self, name: &ModelName, digest: Digest) -> Result<(), RuntimeError> {
        let files = BTreeMap::from([("model.gguf", format!("sha256:{digest}"))]);
        let body = wire::Create { model: &name.to_string(), files, stream: true };
        let mut steps = self.create_with(work::body(&body));
        while let Some(step) = steps.next().await {
            step?;
        }
        Ok(())
    }

    /// Gives a model a second name; a model that had that name loses it.
    ///
    /// # Errors
    /// When the runtime does not have it ([`ollamax_types::ErrorCode::ModelNotFound`]) or cannot be reached.
    pub async fn copy(&self, from: &ModelName, to: &ModelName) -> Result<(), RuntimeError> {
        let names = wire::Copy { source: &from.to_string(), destination: &to.to_string() };
        self.call(self.request(Method::POST, "/api/copy").json(&names), "/api/copy", TAGS_TIMEOUT).await?;
        self.0.activity.models_changed.notify_one();
        Ok(())
    }

    /// Deletes a model.
    ///
    /// # Errors
    /// When the runtime does not have it ([`ollamax_types::ErrorCode::ModelNotFound`]) or cannot be reached.
    pub async fn delete(&self, name: &ModelName) -> Result<(), RuntimeError> {
        let request = self.request(Method::DELETE, "/api/delete").json(&wire::Named { model: &name.to_string() });
        self.call(request, "/api/delete", TAGS_TIMEOUT).await?;
        self.0.activity.models_changed.notify_one();
        Ok(())
    }

    /// The runtime gave a sign of life.
    fn heard(&self) {
        let activity = &self.0.activity;
        let now = u64::try_from(activity.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        activity.last_heard_ms.fetch_max(now, Ordering::Relaxed);
    }

    // --- requests

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.0.base.clone();
        url.set_path(&format!("{}{}", self.0.base.path().trim_end_matches('/'), path));
        self.0.http.request(method, url)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, timeout: Duration) -> Result<T, RuntimeError> {
        let body = self.call(self.request(Method::GET, path), path, timeout).await?;
        self.parse(path, &body)
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, RuntimeError> {
        serde_json::from_slice(body).map_err(|error| RuntimeError::NotOllama {
            url: self.0.shown.clone(),
            path: path.to_owned(),
            status: 200,
            found: format!("JSON of another shape ({error})"),
        })
    }

    /// One control call: a whole, bounded answer of success, or an error.
    async fn call(&self, request: RequestBuilder, path: &str, timeout: Duration) -> Result<Bytes, RuntimeError> {
        self.within(path, timeout, self.exchange(request, path)).await
    }

    async fn exchange(&self, request: RequestBuilder, path: &str) -> Result<Bytes, RuntimeError> {
        let response = request.send().await.map_err(|error| self.failed(path, &error))?;
        self.refuse_ollamamax(&response)?;
        let status = response.status().as_u16();
        let is_json = essence(response.headers()) == Some("application/json");
        let says_nothing = !response.headers().contains_key(CONTENT_TYPE);
        let found = described(response.headers());
        let body = self.read(response, path).await?;
        self.heard();
        match (status, is_json) {
            (BROKE_DOWN, false) if says_nothing && body.is_empty() => Err(broke_down(path)),
            (200..=299, true) => Ok(body),
            (200..=299, false) if body.is_empty() => Ok(body),
            (_, true) => Err(self.refusal(path, status, &body)),
            (_, false) => {
                Err(RuntimeError::NotOllama { url: self.0.shown.clone(), path: path.to_owned(), status, found })
            }
        }
    }

    async fn within<T>(
        &self,
        path: &str,
        after: Duration,
        work: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        tokio::time::timeout(after, work).await.map_err(|_| self.timed_out(path, after))?
    }

    fn timed_out(&self, path: &str, after: Duration) -> RuntimeError {
        RuntimeError::TimedOut { url: self.0.shown.clone(), path: path.to_owned(), after }
    }

    async fn read(&self, mut response: Response, path: &str) -> Result<Bytes, RuntimeError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Broken { reason: deepest(&error) })? {
            if body.len() + chunk.len() > CONTROL_BYTES_MAX {
                return Err(RuntimeError::TooLarge { path: path.to_owned(), limit_bytes: CONTROL_BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    // --- errors

    fn failed(&self, path: &str, error: &reqwest::Error) -> RuntimeError {
        let (url, reason) = (self.0.shown.clone(), deepest(error));
        if error.is_connect() {
            RuntimeError::Unreachable { url, reason, is_refused: is_refused(error) }
        } else if error.is_timeout() {
            RuntimeError::TimedOut { url, path: path.to_owned(), after: CONNECT_TIMEOUT }
        } else {
            RuntimeError::Disconnected { url, reason }
        }
    }

    fn refuse_ollamamax(&self, response: &Response) -> Result<(), RuntimeError> {
        let Some(node) = response.headers().get(NODE_HEADER) else { return Ok(()) };
        let node = String::from_utf8_lossy(node.as_bytes()).into_owned();
        Err(RuntimeError::IsOllamaMax { url: self.0.shown.clone(), node })
    }

    fn refusal(&self, path: &str, status: u16, body: &[u8]) -> RuntimeError {
        match serde_json::from_slice::<wire::ErrorText>(body) {
            Ok(text) => RuntimeError::Refused { path: path.to_owned(), status, message: text.error },
            Err(_) => RuntimeError::NotOllama {
                url: self.0.shown.clone(),
                path: path.to_owned(),
                status,
                found: "JSON without an error text".to_owned(),
            },
        }
    }
}

// === impl InFlight ===

impl InFlight {
    fn enter(client: Client) -> Self {
        client.0.activity.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(client)
    }

    fn byte_seen(&self) {
        self.0.heard();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.activity.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.stirred().notify_one();
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn blob_path(digest: Digest) -> String {
    format!("/api/blobs/sha256:{digest}")
}

/// The content type without parameters.
fn essence(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}

/// A request that says which trace it belongs to.
fn traced(request: RequestBuilder, trace: Option<&Trace>) -> RequestBuilder {
    let Some(trace) = trace else { return request };
    let request = request.header(Trace::HEADER, trace.named());
    if trace.state().is_empty() { request } else { request.header(Trace::STATE_HEADER, trace.state()) }
}

/// What a runtime means by an empty answer of [`BROKE_DOWN`].
fn broke_down(path: &str) -> RuntimeError {
    let message = "it broke down at the question; the log of the runtime says why".to_owned();
    RuntimeError::Refused { path: path.to_owned(), status: BROKE_DOWN, message }
}

fn described(headers: &HeaderMap) -> String {
    match headers.get(CONTENT_TYPE) {
        Some(value) => format!("content type {:?}", String::from_utf8_lossy(value.as_bytes())),
        None => "no content type".to_owned(),
    }
}

fn kept(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let kept = headers.iter().filter(|(name, _)| HEADERS_KEPT.contains(&name.as_str()));
    kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::net::TcpSocket;
    use tokio::time::advance;

    use super::*;

    /// A client of a port that is taken and refuses every connection.
    fn refused() -> (Client, TcpSocket) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let url = format!("http://{}/", socket.local_addr().expect("bound"));
        let client = Client::new(url.parse().expect("a URL"), Duration::from_secs(2)).expect("no TLS needed");
        (client, socket)
    }

    fn is_stirred(client: &Client) -> bool {
        client.stirred().notified().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_keep_coming_are_no_sign_of_life() {
        let (client, _socket) = refused();
        for _ in 0..6 {
            let request = InFlight::enter(client.clone());
            advance(Duration::from_secs(10)).await;
            drop(request);
        }
        assert_eq!(client.quiet_for(), Duration::from_secs(60));
        client.heard();
        assert_eq!(client.quiet_for(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_health_call_that_finds_the_runtime_gone_asks_for_no_further_one() {
        let (client, _socket) = refused();
        let error = client.ps().await.expect_err("nothing listens");
        assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
        assert!(!is_stirred(&client), "or the poller would never rest while the runtime is down");
        let error = client.infer(Api::Chat, Bytes::new(), None).await.map(|_| ()).expect_err("nothing listens");
        assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
        assert!(is_stirred(&client), "a request that found it gone does ask");
    }
}
