//! A bucket of an S3-compatible store: files are put, listed, looked at, fetched and removed.
//!
//! Requests are signed with AWS Signature Version 4 in the address, valid for a quarter of an hour; an address
//! therefore never reaches a log or an error. A file is streamed from the disk with its length known, by one PUT where
//! it is short, else in parts. What may pass by itself (no connection, one that broke off, 408, 429, 5xx) is tried
//! again with growing waits; anything else is told at once. No proxy and no redirect is followed.

pub mod config;
pub mod error;
mod fetch;
mod parts;

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, RANGE};
use reqwest::{Method, RequestBuilder, Response};
use rusty_s3::{Credentials, UrlStyle};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use url::Url;

use ollamax_types::{Clock, Secret};

use crate::cause::without_address;

pub use config::Config;
pub use error::BucketError;
pub use fetch::Fetched;

/// Largest object: the protocol's limit.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Longest file that goes by one PUT, and the least size of the parts of a longer one; the protocol wants 5 MiB.
const PART_BYTES: u64 = 64 << 20;
/// How long a signed address is valid.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);
/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer to a small request may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Slowest upload that is waited for, bytes in a second.
const PUT_BYTES_PER_SECOND_MIN: u64 = 64 << 10;
/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Largest answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Times that a request is made in all.
const ATTEMPTS_MAX: u32 = 4;
/// Wait before the second time; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Pages of a list that are read.
const PAGES_MAX: usize = 20;
/// What is done when a file goes there, as errors tell it.
const PUT: &str = "put a backup";

/// One object of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

/// A bucket. Cheap to clone; opens no connection by itself.
#[derive(Clone)]
pub struct Bucket {
    http: reqwest::Client,
    bucket: rusty_s3::Bucket,
    credentials: Credentials,
    clock: Clock,
    first_wait: Duration,
    part_bytes: u64,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.bucket.base_url())
    }
}

// === impl Bucket ===

