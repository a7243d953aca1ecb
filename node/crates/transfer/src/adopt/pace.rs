//! When the next bytes of files may be read, so that no more are than allowed. Cannot fail.

use std::time::Duration;

use tokio::time::Instant;

/// When the next bytes may be read, so that no more are than allowed.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) bytes_per_second_max: u64,
    pub(super) next: Instant,
}

// === impl Pace ===

impl Pace {
    /// Bytes were read from then on.
    pub(super) fn spend(&mut self, from: Instant, bytes: u64) {
        let Some(nanos) = (u128::from(bytes) * 1_000_000_000).checked_div(u128::from(self.bytes_per_second_max)) else {
            return;
        };
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(from) + time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_bytes_are_read_than_allowed() {
        let start = Instant::now();
        let check = |rate: u64, spent: &[(u64, u64)], expected: u64| {
            let mut pace = Pace { bytes_per_second_max: rate, next: start };
            for (from_ms, bytes) in spent {
                pace.spend(start + Duration::from_millis(*from_ms), *bytes);
            }
            assert_eq!(pace.next - start, Duration::from_millis(expected), "{rate} {spent:?}");
        };
        check(1_000, &[], 0);
        check(1_000, &[(0, 500)], 500);
        check(1_000, &[(0, 500), (500, 250)], 750);
        check(1_000, &[(0, 500), (200, 250)], 750);
        // What was not used is not saved up.
        check(1_000, &[(0, 500), (9_000, 250)], 9_250);
        check(0, &[(0, u64::MAX)], 0);
    }
}
