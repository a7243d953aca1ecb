//! Commands on a data directory without a daemon: what they say and how they end.
//!
//! What was found or done goes to stdout, as text or as one JSON object. A failure is one text on stderr, what and why
//! first and what to try in its last lines, or with `-o json` one object of kind `Error`, with an exit code that
//! `ollamax` passes on. What writes into a directory is refused to whoever is not its owner: the daemon could not use
//! it any more.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::unistd::{Uid, User, geteuid};
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
    /// The error code, where one says it.
    pub(crate) code: Option<ErrorCode>,
    /// What and why, then what to try; empty where the answer that was shown says all.
    pub(crate) text: String,
}

// === impl Failure ===

impl Failure {
    /// Puts one together.
    pub(crate) fn new(exit: u8, what: impl AsRef<str>, next: impl AsRef<str>) -> Self {
        Self { exit, code: None, text: format!("{}\ntry: {}", what.as_ref(), next.as_ref()) }
    }

    /// One that has an error code, from which the exit code follows.
    pub(crate) fn told(code: ErrorCode, what: impl AsRef<str>, next: impl AsRef<str>) -> Self {
        Self::new(exit_of(code), what, next).with_code(code)
    }

    /// The answer was shown, and it is not a good one.
    pub(crate) const fn shown(exit: u8) -> Self {
        Self { exit, code: None, text: String::new() }
    }

    /// Names the error code of one that keeps its exit code.
    pub(crate) fn with_code(self, code: ErrorCode) -> Self {
        Self { code: Some(code), ..self }
    }

    /// What goes to stderr.
    fn page(&self, form: Form) -> String {
        if self.text.is_empty() {
            return String::new();
        }
        match form {
            Form::Text => format!("ollamax-node: {}\n", self.text),
            Form::Json => {
                let in_one = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
                let (what, next) = match self.text.split_once("\ntry: ") {
                    Some((what, next)) => (in_one(what), Some(in_one(next))),
                    None => (in_one(&self.text), None),
                };
                let object = json!({
                    "apiVersion": API_VERSION,
                    "kind": "Error",
                    "exit": self.exit,
                    "code": self.code.map(ErrorCode::as_str),
                    "what": what,
                    "why": null,
                    "next": next,
                    "requestId": null,
                    "chain": [],
                });
                format!("{object}\n")
            }
        }
    }
}

