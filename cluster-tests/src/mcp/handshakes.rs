//! Clients of the handshake that greet a node and are gone without a word, and what the node holds of them afterwards.
//!
//! They come in crowds: each crowd is there at once, greeted, before all of it goes. One crowd goes before anything is
//! measured, so that what the node needs once is there. What it holds then is where it must come back to, within a
//! minute: an allocator gives memory back when it has lain idle for some seconds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use ollamax_testkit::cluster::Node;
use ollamax_testkit::wait;

use super::messages::{self, BOTH, HANDSHAKE, PATH};
use crate::load;

/// Clients that are there at once.
pub(super) const CROWD: usize = 500;
/// Of them, those that greet at the same time.
const AT_ONCE: usize = 64;
/// Longest wait for a node to answer a greeting.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a node is left alone before what it holds is read.
const SETTLES: Duration = Duration::from_secs(15);
/// Longest wait for it to come back to that.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// What it may hold more, bytes: less than two KiB for each of 10,000 clients.
pub(super) const MORE_BYTES_MAX: u64 = 16 << 20;
/// Files that it may have open more: those of its own store.
pub(super) const MORE_FILES_MAX: usize = 64;

/// What a node holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Holds {
    pub(super) resident_bytes: u64,
    pub(super) open_files: usize,
}

/// What came of the clients, and what was left of them.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    pub(super) greeted: u64,
    pub(super) failed: u64,
    pub(super) base: Holds,
    /// Most that was seen when a crowd was there.
    pub(super) most: Holds,
    pub(super) after: Holds,
    /// From the last client's end until the node held no more than it may; `None`: it did not in time.
    pub(super) settled: Option<Duration>,
}

/// A client that was greeted; it is gone when it is dropped.
struct Greeted {
    _sender: SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

// === impl Holds ===

impl Holds {
    fn of(node: &Node) -> Result<Self> {
        Ok(Self { resident_bytes: node.resident_bytes()?, open_files: node.open_files()? })
    }

    /// Whether it is as little as `base`, but for what may stay.
    pub(super) const fn is_back_to(self, base: Self) -> bool {
        self.resident_bytes <= base.resident_bytes + MORE_BYTES_MAX
            && self.open_files <= base.open_files + MORE_FILES_MAX
    }

    fn most_of(self, other: Self) -> Self {
        let resident_bytes = self.resident_bytes.max(other.resident_bytes);
        Self { resident_bytes, open_files: self.open_files.max(other.open_files) }
    }
}

/// Lets so many clients come and go.
pub(super) async fn measure(node: &Node, clients: usize) -> Result<Handshakes> {
    let door = node.api_address()?;
    drop(Box::pin(crowd(door, CROWD)).await);
    wait::pause(SETTLES).await;
    let base = Holds::of(node)?;
    let mut found = Handshakes { base, most: base, ..Handshakes::default() };
    let mut left = clients;
    while left > 0 {
        let size = left.min(CROWD);
        left -= size;
        let there = Box::pin(crowd(door, size)).await;
        found.greeted += there.len() as u64;
        found.failed += (size - there.len()) as u64;
        found.most = found.most.most_of(Holds::of(node)?);
    }
    let gone = Instant::now();
    let back = wait::until("the node to hold what it held before", BACK_WITHIN, || async {
        let holds = Holds::of(node)?;
        ensure!(holds.is_back_to(base), "{holds:?}, before {base:?}");
        anyhow::Ok(())
    });
    let back = back.await;
    found.settled = back.is_ok().then(|| gone.elapsed());
    found.after = Holds::of(node)?;
    eprintln!("{} clients of the handshake came and went: {found:?}", found.greeted);
    Ok(found)
}

/// So many clients, all there at once. Those that were not greeted are not among them.
async fn crowd(door: SocketAddr, size: usize) -> Vec<Greeted> {
    let coming = stream::iter(0..size).map(|_| timeout(PATIENCE, greet(door)));
    let came: Vec<_> = coming.buffer_unordered(AT_ONCE).collect().await;
    let (mut all, mut complaint) = (Vec::new(), None);
    for one in came {
        match one {
            Ok(Ok(greeted)) => all.push(greeted),
            Ok(Err(error)) => complaint = Some(format!("{error:#}")),
            Err(_) => complaint = Some(format!("no answer within {PATIENCE:?}")),
        }
    }
    if let Some(complaint) = complaint {
        eprintln!("a client of the handshake was not greeted: {complaint}");
    }
    all
}

/// One client: it says what it speaks, hears what is spoken, and says that it has heard.
async fn greet(door: SocketAddr) -> Result<Greeted> {
    let mut connection = JoinSet::new();
    let mut sender = load::connect(door, &mut connection).await?;
    let (status, said) = post(&mut sender, door, &messages::hello()).await?;
    let answer: Value = serde_json::from_slice(&said).with_context(|| format!("status {status}: no JSON"))?;
    ensure!(answer["result"]["protocolVersion"] == HANDSHAKE, "status {status}: {answer}");
    let (status, _) = post(&mut sender, door, &messages::greeted()).await?;
    ensure!(status == 202, "status {status} to a notification");
    Ok(Greeted { _sender: sender, _connection: connection })
}

async fn post(sender: &mut SendRequest<Full<Bytes>>, door: SocketAddr, message: &Value) -> Result<(u16, Bytes)> {
    sender.ready().await.context("connection closed")?;
    let request = Request::post(PATH)
        .header(header::HOST, door.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, BOTH)
        .header("mcp-protocol-version", HANDSHAKE)
        .body(Full::new(Bytes::from(message.to_string())))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_back_when_it_holds_what_it_held_but_for_what_may_stay() {
        let base = Holds { resident_bytes: 50 << 20, open_files: 40 };
        let check = |more_bytes: u64, more_files: usize, expected: bool| {
            let (resident_bytes, open_files) = (base.resident_bytes + more_bytes, base.open_files + more_files);
            assert_eq!(Holds { resident_bytes, open_files }.is_back_to(base), expected, "{more_bytes} {more_files}");
        };
        check(0, 0, true);
        check(MORE_BYTES_MAX, MORE_FILES_MAX, true);
        check(MORE_BYTES_MAX + 1, 0, false);
        check(0, MORE_FILES_MAX + 1, false);
        assert!(Holds::default().is_back_to(base), "less is well, too");
    }
}
