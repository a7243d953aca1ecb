//! How old this node's applied state may be: the time since a leader said how far the log was committed, and all of
//! that had been applied here.
//!
//! The leader's word and the applied index arrive one after the other, so a few words wait until the state has reached
//! them. The age counts from when the word arrived; the way from the leader is not known and not counted.
//!
//! Always holds: a leader's word counts only when an entry of its own term is committed. Until then it does not know
//! how far those before it had come, and may miss what was acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use crate::raft::{LogId, term_of};

/// Words that wait; a follower that is behind by more keeps the older ones, which are reached first.
const WAITING_MAX: usize = 64;

/// What was heard and what of it is reached.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Committed index and when it was heard, oldest first.
    waiting: VecDeque<(u64, Duration)>,
    /// When the last word was heard that the state has reached.
    reached: Option<Duration>,
}

/// Up to where all is known, from what the leader of this term has committed: nothing, while that is of an earlier one.
pub(crate) fn known_by_leader(term: u64, committed: Option<&LogId>) -> Option<u64> {
    committed.filter(|id| term_of(id) == term).map(|id| id.index)
}

// === impl Freshness ===

impl Freshness {
    /// A leader said at `now` that everything up to `committed` is committed.
    pub(crate) fn heard(&mut self, committed: u64, now: Duration) {
        if let Some((index, at)) = self.waiting.back_mut()
            && *index == committed
        {
            // The same word again: what reaches it is as young as the last time it was said.
            *at = now;
            return;
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((committed, now));
        }
    }

    /// How old a state that has applied everything up to `applied` is at most; `None`: no word was reached yet.
    pub(crate) fn age(&mut self, applied: u64, now: Duration) -> Option<Duration> {
        while let Some((_, at)) = self.waiting.front().filter(|(index, _)| *index <= applied).copied() {
            self.reached = Some(at);
            if self.waiting.len() == 1 {
                break; // Kept, so that the same word may become younger.
            }
            self.waiting.pop_front();
        }
        self.reached.map(|at| now.saturating_sub(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::log_id;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_leader_that_has_committed_nothing_of_its_own_term_knows_nothing() {
        for (term, committed, expected) in [(3, None, None), (3, Some((2, 9)), None), (3, Some((3, 10)), Some(10))] {
            let committed = committed.map(|(term, index)| log_id(term, index));
            assert_eq!(known_by_leader(term, committed.as_ref()), expected, "term {term}, {committed:?}");
        }
    }

    #[test]
    fn the_age_counts_from_the_last_word_that_was_reached() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.age(9, ms(5)), None, "nobody was heard");
        freshness.heard(10, ms(100));
        assert_eq!(freshness.age(9, ms(150)), None, "not reached");
        assert_eq!(freshness.age(10, ms(150)), Some(ms(50)));
        freshness.heard(10, ms(200));
        assert_eq!(freshness.age(10, ms(210)), Some(ms(10)), "said again");
        freshness.heard(12, ms(300));
        freshness.heard(15, ms(400));
        assert_eq!(freshness.age(11, ms(500)), Some(ms(300)), "behind: as old as the word before");
        assert_eq!(freshness.age(14, ms(500)), Some(ms(200)));
        assert_eq!(freshness.age(15, ms(500)), Some(ms(100)));
    }

    #[test]
    fn a_follower_far_behind_keeps_the_oldest_words_and_never_looks_younger_than_it_is() {
        let mut freshness = Freshness::default();
        for word in 0..500 {
            freshness.heard(word, ms(word));
        }
        assert_eq!(freshness.age(0, ms(1_000)), Some(ms(1_000)));
        assert_eq!(freshness.age(499, ms(1_000)), Some(ms(1_000 - WAITING_MAX as u64 + 1)));
    }
}