impl From<&DataDirError> for Failure {
    fn from(error: &DataDirError) -> Self {
        let code = match error {
            DataDirError::Unusable { path, source } => match denied(path, source) {
                Some(denied) => return denied,
                None => code_of(source),
            },
            // What was asked is about this directory: another one is no way out.
            DataDirError::Locked { path, pid } => {
                let (code, path) = (ErrorCode::IdentityConflict, path.display());
                let next = "stop that daemon, then repeat the command";
                let text = format!("data directory {path} is in use by process {pid}\ntry: {next}");
                return Self { exit: exit_of(code), code: Some(code), text };
            }
            DataDirError::Copied { .. } | DataDirError::Wiped { .. } => ErrorCode::IdentityConflict,
            DataDirError::Damaged { .. } => ErrorCode::StorageCorrupt,
            DataDirError::Newer { .. } => ErrorCode::PreconditionFailed,
            DataDirError::NotOurs { .. } => ErrorCode::BadRequest,
        };
        Self { exit: exit_of(code), code: Some(code), text: error.to_string() }
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

/// The error code of what the system said of a disk.
#[must_use]
pub(crate) fn code_of(error: &io::Error) -> ErrorCode {
    match error.kind() {
        ErrorKind::PermissionDenied => ErrorCode::Forbidden,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
        _ => ErrorCode::StorageFailed,
    }
}

/// What is told where this user lacks the rights; `None` where the system had another reason.
#[must_use]
pub(crate) fn denied(path: &Path, error: &io::Error) -> Option<Failure> {
    (error.kind() == ErrorKind::PermissionDenied).then(|| {
        let what = format!("{} may not be used by this user: {error}", path.display());
        Failure::told(ErrorCode::Forbidden, what, "repeat it with sudo, or as the user that runs the daemon")
    })
}

/// Refuses a directory of another user, whose daemon could not read what this user would write into it. One that is not
/// there is nobody's.
///
/// # Errors
/// When it belongs to another user, or cannot be looked at. `command` is what to repeat.
pub(crate) fn refuse_foreign(dir: &Path, command: &str) -> Result<(), Failure> {
    match fs::metadata(dir) {
        Ok(about) => {
            let owner = Uid::from_raw(about.uid());
            let name = User::from_uid(owner).ok().flatten().map(|user| user.name);
            check_owner(dir, (owner, name.as_deref()), geteuid(), command)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(denied(dir, &error).unwrap_or_else(|| {
            let what = format!("look at {}: {error}", dir.display());
            Failure::told(code_of(&error), what, "name another directory with --data-dir")
        })),
    }
}

fn check_owner(dir: &Path, owner: (Uid, Option<&str>), own: Uid, command: &str) -> Result<(), Failure> {
    let (owner, name) = owner;
    if owner == own {
        return Ok(());
    }
    let (called, word) = match name {
        Some(name) => (name.to_owned(), name.to_owned()),
        None => (owner.to_string(), format!("'#{owner}'")),
    };
    let what = format!("{} belongs to user {called}: its daemon could not use what this user writes", dir.display());
    Err(Failure::told(ErrorCode::Forbidden, what, format!("sudo -u {word} ollamax {command}")))
}

/// A moment for people; `None` where no calendar has it.
#[must_use]
pub(crate) fn utc(millis: u64) -> Option<String> {
    let stamp = i64::try_from(millis).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())?;
    Some(stamp.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
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
    let mut out = io::stdout().lock();
    let written = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::new(EXIT_FAILED, format!("write to stdout: {error}"), "look at what reads it"))
}

/// Ends the process as a command ended.
pub(crate) fn end(form: Form, outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    drop(io::stderr().write_all(failure.page(form).as_bytes()));
    ExitCode::from(failure.exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_user_is_refused_with_the_command_that_works() {
        let check = |owner: u32, name: Option<&str>, expected: Option<&str>| {
            let owner = (Uid::from_raw(owner), name);
            let refused = check_owner(Path::new("/d"), owner, Uid::from_raw(0), "reset --confirm").err();
            assert!(refused.iter().all(|failure| failure.exit == EXIT_FORBIDDEN), "{refused:?}");
            assert_eq!(refused.map(|failure| failure.text).as_deref(), expected);
        };
        check(0, Some("root"), None);
        let told = "/d belongs to user ollamax: its daemon could not use what this user writes\n\
                    try: sudo -u ollamax ollamax reset --confirm";
        check(991, Some("ollamax"), Some(told));
        let told = "/d belongs to user 991: its daemon could not use what this user writes\n\
                    try: sudo -u '#991' ollamax reset --confirm";
        check(991, None, Some(told));
        let temp = tempfile::tempdir().expect("temp");
        assert!(refuse_foreign(temp.path(), "reset").is_ok(), "it is its own");
        assert!(refuse_foreign(&temp.path().join("none"), "reset").is_ok(), "it is nobody's");
    }

    #[test]
    fn missing_rights_are_called_that() {
        let unusable = |kind: ErrorKind| DataDirError::Unusable { path: "/d".into(), source: kind.into() };
        let refused = Failure::from(unusable(ErrorKind::PermissionDenied));
        assert_eq!((refused.exit, refused.code), (EXIT_FORBIDDEN, Some(ErrorCode::Forbidden)));
        let next = "try: repeat it with sudo, or as the user that runs the daemon";
        assert!(refused.text.starts_with("/d may not be used by this user") && refused.text.ends_with(next));
        let full = Failure::from(unusable(ErrorKind::StorageFull));
        assert_eq!((full.exit, full.code), (EXIT_FAILED, Some(ErrorCode::DiskFull)));
        assert!(denied(Path::new("/d"), &ErrorKind::NotFound.into()).is_none());
    }

    #[test]
    fn a_failure_is_a_text_for_people_and_one_object_for_programs() {
        let failure = Failure::told(ErrorCode::IdentityConflict, "it was\ncopied", "this\n     else: that");
        assert_eq!(failure.page(Form::Text), "ollamax-node: it was\ncopied\ntry: this\n     else: that\n");
        let page = failure.page(Form::Json);
        assert!(page.ends_with('\n') && page.lines().count() == 1, "{page}");
        let expected = json!({
            "apiVersion": "ollamax/v1",
            "kind": "Error",
            "exit": 4,
            "code": "identity_conflict",
            "what": "it was; copied",
            "why": null,
            "next": "this; else: that",
            "requestId": null,
            "chain": [],
        });
        assert_eq!(serde_json::from_str::<Value>(&page).expect("one object"), expected);
        assert_eq!(Failure::shown(EXIT_FAILED).page(Form::Json), "", "the answer says all");
    }
}
