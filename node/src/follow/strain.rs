//! Whether the cluster's log waits for its disk, so that files are written more slowly meanwhile.
//!
//! A node whose log cannot be synced in time loses elections and answers late, whatever else its disk does. One slow
//! sync is enough to give way; it takes a while without any to go on as before. Cannot fail.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use ollamax_transfer as transfer;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long no sync may be slow before it is over.
const CALM_FOR: Duration = Duration::from_secs(2);

/// What is made of the looks.
#[derive(Debug)]
struct Gauge {
    slow: Duration,
    /// When a sync was last slow.
    strained_at: Option<Instant>,
}

/// Looks until `stop`. `slowest` says how long the slowest sync since the last look took. Syncs that take longer than
/// `slow` are slow; none is where that is zero.
pub(crate) async fn follow(
    slowest: impl Fn() -> Option<Duration> + Send,
    slow: Duration,
    strain: watch::Sender<bool>,
    metrics: transfer::Metrics,
    stop: CancellationToken,
) {
    if slow.is_zero() {
        return;
    }
    let mut gauge = Gauge { slow, strained_at: None };
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(looks.tick()).await.is_some() {
        let is_strained = gauge.look(Instant::now(), slowest());
        let has_changed = strain.send_if_modified(|before| std::mem::replace(before, is_strained) != is_strained);
        if has_changed {
            metrics.show_strained(is_strained);
            tracing::debug!(is_strained, "whether the cluster's log waits for its disk has changed");
        }
    }
}

// === impl Gauge ===

impl Gauge {
    fn look(&mut self, now: Instant, slowest: Option<Duration>) -> bool {
        if slowest.is_some_and(|slowest| slowest > self.slow) {
            self.strained_at = Some(now);
        }
        self.strained_at = self.strained_at.filter(|at| now.saturating_duration_since(*at) < CALM_FOR);
        self.strained_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::*;

    const SLOW: Duration = Duration::from_millis(50);

    /// A disk whose clock stands; what its slowest sync took is taken from it once, as from the store.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<Option<Duration>>>);

    impl Disk {
        fn syncs(&self, took: Duration) {
            *self.0.lock().expect("nobody panics") = Some(took);
        }

        fn slowest(&self) -> Option<Duration> {
            self.0.lock().expect("nobody panics").take()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sync_is_told_at_the_next_look_and_that_it_is_over_when_it_was_calm() {
        let (disk, stop, strain) = (Disk::default(), CancellationToken::new(), watch::Sender::new(false));
        let (asked, mut told) = (disk.clone(), strain.subscribe());
        let work = follow(move || asked.slowest(), SLOW, strain, transfer::Metrics::default(), stop.clone());
        let looking = async {
            disk.syncs(SLOW);
            sleep(2 * LOOK_INTERVAL).await;
            assert!(!*told.borrow_and_update(), "it was in time");

            let begun = Instant::now();
            disk.syncs(SLOW + Duration::from_millis(1));
            told.wait_for(|is_strained| *is_strained).await.expect("it looks");
            let looked = begun.elapsed();
            assert!(looked <= 2 * LOOK_INTERVAL, "{looked:?}");
            told.wait_for(|is_strained| !is_strained).await.expect("it looks");
            let calm = begun.elapsed() - looked;
            assert!((CALM_FOR..=CALM_FOR + 2 * LOOK_INTERVAL).contains(&calm), "{calm:?}");
            stop.cancel();
        };
        tokio::join!(work, looking);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_where_no_sync_is_slow() {
        let strain = watch::Sender::new(false);
        let (told, stop) = (strain.subscribe(), CancellationToken::new());
        let hour = Duration::from_secs(3_600);
        follow(|| Some(hour), Duration::ZERO, strain, transfer::Metrics::default(), stop).await;
        assert!(!*told.borrow());
    }

    #[test]
    fn one_slow_sync_is_enough_and_two_calm_seconds_end_it() {
        let mut gauge = Gauge { slow: Duration::from_millis(50), strained_at: None };
        let began = Instant::now();
        let mut check = |ms: u64, slowest_ms: Option<u64>, expected: bool| {
            let now = began + Duration::from_millis(ms);
            assert_eq!(gauge.look(now, slowest_ms.map(Duration::from_millis)), expected, "at {ms} ms");
        };
        check(0, None, false);
        check(250, Some(50), false);
        check(500, Some(51), true);
        check(750, None, true);
        check(2_499, Some(3), true);
        check(2_500, Some(3), false);
        check(2_750, Some(4_000), true);
        check(4_500, Some(60), true);
        check(6_499, None, true);
        check(6_500, None, false);
    }
}
