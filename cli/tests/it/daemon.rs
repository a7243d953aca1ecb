//! A scripted daemon: the admin API on the unix socket of a temporary data directory, and an api listener beside it.
//!
//! Each method of the admin API has one answer. Every answer carries the same id, so that pages do not differ.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use ollamax_types::ErrorCode;

/// The id of every call.
pub(crate) const REQUEST_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// What stands before each message.
const FRAME_BYTES: usize = 5;

/// Largest request that is read, bytes.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a method of the admin API answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These messages, then the end.
    Told(Vec<Vec<u8>>),
    /// This message, and no end.
    Held(Vec<u8>),
    /// An error.
    Refused { code: ErrorCode, words: [&'static str; 3] },
    /// This message, then an error.
    BrokenOff(Vec<u8>, ErrorCode),
}

/// One message, then the end.
pub(crate) fn told(message: &impl Message) -> Answer {
    Answer::Told(vec![message.encode_to_vec()])
}

/// An error in three lines: what, why, what to try.
pub(crate) fn refused(code: ErrorCode, words: [&'static str; 3]) -> Answer {
    Answer::Refused { code, words }
}

/// Method by method, what is answered.
pub(crate) type Script = HashMap<&'static str, Answer>;

/// Method by method, the last request, without its frame.
type Asked = Mutex<HashMap<String, Bytes>>;

/// A running one; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) data_dir: PathBuf,
    pub(crate) api: String,
    asked: Arc<Asked>,
    _directory: Option<TempDir>,
    _tasks: JoinSet<()>,
}

// === impl Daemon ===

impl Daemon {
    /// Starts one in a directory of its own.
    pub(crate) async fn start(script: Script) -> Self {
        let directory = tempfile::Builder::new().prefix("ollamax-").tempdir().expect("a directory");
        let daemon = Self::start_at(directory.path(), script).await;
        Self { _directory: Some(directory), ..daemon }
    }

    /// What a method was asked last.
    pub(crate) fn last_request(&self, method: &str) -> Bytes {
        self.asked.lock().expect("no panic").get(method).cloned().unwrap_or_default()
    }

    /// Starts one on a data directory.
    pub(crate) async fn start_at(data_dir: &Path, script: Script) -> Self {
        let admin = UnixListener::bind(data_dir.join("admin.sock")).expect("the socket");
        let open = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = format!("http://{}", open.local_addr().expect("bound"));
        std::fs::write(data_dir.join("node.json"), json!({"api": api}).to_string()).expect("written");
        let asked = Arc::new(Asked::default());
        let methods = Router::new().fallback(answer).with_state((Arc::new(script), Arc::clone(&asked)));
        let routes = Router::new().route("/api/ps", get(residency)).route("/api/chat", post(chat));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(admin, methods).await.expect("served") });
        tasks.spawn(async move { axum::serve(open, routes).await.expect("served") });
        Self { data_dir: data_dir.to_owned(), api, asked, _directory: None, _tasks: tasks }
    }
}

async fn answer(State((script, asked)): State<(Arc<Script>, Arc<Asked>)>, request: Request) -> Response {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let sent = axum::body::to_bytes(request.into_body(), REQUEST_BYTES_MAX).await.expect("a whole request");
    asked.lock().expect("no panic").insert(method.clone(), sent.slice(FRAME_BYTES..));
    let mut response = match script.get(method.as_str()).cloned() {
        Some(Answer::Told(messages)) => stream_of(messages, Some(Status::ok(""))),
        Some(Answer::Held(message)) => stream_of(vec![message], None),
        Some(Answer::BrokenOff(message, code)) => {
            stream_of(vec![message], Some(status(code, ["the answer broke off", "the other end left", "ask again"])))
        }
        Some(Answer::Refused { code, words }) => status(code, words).into_http(),
        None => Status::unimplemented(method).into_http(),
    };
    response.headers_mut().insert("ollamax-request-id", HeaderValue::from_static(REQUEST_ID));
    response
}

fn status(code: ErrorCode, [what, why, next]: [&str; 3]) -> Status {
    let mut status = Status::new(Code::from_i32(code.grpc_status()), what);
    let metadata = status.metadata_mut();
    metadata.insert("ollamax-code", MetadataValue::from_static(code.as_str()));
    metadata.insert_bin("ollamax-why-bin", MetadataValue::from_bytes(why.as_bytes()));
    metadata.insert_bin("ollamax-next-bin", MetadataValue::from_bytes(next.as_bytes()));
    status
}

/// Messages as gRPC frames them, and how they end; without an end the stream stays open.
fn stream_of(messages: Vec<Vec<u8>>, end: Option<Status>) -> Response {
    let framed = messages.into_iter().map(|message| {
        let length = u32::try_from(message.len()).expect("a short message");
        let bytes: Vec<u8> = [0].into_iter().chain(length.to_be_bytes()).chain(message).collect();
        Frame::data(Bytes::from(bytes))
    });
    let held = end.is_none();
    let end = end.map(|status| {
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).expect("a status");
        Frame::trailers(trailers)
    });
    let frames = stream::iter(framed.chain(end).map(Ok::<_, axum::Error>));
    let body = if held {
        Body::new(StreamBody::new(frames.chain(stream::pending())))
    } else {
        Body::new(StreamBody::new(frames))
    };
    Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
}

async fn residency() -> axum::Json<serde_json::Value> {
    axum::Json(json!({"models": [{
        "name": "demo:latest", "model": "demo:latest", "node": "n2", "size": 4_000_000, "size_vram": 1_000_000,
        "context_length": 512, "expires_at": "2026-01-02T03:04:05Z",
    }]}))
}

async fn chat(axum::Json(request): axum::Json<serde_json::Value>) -> Response {
    let head = |status: u16, name: &str, value: &str| {
        let name = HeaderName::try_from(name).expect("a name");
        Response::builder().status(status).header("x-request-id", REQUEST_ID).header(name, value)
    };
    let lines = [
        json!({"message": {"role": "assistant", "content": "Hello"}, "done": false}),
        json!({"message": {"role": "assistant", "content": " there."}, "done": false}),
        json!({
            "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop",
            "eval_count": 5, "eval_duration": 100_000_000, "total_duration": 120_000_000, "load_duration": 7_000_000,
        }),
    ];
    let lines = |count: usize| lines[..count].iter().map(|line| format!("{line}\n")).collect::<String>();
    let (response, body) = match request["model"].as_str() {
        Some("demo") => (head(200, "x-ollamamax-node", "n2"), lines(3)),
        Some("short") => (head(200, "x-ollamamax-node", "n2"), lines(2)),
        Some("busy") => {
            let body = json!({"error": "all nodes with model 'busy' are busy"}).to_string();
            (head(503, "x-ollamamax-error", ErrorCode::Overloaded.as_str()), body)
        }
        _ => {
            let body = json!({"error": "model 'nope' not found"}).to_string();
            (head(404, "x-ollamamax-error", ErrorCode::ModelNotFound.as_str()), body)
        }
    };
    response.body(Body::from(body)).expect("a response")
}
