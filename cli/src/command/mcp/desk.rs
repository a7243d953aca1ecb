//! The loop between an assistant's lines and its requests' works: takes lines, begins and ends works, writes what they
//! tell, one message in each line.
//!
//! Always: nothing but messages is written; nothing is written of a request that was cancelled; a work that fails has
//! answered; what is written under the id of a request that is worked at is of that request: a refusal of something
//! else that has its id stands under none; an assistant that does not read is still heard. It ends when the input does,
//! at most [`ENDING`] later, and when who began it is gone; works that are left then are dropped, and with them their
//! connections, by which nodes hear of it.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::bridge::{Bridge, say};
use super::era;
use super::lines::{LINE_BYTES_MAX, Line, Lines};
use super::message::{self, INTERNAL_ERROR, INVALID_REQUEST, Message, Request};
use super::telling::{Out, Told};

/// Requests of one assistant that are worked at.
const WORKS_MAX: usize = 256;
/// Messages that wait to be written.
const TOLD_MAX: usize = 64;
/// Bytes that were not taken yet and beyond which no lines are.
const UNWRITTEN_MAX: usize = 16 << 20;
/// How long what is worked at may still be answered behind the input's end.
const ENDING: Duration = Duration::from_secs(1);

/// A request that is worked at.
struct Work {
    id: Value,
    /// It has no end of its own.
    is_endless: bool,
    handle: AbortHandle,
}

/// What is worked at.
struct Desk {
    bridge: Arc<Bridge>,
    works: JoinSet<()>,
    under_way: HashMap<u64, Work>,
    begun: u64,
    /// What an assistant of the handshake said of itself.
    client: Value,
    told: mpsc::Sender<Told>,
}

/// Messages that the assistant has not taken.
struct Unwritten {
    bytes: BytesMut,
    is_flushed: bool,
}

enum Event {
    Line(Option<Line>),
    Told(Told),
    Wrote(io::Result<()>),
    Ended(Option<JoinError>),
    /// There is no time left, or nobody.
    Over,
}

/// Serves an assistant until its input ends, or until `orphaned` comes true.
///
/// # Errors
/// When the input cannot be read. That nobody reads the output is an end, and no error.
pub(crate) async fn serve(
    bridge: Arc<Bridge>,
    input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    orphaned: impl Future<Output = ()>,
) -> io::Result<()> {
    let (sender, mut coming) = mpsc::channel(TOLD_MAX);
    let mut desk = Desk::new(bridge, sender);
    let mut lines = Lines::new(input, LINE_BYTES_MAX);
    let mut orphaned = pin!(orphaned);
    let mut unwritten = Unwritten { bytes: BytesMut::new(), is_flushed: true };
    let mut ends_at = None;
    while ends_at.is_none() || !desk.under_way.is_empty() || !unwritten.is_done() {
        let (is_written, has_room) = (unwritten.is_done(), unwritten.bytes.len() < UNWRITTEN_MAX);
        let event = tokio::select! {
            () = &mut orphaned => Event::Over,
            () = until(ends_at) => Event::Over,
            wrote = unwritten.write_some(&mut output), if !is_written => Event::Wrote(wrote),
            Some(told) = coming.recv(), if is_written => Event::Told(told),
            Some(ended) = desk.works.join_next(), if !desk.works.is_empty() => Event::Ended(ended.err()),
            line = lines.next(), if ends_at.is_none() && has_room => Event::Line(line?),
        };
        let message = match event {
            // Nobody reads any more.
            Event::Over | Event::Wrote(Err(_)) => break,
            Event::Wrote(Ok(())) => None,
            Event::Told(told) => desk.hand_on(told),
            Event::Ended(error) => error.and_then(|error| desk.failed(&error)),
            Event::Line(Some(line)) => desk.take(line),
            Event::Line(None) => {
                ends_at = Some(Instant::now() + ENDING);
                desk.end_the_endless();
                None
            }
        };
        if let Some(message) = message {
            unwritten.push(&message);
        }
    }
    Ok(())
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => pending().await,
    }
}

// === impl Unwritten ===

impl Unwritten {
    fn push(&mut self, message: &Value) {
        self.bytes.extend_from_slice(format!("{message}\n").as_bytes());
        self.is_flushed = false;
    }

    fn is_done(&self) -> bool {
        self.bytes.is_empty() && self.is_flushed
    }

