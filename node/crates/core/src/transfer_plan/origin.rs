//! A file that comes from one place in several ranges at once: lowest chunks first, so that the hash can follow.
//!
//! Always holds: a chunk that is there is never asked for, and one that a stream fetches is asked of no other. What a
//! stream leaves behind is free again at once. A stream that fails waits, each time twice as long; a chunk that arrives
//! makes up for all failures. Silence of the place as a whole ends the plan, and a refusal ends it at once.

use std::collections::BTreeMap;

use ollamax_types::Bits;

use super::{Extent, Patience};

/// Longest wait that a place may ask for, milliseconds.
const TOLD_WAIT_MS_MAX: u64 = 120_000;
/// How often in a row a stream may be told to wait before that counts as silence.
const TOLD_WAITS_MAX: u32 = 10;

/// How a stream's extent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of it came.
    Whole,
    /// It broke off, or could not begin.
    Cut,
    /// It fell silent.
    Stalled,
    /// The place has too much to do.
    Busy {
        /// How long it asks us to wait, milliseconds, where it says so.
        after_ms: Option<u64>,
    },
    /// The place will not give it.
    Refused,
}

/// What a stream does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Asks for more.
    Next,
    /// Waits so long, and asks for more.
    WaitMs(u64),
    /// Nothing: there is no use.
    GiveUp,
}

/// Which stream fetches what.
#[derive(Debug)]
pub struct OriginPlan {
    have: Bits,
    taken: BTreeMap<u32, Extent>,
    extent_max: u32,
    patience: Patience,
    /// Of each stream, its failures since the last chunk that came from anywhere.
    failures: BTreeMap<u32, Failures>,
    last_gain_ms: u64,
    /// The place knows no ranges.
    whole: Option<Whole>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    in_row: u32,
    told_to_wait: u32,
}

/// The one stream that gets the file from its beginning.
#[derive(Debug, Clone, Copy)]
struct Whole {
    stream: Option<u32>,
}

// === impl OriginPlan ===

impl OriginPlan {
    /// A plan for what is not there. An extent has at most `extent_max` chunks, and at least one.
    #[must_use]
    pub fn new(have: Bits, extent_max: u32, patience: Patience, now_ms: u64) -> Self {
        let (taken, failures, extent_max) = (BTreeMap::new(), BTreeMap::new(), extent_max.max(1));
        Self { have, taken, extent_max, patience, failures, last_gain_ms: now_ms, whole: None }
    }

    /// What this stream fetches now: the lowest chunks that nobody has or fetches. `None` when there is nothing for it
    /// until something happens.
    pub fn next(&mut self, stream: u32) -> Option<Extent> {
        self.taken.remove(&stream);
        let extent = match self.whole {
            Some(whole) => self.all_for(stream, whole)?,
            None => self.lowest_free()?,
        };
        self.taken.insert(stream, extent);
        Some(extent)
    }

    /// Everything from the first chunk on, for one stream.
    fn all_for(&mut self, stream: u32, whole: Whole) -> Option<Extent> {
        let is_free = whole.stream.is_none_or(|holder| holder == stream);
        if !is_free || self.is_done() {
            return None;
        }
        self.whole = Some(Whole { stream: Some(stream) });
        Some(Extent { first: 0, count: self.have.len() })
    }

    fn lowest_free(&self) -> Option<Extent> {
        let mut first = self.have.zeros_from(self.have.prefix()).next()?;
        while let Some(taken) = self.taken.values().find(|taken| taken.chunks().contains(&first)) {
            first = self.have.zeros_from(taken.end()).next()?;
        }
        let limit = first.saturating_add(self.extent_max).min(self.have.len());
        let next_taken = self.taken.values().map(|taken| taken.first).filter(|taken| *taken > first).min();
        let limit = next_taken.map_or(limit, |taken| limit.min(taken));
        let end = (first..limit).find(|index| self.have.get(*index)).unwrap_or(limit);
        Some(Extent { first, count: end - first })
    }

    /// A chunk is there.
    pub fn arrived(&mut self, index: u32, now_ms: u64) {
        if self.have.set(index) {
            self.last_gain_ms = self.last_gain_ms.max(now_ms);
            self.failures.clear();
        }
    }

    /// What is missing was held back here: what counts as silence of the place begins anew.
    pub fn held_back(&mut self, now_ms: u64) {
        self.last_gain_ms = self.last_gain_ms.max(now_ms);
    }

    /// A chunk is not there after all.
    pub fn lost(&mut self, index: u32) {
        self.have.clear(index);
    }

    /// A stream is done with its extent, in this way.
    pub fn ended(&mut self, stream: u32, end: End, now_ms: u64) -> Verdict {
        self.taken.remove(&stream);
        if let Some(whole) = self.whole.as_mut().filter(|whole| whole.stream == Some(stream)) {
            whole.stream = None;
        }
        match end {
            End::Whole => Verdict::Next,
            End::Refused => Verdict::GiveUp,
            End::Cut | End::Stalled | End::Busy { after_ms: None } => self.failed(stream, now_ms),
            End::Busy { after_ms: Some(after_ms) } => self.told_to_wait(stream, after_ms, now_ms),
        }
    }

    fn failed(&mut self, stream: u32, now_ms: u64) -> Verdict {
        let failures = self.failures.entry(stream).or_default();
        let wait_ms = self.patience.wait_ms(failures.in_row);
        failures.in_row = failures.in_row.saturating_add(1);
        self.unless_silent(Verdict::WaitMs(wait_ms), now_ms)
    }

    fn told_to_wait(&mut self, stream: u32, after_ms: u64, now_ms: u64) -> Verdict {
        let failures = self.failures.entry(stream).or_default();
        failures.told_to_wait = failures.told_to_wait.saturating_add(1);
        // At once would be a race with whoever was told the same.
        let wait_ms = after_ms.max(self.patience.first_wait_ms).min(TOLD_WAIT_MS_MAX);
        if failures.told_to_wait <= TOLD_WAITS_MAX {
            self.last_gain_ms = self.last_gain_ms.max(now_ms.saturating_add(wait_ms));
        }
        self.unless_silent(Verdict::WaitMs(wait_ms), now_ms)
    }

    fn unless_silent(&self, verdict: Verdict, now_ms: u64) -> Verdict {
        let silent_ms = now_ms.saturating_sub(self.last_gain_ms);
        if silent_ms >= self.patience.silence_ms { Verdict::GiveUp } else { verdict }
    }

    /// The place knows no ranges: everything from the first chunk on, in order, to one stream.
    pub fn one_stream(&mut self) {
        self.whole = self.whole.or(Some(Whole { stream: None }));
    }

    /// Whether this chunk is there.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.have.get(index)
    }

    /// Whether this is the whole file.
    #[must_use]
    pub const fn covers(&self, extent: Extent) -> bool {
        extent.first == 0 && extent.count == self.have.len()
    }

    /// Whether every chunk is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.have.is_full()
    }

    /// How many chunks are there without a gap from the first on.
    #[must_use]
    pub fn prefix(&self) -> u32 {
        self.have.prefix()
    }
}

#[cfg(test)]
mod tests;
