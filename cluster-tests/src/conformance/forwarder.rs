//! What stands between the suite and several nodes: each request goes to a node that is drawn at random.
//!
//! It is what a plain balancer is, and no more. A node to which no connection can be made is left out and another is
//! drawn; a request that a node has taken is never sent again, so one that dies with its node is answered 502 and
//! counted. What goes through stays as it is, the host and streams among it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::rt::Executor as _;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use ollamax_testkit::Seed;

/// Purpose for which it draws its chance.
const PURPOSE: u64 = 0x6d63_7066;
/// Bytes of one request's body; a node takes fewer.
const BODY_BYTES_MAX: usize = 16 << 20;
/// What belongs to a connection and not to what goes through it.
const OF_CONNECTIONS: [&str; 3] = ["connection", "transfer-encoding", "upgrade"];

type Body = BoxBody<Bytes, hyper::Error>;

/// A running forwarder. It ends, with all its connections, when this value is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

/// What went through so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests that each node took.
    pub(crate) taken: Vec<u64>,
    /// Requests that died with their node.
    pub(crate) broken: u64,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<SocketAddr>,
    chance: Mutex<StdRng>,
    taken: Vec<AtomicU64>,
    broken: AtomicU64,
}

// === impl Forwarder ===

impl Forwarder {
    /// Listens on loopback, before these nodes.
    pub(crate) async fn start(nodes: Vec<SocketAddr>, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen before the nodes")?;
        let address = listener.local_addr().context("see where it listens")?;
        let taken = nodes.iter().map(|_| AtomicU64::new(0)).collect();
        let chance = Mutex::new(Seed(seed).generator(PURPOSE));
        let shared = Arc::new(Shared { nodes, chance, taken, broken: AtomicU64::new(0) });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _accepting: accepting })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn counts(&self) -> Counts {
        let taken = self.shared.taken.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Counts { taken, broken: self.shared.broken.load(Ordering::Relaxed) }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                // Out of descriptors, or the caller left before it was accepted: the next one may do better.
                Err(_) => tokio::task::yield_now().await,
            },
            // What has ended is forgotten.
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    // How a connection ends is the caller's affair.
    let _ended = server::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

// === impl Shared ===

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return told(StatusCode::BAD_REQUEST, "the body broke, or is too long for the forwarder");
        };
        let body = body.to_bytes();
        for node in self.drawn() {
            let Some((address, taken)) = self.nodes.get(node).zip(self.taken.get(node)) else { continue };
            let Ok(stream) = TcpStream::connect(address).await else { continue };
            taken.fetch_add(1, Ordering::Relaxed);
            return match pass(stream, &head, body).await {
                Ok(response) => response,
                Err(error) => {
                    self.broken.fetch_add(1, Ordering::Relaxed);
                    told(StatusCode::BAD_GATEWAY, &format!("the node has not answered: {error}"))
                }
            };
        }
        told(StatusCode::SERVICE_UNAVAILABLE, "no node takes a connection")
    }

    /// All nodes, in the order in which they are tried.
    fn drawn(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.shuffle(&mut *self.chance.lock().unwrap_or_else(PoisonError::into_inner));
        order
    }
}

/// Asks a node over a connection of its own, which ends with the answer's body, or with the caller.
async fn pass(stream: TcpStream, head: &Parts, body: Bytes) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    // How it ends is seen at the answer.
    TokioExecutor::new().execute(async move { drop(connection.await) });
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.headers_mut() = through(head.headers.clone());
    let mut response = sender.send_request(request).await?;
    let headers = std::mem::take(response.headers_mut());
    *response.headers_mut() = through(headers);
    Ok(response.map(BodyExt::boxed))
}

/// Headers without those of the connection over which they came.
fn through(mut headers: HeaderMap) -> HeaderMap {
    for name in OF_CONNECTIONS {
        headers.remove(name);
    }
    headers
}

fn told(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http::Method;
    use ollamax_testkit::FakeOllama;
    use ollamax_testkit::fake_ollama::Script;
    use ollamax_testkit::http::HttpClient;

    use super::*;

    async fn before(nodes: Vec<SocketAddr>) -> (Forwarder, String) {
        let forwarder = Forwarder::start(nodes, 7).await.expect("a free port");
        let url = format!("http://{}/api/version", forwarder.address());
        (forwarder, url)
    }

    #[tokio::test]
    async fn every_node_gets_requests_and_one_that_is_gone_is_left_out() {
        let fake = || FakeOllama::start(Script::default());
        let (first, second) = (fake().await.expect("a free port"), fake().await.expect("a free port"));
        let gone = SocketAddr::from((Ipv4Addr::LOCALHOST, ollamax_testkit::port::free().expect("a free port")));
        let (forwarder, url) = before(vec![first.address(), gone, second.address()]).await;
        let client = HttpClient::new();
        for _ in 0..40 {
            client.get_json(&url).await.expect("answered");
        }
        let Counts { taken, broken } = forwarder.counts();
        assert_eq!((taken.iter().sum::<u64>(), taken[1], broken), (40, 0, 0), "{taken:?}");
        assert!(taken[0] > 5 && taken[2] > 5, "{taken:?}");
    }

    #[tokio::test]
    async fn without_any_node_and_with_one_that_dies_an_answer_says_so() {
        let client = HttpClient::new();
        let (_none, url) = before(Vec::new()).await;
        let answer = client.call(Method::GET, &url, "").await.expect("answered");
        assert_eq!(answer.status, 503);

        let dying = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = dying.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        // Takes one connection and ends it.
        tasks.spawn(async move { drop(dying.accept().await) });
        let (forwarder, url) = before(vec![address]).await;
        let answer = client.call(Method::GET, &url, "").await.expect("answered");
        assert_eq!(answer.status, 502);
        assert_eq!(forwarder.counts(), Counts { taken: vec![1], broken: 1 });
    }
}
