//! Points of a process's work at which it can be made to end: a call on a file, the how-manieth, and which side of it.

use std::fmt;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Bytes are written.
    Write = 1,
    /// `fsync` or `fdatasync`, also of a directory.
    Sync = 2,
    /// A name is given to what had another; the new one counts.
    Rename = 3,
    /// A name is taken away.
    Unlink = 4,
    /// A file gets another length.
    Truncate = 5,
}

/// When the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The call does nothing.
    Before = 1,
    /// A write writes half of its bytes; of other calls the same as [`Moment::After`].
    Within = 2,
    /// The call is done, and whoever called does not hear of it.
    After = 3,
}

/// A point of a process's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashPoint {
    /// What is called.
    pub call: Call,
    /// On which files: the last part of the path, with at most one `*` for anything. Empty: on all.
    pub names: &'static str,
    /// Which of those calls, from 1.
    pub number: u64,
    /// When it ends.
    pub moment: Moment,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::Within => "within",
            Moment::After => "after",
        };
        let call = match self.call {
            Call::Write => "write",
            Call::Sync => "sync",
            Call::Rename => "rename",
            Call::Unlink => "unlink",
            Call::Truncate => "truncation",
        };
        let names = if self.names.is_empty() { "any file" } else { self.names };
        write!(f, "{moment} {call} {} of {names}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_told_shortly() {
        let point = CrashPoint { call: Call::Sync, names: "*.log", number: 3, moment: Moment::Before };
        assert_eq!(point.to_string(), "before sync 3 of *.log");
        let anywhere = CrashPoint { call: Call::Truncate, names: "", number: 1, moment: Moment::After };
        assert_eq!(anywhere.to_string(), "after truncation 1 of any file");
    }
}
