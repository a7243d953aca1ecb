//! HTTP+SSE, the transport of 2024-11-05: `GET /sse` opens a stream, `POST /messages` takes messages for it, and what
//! is answered goes out on the stream.
//!
//! The protocol has dropped it, and rmcp has no such transport: rmcp serves each stream over two queues here, and this
//! is the shell around them. It is there only where `mcp.legacy_sse` is set. Always: who may call, hosts, origins,
//! forms and sizes are as at `/mcp`; a stream is its opener's and nobody else's; streams, what waits for a reader, and
//! calls under way are bounded; a stream that ends takes its calls along. It lives at one node and dies with it. A
//! message for a stream that is not here is refused at once, and never passed on: another node would have to believe
//! this one who its caller is.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream;
use rmcp::RoleServer;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, GetExtensions as _, JsonRpcMessage, RequestId, ServerJsonRpcMessage,
};
use rmcp::service::serve_server_with_ct;
use rmcp::transport::Transport;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use ollamax_tools::Subject;
use ollamax_types::{ErrorCode, NodeId};

use super::refusal::Refusal;
use super::server::Server;
use super::{MESSAGE_BYTES_MAX, check_message, is_json};
use crate::error::ApiError;
use crate::http::{OpenDoor, Stopping, body, edge, plain, tools};
use crate::toolbox::Toolbox;

/// Streams of this node.
const STREAMS_MAX: usize = 256;
/// Of them, those of one principal.
const STREAMS_EACH_MAX: usize = 16;
/// How long nothing may be said on a stream, by either side, while no call is under way.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// How long a stream is silent before its reader, and what stands between, hear that it is open.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);
/// Messages that wait for a stream's reader.
const TOLD_MAX: usize = 32;
/// How long the next one waits for a place among them; then the stream is closed.
const SLOW_MAX: Duration = Duration::from_secs(10);
/// Messages of a client that wait to be looked at; one more is refused.
const HEARD_MAX: usize = 16;
/// Requests of one stream that are under way; further ones wait.
const UNDER_WAY_MAX: usize = 64;
/// A comment, which readers pass over.
const KEEP_ALIVE: &[u8] = b": open\n\n";
/// Where a message is sent, up to the stream's id.
const MESSAGES_PATH: &str = "/messages";
/// In which header a browser says whether another site's page asks.
const FETCH_SITE: &str = "sec-fetch-site";
/// What names the stream there.
const ID_KEY: &str = "sessionId=";

/// The streams of a door. Clones are the same streams.
#[derive(Clone)]
pub(crate) struct Streams {
    server: Server,
    open: Open,
}

/// By id.
type Open = Arc<Mutex<HashMap<String, Opened>>>;

/// What is known of a stream beside the stream itself.
struct Opened {
    subject: Subject,
    heard: mpsc::Sender<ClientJsonRpcMessage>,
}

/// A stream's place among all; where it is given up, the stream and its calls end.
struct Place {
    id: String,
    open: Open,
    cut: CancellationToken,
}

/// The stream as its reader takes it.
struct Outlet {
    /// Says where messages are sent.
    first: Option<Bytes>,
    told: mpsc::Receiver<Bytes>,
    /// `None`: the protocol has come to its end.
    serving: Option<BoxFuture<'static, ()>>,
    place: Place,
}

/// The stream as the protocol takes it.
struct Wire {
    heard: mpsc::Receiver<ClientJsonRpcMessage>,
    told: mpsc::Sender<Bytes>,
    under_way: UnderWay,
    used_at: Instant,
    stop: CancellationToken,
    cut: CancellationToken,
}

/// The requests of a stream that have no answer yet.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<HashSet<RequestId>>>);

/// The routes of this transport.
pub(crate) fn routes(door: &OpenDoor) -> Router<Arc<OpenDoor>> {
    let streams = Streams::new(door.parts.tools.clone());
    let taking = streams.clone();
    let opens = get(move |State(door): State<Arc<OpenDoor>>, request: Request| {
        let streams = streams.clone();
        async move { open(&door, &streams, request) }
    });
    let takes = post(move |State(door): State<Arc<OpenDoor>>, request: Request| {
        let streams = taking.clone();
        async move { take(&door, &streams, request).await }
    });
    Router::new().route("/sse", opens).route(MESSAGES_PATH, takes)
}

