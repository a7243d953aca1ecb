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
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, Method, Response, StatusCode};
use bytes::Bytes;
use futures::stream;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_transfer::{Shelf, Ware};
use ollamax_types::Digest;

use crate::http::{self, Limits, plain};
use crate::metrics::Metrics;

/// Connections at once. Ollama opens sixteen for a file.
const CONNECTIONS_MAX: usize = 64;
/// For a head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// For connections that are open and idle to end by themselves. What is on its way is cut then.
const GRACE: Duration = Duration::from_millis(100);
/// What is said of whatever is not offered.
const ABSENT: &str = "404 page not found";
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const FILE_TYPE: &str = "application/octet-stream";
/// The query of an address at which a file is sent.
const DIRECT: &str = "direct=1";
/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// The listeners, bound and not yet served.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Root,
    Manifest { namespace: &'a str, model: &'a str, tag: &'a str },
    File { namespace: &'a str, model: &'a str, sha256: Digest },
    Nothing,
}

/// Which bytes of a file are asked for.
#[derive(Debug, PartialEq, Eq)]
enum Ranged {
    Whole,
    Part(Range<u64>),
    Beyond,
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

fn wanted(path: &str) -> Wanted<'_> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "v2"] | ["", "v2", ""] => Wanted::Root,
        ["", "v2", namespace, model, "manifests", tag] => Wanted::Manifest { namespace, model, tag },
        ["", "v2", namespace, model, "blobs", digest] => match digest_of(digest) {
            Some(sha256) => Wanted::File { namespace, model, sha256 },
            None => Wanted::Nothing,
        },
        _ => Wanted::Nothing,
    }
}

fn digest_of(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == DIGEST_DIGITS)?;
    digits.parse().ok()
}

/// The bytes that a `Range` header means. One that is not understood, or means several ranges, is as if it were not
/// there.
fn ranged(header: Option<&str>, size_bytes: u64) -> Ranged {
    let text = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = text.and_then(|text| text.split_once('-')) else { return Ranged::Whole };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size_bytes),
        (Some(first), None) if last.is_empty() => first..size_bytes,
        (None, Some(count)) if first.is_empty() => size_bytes.saturating_sub(count)..size_bytes,
        _ => return Ranged::Whole,
    };
    if range.is_empty() { Ranged::Beyond } else { Ranged::Part(range) }
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A file, or a range of it.
fn send(file: Ware, range: Option<&str>) -> Response<Body> {
    let size_bytes = file.size_bytes();
    let (status, range) = match ranged(range, size_bytes) {
        Ranged::Whole => (StatusCode::OK, 0..size_bytes),
        Ranged::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Ranged::Beyond => {
            let told = (header::CONTENT_RANGE, text(&format!("bytes */{size_bytes}")));
            return with(StatusCode::RANGE_NOT_SATISFIABLE, Body::empty(), [told, sized(0)]);
        }
    };
    let told = (status == StatusCode::PARTIAL_CONTENT)
        .then(|| text(&format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1)));
    let length = range.end - range.start;
    let mut response =
        with(status, Body::from_stream(stream::try_unfold((file, range), next)), [typed(FILE_TYPE), sized(length)]);
    set(&mut response, (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")));
    if let Some(told) = told {
        set(&mut response, (header::CONTENT_RANGE, told));
    }
    response
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

/// To where a file is sent.
fn redirect(location: &str) -> Response<Body> {
    with(StatusCode::TEMPORARY_REDIRECT, Body::empty(), [(header::LOCATION, text(location)), sized(0)])
}

fn with<const N: usize>(status: StatusCode, body: Body, headers: [(HeaderName, HeaderValue); N]) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    headers.into_iter().for_each(|header| set(&mut response, header));
    response
}

fn set(response: &mut Response<Body>, (name, value): (HeaderName, HeaderValue)) {
    response.headers_mut().insert(name, value);
}

fn typed(kind: &'static str) -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(kind))
}

fn sized(length: u64) -> (HeaderName, HeaderValue) {
    (header::CONTENT_LENGTH, HeaderValue::from(length))
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("letters and digits of a name, which a request line had already")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_BYTES: u64 = 100;

    #[test]
    fn only_manifests_and_files_of_a_name_are_places() {
        let sha256 = "aa".repeat(32);
        let file = |model| Wanted::File { namespace: "ns", model, sha256: Digest([0xaa; 32]) };
        assert_eq!(wanted("/v2/"), Wanted::Root);
        assert_eq!(wanted("/v2"), Wanted::Root);
        let manifest = Wanted::Manifest { namespace: "ns", model: "demo", tag: "1b" };
        assert_eq!(wanted("/v2/ns/demo/manifests/1b"), manifest);
        assert_eq!(wanted(&format!("/v2/ns/demo/blobs/sha256:{sha256}")), file("demo"));
        for path in [
            "/",
            "",
            "v2/",
            "/v1/",
            "/v2/_catalog",
            "/v2/ns/demo",
            "/v2/ns/demo/tags/list",
            "/v2/demo/manifests/1b",
            "/v2/a/ns/demo/manifests/1b",
            "/v2/ns/demo/manifests/1b/x",
            "/v2/ns/demo/blobs/sha256:aa",
            "/v2/ns/demo/blobs/../../etc/passwd",
            &format!("/v2/ns/demo/blobs/{sha256}"),
            &format!("/v2/ns/demo/blobs/sha256-{sha256}"),
            &format!("/v2/ns/demo/blobs/sha256:sha256:{}", &sha256[7..]),
        ] {
            assert_eq!(wanted(path), Wanted::Nothing, "{path}");
        }
    }

    #[test]
    fn a_range_is_what_lies_in_the_file_of_what_is_asked_for() {
        let check = |header: &str, expected: &Ranged| {
            assert_eq!(&ranged(Some(header), SIZE_BYTES), expected, "{header}");
        };
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=0-", 0..100),
            ("bytes=7-9", 7..10),
            ("bytes=99-", 99..100),
            ("bytes=90-18446744073709551615", 90..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
        ] {
            check(header, &Ranged::Part(range));
        }
        for header in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=18446744073709551615-"] {
            check(header, &Ranged::Beyond);
        }
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=9-7", "bytes=a-b", "bytes=+1-2", "items=0-1", "bytes=0-1,3-4"]
        {
            check(header, &Ranged::Whole);
        }
        assert_eq!(ranged(None, SIZE_BYTES), Ranged::Whole);
        assert_eq!(ranged(Some("bytes=0-"), 0), Ranged::Beyond);
    }
}
