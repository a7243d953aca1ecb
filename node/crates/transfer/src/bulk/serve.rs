//! Hands out chunks over one stream; never queues: a place or busy.
//!
//! All streams of a node share its places, and a request has one from the moment when it is taken until its last chunk
//! is sent. One loop reads questions, the other reads chunks from disk and writes them, one request after the other; a
//! bounded channel joins the two. A cancelled request ends before its next chunk. Whoever sends something that is no
//! question, or reads nothing for [`STALL`], loses the stream: he asks again, here or elsewhere. What may go out at a
//! time is for the limits to say; while nothing may, every request ends at once and says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use ollamax_core::rates::Urgency;
use ollamax_core::transfer_plan::Extent;
use ollamax_types::Digest;

use crate::class::Class;
use crate::library::{Library, LibraryError};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::ports::ByteStream;
use crate::pull::blocking;

use super::frame::{self, FrameError, GREETING, Outcome, Question, Reply};

/// How long the other side may take for its greeting, for the rest of a question, and for each piece that it gets.
const STALL: Duration = Duration::from_secs(30);
/// A stream over which nobody asks for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Most requests of one stream at once, whatever places there are.
const REQUESTS_MAX: usize = 16;
/// Most bytes that are written at once.
const PIECE_BYTES: usize = 256 << 10;

/// What all streams of a node are served from.
pub(crate) struct Stock {
    pub(crate) library: Library,
    /// Who may be handed something.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
}

/// What the two loops of a stream share.
struct Desk {
    places: Arc<Semaphore>,
    /// The requests that were taken, and how each is cancelled.
    open: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// What is to be sent.
enum Job {
    Serve(Order),
    Refuse { request: u64 },
}

/// A request that has a place.
struct Order {
    request: u64,
    sha256: Digest,
    extent: Extent,
    urgency: Urgency,
    cancelled: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// The sending side of a stream.
struct Counter<W> {
    to: W,
    library: Library,
    limits: Limits,
    metrics: Metrics,
}

/// Serves one stream until it ends, or until `stop`.
pub(crate) async fn serve(stream: impl ByteStream, stock: Stock, stop: CancellationToken) {
    let Stock { library, places, limits, metrics } = stock;
    let _link = metrics.open_link();
    let (from, to) = split(stream);
    let (jobs, due) = mpsc::channel(REQUESTS_MAX);
    let desk = Desk { places, open: Mutex::default() };
    let counter = Counter { to, library, limits, metrics };
    let both = async {
        tokio::select! {
            ended = desk.take_questions(from, jobs) => ended,
            ended = counter.send_all(&desk, due) => ended,
        }
    };
    if let Some(Err(error)) = stop.run_until_cancelled(both).await {
        tracing::debug!(%error, "a stream over which chunks were handed out ended");
    }
}

// === impl Desk ===

impl Desk {
    async fn take_questions(
        &self,
        mut from: impl AsyncRead + Unpin,
        jobs: mpsc::Sender<Job>,
    ) -> Result<(), FrameError> {
        within_stall(frame::read_greeting(&mut from), "the greeting did not come").await?;
        loop {
            let kind = match timeout(IDLE_MAX, frame::read_kind(&mut from)).await {
                Ok(kind) => kind?,
                Err(_) if self.lock().is_empty() => None,
                Err(_) => continue,
            };
            let Some(kind) = kind else { return Ok(()) };
            let question = frame::read_question(kind, &mut from);
            match within_stall(question, "a question did not come to its end").await? {
                Question::Ask { request, sha256, extent, is_background } => {
                    let urgency = if is_background { Urgency::Background } else { Urgency::Asked };
                    let job = self.admit(request, sha256, extent, urgency)?;
                    if jobs.send(job).await.is_err() {
                        return Ok(());
                    }
                }
                Question::Cancel { request } => self.cancel(request),
            }
        }
    }

