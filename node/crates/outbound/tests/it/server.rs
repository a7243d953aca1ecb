//! A scripted HTTP server on a free port of loopback: raw bytes out, one request per connection.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

/// What the server does with a request.
pub(crate) enum Reply {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Writes this and holds the connection open for ever.
    Hold(Vec<u8>),
}

type Script = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// The server; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) url: Url,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers by the request's first line, for example `GET /api/ps HTTP/1.1`.
    pub(crate) async fn start(script: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = Url::parse(&format!("http://{}/", listener.local_addr().expect("bound"))).expect("a URL");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(script);
        let mut tasks = JoinSet::new();
        let noted = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, Arc::clone(&script), Arc::clone(&noted)));
            }
        });
        Self { url, seen, _tasks: tasks }
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().expect("not poisoned").last().cloned().expect("a request came")
    }
}

async fn answer(mut stream: TcpStream, script: Script, noted: Arc<Mutex<Vec<Seen>>>) {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    while bytes.len() < head_end + length.unwrap_or(0) {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            break;
        }
    }
    // Chunks are kept as they came.
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    while is_chunked && !bytes.ends_with(b"0\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            break;
        }
    }
    let body = bytes.split_off(head_end);
    let reply = script(head.lines().next().unwrap_or_default());
    noted.lock().expect("not poisoned").push(Seen { head, body });
    match reply {
        Reply::Bytes(bytes) => {
            stream.write_all(&bytes).await.unwrap_or_default();
            stream.shutdown().await.unwrap_or_default();
        }
        Reply::Hold(bytes) => {
            stream.write_all(&bytes).await.unwrap_or_default();
            std::future::pending::<()>().await;
        }
    }
}

/// A whole answer with a content type.
pub(crate) fn whole(status: u16, content_type: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    Reply::Bytes(format!("{head}{body}").into_bytes())
}

pub(crate) fn json(body: &str) -> Reply {
    whole(200, "application/json; charset=utf-8", body)
}
