//! An S3-compatible store in memory, on a free port of loopback: PUT, at once or in parts, GET with a range, list,
//! DELETE.
//!
//! Every request must carry a signature of version 4 in its address that fits the store's key; a wrong one is refused
//! as Amazon does it. The next requests can be made to fail, the next objects to break off in the middle, and the next
//! uploads to end badly, so that what a client repeats can be seen.

mod uploads;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use uploads::Uploads;

/// Block of SHA-256, bytes.
const BLOCK_BYTES: usize = 64;
/// Largest object that it takes.
const OBJECT_BYTES_MAX: usize = 256 << 20;
/// Bytes of an object that are sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// The key that opens a store.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its public half.
    pub id: String,
    /// Its secret half.
    pub secret: String,
}

/// How an upload in parts ends that ought to become an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// There is the object, and the client hears of a failure.
    Lost,
    /// The answer begins with a yes, and an error follows.
    Fails,
    /// There is the object; the answer begins with a yes and breaks off.
    Cut,
}

/// A running store; it ends when it is dropped.
#[derive(Debug)]
pub struct FakeS3 {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    key: Key,
    bucket: String,
    page: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Bytes>,
    uploads: Uploads,
    /// Statuses of the next answers.
    failures: Vec<u16>,
    /// How much of the next objects is sent.
    cuts: Vec<usize>,
    /// Objects are called by tags that promise nothing of their bytes.
    has_weak_tags: bool,
    /// Where the reading of objects was to begin.
    asked_from: Vec<usize>,
    /// How the next uploads end.
    ends: Vec<End>,
    /// Method and path of each request.
    seen: Vec<String>,
}

// === impl FakeS3 ===

