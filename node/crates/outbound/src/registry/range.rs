//! One range of a file: the answer checked before a byte is used, and its bytes counted.
//!
//! An answer must be the very range that was asked for, of a file of the very length; or the whole file from its
//! beginning, where a host knows no ranges. The body ends after as many bytes as its head has promised, or with an
//! error that says how many came.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;

use ollamax_types::{Digest, ModelName};

use super::RegistryError;

/// A range of a file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The model; its registry is asked.
    pub name: ModelName,
    /// Whether plain HTTP will do.
    pub insecure: bool,
    /// Which file.
    pub sha256: Digest,
    /// How long the file is.
    pub size_bytes: u64,
    /// Where the range begins.
    pub from: u64,
    /// Where it ends: the first byte that is not wanted.
    pub until: u64,
}

/// An answer that may be used.
pub struct Ranged {
    /// The host knows no ranges: the body is the file from its beginning to its end.
    pub whole: bool,
    /// The bytes as they come. It ends with [`RegistryError::Cut`] if there are too few, and with
    /// [`RegistryError::Stalled`] if none come for too long. Dropping it closes the connection.
    pub body: BoxStream<'static, Result<Bytes, RegistryError>>,
}

/// A body on its way.
struct Flow<E> {
    pieces: BoxStream<'static, Result<Bytes, E>>,
    host: String,
    stall: Duration,
    got: u64,
    wanted: u64,
}

// === impl Wanted ===

impl Wanted {
    /// The `Range` header. The range must not be empty.
    pub(super) fn header(&self) -> HeaderValue {
        let text = format!("bytes={}-{}", self.from, self.until - 1);
        HeaderValue::try_from(text).expect("digits are plain characters")
    }
}

// === impl Ranged ===

impl fmt::Debug for Ranged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranged").field("whole", &self.whole).finish_non_exhaustive()
    }
}

/// The answer of a host to the question for a range, if its head is right.
pub(super) fn read(response: Response, host: &str, wanted: &Wanted, stall: Duration) -> Result<Ranged, RegistryError> {
    let judged = judge(response.status(), response.headers(), response.content_length(), wanted);
    let whole = judged.map_err(|what| RegistryError::Garbled { host: host.to_owned(), what })?;
    let bytes = if whole { wanted.size_bytes } else { wanted.until - wanted.from };
    let flow = Flow { pieces: response.bytes_stream().boxed(), host: host.to_owned(), stall, got: 0, wanted: bytes };
    Ok(Ranged { whole, body: flow.counted() })
}

/// Whether an answer is the whole file instead of the range; else what came instead of either.
fn judge(status: StatusCode, headers: &HeaderMap, length: Option<u64>, wanted: &Wanted) -> Result<bool, String> {
    let Wanted { from, until, size_bytes, .. } = *wanted;
    let coding = headers.get(CONTENT_ENCODING).filter(|coding| coding.as_bytes() != b"identity");
    if let Some(coding) = coding {
        return Err(format!("the file in the coding {:?}", String::from_utf8_lossy(coding.as_bytes())));
    }
    match (status, length) {
        (StatusCode::PARTIAL_CONTENT, length) => {
            let told = headers.get(CONTENT_RANGE).ok_or("a part without saying which")?;
            let told = String::from_utf8_lossy(told.as_bytes());
            let found = content_range(&told);
            if let Some((_, _, total)) = found.filter(|(_, _, total)| *total != size_bytes) {
                return Err(of_other_length(total, size_bytes));
            }
            if found != Some((from, until, size_bytes)) {
                return Err(format!("{told:?} for bytes {from}-{} of {size_bytes}", until - 1));
            }
            match length {
                Some(length) if length != until - from => Err(format!("{length} bytes for bytes {from}-{}", until - 1)),
                _ => Ok(false),
            }
        }
        (StatusCode::OK, Some(length)) if length == size_bytes => Ok(true),
        (StatusCode::OK, Some(length)) => Err(of_other_length(length, size_bytes)),
        (StatusCode::OK, None) => Err("a file that does not say its length".to_owned()),
        (other, _) => Err(format!("status {}", other.as_u16())),
    }
}

/// What came where the manifest says another length.
fn of_other_length(found: u64, wanted: u64) -> String {
    format!("a file of {found} bytes instead of {wanted}")
}

/// `bytes FROM-LAST/TOTAL` as the first byte, the first byte behind the last one, and the total.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.trim().split_once('/')?;
    let (from, last) = range.split_once('-')?;
    let until = last.parse::<u64>().ok()?.checked_add(1)?;
    unit.eq_ignore_ascii_case("bytes").then_some(())?;
    Some((from.parse().ok()?, until, total.parse().ok()?))
}

// === impl Flow ===

