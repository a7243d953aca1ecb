//! What can go wrong between a node and a registry.
//!
//! Every text names the host that was asked last, which for files is often another one than the registry. No text has
//! a query, a token or a user in it: signed addresses are as good as keys. Nothing is retried here.

use std::time::Duration;

use serde::Deserialize;
use url::Url;

use ollamax_types::{Digest, ErrorCode};

/// Longest text of a refusal that is shown, characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Why a registry did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No model of this name is there; the words are Ollama's.
    #[error("file does not exist")]
    NotFound,
    /// A file that a manifest names is not there. That the model is, is known by then.
    #[error("{host} has the model and does not have its file {sha256}")]
    BlobNotFound {
        /// Who was asked.
        host: String,
        /// Which file.
        sha256: Digest,
    },
    /// No connection, or none that brought an answer.
    #[error("{host} cannot be reached: {reason}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// The innermost cause.
        reason: String,
    },
    /// It was asked over TLS, and speaks none.
    #[error("{host} answers, and not over TLS; in plain HTTP it is asked with --insecure")]
    PlainHttp {
        /// Who was asked.
        host: String,
    },
    /// It says no.
    #[error("{host} answers status {status}: {message}")]
    Refused {
        /// Who was asked.
        host: String,
        /// HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It wants to know who calls, and a token for everybody did not do.
    #[error("{host} wants a login that this node does not have")]
    Unauthorized {
        /// Who was asked.
        host: String,
    },
    /// It has too much to do, or a fault that may pass: status 408, 429 or 5xx.
    #[error("{host} {} (status {status})", trouble(*status))]
    Busy {
        /// Who was asked.
        host: String,
        /// HTTP status.
        status: u16,
        /// How long it wants to be left alone, where it says so.
        after: Option<Duration>,
    },
    /// Nothing came for too long.
    #[error("{host} sent no byte for {} s", after.as_secs())]
    Stalled {
        /// Who was asked.
        host: String,
        /// How long that was.
        after: Duration,
    },
    /// The connection ended before the answer did.
    #[error("{host} broke off after {got} of {wanted} bytes")]
    Cut {
        /// Who was asked.
        host: String,
        /// Bytes of the answer that came.
        got: u64,
        /// Bytes of the whole answer.
        wanted: u64,
    },
    /// It answers, but not what was asked.
    #[error("{host} answers something else than was asked for: {what}")]
    Garbled {
        /// Who was asked.
        host: String,
        /// What came instead.
        what: String,
    },
    /// It sends this node on to where it does not go.
    #[error("{host} redirects {what}")]
    Redirect {
        /// Who was asked.
        host: String,
        /// What is redirected and whither, without the query.
        what: String,
    },
    /// The manifest is beyond what is read.
    #[error("the manifest is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What is read.
        limit_bytes: usize,
    },
}

// === impl RegistryError ===

impl RegistryError {
    /// The public error code.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound => ErrorCode::ModelNotFound,
            Self::Refused { status: 401 | 403, .. } | Self::Unauthorized { .. } => ErrorCode::OriginRefused,
            Self::Garbled { .. } | Self::Redirect { .. } | Self::TooLarge { .. } | Self::PlainHttp { .. } => {
                ErrorCode::ManifestInvalid
            }
            Self::BlobNotFound { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Stalled { .. }
            | Self::Cut { .. } => ErrorCode::OriginFailed,
        }
    }
}

/// What a status means that may pass.
const fn trouble(status: u16) -> &'static str {
    match status {
        408 | 429 | 503 => "is busy",
        _ => "has a fault of its own",
    }
}

/// Host and, where it is given, port of an address, as errors show them.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What JSON says of a refusal: as registries write it, or as Ollama does.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<Fault>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a host says of a refusal, in a line: from JSON, from XML or a page, else the beginning of what it sent. An
/// address in it loses its query.
pub(super) fn words_of(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let found = match serde_json::from_slice::<Refusal>(said) {
        Ok(Refusal { errors, error }) => match errors.into_iter().next() {
            Some(Fault { code, message }) if code.is_empty() || message.is_empty() => code + &message,
            Some(Fault { code, message }) => format!("{code}: {message}"),
            None => error,
        },
        Err(_) => match (between(&text, "Code"), between(&text, "Message"), between(&text, "title")) {
            (Some(code), Some(message), _) => format!("{code}: {message}"),
            (Some(only), None, _) | (None, _, Some(only)) => only.to_owned(),
            _ if text.trim_start().starts_with('<') => "a page".to_owned(),
            _ => text.to_string(),
        },
    };
    let words = found.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let words = words.map(|word| if word.contains("://") { word.split('?').next().unwrap_or_default() } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARS_MAX).collect()
}

