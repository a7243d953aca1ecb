//! When to look at the runtime's memory: each interval, and at once when a request of ours changed something there.
//!
//! Always: looks follow each other, never two at once; between two looks that requests asked for lies
//! [`ASKED_GAP`], however many requests there are. Asking is remembered, so the last change is always seen.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

/// Least rest between the end of a look that a request asked for and the next of that kind.
pub const ASKED_GAP: Duration = Duration::from_millis(250);

/// Says when the next look is due.
#[derive(Debug)]
pub(crate) struct Pace {
    ticks: Interval,
    rest_until: Instant,
    was_asked: bool,
}

// === impl Pace ===

impl Pace {
    /// The first look is due now.
    pub(crate) fn new(every: Duration) -> Self {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, rest_until: Instant::now(), was_asked: false }
    }

    /// Ends when the next look is due; called when the one before it has ended.
    pub(crate) async fn next(&mut self, asked: &Notify) {
        if self.was_asked {
            self.rest_until = Instant::now() + ASKED_GAP;
        }
        let rest_until = self.rest_until;
        let asked = async {
            sleep_until(rest_until).await;
            asked.notified().await;
        };
        self.was_asked = tokio::select! {
            _ = self.ticks.tick() => false,
            () = asked => true,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn unasked_it_looks_each_interval() {
        assert_eq!(looks(&[], 1, 3_500).await, [0, 1_000, 2_000, 3_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_followed_at_once_and_many_are_followed_by_few() {
        assert_eq!(looks(&[300], 1, 900).await, [0, 300]);
        assert_eq!(looks(&[10], 1, 900).await, [0, 10], "a look of the interval needs no rest behind it");
        let busy: Vec<u64> = (100..800).collect();
        assert_eq!(looks(&busy, 10, 990).await, [0, 100, 360, 620, 880], "the last one sees the end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_during_a_look_is_looked_at_after_it() {
        assert_eq!(looks(&[100, 150], 400, 990).await, [0, 400]);
        assert_eq!(looks(&[500, 600], 200, 990).await, [0, 500, 950]);
    }

    /// When the looks come, each of them `look_ms` long, while requests ask at these times.
    async fn looks(asked_at_ms: &[u64], look_ms: u64, until_ms: u64) -> Vec<u128> {
        let (asked, began) = (Notify::new(), Instant::now());
        let ms = Duration::from_millis;
        let mut seen = Vec::new();
        let looking = async {
            let mut pace = Pace::new(EVERY);
            loop {
                pace.next(&asked).await;
                seen.push(began.elapsed().as_millis());
                tokio::time::sleep(ms(look_ms)).await;
            }
        };
        let asking = async {
            for at in asked_at_ms {
                sleep_until(began + ms(*at)).await;
                asked.notify_one();
            }
            sleep_until(began + ms(until_ms)).await;
        };
        tokio::select! {
            () = looking => {}
            () = asking => {}
        }
        seen
    }
}