impl<E: Send + 'static> Flow<E> {
    /// The pieces until there are as many bytes as were promised.
    fn counted(self) -> BoxStream<'static, Result<Bytes, RegistryError>> {
        stream::try_unfold(self, Self::next_piece).boxed()
    }

    /// The next piece; none when all is there.
    async fn next_piece(mut self) -> Result<Option<(Bytes, Self)>, RegistryError> {
        let Self { got, wanted, stall, .. } = self;
        if got == wanted {
            return Ok(None);
        }
        let piece = match timeout(stall, self.pieces.next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(None | Some(Err(_))) => return Err(RegistryError::Cut { host: self.host, got, wanted }),
            Err(_) => return Err(RegistryError::Stalled { host: self.host, after: stall }),
        };
        self.got = got.saturating_add(piece.len() as u64);
        if self.got > wanted {
            let what = format!("more than the {wanted} bytes that it promised");
            return Err(RegistryError::Garbled { host: self.host, what });
        }
        Ok(Some((piece, self)))
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use reqwest::header::CONTENT_TYPE;

    use super::*;

    const SIZE: u64 = 10;

    fn wanted(from: u64, until: u64) -> Wanted {
        let name = "tiny".parse().expect("a name");
        Wanted { name, insecure: false, sha256: Digest([7; 32]), size_bytes: SIZE, from, until }
    }

    #[test]
    fn a_range_that_is_not_what_was_asked_for_is_refused() {
        let check = |status: u16, range: Option<&str>, length: Option<u64>, expected: Result<bool, &str>| {
            let range = range.map(|range| (CONTENT_RANGE, range.parse().expect("a value")));
            let headers: HeaderMap = range.into_iter().collect();
            let status = StatusCode::from_u16(status).expect("a status");
            let found = judge(status, &headers, length, &wanted(2, 6));
            assert_eq!(found, expected.map_err(str::to_owned), "{status} {headers:?} {length:?}");
        };
        check(206, Some("bytes 2-5/10"), Some(4), Ok(false));
        check(206, Some("Bytes 2-5/10"), None, Ok(false));
        check(206, Some("bytes 2-5/10"), Some(5), Err("5 bytes for bytes 2-5"));
        check(206, Some("bytes 2-5/11"), Some(4), Err("a file of 11 bytes instead of 10"));
        for other in ["bytes 2-4/10", "bytes 0-5/10", "bytes 2-5/*", "items 2-5/10", "bytes 2-5", "x"] {
            check(206, Some(other), Some(4), Err(format!("{other:?} for bytes 2-5 of 10").as_str()));
        }
        let highest = format!("bytes 2-{}/10", u64::MAX);
        let text = format!("{highest:?} for bytes 2-5 of 10");
        check(206, Some(highest.as_str()), Some(4), Err(text.as_str()));
        check(206, None, Some(4), Err("a part without saying which"));
        check(200, None, Some(10), Ok(true));
        check(200, Some("bytes 2-5/10"), Some(10), Ok(true));
        check(200, None, Some(4), Err("a file of 4 bytes instead of 10"));
        check(200, None, None, Err("a file that does not say its length"));
        check(204, None, Some(0), Err("status 204"));
    }

    #[test]
    fn a_file_in_another_coding_is_refused() {
        let check = |coding: &str, expected: Result<bool, &str>| {
            let kind = (CONTENT_TYPE, "application/octet-stream".parse().expect("a value"));
            let headers = HeaderMap::from_iter([kind, (CONTENT_ENCODING, coding.parse().expect("a value"))]);
            let found = judge(StatusCode::OK, &headers, Some(SIZE), &wanted(0, 10));
            assert_eq!(found, expected.map_err(str::to_owned), "{coding}");
        };
        check("identity", Ok(true));
        check("gzip", Err("the file in the coding \"gzip\""));
    }

    #[test]
    fn a_range_is_asked_for_by_its_first_and_last_byte() {
        assert_eq!(wanted(0, 1).header(), "bytes=0-0");
        assert_eq!(wanted(2, 10).header(), "bytes=2-9");
    }

    /// What a body of ten promised bytes makes of pieces, and how it ends.
    async fn flow(pieces: Vec<Result<&'static str, ()>>, then_silent: bool) -> (Vec<u8>, Result<(), RegistryError>) {
        let pieces = stream::iter(pieces).map(|piece| piece.map(|text| Bytes::from_static(text.as_bytes())));
        let pieces = if then_silent { pieces.chain(stream::pending()).boxed() } else { pieces.boxed() };
        let stall = Duration::from_secs(30);
        let flow = Flow { pieces, host: "cdn.lan".to_owned(), stall, got: 0, wanted: SIZE };
        let mut came = Vec::new();
        let ended = flow.counted().try_for_each(|piece| {
            came.extend_from_slice(&piece);
            futures::future::ready(Ok(()))
        });
        let ended = ended.await;
        (came, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_ends_with_its_last_promised_byte_or_says_how_much_came() {
        let check = async |pieces: Vec<Result<&'static str, ()>>, silent: bool, came: &str, text: Option<&str>| {
            let (found, ended) = flow(pieces, silent).await;
            assert_eq!(String::from_utf8_lossy(&found), came);
            assert_eq!(ended.map_err(|error| error.to_string()), text.map_or(Ok(()), |text| Err(text.to_owned())));
        };
        check(vec![Ok("01234"), Ok("56789")], false, "0123456789", None).await;
        check(vec![Ok("0123456789")], true, "0123456789", None).await;
        check(vec![Ok("0123"), Err(())], false, "0123", Some("cdn.lan broke off after 4 of 10 bytes")).await;
        check(vec![Ok("0123")], false, "0123", Some("cdn.lan broke off after 4 of 10 bytes")).await;
        check(vec![], false, "", Some("cdn.lan broke off after 0 of 10 bytes")).await;
        check(vec![Ok("0123")], true, "0123", Some("cdn.lan sent no byte for 30 s")).await;
        let more = "cdn.lan answers something else than was asked for: more than the 10 bytes that it promised";
        check(vec![Ok("01234"), Ok("567890")], false, "01234", Some(more)).await;
    }
}
