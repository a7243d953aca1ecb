//! The scheduler's numbers.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_types::limits;

/// Numbers of admission, dispatch and liveness. Every default is what a lab needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Requests that one runner works on at once. The runtime must be set to at least as many. Set by the assembly from
    /// `runtime.parallel`.
    #[serde(skip)]
    pub parallel: u32,
    /// Requests that may wait for one runner; one more is answered `overloaded`. Since 0.1.
    pub queue_waiting_max: u32,
    /// Longest wait in the queue, milliseconds; then `overloaded`. Since 0.1.
    pub queue_wait_ms_max: u64,
    /// Most nodes that one request is tried on. Since 0.1.
    pub attempts_max: u32,
    /// A request that waits for the head from a node silent this long moves on, milliseconds. Since 0.1.
    pub abandon_silent_ms: u64,
    /// Silence after which a node is everybody's last choice, milliseconds. Since 0.1.
    pub suspect_after_ms: u64,
    /// Silence after which a node is counted as dead, milliseconds. Since 0.1.
    pub dead_after_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            parallel: 1,
            queue_waiting_max: 256,
            queue_wait_ms_max: 600_000,
            attempts_max: 8,
            abandon_silent_ms: 2_000,
            suspect_after_ms: millis(limits::SUSPECT_AFTER),
            dead_after_ms: millis(limits::DEAD_AFTER),
        }
    }
}

impl Config {
    /// Everything that is wrong, one sentence each; empty when nothing is.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let rows = [
            (self.parallel == 0 || self.parallel > 1_024, "parallel must be 1 to 1024"),
            (self.queue_waiting_max > 65_536, "queue_waiting_max must be at most 65536"),
            (self.queue_wait_ms_max == 0, "queue_wait_ms_max must be at least 1"),
            (self.attempts_max == 0 || self.attempts_max > 64, "attempts_max must be 1 to 64"),
            (
                self.suspect_after_ms <= millis(limits::BEAT_INTERVAL),
                "suspect_after_ms must be longer than the 250 ms between two beats",
            ),
            (self.abandon_silent_ms < self.suspect_after_ms, "abandon_silent_ms must be at least suspect_after_ms"),
            (self.dead_after_ms < self.abandon_silent_ms, "dead_after_ms must be at least abandon_silent_ms"),
        ];
        rows.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text.to_owned()).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_bad_number_is_named() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
        let bad = Config { parallel: 0, attempts_max: 0, suspect_after_ms: 100, ..Config::default() };
        let problems = bad.validate();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
