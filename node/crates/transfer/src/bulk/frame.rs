//! The bytes of the bulk protocol, version 1.
//!
//! Both sides begin with [`GREETING`], which names the protocol and its version. From then on one side sends questions
//! and the other replies. Numbers are big endian:
//!
//! ```text
//! ask      01  request 8   SHA-256 of the file 32   first chunk 4   chunks 4
//! cancel   02  request 8
//! ask      03  as 01, and nobody waits for it; a peer may serve others first
//!
//! chunk    01  request 8   chunk 4   length 4       then so many bytes
//! end      02  request 8   outcome 1
//! ```
//!
//! The chunks of a request come in order, then its end, whatever the outcome. Those of several requests may come
//! between each other. Every frame has a fixed length but for the bytes of a chunk, which are no more than a chunk has.
//! Whoever reads something else closes the stream: nothing behind it could be trusted.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

use ollamax_core::transfer_plan::Extent;
use ollamax_types::{CHUNK_BYTES, Digest};

/// The first bytes of either side.
pub(crate) const GREETING: [u8; 8] = *b"OMXBULK1";
/// Most chunks of one request: 64 MiB.
pub(crate) const EXTENT_CHUNKS_MAX: u32 = 16;

const ASK: u8 = 1;
const CANCEL: u8 = 2;
const ASK_IN_BACKGROUND: u8 = 3;
const CHUNK: u8 = 1;
const END: u8 = 2;

const ASK_BYTES: usize = 1 + 8 + 32 + 4 + 4;
const CANCEL_BYTES: usize = 1 + 8;
const CHUNK_HEAD_BYTES: usize = 1 + 8 + 4 + 4;
const END_BYTES: usize = 1 + 8 + 1;

/// What the asking side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// It wants these chunks.
    Ask { request: u64, sha256: Digest, extent: Extent, is_background: bool },
    /// It does not want the rest of them any more.
    Cancel { request: u64 },
}

