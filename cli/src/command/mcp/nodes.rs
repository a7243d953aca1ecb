//! The nodes that may be asked, in the order in which they were named, and what is remembered of how each did.
//!
//! A node that failed rests, longer each time, and is asked after the others meanwhile: it is never given up, since it
//! may be the last one, or back. One that hangs rests for much longer than it takes to find that out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a node rests after it failed once; twice as long each time.
const REST_MIN: Duration = Duration::from_millis(250);
/// How long a node rests at most.
const REST_MAX: Duration = Duration::from_secs(10);
/// How long one rests that takes connections and answers nothing.
const REST_OF_HUNG: Duration = Duration::from_secs(20);

/// How a node did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Health {
    /// Since it last answered.
    failures: u32,
    rests_until: Option<Instant>,
}

/// What is remembered of all nodes.
#[derive(Debug)]
pub(crate) struct Nodes(Mutex<Vec<Health>>);

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(count: usize) -> Self {
        Self(Mutex::new(vec![Health::default(); count]))
    }

    /// The next node for a request, of those that may be asked.
    pub(crate) fn choose(&self, may_ask: impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        let health = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        order(&health, now).into_iter().find(|node| may_ask(*node))
    }

    /// A node answered; whether it had failed before.
    pub(crate) fn answered(&self, node: usize) -> bool {
        self.with(node, |health| std::mem::take(health).failures > 0)
    }

    /// A node failed; whether it had answered before, or was never asked.
    pub(crate) fn failed(&self, node: usize, now: Instant) -> bool {
        self.with(node, |health| {
            let rest = REST_MIN.saturating_mul(1 << health.failures.min(8)).min(REST_MAX);
            let was_well = health.failures == 0;
            *health = Health { failures: health.failures.saturating_add(1), rests_until: Some(now + rest) };
            was_well
        })
    }

    /// A node hangs, or is another way to one that does.
    pub(crate) fn hangs(&self, node: usize, now: Instant) {
        self.with(node, |health| health.rests_until.replace(now + REST_OF_HUNG).is_some());
    }

    fn with(&self, node: usize, change: impl FnOnce(&mut Health) -> bool) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(node).is_some_and(change)
    }
}

/// All nodes: those that are well as they were named, and among them the first of those that have rested; then the
/// others of these, by who failed least, so that no request spends its time on many that are dead; then those that
/// rest, by who has rested first.
fn order(health: &[Health], now: Instant) -> Vec<usize> {
    let rests = |health: &Health| health.rests_until.filter(|until| *until > now);
    let first = health.iter().position(|health| health.failures > 0 && rests(health).is_none());
    let place = |node: usize, health: &Health| match rests(health) {
        Some(until) => (2, 0, Some(until)),
        None if health.failures == 0 || first == Some(node) => (0, 0, None),
        None => (1, health.failures, None),
    };
    let mut nodes: Vec<usize> = (0..health.len()).collect();
    nodes.sort_by_key(|node| health.get(*node).map(|health| place(*node, health)));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_rests_is_asked_after_the_others_and_never_left_out() {
        let now = Instant::now();
        let check = |rests_ms: [Option<u64>; 4], expected: [usize; 4]| {
            let health = rests_ms.map(|rest| {
                let rests_until = rest.map(|rest| now + Duration::from_millis(rest));
                Health { failures: u32::from(rest.is_some()), rests_until }
            });
            assert_eq!(order(&health, now), expected, "{rests_ms:?}");
        };
        check([None; 4], [0, 1, 2, 3]);
        check([Some(5), None, None, None], [1, 2, 3, 0]);
        check([Some(9), None, Some(5), None], [1, 3, 2, 0]);
        check([Some(9), Some(7), Some(5), Some(3)], [3, 2, 1, 0]);
        // Whose rest is over is as good as the others.
        check([Some(0), None, Some(5), None], [0, 1, 3, 2]);
        check([None, Some(0), None, Some(5)], [0, 1, 2, 3]);
        // Of several such one is asked before those that are well.
        check([Some(0), Some(0), Some(0), None], [0, 3, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_rests_longer_each_time_until_it_answers() {
        let (nodes, now) = (Nodes::new(2), Instant::now());
        let is_first = |after_ms: u64| nodes.choose(|_| true, now + Duration::from_millis(after_ms)) == Some(0);
        assert!(is_first(0) && nodes.failed(0, now));
        assert!(!is_first(249) && is_first(250));
        assert!(!nodes.failed(0, now));
        assert!(!is_first(499) && is_first(500));
        for _ in 0..100 {
            nodes.failed(0, now);
        }
        assert!(!is_first(9_999) && is_first(10_000));
        assert!(nodes.answered(0) && !nodes.answered(0) && is_first(0));
        assert_eq!(nodes.choose(|node| node != 0, now), Some(1));
        assert_eq!(nodes.choose(|_| false, now), None);
        assert!(!nodes.failed(9, now) && !nodes.answered(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_hangs_rests_for_long_whether_it_was_asked_or_is_another_way_to_it() {
        let now = Instant::now();
        let check = |is_asked: bool| {
            let nodes = Nodes::new(2);
            if is_asked {
                nodes.failed(0, now);
            }
            nodes.hangs(0, now);
            let first = |after_ms: u64| nodes.choose(|_| true, now + Duration::from_millis(after_ms));
            assert_eq!((first(19_999), first(20_000)), (Some(1), Some(0)), "{is_asked}");
            // Only of one that was asked is it told that it answers again.
            assert_eq!(nodes.answered(0), is_asked);
            assert_eq!(first(0), Some(0), "{is_asked}");
        };
        check(true);
        check(false);
    }
}