impl FakeS3 {
    /// Starts a store with one empty bucket, whose lists have at most `page` objects.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(bucket: &str, key: Key, page: usize) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a store")?;
        let address = listener.local_addr().context("read the bound address")?;
        let shared = Arc::new(Shared { key, bucket: bucket.to_owned(), page, inner: Mutex::default() });
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::max(OBJECT_BYTES_MAX));
        let router = router.with_state(Arc::clone(&shared));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Ends with the store.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { shared, address, _tasks: tasks })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets the next requests fail with these statuses, one each. 0 lets one through, 100 lets one wait for ever, and
    /// 200 breaks off behind a yes.
    pub fn fail_next(&self, statuses: &[u16]) {
        self.shared.lock().failures = statuses.iter().rev().copied().collect();
    }

    /// Lets the connections of the next objects that are read break off after so many bytes, one each.
    pub fn cut_next(&self, bytes: &[usize]) {
        self.shared.lock().cuts = bytes.iter().rev().copied().collect();
    }

    /// Calls objects by weak tags from now on.
    pub fn weaken_tags(&self) {
        self.shared.lock().has_weak_tags = true;
    }

    /// Lets the next uploads in parts end like this, one each.
    pub fn end_next(&self, ends: &[End]) {
        self.shared.lock().ends = ends.iter().rev().copied().collect();
    }

    /// Where each reading of an object so far was to begin.
    #[must_use]
    pub fn asked_from(&self) -> Vec<usize> {
        self.shared.lock().asked_from.clone()
    }

    /// Uploads in parts that were begun and are neither done nor taken back.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.shared.lock().uploads.open()
    }

    /// Parts that were put so far, repeated ones counted again.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.shared.lock().uploads.taken()
    }

    /// The objects, by key.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.shared.lock().objects.clone()
    }

    /// Puts an object there.
    pub fn insert(&self, key: &str, bytes: impl Into<Bytes>) {
        self.shared.lock().objects.insert(key.to_owned(), bytes.into());
    }

    /// Method and path of each request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<String> {
        self.shared.lock().seen.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    shared.lock().seen.push(format!("{method} {}", uri.path()));
    let failure = shared.lock().failures.pop();
    match failure {
        None | Some(0) => {}
        Some(100) => return std::future::pending().await,
        Some(200) => return cut(),
        Some(status) => return refusal(status, "SlowDown", "asked to fail"),
    }
    let query = uri.query().unwrap_or_default();
    if let Err(why) = check_signature(&shared.key, &method, &uri, query, &headers) {
        return refusal(403, "SignatureDoesNotMatch", &why);
    }
    let path = percent_decode(uri.path());
    let Some(key) = path.strip_prefix(&format!("/{}/", shared.bucket)) else {
        return refusal(404, "NoSuchBucket", "the bucket is not there");
    };
    let mut inner = shared.lock();
    let is_of_upload = ["uploads", "uploadId"].iter().any(|name| word(query, name).is_some());
    match (method.as_str(), key) {
        ("GET", "") => list(&inner.objects, query, shared.page),
        (method, key) if is_of_upload => inner.upload(method, key, query, &body),
        ("GET", key) => inner.get(key, &headers),
        ("PUT", key) => {
            let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            if told != Some(body.len()) {
                return refusal(411, "MissingContentLength", "a length is needed");
            }
            inner.objects.insert(key.to_owned(), body);
            StatusCode::OK.into_response()
        }
        ("DELETE", key) => {
            inner.objects.remove(key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => refusal(405, "MethodNotAllowed", "not here"),
    }
}

// === impl Inner ===

impl Inner {
    /// An object, or a range of it; broken off where that is wanted.
    fn get(&mut self, key: &str, headers: &HeaderMap) -> Response {
        let Some(whole) = self.objects.get(key).cloned() else {
            return refusal(404, "NoSuchKey", "the object is not there");
        };
        let tag = if self.has_weak_tags { format!("W/{}", tag(&whole)) } else { tag(&whole) };
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if text(header::IF_MATCH).is_some_and(|wanted| self.has_weak_tags || wanted != tag) {
            return refusal(412, "PreconditionFailed", "it is another object now");
        }
        let (status, from, bytes) = match text(header::RANGE).and_then(|asked| range(&whole, asked)) {
            Some((from, piece)) => (StatusCode::PARTIAL_CONTENT, from, piece),
            None => (StatusCode::OK, 0, whole),
        };
        self.asked_from.push(from);
        let headers = [(header::ETAG, tag), (header::CONTENT_LENGTH, bytes.len().to_string())];
        let cut = self.cuts.pop().filter(|cut| *cut < bytes.len());
        let sent = bytes.slice(..cut.unwrap_or(bytes.len()));
        let pieces: Vec<_> = sent.chunks(PIECE_BYTES).map(|piece| Ok(sent.slice_ref(piece))).collect();
        let cut = cut.map(|_| Err(io::Error::other("cut off")));
        let body = stream::iter(pieces.into_iter().chain(cut)).then(|piece| async move {
            // What came before is sent while this waits for its turn.
            tokio::task::yield_now().await;
            piece
        });
        (status, headers, Body::from_stream(body)).into_response()
    }

    /// A step of an upload in parts.
    fn upload(&mut self, method: &str, key: &str, query: &str, body: &Bytes) -> Response {
        let id = word(query, "uploadId").unwrap_or_default();
        let number = word(query, "partNumber").and_then(|number| number.parse().ok());
        let no_such = || refusal(404, "NoSuchUpload", "the upload is not there");
        match (method, number) {
            ("POST", _) if id.is_empty() => uploads::begun(&self.uploads.begin(key)),
            ("PUT", Some(number)) => match self.uploads.put(key, &id, number, body.clone()) {
                true => ([(header::ETAG, tag(body))], "").into_response(),
                false => no_such(),
            },
            ("POST", _) => self.end_upload(key, &id, &String::from_utf8_lossy(body)).unwrap_or_else(no_such),
            ("DELETE", _) if self.uploads.abort(key, &id) => StatusCode::NO_CONTENT.into_response(),
            ("DELETE", _) => no_such(),
            _ => refusal(405, "MethodNotAllowed", "not here"),
        }
    }

    /// Makes an object of an upload, as far as that is wanted; nothing where there is none.
    fn end_upload(&mut self, key: &str, id: &str, list: &str) -> Option<Response> {
        let end = self.ends.pop();
        if end == Some(End::Fails) {
            return Some(refusal(200, "InternalError", "it could not be done"));
        }
        match self.uploads.complete(key, id, list)? {
            Ok(whole) => {
                self.objects.insert(key.to_owned(), whole);
                Some(match end {
                    Some(End::Lost) => refusal(503, "SlowDown", "lost"),
                    Some(End::Cut) => cut(),
                    _ => uploads::completed(),
                })
            }
            Err(why) => Some(refusal(400, "InvalidPart", why)),
        }
    }
}

/// What an object or a part is called by its content.
fn tag(bytes: &[u8]) -> String {
    let digest = hex::encode(Sha256::digest(bytes));
    format!("\"{}\"", &digest[..32])
}

/// `bytes=FROM-` and `bytes=FROM-LAST`, with where it begins; nothing where that is behind the end.
fn range(bytes: &Bytes, asked: &str) -> Option<(usize, Bytes)> {
    let (from, last) = asked.strip_prefix("bytes=")?.split_once('-')?;
    let from: usize = from.parse().ok()?;
    let end = last.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last.saturating_add(1)));
    (from < end).then(|| (from, bytes.slice(from..end)))
}

/// What a query says under a name.
fn word(query: &str, name: &str) -> Option<String> {
    parameters(query).into_iter().find(|(found, _)| found == name).map(|(_, value)| value)
}

