//! The keys that seal what a client carries from one round of a call to the next, the same ones at every node.
//!
//! Always holds: a key is on record for `STATE_KEY_EVERY` before it seals anything, the first one alone excepted, so
//! that every node knows it by then; and it is there for as long behind its last state, so that no state outlives its
//! key. The bytes are secret: nothing prints them.

use ollamax_types::limits::{STATE_KEY_EVERY, STATE_KEYS_MAX};
use ollamax_types::{SecretKey, Timestamp};

/// The keys, the oldest first; at most `STATE_KEYS_MAX`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateKeys {
    /// The last one is the next to seal; where there are others, the one before it seals.
    pub keys: Vec<StateKey>,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateKey {
    /// Index of the entry that brought it. Names it for ever.
    pub number: u64,
    /// Its bytes.
    pub secret: SecretKey,
    /// Log time at which it came.
    pub made_at: Timestamp,
}

// === impl StateKeys ===

impl StateKeys {
    /// The key that seals; `None` where there are none.
    #[must_use]
    pub fn sealing(&self) -> Option<&StateKey> {
        let mut newest = self.keys.iter().rev();
        let next = newest.next();
        newest.next().or(next)
    }

    /// Whether another key is to be drawn.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let every = STATE_KEY_EVERY.as_secs() * 1_000;
        self.keys.last().is_none_or(|newest| now.ms_since(newest.made_at) >= every)
    }

    /// With another key, and without those that nothing is sealed with any more.
    #[must_use]
    pub fn with(mut self, key: StateKey) -> Self {
        self.keys.push(key);
        let over = self.keys.len().saturating_sub(STATE_KEYS_MAX);
        self.keys.drain(..over);
        self
    }
}

#[cfg(test)]
mod tests {
    use ollamax_types::limits::STATE_CARRIED_FOR;

    use super::*;

    // A state does not outlive its key.
    const _: () = assert!(STATE_CARRIED_FOR.as_secs() < STATE_KEY_EVERY.as_secs());

    fn ring(numbers: &[u64]) -> StateKeys {
        let secret = SecretKey::new([1; 32]);
        let key = |number: &u64| StateKey { number: *number, secret, made_at: Timestamp(*number) };
        numbers.iter().map(key).fold(StateKeys::default(), StateKeys::with)
    }

    #[test]
    fn a_key_is_known_before_it_seals_and_kept_behind_it() {
        let check = |numbers: &[u64], kept: &[u64], sealing: Option<u64>| {
            let ring = ring(numbers);
            assert_eq!(ring.keys.iter().map(|key| key.number).collect::<Vec<_>>(), kept, "{numbers:?}");
            assert_eq!(ring.sealing().map(|key| key.number), sealing, "{numbers:?}");
        };
        check(&[], &[], None);
        check(&[1], &[1], Some(1));
        check(&[1, 2], &[1, 2], Some(1));
        check(&[1, 2, 3], &[1, 2, 3], Some(2));
        check(&[1, 2, 3, 4], &[2, 3, 4], Some(3));
    }

    #[test]
    fn another_one_is_due_a_day_after_the_newest() {
        let day = 24 * 3_600_000;
        let check = |numbers: &[u64], now: u64, expected: bool| {
            assert_eq!(ring(numbers).is_due(Timestamp(now)), expected, "{numbers:?} at {now}");
        };
        check(&[], 0, true);
        check(&[5], 4, false);
        check(&[5], day + 4, false);
        check(&[5], day + 5, true);
        check(&[5, day + 5], day + 6, false);
    }

    #[test]
    fn nothing_prints_the_bytes() {
        let shown = format!("{:?}", ring(&[7]));
        assert!(shown.contains("secret: ***") && !shown.contains("[1"), "{shown}");
    }
}
