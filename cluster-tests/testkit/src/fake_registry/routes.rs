//! How a fake registry answers: the right way first, and what the faults make of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderName, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::response::Builder;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::json;

use ollamax_types::Digest;

use super::blob::{Content, mix};
use super::fault::{Fault, On, take};
use super::record::Seen;
use super::{Inner, Shared};
use crate::wait::pause;

/// Bytes that are sent at once.
const PIECE_BYTES: u64 = 64 << 10;
/// Pieces in a second of what trickles.
const TRICKLE_PIECES: u32 = 20;
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const FILE_TYPE: &str = "application/octet-stream";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Root,
    /// Of `namespace/model:tag`.
    Manifest(String),
    /// Of a repository.
    Blob(String, Digest),
    /// By the number of the address that was given out.
    Direct(u64, Digest),
    Token,
    Nowhere,
}

/// A request.
struct Asked {
    place: Place,
    method: Method,
    path: String,
    query: String,
    host: String,
    range: Option<(u64, u64)>,
    authorization: Option<String>,
}

/// A file, or a part of it, on its way.
struct Sending {
    shared: Arc<Shared>,
    content: Content,
    /// Counted where it is a file.
    sha256: Option<Digest>,
    at: u64,
    until: u64,
    /// What is left until it breaks off, or stands still.
    left: u64,
    stands_still: bool,
    /// Bytes in a second.
    pace: Option<u64>,
}

/// Answers a request.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let asked = Asked::read(method, &uri, &headers);
    let files_at = shared.files_at();
    let fault = shared.lock().meet(&asked);
    if fault == Some(Fault::Stall) && matches!(asked.place, Place::Blob(..) | Place::Token) {
        return std::future::pending().await;
    }
    let astray = fault.and_then(|fault| shared.lock().astray(&asked, fault, &files_at));
    if let Some(response) = astray {
        return response;
    }
    let mut inner = shared.lock();
    match &asked.place {
        Place::Root => json_answer(StatusCode::OK, &json!({})),
        Place::Manifest(name) => match inner.manifests.get(name).cloned() {
            Some(bytes) => send(&shared, &asked, None, Content::Kept(bytes), fault),
            None => refusal(404, "MANIFEST_UNKNOWN"),
        },
        Place::Blob(_, sha256) => match inner.files.get(sha256).cloned() {
            // A fault of bytes: the registry sends the file itself.
            Some(content) if fault.is_some() => send(&shared, &asked, Some(*sha256), content, fault),
            Some(_) => redirect(&inner.address_of(*sha256, &files_at)),
            None => refusal(404, "BLOB_UNKNOWN"),
        },
        Place::Direct(number, sha256) => match inner.files.get(sha256).cloned() {
            _ if *number < inner.expired || asked.query != signature(*number) => refusal(403, "EXPIRED"),
            Some(content) => send(&shared, &asked, Some(*sha256), content, fault),
            None => refusal(404, "BLOB_UNKNOWN"),
        },
        Place::Token => inner.give_token(),
        Place::Nowhere => refusal(404, "NAME_UNKNOWN"),
    }
}

// === impl Asked ===