fn list(objects: &BTreeMap<String, Bytes>, query: &str, page: usize) -> Response {
    let (prefix, after) = (word(query, "prefix"), word(query, "continuation-token"));
    let (prefix, after) = (prefix.unwrap_or_default(), after.unwrap_or_default());
    let wanted = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
    let wanted: Vec<_> = wanted.take(page + 1).collect();
    let (more, shown) = (wanted.len() > page, &wanted[..wanted.len().min(page)]);
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
    );
    write!(xml, "<IsTruncated>{more}</IsTruncated><EncodingType>url</EncodingType>").expect("a string");
    for (key, bytes) in shown {
        let (key, size) = (percent_encode(key, true), bytes.len());
        write!(xml, "<Contents><Key>{key}</Key><Size>{size}</Size></Contents>").expect("a string");
    }
    if let Some((last, _)) = shown.last().filter(|_| more) {
        write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>").expect("a string");
    }
    xml.push_str("</ListBucketResult>");
    ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}

/// A yes that breaks off while the client waits for the rest.
fn cut() -> Response {
    let pieces = [Ok(Bytes::from_static(b" ")), Err(io::Error::other("cut off"))];
    let body = stream::iter(pieces).then(|piece| async move {
        // What came before is sent while this waits for its turn.
        tokio::task::yield_now().await;
        piece
    });
    Body::from_stream(body).into_response()
}

fn refusal(status: u16, code: &str, message: &str) -> Response {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, body).into_response()
}

/// Whether the signature in the address is the one that the key makes of it.
fn check_signature(key: &Key, method: &Method, uri: &Uri, query: &str, headers: &HeaderMap) -> Result<(), String> {
    let mut all = parameters(query);
    let signature = all.iter().position(|(name, _)| name == "X-Amz-Signature").map(|at| all.remove(at).1);
    let signature = signature.ok_or("there is no signature")?;
    let word = |name: &str| all.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let (credential, date) = (word("X-Amz-Credential").unwrap_or_default(), word("X-Amz-Date").unwrap_or_default());
    let scope = credential.strip_prefix(&format!("{}/", key.id)).ok_or("another key")?;
    let names = word("X-Amz-SignedHeaders").unwrap_or_default();
    let mut lines = String::new();
    for name in names.split(';') {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        writeln!(lines, "{name}:{value}").expect("a string");
    }
    all.sort();
    let pairs: Vec<String> = all
        .iter()
        .map(|(name, value)| format!("{}={}", percent_encode(name, false), percent_encode(value, false)))
        .collect();
    let request = format!("{method}\n{}\n{}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", uri.path(), pairs.join("&"));
    let digest = hex::encode(Sha256::digest(request.as_bytes()));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}");
    let first = format!("AWS4{}", key.secret).into_bytes();
    let signing = scope.split('/').fold(first, |key, part| hmac(&key, part.as_bytes()).to_vec());
    match hex::encode(hmac(&signing, text.as_bytes())) == signature {
        true => Ok(()),
        false => Err("it was made with another secret, or for another request".to_owned()),
    }
}

/// HMAC with SHA-256 (RFC 2104).
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; BLOCK_BYTES];
    if key.len() > BLOCK_BYTES {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Names and values of a query, decoded.
fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name), percent_decode(value))
        })
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| hex::decode(digits).ok());
        match (first, digits) {
            (b'%', Some(byte)) => {
                bytes.extend(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn percent_encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slash && byte == b'/');
        match plain {
            true => encoded.push(char::from(byte)),
            false => write!(encoded, "%{byte:02X}").expect("a string"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_the_standard() {
        // RFC 4231, test cases 1, 2 and 6.
        let rows: [(&[u8], &[u8], &str); 3] = [
            (&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, message, expected) in rows {
            assert_eq!(hex::encode(hmac(key, message)), expected);
        }
    }

    #[test]
    fn texts_are_encoded_as_signatures_want_them() {
        assert_eq!(percent_encode("a/b c~", false), "a%2Fb%20c~");
        assert_eq!(percent_decode("a%2Fb%20c~%zz%"), "a/b c~%zz%");
    }

    /// The example of Amazon's own page on signed addresses.
    #[test]
    fn the_signature_is_that_of_the_documented_example() {
        let key = Key {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        };
        let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256\
                     &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
                     &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host";
        let signature = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        let uri: Uri = "/test.txt".parse().expect("a path");
        let mut headers = HeaderMap::new();
        headers.insert("host", "examplebucket.s3.amazonaws.com".parse().expect("a value"));
        let check = |signature: &str| {
            check_signature(&key, &Method::GET, &uri, &format!("{query}&X-Amz-Signature={signature}"), &headers)
        };
        assert_eq!(check(signature), Ok(()));
        assert!(check(&signature.replace('a', "b")).is_err());
    }
}
