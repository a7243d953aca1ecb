//! Calls to one member on one lane over one long stream: a call costs a frame each way, and no request of its own.
//!
//! Always: each call ends with its own answer or one failure, and what nobody waits for any more is not sent. What was
//! handed to a stream that then broke counts as lost, because it may have been delivered; the next call opens the next
//! stream. A member that is about to stop says so, and still answers all that was on its way to it. When a better way
//! to the member was found, which its epoch tells, the next call opens the next stream there, and the old one runs out:
//! what is on its way on it is still answered. A member of a release that does not know the exchange is called message
//! by message, until one of those calls finds it gone, or for a minute: it may be another release by then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use ollamax_metadata::PeerError;
use ollamax_proto::v1::raft_answer::Result as Answered;
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_proto::v1::{RaftAnswer, RaftCall, RaftMessage};
use ollamax_types::ErrorCode;

use super::{millis, peer_error};

/// Calls on their way to one member on one lane; more wait for a place here, where they can still be taken back. Fewer
/// than the far end serves at once, so that none waits unread on the connection.
const CALLS_ON_THEIR_WAY_MAX: usize = 512;
/// How long a member that knew no exchange is taken to know none.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The way to one member on one lane.
#[derive(Debug)]
pub(super) struct Line {
    tasks: TaskTracker,
    places: Semaphore,
    way: Mutex<Way>,
}

/// How the member is spoken to at the moment.
#[derive(Debug)]
enum Way {
    /// No stream is open; the next call opens one.
    Closed,
    /// One is open, since this epoch of the member.
    Exchange(Arc<Exchange>, u64),
    /// Its release knew no exchange then, in this epoch.
    OneByOne(Instant, u64),
}

/// The sending end of one stream. When the last clone of it goes, the far end hears that no more calls will come.
#[derive(Debug)]
struct Exchange {
    calls: mpsc::Sender<RaftCall>,
    book: Arc<Book>,
}

/// Who waits for which answer.
#[derive(Debug, Default)]
struct Book(Mutex<Page>);

#[derive(Debug, Default)]
struct Page {
    last: u64,
    waiting: HashMap<u64, Waiter>,
    /// Why the stream ended; nobody is entered any more.
    over: Option<Miss>,
}

/// Who waits, and how long.
#[derive(Debug)]
struct Waiter {
    until: Instant,
    answer: oneshot::Sender<Result<Bytes, Miss>>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
enum Miss {
    /// The member's release knows no exchange; nothing was delivered.
    NotKnown,
    Failed(PeerError),
}

/// A place in the book, given up when it is dropped.
#[derive(Debug)]
struct Place {
    book: Arc<Book>,
    number: u64,
    answer: oneshot::Receiver<Result<Bytes, Miss>>,
}

// === impl Line ===

impl Line {
    /// A way that is not open yet. Its streams are read in the given group; they end with their connections.
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { tasks, places: Semaphore::new(CALLS_ON_THEIR_WAY_MAX), way: Mutex::new(Way::Closed) }
    }

