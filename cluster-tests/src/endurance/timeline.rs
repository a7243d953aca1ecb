//! What all clients and the killer share: when somebody was killed, when a request last succeeded, and how many did.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{DISTURBED, Victim};

/// From a kill to the next: the longest time in which nothing succeeded, begun no earlier than the kill.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Silences {
    last: Duration,
    /// Since the last kill; `None`: nobody was killed yet.
    longest: Option<Duration>,
    ended: Vec<Duration>,
}

// === impl Silences ===

impl Silences {
    fn kill(&mut self, at: Duration) {
        let ended = self.until(at);
        self.ended.extend(ended);
        self.longest = Some(Duration::ZERO);
        self.last = at;
    }

    fn success(&mut self, at: Duration) {
        self.longest = self.until(at);
        self.last = self.last.max(at);
    }

    /// The longest, if something succeeds now.
    fn until(&self, at: Duration) -> Option<Duration> {
        self.longest.map(|longest| longest.max(at.saturating_sub(self.last)))
    }
}

/// What has happened so far.
#[derive(Debug, Clone, Default)]
struct Happened {
    kills: Vec<(Duration, Victim)>,
    silences: Silences,
    counts: Counts,
}

/// How many requests have ended, and how many of them badly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ended: u64,
    pub(crate) failed: u64,
    pub(crate) kills: usize,
}

/// The clock of a run and its events.
#[derive(Debug)]
pub(crate) struct Timeline {
    begin: Instant,
    happened: Mutex<Happened>,
}

/// The kills of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kills {
    pub(crate) leaders: usize,
    pub(crate) followers: usize,
    /// After each, the longest time without a success.
    pub(crate) silences: Vec<Duration>,
}

// === impl Timeline ===

impl Timeline {
    pub(crate) fn begin() -> Self {
        Self { begin: Instant::now(), happened: Mutex::default() }
    }

    /// The moment from which everything counts.
    pub(crate) const fn start(&self) -> Instant {
        self.begin
    }

    /// Somebody is killed now.
    pub(crate) fn kill(&self, victim: Victim) {
        let at = self.begin.elapsed();
        let mut happened = self.happened();
        happened.kills.push((at, victim));
        happened.counts.kills += 1;
        happened.silences.kill(at);
    }

    /// A request ended now.
    pub(crate) fn ended(&self, succeeded: bool) {
        let at = self.begin.elapsed();
        let mut happened = self.happened();
        happened.counts.ended += 1;
        if succeeded {
            happened.silences.success(at);
        } else {
            happened.counts.failed += 1;
        }
    }

    /// Whether nobody was killed shortly before this moment, as far as is known by now.
    pub(crate) fn is_undisturbed(&self, due: Instant) -> bool {
        is_undisturbed(&self.happened().kills, due.saturating_duration_since(self.begin))
    }

    pub(crate) fn counts(&self) -> Counts {
        self.happened().counts
    }

    /// All kills; the last silence ends now.
    pub(crate) fn kills(&self) -> Kills {
        let happened = self.happened();
        let of = |victim: Victim| happened.kills.iter().filter(|(_, killed)| *killed == victim).count();
        let last = happened.silences.until(self.begin.elapsed());
        let silences = happened.silences.ended.iter().copied().chain(last).collect();
        Kills { leaders: of(Victim::Leader), followers: of(Victim::Follower), silences }
    }

    /// A poisoned lock means that a client panicked while it held it; what it guards is still whole.
    fn happened(&self) -> MutexGuard<'_, Happened> {
        self.happened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_undisturbed(kills: &[(Duration, Victim)], due: Duration) -> bool {
    // The newest stands last. One after the request was due fell into it.
    kills.last().is_none_or(|(at, _)| *at + DISTURBED <= due)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_silence_is_the_longest_time_without_a_success_since_the_kill() {
        let mut silences = Silences::default();
        silences.success(ms(100));
        assert_eq!(silences.until(ms(9_000)), None, "nobody was killed");
        silences.kill(ms(1_000));
        // What was silent before the kill does not count; what was answered before is told late.
        for at in [1_010, 1_005, 2_400, 2_500, 2_900] {
            silences.success(ms(at));
        }
        assert_eq!(silences.until(ms(2_950)), Some(ms(1_390)));
        silences.kill(ms(5_000));
        assert_eq!(silences.ended, [ms(2_100)], "the time up to the next kill counts too");
        assert_eq!(silences.until(ms(5_400)), Some(ms(400)), "and so does that which has not ended");
    }

    #[test]
    fn a_request_that_a_kill_fell_into_or_that_was_due_within_three_seconds_after_is_disturbed() {
        let kills = [(ms(10_000), Victim::Leader), (ms(20_000), Victim::Follower)];
        // The kills that are known when the request has ended.
        let check = |known: usize, dues: &[u64], expected: &[bool]| {
            let found: Vec<bool> = dues.iter().map(|due| is_undisturbed(&kills[..known], ms(*due))).collect();
            assert_eq!(found, expected, "{known}: {dues:?}");
        };
        check(0, &[0, 9_999], &[true, true]);
        check(1, &[9_999, 10_000, 12_999, 13_000], &[false, false, false, true]);
        check(2, &[19_999, 22_999, 23_000], &[false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_that_happens_is_counted() {
        let timeline = Timeline::begin();
        timeline.ended(true);
        for victim in [Victim::Leader, Victim::Follower, Victim::Leader] {
            tokio::time::advance(ms(1_000)).await;
            timeline.kill(victim);
            tokio::time::advance(ms(300)).await;
            timeline.ended(false);
            timeline.ended(true);
        }
        assert_eq!(timeline.counts(), Counts { ended: 7, failed: 3, kills: 3 });
        let silences = vec![ms(1_000), ms(1_000), ms(300)];
        assert_eq!(timeline.kills(), Kills { leaders: 2, followers: 1, silences });
        // The last kill came after 3,600 ms.
        assert!(timeline.is_undisturbed(timeline.start() + ms(6_600)));
        assert!(!timeline.is_undisturbed(timeline.start() + ms(6_500)));
    }
}