impl Bucket {
    /// A bucket as the configuration reaches it.
    ///
    /// # Errors
    /// When the endpoint or the name cannot be an address, or the TLS roots of this machine cannot be read.
    pub fn open(config: &Config, name: &str, secret: &Secret, clock: Clock) -> Result<Self, BucketError> {
        let bad = |reason: String| BucketError::Config { reason };
        let endpoint: Url = config.endpoint.parse().map_err(|error| bad(format!("backup.s3.endpoint: {error}")))?;
        let is_plain = endpoint.scheme() == "http";
        let style = if config.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = rusty_s3::Bucket::new(endpoint, style, name.to_owned(), config.region.clone());
        let bucket = bucket.map_err(|error| bad(format!("bucket {name:?} at backup.s3.endpoint: {error}")))?;
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT);
        if is_plain {
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| bad(format!("make a client: {}", without_address(error))))?;
        let credentials = Credentials::new(config.access_key_id.clone(), secret.expose());
        Ok(Self { http, bucket, credentials, clock, first_wait: FIRST_WAIT, part_bytes: PART_BYTES })
    }

    /// The same with another wait before the second attempt, for tests.
    #[must_use]
    pub fn with_first_wait(mut self, wait: Duration) -> Self {
        self.first_wait = wait;
        self
    }

    /// The same with parts of another size, for tests.
    #[must_use]
    pub fn with_part_bytes(mut self, bytes: u64) -> Self {
        self.part_bytes = bytes;
        self
    }

    /// Puts a file; it is there whole or not at all. `stop` breaks it off.
    ///
    /// # Errors
    /// When the file cannot be read or is too long, the store refuses, or `stop` was told to.
    pub async fn put(&self, key: &str, file: &Path, stop: &CancellationToken) -> Result<(), BucketError> {
        let bytes = tokio::fs::metadata(file).await.map_err(unreadable)?.len();
        if bytes > OBJECT_BYTES_MAX {
            return Err(BucketError::TooLarge { bytes });
        }
        if bytes > self.part_bytes {
            return self.put_parts(key, file, bytes, stop).await;
        }
        stop.run_until_cancelled(self.put_whole(key, file, bytes)).await.unwrap_or(Err(BucketError::BrokenOff))
    }

    async fn put_whole(&self, key: &str, file: &Path, bytes: u64) -> Result<(), BucketError> {
        self.repeat(PUT, || async {
            let url = self.sign(&self.bucket.put_object(Some(&self.credentials), key));
            let body = body_of(file, 0, bytes).await?;
            let request = self.http.request(Method::PUT, url).header(CONTENT_LENGTH, bytes).body(body);
            self.call(PUT, request, put_timeout(bytes)).await.map(drop)
        })
        .await
    }

    /// All objects whose keys begin with `prefix`, in the order of their keys, and whether there are more.
    ///
    /// # Errors
    /// When the store refuses, or answers something that is no list.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<Object>, bool), BucketError> {
        let (mut found, mut token) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let text = self.repeat("list the bucket", || self.page(prefix, token.as_deref())).await?;
            let page = rusty_s3::actions::ListObjectsV2::parse_response(&text);
            let page = page.map_err(|error| BucketError::Garbled { reason: error.to_string() })?;
            let objects = page.contents.into_iter();
            found.extend(objects.map(|object| Object { key: object.key, bytes: object.size.unwrap_or(0) }));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }

    /// The first bytes of an object, `length` of them where it has as many.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn beginning(&self, key: &str, length: usize) -> Result<Vec<u8>, BucketError> {
        let range = format!("bytes=0-{}", length.saturating_sub(1));
        let mut bytes = self
            .repeat("read a backup", || async {
                let url = self.sign(&self.bucket.get_object(Some(&self.credentials), key));
                let request = self.http.request(Method::GET, url).header(RANGE, range.as_str());
                let response = self.call("read a backup", request, CALL_TIMEOUT).await?;
                self.read("read a backup", response, length).await
            })
            .await?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn remove(&self, key: &str) -> Result<(), BucketError> {
        let removed = self.repeat("remove an old backup", || async {
            let url = self.sign(&self.bucket.delete_object(Some(&self.credentials), key));
            self.call("remove an old backup", self.http.request(Method::DELETE, url), CALL_TIMEOUT).await.map(drop)
        });
        match removed.await {
            Err(BucketError::Refused { status: 404, .. }) => Ok(()),
            other => other,
        }
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<String, BucketError> {
        let mut action = self.bucket.list_objects_v2(Some(&self.credentials));
        action.with_prefix(prefix);
        if let Some(token) = token {
            action.with_continuation_token(token);
        }
        let url = self.sign(&action);
        let response = self.call("list the bucket", self.http.request(Method::GET, url), CALL_TIMEOUT).await?;
        self.text_of("list the bucket", response).await
    }

    fn sign<'a>(&self, action: &impl rusty_s3::S3Action<'a>) -> Url {
        let now = i64::try_from(self.clock.now().0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        action.sign_with_time(SIGNED_FOR, &now.unwrap_or_default())
    }

    /// One request whose answer is there in time to its last byte.
    async fn call(
        &self,
        what: &'static str,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Response, BucketError> {
        self.send(what, request.timeout(timeout)).await
    }

    /// One request; anything but success is an error with the store's own words.
    async fn send(&self, what: &'static str, request: RequestBuilder) -> Result<Response, BucketError> {
        let sent = request.send().await;
        let response = sent.map_err(|error| self.unreachable(what, without_address(error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        // What cannot be read of a refusal takes nothing from it.
        let said = self.read(what, response, ANSWER_BYTES_MAX).await.unwrap_or_default();
        Err(BucketError::Refused { what, status, reason: reason_of(&String::from_utf8_lossy(&said)) })
    }

    /// A whole answer that is text.
    async fn text_of(&self, what: &'static str, response: Response) -> Result<String, BucketError> {
        let bytes = self.read(what, response, ANSWER_BYTES_MAX).await?;
        String::from_utf8(bytes).map_err(|_| BucketError::Garbled { reason: "it is not text".to_owned() })
    }

    /// A whole answer of bounded length. One that breaks off is none.
    async fn read(&self, what: &'static str, mut response: Response, limit: usize) -> Result<Vec<u8>, BucketError> {
        let mut bytes = Vec::new();
        let broken = |error| self.unreachable(what, without_address(error));
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() >= limit {
                break;
            }
        }
        Ok(bytes)
    }

    fn unreachable(&self, what: &'static str, reason: String) -> BucketError {
        BucketError::Unreachable { what, endpoint: self.endpoint(), reason }
    }

    /// Where the store is, without a word of what opens it.
    fn endpoint(&self) -> String {
        self.bucket.base_url().origin().ascii_serialization()
    }

    /// Makes a request again while its failure may pass by itself.
    async fn repeat<T, F>(&self, what: &'static str, mut attempt: impl FnMut() -> F) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let (mut number, mut wait) = (1, self.first_wait);
        loop {
            match attempt().await {
                Err(error) if error.may_pass() && number < ATTEMPTS_MAX => {
                    tracing::warn!(%error, what, number, "a bucket is asked again");
                    tokio::time::sleep(wait).await;
                    (number, wait) = (number + 1, wait * 2);
                }
                ended => return ended,
            }
        }
    }
}

/// How long an upload may take: what is slower is as good as hung.
const fn put_timeout(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / PUT_BYTES_PER_SECOND_MIN)
}

/// A piece of a file as the body of a request.
async fn body_of(file: &Path, from: u64, bytes: u64) -> Result<reqwest::Body, BucketError> {
    let mut opened = tokio::fs::File::open(file).await.map_err(unreadable)?;
    opened.seek(SeekFrom::Start(from)).await.map_err(unreadable)?;
    Ok(reqwest::Body::wrap_stream(ReaderStream::with_capacity(opened.take(bytes), READ_BYTES)))
}

fn unreadable(error: std::io::Error) -> BucketError {
    BucketError::File { reason: error.to_string() }
}

/// What a store says of a refusal: `<Code>` and `<Message>` of its XML, else the beginning of what it sent.
fn reason_of(said: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let between = |tag: &str| {
        let from = said.split_once(&format!("<{tag}>"))?.1;
        Some(from.split_once('<')?.0.to_owned())
    };
    match (between("Code"), between("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code,
        _ => said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_store() {
        let xml = "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>It is not there</Message></Error>";
        assert_eq!(reason_of(xml), "NoSuchBucket: It is not there");
        assert_eq!(reason_of("<Error><Code>SlowDown</Code></Error>"), "SlowDown");
        assert_eq!(reason_of("  bad\n gateway "), "bad gateway");
        assert_eq!(reason_of(&"x".repeat(900)).len(), 200);
        assert_eq!(reason_of(""), "");
    }

    #[test]
    fn a_long_upload_has_its_time() {
        assert_eq!(put_timeout(0), Duration::from_secs(60));
        assert_eq!(put_timeout(64 << 20), Duration::from_secs(60 + 1_024));
    }

    #[test]
    fn an_address_never_holds_what_it_should_not() {
        let config = Config { endpoint: "http://store.lan:9000".to_owned(), ..Config::default() };
        let secret = Secret::new("hunter2hunter2");
        let bucket = Bucket::open(&config, "lab", &secret, Clock::system()).expect("an address");
        assert_eq!(format!("{bucket:?}"), "Bucket(http://store.lan:9000/lab/)");
        let signed = bucket.sign(&bucket.bucket.get_object(Some(&bucket.credentials), "a/b.oxb.age"));
        assert!(signed.as_str().starts_with("http://store.lan:9000/lab/a/b.oxb.age?"), "{signed}");
        assert!(!signed.as_str().contains("hunter2"), "{signed}");
        for endpoint in ["", "store.lan", "ftp://store.lan", "file:///x"] {
            let config = Config { endpoint: endpoint.to_owned(), ..Config::default() };
            assert!(Bucket::open(&config, "lab", &secret, Clock::system()).is_err(), "{endpoint}");
        }
    }
}
