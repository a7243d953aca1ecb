//! What happened at all in a history: the numbers by which a run is called vacuous.
//!
//! A checker accepts a history in which nothing happened. A suite therefore asks first whether enough was done before,
//! during and after its fault. An operation belongs to the moment in which it was invoked, whenever it returned.

use std::collections::BTreeMap;

use super::record::{Operation, Outcome};

const SECOND_NS: u64 = 1_000_000_000;

/// Counts of the operations that were invoked in a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    /// All of them.
    pub operations: u64,
    /// Those that the store answered, be it that a condition did not hold.
    pub succeeded: u64,
    /// Those that certainly did not happen.
    pub refused: u64,
    /// Those that may have happened.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Puts, compare-and-swaps and deletes that were answered.
    pub writes: u64,
    /// Compare-and-swaps among them whose condition did not hold.
    pub unmet: u64,
    /// Length of the stretch.
    pub length_ns: u64,
    /// The fewest answered operations of any whole second, counted from the beginning; `None`: no second is whole.
    pub per_second_min: Option<u64>,
    /// The greatest age that a read gave for its answer; `None`: no read gave one.
    pub age_ms_max: Option<u64>,
}

// === impl Evidence ===

impl Evidence {
    /// Counts a whole history, from its first invocation to its last.
    #[must_use]
    pub fn of(history: &[Operation]) -> Self {
        let invocations = || history.iter().map(|operation| operation.invoked_ns);
        let from_ns = invocations().min().unwrap_or(0);
        Self::between(history, from_ns, invocations().max().map_or(from_ns, |last| last.saturating_add(1)))
    }

    /// Counts what was invoked at `from_ns` or later, and before `until_ns`.
    #[must_use]
    pub fn between(history: &[Operation], from_ns: u64, until_ns: u64) -> Self {
        let mut found = Self { length_ns: until_ns.saturating_sub(from_ns), ..Self::default() };
        let mut answered_in: BTreeMap<u64, u64> = BTreeMap::new();
        for operation in history.iter().filter(|operation| (from_ns..until_ns).contains(&operation.invoked_ns)) {
            found.add(operation.outcome);
            if operation.outcome.is_answer() {
                *answered_in.entry((operation.invoked_ns - from_ns) / SECOND_NS).or_default() += 1;
            }
        }
        let seconds = found.length_ns / SECOND_NS;
        let busy = answered_in.range(..seconds);
        if seconds > 0 {
            let idle_second = (busy.clone().count() as u64) < seconds;
            found.per_second_min = if idle_second { Some(0) } else { busy.map(|(_, count)| *count).min() };
        }
        found
    }

    /// Answered operations per second, on average.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let per_second = u128::from(self.succeeded) * u128::from(SECOND_NS) / u128::from(self.length_ns.max(1));
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    fn add(&mut self, outcome: Outcome) {
        self.operations += 1;
        self.succeeded += u64::from(outcome.is_answer());
        match outcome {
            Outcome::Read { age_ms, .. } => {
                self.reads += 1;
                self.age_ms_max = self.age_ms_max.max(age_ms);
            }
            Outcome::Written { happened, .. } => {
                self.writes += 1;
                self.unmet += u64::from(!happened);
            }
            Outcome::Deleted { .. } => self.writes += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }
}
