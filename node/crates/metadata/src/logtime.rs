//! Log time: the time that the replicated state knows.
//!
//! It never goes back, moves with the leaders' monotonic clocks, and is drawn towards wall time by a bounded slew: a
//! clock that is wrong by a year moves it by seconds per second at most, so it cannot expire the world. The first
//! entry of a cluster takes wall time. While no leader runs it goes on: the next one counts from the last entry that it
//! saw, by its own monotonic clock.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use ollamax_types::{Clock, Timestamp};

/// Milliseconds that log time may gain on the monotonic clock per millisecond.
const SLEW_FORWARD: u64 = 1;
/// It may lose one millisecond per this many.
const SLEW_BACK_DIVISOR: u64 = 2;

/// The pure part: what was seen last, and when on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogTime {
    last: Option<(Timestamp, Duration)>,
}

impl LogTime {
    /// The stamp of the next entry: last value plus monotonic elapsed time, slewed towards wall time.
    pub(crate) fn stamp(&mut self, now: Duration, wall: Timestamp) -> Timestamp {
        let Some((last, at)) = self.last else {
            self.last = Some((wall, now));
            return wall;
        };
        let elapsed = u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX);
        let even = last.plus_ms(elapsed);
        let stamp = if wall > even {
            even.plus_ms(wall.ms_since(even).min(elapsed.saturating_mul(SLEW_FORWARD)))
        } else {
            let back = even.ms_since(wall).min(elapsed / SLEW_BACK_DIVISOR);
            Timestamp(even.0.saturating_sub(back)).max(last)
        };
        // Only whole milliseconds are used up, so that many stamps within one do not stop the clock.
        self.last = Some((stamp, at.saturating_add(Duration::from_millis(elapsed))));
        stamp
    }

    /// An entry of another leader, or of our own past, was written to our log.
    pub(crate) fn observe(&mut self, seen: Timestamp, now: Duration) {
        if self.last.is_none_or(|(last, _)| seen > last) {
            self.last = Some((seen, now));
        }
    }
}

/// The shared part: one per node, fed by the log and asked by the leader.
#[derive(Debug)]
pub(crate) struct Stamper {
    time: Mutex<LogTime>,
    start: Instant,
    wall: Clock,
}

impl Stamper {
    pub(crate) fn new(wall: Clock) -> Self {
        Self { time: Mutex::default(), start: Instant::now(), wall }
    }

    pub(crate) fn stamp(&self) -> Timestamp {
        let (now, wall) = (self.start.elapsed(), self.wall.now());
        self.time.lock().expect("no holder of this lock can panic").stamp(now, wall)
    }

    /// What the next stamp would be. Takes none.
    pub(crate) fn peek(&self) -> Timestamp {
        let (now, wall) = (self.start.elapsed(), self.wall.now());
        let mut copy = *self.time.lock().expect("no holder of this lock can panic");
        copy.stamp(now, wall)
    }

    pub(crate) fn observe(&self, seen: Timestamp) {
        if seen.0 > 0 {
            self.time.lock().expect("no holder of this lock can panic").observe(seen, self.start.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn running(at: u64) -> LogTime {
        LogTime { last: Some((Timestamp(at), ms(0))) }
    }

    #[test]
    fn the_first_entry_takes_wall_time() {
        let mut time = LogTime::default();
        assert_eq!(time.stamp(ms(5), Timestamp(1_000_000)), Timestamp(1_000_000));
    }

    #[test]
    fn follows_the_monotonic_clock_when_wall_time_agrees() {
        let mut time = running(1_000);
        assert_eq!(time.stamp(ms(250), Timestamp(1_250)), Timestamp(1_250));
    }

    #[test]
    fn a_clock_an_hour_ahead_gains_one_second_per_second() {
        let mut time = running(1_000);
        assert_eq!(time.stamp(ms(1_000), Timestamp(3_600_000)), Timestamp(3_000));
    }

    #[test]
    fn a_clock_an_hour_behind_loses_half_a_second_per_second() {
        let mut time = running(10_000_000);
        assert_eq!(time.stamp(ms(1_000), Timestamp(6_400_000)), Timestamp(10_000_500));
    }

    #[test]
    fn many_stamps_within_a_millisecond_do_not_stop_it() {
        let mut time = running(0);
        for step in 1..=10_000 {
            time.stamp(Duration::from_micros(step * 100), Timestamp(step / 10));
        }
        assert_eq!(time.last.map(|(last, _)| last), Some(Timestamp(1_000)));
    }

    #[test]
    fn a_new_leader_goes_on_from_what_it_has_seen() {
        let mut time = LogTime::default();
        time.observe(Timestamp(50_000), ms(10));
        time.observe(Timestamp(40_000), ms(20));
        assert_eq!(time.stamp(ms(110), Timestamp(0)), Timestamp(50_050));
    }

    proptest! {
        #[test]
        fn never_goes_back_and_never_outruns_its_slew(
            steps in prop::collection::vec((0_u64..5_000, 0_u64..u64::MAX / 2), 1..50),
        ) {
            let mut time = LogTime::default();
            let mut now = 0;
            let mut previous: Option<(Timestamp, u64)> = None;
            for (elapsed, wall) in steps {
                now += elapsed;
                let stamp = time.stamp(ms(now), Timestamp(wall));
                if let Some((last, at)) = previous {
                    prop_assert!(stamp >= last);
                    prop_assert!(stamp.ms_since(last) <= 2 * (now - at));
                }
                previous = Some((stamp, now));
            }
        }
    }
}
