//! The loops that keep a member in step: with the catalog, with its runtime, with its machine, with its wishes,
//! with its history.
//!
//! Each loop awaits a change, decides with a pure function, and performs. None of them fails the node: what cannot
//! be done now is tried again at the next change or tick.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use ollamax_core::catalog::Command;
use ollamax_metadata as metadata;
use ollamax_metadata::{Committed, ProposeError};
use ollamax_types::RequestId;

pub(crate) mod ballast;
pub(crate) mod carried_out;
pub(crate) mod drops;
pub(crate) mod gpus;
pub(crate) mod labels;
pub(crate) mod lifecycle;
pub(crate) mod machine;
pub(crate) mod members;
pub(crate) mod models;
pub(crate) mod presence;
pub(crate) mod standing;
pub(crate) mod state_keys;
pub(crate) mod strain;
pub(crate) mod tasks;
pub(crate) mod uses;
pub(crate) mod versions;
pub(crate) mod wishes;

/// Least time between two looks at all wishes, whatever changes.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Wishes grow in number: looking at them takes no more than one part of so many of the time.
const LOOK_SHARE: u32 = 10;

/// The time between a look at all wishes that took so long and the next one.
pub(crate) fn pause_after(took: Duration) -> Duration {
    LOOK_AGAIN_AFTER.max(took.saturating_mul(LOOK_SHARE - 1))
}

/// Waits for the next look: for the pause after the last one, and then for a change or the rest of the interval. What
/// changes from then on ends the next wait. Whether anything can change any more.
pub(crate) async fn next_look(changes: &mut watch::Receiver<u64>, pause: Duration, interval: Duration) -> bool {
    sleep(pause).await;
    let is_open = tokio::select! {
        changed = changes.changed() => changed.is_ok(),
        () = sleep(interval.saturating_sub(pause)) => true,
    };
    changes.borrow_and_update();
    is_open
}

/// Makes one change as the leader of this term. It is refused where another one leads by then.
pub(crate) async fn change_in_term(
    metadata: &metadata::Handle,
    request: RequestId,
    principal: &str,
    command: Command,
    term: u64,
) -> Result<Committed, ProposeError> {
    let change = metadata::Change::new(request, principal, command);
    let change = metadata::Change { fence_term: Some(term), ..change };
    metadata.propose_change(change).await.and_then(Committed::accepted)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_look_comes_with_a_change_after_its_pause_and_else_after_the_interval() {
        let (state, mut changes) = watch::channel(0);
        let mut check = async |pause_ms: u64, expected_ms: u64, what: &str| {
            let began = Instant::now();
            assert!(next_look(&mut changes, Duration::from_millis(pause_ms), Duration::from_secs(1)).await, "{what}");
            let (waited, expected) = (began.elapsed(), Duration::from_millis(expected_ms));
            assert!(waited >= expected && waited < expected + Duration::from_millis(10), "{what}: {waited:?}");
        };
        check(100, 1_000, "nothing changes").await;
        state.send_replace(1);
        check(100, 100, "something has changed").await;
        check(1_800, 1_800, "the pause is longer than the interval").await;
        drop(state);
        assert!(!next_look(&mut changes, Duration::ZERO, Duration::from_secs(1)).await, "the node stops");
    }

    #[test]
    fn looking_takes_a_tenth_of_the_time_at_most() {
        for (took_ms, pause_ms) in [(0, 100), (11, 100), (12, 108), (100, 900), (1_000, 9_000)] {
            let pause = pause_after(Duration::from_millis(took_ms));
            assert_eq!(pause, Duration::from_millis(pause_ms), "{took_ms} ms");
        }
    }
}