impl Asked {
    fn read(method: Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(HOST));
        Self {
            place: place_of(uri.path()),
            method,
            path: uri.path().to_owned(),
            query: uri.query().unwrap_or_default().to_owned(),
            host: host.unwrap_or_default().to_owned(),
            range: text(RANGE).and_then(range_of),
            authorization: text(AUTHORIZATION).map(str::to_owned),
        }
    }

    const fn on(&self) -> Option<On> {
        match self.place {
            Place::Manifest(_) => Some(On::Manifest),
            Place::Blob(..) => Some(On::Blob),
            Place::Direct(..) => Some(On::Direct),
            Place::Token => Some(On::Token),
            Place::Root | Place::Nowhere => None,
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Notes a request, and tells which fault meets it.
    fn meet(&mut self, asked: &Asked) -> Option<Fault> {
        let token = asked.authorization.as_deref().and_then(|text| text.strip_prefix("Bearer "));
        let authorised = token.is_some_and(|token| self.tokens.contains(token));
        self.note(Seen {
            method: asked.method.to_string(),
            path: asked.path.clone(),
            range: asked.range,
            host: asked.host.clone(),
            authorised,
        });
        if let (Place::Direct(..), Some(shown)) = (&asked.place, &asked.authorization) {
            self.record.leaked.push(shown.clone());
        }
        take(&mut self.faults, asked.on()?, authorised)
    }

    /// What faults make of the whole answer; nothing where they only concern its bytes.
    fn astray(&mut self, asked: &Asked, fault: Fault, files_at: &str) -> Option<Response> {
        match fault {
            Fault::Status(status, after) => {
                let mut response = refusal(status, "ASKED_TO_FAIL");
                if let Some(after) = after {
                    response.headers_mut().insert(RETRY_AFTER, after.into());
                }
                Some(response)
            }
            Fault::Html => {
                let page = "<html><head><title>Welcome</title></head><body>Please log in.</body></html>";
                Some(whole(head(StatusCode::OK).header(CONTENT_TYPE, "text/html"), Body::from(page)))
            }
            Fault::RedirectLoop => Some(redirect(&format!("{}?{}", asked.path, asked.query))),
            Fault::NoLocation => Some(whole(head(StatusCode::TEMPORARY_REDIRECT), Body::empty())),
            Fault::Downgrade => Some(redirect(&match asked.place {
                Place::Blob(_, sha256) | Place::Direct(_, sha256) => self.address_of(sha256, files_at),
                _ => format!("http://{files_at}{}", asked.path),
            })),
            Fault::Expired => {
                self.expired = self.addresses;
                Some(refusal(403, "EXPIRED"))
            }
            Fault::Challenge => Some(challenge(asked)),
            Fault::CutAfter(_) | Fault::Stall | Fault::Trickle(_) | Fault::NoRanges | Fault::WrongTotal => None,
        }
    }

    /// A new address of a file, at the host that keeps them.
    fn address_of(&mut self, sha256: Digest, files_at: &str) -> String {
        let number = self.addresses;
        self.addresses += 1;
        format!("http://{files_at}/direct/{number}/sha256:{sha256}?{}", signature(number))
    }

    fn give_token(&mut self) -> Response {
        self.tokens_given += 1;
        let token = format!("token-{}", self.tokens_given);
        self.tokens.insert(token.clone());
        json_answer(StatusCode::OK, &json!({ "token": token }))
    }
}

// === impl Sending ===

impl Sending {
    async fn next_piece(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.at == self.until {
            return Ok(None);
        }
        if self.left == 0 && self.stands_still {
            return std::future::pending().await;
        }
        if self.left == 0 {
            // What came before is sent while this waits for its turn.
            tokio::task::yield_now().await;
            return Err(io::Error::other("cut off"));
        }
        let mut wanted = PIECE_BYTES.min(self.until - self.at).min(self.left);
        if let Some(pace) = self.pace {
            wanted = wanted.min((pace / u64::from(TRICKLE_PIECES)).max(1));
            pause(Duration::from_secs(1) / TRICKLE_PIECES).await;
        }
        if let Some(sha256) = self.sha256 {
            wanted = self.shared.grant(sha256, wanted).await;
        }
        let mut piece = self.content.piece(self.at, wanted);
        if let Some(sha256) = self.sha256 {
            self.shared.lock().damage(sha256, self.at, &mut piece);
        }
        self.at += wanted;
        self.left -= wanted;
        Ok(Some((piece.into(), self)))
    }
}

/// A file or a manifest as the right answer, with what faults make of its bytes.
fn send(
    shared: &Arc<Shared>,
    asked: &Asked,
    sha256: Option<Digest>,
    content: Content,
    fault: Option<Fault>,
) -> Response {
    let size = content.size_bytes();
    let range = asked.range.filter(|_| sha256.is_some() && fault != Some(Fault::NoRanges));
    let (from, until) = range.map_or((0, size), |(from, until)| (from, until.min(size)));
    if range.is_some() && from >= until {
        let response = head(StatusCode::RANGE_NOT_SATISFIABLE).header(CONTENT_RANGE, format!("bytes */{size}"));
        return whole(response, Body::empty());
    }
    let kind = if sha256.is_some() { FILE_TYPE } else { MANIFEST_TYPE };
    let mut response = head(if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header(CONTENT_TYPE, kind)
        .header(CONTENT_LENGTH, until - from);
    if range.is_some() {
        let total = if fault == Some(Fault::WrongTotal) { size + 1 } else { size };
        response = response.header(CONTENT_RANGE, format!("bytes {from}-{}/{total}", until - 1));
    }
    if asked.method == Method::HEAD {
        return whole(response, Body::empty());
    }
    let sending = Sending {
        shared: Arc::clone(shared),
        content,
        sha256,
        at: from,
        until,
        left: match fault {
            Some(Fault::CutAfter(bytes)) => bytes,
            Some(Fault::Stall) => 0,
            _ => u64::MAX,
        },
        stands_still: fault == Some(Fault::Stall),
        pace: match fault {
            Some(Fault::Trickle(pace)) => Some(pace),
            _ => None,
        },
    };
    whole(response, Body::from_stream(stream::try_unfold(sending, Sending::next_piece)))
}

fn head(status: StatusCode) -> Builder {
    http::Response::builder().status(status)
}

fn whole(head: Builder, body: Body) -> Response {
    head.body(body).expect("headers of plain characters")
}

fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response {
    whole(head(status).header(CONTENT_TYPE, "application/json"), Body::from(value.to_string()))
}

fn refusal(status: u16, code: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json_answer(status, &json!({ "errors": [{ "code": code }] }))
}

fn redirect(location: &str) -> Response {
    whole(head(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, location), Body::empty())
}

/// Wants a token for the repository that was asked for.
fn challenge(asked: &Asked) -> Response {
    let repository = match &asked.place {
        Place::Manifest(name) => name.split(':').next().unwrap_or_default(),
        Place::Blob(repository, _) => repository.as_str(),
        Place::Root | Place::Direct(..) | Place::Token | Place::Nowhere => "",
    };
    let host = &asked.host;
    let text =
        format!("Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:{repository}:pull\"");
    let mut response = refusal(401, "UNAUTHORIZED");
    response.headers_mut().insert(WWW_AUTHENTICATE, text.parse().expect("plain characters"));
    response
}

/// The query that belongs to an address.
fn signature(number: u64) -> String {
    format!("sig={:016x}", mix(number))
}

fn place_of(path: &str) -> Place {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let digest = |text: &str| text.strip_prefix("sha256:").and_then(|digits| digits.parse::<Digest>().ok());
    let place = match parts[..] {
        ["v2"] | ["v2", ""] => Some(Place::Root),
        ["v2", namespace, model, "manifests", tag] => Some(Place::Manifest(format!("{namespace}/{model}:{tag}"))),
        ["v2", namespace, model, "blobs", text] => {
            digest(text).map(|sha256| Place::Blob(format!("{namespace}/{model}"), sha256))
        }
        ["direct", number, text] => {
            let number = number.parse::<u64>().ok();
            number.zip(digest(text)).map(|(number, sha256)| Place::Direct(number, sha256))
        }
        ["token"] => Some(Place::Token),
        _ => None,
    };
    place.unwrap_or(Place::Nowhere)
}

/// `bytes=FROM-` and `bytes=FROM-LAST`; the end as the first byte that is not wanted.
fn range_of(asked: &str) -> Option<(u64, u64)> {
    let (from, last) = asked.strip_prefix("bytes=")?.split_once('-')?;
    let until = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.saturating_add(1) };
    Some((from.parse().ok()?, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_a_registry_does() {
        let sha256 = Digest([7; 32]);
        let check = |path: &str, expected: Place| assert_eq!(place_of(path), expected, "{path}");
        check("/v2/", Place::Root);
        check("/v2/library/tiny/manifests/latest", Place::Manifest("library/tiny:latest".to_owned()));
        check(&format!("/v2/me/tiny/blobs/sha256:{sha256}"), Place::Blob("me/tiny".to_owned(), sha256));
        check(&format!("/direct/3/sha256:{sha256}"), Place::Direct(3, sha256));
        check("/token", Place::Token);
        check("/v2/me/tiny/blobs/sha256:../../x", Place::Nowhere);
        check("/v1/models", Place::Nowhere);
    }

    #[test]
    fn ranges_are_read() {
        let check = |text: &str, expected: Option<(u64, u64)>| assert_eq!(range_of(text), expected, "{text}");
        check("bytes=2-5", Some((2, 6)));
        check("bytes=2-", Some((2, u64::MAX)));
        check("bytes=-5", None);
        check("items=2-5", None);
    }
}