/// `GET /sse`
fn open(door: &OpenDoor, streams: &Streams, request: Request) -> Response<Body> {
    let stop = request.extensions().get::<Stopping>().map(|Stopping(stop)| stop.clone()).unwrap_or_default();
    let is_foreign = is_of_a_foreign_page(request.headers());
    let opened = match tools::who(door, request) {
        Ok(_) if is_foreign => Err(ApiError::not_local()),
        Ok(caller) => streams.open(own_node(door), caller.principal.subject(), stop),
        Err(error) => Err(error),
    };
    match opened {
        Ok(stream) => {
            let mut response = Response::new(stream);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => Refusal::of(error).into_response(),
    }
}

/// `POST /messages`
async fn take(door: &OpenDoor, streams: &Streams, request: Request) -> Response<Body> {
    match try_take(door, streams, request).await {
        Ok(()) => plain(StatusCode::ACCEPTED, "Accepted"),
        Err(refusal) => refusal.into_response(),
    }
}

async fn try_take(door: &OpenDoor, streams: &Streams, request: Request) -> Result<(), Refusal> {
    let host = edge::host_of(&request);
    let (mut head, sent) = request.into_parts();
    let caller = tools::caller_of(door, &head, &host)?;
    let id = id_in(&head.uri).to_owned();
    let heard = streams.find(&id, caller.principal.subject()).ok_or_else(|| absent(door, &id))?;
    if !is_json(&head.headers) {
        return Err(no_json_type().into());
    }
    let held = body::read_up_to(door, &head.headers, sent, MESSAGE_BYTES_MAX).await?;
    check_message(&held.bytes)?;
    let mut message: ClientJsonRpcMessage = serde_json::from_slice(&held.bytes).map_err(|_| Refusal::no_request())?;
    head.extensions.insert(caller);
    match &mut message {
        JsonRpcMessage::Request(asked) => drop(asked.request.extensions_mut().insert(head)),
        JsonRpcMessage::Notification(noted) => drop(noted.notification.extensions_mut().insert(head)),
        JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
    }
    heard.try_send(message).map_err(|error| match error {
        TrySendError::Full(_) => ApiError::overloaded("this stream has too many messages under way; try again").into(),
        TrySendError::Closed(_) => absent(door, &id).into(),
    })
}

/// Whether a browser asks for a page of elsewhere without saying for which, as it does for an image: such a page would
/// take streams from the programs of this machine.
fn is_of_a_foreign_page(headers: &HeaderMap) -> bool {
    let is_foreign = headers.get(FETCH_SITE).is_some_and(|site| site == "cross-site");
    is_foreign && !headers.contains_key(header::ORIGIN)
}

/// This node's number; 0 until it is a member of a cluster.
fn own_node(door: &OpenDoor) -> NodeId {
    door.parts.node.scheduler().map(|scheduler| scheduler.node()).unwrap_or_default()
}

/// The stream that a message is for; empty where none is named.
fn id_in(uri: &Uri) -> &str {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    pairs.find_map(|pair| pair.strip_prefix(ID_KEY)).unwrap_or_default()
}

/// The node that gave a stream its id.
fn node_in(id: &str) -> Option<NodeId> {
    let (node, _) = id.split_once('.')?;
    node.parse().ok().map(NodeId)
}

/// Tells where the stream is, where another member opened it.
fn absent(door: &OpenDoor, id: &str) -> ApiError {
    let elsewhere = node_in(id).filter(|node| *node != own_node(door));
    let text = match elsewhere.and_then(|node| door.parts.node.name_of(node)) {
        Some(name) => format!(
            "this stream is one of node {name}; send its messages there, or open one here if that is gone: GET /sse"
        ),
        None => "there is no such stream: it has ended, or its node is gone; open a new one: GET /sse".to_owned(),
    };
    ApiError { status: 404, ..ApiError::new(ErrorCode::BadRequest, text) }
}

fn no_json_type() -> ApiError {
    let text = "a message is sent with Content-Type: application/json";
    ApiError { status: 415, ..ApiError::new(ErrorCode::BadRequest, text) }
}

/// Nobody can guess it, and it says which node has the stream.
fn draw_id(node: NodeId) -> Result<String, ApiError> {
    let drawn = ollamax_security::random_bytes().map(u128::from_be_bytes);
    let drawn = drawn.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(format!("{}.{drawn:032x}", node.0))
}

/// One event of a stream; `data` is one line.
fn event(kind: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {kind}\ndata: {data}\n\n"))
}

// === impl Streams ===

impl Streams {
    pub(crate) fn new(tools: Toolbox) -> Self {
        Self { server: Server::new(tools).for_streams(), open: Open::default() }
    }

    /// Opens a stream, which ends when its body is dropped.
    fn open(&self, node: NodeId, subject: &Subject, stop: CancellationToken) -> Result<Body, ApiError> {
        let id = draw_id(node)?;
        let (tells, told) = mpsc::channel(TOLD_MAX);
        let (hears, heard) = mpsc::channel(HEARD_MAX);
        let place = self.take_place(&id, Opened { subject: subject.clone(), heard: hears })?;
        let (under_way, cut) = (UnderWay::default(), place.cut.clone());
        let wire = Wire { heard, told: tells, under_way, used_at: Instant::now(), stop, cut };
        let first = Some(event("endpoint", &format!("{MESSAGES_PATH}?{ID_KEY}{id}")));
        let serving = Some(serve(self.server.clone(), wire, place.cut.child_token()).boxed());
        let outlet = Outlet { first, told, serving, place };
        Ok(Body::from_stream(stream::unfold(outlet, |mut outlet| async move {
            let event = outlet.next().await?;
            Some((event, outlet))
        })))
    }

    fn take_place(&self, id: &str, opened: Opened) -> Result<Place, ApiError> {
        let mut open = locked(&self.open);
        let own = open.values().filter(|other| other.subject == opened.subject).count();
        if own >= STREAMS_EACH_MAX {
            let text = format!("you have {STREAMS_EACH_MAX} streams at this node; close one, or use POST /mcp");
            return Err(ApiError::overloaded(text));
        }
        if open.len() >= STREAMS_MAX {
            return Err(ApiError::overloaded(format!("this node has {STREAMS_MAX} streams; use POST /mcp")));
        }
        open.insert(id.to_owned(), opened);
        Ok(Place { id: id.to_owned(), open: Arc::clone(&self.open), cut: CancellationToken::new() })
    }

    /// Where messages for a stream go, if it is the caller's.
    fn find(&self, id: &str, subject: &Subject) -> Option<mpsc::Sender<ClientJsonRpcMessage>> {
        locked(&self.open).get(id).filter(|opened| opened.subject == *subject).map(|opened| opened.heard.clone())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Speaks the protocol until the stream ends.
async fn serve(server: Server, wire: Wire, cut: CancellationToken) {
    // What the protocol remembers of a stream is large. That no handshake came is the client's affair: its stream ends.
    if let Ok(running) = Box::pin(serve_server_with_ct(server, wire, cut)).await {
        drop(running.waiting().await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cut.cancel();
        locked(&self.open).remove(&self.id);
    }
}

// === impl Outlet ===

impl Outlet {
    /// The next event; `None` at the end. A stream whose reader was too slow breaks: it has lost messages.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let keep_alive_at = Instant::now() + KEEP_ALIVE_EVERY;
        loop {
            tokio::select! {
                biased;
                () = self.place.cut.cancelled() => return Some(Err(too_slow())),
                event = self.told.recv() => return event.map(Ok),
                () = go_on(&mut self.serving) => self.serving = None,
                () = sleep_until(keep_alive_at) => return Some(Ok(Bytes::from_static(KEEP_ALIVE))),
            }
        }
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the reader of a stream took nothing while messages waited")
}

/// Goes on with it; what has ended never ends again.
async fn go_on(serving: &mut Option<BoxFuture<'static, ()>>) {
    match serving {
        Some(serving) => serving.await,
        None => std::future::pending().await,
    }
}

// === impl Wire ===

impl Transport<RoleServer> for Wire {
    type Error = serde_json::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.used_at = Instant::now();
        let (told, under_way, cut) = (self.told.clone(), self.under_way.clone(), self.cut.clone());
        async move {
            let text = serde_json::to_string(&message)?;
            // Nobody is left to be told of a reader that left.
            if let Err(SendTimeoutError::Timeout(_)) = told.send_timeout(event("message", &text), SLOW_MAX).await {
                cut.cancel();
            }
            under_way.answered(&message);
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            let under_way = self.under_way.len();
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                message = self.heard.recv(), if under_way < UNDER_WAY_MAX => message,
                () = sleep_until(self.used_at + IDLE_MAX), if under_way == 0 => None,
            };
            let message = message?;
            self.used_at = Instant::now();
            // The protocol answers an id once; a second request of one that is under way would be counted by nobody.
            if self.under_way.asked(&message) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

// === impl UnderWay ===

impl UnderWay {
    fn len(&self) -> usize {
        locked(&self.0).len()
    }

    /// A request has come, or one that needs no answer any more; false: a request of this id is under way already.
    fn asked(&self, message: &ClientJsonRpcMessage) -> bool {
        match message {
            JsonRpcMessage::Request(request) => return locked(&self.0).insert(request.id.clone()),
            JsonRpcMessage::Notification(noted) => {
                if let ClientNotification::CancelledNotification(cancelled) = &noted.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    locked(&self.0).remove(id);
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
        true
    }

    /// A message has gone out.
    fn answered(&self, message: &ServerJsonRpcMessage) {
        let id = match message {
            JsonRpcMessage::Response(response) => Some(&response.id),
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        if let Some(id) = id {
            locked(&self.0).remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use rmcp::ErrorData;
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn streams() -> Streams {
        Streams::new(Toolbox::default())
    }

    fn opened(streams: &Streams, subject: &Subject) -> Result<Body, ApiError> {
        streams.open(NodeId(7), subject, CancellationToken::new())
    }

    async fn next(body: &mut Body) -> String {
        let frame = body.frame().await.expect("an event").expect("unbroken");
        String::from_utf8(frame.into_data().expect("data").to_vec()).expect("text")
    }

    fn request(id: usize, method: &str, params: &serde_json::Value) -> ClientJsonRpcMessage {
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        serde_json::from_value(message).expect("a message")
    }

    /// A stream after its handshake, and where its messages go.
    async fn shaken(streams: &Streams) -> (Body, mpsc::Sender<ClientJsonRpcMessage>) {
        let mut body = opened(streams, &Subject::Loopback).expect("room");
        let first = next(&mut body).await;
        let id = first.trim_end().rsplit('=').next().expect("an id");
        let hears = streams.find(id, &Subject::Loopback).expect("open");
        let client = json!({"name": "test", "version": "1"});
        let hello = json!({"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client});
        hears.send(request(0, "initialize", &hello)).await.expect("taken");
        let answer = next(&mut body).await;
        assert!(answer.contains(r#""protocolVersion":"2024-11-05""#), "{answer}");
        (body, hears)
    }

    #[test]
    fn an_id_names_its_node_and_is_read_from_the_path() {
        let check = |uri: &'static str, id: &str, node: Option<u64>| {
            let found = id_in(&Uri::from_static(uri)).to_owned();
            assert_eq!((found.as_str(), node_in(&found)), (id, node.map(NodeId)), "{uri}");
        };
        check("/messages?sessionId=3.ab", "3.ab", Some(3));
        check("/messages?x=1&sessionId=3.ab&y", "3.ab", Some(3));
        check("/messages?sessionId=gpu.ab", "gpu.ab", None);
        check("/messages?sessionId=3", "3", None);
        check("/messages?session=3.ab", "", None);
        check("/messages", "", None);
        let drawn = [draw_id(NodeId(3)).expect("chance"), draw_id(NodeId(3)).expect("chance")];
        assert!(drawn[0] != drawn[1] && drawn.iter().all(|id| node_in(id) == Some(NodeId(3)) && id.len() == 34));
    }

    #[tokio::test]
    async fn streams_are_bounded_for_each_principal_and_for_all() {
        let streams = streams();
        let refused = |subject: &Subject| opened(&streams, subject).expect_err("refused").message;
        let mut bodies = Vec::new();
        for uid in 0..u32::try_from(STREAMS_MAX / STREAMS_EACH_MAX).expect("few") {
            let subject = Subject::Uid(uid);
            bodies.extend((0..STREAMS_EACH_MAX).map(|_| opened(&streams, &subject).expect("room")));
            assert!(refused(&subject).contains("you have 16 streams"));
        }
        assert!(refused(&Subject::Loopback).contains("this node has 256 streams"));
        drop(bodies.pop());
        drop(opened(&streams, &Subject::Loopback).expect("room again"));
    }

    #[tokio::test]
    async fn a_stream_takes_messages_from_who_opened_it_alone() {
        let streams = streams();
        let mut body = opened(&streams, &Subject::Uid(1)).expect("room");
        let first = next(&mut body).await;
        let (start, id) = first.trim_end().rsplit_once('=').expect("an id");
        assert_eq!(start, "event: endpoint\ndata: /messages?sessionId");
        assert!(streams.find(id, &Subject::Uid(1)).is_some());
        for other in [Subject::Uid(2), Subject::Loopback] {
            assert!(streams.find(id, &other).is_none(), "{other}");
        }
        drop(body);
        assert!(streams.find(id, &Subject::Uid(1)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_anything_to_do_is_kept_alive_and_ends_after_a_while() {
        let streams = streams();
        let (body, hears) = shaken(&streams).await;
        let opened_at = Instant::now();
        let rest = body.collect().await.expect("unbroken").to_bytes();
        let alive = Bytes::from_static(KEEP_ALIVE).repeat(19);
        assert!(rest.starts_with(&alive) && rest.len() <= alive.len() + KEEP_ALIVE.len(), "{rest:?}");
        let open_for = opened_at.elapsed();
        assert!(open_for >= IDLE_MAX && open_for < IDLE_MAX + KEEP_ALIVE_EVERY, "{open_for:?}");
        assert!(hears.is_closed() && locked(&streams.open).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_loses_its_stream_and_never_sees_it_end_well() {
        let streams = streams();
        let (body, hears) = shaken(&streams).await;
        for id in 0..TOLD_MAX + 8 {
            hears.send(request(1 + id, "ping", &json!({}))).await.expect("taken");
        }
        let begun_at = Instant::now();
        hears.closed().await;
        assert!(begun_at.elapsed() < IDLE_MAX, "not for having nothing to do");
        body.collect().await.expect_err("broken");
        assert!(locked(&streams.open).is_empty());
    }

    #[tokio::test]
    async fn a_request_of_an_id_that_is_under_way_is_not_begun_once_more() {
        let (hears, heard) = mpsc::channel(HEARD_MAX);
        let (told, _reader) = mpsc::channel(TOLD_MAX);
        let (under_way, stop, cut) = (UnderWay::default(), CancellationToken::new(), CancellationToken::new());
        let mut wire = Wire { heard, told, under_way: under_way.clone(), used_at: Instant::now(), stop, cut };
        for id in [1, 1, 2, 1] {
            hears.send(request(id, "ping", &json!({}))).await.expect("taken");
        }
        drop(hears);
        let id_of = |message: ClientJsonRpcMessage| match message {
            JsonRpcMessage::Request(asked) => asked.id,
            other => panic!("{other:?}"),
        };
        assert_eq!(wire.receive().await.map(id_of), Some(RequestId::Number(1)));
        assert_eq!(wire.receive().await.map(id_of), Some(RequestId::Number(2)));
        assert!(wire.receive().await.is_none());
        assert_eq!(under_way.len(), 2);
        let failed = ErrorData::internal_error("it failed", None);
        under_way.answered(&ServerJsonRpcMessage::error(failed, Some(RequestId::Number(1))));
        assert!(under_way.asked(&request(1, "ping", &json!({}))), "an id whose answer went out is free");
    }

    #[tokio::test]
    async fn a_thousand_streams_that_were_opened_and_dropped_leave_nothing() {
        let streams = streams();
        let mut left = Vec::new();
        for _ in 0..1_000 {
            let (body, hears) = shaken(&streams).await;
            drop(body);
            left.push(hears);
        }
        for hears in left {
            timeout(PATIENCE, hears.closed()).await.expect("the protocol has let go of it");
        }
        assert!(locked(&streams.open).is_empty());
    }
}