    /// Gives a request a place, or says that there is none.
    fn admit(&self, request: u64, sha256: Digest, extent: Extent, urgency: Urgency) -> Result<Job, FrameError> {
        let mut open = self.lock();
        if open.contains_key(&request) {
            return Err(FrameError::Garbage("a number of a request that runs"));
        }
        let place = Arc::clone(&self.places).try_acquire_owned().ok().filter(|_| open.len() < REQUESTS_MAX);
        let Some(place) = place else { return Ok(Job::Refuse { request }) };
        let cancelled = CancellationToken::new();
        open.insert(request, cancelled.clone());
        Ok(Job::Serve(Order { request, sha256, extent, urgency, cancelled, _place: place }))
    }

    /// One that is over is not there any more.
    fn cancel(&self, request: u64) {
        if let Some(cancelled) = self.lock().get(&request) {
            cancelled.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Counter ===

impl<W: AsyncWrite + Unpin> Counter<W> {
    async fn send_all(mut self, desk: &Desk, mut due: mpsc::Receiver<Job>) -> Result<(), FrameError> {
        self.write(&GREETING).await?;
        while let Some(job) = due.recv().await {
            let (request, outcome) = match job {
                Job::Refuse { request } => (request, Outcome::Busy),
                // The place is free before the asker knows.
                Job::Serve(order) => (order.request, self.hand_out(&order).await?),
            };
            desk.lock().remove(&request);
            self.metrics.served(outcome);
            self.write(&Reply::End { request, outcome }.encode()).await?;
        }
        Ok(())
    }

    async fn hand_out(&mut self, order: &Order) -> Result<Outcome, FrameError> {
        let mut buffer = Vec::new();
        for index in order.extent.chunks() {
            if order.cancelled.is_cancelled() {
                return Ok(Outcome::Cancelled);
            }
            if self.limits.is_closed(Class::Send) {
                return Ok(Outcome::Closed);
            }
            let (library, sha256) = (self.library.clone(), order.sha256);
            let read = blocking(move || {
                let read = library.read(sha256, index, &mut buffer);
                (buffer, read)
            });
            let Ok((back, read)) = read.await else { return Ok(Outcome::Failed) };
            buffer = back;
            match read {
                Ok(()) => {}
                Err(LibraryError::Absent | LibraryError::Changed) => return Ok(Outcome::Absent),
                Err(error @ (LibraryError::Damaged { .. } | LibraryError::Fault(_))) => {
                    tracing::warn!(%sha256, chunk = index, %error, "a chunk cannot be handed out");
                    return Ok(Outcome::Failed);
                }
            }
            self.send(order, index, &buffer).await?;
        }
        Ok(Outcome::Whole)
    }

    /// Sends a chunk in pieces, each when it may go: whoever waits for it hears something all the time.
    async fn send(&mut self, order: &Order, index: u32, chunk: &[u8]) -> Result<(), FrameError> {
        let request = order.request;
        let length = u32::try_from(chunk.len()).expect("a chunk is short");
        self.write(&Reply::Chunk { request, index, length }.encode()).await?;
        for piece in chunk.chunks(PIECE_BYTES) {
            self.limits.pass_begun(Class::Send, order.urgency, piece.len() as u64).await;
            self.write(piece).await?;
        }
        self.metrics.sent(u64::from(length));
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        const TEXT: &str = "the other side does not read";
        for piece in bytes.chunks(PIECE_BYTES) {
            within_stall(async { self.to.write_all(piece).await.map_err(FrameError::from) }, TEXT).await?;
        }
        within_stall(async { self.to.flush().await.map_err(FrameError::from) }, TEXT).await
    }
}

/// Something for which the other side has so long.
async fn within_stall<T>(work: impl Future<Output = Result<T, FrameError>>, text: &str) -> Result<T, FrameError> {
    let done = timeout(STALL, work).await;
    done.unwrap_or_else(|_| Err(FrameError::Stalled(format!("{text} for {} s", STALL.as_secs()))))
}

#[cfg(test)]
mod tests;
