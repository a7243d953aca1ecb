//! What a node has of files, on its way to another: bundled where it leaves, checked where it arrives.
//!
//! Always: the parts that leave say what was said here, at most [`BUNDLE_INTERVAL`] later, and the first word after a
//! pause leaves at once. Within a bundle only the end counts: chunks that follow each other go as one part, and those
//! of a file that has become whole need not be told. A part that makes no sense is none.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::{Instant, timeout_at};

use ollamax_blobs::ChunkHash;
use ollamax_core::transfer_plan::Extent;
use ollamax_proto::v1;
use ollamax_transfer::ports::Have;
use ollamax_types::chunk::chunk_count;
use ollamax_types::{Digest, limits};

/// Shortest time between two bundles.
const BUNDLE_INTERVAL: Duration = Duration::from_millis(50);
/// Most words in one bundle; behind these it leaves at once.
const BUNDLE_WORDS_MAX: usize = 8_192;
/// Most chunks that one part tells with their hashes: 1 MiB of them.
const HASHED_CHUNKS_MAX: usize = (1 << 20) / size_of::<ChunkHash>();

/// What was said since the last bundle left.
#[derive(Debug, Default)]
struct Bundle {
    files: BTreeMap<Digest, File>,
    words: usize,
}

/// What was said of one file.
#[derive(Debug, Default)]
struct File {
    size_bytes: u64,
    /// What was told in earlier bundles does not count.
    is_void: bool,
    is_whole: bool,
    some: Vec<(Extent, Vec<ChunkHash>)>,
}

/// Words as they come, and when the next bundle may leave.
struct Gathering {
    haves: BoxStream<'static, Have>,
    next_at: Instant,
    ended: bool,
}

