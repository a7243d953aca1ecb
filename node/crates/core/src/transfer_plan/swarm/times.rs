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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_last_is_what_is_usual() {
        let mut times = Times::default();
        assert_eq!(times.usual_us(), ASSUMED_US);
        for (took_ms, chunks, usual_us) in [(40, 4, 10_000), (90, 1, 90_000), (20, 1, 20_000), (7, 0, 20_000)] {
            times.note(took_ms, chunks);
            assert_eq!(times.usual_us(), usual_us, "{took_ms} ms for {chunks}");
        }
        for _ in 0..KEPT {
            times.note(3, 1);
        }
        assert_eq!((times.usual_us(), times.kept.len()), (3_000, KEPT));
    }
}
