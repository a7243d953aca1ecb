//! The linearizability check of Wing and Gong with Lowe's memory: key by key, an order of the operations is searched
//! in which each has the effect that its client saw and none leaves the time between its call and its return.
//!
//! What is searched for is exact: a key holds a value and the revision of its write, and revisions grow. An operation
//! without an answer that some read showed has happened; any other may be left out. Stale reads promise nothing here
//! and are left out. The search is a loop over a linked list, so depth costs no stack, and it is bounded in steps and
//! time: what is not decided by then is reported as such, and a caller counts it as a failure.

mod agenda;
mod bits;
mod model;
mod search;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::record::Operation;
use super::writes::Writes;
use search::{Ended, Search};

/// How many steps lie between two looks at the clock.
const STEPS_PER_LOOK: u64 = 1024;

/// How long to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Operations tried for one key, all repetitions counted. Each may leave about 200 bytes in the memory.
    pub steps_max: u64,
    /// Time for all keys together.
    pub time_max: Duration,
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// There is an order for each key.
    Linearizable,
    /// There is none for this key.
    Violation {
        /// Which.
        key: String,
        /// The longest order that was found, and the operations of which none could be the next.
        explanation: String,
    },
    /// No key is known to have none, but for this one the search was given up.
    Undecided {
        /// Which.
        key: String,
        /// What ran out.
        why: Why,
    },
}

/// What ran out before a search was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The steps of [`Config::steps_max`].
    Steps(u64),
    /// The time of [`Config::time_max`].
    Time(Duration),
}

/// Judges a history. A violation of one key outweighs a search that was given up for another.
pub fn check(history: &[Operation], config: &Config) -> Verdict {
    let writes = Writes::of(history);
    let deadline = Instant::now().checked_add(config.time_max);
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, operation) in history.iter().enumerate() {
        keys.entry(operation.key.as_str()).or_default().push(index);
    }
    let mut verdict = Verdict::Linearizable;
    for (key, members) in keys {
        let mut budget = Budget { config: *config, deadline, steps: 0 };
        match Search::new(history, members, &writes).run(&mut budget) {
            Ended::Ordered => {}
            Ended::Stuck(explanation) => return Verdict::Violation { key: key.to_owned(), explanation },
            Ended::GaveUp(why) if verdict == Verdict::Linearizable => {
                verdict = Verdict::Undecided { key: key.to_owned(), why };
            }
            Ended::GaveUp(_) => {}
        }
    }
    verdict
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { steps_max: 5_000_000, time_max: Duration::from_secs(60) }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Whether the history is good.
    #[must_use]
    pub const fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::Violation { key, explanation } => write!(f, "key {key} is not linearizable: {explanation}"),
            Self::Undecided { key, why } => write!(f, "key {key} was not decided: {why}"),
        }
    }
}

// === impl Why ===

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps} steps were not enough"),
            Self::Time(time) => write!(f, "{time:?} were not enough"),
        }
    }
}

/// What is left for the search of one key.
#[derive(Debug)]
struct Budget {
    config: Config,
    /// `None`: so far away that it cannot be named.
    deadline: Option<Instant>,
    steps: u64,
}

// === impl Budget ===

impl Budget {
    /// Takes one step, or says what ran out.
    fn spend(&mut self) -> Result<(), Why> {
        if self.steps >= self.config.steps_max {
            return Err(Why::Steps(self.config.steps_max));
        }
        let look = self.steps.is_multiple_of(STEPS_PER_LOOK);
        if look && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Why::Time(self.config.time_max));
        }
        self.steps += 1;
        Ok(())
    }
}
