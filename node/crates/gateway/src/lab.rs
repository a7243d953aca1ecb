//! The registry for the lab: answers what Ollama's client asks of a registry, from what this node gives.
//!
//! Read only, and for the networks of `registry.allow` alone: everybody else is refused before anything is looked up. A
//! file is answered with a redirect to another name of this very listener at first, since Ollama's client takes no file
//! from where it asked for it. What a node gives, and what it makes its own first, transfer decides. A model that
//! cannot be had is told in the registry's words; a body that breaks off never looks whole.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use futures::TryStreamExt as _;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_core::catalog::models::standing_of;
use ollamax_core::catalog::read;
use ollamax_core::health::Health;
use ollamax_transfer::lab::{Asked, Lab, Pieces};
use ollamax_types::name::DEFAULT_TAG;
use ollamax_types::{Digest, ModelName, NodeId};

use crate::http::{ClientAddress, Limits, LocalAddress, Serving, edge, serve_with};
use crate::ports::Node;
use crate::registry::words::{
    DIRECT, FILE_TYPE, MANIFEST_TYPE, Wanted, ranged, redirect, set, sized, text, typed, wanted, with,
};

use self::elsewhere::{Authority, elsewhere};
use self::metrics::Metrics;
use self::network::Network;
use self::refusal::Refusal;
use self::tls::Certificate;

mod config;
mod elsewhere;
mod metrics;
mod network;
mod refusal;
mod tls;

pub use config::Config;
pub use tls::TlsError;

/// For a head and for a handshake, and how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A client that takes nothing for so long gives its place back.
const STALLED_AFTER: Duration = Duration::from_secs(300);
/// Says which protocol is spoken.
const VERSION_HEADER: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const VERSION: &str = "registry/2.0";
/// The digest of a manifest.
const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");
/// Begins the namespaces of what nodes offer to the runtimes beside them, and so many digits follow.
const OFFERED: (&str, usize) = ("ollamax-", 16);

/// Where a connection came in that does not say so; listeners say it of each.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A door that is bound and not yet served.
pub struct Door {
    /// The bound listener, see [`crate::http::bind`].
    pub listener: TcpListener,
    /// `registry.*`.
    pub config: Config,
    /// The node behind it.
    pub node: Arc<dyn Node>,
    /// What `/metrics` shows; the door registers its own in it.
    pub registry: Registry,
    /// How long running answers may go on after the stop.
    pub grace: Duration,
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The registry holds metrics of these names already.
    #[error("register the metrics of the registry for the lab: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No TLS can be spoken.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The listener does not say where it is bound.
    #[error("read the address of registry.listen: {0}")]
    Address(#[from] io::Error),
}

/// The door, shared by all requests.
struct Shared {
    node: Arc<dyn Node>,
    networks: Vec<Network>,
    advertise: Vec<Authority>,
    has_tls: bool,
    fetch: bool,
    metrics: Metrics,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("listener", &self.listener).field("config", &self.config).finish_non_exhaustive()
    }
}

/// Serves the door in `tasks` until `stop`, then lets answers finish within the grace. The task ends when the last
/// connection is closed; it does not fail. Reads the certificate, which blocks on the disk.
///
/// # Errors
/// When there is no metric, no certificate or no address to be had.
pub fn spawn(door: Door, tasks: &TaskTracker, stop: CancellationToken) -> Result<JoinHandle<()>, OpenError> {
    let Door { listener, config, node, registry, grace } = door;
    let listen = listener.local_addr()?;
    let certificate = if config.has_tls() { Some(Certificate::read(&config)?) } else { None };
    let shared = Shared {
        node,
        networks: config.networks(),
        advertise: config.advertised(),
        has_tls: config.has_tls(),
        fetch: config.fetch,
        metrics: Metrics::register(&registry)?,
    };
    let known = shared.networks.clone();
    let connections_max = usize::try_from(config.connections_max).unwrap_or(usize::MAX);
    let serving = Serving {
        limits: Limits { connections_max, head_timeout: HEAD_TIMEOUT, grace },
        counts: shared.metrics.counts.clone(),
        tls: certificate.as_ref().map(Certificate::acceptors),
        stalled_after: Some(STALLED_AFTER),
        is_http1_only: true,
        known: Some(Box::new(move |client: IpAddr| known.iter().any(|network| network.has(client)))),
    };
    let networks = config.allow.join(" ");
    tracing::info!(%listen, tls = shared.has_tls, networks, "the registry for the lab answers");
    if let Some(certificate) = certificate {
        // If it fails, the certificate stays as it was until the next start; it ends with `stop`.
        tasks.spawn(certificate.keep_fresh(stop.clone()));
    }
    Ok(tasks.spawn(serve_with(listener, router(Arc::new(shared)), serving, stop)))
}

/// The whole of it.
fn router(shared: Arc<Shared>) -> Router {
    let answer = |State(shared): State<Arc<Shared>>, request: Request| async move { shared.answer(request).await };
    Router::new().fallback(answer).with_state(shared)
}

// === impl Shared ===

impl Shared {
    async fn answer(&self, request: Request) -> Response<Body> {
        let host = edge::host_of(&request);
        let (head, _) = request.into_parts();
        let wanted = wanted(head.uri.path());
        let answer = self.try_answer(&wanted, &host, &head).await;
        let mut response = answer.unwrap_or_else(Refusal::into_response);
        set(&mut response, (VERSION_HEADER, HeaderValue::from_static(VERSION)));
        self.metrics.answered(&wanted, response.status());
        response
    }

