//! What Ollama's client asks of a registry, and in which words it is answered: paths, ranges, heads.
//!
//! Pure. A path that is not exactly one of a registry's is no place, and a range that is not understood is as if it
//! were not there, so nothing here fails. Which model or file there is, each registry says for itself.

use std::ops::Range;

use axum::body::Body;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, Response, StatusCode};

use ollamax_types::Digest;

/// The kind of a manifest.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The kind of a file.
pub(crate) const FILE_TYPE: &str = "application/octet-stream";
/// The query of an address at which a file is sent.
pub(crate) const DIRECT: &str = "direct=1";
/// Hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 64;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Root,
    Manifest { namespace: &'a str, model: &'a str, tag: &'a str },
    File { namespace: &'a str, model: &'a str, sha256: Digest },
    Nothing,
}

/// Which bytes of a file are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ranged {
    Whole,
    Part(Range<u64>),
    Beyond,
}

/// What a path means.
pub(crate) fn wanted(path: &str) -> Wanted<'_> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "v2"] | ["", "v2", ""] => Wanted::Root,
        ["", "v2", namespace, model, "manifests", tag] => Wanted::Manifest { namespace, model, tag },
        ["", "v2", namespace, model, "blobs", digest] => match digest_of(digest) {
            Some(sha256) => Wanted::File { namespace, model, sha256 },
            None => Wanted::Nothing,
        },
        _ => Wanted::Nothing,
    }
}

fn digest_of(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == DIGEST_DIGITS)?;
    digits.parse().ok()
}

/// The bytes that a `Range` header means. One that is not understood, or means several ranges, is as if it were not
/// there.
pub(crate) fn ranged(header: Option<&str>, size_bytes: u64) -> Ranged {
    let text = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = text.and_then(|text| text.split_once('-')) else { return Ranged::Whole };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size_bytes),
        (Some(first), None) if last.is_empty() => first..size_bytes,
        (None, Some(count)) if first.is_empty() => size_bytes.saturating_sub(count)..size_bytes,
        _ => return Ranged::Whole,
    };
    if range.is_empty() { Ranged::Beyond } else { Ranged::Part(range) }
}

fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

// === impl Ranged ===

impl Ranged {
    /// The bytes that are sent of a file of this size.
    pub(crate) fn bytes(&self, size_bytes: u64) -> Range<u64> {
        match self {
            Self::Whole => 0..size_bytes,
            Self::Part(range) => range.clone(),
            Self::Beyond => 0..0,
        }
    }

    /// The answer with these bytes of a file of this size.
    pub(crate) fn answer(&self, size_bytes: u64, body: Body) -> Response<Body> {
        let (status, told) = match self {
            Self::Whole => (StatusCode::OK, None),
            Self::Part(Range { start, end }) => {
                (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {start}-{}/{size_bytes}", end - 1)))
            }
            Self::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{size_bytes}"))),
        };
        let Range { start, end } = self.bytes(size_bytes);
        let accepts = (header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let mut response = with(status, body, [typed(FILE_TYPE), sized(end - start), accepts]);
        if let Some(told) = told {
            set(&mut response, (header::CONTENT_RANGE, text(&told)));
        }
        response
    }
}

/// To where a file is sent.
pub(crate) fn redirect(location: &str) -> Response<Body> {
    with(StatusCode::TEMPORARY_REDIRECT, Body::empty(), [(header::LOCATION, text(location)), sized(0)])
}

/// An answer of this status and body.
pub(crate) fn with<const N: usize>(
    status: StatusCode,
    body: Body,
    headers: [(HeaderName, HeaderValue); N],
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    headers.into_iter().for_each(|header| set(&mut response, header));
    response
}

/// Adds a header, or puts another value into it.
pub(crate) fn set(response: &mut Response<Body>, (name, value): (HeaderName, HeaderValue)) {
    response.headers_mut().insert(name, value);
}

/// Of which kind a body is.
pub(crate) fn typed(kind: &'static str) -> (HeaderName, HeaderValue) {
    (header::CONTENT_TYPE, HeaderValue::from_static(kind))
}

/// How long it is.
pub(crate) fn sized(length: u64) -> (HeaderName, HeaderValue) {
    (header::CONTENT_LENGTH, HeaderValue::from(length))
}

/// A header's value.
pub(crate) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("letters and digits of a name, which a request line had already")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE_BYTES: u64 = 100;

    #[test]
    fn only_manifests_and_files_of_a_name_are_places() {
        let sha256 = "aa".repeat(32);
        let file = |model| Wanted::File { namespace: "ns", model, sha256: Digest([0xaa; 32]) };
        assert_eq!(wanted("/v2/"), Wanted::Root);
        assert_eq!(wanted("/v2"), Wanted::Root);
        let manifest = Wanted::Manifest { namespace: "ns", model: "demo", tag: "1b" };
        assert_eq!(wanted("/v2/ns/demo/manifests/1b"), manifest);
        assert_eq!(wanted(&format!("/v2/ns/demo/blobs/sha256:{sha256}")), file("demo"));
        for path in [
            "/",
            "",
            "v2/",
            "/v1/",
            "/v2/_catalog",
            "/v2/ns/demo",
            "/v2/ns/demo/tags/list",
            "/v2/demo/manifests/1b",
            "/v2/a/ns/demo/manifests/1b",
            "/v2/ns/demo/manifests/1b/x",
            "/v2/ns/demo/blobs/sha256:aa",
            "/v2/ns/demo/blobs/../../etc/passwd",
            &format!("/v2/ns/demo/blobs/{sha256}"),
            &format!("/v2/ns/demo/blobs/sha256-{sha256}"),
            &format!("/v2/ns/demo/blobs/sha256:sha256:{}", &sha256[7..]),
        ] {
            assert_eq!(wanted(path), Wanted::Nothing, "{path}");
        }
    }

    #[test]
    fn a_range_is_what_lies_in_the_file_of_what_is_asked_for() {
        let check = |header: &str, expected: &Ranged| {
            assert_eq!(&ranged(Some(header), SIZE_BYTES), expected, "{header}");
        };
        for (header, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=0-", 0..100),
            ("bytes=7-9", 7..10),
            ("bytes=99-", 99..100),
            ("bytes=90-18446744073709551615", 90..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
        ] {
            check(header, &Ranged::Part(range));
        }
        for header in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=18446744073709551615-"] {
            check(header, &Ranged::Beyond);
        }
        for header in
            ["", "bytes", "bytes=", "bytes=-", "bytes=9-7", "bytes=a-b", "bytes=+1-2", "items=0-1", "bytes=0-1,3-4"]
        {
            check(header, &Ranged::Whole);
        }
        assert_eq!(ranged(None, SIZE_BYTES), Ranged::Whole);
        assert_eq!(ranged(Some("bytes=0-"), 0), Ranged::Beyond);
    }
}
