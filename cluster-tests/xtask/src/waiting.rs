//! The one place of this program that reads a clock and that waits.
//!
//! There is no tokio here: a program that must compile in seconds measures with the standard clock and polls.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Measures from its making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

// === impl Stopwatch ===

impl Stopwatch {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "the one place that measures; there is no tokio in this program")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Looks again and again until `look` finds something; `what` says what was awaited when the time is over. An error of
/// `look` counts as "not yet" and is told at the end.
pub(crate) fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let watch = Stopwatch::start();
    loop {
        let found = look();
        if let Ok(Some(found)) = found {
            return Ok(found);
        }
        if watch.elapsed() >= limit {
            let late = format!("waited {} for {what}", seconds(limit));
            return match found {
                Err(problem) => Err(problem).context(late),
                _ => bail!(late),
            };
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "polls a condition of other processes, with a limit")]
fn pause() {
    std::thread::sleep(POLL_INTERVAL);
}

/// A duration for people: `0.25 s`, `12.3 s`, `4 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    match whole {
        0..10 => format!("{:.2} s", duration.as_secs_f64()),
        10..120 => format!("{:.1} s", duration.as_secs_f64()),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let check = |millis, expected: &str| assert_eq!(seconds(Duration::from_millis(millis)), expected);
        check(0, "0.00 s");
        check(250, "0.25 s");
        check(12_340, "12.3 s");
        check(245_000, "4 min 05 s");
    }

    #[test]
    fn a_wait_ends_with_what_was_found_or_says_what_was_missing() {
        let mut left = 2;
        let found = until("the third look", Duration::from_secs(60), || {
            left -= 1;
            Ok((left < 0).then_some("here"))
        });
        assert_eq!(found.expect("found"), "here");
        let late = until::<()>("nothing", Duration::ZERO, || Ok(None)).expect_err("never found");
        assert_eq!(late.to_string(), "waited 0.00 s for nothing");
        let broken = until::<()>("an answer", Duration::ZERO, || bail!("refused")).expect_err("never found");
        assert_eq!(format!("{broken:#}"), "waited 0.00 s for an answer: refused");
    }
}
