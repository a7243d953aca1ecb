//! An object as a file: streamed to the disk, and gone on with where a connection broke off.
//!
//! Attempts in a row are few; one that brought something begins their count anew, so that a long object comes through a
//! poor connection and a store that sends nothing is given up. An object that was exchanged meanwhile is refused.

use std::time::Duration;

use reqwest::header::{ETAG, IF_MATCH, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use crate::cause::without_address;

use super::{ATTEMPTS_MAX, Bucket, BucketError};

/// How long a store may send nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// What an attempt must bring to be no failure, bytes.
const BROUGHT_BYTES_MIN: u64 = 1 << 20;
/// What is done, as errors tell it.
const FETCH: &str = "fetch a backup";

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that are there.
    pub done: u64,
    /// The object's length.
    pub bytes: u64,
}

/// An object on its way.
struct Fetch<'a> {
    bucket: &'a Bucket,
    key: &'a str,
    into: &'a mut File,
    done: u64,
    /// Known from the first answer on.
    bytes: Option<u64>,
    /// What the store calls these very bytes, where it does.
    tag: Option<String>,
}

// === impl Bucket ===

impl Bucket {
    /// Fetches an object into a file, from where that stands, and tells its length. `watch` hears how far it is, and
    /// ends it by an error.
    ///
    /// # Errors
    /// When the store refuses or breaks off again and again, the disk refuses, or `watch` says so.
    pub async fn fetch(
        &self,
        key: &str,
        into: &mut File,
        mut watch: impl FnMut(Fetched) -> Result<(), BucketError>,
    ) -> Result<u64, BucketError> {
        let mut fetch = Fetch { bucket: self, key, into, done: 0, bytes: None, tag: None };
        let (mut number, mut wait) = (1, self.first_wait);
        loop {
            let before = fetch.done;
            match fetch.go_on(&mut watch).await {
                Err(error) if error.may_pass() => {
                    if fetch.done - before >= BROUGHT_BYTES_MIN {
                        (number, wait) = (1, self.first_wait);
                    }
                    if number == ATTEMPTS_MAX {
                        return Err(error);
                    }
                    sleep(wait).await;
                    (number, wait) = (number + 1, wait * 2);
                }
                ended => return ended,
            }
        }
    }
}

// === impl Fetch ===

impl Fetch<'_> {
    /// One attempt at what is missing.
    async fn go_on(&mut self, watch: &mut impl FnMut(Fetched) -> Result<(), BucketError>) -> Result<u64, BucketError> {
        let (mut response, bytes) = self.ask().await?;
        while self.done < bytes {
            let piece = match timeout(SILENCE_MAX, response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Err(self.cut(bytes, "it ended early".to_owned())),
                Ok(Err(error)) => return Err(self.cut(bytes, without_address(error))),
                Err(_) => return Err(self.cut(bytes, format!("nothing came for {SILENCE_MAX:?}"))),
            };
            self.into.write_all(&piece).await.map_err(unwritten)?;
            self.done += piece.len() as u64;
            watch(Fetched { done: self.done, bytes })?;
        }
        self.into.flush().await.map_err(unwritten)?;
        Ok(bytes)
    }

    /// The answer that goes on where the file ends, and the object's length.
    async fn ask(&mut self) -> Result<(Response, u64), BucketError> {
        let Self { bucket, done, .. } = *self;
        let url = bucket.sign(&bucket.bucket.get_object(Some(&bucket.credentials), self.key));
        let mut request = bucket.http.request(Method::GET, url);
        if done > 0 {
            request = request.header(RANGE, format!("bytes={done}-"));
        }
        if let Some(tag) = &self.tag {
            request = request.header(IF_MATCH, tag.as_str());
        }
        let answer = timeout(SILENCE_MAX, bucket.send(FETCH, request)).await;
        let response =
            answer.unwrap_or_else(|_| Err(bucket.unreachable(FETCH, format!("no answer for {SILENCE_MAX:?}"))))?;
        let garbled = |reason: &str| BucketError::Garbled { reason: reason.to_owned() };
        let left = response.content_length().ok_or_else(|| garbled("it does not say how long the object is"))?;
        let bytes = *self.bytes.get_or_insert(left);
        let is_rest = done == 0 || response.status() == StatusCode::PARTIAL_CONTENT;
        if !is_rest || left != bytes.saturating_sub(done) {
            return Err(garbled("it does not go on where it broke off"));
        }
        if self.tag.is_none() {
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
            // A weak one is like no other, not even itself.
            self.tag = tag.filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        }
        Ok((response, bytes))
    }

    fn cut(&self, bytes: u64, reason: String) -> BucketError {
        BucketError::Cut { what: FETCH, endpoint: self.bucket.endpoint(), done: self.done, bytes, reason }
    }
}

fn unwritten(error: std::io::Error) -> BucketError {
    BucketError::Unwritten { kind: error.kind(), reason: error.to_string() }
}
