//! One stream to one peer: requests go out, chunks come back in order of each request.
//!
//! Streams are shared by all files that are fetched, so thousands of small ones open no more. A link is two loops: one
//! writes the questions that a bounded channel brings, the other reads chunks into counted buffers and hands each to
//! whoever asked. Whoever asked and left is told nothing more, and what still comes for him goes nowhere. A link ends
//! with its stream, with the first thing that is no reply to what was asked, when a peer that was asked says nothing
//! for `transfer.stall_ms`, and when nobody uses it; all open requests end with it. Always holds: whoever asks reads
//! what comes or leaves, and no request is larger than the channel to whoever made it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use ollamax_blobs::BlobSpec;
use ollamax_core::rates::Urgency;
use ollamax_core::transfer_plan::Extent;
use ollamax_types::{NodeId, chunk_range};

use crate::buffers::{Buffer, Buffers};
use crate::config::Config;
use crate::metrics::{Metrics, OpenLink};
use crate::ports::{ByteStream, PeerError, Peers};

use super::frame::{self, EXTENT_CHUNKS_MAX, FrameError, GREETING, Outcome, Question, Reply};

/// Most questions that wait to be written.
const QUESTIONS_MAX: usize = 64;
/// Most bytes that are thrown away at once.
const SCRATCH_BYTES: usize = 64 << 10;
/// Who holds a link that nobody uses: the list of all, and the link itself.
const HOLDERS_IDLE: usize = 2;

/// The streams to other nodes. Clones are the same.
#[derive(Clone)]
pub(crate) struct Links(Arc<Inner>);

struct Inner {
    peers: Arc<dyn Peers>,
    buffers: Buffers,
    metrics: Metrics,
    per_peer: usize,
    stall: Duration,
    nodes: Mutex<BTreeMap<NodeId, OfNode>>,
    /// The loops of all links. They end with this.
    tasks: Mutex<JoinSet<()>>,
}

/// The links to one node, locked while one of them is opened.
type OfNode = Arc<tokio::sync::Mutex<Vec<Link>>>;

/// One stream to one peer. Clones are the same.
#[derive(Clone)]
pub(crate) struct Link(Arc<Shared>);

struct Shared {
    questions: mpsc::Sender<Question>,
    requests: Mutex<Requests>,
    /// Why it ended.
    ended: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct Requests {
    open: BTreeMap<u64, Request>,
    /// The number of the latest.
    last: u64,
}

/// What was asked and has not ended.
struct Request {
    blob: BlobSpec,
    /// The chunk that comes next.
    next: u32,
    extent: Extent,
    asked_at: Instant,
    asker: mpsc::Sender<Came>,
}

/// What comes of a request. Dropping it cancels the request.
pub(crate) struct Answer {
    link: Link,
    request: u64,
    came: mpsc::Receiver<Came>,
    is_over: bool,
}

/// What came.
pub(crate) enum Came {
    /// The next chunk, as the peer sent it.
    Chunk { index: u32, buffer: Buffer },
    /// Nothing more comes.
    End(Outcome),
}

/// The two sides of a stream.
type Halves = (ReadHalf<Box<dyn ByteStream>>, WriteHalf<Box<dyn ByteStream>>);

/// The reading side of a stream.
struct Reader {
    from: ReadHalf<Box<dyn ByteStream>>,
    stall: Duration,
    buffers: Buffers,
}

/// Whatever becomes of a link's loops, it is told.
struct Ending(Arc<Shared>);

// === impl Links ===

impl Links {
    pub(crate) fn new(peers: Arc<dyn Peers>, buffers: Buffers, metrics: Metrics, config: &Config) -> Self {
        Self(Arc::new(Inner {
            peers,
            buffers,
            metrics,
            per_peer: config.links_per_peer.max(1) as usize,
            stall: Duration::from_millis(config.stall_ms),
            nodes: Mutex::default(),
            tasks: Mutex::default(),
        }))
    }

    /// The links to a node, at least one; what is missing of them is opened.
    pub(crate) async fn to(&self, node: NodeId) -> Result<Vec<Link>, PeerError> {
        let of_node = Arc::clone(lock(&self.0.nodes).entry(node).or_default());
        let mut links = of_node.lock().await;
        links.retain(|link| !link.is_over());
        while links.len() < self.0.per_peer {
            match self.open(node).await {
                Ok(link) => links.push(link),
                Err(error) if links.is_empty() => return Err(error),
                // Fewer will do.
                Err(_) => break,
            }
        }
        Ok(links.clone())
    }

