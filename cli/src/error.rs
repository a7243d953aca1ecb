//! How a command fails: what, why, what to try, the id of the call, and the exit code.
//!
//! People get one line for each on stderr; with `-o json` programs get one object of kind `Error` in one line there.
//! Where the daemon answered, its error code and the id of the call are kept: the id leads to what its log has of it.

use std::error::Error;

use serde_json::{Value, json};
use tonic::Status;
use tonic::metadata::MetadataMap;

use ollamax_types::{ErrorClass, ErrorCode};

use crate::text;

/// Every exit code and what it means, as `--help` and `docs/api/errors.md` show them.
pub(crate) const EXIT_CODES: [(u8, &str); 12] = [
    (0, "done"),
    (1, "failed"),
    (2, "wrong usage, or a malformed request"),
    (3, "not found"),
    (4, "the state forbids it: a conflict, or a precondition that does not hold"),
    (5, "the join token was refused"),
    (6, "not allowed, also on the admin socket"),
    (7, "the daemon, another node or a runtime cannot be reached"),
    (8, "no quorum"),
    (9, "took too long, or the outcome is not known"),
    (10, "`status` or `upgrade check` found what needs attention, or `doctor` a failed check"),
    (130, "interrupted"),
];

const CODE_KEY: &str = "ollamax-code";
const REQUEST_ID_KEY: &str = "ollamax-request-id";

/// Causes that are kept of a chain.
const CAUSES_MAX: usize = 8;

/// A command that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: u8,
    code: Option<ErrorCode>,
    what: String,
    why: String,
    next: String,
    request_id: String,
    chain: Box<[String]>,
}

// === impl Failure ===

impl Failure {
    /// Puts one together.
    pub(crate) fn new(exit: u8, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        let (what, why, next) = (what.into(), why.into(), next.into());
        Self { exit, code: None, what, why, next, request_id: String::new(), chain: Box::default() }
    }

    /// What a node said under an error code.
    pub(crate) fn told(code: ErrorCode, what: &str, why: &str, next: &str) -> Self {
        Self { code: Some(code), ..Self::new(exit_of(code), what, why, next) }
    }

    /// As [`Failure::told`], under a code as it was written. With one of a later release it ends with 1.
    pub(crate) fn told_as(code: &str, what: &str, why: &str, next: &str) -> Self {
        match ErrorCode::from_text(code) {
            Some(code) => Self::told(code, what, why, next),
            None => Self::new(1, what, why, next),
        }
    }

    /// A value was given that makes no sense.
    pub(crate) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(2, what, "", next)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(130, "interrupted", "what was asked of the daemon before may still be done", "ollamax status")
    }

    /// The answer was shown, and it is not a good one.
    pub(crate) fn degraded() -> Self {
        Self::new(10, "", "", "")
    }

    /// The answer was shown, and it says that nothing may be done yet.
    pub(crate) fn unfit() -> Self {
        Self::new(1, "", "", "")
    }

    /// Another program has told why already.
    pub(crate) fn passed_on(exit: u8) -> Self {
        Self::new(exit, "", "", "")
    }

    /// Names the call that failed, where nothing closer to it did.
    pub(crate) fn with_request_id(mut self, id: &str) -> Self {
        if self.request_id.is_empty() {
            id.clone_into(&mut self.request_id);
        }
        self
    }

    /// Keeps an error and what is behind it, for `--verbose`.
    pub(crate) fn caused_by(mut self, error: &(dyn Error + 'static)) -> Self {
        let (mut chain, mut cause) = (Vec::new(), Some(error as &dyn Error));
        while let Some(error) = cause.filter(|_| chain.len() < CAUSES_MAX) {
            chain.push(error.to_string());
            cause = error.source();
        }
        self.chain = chain.into();
        self
    }

    /// With something better to try, known where the command is.
    pub(crate) fn with_next(self, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..self }
    }

    /// The code under which a node said it.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }

    /// What happened.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// What to try.
    pub(crate) fn next(&self) -> &str {
        &self.next
    }

    /// For people, a line for each part; empty when there is nothing to add to what was shown.
    pub(crate) fn page(&self, verbose: bool) -> String {
        let lines = [
            ("error: ", &self.what),
            ("  why: ", &self.why),
            ("  try: ", &self.next),
            ("  request_id: ", &self.request_id),
        ];
        let causes = self.chain.iter().filter(|_| verbose).map(|cause| ("  from: ", cause));
        let lines = lines.into_iter().filter(|(_, line)| !line.is_empty()).chain(causes);
        // Some of it was said by a registry or another program.
        lines.map(|(prefix, line)| format!("{prefix}{}\n", text::whole_line(line))).collect()
    }

    /// For programs, the fields of an object of kind `Error`.
    pub(crate) fn fields(&self) -> Value {
        let known = |text: &String| (!text.is_empty()).then(|| text.clone());
        json!({
            "exit": self.exit,
            "code": self.code.map(ErrorCode::as_str),
            "what": self.what,
            "why": known(&self.why),
            "next": known(&self.next),
            "requestId": known(&self.request_id),
            "chain": self.chain,
        })
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let metadata = status.metadata();
        let text = |key: &str| {
            let bytes = metadata.get_bin(key).and_then(|value| value.to_bytes().ok());
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        };
        let id = request_id(metadata);
        let (what, why, next) = (status.message(), text("ollamax-why-bin"), text("ollamax-next-bin"));
        let failure = match metadata.get(CODE_KEY).map(|code| code.to_str().unwrap_or_default()) {
            Some(code) => Self::told_as(code, what, &why, &next),
            // It answered, but not as this release does.
            None if !id.is_empty() => {
                let why = if what.is_empty() { status.code().description() } else { what };
                let next = "use ollamax and ollamax-node of one release: ollamax --version";
                Self::new(1, "the daemon's answer makes no sense here", why, next)
            }
            None => Self::new(7, "the daemon did not answer", what, "ollamax logs; or look whether it runs")
                .caused_by(&status),
        };
        failure.with_request_id(&id)
    }
}

