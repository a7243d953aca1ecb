//! The listener: accepts, bounds, keeps alive, and ends in good order.
//!
//! Always: at most `connections_max` connections, one more is answered 503 and closed, over TLS just closed; TCP
//! keep-alive finds clients that vanished; a head or a handshake that does not come in time closes its connection.
//! Where only some addresses are known, all others have a few places of their own, and take none of those. On
//! `stop` nothing new is accepted, running answers go on within the grace and are then cut, which clients see as a
//! broken connection, not as an end. Tasks run in the tracked group; one that fails takes its own connection with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use ollamax_types::limits;

use crate::config::Config;
use crate::metrics::{Counts, Metrics};

/// Refusals that are written at once; beyond them connections are just closed.
const REFUSALS_MAX: usize = 256;
/// Connections at once of addresses that are not known, where that counts.
const STRANGERS_MAX: usize = 16;
/// How long one refusal may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The refusal of a connection too many.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\n\
                       x-ollamamax-error: overloaded\r\nretry-after: 10\r\nconnection: close\r\n\
                       content-length: 64\r\n\r\n\
                       {\"error\":\"this node has too many client connections; try again\"}";

/// The numbers of a listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections_max: usize,
    /// For a head, and for an idle connection.
    pub head_timeout: Duration,
    /// How long running answers may go on after `stop`.
    pub grace: Duration,
}

/// Where a request comes from, as its connection shows it; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// Where a connection came in, as this machine shows it; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalAddress(pub(crate) SocketAddr);

/// Cancelled when the door ends; an extension of every request. An answer that may take hours ends with it by itself.
#[derive(Debug, Clone)]
pub struct Stopping(pub CancellationToken);

/// Whether an address is known.
pub(crate) type Known = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// How a listener is served.
pub(crate) struct Serving {
    pub(crate) limits: Limits,
    pub(crate) counts: Counts,
    /// TLS, and nothing plain; a new acceptor holds for new connections.
    pub(crate) tls: Option<watch::Receiver<TlsAcceptor>>,
    /// For how long a client may take none of the bytes that wait for it.
    pub(crate) stalled_after: Option<Duration>,
    /// One answer at a time on a connection: so the limit of connections is one of answers that nobody takes.
    pub(crate) is_http1_only: bool,
    /// For whom all but a few places are; `None`: for everybody.
    pub(crate) known: Option<Known>,
}

/// Runs hyper's own tasks in the tracked group.
#[derive(Clone)]
struct Tracked(TaskTracker);

/// Boxed, since what TLS remembers of a connection is large.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that is counted while it is open.
struct Counted(IntGauge);

/// From where to where a connection goes.
#[derive(Clone, Copy)]
struct Ends {
    client: ClientAddress,
    local: LocalAddress,
}

struct Listener {
    router: Router,
    serving: Serving,
    connections: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
    refusals: Arc<Semaphore>,
}

// === impl Limits ===

impl Limits {
    /// The limits of a configuration.
    #[must_use]
    pub fn of(config: &Config, grace: Duration) -> Self {
        let connections_max = usize::try_from(config.connections_max).unwrap_or(usize::MAX);
        Self { connections_max, head_timeout: config.head_timeout(), grace }
    }
}

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn(task));
    }
}

/// Serves until `stop`, then lets answers finish within the grace, and returns when the last connection is closed.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, metrics: Metrics, stop: CancellationToken) {
    let counts = metrics.counts();
    let serving = Serving { limits, counts, tls: None, stalled_after: None, is_http1_only: false, known: None };
    serve_with(listener, router, serving, stop).await;
}

