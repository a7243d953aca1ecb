//! One operation of a client and what came of it: the record that the checkers of a history read.
//!
//! A record says what its client saw and nothing more. What came of an operation is unknown unless an answer says it;
//! a client that guesses makes the history worthless. A record that no client can have seen is not repaired: the
//! checkers report it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One operation of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Who asked. One client is one session, where sessions are judged.
    pub client: u32,
    /// The key that it is about.
    pub key: String,
    /// What was asked.
    pub call: Call,
    /// When it was asked, on the one monotonic clock of the history.
    pub invoked_ns: u64,
    /// When the client stopped waiting, with an answer or without; `None`: it waited to the end of the history.
    pub returned_ns: Option<u64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What was asked of the store. No two operations of a history put the same value, so that a value names its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// To read.
    Get {
        /// How fresh the answer must be.
        level: Level,
    },
    /// To write, whatever is there.
    Put {
        /// What.
        value: u64,
    },
    /// To remove, whatever is there.
    Delete,
    /// To write if the key was changed last at the expected revision.
    Cas {
        /// The expected revision; 0: the key must not be there.
        expected_modified: u64,
        /// What.
        value: u64,
    },
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As fresh as anything that was answered before it began.
    Linearizable,
    /// The same, on the word of a leader that trusts its lease.
    Lease,
    /// As fresh as it says itself.
    Stale,
}

/// What came of an operation. Revisions are indexes of log entries and begin at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// A read was answered.
    Read {
        /// What the key held; `None`: nothing.
        value: Option<u64>,
        /// The revision of the write that put it there; 0: nothing is there.
        modified: u64,
        /// The revision up to which the answering node had applied the log.
        at: u64,
        /// How old the answer may be, by its own word.
        age_ms: Option<u64>,
    },
    /// A put or a compare-and-swap was answered.
    Written {
        /// The index of its log entry, also of one that wrote nothing.
        revision: u64,
        /// Whether it wrote; false: the condition of a compare-and-swap did not hold.
        happened: bool,
        /// What a compare-and-swap found whose condition did not hold; 0: no such key; `None`: it was not told.
        observed_modified: Option<u64>,
    },
    /// A delete was answered.
    Deleted {
        /// The index of its log entry, also of one that found nothing.
        revision: u64,
        /// Whether there was something to remove.
        existed: bool,
    },
    /// It certainly did not happen and never will.
    Refused,
    /// It may have happened at any time after it was invoked, may still happen, or never.
    Unknown,
}

// === impl Operation ===

impl Operation {
    /// The value that it puts, if it takes effect.
    pub(super) fn value(&self) -> Option<u64> {
        match self.call {
            Call::Put { value } | Call::Cas { value, .. } => Some(value),
            Call::Get { .. } | Call::Delete => None,
        }
    }

    /// Whether it reads at the level that promises no freshness.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.call, Call::Get { level: Level::Stale })
    }

    /// The index of its log entry, if its client was told.
    pub(super) fn entry(&self) -> Option<u64> {
        match (self.call, self.outcome) {
            (Call::Get { .. }, _) => None,
            (_, Outcome::Written { revision, .. } | Outcome::Deleted { revision, .. }) => Some(revision),
            _ => None,
        }
    }

    /// Up to which revision its answer proves that the log is decided.
    pub(super) fn told(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Read { at, .. } => Some(at),
            _ => self.entry(),
        }
    }

    /// Why no client can have seen this.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let fits = matches!(
            (self.call, self.outcome),
            (_, Outcome::Refused | Outcome::Unknown)
                | (Call::Get { .. }, Outcome::Read { .. })
                | (Call::Put { .. }, Outcome::Written { happened: true, .. })
                | (Call::Cas { .. }, Outcome::Written { .. })
                | (Call::Delete, Outcome::Deleted { .. })
        );
        let answered = self.outcome != Outcome::Unknown;
        match self.outcome {
            _ if !fits => Some("this does not come of such a call"),
            _ if self.returned_ns.is_some_and(|returned_ns| returned_ns < self.invoked_ns) => {
                Some("it returned before it was invoked")
            }
            _ if answered && self.returned_ns.is_none() => Some("it was answered at no time"),
            _ if self.entry() == Some(0) => Some("revisions begin at 1"),
            Outcome::Read { value, modified, .. } if value.is_some() != (modified != 0) => {
                Some("what is there has a revision, and only that")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, call, invoked_ns, outcome, .. } = self;
        write!(f, "client {client}, key {key}: {call} [{invoked_ns}..")?;
        if let Some(returned_ns) = self.returned_ns {
            write!(f, "{returned_ns}")?;
        }
        write!(f, " ns] {outcome}")
    }
}

// === impl Call ===

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get { level: Level::Linearizable } => f.write_str("get"),
            Self::Get { level: Level::Lease } => f.write_str("get under the lease"),
            Self::Get { level: Level::Stale } => f.write_str("get stale"),
            Self::Put { value } => write!(f, "put {value}"),
            Self::Delete => f.write_str("delete"),
            Self::Cas { expected_modified, value } => write!(f, "put {value} if changed at {expected_modified}"),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether the store answered that it did what was asked, or found why not to.
    pub(super) fn is_answer(self) -> bool {
        !matches!(self, Self::Refused | Self::Unknown)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { value: Some(value), modified, at, .. } => write!(f, "read {value} of {modified} at {at}"),
            Self::Read { value: None, at, .. } => write!(f, "read nothing at {at}"),
            Self::Written { revision, happened: true, .. } => write!(f, "wrote at {revision}"),
            Self::Written { revision, observed_modified: None, .. } => write!(f, "did not hold at {revision}"),
            Self::Written { revision, observed_modified: Some(observed), .. } => {
                write!(f, "did not hold at {revision}, found {observed}")
            }
            Self::Deleted { revision, existed: true } => write!(f, "removed at {revision}"),
            Self::Deleted { revision, existed: false } => write!(f, "found nothing to remove at {revision}"),
            Self::Refused => f.write_str("refused"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