    async fn open(&self, to: NodeId) -> Result<Link, PeerError> {
        let (inner, stall) = (&self.0, self.0.stall);
        let connected = timeout(stall, connect(&*inner.peers, to)).await;
        let silent = || PeerError::Unreachable(format!("no connection within {} s", stall.as_secs()));
        let (from, write) = connected.unwrap_or_else(|_| Err(silent()))?;
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let shared = Arc::new(Shared { questions, requests: Mutex::default(), ended: watch::Sender::new(None) });
        let reader = Reader { from, stall, buffers: inner.buffers.clone() };
        let (ending, open) = (Ending(Arc::clone(&shared)), inner.metrics.open_link());
        let mut tasks = lock(&inner.tasks);
        while tasks.try_join_next().is_some() {}
        // It ends with its stream or when nobody uses it, and is told by `Link::ended` in any case.
        tasks.spawn(run(ending, reader, write, asked, open));
        Ok(Link(shared))
    }
}

/// Opens a stream and agrees on the protocol.
async fn connect(peers: &dyn Peers, to: NodeId) -> Result<Halves, PeerError> {
    let (mut from, mut write) = split(peers.connect(to).await?);
    let greet = async {
        write.write_all(&GREETING).await?;
        write.flush().await?;
        frame::read_greeting(&mut from).await
    };
    greet.await.map_err(|error| match error {
        FrameError::Broken(_) | FrameError::Stalled(_) => PeerError::Unreachable(error.to_string()),
        FrameError::Garbage(_) => PeerError::Garbled(error.to_string()),
    })?;
    Ok((from, write))
}

async fn run(
    ending: Ending,
    mut reader: Reader,
    write: WriteHalf<Box<dyn ByteStream>>,
    asked: mpsc::Receiver<Question>,
    _open: OpenLink,
) {
    let (shared, stall) = (&ending.0, reader.stall);
    let ended = tokio::select! {
        ended = reader.read_all(shared) => ended,
        ended = write_all(write, asked, stall) => ended,
    };
    shared.end(&ended.map_or_else(|error| error.to_string(), |()| "nobody used the connection".to_owned()));
}

// === impl Link ===

impl Link {
    /// Asks for chunks; at most [`EXTENT_CHUNKS_MAX`] of them. `None`: the link is over.
    pub(crate) async fn ask(&self, blob: BlobSpec, extent: Extent, urgency: Urgency) -> Option<Answer> {
        debug_assert!((1..=EXTENT_CHUNKS_MAX).contains(&extent.count), "{extent:?}");
        let place = self.0.questions.reserve().await.ok()?;
        // All that can come of it has a place.
        let (asker, came) = mpsc::channel(EXTENT_CHUNKS_MAX as usize + 1);
        let mut requests = self.0.lock();
        if self.is_over() {
            return None;
        }
        requests.last += 1;
        let request = requests.last;
        let asked_at = Instant::now();
        requests.open.insert(request, Request { blob, next: extent.first, extent, asked_at, asker });
        let is_background = urgency == Urgency::Background;
        place.send(Question::Ask { request, sha256: blob.sha256, extent, is_background });
        drop(requests);
        Some(Answer { link: self.clone(), request, came, is_over: false })
    }

    fn is_over(&self) -> bool {
        self.0.ended.borrow().is_some()
    }

    /// Waits until it is over, and says why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.0.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await.expect("the sender is ours").clone();
        why.unwrap_or_default()
    }
}

// === impl Answer ===

