//! What a fake Ollama saw: requests, those that the caller gave up, and the most it worked on at once.
//!
//! Bounded: the oldest requests are forgotten, the counts are kept.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

/// Requests that are remembered with their bodies.
pub const REQUESTS_KEPT: usize = 4_096;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Counts from 1.
    pub number: u64,
    /// When its body was complete.
    pub at: Instant,
    /// In capitals.
    pub method: String,
    /// Without query.
    pub path: String,
    /// Header names in lower case.
    pub headers: Vec<(String, String)>,
    /// As sent.
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How far a request had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a slot.
    Queue,
    /// Its model is being loaded.
    Load,
    /// Has a slot, no token yet.
    FirstByte,
    /// Tokens are on their way.
    Stream,
}

/// One request whose caller went away before its end.
#[derive(Debug, Clone)]
pub struct Cancelled {
    /// The request's number.
    pub number: u64,
    /// Its path.
    pub path: String,
    /// Where it was.
    pub phase: Phase,
    /// When the fake noticed.
    pub at: Instant,
}

/// Everything that was seen.
#[derive(Debug, Default, Clone)]
pub struct Record {
    /// The last requests, oldest first.
    pub requests: VecDeque<Received>,
    /// All that were given up, oldest first; bounded like the requests.
    pub cancelled: VecDeque<Cancelled>,
    /// All requests by path, since the start.
    pub counts: BTreeMap<String, u64>,
    /// Inference requests that were answered to their end.
    pub finished: u64,
    /// Loads of models.
    pub loads: u64,
    /// Requests that runners work on now.
    pub running: u64,
    /// Most requests that runners worked on at once.
    pub running_most: u64,
    /// Requests so far.
    pub total: u64,
}

impl Record {
    pub(crate) fn receive(&mut self, mut request: Received) -> u64 {
        self.total += 1;
        request.number = self.total;
        *self.counts.entry(request.path.clone()).or_default() += 1;
        push_bounded(&mut self.requests, request);
        self.total
    }

    pub(crate) fn cancel(&mut self, cancelled: Cancelled) {
        push_bounded(&mut self.cancelled, cancelled);
    }

    pub(crate) fn begin_work(&mut self) {
        self.running += 1;
        self.running_most = self.running_most.max(self.running);
    }

    /// The remembered requests to one path, oldest first.
    pub fn to(&self, path: &str) -> impl Iterator<Item = &Received> {
        self.requests.iter().filter(move |request| request.path == path)
    }

    /// How many requests came to one path.
    #[must_use]
    pub fn count(&self, path: &str) -> u64 {
        self.counts.get(path).copied().unwrap_or(0)
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == REQUESTS_KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}
