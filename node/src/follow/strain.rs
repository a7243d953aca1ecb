//! Whether the cluster's log waits for its disk, so that files are written more slowly meanwhile.
//!
//! A node whose log cannot be synced in time loses elections and answers late, whatever else its disk does. One slow
//! sync is enough to give way; it takes a while without any to go on as before. Cannot fail.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use ollamax_metadata as metadata;
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

/// Looks until `stop`. Syncs that take longer than `slow` are slow; none is where that is zero.
pub(crate) async fn follow(
    metadata: metadata::Handle,
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
        let is_strained = gauge.look(Instant::now(), metadata.slowest_sync());
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
    use super::*;

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