/// What the other side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The bytes of a chunk follow.
    Chunk { request: u64, index: u32, length: u32 },
    /// Nothing more comes for this request.
    End { request: u64, outcome: Outcome },
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every chunk came.
    Whole,
    /// There was no place for it.
    Busy,
    /// The file or the next chunk is not there.
    Absent,
    /// The next chunk is damaged, or could not be read.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Nothing is handed out at this time.
    Closed,
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream broke off.
    #[error("the connection broke off: {0}")]
    Broken(#[from] io::Error),
    /// The other side does nothing.
    #[error("{0}")]
    Stalled(String),
    /// It is no frame.
    #[error("something that is not the bulk protocol came: {0}")]
    Garbage(&'static str),
}

// === impl Question ===

impl Question {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ask { request, sha256, extent, is_background } => {
                let mut bytes = Vec::with_capacity(ASK_BYTES);
                bytes.push(if *is_background { ASK_IN_BACKGROUND } else { ASK });
                bytes.extend_from_slice(&request.to_be_bytes());
                bytes.extend_from_slice(&sha256.0);
                bytes.extend_from_slice(&extent.first.to_be_bytes());
                bytes.extend_from_slice(&extent.count.to_be_bytes());
                bytes
            }
            Self::Cancel { request } => [&[CANCEL][..], &request.to_be_bytes()].concat(),
        }
    }

    /// The length of a frame that begins with this byte.
    const fn length(kind: u8) -> Option<usize> {
        match kind {
            ASK | ASK_IN_BACKGROUND => Some(ASK_BYTES),
            CANCEL => Some(CANCEL_BYTES),
            _ => None,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (request, rest) = rest.split_first_chunk::<8>()?;
        let request = u64::from_be_bytes(*request);
        match (*kind, rest) {
            (CANCEL, []) => Some(Self::Cancel { request }),
            (ASK | ASK_IN_BACKGROUND, rest) => {
                let (sha256, rest) = rest.split_first_chunk::<32>()?;
                let (first, rest) = rest.split_first_chunk::<4>()?;
                let (count, rest) = rest.split_first_chunk::<4>()?;
                let extent = Extent { first: u32::from_be_bytes(*first), count: u32::from_be_bytes(*count) };
                let is_possible = (1..=EXTENT_CHUNKS_MAX).contains(&extent.count)
                    && extent.first.checked_add(extent.count).is_some()
                    && rest.is_empty();
                let is_background = *kind == ASK_IN_BACKGROUND;
                is_possible.then_some(Self::Ask { request, sha256: Digest(*sha256), extent, is_background })
            }
            _ => None,
        }
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Chunk { request, index, length } => {
                [&[CHUNK][..], &request.to_be_bytes(), &index.to_be_bytes(), &length.to_be_bytes()].concat()
            }
            Self::End { request, outcome } => [&[END][..], &request.to_be_bytes(), &[outcome.byte()]].concat(),
        }
    }

    /// The length of a frame that begins with this byte, without the bytes of a chunk.
    const fn length(kind: u8) -> Option<usize> {
        match kind {
            CHUNK => Some(CHUNK_HEAD_BYTES),
            END => Some(END_BYTES),
            _ => None,
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (request, rest) = rest.split_first_chunk::<8>()?;
        let request = u64::from_be_bytes(*request);
        match (*kind, rest) {
            (CHUNK, rest) => {
                let (index, rest) = rest.split_first_chunk::<4>()?;
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (index, length) = (u32::from_be_bytes(*index), u32::from_be_bytes(*length));
                let is_possible = length > 0 && u64::from(length) <= CHUNK_BYTES && rest.is_empty();
                is_possible.then_some(Self::Chunk { request, index, length })
            }
            (END, [outcome]) => Some(Self::End { request, outcome: Outcome::of(*outcome)? }),
            _ => None,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    const fn byte(self) -> u8 {
        match self {
            Self::Whole => 0,
            Self::Busy => 1,
            Self::Absent => 2,
            Self::Failed => 3,
            Self::Cancelled => 4,
            Self::Closed => 5,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Whole),
            1 => Some(Self::Busy),
            2 => Some(Self::Absent),
            3 => Some(Self::Failed),
            4 => Some(Self::Cancelled),
            5 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Reads the greeting of the other side.
pub(crate) async fn read_greeting(from: &mut (impl AsyncRead + Unpin)) -> Result<(), FrameError> {
    let mut greeting = [0; GREETING.len()];
    from.read_exact(&mut greeting).await?;
    if greeting == GREETING { Ok(()) } else { Err(FrameError::Garbage("another greeting")) }
}

/// Reads the first byte of a frame; `None` at the end of the stream. It may be given up and begun again.
pub(crate) async fn read_kind(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<u8>, FrameError> {
    let mut kind = [0];
    let read = from.read(&mut kind).await?;
    Ok((read > 0).then_some(kind[0]))
}

/// Reads a question behind its first byte.
pub(crate) async fn read_question(kind: u8, from: &mut (impl AsyncRead + Unpin)) -> Result<Question, FrameError> {
    let length = Question::length(kind).ok_or(FrameError::Garbage("an unknown question"))?;
    let mut bytes = [0; ASK_BYTES];
    bytes[0] = kind;
    from.read_exact(&mut bytes[1..length]).await?;
    Question::decode(&bytes[..length]).ok_or(FrameError::Garbage("an impossible question"))
}

/// Reads a reply behind its first byte, but not the bytes of a chunk.
pub(crate) async fn read_reply(kind: u8, from: &mut (impl AsyncRead + Unpin)) -> Result<Reply, FrameError> {
    let length = Reply::length(kind).ok_or(FrameError::Garbage("an unknown reply"))?;
    let mut bytes = [0; CHUNK_HEAD_BYTES];
    bytes[0] = kind;
    from.read_exact(&mut bytes[1..length]).await?;
    Reply::decode(&bytes[..length]).ok_or(FrameError::Garbage("an impossible reply"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const OUTCOMES: [Outcome; 6] =
        [Outcome::Whole, Outcome::Busy, Outcome::Absent, Outcome::Failed, Outcome::Cancelled, Outcome::Closed];

    fn question(bytes: &[u8]) -> Result<Option<Question>, FrameError> {
        let mut from = bytes;
        let read = async {
            match read_kind(&mut from).await? {
                Some(kind) => read_question(kind, &mut from).await.map(Some),
                None => Ok(None),
            }
        };
        read.now_or_never().expect("nothing is waited for")
    }

    fn reply(bytes: &[u8]) -> Result<Option<Reply>, FrameError> {
        let mut from = bytes;
        let read = async {
            match read_kind(&mut from).await? {
                Some(kind) => read_reply(kind, &mut from).await.map(Some),
                None => Ok(None),
            }
        };
        read.now_or_never().expect("nothing is waited for")
    }

    #[test]
    fn the_golden_samples_have_not_changed() {
        assert_eq!(hex::encode(GREETING), "4f4d5842554c4b31");
        let ask = |is_background| {
            let extent = Extent { first: 0x0102, count: 16 };
            Question::Ask { request: 7, sha256: Digest([0xab; 32]), extent, is_background }
        };
        let rest = format!("0000000000000007{}0000010200000010", "ab".repeat(32));
        let questions = [
            (ask(false), format!("01{rest}")),
            (ask(true), format!("03{rest}")),
            (Question::Cancel { request: u64::MAX }, "02ffffffffffffffff".to_owned()),
        ];
        for (asked, bytes) in questions {
            assert_eq!(hex::encode(asked.encode()), bytes);
            let read = question(&hex::decode(&bytes).expect("digits")).expect("a question");
            assert_eq!(read, Some(asked));
        }
        let end = |outcome| Reply::End { request: 9, outcome };
        let replies = [
            (Reply::Chunk { request: 7, index: 5, length: 0x0040_0000 }, "0100000000000000070000000500400000"),
            (end(Outcome::Whole), "02000000000000000900"),
            (end(Outcome::Busy), "02000000000000000901"),
            (end(Outcome::Absent), "02000000000000000902"),
            (end(Outcome::Failed), "02000000000000000903"),
            (end(Outcome::Cancelled), "02000000000000000904"),
            (end(Outcome::Closed), "02000000000000000905"),
        ];
        for (told, bytes) in replies {
            assert_eq!(hex::encode(told.encode()), bytes);
            assert_eq!(reply(&hex::decode(bytes).expect("digits")).expect("a reply"), Some(told));
        }
    }

    #[test]
    fn the_end_of_a_stream_lies_between_frames_only() {
        assert!(matches!(question(&[]), Ok(None)) && matches!(reply(&[]), Ok(None)));
        let cut = question(&Question::Cancel { request: 1 }.encode()[..8]);
        assert!(matches!(cut, Err(FrameError::Broken(_))), "{cut:?}");
        let cut = reply(&Reply::Chunk { request: 1, index: 0, length: 1 }.encode()[..9]);
        assert!(matches!(cut, Err(FrameError::Broken(_))), "{cut:?}");
    }

    #[test]
    fn what_is_no_frame_is_garbage() {
        let ask = |first: u32, count: u32| {
            let (sha256, extent) = (Digest([1; 32]), Extent { first, count });
            question(&Question::Ask { request: 1, sha256, extent, is_background: false }.encode())
        };
        assert!(ask(u32::MAX - 1, 1).is_ok() && ask(0, EXTENT_CHUNKS_MAX).is_ok());
        for (first, count) in [(0, 0), (0, EXTENT_CHUNKS_MAX + 1), (u32::MAX, 1), (u32::MAX - 14, 16)] {
            assert!(matches!(ask(first, count), Err(FrameError::Garbage(_))), "{first} {count}");
        }
        let most = u32::try_from(CHUNK_BYTES).expect("small");
        let chunk = |length: u32| reply(&Reply::Chunk { request: 1, index: 0, length }.encode());
        assert!(chunk(1).is_ok() && chunk(most).is_ok());
        for length in [0, most + 1, u32::MAX] {
            assert!(matches!(chunk(length), Err(FrameError::Garbage(_))), "{length}");
        }
        assert!(matches!(reply(&[2, 0, 0, 0, 0, 0, 0, 0, 1, 6]), Err(FrameError::Garbage(_))), "a seventh outcome");
        for kind in [0, 4, b'G', 0xff] {
            assert!(matches!(question(&[kind; 64]), Err(FrameError::Garbage(_))), "{kind}");
            assert!(matches!(reply(&[kind; 64]), Err(FrameError::Garbage(_))), "{kind}");
        }
        let greet = |bytes: &[u8]| {
            let mut from = bytes;
            read_greeting(&mut from).now_or_never().expect("nothing is waited for").is_ok()
        };
        assert!(greet(b"OMXBULK1 and more") && !greet(b"OMXBULK2") && !greet(b"OMXBULK") && !greet(b"GET / HTTP/1.1"));
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_went(
            request in any::<u64>(),
            sha256 in any::<[u8; 32]>(),
            first in 0..=u32::MAX - EXTENT_CHUNKS_MAX,
            count in 1..=EXTENT_CHUNKS_MAX,
            length in 1..=4_u32 << 20,
            outcome in 0..OUTCOMES.len(),
            is_background in any::<bool>(),
        ) {
            let extent = Extent { first, count };
            let ask = Question::Ask { request, sha256: Digest(sha256), extent, is_background };
            for asked in [ask, Question::Cancel { request }] {
                prop_assert_eq!(question(&asked.encode()).expect("a question"), Some(asked));
            }
            let outcome = OUTCOMES[outcome];
            for told in [Reply::Chunk { request, index: first, length }, Reply::End { request, outcome }] {
                prop_assert_eq!(reply(&told.encode()).expect("a reply"), Some(told));
            }
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(Some(asked)) = question(&bytes) {
                prop_assert!(bytes.starts_with(&asked.encode()));
            }
            if let Ok(Some(told)) = reply(&bytes) {
                prop_assert!(bytes.starts_with(&told.encode()));
            }
        }
    }
}
