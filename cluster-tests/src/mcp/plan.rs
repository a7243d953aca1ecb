//! How much of everything is asked: all of it is bounded, and chance comes from one seed.

use std::time::Duration;

/// Nodes of the cluster.
pub(super) const NODES: usize = 3;
/// Clients at once that ask for the list of tools: one by itself, as many as a lab has people, and a crowd.
pub(super) const LISTING: [usize; 3] = [1, 64, CROWD];
/// Clients at once that must all be served.
pub(super) const CROWD: usize = 1_000;
/// Calls of one tool that a node lets a caller have at once; further ones come ten a second.
pub(super) const CALLS: usize = 600;
/// Clients at once that call.
pub(super) const CALLING: usize = 16;
/// From one kill of the leader to the next.
pub(super) const KILL_EVERY: Duration = Duration::from_secs(5);
/// From one write under kills to the next: as fast as two nodes let one caller go on for long.
pub(super) const WRITE_EVERY: Duration = Duration::from_millis(100);
/// Of so many writes, the last two are sent once more.
pub(super) const REPEAT_EACH: usize = 10;

/// How much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Times that everything is measured, each in a cluster of its own.
    pub(crate) runs: usize,
    /// From what all chance is drawn.
    pub(crate) seed: u64,
    /// Measured time of one point of lists.
    pub(crate) time: Duration,
    /// Writes through a follower whose latency is measured, with as many plain ones beside them; an even number.
    pub(crate) forwarded: usize,
    /// Clients of the handshake that come and go.
    pub(crate) greeted: usize,
    /// Writes while the leader is killed; an even number.
    pub(crate) writes: usize,
}

// === impl Plan ===

impl Plan {
    /// The numbers that are promised, or a short form to look at.
    pub(crate) const fn of(runs: usize, seed: u64, is_quick: bool) -> Self {
        let (seconds, forwarded, greeted, writes) =
            if is_quick { (2, 100, 2_000, 200) } else { (10, 400, 10_000, 1_000) };
        Self { runs, seed, time: Duration::from_secs(seconds), forwarded, greeted, writes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_measured_unless_a_short_form_is_asked_for() {
        let (whole, short) = (Plan::of(1, 7, false), Plan::of(2, 7, true));
        assert_eq!((whole.greeted, whole.writes, whole.runs), (10_000, 1_000, 1));
        assert_eq!((short.greeted, short.writes, short.runs), (2_000, 200, 2));
        for plan in [whole, short] {
            // A model that is pinned and let go in turns ends as it began.
            assert!(plan.forwarded.is_multiple_of(2) && plan.writes.is_multiple_of(2), "{plan:?}");
            // Both go through the same caller's bound of one tool.
            assert!(plan.forwarded < CALLS, "{plan:?}");
            // Somebody is killed while writes are on their way.
            let writes = WRITE_EVERY * u32::try_from(plan.writes).expect("few");
            assert!(writes >= KILL_EVERY * 2, "{plan:?}");
        }
    }
}