/// The parts that leave for these words; the stream ends with them.
pub(crate) fn bundled(haves: BoxStream<'static, Have>) -> BoxStream<'static, v1::HavesPart> {
    let gathering = Gathering { haves, next_at: Instant::now(), ended: false };
    stream::unfold(gathering, Gathering::next).flat_map(stream::iter).boxed()
}

/// What a part says; `None` where it makes no sense.
pub(crate) fn from_wire(part: v1::HavesPart) -> Option<Have> {
    let v1::HavesPart { sha256, size_bytes, first, count, hashes, whole, void } = part;
    let sha256 = Digest(sha256.try_into().ok()?);
    if size_bytes > limits::BLOB_BYTES_MAX {
        return None;
    }
    match (whole, void) {
        (true, true) => None,
        (true, false) => Some(Have::Whole { sha256, size_bytes }),
        (false, true) => Some(Have::Void { sha256 }),
        (false, false) => {
            let end = first.checked_add(count)?;
            let (told, rest) = hashes.as_chunks::<{ size_of::<ChunkHash>() }>();
            let fits = count > 0 && end <= chunk_count(size_bytes) && rest.is_empty();
            let is_hashed = told.is_empty() || told.len() == count as usize;
            let extent = Extent { first, count };
            (fits && is_hashed).then(|| Have::Some { sha256, size_bytes, extent, hashes: told.to_vec() })
        }
    }
}

// === impl Gathering ===

impl Gathering {
    /// The next bundle, when there is something to tell.
    async fn next(mut self) -> Option<(Vec<v1::HavesPart>, Self)> {
        if self.ended {
            return None;
        }
        let mut bundle = Bundle::default();
        bundle.add(self.haves.next().await?);
        while bundle.words < BUNDLE_WORDS_MAX {
            match timeout_at(self.next_at, self.haves.next()).await {
                Ok(Some(have)) => bundle.add(have),
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Err(_) => break,
            }
        }
        self.next_at = Instant::now() + BUNDLE_INTERVAL;
        Some((bundle.into_parts(), self))
    }
}

// === impl Bundle ===

impl Bundle {
    fn add(&mut self, have: Have) {
        self.words += 1;
        match have {
            Have::Whole { sha256, size_bytes } => {
                let file = self.files.entry(sha256).or_default();
                (file.size_bytes, file.is_whole) = (size_bytes, true);
                // Hashes are news of their own.
                file.some.retain(|(_, hashes)| !hashes.is_empty());
            }
            Have::Some { sha256, size_bytes, extent, hashes } => {
                let file = self.files.entry(sha256).or_default();
                file.size_bytes = size_bytes;
                if !file.is_whole || !hashes.is_empty() {
                    file.some.push((extent, hashes));
                }
            }
            Have::Void { sha256 } => {
                self.files.insert(sha256, File { is_void: true, ..File::default() });
            }
        }
    }

    fn into_parts(self) -> Vec<v1::HavesPart> {
        self.files.into_iter().flat_map(|(sha256, file)| file.into_parts(sha256)).collect()
    }
}

// === impl File ===

impl File {
    fn into_parts(self, sha256: Digest) -> Vec<v1::HavesPart> {
        let Self { size_bytes, is_void, is_whole, some } = self;
        let part = || v1::HavesPart { sha256: sha256.0.to_vec(), size_bytes, ..v1::HavesPart::default() };
        let mut parts = Vec::new();
        if is_void {
            parts.push(v1::HavesPart { void: true, size_bytes: 0, ..part() });
        }
        for (extent, hashes) in joined(some) {
            let Extent { first, count } = extent;
            if hashes.is_empty() {
                parts.push(v1::HavesPart { first, count, ..part() });
            }
            let mut first = first;
            for hashes in hashes.chunks(HASHED_CHUNKS_MAX) {
                let count = u32::try_from(hashes.len()).unwrap_or(u32::MAX);
                parts.push(v1::HavesPart { first, count, hashes: hashes.concat(), ..part() });
                first = first.saturating_add(count);
            }
        }
        if is_whole {
            parts.push(v1::HavesPart { whole: true, ..part() });
        }
        parts
    }
}

/// In order, and as few as they can be: those with hashes apart from those without.
fn joined(mut some: Vec<(Extent, Vec<ChunkHash>)>) -> Vec<(Extent, Vec<ChunkHash>)> {
    some.sort_by_key(|(extent, _)| extent.first);
    let mut joined: Vec<(Extent, Vec<ChunkHash>)> = Vec::with_capacity(some.len());
    for (extent, hashes) in some {
        match joined.last_mut() {
            Some((last, told)) if last.end() == extent.first && told.is_empty() == hashes.is_empty() => {
                last.count = last.count.saturating_add(extent.count);
                told.extend(hashes);
            }
            _ => joined.push((extent, hashes)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use ollamax_types::chunk::CHUNK_BYTES;

    use super::*;

    const FILE: Digest = Digest([1; 32]);
    const OTHER: Digest = Digest([2; 32]);
    const SIZE_BYTES: u64 = 100 * CHUNK_BYTES;

    fn some(first: u32, count: u32) -> Have {
        Have::Some { sha256: FILE, size_bytes: SIZE_BYTES, extent: Extent { first, count }, hashes: vec![] }
    }

    fn hashed(first: u32, hashes: &[u8]) -> Have {
        let count = u32::try_from(hashes.len()).expect("few");
        let hashes = hashes.iter().map(|byte| [*byte; 32]).collect();
        Have::Some { sha256: FILE, size_bytes: SIZE_BYTES, extent: Extent { first, count }, hashes }
    }

    const fn whole() -> Have {
        Have::Whole { sha256: FILE, size_bytes: SIZE_BYTES }
    }

    const fn void() -> Have {
        Have::Void { sha256: FILE }
    }

    #[test]
    fn a_bundle_says_in_few_parts_what_was_said_in_many_words() {
        let check = |what: &str, words: Vec<Have>, expected: Vec<Have>| {
            let mut bundle = Bundle::default();
            words.into_iter().for_each(|word| bundle.add(word));
            let parts = bundle.into_parts().into_iter().map(from_wire);
            assert_eq!(parts.collect::<Option<Vec<Have>>>(), Some(expected), "{what}");
        };
        check("nothing", vec![], vec![]);
        check("neighbours", vec![some(4, 2), some(0, 1), some(3, 1)], vec![some(0, 1), some(3, 3)]);
        check("a file that became whole", vec![some(0, 1), whole(), some(5, 1)], vec![whole()]);
        check(
            "what counted no more, and what came then",
            vec![some(0, 9), void(), some(2, 1)],
            vec![void(), some(2, 1)],
        );
        check("a whole file that is none", vec![whole(), void()], vec![void()]);
        check("hashes stay", vec![hashed(1, &[8]), whole(), hashed(0, &[7])], vec![hashed(0, &[7, 8]), whole()]);
        check(
            "and apart",
            vec![some(0, 1), hashed(1, &[8]), some(2, 1)],
            vec![some(0, 1), hashed(1, &[8]), some(2, 1)],
        );
        let other = || Have::Whole { sha256: OTHER, size_bytes: 1 };
        check("each file by itself", vec![other(), some(0, 1)], vec![some(0, 1), other()]);
    }

    #[test]
    fn hashes_of_a_large_file_go_in_parts_that_can_be_sent() {
        let count = HASHED_CHUNKS_MAX + 1;
        let size_bytes = CHUNK_BYTES * count as u64;
        let extent = Extent { first: 0, count: u32::try_from(count).expect("few") };
        let mut bundle = Bundle::default();
        bundle.add(Have::Some { sha256: FILE, size_bytes, extent, hashes: vec![[3; 32]; count] });
        let parts = bundle.into_parts();
        let told: Vec<(u32, u32, usize)> =
            parts.iter().map(|part| (part.first, part.count, part.hashes.len())).collect();
        assert_eq!(told, [(0, extent.count - 1, 1 << 20), (extent.count - 1, 1, 32)]);
    }

    #[test]
    fn a_part_that_makes_no_sense_is_none() {
        let part = || v1::HavesPart {
            sha256: FILE.0.to_vec(),
            size_bytes: 3 * CHUNK_BYTES,
            first: 1,
            count: 2,
            ..v1::HavesPart::default()
        };
        assert!(from_wire(part()).is_some());
        let senseless = [
            v1::HavesPart { sha256: vec![1; 31], ..part() },
            v1::HavesPart { size_bytes: limits::BLOB_BYTES_MAX + 1, ..part() },
            v1::HavesPart { count: 0, ..part() },
            v1::HavesPart { count: 3, ..part() },
            v1::HavesPart { first: u32::MAX, ..part() },
            v1::HavesPart { hashes: vec![0; 32], ..part() },
            v1::HavesPart { hashes: vec![0; 65], ..part() },
            v1::HavesPart { whole: true, void: true, ..part() },
        ];
        for part in senseless {
            assert_eq!(from_wire(part.clone()), None, "{part:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_word_leaves_at_once_and_the_next_ones_together() {
        let (words, receiver) = mpsc::channel(16);
        let mut parts = bundled(ReceiverStream::new(receiver).boxed());
        let start = Instant::now();
        words.send(some(0, 1)).await.expect("open");
        assert_eq!(parts.next().await.and_then(from_wire), Some(some(0, 1)));
        assert_eq!(start.elapsed(), Duration::ZERO);
        for first in 1..4 {
            words.send(some(first, 1)).await.expect("open");
        }
        assert_eq!(parts.next().await.and_then(from_wire), Some(some(1, 3)));
        assert_eq!(start.elapsed(), BUNDLE_INTERVAL);
        words.send(whole()).await.expect("open");
        drop(words);
        assert_eq!(parts.next().await.and_then(from_wire), Some(whole()));
        assert_eq!(parts.next().await, None, "the stream ends with its words");
    }
}