impl Answer {
    /// What comes next. `None`: the link is over, and nothing more comes.
    pub(crate) async fn next(&mut self) -> Option<Came> {
        let came = self.came.recv().await;
        self.is_over |= !matches!(came, Some(Came::Chunk { .. }));
        came
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.is_over {
            // Where there is no place for the question, the peer sends for nobody until the request ends.
            let _ = self.link.0.questions.try_send(Question::Cancel { request: self.request });
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes note of the next chunk of a request, and says who asked for it.
    fn chunk_came(&self, request: u64, index: u32, length: u32) -> Result<mpsc::Sender<Came>, FrameError> {
        let mut requests = self.lock();
        let request = requests.open.get_mut(&request).ok_or(FrameError::Garbage("a chunk of no request"))?;
        let range = chunk_range(request.blob.size_bytes, index);
        let is_next = index == request.next && index < request.extent.end();
        if !is_next || u64::from(length) != range.end - range.start {
            return Err(FrameError::Garbage("another chunk than was asked for"));
        }
        request.next += 1;
        Ok(request.asker.clone())
    }

    /// A request is over. Whoever made it may have left.
    fn request_ended(&self, request: u64, outcome: Outcome) -> Result<(), FrameError> {
        let request = self.lock().open.remove(&request).ok_or(FrameError::Garbage("the end of no request"))?;
        if outcome == Outcome::Whole && request.next != request.extent.end() {
            return Err(FrameError::Garbage("the end of a request before its last chunk"));
        }
        drop(request.asker.try_send(Came::End(outcome)));
        Ok(())
    }

    /// Whether something was asked for so long ago.
    fn is_late(&self, stall: Duration) -> bool {
        self.lock().open.values().any(|request| request.asked_at.elapsed() >= stall)
    }

    fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= HOLDERS_IDLE && self.lock().open.is_empty()
    }

    /// It is over; the first reason stays. Whoever waits for chunks is told by the end of his channel.
    fn end(&self, why: &str) {
        let mut requests = self.lock();
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            if is_first {
                *ended = Some(why.to_owned());
            }
            is_first
        });
        requests.open.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }
}

// === impl Ending ===

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end("the connection was given up");
    }
}

// === impl Reader ===

impl Reader {
    /// Reads replies until nobody uses the link any more.
    async fn read_all(&mut self, shared: &Arc<Shared>) -> Result<(), FrameError> {
        loop {
            let kind = match timeout(self.stall, frame::read_kind(&mut self.from)).await {
                Ok(kind) => kind?.ok_or_else(|| FrameError::Stalled("the connection was closed".to_owned()))?,
                Err(_) if shared.is_late(self.stall) => return Err(stalled(self.stall)),
                Err(_) if shared.is_idle() => return Ok(()),
                Err(_) => continue,
            };
            let reply = timeout(self.stall, frame::read_reply(kind, &mut self.from)).await;
            match reply.unwrap_or_else(|_| Err(stalled(self.stall)))? {
                Reply::Chunk { request, index, length } => {
                    let asker = shared.chunk_came(request, index, length)?;
                    self.take_chunk(&asker, index, u64::from(length)).await?;
                }
                Reply::End { request, outcome } => shared.request_ended(request, outcome)?,
            }
        }
    }

    async fn take_chunk(&mut self, asker: &mpsc::Sender<Came>, index: u32, length: u64) -> Result<(), FrameError> {
        if asker.is_closed() {
            return self.skip(length).await;
        }
        let mut buffer = self.buffers.take().await;
        self.read(length, buffer.bytes_mut()).await?;
        // There is a place for it, unless whoever asked has left.
        drop(asker.try_send(Came::Chunk { index, buffer }));
        Ok(())
    }

    /// Reads so many bytes, behind those that are there.
    async fn read(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut rest = (&mut self.from).take(length);
        while rest.limit() > 0 {
            let read = timeout(self.stall, rest.read_buf(into)).await;
            let Ok(read) = read else { return Err(stalled(self.stall)) };
            if read? == 0 {
                return Err(FrameError::Stalled("the connection was closed".to_owned()));
            }
        }
        Ok(())
    }

    async fn skip(&mut self, length: u64) -> Result<(), FrameError> {
        let (mut scratch, mut left) = (Vec::with_capacity(SCRATCH_BYTES), length);
        while left > 0 {
            let piece = left.min(SCRATCH_BYTES as u64);
            scratch.clear();
            self.read(piece, &mut scratch).await?;
            left -= piece;
        }
        Ok(())
    }
}

async fn write_all(
    mut to: impl AsyncWrite + Unpin,
    mut asked: mpsc::Receiver<Question>,
    stall: Duration,
) -> Result<(), FrameError> {
    while let Some(question) = asked.recv().await {
        let write = async {
            to.write_all(&question.encode()).await?;
            to.flush().await
        };
        timeout(stall, write).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
    }
    Ok(())
}

fn stalled(stall: Duration) -> FrameError {
    FrameError::Stalled(format!("nothing came for {} s", stall.as_secs()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