/// As [`serve`], also over TLS.
pub(crate) async fn serve_with(listener: TcpListener, router: Router, serving: Serving, stop: CancellationToken) {
    let free = Arc::new(Semaphore::new(serving.limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let door = Listener {
        router,
        serving,
        connections: TaskTracker::new(),
        stop,
        cut: CancellationToken::new(),
        refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
    };
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let is_known = door.serving.known.as_ref().is_none_or(|known| known(address.ip()));
                let places = if is_known { &free } else { &strangers };
                match Arc::clone(places).try_acquire_owned() {
                    Ok(permit) => door.start(stream, ClientAddress(address), permit),
                    Err(_) => door.refuse(stream),
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept a client");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    door.finish().await;
}

// === impl Listener ===

impl Listener {
    fn start(&self, stream: TcpStream, client: ClientAddress, permit: OwnedSemaphorePermit) {
        if let Err(error) = set_options(&stream, self.serving.stalled_after) {
            tracing::debug!(%error, "set options of a client connection");
        }
        let Ok(local) = stream.local_addr() else { return };
        let ends = Ends { client, local: LocalAddress(local) };
        let (stop, cut, counts) = (self.stop.clone(), self.cut.clone(), self.serving.counts.clone());
        let (builder, head_timeout) = (self.builder(), self.serving.limits.head_timeout);
        let has_called = Arc::new(AtomicBool::new(false));
        let (noted, router) = (Arc::clone(&has_called), TowerToHyperService::new(self.router.clone()));
        let stopping = Stopping(self.stop.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            noted.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ends.client);
            request.extensions_mut().insert(ends.local);
            request.extensions_mut().insert(stopping.clone());
            router.call(request)
        });
        let tls = self.serving.tls.as_ref().map(|tls| tls.borrow().clone());
        // Fails alone; on stop it finishes its answers, and `cut` ends what is left.
        self.connections.spawn(async move {
            let _permit = permit;
            let _counted = Counted::new(counts.connections);
            let opened = tokio::select! {
                biased;
                opened = open(stream, tls, head_timeout) => opened,
                () = stop.cancelled() => None,
            };
            let Some(stream) = opened else { return };
            let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = says_nothing(head_timeout, &has_called) => Ok(()),
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection.as_mut() => ended,
                        () = cut.cancelled() => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(error = %*error, "a client connection ended");
            }
        });
    }

    fn builder(&self) -> auto::Builder<Tracked> {
        let builder = auto::Builder::new(Tracked(self.connections.clone()));
        let mut builder = if self.serving.is_http1_only { builder.http1_only() } else { builder };
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.serving.limits.head_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits::TCP_KEEPALIVE_IDLE)
            .keep_alive_timeout(limits::TCP_KEEPALIVE_INTERVAL);
        builder
    }

    /// Says "overloaded" to a connection too many, where that takes no handshake.
    fn refuse(&self, mut stream: TcpStream) {
        self.serving.counts.refused.inc();
        if self.serving.tls.is_some() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        // Bounded in number and time; failing means that the client left.
        self.connections.spawn(async move {
            let _permit = permit;
            let refusal = async {
                stream.write_all(REFUSAL.as_bytes()).await?;
                stream.shutdown().await?;
                // What the client still sends is read, or closing would reset the answer away.
                let mut rest = [0; 4_096];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<(), io::Error>(())
            };
            if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, refusal).await {
                tracing::debug!(%error, "refuse a client connection");
            }
        });
    }

    async fn finish(self) {
        self.connections.close();
        if timeout(self.serving.limits.grace, self.connections.wait()).await.is_err() {
            tracing::warn!(left = self.connections.len(), "answers were cut off: the grace is over");
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

// === impl Counted ===

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The stream itself, or what speaks TLS over it; `None` where no handshake came about in time.
async fn open(stream: TcpStream, tls: Option<TlsAcceptor>, head_timeout: Duration) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Either::Left(stream)) };
    let error = match timeout(head_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => return Some(Either::Right(Box::new(stream))),
        Ok(Err(error)) => error,
        Err(late) => late.into(),
    };
    tracing::debug!(%error, "a client's TLS handshake did not end");
    None
}

/// Resolves when a connection has not called once within the time; hyper's own time for a head starts only after the
/// first bytes showed which HTTP it is.
async fn says_nothing(head_timeout: Duration, has_called: &AtomicBool) {
    sleep(head_timeout).await;
    if has_called.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn set_options(stream: &TcpStream, stalled_after: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(limits::TCP_KEEPALIVE_IDLE)
        .with_interval(limits::TCP_KEEPALIVE_INTERVAL)
        .with_retries(limits::TCP_KEEPALIVE_RETRIES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    give_up_after(&socket, stalled_after)
}

#[cfg(target_os = "linux")]
fn give_up_after(socket: &SockRef<'_>, stalled_after: Option<Duration>) -> io::Result<()> {
    if stalled_after.is_some() { socket.set_tcp_user_timeout(stalled_after) } else { Ok(()) }
}

/// Keep-alive alone finds clients that are gone.
#[cfg(not(target_os = "linux"))]
fn give_up_after(_: &SockRef<'_>, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_says_its_own_length() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").expect("a head");
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
    }

    /// A middlebox that forgets silent connections once made answers vanish that took minutes.
    #[tokio::test]
    async fn a_client_connection_is_kept_alive_while_its_answer_is_made() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, (stream, _)) = (client.expect("connects"), accepted.expect("accepts"));
        let stalled_after = Some(Duration::from_secs(300));
        set_options(&stream, stalled_after).expect("options can be set");
        let socket = SockRef::from(&stream);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().ok(), Some(stalled_after));
        assert!(socket.keepalive().expect("readable"));
        let found = (socket.tcp_keepalive_time().ok(), socket.tcp_keepalive_interval().ok());
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!((found, socket.tcp_keepalive_retries().ok()), ((seconds(60), seconds(15)), Some(4)));
    }
}
