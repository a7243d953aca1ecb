//! Watchers of a simulated cluster: each looks at one node again and again, and when that one does not answer, goes on
//! at another, where it stopped. Where that is not kept any more it is told so, and begins with what is.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::facts::Facts;
use super::network::{Network, Question, Reply};
use super::types::Bug;
use crate::feed::Filter;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_millis(700);
/// Longest pause between two looks, milliseconds.
const PAUSE_MS_MAX: u64 = 40;

/// What all watchers share.
#[derive(Clone)]
pub(super) struct Watchers {
    pub(super) network: Network,
    pub(super) facts: Facts,
    pub(super) nodes: u64,
    pub(super) bug: Option<Bug>,
}

// === impl Watchers ===

impl Watchers {
    /// One watcher, until the world ends.
    pub(super) async fn run(self, id: u64, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed ^ (id + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let filter = filter_of(id);
        // Who never gets an answer is one that waits.
        self.facts.told(id, &filter, 1, 1, &[]);
        // Everything below `next` was told; `from` is what it asks for.
        let (mut node, mut next, mut from) = (1 + id % self.nodes, 1, Some(1));
        loop {
            tokio::time::sleep(Duration::from_millis(chance.random_range(0..=PAUSE_MS_MAX))).await;
            match self.network.ask(node, Question::Watch(filter.clone(), from), ANSWER).await {
                Some(Reply::Told(events, upto)) => {
                    self.facts.told(id, &filter, next, upto, &events);
                    (next, from) = (upto, Some(upto));
                }
                Some(Reply::Compacted(oldest)) => {
                    self.facts.compacted(id, next, oldest);
                    (next, from) = (oldest, Some(oldest));
                }
                _ => {
                    node = chance.random_range(1..=self.nodes);
                    if self.bug == Some(Bug::ResumeFromNow) {
                        from = None;
                    }
                }
            }
        }
    }
}

/// All values, or one.
fn filter_of(id: u64) -> Filter {
    let prefix = id.is_multiple_of(2);
    let key = if prefix { "user/" } else { "user/k1" };
    Filter { namespace: String::new(), key: key.to_owned(), prefix }
}
