//! How often a caller may call a tool, and how many of these calls may run at once: a bucket that fills with time and
//! a number of places, for each caller and tool.
//!
//! What a bucket decides is plain arithmetic over the moment that it is given. Buckets that are full again say nothing
//! and are thrown away when room is needed; where there is no room even then, the call is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::principal::Subject;

/// Calls of one tool by one caller that run at once.
pub(crate) const AT_ONCE_MAX: usize = 256;
/// Buckets that are kept.
const BUCKETS_MAX: usize = 4_096;
const MINUTE_MS: u64 = 60_000;

/// What a caller has left of a tool. A call costs a minute; a minute brings as many minutes as calls are allowed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    left_ms: u64,
    per_minute: u32,
    at: Instant,
}

/// The buckets of all callers.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<(Subject, &'static str), Bucket>>);

/// How many calls of whom run now. Clones are the same places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<BTreeMap<(Subject, &'static str), usize>>>);

/// The place of one call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    all: Places,
    key: (Subject, &'static str),
}

// === impl Bucket ===

impl Bucket {
    fn full(per_minute: u32, now: Instant) -> Self {
        Self { left_ms: u64::from(per_minute) * MINUTE_MS, per_minute, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let brought = passed_ms.saturating_mul(u64::from(self.per_minute));
        self.left_ms = self.left_ms.saturating_add(brought).min(u64::from(self.per_minute) * MINUTE_MS);
        self.at = now;
    }

    fn is_full(&self) -> bool {
        self.left_ms >= u64::from(self.per_minute) * MINUTE_MS
    }

    /// Takes one call, or says after how long there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        match self.left_ms.checked_sub(MINUTE_MS) {
            Some(left) => {
                self.left_ms = left;
                Ok(())
            }
            None => {
                let missing = MINUTE_MS - self.left_ms;
                Err(Duration::from_millis(missing.div_ceil(u64::from(self.per_minute.max(1)))))
            }
        }
    }
}

// === impl Rates ===

impl Rates {
    /// Takes one call of a tool, or says after how long it may be tried again.
    pub(crate) fn take(
        &self,
        subject: &Subject,
        tool: &'static str,
        per_minute: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (subject.clone(), tool);
        if !buckets.contains_key(&key) && buckets.len() >= BUCKETS_MAX {
            buckets.retain(|_, bucket| {
                bucket.fill(now);
                !bucket.is_full()
            });
            if buckets.len() >= BUCKETS_MAX {
                return Err(Duration::from_millis(MINUTE_MS));
            }
        }
        buckets.entry(key).or_insert_with(|| Bucket::full(per_minute, now)).take(now)
    }
}

// === impl Places ===

impl Places {
    /// A place for a call; `None`: as many of this caller and tool run as may.
    pub(crate) fn take(&self, subject: &Subject, tool: &'static str) -> Option<Place> {
        let key = (subject.clone(), tool);
        let mut taken = self.locked();
        let count = taken.entry(key.clone()).or_default();
        if *count >= AT_ONCE_MAX {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Place { all: self.clone(), key })
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<(Subject, &'static str), usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.all.locked();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minutes_calls_may_come_at_once_and_then_one_by_one() {
        let (rates, start) = (Rates::default(), Instant::now());
        let take = |after_ms: u64| {
            rates
                .take(&Subject::Loopback, "t", 60, start + Duration::from_millis(after_ms))
                .map_err(|wait| wait.as_millis())
        };
        for _ in 0..60 {
            assert_eq!(take(0), Ok(()));
        }
        assert_eq!(take(0), Err(1_000));
        assert_eq!(take(400), Err(600));
        assert_eq!(take(1_000), Ok(()));
        assert_eq!(take(1_000), Err(1_000));
        // However long nobody calls, a minute's calls are there and no more.
        for _ in 0..60 {
            assert_eq!(take(3_600_000), Ok(()));
        }
        assert_eq!(take(3_600_000), Err(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_and_tools_do_not_take_from_each_other() {
        let (rates, now) = (Rates::default(), Instant::now());
        assert_eq!(rates.take(&Subject::Uid(1), "t", 1, now), Ok(()));
        assert!(rates.take(&Subject::Uid(1), "t", 1, now).is_err());
        assert_eq!(rates.take(&Subject::Uid(2), "t", 1, now), Ok(()));
        assert_eq!(rates.take(&Subject::Uid(1), "u", 1, now), Ok(()));
    }

    #[test]
    fn places_are_given_back_and_nothing_is_kept_of_who_has_none() {
        let places = Places::default();
        let mut taken: Vec<Place> = (0..AT_ONCE_MAX).filter_map(|_| places.take(&Subject::Loopback, "t")).collect();
        assert_eq!(taken.len(), AT_ONCE_MAX);
        let is_free = |subject: Subject, tool| places.take(&subject, tool).is_some();
        assert!(!is_free(Subject::Loopback, "t") && is_free(Subject::Loopback, "u") && is_free(Subject::Uid(1), "t"));
        taken.pop();
        assert!(is_free(Subject::Loopback, "t"));
        drop(taken);
        assert!(places.locked().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_are_bounded_and_those_that_are_full_again_make_room() {
        let (rates, now) = (Rates::default(), Instant::now());
        for uid in 0..BUCKETS_MAX {
            let uid = u32::try_from(uid).expect("small");
            assert_eq!(rates.take(&Subject::Uid(uid), "t", 1, now), Ok(()));
        }
        assert!(rates.take(&Subject::Loopback, "t", 1, now).is_err());
        assert_eq!(rates.take(&Subject::Loopback, "t", 1, now + Duration::from_millis(MINUTE_MS)), Ok(()));
        assert_eq!(rates.0.lock().expect("not poisoned").len(), 1);
    }
}
