//! How long a chunk takes as a rule: the median over the last requests that came whole.

/// How many requests are looked at.
const KEPT: usize = 32;
/// Taken for a chunk while no request came whole, microseconds.
const ASSUMED_US: u64 = 2_000_000;

/// The times of the last requests.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// Microseconds for each chunk.
    kept: Vec<u64>,
    next: usize,
}

// === impl Times ===

impl Times {
    /// A request of so many chunks took so long, waits included.
    pub(crate) fn note(&mut self, took_ms: u64, chunks: u32) {
        let chunk_us = took_ms.saturating_mul(1_000) / u64::from(chunks.max(1));
        match self.kept.get_mut(self.next) {
            Some(place) => *place = chunk_us,
            None => self.kept.push(chunk_us),
        }
        self.next = (self.next + 1) % KEPT;
    }

    /// The median, microseconds for each chunk.
    pub(crate) fn usual_us(&self) -> u64 {
        let mut sorted = self.kept.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(ASSUMED_US)
    }
}
