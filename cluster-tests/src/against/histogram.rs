//! Latencies, counted in buckets that grow with the value: 64 to each power of two, so that a value read back is at
//! most 1.6 % above the true one. Microseconds inside, milliseconds outside. Nothing is sampled and nothing is lost.

use std::time::Duration;

/// Bits of a value that its bucket keeps.
const KEPT_BITS: u32 = 6;
/// Buckets of one power of two.
const STEPS: u64 = 1 << KEPT_BITS;

/// Counted latencies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    largest_us: u64,
    sum_ms: f64,
    squares_ms: f64,
}

// === impl Histogram ===

impl Histogram {
    /// Counts one.
    pub(crate) fn add(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(us);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.largest_us = self.largest_us.max(us);
        let ms = us as f64 / 1_000.0;
        self.sum_ms += ms;
        self.squares_ms += ms * ms;
    }

    /// Adds all that another has counted.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total += other.total;
        self.largest_us = self.largest_us.max(other.largest_us);
        self.sum_ms += other.sum_ms;
        self.squares_ms += other.squares_ms;
    }

    /// How many were counted.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// The value that a share (0 to 1) of all does not exceed, rounded up to its bucket; `None` when it is empty.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let wanted = ((self.total as f64 * share.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(upper_us(bucket).min(self.largest_us) as f64 / 1_000.0)
    }

    /// The largest; `None` when it is empty.
    pub(crate) fn largest_ms(&self) -> Option<f64> {
        (self.total > 0).then(|| self.largest_us as f64 / 1_000.0)
    }

    /// The standard deviation; `None` when it is empty.
    pub(crate) fn deviation_ms(&self) -> Option<f64> {
        let count = self.total as f64;
        (self.total > 0).then(|| {
            let mean = self.sum_ms / count;
            (self.squares_ms / count - mean * mean).max(0.0).sqrt()
        })
    }
}

/// Values below 64 have a bucket each; then each power of two has 64.
const fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - KEPT_BITS;
    ((shift as u64 + 1) * STEPS + (us >> shift) - STEPS) as usize
}

/// The largest value that falls into a bucket.
const fn upper_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let above = bucket % STEPS + STEPS + 1;
    // The last bucket of all ends where the numbers do.
    if above.leading_zeros() as u64 >= shift { (above << shift) - 1 } else { u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values_us: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        values_us.into_iter().for_each(|us| histogram.add(Duration::from_micros(us)));
        histogram
    }

    #[test]
    fn a_value_falls_into_a_bucket_that_ends_at_most_a_sixty_fourth_above_it() {
        let check = |us: u64| {
            let upper = upper_us(bucket(us));
            assert!(upper >= us && upper - us <= us / STEPS, "{us}: {upper}");
        };
        (0..100_000).for_each(check);
        (0..64).map(|power| 1_u64 << power).for_each(check);
        (0..64).map(|power| (1_u64 << power) - 1).for_each(check);
        check(u64::MAX);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket_of in 1..2_000 {
            assert_eq!(bucket(upper_us(bucket_of - 1) + 1), bucket_of);
            assert_eq!(bucket(upper_us(bucket_of)), bucket_of);
        }
    }

    #[test]
    fn quantiles_are_counted_not_guessed() {
        let histogram = of(1..=1_000);
        assert_eq!(histogram.total(), 1_000);
        let check = |share: f64, least: f64, most: f64| {
            let found = histogram.quantile_ms(share).expect("not empty");
            assert!((least..=most).contains(&found), "{share}: {found}");
        };
        check(0.0, 0.001, 0.001);
        check(0.5, 0.5, 0.508);
        check(0.99, 0.99, 1.0);
        check(1.0, 1.0, 1.0);
        assert_eq!(histogram.largest_ms(), Some(1.0));
        assert_eq!(of([]).quantile_ms(0.5), None);
        assert_eq!(of([]).largest_ms(), None);
        assert_eq!(of([]).deviation_ms(), None);
    }

    #[test]
    fn merged_histograms_are_those_of_all_values() {
        let mut merged = of([5, 90_000]);
        merged.merge(&of([7, 7, 2_000_000]));
        let whole = of([5, 90_000, 7, 7, 2_000_000]);
        assert_eq!(merged.counts, whole.counts);
        assert_eq!((merged.total(), merged.largest_ms()), (5, Some(2_000.0)));
        assert_eq!(merged.quantile_ms(0.5), Some(0.007));
    }

    #[test]
    fn the_deviation_is_that_of_the_values() {
        let found = of([2_000, 4_000, 4_000, 4_000, 5_000, 5_000, 7_000, 9_000]).deviation_ms().expect("not empty");
        assert!((found - 2.0).abs() < 1e-9, "{found}");
    }
}
