//! A body that is too large is refused with 413 and its text, whether it was announced or not, sent or not.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use ollamax_testkit::Cluster;

const ANSWER_TIME: Duration = Duration::from_secs(20);
const MEBIBYTE: usize = 1 << 20;
const HUGE: usize = 100 * MEBIBYTE;
const BODY_LIMIT: usize = 64 * MEBIBYTE;

/// How a client sends its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Says how long it is and asks for leave; sends nothing before.
    AskFirst,
    /// Says how long it is and sends at once.
    Announced,
    /// Sends piece by piece and never says how much will come.
    Chunked,
}

impl Sending {
    fn head(self) -> String {
        let framing = match self {
            Self::AskFirst => format!("Content-Length: {HUGE}\r\nExpect: 100-continue\r\n"),
            Self::Announced => format!("Content-Length: {HUGE}\r\n"),
            Self::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        format!("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n")
    }

    fn piece(self) -> Vec<u8> {
        let spaces = vec![b' '; MEBIBYTE];
        match self {
            Self::Chunked => [format!("{MEBIBYTE:x}\r\n").as_bytes(), &spaces, b"\r\n"].concat(),
            Self::AskFirst | Self::Announced => spaces,
        }
    }
}

/// Sends until nothing is taken any more, and never ends: what counts is the answer.
async fn send(mut to: impl AsyncWrite + Unpin, sending: Sending, sent: &AtomicUsize) -> Result<Infallible> {
    to.write_all(sending.head().as_bytes()).await.context("send the head")?;
    let (piece, pieces) = (sending.piece(), if sending == Sending::AskFirst { 0 } else { HUGE / MEBIBYTE });
    for _ in 0..pieces {
        // Whoever has answered need not read on.
        if to.write_all(&piece).await.is_err() {
            break;
        }
        sent.fetch_add(MEBIBYTE, Ordering::Relaxed);
    }
    std::future::pending().await
}

/// Reads one whole answer: status line with headers, and body.
async fn receive(mut from: impl AsyncRead + Unpin) -> Result<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let count = from.read_buf(&mut bytes).await.with_context(|| format!("read, after {} bytes", bytes.len()))?;
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.with_context(|| format!("no length: {head}"))?;
            if body.len() >= length {
                return Ok((head.to_ascii_lowercase(), body.to_owned()));
            }
        }
        ensure!(count > 0, "the connection ended after {text:?}");
    }
}

async fn check(cluster: &Cluster, sending: Sending) -> Result<()> {
    let url = cluster.url(0, "")?;
    let address = url.strip_prefix("http://").context("a plain address")?;
    let (from, to) = TcpStream::connect(address).await.context("connect")?.into_split();
    let sent = AtomicUsize::new(0);
    let answer = async {
        tokio::select! {
            answer = receive(from) => answer,
            failed = send(to, sending, &sent) => failed.map(|never| match never {}),
        }
    };
    let (head, body) = timeout(ANSWER_TIME, answer).await.context("no answer")??;
    ensure!(head.starts_with("http/1.1 413 "), "{head}");
    ensure!(head.contains("x-ollamamax-error: body_too_large"), "{head}");
    let body: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    ensure!(body == serde_json::json!({ "error": "the request body is larger than 64 MiB" }), "{body}");
    let sent = sent.load(Ordering::Relaxed);
    // What was not announced can only be noticed where the limit is.
    ensure!(sending != Sending::Chunked || sent >= BODY_LIMIT, "refused after {sent} bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_100_mb_is_answered_413_and_the_node_goes_on() -> Result<()> {
    let _turn = crate::turn().await;
    let cluster = Cluster::builder("huge-bodies").nodes(1).start().await?;
    for sending in [Sending::AskFirst, Sending::Announced, Sending::Chunked] {
        check(&cluster, sending).await.with_context(|| format!("{sending:?}"))?;
    }
    let tags = cluster.get_json(0, "/api/tags").await?;
    ensure!(tags["models"] == serde_json::json!([]), "the node goes on: {tags}");
    cluster.finish().await
}