/// The id that the daemon gave a call; empty where it gave none.
pub(crate) fn request_id(metadata: &MetadataMap) -> String {
    metadata.get(REQUEST_ID_KEY).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

/// The exit code of an error code.
pub(crate) fn exit_of(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::NoQuorum => 8,
        ErrorCode::TokenInvalid => 5,
        ErrorCode::StoreNotWritable => 6,
        ErrorCode::Starting
        | ErrorCode::PeerUnreachable
        | ErrorCode::RuntimeUnavailable
        | ErrorCode::OriginFailed
        | ErrorCode::OriginRefused => 7,
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

/// The exit codes as lines of `--help`.
pub(crate) fn exit_table() -> String {
    let lines = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:>3}  {meaning}"));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tonic::Code;
    use tonic::metadata::MetadataValue;

    use super::*;

    fn no_quorum() -> Failure {
        let mut status = Status::new(Code::Unavailable, "no quorum");
        status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static("no_quorum"));
        status.metadata_mut().insert(REQUEST_ID_KEY, MetadataValue::from_static("0af7"));
        status.metadata_mut().insert_bin("ollamax-why-bin", MetadataValue::from_bytes(b"two are gone"));
        status.metadata_mut().insert_bin("ollamax-next-bin", MetadataValue::from_bytes(b"start them"));
        Failure::from(status)
    }

    #[test]
    fn a_status_of_the_daemon_keeps_its_words_its_id_and_gets_its_exit_code() {
        let failure = no_quorum();
        assert_eq!(failure.exit(), 8);
        assert_eq!(
            failure.page(false),
            "error: no quorum\n  why: two are gone\n  try: start them\n  request_id: 0af7\n"
        );
        let expected = json!({
            "exit": 8,
            "code": "no_quorum",
            "what": "no quorum",
            "why": "two are gone",
            "next": "start them",
            "requestId": "0af7",
            "chain": [],
        });
        assert_eq!(failure.fields(), expected);
        assert_eq!(failure.clone().with_request_id("other"), failure);
        let mut later = Status::new(Code::Internal, "the tide is out");
        later.metadata_mut().insert(CODE_KEY, MetadataValue::from_static("tide_out"));
        assert_eq!(Failure::from(later), Failure::new(1, "the tide is out", "", ""));
        let mut strange = Status::unimplemented("");
        strange.metadata_mut().insert(REQUEST_ID_KEY, MetadataValue::from_static("0af7"));
        assert_eq!(Failure::from(strange).exit(), 1);
    }

    #[test]
    fn what_is_not_known_is_null_and_causes_are_shown_when_asked_for() {
        let failure = Failure::from(Status::unavailable("connection refused"));
        assert_eq!(failure.exit(), 7);
        let fields = failure.fields();
        assert_eq!((&fields["code"], &fields["requestId"]), (&Value::Null, &Value::Null));
        assert!(!failure.page(false).contains("from:"));
        assert!(failure.page(true).lines().any(|line| line.starts_with("  from: ")), "{}", failure.page(true));
        assert_eq!(Failure::degraded().page(true), "");
        let odd = Failure::new(1, "it said\n\x1b[2Jall is well", "", "");
        assert_eq!(odd.page(false), "error: it said\\n\\u{1b}[2Jall is well\n");
    }

    #[test]
    fn every_code_has_an_exit_code_that_is_not_success() {
        let known: BTreeSet<u8> = EXIT_CODES.iter().map(|(code, _)| *code).collect();
        for code in ErrorCode::ALL {
            assert!(exit_of(*code) != 0 && known.contains(&exit_of(*code)), "{code}");
        }
        let expected = [
            (ErrorCode::NodeNotFound, 3),
            (ErrorCode::AlreadyMember, 4),
            (ErrorCode::TokenInvalid, 5),
            (ErrorCode::Starting, 7),
            (ErrorCode::OriginFailed, 7),
            (ErrorCode::OriginRefused, 7),
            (ErrorCode::ManifestInvalid, 1),
            (ErrorCode::DigestMismatch, 1),
            (ErrorCode::StoreNotWritable, 6),
            (ErrorCode::PullCancelled, 4),
        ];
        for (code, exit) in expected {
            assert_eq!(exit_of(code), exit, "{code}");
        }
    }

    #[test]
    fn the_page_of_errors_has_the_same_exit_codes() {
        let page = include_str!("../../docs/api/errors.md");
        for (code, meaning) in EXIT_CODES {
            assert!(page.contains(&format!("\n| {code} | {meaning} |\n")), "{code} {meaning}");
            assert!(exit_table().contains(&format!("{code}  {meaning}")));
        }
    }
}
