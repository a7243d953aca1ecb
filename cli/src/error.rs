//! How a command fails: what, why, what to try, and the exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 1 | failed |
//! | 2 | wrong usage |
//! | 3 | not found |
//! | 4 | conflict, or a precondition does not hold |
//! | 5 | token or key refused |
//! | 6 | not allowed |
//! | 7 | unreachable |
//! | 8 | no quorum |
//! | 9 | took too long |
//! | 10 | degraded (`status`, `doctor`) |
//! | 130 | interrupted |

use std::io::Write as _;
use std::process::ExitCode;

use tonic::Status;

use ollamax_types::{ErrorClass, ErrorCode};

const CODE_KEY: &str = "ollamax-code";

/// A command that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: u8,
    what: String,
    why: String,
    next: String,
}

// === impl Failure ===

impl Failure {
    /// Puts one together.
    pub(crate) fn new(exit: u8, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), next: next.into() }
    }

    /// Something on this machine went wrong.
    pub(crate) fn other(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(1, what, why, "")
    }

    /// A value was given that makes no sense.
    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(2, what, "", next)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(130, "interrupted", "", "")
    }

    /// The answer was shown, and it is not a good one.
    pub(crate) fn degraded() -> Self {
        Self::new(10, "", "", "")
    }

    /// Says it on stderr and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        let mut out = std::io::stderr().lock();
        for (prefix, line) in [("error: ", &self.what), ("  why: ", &self.why), ("  try: ", &self.next)] {
            if !line.is_empty() {
                drop(writeln!(out, "{prefix}{line}"));
            }
        }
        ExitCode::from(self.exit)
    }

    #[cfg(test)]
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let text = |key: &str| {
            let bytes = status.metadata().get_bin(key).and_then(|value| value.to_bytes().ok());
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        let code = status.metadata().get(CODE_KEY).and_then(|value| value.to_str().ok()).and_then(ErrorCode::from_text);
        match code {
            Some(code) => Self::new(exit_of(code), status.message(), text("ollamax-why-bin"), text("ollamax-next-bin")),
            None => {
                Self::new(7, "the daemon did not answer", status.message(), "ollamax logs; or look whether it runs")
            }
        }
    }
}

/// The exit code of an error code.
pub(crate) fn exit_of(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::NoQuorum => 8,
        ErrorCode::TokenInvalid => 5,
        ErrorCode::PeerUnreachable | ErrorCode::RuntimeUnavailable => 7,
        _ => match code.class() {
            ErrorClass::Validation => 2,
            ErrorClass::NotFound => 3,
            ErrorClass::Conflict => 4,
            ErrorClass::Permission => 6,
            ErrorClass::Timeout => 9,
            ErrorClass::Configuration
            | ErrorClass::Database
            | ErrorClass::ExternalService
            | ErrorClass::NotImplemented
            | ErrorClass::RateLimit => 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn a_status_of_the_daemon_keeps_its_words_and_gets_its_exit_code() {
        let mut status = Status::new(Code::Unavailable, "no quorum");
        status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static("no_quorum"));
        status.metadata_mut().insert_bin("ollamax-why-bin", MetadataValue::from_bytes(b"two are gone"));
        status.metadata_mut().insert_bin("ollamax-next-bin", MetadataValue::from_bytes(b"start them"));
        assert_eq!(Failure::from(status), Failure::new(8, "no quorum", "two are gone", "start them"));
        assert_eq!(Failure::from(Status::unavailable("connection refused")).exit(), 7);
    }

    #[test]
    fn every_code_has_an_exit_code_that_is_not_success() {
        for code in ErrorCode::ALL {
            assert_ne!(exit_of(*code), 0, "{code}");
        }
        let expected = [(ErrorCode::NodeNotFound, 3), (ErrorCode::AlreadyMember, 4), (ErrorCode::TokenInvalid, 5)];
        for (code, exit) in expected {
            assert_eq!(exit_of(code), exit, "{code}");
        }
    }
}
