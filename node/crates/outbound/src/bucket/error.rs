//! Why a bucket did not do what was asked, without a word of what opens it.

use ollamax_types::ErrorCode;

use super::PUT_BYTES_MAX;

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
    /// The file is longer than one PUT may carry.
    #[error("the backup has {bytes} bytes, and a bucket takes {PUT_BYTES_MAX} at once; let it go to a folder")]
    TooLarge {
        /// Its length.
        bytes: u64,
    },
    /// Nobody answers there, or not in time.
    #[error("{what}: {endpoint} does not answer ({reason})")]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// Where.
        endpoint: String,
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
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(*status, 408 | 429 | 500..=599),
            Self::Config { .. }
            | Self::Secret { .. }
            | Self::File { .. }
            | Self::TooLarge { .. }
            | Self::Garbled { .. } => false,
        }
    }

    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Config { .. } | Self::Secret { .. } => ErrorCode::PreconditionFailed,
            Self::File { .. } => ErrorCode::StorageFailed,
            Self::TooLarge { .. } => ErrorCode::QuotaExceeded,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Garbled { .. } => ErrorCode::BackupTargetFailed,
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
    }
}