    async fn try_answer(&self, wanted: &Wanted<'_>, host: &str, head: &Parts) -> Result<Response<Body>, Refusal> {
        let client = self.let_in(head)?;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(Refusal::read_only());
        }
        match *wanted {
            Wanted::Root => Ok(with(StatusCode::OK, Body::from("{}"), [typed("application/json"), sized(2)])),
            Wanted::Manifest { namespace, model, tag } => self.manifest(name_of(namespace, model, tag)?, client).await,
            Wanted::File { namespace, model, sha256 } => {
                name_of(namespace, model, DEFAULT_TAG)?;
                let path = format!("/v2/{namespace}/{model}/blobs/sha256:{sha256}");
                self.file(sha256, host, &path, head).await
            }
            Wanted::Nothing => Err(Refusal::no_place()),
        }
    }

    /// Who asks, where he may.
    fn let_in(&self, head: &Parts) -> Result<IpAddr, Refusal> {
        let client = head.extensions.get::<ClientAddress>().map(|ClientAddress(address)| address.ip());
        let known = client.filter(|client| self.networks.iter().any(|network| network.has(*client)));
        known.map(|client| client.to_canonical()).ok_or_else(|| Refusal::stranger(client))
    }

    async fn manifest(&self, name: ModelName, client: IpAddr) -> Result<Response<Body>, Refusal> {
        if is_offered(&name) {
            return Err(Refusal::no_model(&name.to_string()));
        }
        let (served, holders) = self.served(&name)?;
        let asked_by = format!("registry/{client}");
        let asked = Asked { name: name.clone(), served, holders, fetch: self.fetch, asked_by };
        let found = self.lab()?.manifest(asked).await;
        let found = found.map_err(|error| {
            tracing::debug!(%client, model = %name, code = %error.code(), %error, "a machine does not get a model");
            Refusal::of_pull(&name.to_string(), &error)
        })?;
        let length = found.manifest.len() as u64;
        let digest = (DIGEST_HEADER, text(&format!("sha256:{}", found.digest)));
        Ok(with(StatusCode::OK, Body::from(found.manifest), [typed(MANIFEST_TYPE), sized(length), digest]))
    }

    /// The version that the cluster has of a name, and which nodes that are alive hold it.
    fn served(&self, name: &ModelName) -> Result<(Option<Digest>, Vec<NodeId>), Refusal> {
        let view = self.node.view().ok_or_else(|| Refusal::without_engines(&*self.node))?;
        let locations = read::locations_of(&*view, name)?;
        let served = standing_of(&*view, name, &locations)?;
        let holding = locations.iter().filter(|location| Some(location.model.digest) == served);
        let dead = self.node.sites(name).into_iter().filter(|site| site.health == Health::Dead);
        let dead: Vec<NodeId> = dead.map(|site| site.node).collect();
        Ok((served, holding.map(|location| location.node).filter(|node| !dead.contains(node)).collect()))
    }

    async fn file(&self, sha256: Digest, host: &str, path: &str, head: &Parts) -> Result<Response<Body>, Refusal> {
        let lab = self.lab()?;
        let size_bytes = lab.size(sha256).await.ok_or_else(|| Refusal::no_file(sha256))?;
        let accepts = (header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if head.method == Method::HEAD {
            return Ok(with(StatusCode::OK, Body::empty(), [typed(FILE_TYPE), sized(size_bytes), accepts]));
        }
        if head.uri.query() != Some(DIRECT) {
            let LocalAddress(local) = head.extensions.get::<LocalAddress>().copied().unwrap_or(LocalAddress(NOWHERE));
            return Ok(redirect(&self.direct(host, local, path)));
        }
        let range = head.headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let ranged = ranged(range, size_bytes);
        let bytes = ranged.bytes(size_bytes);
        let body = if bytes.is_empty() {
            Body::empty()
        } else {
            let pieces = lab.read(sha256, bytes).await.ok_or_else(|| Refusal::no_file(sha256))?;
            self.counted(pieces)
        };
        Ok(ranged.answer(size_bytes, body))
    }

    fn lab(&self) -> Result<Lab, Refusal> {
        self.node.transfer().map(|transfer| transfer.lab()).ok_or_else(|| Refusal::without_engines(&*self.node))
    }

    /// Where a file comes from: this listener under another name.
    fn direct(&self, host: &str, local: SocketAddr, path: &str) -> String {
        let scheme = if self.has_tls { "https" } else { "http" };
        let authority = elsewhere(host, local, &self.advertise, self.has_tls);
        format!("{scheme}://{authority}{path}?{DIRECT}")
    }

    fn counted(&self, pieces: Pieces) -> Body {
        let sent = self.metrics.sent.clone();
        Body::from_stream(pieces.inspect_ok(move |piece| sent.inc_by(piece.len() as u64)))
    }
}

/// The name of a model in a path. Only such letters get into an answer's head.
fn name_of(namespace: &str, model: &str, tag: &str) -> Result<ModelName, Refusal> {
    let text = format!("{namespace}/{model}:{tag}");
    text.parse().map_err(|_| Refusal::no_name(&text))
}

/// Whether a node offers this to the runtime beside it, and to nobody else.
fn is_offered(name: &ModelName) -> bool {
    let (prefix, digits) = OFFERED;
    let is_id = |id: &str| id.len() == digits && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Names are the same in capitals.
    name.namespace().to_ascii_lowercase().strip_prefix(prefix).is_some_and(is_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_to_a_runtime_is_nothing_for_the_lab() {
        let check = |name: &str, expected: bool| {
            assert_eq!(is_offered(&name.parse().expect("a name")), expected, "{name}");
        };
        check("ollamax-00112233445566ff/demo:1b", true);
        check("OllamaX-00112233445566FF/demo", true);
        check("ollamax-00112233445566/demo", false);
        check("ollamax/demo", false);
        check("demo", false);
    }
}
