//! A small HTTP client for tests: no proxy variables, no retries, no redirects, lines with the time they arrived; TLS
//! where it is given a root; and calls over a unix socket.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::rt::Executor as _;
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// Longest wait for a head or for the next piece of a body.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for an answer over a socket: some changes are waited for there.
const SOCKET_PATIENCE: Duration = Duration::from_secs(60);
/// Where TLS is spoken if an address names no port.
const TLS_PORT: u16 = 443;
/// Bytes of a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    plain: Legacy<HttpConnector, Full<Bytes>>,
    /// Whom it trusts; `None`: it speaks no TLS.
    trust: Option<Arc<ClientConfig>>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that opens a new connection for each request, so that no test meets a connection of another.
    #[must_use]
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let plain = Legacy::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { plain, trust: None }
    }

    /// One that speaks TLS too, with whomever this root vouches for, which is a certificate in PEM.
    ///
    /// # Errors
    /// When it is none.
    pub fn that_trusts(root: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root).context("read a root")?).context("trust a root")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.context("versions of TLS")?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { trust: Some(Arc::new(config)), ..Self::new() })
    }

    /// Sends a request as built by the caller and returns when the head has come.
    ///
    /// # Errors
    /// When the connection fails or the head takes longer than [`PATIENCE`].
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let begin = Instant::now();
        let what = format!("{} {}", request.method(), request.uri());
        let response = timeout(PATIENCE, self.ask(request)).await.with_context(|| format!("{what}: no head"))?;
        let response = response.with_context(|| what.clone())?;
        let (parts, body) = response.into_parts();
        let head_time = begin.elapsed();
        Ok(Answer { what, status: parts.status.as_u16(), headers: parts.headers, body, begin, head_time })
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        match &self.trust {
            Some(trust) if request.uri().scheme_str() == Some("https") => Box::pin(over_tls(trust, request)).await,
            _ => Ok(self.plain.request(request).await?),
        }
    }

    /// A request with a JSON body (or any text that a test wants sent).
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn call(&self, method: Method, url: &str, body: impl Into<Bytes>) -> Result<Answer> {
        let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
        self.send(request.body(Full::new(body.into())).context("build the request")?).await
    }

    /// `GET`, and the answer as JSON, which must be 200.
    ///
    /// # Errors
    /// As [`HttpClient::send`], and when the answer is anything else.
    pub async fn get_json(&self, url: &str) -> Result<Value> {
        self.call(Method::GET, url, "").await?.ok_json().await
    }

    /// `POST` of a JSON value.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn post(&self, url: &str, body: &Value) -> Result<Answer> {
        self.call(Method::POST, url, body.to_string()).await
    }
}

/// Sends a request over TLS, on a connection that ends with the answer's body.
async fn over_tls(trust: &Arc<ClientConfig>, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().context("an address without a host")?.clone();
    // An address of IPv6 stands in brackets there, and nowhere else.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).context("no certificate is for such a host")?;
    let at = (host, authority.port_u16().unwrap_or(TLS_PORT));
    let stream = TcpStream::connect(at).await.context("connect")?;
    let stream = TlsConnector::from(Arc::clone(trust)).connect(name, stream).await.context("agree on TLS")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("begin HTTP")?;
    // How it ends is seen at the answer.
    TokioExecutor::new().execute(async move { drop(connection.await) });
    // As a server itself is asked, and not a proxy.
    parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str()).context("name the host")?);
    parts.uri = parts.uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from);
    Ok(sender.send_request(Request::from_parts(parts, body)).await?)
}

/// One call over a unix socket in HTTP/1.1, on a connection of its own: status and body. What is sent goes in chunks,
/// as Ollama's own client sends files.
///
/// # Errors
/// When the connection fails or the answer does not come.
pub async fn over_socket(socket: &Path, method: Method, path: &str, body: impl Into<Bytes>) -> Result<(u16, String)> {
    let request = Request::builder().method(method).uri(path).body(body.into()).context("build the request")?;
    send_over_socket(socket, request).await
}

/// As [`over_socket`], with headers of its own.
///
/// # Errors
/// As [`over_socket`].
pub async fn send_over_socket(socket: &Path, request: Request<Bytes>) -> Result<(u16, String)> {
    let what = format!("{} {} over {}", request.method(), request.uri(), socket.display());
    let stream = UnixStream::connect(socket).await.with_context(|| what.clone())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(|| what.clone())?;
    let mut request = request.map(in_chunks);
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
    let call = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection ends when nobody can call any more.
    let (said, _) = tokio::join!(timeout(SOCKET_PATIENCE, call), connection);
    said.with_context(|| format!("{what}: no answer"))?.context(what)
}

fn in_chunks(mut rest: Bytes) -> BoxBody<Bytes, Infallible> {
    if rest.is_empty() {
        return Full::<Bytes>::default().boxed();
    }
    let mut chunks: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    while !rest.is_empty() {
        chunks.push(Ok(Frame::data(rest.split_to(rest.len().min(CHUNK_BYTES)))));
    }
    StreamBody::new(stream::iter(chunks)).boxed()
}

/// A head that has come, and a body that may still be on its way. Dropping it closes the connection.
#[derive(Debug)]
pub struct Answer {
    what: String,
    /// HTTP status.
    pub status: u16,
    /// As sent.
    pub headers: HeaderMap,
    body: Incoming,
    begin: Instant,
    /// From the request to the head.
    pub head_time: Duration,
}

/// One line of a stream.
#[derive(Debug, Clone)]
pub struct Line {
    /// Without its end.
    pub text: String,
    /// When it was complete, from the request on.
    pub after: Duration,
}

// === impl Answer ===

impl Answer {
    /// A header as text; empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// Who answered, by `X-OllamaMax-Node`.
    #[must_use]
    pub fn node(&self) -> String {
        self.header("x-ollamamax-node").to_owned()
    }

    /// The next piece of the body; `None` at its clean end.
    ///
    /// # Errors
    /// When the stream is cut, or nothing comes for [`PATIENCE`].
    pub async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await;
            let Some(frame) = frame.with_context(|| format!("{}: no more bytes", self.what))? else { return Ok(None) };
            let frame = frame.with_context(|| format!("{}: body cut", self.what))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body as text.
    ///
    /// # Errors
    /// As [`Answer::next_piece`].
    pub async fn text(mut self) -> Result<String> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next_piece().await? {
            all.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// As [`Answer::next_piece`], and when it is not JSON.
    pub async fn json(self) -> Result<Value> {
        let what = self.what.clone();
        let text = self.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{what}: not JSON: {text:.200}"))
    }

    /// As [`Answer::json`], for an answer that must be 200.
    ///
    /// # Errors
    /// Also when the status is another.
    pub async fn ok_json(self) -> Result<Value> {
        if self.status != 200 {
            let (what, status) = (self.what.clone(), self.status);
            bail!("{what}: {status}: {}", self.text().await.unwrap_or_default());
        }
        self.json().await
    }

    /// All lines with the times at which they were complete, and how the stream ended.
    pub async fn lines(mut self) -> (Vec<Line>, Result<()>) {
        let mut lines = Vec::new();
        let mut rest = BytesMut::new();
        loop {
            match self.next_piece().await {
                Ok(Some(piece)) => rest.extend_from_slice(&piece),
                Ok(None) => return (lines, Ok(())),
                Err(error) => return (lines, Err(error)),
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = rest.split_to(end + 1);
                let text = String::from_utf8_lossy(&line[..end]).into_owned();
                lines.push(Line { text, after: self.begin.elapsed() });
            }
        }
    }
}
