//! What one client knows of its own keys: what was acknowledged last, and what may have happened without its knowledge.
//!
//! A put is sent again without a session, so an attempt that was not answered may have effect late, even after a later
//! put was acknowledged. Revisions tell that apart from a loss: what replaced a value has a higher one.

use std::collections::BTreeSet;

use super::plan::KEYS;

/// A put that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    revision: u64,
    number: u64,
}

/// One key.
#[derive(Debug, Clone, Default)]
struct Known {
    last: Option<Acknowledged>,
    /// Numbers of puts of which an attempt has no known outcome.
    open: BTreeSet<u64>,
}

/// What is stored under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) modified: u64,
    /// `None`: bytes that nobody here has put.
    pub(crate) number: Option<u64>,
}

/// All keys of a client.
#[derive(Debug)]
pub(crate) struct Ledger {
    keys: Vec<Known>,
    numbers: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { keys: vec![Known::default(); KEYS], numbers: 0 }
    }
}

// === impl Ledger ===

impl Ledger {
    /// A number that this client has not put yet.
    pub(crate) const fn fresh(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// An attempt to put this number has no known outcome.
    pub(crate) fn leave_open(&mut self, key: usize, number: u64) {
        self.keys[key].open.insert(number);
    }

    pub(crate) fn acknowledged(&mut self, key: usize, number: u64, revision: u64) {
        let last = &mut self.keys[key].last;
        if last.is_none_or(|last| last.revision < revision) {
            *last = Some(Acknowledged { revision, number });
        }
    }

    /// Whether a read that began after the last acknowledgement should have seen a later change than this; 0: it saw
    /// no value at all.
    pub(crate) fn is_old(&self, key: usize, modified: u64) -> bool {
        self.keys[key].last.is_some_and(|last| modified < last.revision)
    }

    /// What is wrong with what is stored in the end; `None`: nothing.
    pub(crate) fn fault(&self, key: usize, stored: Option<Stored>) -> Option<String> {
        let Known { last, open } = &self.keys[key];
        let Some(Stored { modified, number }) = stored else {
            return last.map(|last| format!("{last:?} is gone"));
        };
        let last = (*last)?;
        let told = match modified.cmp(&last.revision) {
            std::cmp::Ordering::Less => "is older than",
            std::cmp::Ordering::Equal if number == Some(last.number) => return None,
            std::cmp::Ordering::Equal => "is not",
            std::cmp::Ordering::Greater if number.is_some_and(|number| open.contains(&number)) => return None,
            std::cmp::Ordering::Greater => "was put by nobody and stands instead of",
        };
        Some(format!("number {number:?} of revision {modified} {told} {last:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        // The second put was sent twice; nobody knows what became of the third.
        for (number, revision) in [(1, Some(10)), (2, Some(12)), (3, None)] {
            assert_eq!(ledger.fresh(), number);
            match revision {
                Some(revision) => ledger.acknowledged(0, number, revision),
                None => ledger.leave_open(0, number),
            }
        }
        ledger.leave_open(0, 2);
        ledger
    }

    #[test]
    fn what_was_acknowledged_last_or_replaced_it_since_is_no_loss() {
        let check = |stored: Option<(u64, Option<u64>)>, expected: Option<&str>| {
            let stored = stored.map(|(modified, number)| Stored { modified, number });
            let fault = ledger().fault(0, stored);
            assert_eq!(fault.is_some(), expected.is_some(), "{stored:?}: {fault:?}");
            assert!(fault.unwrap_or_default().contains(expected.unwrap_or_default()), "{stored:?}");
        };
        check(Some((12, Some(2))), None);
        check(Some((15, Some(3))), None);
        // The other attempt of the second put had effect late.
        check(Some((14, Some(2))), None);
        check(Some((10, Some(1))), Some("is older than"));
        check(Some((12, Some(1))), Some("is not"));
        check(Some((12, None)), Some("is not"));
        check(Some((15, Some(1))), Some("by nobody"));
        check(Some((15, None)), Some("by nobody"));
        check(None, Some("is gone"));
        assert_eq!(ledger().fault(1, None), None, "of a key without an acknowledgement nothing is asked");
        assert_eq!(ledger().fault(1, Some(Stored { modified: 3, number: Some(9) })), None);
    }

    #[test]
    fn a_read_must_see_what_was_acknowledged_before_it_began() {
        let ledger = ledger();
        let old: Vec<bool> = [0, 11, 12, 20].into_iter().map(|modified| ledger.is_old(0, modified)).collect();
        assert_eq!(old, [true, true, false, false]);
        assert!(!ledger.is_old(1, 0));
    }

    #[test]
    fn an_acknowledgement_that_comes_late_does_not_take_the_place_of_a_newer_one() {
        let mut ledger = ledger();
        ledger.acknowledged(0, 1, 11);
        assert_eq!(ledger.fault(0, Some(Stored { modified: 12, number: Some(2) })), None);
    }
}