/// What stands in an element of XML or of a page.
fn between<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let from = text.split_once(&format!("<{tag}>"))?.1;
    Some(from.split_once('<')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> String {
        "models.lan:5000".to_owned()
    }

    #[test]
    fn codes_tell_what_helps() {
        let check = |error: RegistryError, expected: ErrorCode| assert_eq!(error.code(), expected, "{error}");
        let refused = |status| RegistryError::Refused { host: host(), status, message: String::new() };
        check(RegistryError::NotFound, ErrorCode::ModelNotFound);
        check(RegistryError::BlobNotFound { host: host(), sha256: Digest([7; 32]) }, ErrorCode::OriginFailed);
        check(RegistryError::PlainHttp { host: host() }, ErrorCode::ManifestInvalid);
        check(refused(401), ErrorCode::OriginRefused);
        check(refused(403), ErrorCode::OriginRefused);
        check(refused(400), ErrorCode::OriginFailed);
        check(RegistryError::Unauthorized { host: host() }, ErrorCode::OriginRefused);
        check(RegistryError::Busy { host: host(), status: 429, after: None }, ErrorCode::OriginFailed);
        check(RegistryError::Stalled { host: host(), after: Duration::ZERO }, ErrorCode::OriginFailed);
        check(RegistryError::Cut { host: host(), got: 1, wanted: 2 }, ErrorCode::OriginFailed);
        check(RegistryError::Unreachable { host: host(), reason: String::new() }, ErrorCode::OriginFailed);
        check(RegistryError::Garbled { host: host(), what: String::new() }, ErrorCode::ManifestInvalid);
        check(RegistryError::Redirect { host: host(), what: String::new() }, ErrorCode::ManifestInvalid);
        check(RegistryError::TooLarge { limit_bytes: 1 }, ErrorCode::ManifestInvalid);
    }

    #[test]
    fn texts_say_who_and_how_much() {
        let check = |error: RegistryError, expected: &str| assert_eq!(error.to_string(), expected);
        check(RegistryError::NotFound, "file does not exist");
        let stalled = RegistryError::Stalled { host: host(), after: Duration::from_secs(30) };
        check(stalled, "models.lan:5000 sent no byte for 30 s");
        let passing = |status| RegistryError::Busy { host: host(), status, after: None };
        check(passing(503), "models.lan:5000 is busy (status 503)");
        check(passing(500), "models.lan:5000 has a fault of its own (status 500)");
        let cut = RegistryError::Cut { host: host(), got: 3, wanted: 9 };
        check(cut, "models.lan:5000 broke off after 3 of 9 bytes");
        let redirect = RegistryError::Redirect { host: host(), what: "to plain HTTP at cdn.lan".to_owned() };
        check(redirect, "models.lan:5000 redirects to plain HTTP at cdn.lan");
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_host_and_without_what_opens_something() {
        let check = |said: &str, expected: &str| assert_eq!(words_of(said.as_bytes()), expected, "{said}");
        let oci = r#"{"errors":[{"code":"DENIED","message":"not for\nyou"},{"code":"X"}]}"#;
        check(oci, "DENIED: not for you");
        check(r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED");
        check(r#"{"error":"no such thing"}"#, "no such thing");
        check(r#"{"other":1}"#, "");
        check(
            "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
            "AccessDenied: Request has expired",
        );
        check("<html><head><title>403 Forbidden</title></head></html>", "403 Forbidden");
        check("<html></html>", "a page");
        check("  go to https://cdn.lan/x?sig=secret&a=b now\r\n", "go to https://cdn.lan/x now");
        check("why? because", "why? because");
        check("", "");
        assert_eq!(words_of("x".repeat(900).as_bytes()).len(), SHOWN_CHARS_MAX);
        assert_eq!(words_of(&[0xff, 0x00, b'a']), "\u{fffd} a");
    }

    #[test]
    fn a_host_is_shown_without_user_path_and_query() {
        let check = |url: &str, expected: &str| assert_eq!(host_of(&url.parse().expect("a URL")), expected);
        check("https://me:secret@cdn.lan/a?sig=b", "cdn.lan");
        check("http://127.0.0.1:5000/a", "127.0.0.1:5000");
        check("https://[::1]:443/a", "[::1]");
    }
}
