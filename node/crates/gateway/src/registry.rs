//! A registry on loopback for the runtime beside this node: what transfer offers, nothing else.
//!
//! Bound to loopback alone and read only: the manifest of a model that is on the shelf just now, and its files. All
//! else does not exist, and says so in the same words. A file is answered with a redirect to another name of this
//! machine at first, since Ollama's client takes no file from where it asked for it; there it comes whole, or in the
//! range that is asked for. It is read piece by piece as the runtime takes it. Where the disk refuses, the answer
//! breaks off and never looks whole.

use std::future::ready;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response, StatusCode, header};
use bytes::Bytes;
use futures::stream;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_transfer::{Shelf, Ware};

use crate::http::{self, Limits, plain};
use crate::metrics::Metrics;
use crate::registry::words::{DIRECT, FILE_TYPE, MANIFEST_TYPE, Wanted, ranged, redirect, sized, typed, wanted, with};

pub(crate) mod words;

/// Connections at once. Ollama opens sixteen for a file.
const CONNECTIONS_MAX: usize = 64;
/// For a head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For connections that are open and idle to end by themselves. What is on its way is cut then.
const GRACE: Duration = Duration::from_millis(100);
/// What is said of whatever is not offered.
const ABSENT: &str = "404 page not found";

/// The listeners, bound and not yet served.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
}

/// A file, and what is still to be sent of it.
type Rest = (Ware, Range<u64>);

// === impl Door ===

impl Door {
    /// Takes a free port of 127.0.0.1, and the same of ::1 where that works: `localhost` may mean either. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// When there is none.
    pub fn bind() -> io::Result<Self> {
        let first = http::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = first.local_addr()?;
        let second = http::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, address.port()))).ok();
        Ok(Self { address, listeners: [Some(first), second].into_iter().flatten().collect() })
    }

    /// Where it is bound.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a shelf in `tasks` until `stop`, which soon cuts what is on its way.
    pub fn spawn(self, shelf: &Shelf, tasks: &TaskTracker, stop: &CancellationToken) {
        let limits = Limits { connections_max: CONNECTIONS_MAX, head_timeout: HEAD_TIMEOUT, grace: GRACE };
        // The metrics of the clients' door count clients.
        let metrics = Metrics::register(&Registry::new()).expect("an empty registry takes them");
        for listener in self.listeners {
            let (router, limits) = (router(shelf.clone()), limits.clone());
            // Cannot fail; a connection that does takes nothing with it.
            tasks.spawn(http::serve(listener, router, limits, metrics.clone(), stop.clone()));
        }
    }
}

/// The whole of it.
pub fn router(shelf: Shelf) -> Router {
    let answer = |State(shelf): State<Shelf>, request: Request| ready(answer(&shelf, &request));
    Router::new().fallback(answer).with_state(shelf)
}

fn answer(shelf: &Shelf, request: &Request) -> Response<Body> {
    let (method, uri) = (request.method(), request.uri());
    if method != Method::GET && method != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
    }
    match wanted(uri.path()) {
        Wanted::Root => plain(StatusCode::OK, "{}"),
        Wanted::Manifest { namespace, model, tag } => match shelf.manifest(namespace, model, tag) {
            Some(bytes) => {
                let length = bytes.len() as u64;
                with(StatusCode::OK, Body::from(bytes), [typed(MANIFEST_TYPE), sized(length)])
            }
            None => plain(StatusCode::NOT_FOUND, ABSENT),
        },
        Wanted::File { namespace, model, sha256 } => match shelf.file(namespace, model, sha256) {
            Some(file) if method == Method::HEAD => {
                with(StatusCode::OK, Body::empty(), [typed(FILE_TYPE), sized(file.size_bytes())])
            }
            Some(file) if uri.query() == Some(DIRECT) => {
                let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
                send(file, range)
            }
            Some(_) => {
                let port = shelf.address().port();
                let path = format!("/v2/{namespace}/{model}/blobs/sha256:{sha256}");
                redirect(&format!("http://localhost:{port}{path}?{DIRECT}"))
            }
            None => plain(StatusCode::NOT_FOUND, ABSENT),
        },
        Wanted::Nothing => plain(StatusCode::NOT_FOUND, ABSENT),
    }
}

/// A file, or a range of it.
fn send(file: Ware, range: Option<&str>) -> Response<Body> {
    let size_bytes = file.size_bytes();
    let ranged = ranged(range, size_bytes);
    let rest = (file, ranged.bytes(size_bytes));
    ranged.answer(size_bytes, Body::from_stream(stream::try_unfold(rest, next)))
}

/// The next bytes of a range.
async fn next((file, range): Rest) -> io::Result<Option<(Bytes, Rest)>> {
    if range.is_empty() {
        return Ok(None);
    }
    let (reader, Range { start, end }) = (file.clone(), range);
    let read = spawn_blocking(move || reader.read(start, end)).await.map_err(io::Error::other)?;
    let bytes = read.map_err(|error| {
        tracing::warn!(error, "read a file that the runtime fetches");
        io::Error::other(error)
    })?;
    let from = start + bytes.len() as u64;
    Ok(Some((bytes, (file, from..end))))
}
