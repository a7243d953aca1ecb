//! A long file in parts: each is put and repeated by itself, then the store makes one object of them at once.
//!
//! Until then there is no object. What fails, and what is broken off, is followed by one word to the store that it
//! shall forget the parts. Where that fails as well, and where this process ends in the middle, they stay; a rule of
//! the bucket removes them.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, ETAG};
use rusty_s3::actions::{CompleteMultipartUploadResponse, CreateMultipartUpload};
use tokio_util::sync::CancellationToken;

use super::{Bucket, BucketError, CALL_TIMEOUT, Object, PUT, body_of, put_timeout, reason_of};

/// Most parts of one object: the protocol's limit.
const PARTS_MAX: u64 = 10_000;
/// How long a store may take to make one object of all parts.
const COMPLETE_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// What is done when an upload ends early, as errors tell it.
const FORGET: &str = "take back what was put of a backup";

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// From 1.
    number: u16,
    /// Where it begins.
    from: u64,
    /// Its length.
    bytes: u64,
}

// === impl Bucket ===

impl Bucket {
    /// Puts a file of this length in parts.
    pub(super) async fn put_parts(
        &self,
        key: &str,
        file: &Path,
        bytes: u64,
        stop: &CancellationToken,
    ) -> Result<(), BucketError> {
        let id = self.begin_parts(key).await?;
        let put = stop.run_until_cancelled(self.put_each(key, file, bytes, &id)).await;
        let put = put.unwrap_or(Err(BucketError::BrokenOff));
        if put.is_err() {
            self.forget_parts(key, &id).await;
        }
        put
    }

    /// The id of a new upload.
    async fn begin_parts(&self, key: &str) -> Result<String, BucketError> {
        let begin = self.repeat(PUT, || async {
            let url = self.sign(&self.bucket.create_multipart_upload(Some(&self.credentials), key));
            let response = self.call(PUT, self.http.request(Method::POST, url), CALL_TIMEOUT).await?;
            self.text_of(PUT, response).await
        });
        let begun = CreateMultipartUpload::parse_response(&begin.await?);
        let begun = begun.map_err(|error| BucketError::Garbled { reason: error.to_string() })?;
        Ok(begun.upload_id().to_owned())
    }

    async fn put_each(&self, key: &str, file: &Path, bytes: u64, id: &str) -> Result<(), BucketError> {
        let mut tags = Vec::new();
        for part in plan_parts(bytes, self.part_bytes) {
            tags.push(self.put_part(key, file, id, part).await?);
        }
        self.complete(key, bytes, id, &tags).await
    }

    /// The tag that the store gives a part.
    async fn put_part(&self, key: &str, file: &Path, id: &str, part: Part) -> Result<String, BucketError> {
        let Part { number, from, bytes } = part;
        self.repeat(PUT, || async {
            let url = self.sign(&self.bucket.upload_part(Some(&self.credentials), key, number, id));
            let body = body_of(file, from, bytes).await?;
            let request = self.http.request(Method::PUT, url).header(CONTENT_LENGTH, bytes).body(body);
            let response = self.call(PUT, request, put_timeout(bytes)).await?;
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            tag.ok_or_else(|| BucketError::Garbled { reason: "it took a part and gave no tag for it".to_owned() })
        })
        .await
    }

    /// Lets the store make one object of all parts.
    async fn complete(&self, key: &str, bytes: u64, id: &str, tags: &[String]) -> Result<(), BucketError> {
        let completed = self.repeat(PUT, || async {
            let tags = tags.iter().map(String::as_str);
            let action = self.bucket.complete_multipart_upload(Some(&self.credentials), key, id, tags);
            let request = self.http.request(Method::POST, self.sign(&action)).body(action.body());
            // A store says 200 before it knows, and lets it wait; that it could not do it stands in what follows.
            let text = self.text_of(PUT, self.call(PUT, request, COMPLETE_TIMEOUT).await?).await?;
            let refused = |_| BucketError::Refused { what: PUT, status: 500, reason: reason_of(&text) };
            CompleteMultipartUploadResponse::parse(&text).map(drop).map_err(refused)
        });
        let completed = completed.await;
        // The upload is over where it was asked a second time because its answer was lost.
        if matches!(completed, Err(BucketError::Refused { status: 404, .. })) {
            let (found, _) = self.list(key).await?;
            if found.contains(&Object { key: key.to_owned(), bytes }) {
                return Ok(());
            }
        }
        completed
    }

    /// Lets the store forget the parts. Where it does not, the upload has failed all the same.
    async fn forget_parts(&self, key: &str, id: &str) {
        let forgotten = self.repeat(FORGET, || async {
            let url = self.sign(&self.bucket.abort_multipart_upload(Some(&self.credentials), key, id));
            self.call(FORGET, self.http.request(Method::DELETE, url), CALL_TIMEOUT).await.map(drop)
        });
        match forgotten.await {
            Ok(()) | Err(BucketError::Refused { status: 404, .. }) => {}
            Err(error) => tracing::warn!(%error, key, "parts of a backup stay in a bucket"),
        }
    }
}

/// The parts of a file: of this size, or larger where there would be too many of them; the last is what is left.
fn plan_parts(bytes: u64, least: u64) -> impl Iterator<Item = Part> {
    let size = least.max(bytes.div_ceil(PARTS_MAX));
    (1_u16..).map_while(move |number| {
        let from = u64::from(number - 1) * size;
        (from < bytes).then(|| Part { number, from, bytes: size.min(bytes - from) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{OBJECT_BYTES_MAX, PART_BYTES};
    use super::*;

    #[test]
    fn parts_cover_a_file_and_are_neither_too_many_nor_too_small() {
        let check = |bytes: u64, least: u64, number: usize, size: u64| {
            let parts: Vec<Part> = plan_parts(bytes, least).collect();
            assert_eq!((parts.len(), parts.first().map(|part| part.bytes)), (number, Some(size)), "{bytes}");
            let mut at = 0;
            for (part, number) in parts.iter().zip(1..) {
                assert_eq!((part.number, part.from), (number, at), "{bytes}");
                at += part.bytes;
            }
            assert_eq!(at, bytes);
            assert!(parts.iter().rev().skip(1).all(|part| part.bytes == size), "all but the last are alike");
        };
        check(PART_BYTES + 1, PART_BYTES, 2, PART_BYTES);
        check(10 * PART_BYTES, PART_BYTES, 10, PART_BYTES);
        check(10_000 * PART_BYTES, PART_BYTES, 10_000, PART_BYTES);
        check(10_000 * PART_BYTES + 1, PART_BYTES, 10_000, PART_BYTES + 1);
        check(OBJECT_BYTES_MAX, PART_BYTES, 10_000, OBJECT_BYTES_MAX.div_ceil(10_000));
        check(7, 3, 3, 3);
        const { assert!(PART_BYTES >= 5 << 20 && OBJECT_BYTES_MAX.div_ceil(PARTS_MAX) <= 5 << 30) };
    }
}
