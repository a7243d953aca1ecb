//! Commands on a data directory without a daemon: what they say and how they end.
//!
//! What was found or done goes to stdout, as text or as one JSON object. A failure is one text on stderr, what and why
//! first and what to try in its last lines, with an exit code that `ollamax` passes on.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use ollamax_types::{ErrorClass, ErrorCode};

use crate::data_dir::DataDirError;

/// It failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Wrong usage, or no consent.
pub(crate) const EXIT_USAGE: u8 = 2;
/// The state forbids it.
pub(crate) const EXIT_CONFLICT: u8 = 4;
/// Not allowed.
const EXIT_FORBIDDEN: u8 = 6;
/// Version of every JSON object, as `ollamax` has it.
const API_VERSION: &str = "ollamax/v1";

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// One object with `apiVersion` and `kind`.
    Json,
}

/// A command that did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: u8,
    /// What and why, then what to try.
    pub(crate) text: String,
}

// === impl Failure ===

impl Failure {
    /// Puts one together.
    pub(crate) fn new(exit: u8, what: impl AsRef<str>, next: impl AsRef<str>) -> Self {
        Self { exit, text: format!("{}\ntry: {}", what.as_ref(), next.as_ref()) }
    }
}

impl From<&DataDirError> for Failure {
    fn from(error: &DataDirError) -> Self {
        let exit = match error {
            DataDirError::Locked { .. } | DataDirError::Copied { .. } | DataDirError::Wiped { .. } => EXIT_CONFLICT,
            DataDirError::NotOurs { .. } => EXIT_USAGE,
            DataDirError::Unusable { .. } | DataDirError::Damaged { .. } | DataDirError::Newer { .. } => EXIT_FAILED,
        };
        Self { exit, text: error.to_string() }
    }
}

impl From<DataDirError> for Failure {
    fn from(error: DataDirError) -> Self {
        Self::from(&error)
    }
}

/// The exit code of an error code, as `ollamax` has it for those that files and disks can bring about.
#[must_use]
pub(crate) const fn exit_of(code: ErrorCode) -> u8 {
    match code.class() {
        ErrorClass::Validation => EXIT_USAGE,
        ErrorClass::Conflict => EXIT_CONFLICT,
        ErrorClass::Permission => EXIT_FORBIDDEN,
        ErrorClass::Configuration
        | ErrorClass::Database
        | ErrorClass::ExternalService
        | ErrorClass::NotFound
        | ErrorClass::NotImplemented
        | ErrorClass::RateLimit
        | ErrorClass::Timeout => EXIT_FAILED,
    }
}

/// Shows a result: the text, or the fields as an object of this kind.
///
/// # Errors
/// When stdout takes nothing.
pub(crate) fn show(form: Form, kind: &str, text: &str, fields: Value) -> Result<(), Failure> {
    let shown = match form {
        Form::Text => text.to_owned(),
        Form::Json => {
            let mut whole = json!({"apiVersion": API_VERSION, "kind": kind});
            if let (Some(whole), Value::Object(fields)) = (whole.as_object_mut(), fields) {
                whole.extend(fields);
            }
            serde_json::to_string_pretty(&whole).unwrap_or_else(|_| whole.to_string()) + "\n"
        }
    };
    let mut out = std::io::stdout().lock();
    let written = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(EXIT_FAILED, format!("write to stdout: {error}"), "look at what reads it"))
}

/// Ends the process as a command ended.
pub(crate) fn end(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    drop(writeln!(std::io::stderr(), "ollamax-node: {}", failure.text));
    ExitCode::from(failure.exit)
}
