//! What the clients of one round share: its keys, the one clock of the run, values that nobody puts twice, and the
//! records of what was asked and told.
//!
//! A round has keys of its own, so that its history begins with nothing there, and what is still on its way from an
//! earlier round touches nothing of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use ollamax_proto::v1;
use ollamax_testkit::history::Operation;

/// Keys that the clients fight over.
pub(crate) const KEYS: usize = 10;
/// Under which all keys of a run lie.
pub(crate) const ROOT: &str = "user/torture/";
/// Bytes of a value: digits, and blanks behind them.
const VALUE_BYTES: usize = 64;

/// The clock of the run and its values.
#[derive(Debug)]
pub(crate) struct Run {
    begin: Instant,
    values: AtomicU64,
}

// === impl Run ===

impl Run {
    pub(crate) fn begin() -> Self {
        Self { begin: Instant::now(), values: AtomicU64::new(1) }
    }

    pub(crate) fn ns_of(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.ns_of(Instant::now())
    }

    /// A value that nobody else gets.
    pub(crate) fn fresh_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }
}

/// What came of a change that is not in the history of single keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Fate {
    /// It happened at this revision.
    At(u64),
    /// It certainly did not happen and never will.
    Refused,
    /// It may have happened.
    Unknown,
}

/// A value that was put under one or two keys at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SideWrite {
    pub(crate) keys: Vec<String>,
    pub(crate) value: u64,
    pub(crate) fate: Fate,
}

/// The two keys of a pair as one read found them: value and revision each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PairRead {
    pub(crate) found: Vec<(String, u64, u64)>,
}

/// A life sign of a lease that was acknowledged: when it was granted or renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeaseSign {
    /// The key that goes with it.
    pub(crate) key: String,
    pub(crate) ttl_ms: u64,
    /// When the client asked, on the clock of the run.
    pub(crate) invoked_ns: u64,
    /// The revision of the grant or renewal.
    pub(crate) revision: u64,
}

/// What was recorded besides the history of single keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Aside {
    pub(crate) writes: Vec<SideWrite>,
    pub(crate) pair_reads: Vec<PairRead>,
    pub(crate) leases: Vec<LeaseSign>,
}

/// One round's traffic.
#[derive(Debug)]
pub(crate) struct Traffic<'a> {
    pub(crate) run: &'a Run,
    /// What all keys of the round begin with.
    pub(crate) prefix: String,
    over: AtomicBool,
    operations: Mutex<Vec<Operation>>,
    aside: Mutex<Aside>,
}

// === impl Traffic ===

impl<'a> Traffic<'a> {
    pub(crate) fn new(run: &'a Run, round: u32) -> Self {
        Self {
            run,
            prefix: format!("{ROOT}{round:06}/"),
            over: AtomicBool::new(false),
            operations: Mutex::default(),
            aside: Mutex::default(),
        }
    }

    /// One of the keys that the clients fight over.
    pub(crate) fn key(&self, number: usize) -> String {
        format!("{}k{number}", self.prefix)
    }

    /// What the two keys begin with that are always put together.
    pub(crate) fn pair_prefix(&self) -> String {
        format!("{}p/", self.prefix)
    }

    pub(crate) fn pair(&self) -> [String; 2] {
        ["a", "b"].map(|name| format!("{}{name}", self.pair_prefix()))
    }

    /// Keys that go with leases.
    pub(crate) fn lease_key(&self, number: usize) -> String {
        format!("{}l/{number}", self.prefix)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn note(&self, operation: Operation) {
        held(&self.operations).push(operation);
    }

    pub(crate) fn aside(&self) -> MutexGuard<'_, Aside> {
        held(&self.aside)
    }

    /// Everything that was recorded.
    pub(crate) fn into_records(self) -> (Vec<Operation>, Aside) {
        let operations = self.operations.into_inner().unwrap_or_else(PoisonError::into_inner);
        (operations, self.aside.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A poisoned lock means that another task failed while it held it; what it guards is still whole.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number as it is stored.
pub(crate) fn bytes_of(value: u64) -> Vec<u8> {
    format!("{value:<VALUE_BYTES$}").into_bytes()
}

/// A stored value as a number. Bytes that nobody here put are a number that nobody put.
pub(crate) fn number_of(value: &v1::KvValue) -> u64 {
    let text = std::str::from_utf8(&value.value).unwrap_or_default();
    let whole = value.value.len() == VALUE_BYTES;
    text.trim_end().parse().ok().filter(|_| whole).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_as_its_number_and_damaged_bytes_as_a_strange_one() {
        let back = |bytes: Vec<u8>| number_of(&v1::KvValue { value: bytes, ..v1::KvValue::default() });
        for value in [1, 42, u64::MAX - 1] {
            assert_eq!(back(bytes_of(value)), value);
        }
        let mut damaged = bytes_of(42);
        damaged[3] = b'7';
        assert_eq!(back(damaged), u64::MAX);
        assert_eq!(back(b"42".to_vec()), u64::MAX, "half of it");
        assert_eq!(back(vec![0xff; VALUE_BYTES]), u64::MAX);
    }

    #[test]
    fn values_are_never_the_same_and_keys_lie_in_their_round() {
        let run = Run::begin();
        assert_ne!(run.fresh_value(), run.fresh_value());
        let (first, second) = (Traffic::new(&run, 1), Traffic::new(&run, 11));
        assert!(!second.key(0).starts_with(&first.prefix), "{}", second.key(0));
        for key in [first.key(0), first.lease_key(3)].into_iter().chain(first.pair()) {
            assert!(key.starts_with(&first.prefix), "{key}");
        }
    }
}
