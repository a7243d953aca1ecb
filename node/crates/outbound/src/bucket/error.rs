//! Why a bucket did not do what was asked, without a word of what opens it.

use std::io;

use ollamax_types::ErrorCode;

use super::OBJECT_BYTES_MAX;

/// Why a bucket did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The configuration names no bucket that could be reached.
    #[error("{reason}")]
    Config {
        /// Which key, and what is wrong.
        reason: String,
    },
    /// There is no secret to sign with.
    #[error("there is no secret for the bucket: {reason}")]
    Secret {
        /// Where it was looked for.
        reason: String,
    },
    /// The file to be put cannot be read.
    #[error("read the backup: {reason}")]
    File {
        /// The system's reason.
        reason: String,
    },
    /// What was fetched cannot be written down.
    #[error("write what was fetched: {reason}")]
    Unwritten {
        /// Of which kind the reason is.
        kind: io::ErrorKind,
        /// The system's reason.
        reason: String,
    },
    /// The file is longer than an object may be.
    #[error("the backup has {bytes} bytes, and a bucket takes {OBJECT_BYTES_MAX} as one object; let it go to a folder")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// Who asked for it has gone, or the node stops.
    #[error("it was broken off")]
    BrokenOff,
    /// Nobody answers there, or not in time, or the answer broke off.
    #[error("{what}: {endpoint} does not answer ({reason})")]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// Where.
        endpoint: String,
        /// The innermost cause.
        reason: String,
    },
    /// The connection ended before the object did.
    #[error("{what}: {endpoint} broke off after {done} of {bytes} bytes ({reason})")]
    Cut {
        /// What was tried.
        what: &'static str,
        /// Where.
        endpoint: String,
        /// What had come until then, in all attempts.
        done: u64,
        /// The object's length.
        bytes: u64,
        /// The innermost cause.
        reason: String,
    },
    /// The store refused.
    #[error("{what}: the store answered {status} {reason}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The store's own words.
        reason: String,
    },
    /// The answer is none of such a store.
    #[error("the store's answer makes no sense: {reason}")]
    Garbled {
        /// How it showed.
        reason: String,
    },
}

impl BucketError {
    /// Whether the same request may succeed in a moment.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 408 | 429 | 500..=599),
            Self::Config { .. }
            | Self::Secret { .. }
            | Self::File { .. }
            | Self::Unwritten { .. }
            | Self::TooLarge { .. }
            | Self::BrokenOff
            | Self::Garbled { .. } => false,
        }
    }

    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Config { .. } | Self::Secret { .. } => ErrorCode::PreconditionFailed,
            Self::Unwritten { kind: io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, .. } => {
                ErrorCode::DiskFull
            }
            Self::File { .. } | Self::Unwritten { .. } => ErrorCode::StorageFailed,
            Self::TooLarge { .. } => ErrorCode::QuotaExceeded,
            Self::BrokenOff => ErrorCode::DeadlineExceeded,
            Self::Unreachable { .. } | Self::Cut { .. } | Self::Refused { .. } | Self::Garbled { .. } => {
                ErrorCode::BackupTargetFailed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        let refused = |status| BucketError::Refused { what: "x", status, reason: String::new() };
        for (status, expected) in [(403, false), (404, false), (408, true), (429, true), (500, true), (503, true)] {
            assert_eq!(refused(status).may_pass(), expected, "{status}");
        }
        let gone = BucketError::Unreachable { what: "x", endpoint: String::new(), reason: String::new() };
        assert!(gone.may_pass());
        assert!(!BucketError::TooLarge { bytes: 1 }.may_pass());
        assert!(!BucketError::BrokenOff.may_pass());
    }

    #[test]
    fn a_full_disk_is_called_that() {
        let check = |kind: io::ErrorKind, expected: ErrorCode| {
            assert_eq!(BucketError::Unwritten { kind, reason: String::new() }.code(), expected, "{kind}");
        };
        check(io::ErrorKind::StorageFull, ErrorCode::DiskFull);
        check(io::ErrorKind::QuotaExceeded, ErrorCode::DiskFull);
        check(io::ErrorKind::PermissionDenied, ErrorCode::StorageFailed);
    }
}