    /// Sends one message and waits for its answer, for at most `deadline`. `epoch` counts the better ways that were
    /// found to the member; a stream of an earlier one is not used any more. `client` makes a client of this member and
    /// lane when one is needed, `message` what a member of an older release is sent instead.
    pub(super) async fn call(
        self: &Arc<Self>,
        body: Bytes,
        (deadline, epoch): (Duration, u64),
        client: impl Fn() -> RaftClient<Channel> + Send + Sync,
        message: impl FnOnce(Bytes) -> RaftMessage + Send,
    ) -> Result<Bytes, PeerError> {
        let until = Instant::now() + deadline;
        // Half the time at most: who is told that nothing was sent must hear it before he stops listening.
        let Ok(Ok(_on_its_way)) = timeout(deadline / 2, self.places.acquire()).await else {
            return Err(PeerError::Unreachable("too many calls are on their way to it".to_owned()));
        };
        match timeout_at(until, self.exchanged(&body, until, epoch, &client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Miss::Failed(error))) => Err(error),
            Ok(Err(Miss::NotKnown)) => {
                let mut client = client();
                let call = client.call(message(body));
                self.heard(match timeout_at(until, call).await {
                    Ok(Ok(reply)) => Ok(reply.into_inner().body),
                    Ok(Err(status)) => Err(peer_error(&status)),
                    Err(_) => Err(PeerError::TimedOut),
                })
            }
            Err(_) => Err(PeerError::TimedOut),
        }
    }

    /// One call over the open stream, or over the next one.
    async fn exchanged(
        self: &Arc<Self>,
        body: &Bytes,
        until: Instant,
        epoch: u64,
        client: impl Fn() -> RaftClient<Channel>,
    ) -> Result<Bytes, Miss> {
        loop {
            let Some(exchange) = self.exchange(epoch, &client) else { return Err(Miss::NotKnown) };
            // `None`: it had ended before this call was entered, and the next one is open then.
            if let Some(place) = exchange.enter(until) {
                // The time that is left is told when it is sent.
                let call = RaftCall { number: place.number, deadline_ms: 0, body: body.clone() };
                // When nobody takes it any more, the book tells why.
                drop(exchange.calls.send(call).await);
                drop(exchange);
                return place.answer().await;
            }
            self.close(&exchange.book);
        }
    }

    /// The open stream, or a new one; `None` when the member knows none. One of an earlier epoch is let go: the far end
    /// hears that no more calls will come, and its answers are still read.
    fn exchange(self: &Arc<Self>, epoch: u64, client: impl Fn() -> RaftClient<Channel>) -> Option<Arc<Exchange>> {
        let mut way = self.way();
        match &*way {
            Way::OneByOne(since, of) if *of >= epoch && since.elapsed() < ASKED_AGAIN_AFTER => None,
            // A call that read the epoch before it grew does not go back.
            Way::Exchange(exchange, of) if *of >= epoch => Some(Arc::clone(exchange)),
            Way::Closed | Way::OneByOne(..) | Way::Exchange(..) => {
                let (calls, queued) = mpsc::channel(CALLS_ON_THEIR_WAY_MAX);
                let book = Arc::new(Book::default());
                // Ends with its stream, which its connection ends at the latest.
                self.tasks.spawn(Arc::clone(self).read(client(), queued, Arc::clone(&book), epoch));
                let exchange = Arc::new(Exchange { calls, book });
                *way = Way::Exchange(Arc::clone(&exchange), epoch);
                Some(exchange)
            }
        }
    }

    /// Opens a stream and reads its answers until it ends.
    async fn read(
        self: Arc<Self>,
        mut client: RaftClient<Channel>,
        queued: mpsc::Receiver<RaftCall>,
        book: Arc<Book>,
        epoch: u64,
    ) {
        let _ended = Ended { line: Arc::clone(&self), book: Arc::clone(&book) };
        let waited = Arc::clone(&book);
        let queued = ReceiverStream::new(queued);
        let calls = tokio_stream::StreamExt::filter_map(queued, move |call: RaftCall| waited.still_wanted(call));
        let miss = match client.exchange(calls).await {
            Ok(opened) => {
                let ended = self.read_answers(opened.into_inner(), &book).await;
                Miss::Failed(PeerError::Lost(ended))
            }
            Err(status) if status.code() == Code::Unimplemented => {
                *self.way() = Way::OneByOne(Instant::now(), epoch);
                Miss::NotKnown
            }
            Err(status) => Miss::Failed(peer_error(&status)),
        };
        self.close(&book);
        book.end(miss);
    }

    /// Why the stream ended.
    async fn read_answers(&self, mut answers: Streaming<RaftAnswer>, book: &Arc<Book>) -> String {
        loop {
            match answers.message().await {
                Ok(Some(RaftAnswer { number: 0, .. })) => self.close(book),
                Ok(Some(answer)) => book.answered(answer),
                Ok(None) => return "the member ended the exchange".to_owned(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    /// Sends no more on this stream; the next call opens another.
    fn close(&self, book: &Arc<Book>) {
        let mut way = self.way();
        if matches!(&*way, Way::Exchange(open, _) if Arc::ptr_eq(&open.book, book)) {
            *way = Way::Closed;
        }
    }

    /// Looks at what came of a call outside any exchange: a member that is gone may come back with another release.
    fn heard(&self, result: Result<Bytes, PeerError>) -> Result<Bytes, PeerError> {
        if matches!(result, Err(PeerError::Unreachable(_) | PeerError::Lost(_))) {
            let mut way = self.way();
            if matches!(&*way, Way::OneByOne(..)) {
                *way = Way::Closed;
            }
        }
        result
    }

    /// The calls that wait on the open stream.
    #[cfg(test)]
    fn waiting(&self) -> Vec<u64> {
        match &*self.way() {
            Way::Exchange(exchange, _) => exchange.book.page().waiting.keys().copied().collect(),
            Way::Closed | Way::OneByOne(..) => Vec::new(),
        }
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Exchange ===

impl Exchange {
    /// A number for one more call; `None` when the stream is over.
    fn enter(&self, until: Instant) -> Option<Place> {
        let (sender, answer) = oneshot::channel();
        let mut page = self.book.page();
        if page.over.is_some() {
            return None;
        }
        page.last += 1;
        let number = page.last;
        page.waiting.insert(number, Waiter { until, answer: sender });
        Some(Place { book: Arc::clone(&self.book), number, answer })
    }
}

// === impl Book ===

impl Book {
    /// What goes out, with the time that is left; `None` when nobody waits for it any more.
    fn still_wanted(&self, call: RaftCall) -> Option<RaftCall> {
        let until = self.page().waiting.get(&call.number)?.until;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| RaftCall { deadline_ms: millis(left), ..call })
    }

    fn answered(&self, answer: RaftAnswer) {
        // Whoever is not there any more has given up.
        let Some(waiter) = self.page().waiting.remove(&answer.number) else { return };
        drop(waiter.answer.send(result_of(answer.result)));
    }

    /// Tells everybody who still waits.
    fn end(&self, miss: Miss) {
        let mut page = self.page();
        for (_, waiter) in page.waiting.drain() {
            drop(waiter.answer.send(Err(miss.clone())));
        }
        page.over.get_or_insert(miss);
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn result_of(result: Option<Answered>) -> Result<Bytes, Miss> {
    match result {
        Some(Answered::Body(body)) => Ok(body),
        Some(Answered::Refused(refusal)) => Err(Miss::Failed(match ErrorCode::from_text(&refusal.code) {
            Some(code) => PeerError::Refused { code, message: refusal.message },
            None => PeerError::Lost(format!("{}: {}", refusal.code, refusal.message)),
        })),
        None => Err(Miss::Failed(PeerError::Lost("an answer that this release does not know".to_owned()))),
    }
}

/// Ends a book however its reader ends, by a panic or with its runtime too.
struct Ended {
    line: Arc<Line>,
    book: Arc<Book>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.line.close(&self.book);
        self.book.end(Miss::Failed(PeerError::Lost("the exchange ended".to_owned())));
    }
}

// === impl Place ===

impl Place {
    async fn answer(mut self) -> Result<Bytes, Miss> {
        let lost = || Err(Miss::Failed(PeerError::Lost("the exchange ended".to_owned())));
        (&mut self.answer).await.unwrap_or_else(|_| lost())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.book.page().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
