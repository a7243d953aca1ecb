//! Notices that a caller went away: a guard that lives as long as the answer and is told when it is complete.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::fake_ollama::lock;
use crate::fake_ollama::record::{Cancelled, Phase, Record};

/// Dropped before [`Watch::finish`], it writes a cancellation into the record.
#[derive(Debug)]
pub(crate) struct Watch {
    record: Arc<Mutex<Record>>,
    number: u64,
    path: String,
    phase: Phase,
    done: bool,
}

impl Watch {
    pub(crate) fn new(record: &Arc<Mutex<Record>>, number: u64, path: &str) -> Self {
        Self { record: Arc::clone(record), number, path: path.to_owned(), phase: Phase::Queue, done: false }
    }

    pub(crate) const fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// The request was answered to its end.
    pub(crate) fn finish(&mut self) {
        if !self.done {
            self.done = true;
            lock(&self.record).finished += 1;
        }
    }

    /// The request ended without being an inference: nothing is counted.
    pub(crate) const fn forget(&mut self) {
        self.done = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.done {
            let cancelled = Cancelled {
                number: self.number,
                path: std::mem::take(&mut self.path),
                phase: self.phase,
                at: Instant::now(),
            };
            lock(&self.record).cancel(cancelled);
        }
    }
}