    /// Writes what is taken at once, and behind all of it nothing that stays in between. Dropped before it is done it
    /// has written nothing.
    async fn write_some(&mut self, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if self.bytes.is_empty() {
            output.flush().await?;
            self.is_flushed = true;
            return Ok(());
        }
        match output.write_buf(&mut self.bytes).await? {
            0 => Err(io::Error::from(io::ErrorKind::WriteZero)),
            _ => Ok(()),
        }
    }
}

// === impl Desk ===

impl Desk {
    fn new(bridge: Arc<Bridge>, told: mpsc::Sender<Told>) -> Self {
        let (works, under_way) = (JoinSet::new(), HashMap::new());
        Self { bridge, works, under_way, begun: 0, client: era::own_name(), told }
    }

    /// Takes a line; what is answered at once.
    fn take(&mut self, line: Line) -> Option<Value> {
        let line = match line {
            Line::Whole(line) => line,
            Line::TooLong(id) => {
                let text = format!("the line has more than {} KiB; send less", LINE_BYTES_MAX >> 10);
                let told = message::error(&id.unwrap_or_default(), INVALID_REQUEST, text, Value::Null);
                return Some(self.under_no_other_id(told));
            }
        };
        match message::read(&line) {
            Message::Request(request) => self.begin(request),
            Message::Cancelled(id) => {
                self.cancel(&id);
                None
            }
            Message::Note(_) => None,
            Message::Refused(told) => Some(self.under_no_other_id(told)),
        }
    }

    /// Begins to work at a request; its refusal where that is not possible.
    fn begin(&mut self, request: Request) -> Option<Value> {
        if self.is_under_way(&request.id) {
            let text = format!("another request with the id {} has no answer yet; this one was not begun", request.id);
            return Some(message::error(&Value::Null, INVALID_REQUEST, text, Value::Null));
        }
        if self.under_way.len() >= WORKS_MAX {
            let text = format!("{WORKS_MAX} requests have no answer yet, which is as many as may be");
            let data = json!({"code": "overloaded", "next": "wait for one of them, or cancel one"});
            return Some(message::error(&request.id, INTERNAL_ERROR, text, data));
        }
        if request.method == "initialize" {
            self.client = era::client_of(&request.params);
        }
        let (work, id) = (self.begun, request.id.clone());
        self.begun = self.begun.wrapping_add(1);
        let is_endless = request.method == "subscriptions/listen";
        let out = Out { work, told: self.told.clone() };
        let answering = Arc::clone(&self.bridge).answer(request, self.client.clone(), out);
        let handle = self.works.spawn(answering);
        self.under_way.insert(work, Work { id, is_endless, handle });
        None
    }

    fn is_under_way(&self, id: &Value) -> bool {
        self.under_way.values().any(|work| work.id == *id)
    }

    /// A refusal, under its id unless a request is worked at that has the same one: whoever waits for that would take
    /// the refusal for its answer.
    fn under_no_other_id(&self, mut told: Value) -> Value {
        if self.is_under_way(&told["id"]) {
            told["id"] = Value::Null;
        }
        told
    }

    fn cancel(&mut self, id: &Value) {
        self.under_way.retain(|_, work| {
            let goes_on = work.id != *id;
            if !goes_on {
                work.handle.abort();
            }
            goes_on
        });
    }

    fn end_the_endless(&mut self) {
        self.under_way.retain(|_, work| {
            if work.is_endless {
                work.handle.abort();
            }
            !work.is_endless
        });
    }

    /// What a work tells, unless it was cancelled.
    fn hand_on(&mut self, told: Told) -> Option<Value> {
        let Told { work, message, is_last } = told;
        if is_last {
            return self.under_way.remove(&work).map(|_| message);
        }
        self.under_way.contains_key(&work).then_some(message)
    }

    /// What is told of a work that ended without its last word.
    fn failed(&mut self, error: &JoinError) -> Option<Value> {
        let work = self.under_way.iter().find(|(_, work)| work.handle.id() == error.id()).map(|(work, _)| *work)?;
        let Work { id, .. } = self.under_way.remove(&work)?;
        say(&format!("a request failed: {error}"));
        let data = json!({"code": "outcome_unknown", "next": "look at what it changes before it is repeated"});
        Some(message::error(&id, INTERNAL_ERROR, "this program failed at the request", data))
    }
}

#[cfg(test)]
mod tests;
