//! The byte form of what is known of a part: header, two slots, hashes.
//!
//! Version 1; numbers are little endian:
//!
//! ```text
//!             0  "OMXPART1"
//!             8  sha256 of the whole file, 32 bytes
//!            40  size of the whole file, u64
//!            48  bytes of a chunk, u32
//!            52  crc32c of the 52 bytes before, u32; then zeros
//!     4096 + kS  slot k (0 and 1), where S is its length rounded up to 4096:
//!                 0  epoch, u64
//!                 8  sealed, u8: 0 or 1
//!                 9  3 zeros
//!                12  one bit for each chunk, the lowest of a byte first
//!                    crc32c of all that, u32
//! 4096 + 2S + 32i  hash of chunk i
//! ```
//!
//! The header is written once, when the part begins, and says whose state this is. A slot is written as a whole, always
//! the one that does not count, with the next epoch; of two sound slots the one of the later epoch counts, so a slot
//! that was torn while it was written costs what it would have added. A hash is written before its bit is set anywhere.
//! Nothing here is trusted for more than it is: a set bit is a claim that reading the chunk proves or refutes.

use ollamax_types::Digest;
use ollamax_types::chunk::{Bits, CHUNK_BYTES, chunk_count};
use ollamax_types::limits::BLOB_BYTES_MAX;

use crate::store::BlobSpec;
use crate::tree::ChunkHash;

const MAGIC: [u8; 8] = *b"OMXPART1";
/// Bytes of the header that mean something, its checksum among them.
pub(super) const HEADER_BYTES: usize = 56;
/// Header and slots begin at multiples of this.
const PAGE_BYTES: u64 = 4_096;
/// Bytes of a slot before its bits.
const SLOT_HEAD_BYTES: u64 = 12;
/// Bytes of a checksum.
const SUM_BYTES: u64 = 4;
/// Bytes of one hash.
const HASH_BYTES: u64 = size_of::<ChunkHash>() as u64;
/// Chunks of the length that the header names.
const CHUNK_LENGTH: u32 = CHUNK_BYTES as u32;
/// No slot that was ever written has a later epoch: there would be none after it.
const EPOCH_MAX: u64 = u64::MAX >> 1;

/// Where what lies in the state file of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    chunks: u32,
}

/// What one slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// Counts up with each slot that is written.
    pub(super) epoch: u64,
    /// The whole file was found to be what it should be.
    pub(super) sealed: bool,
    /// Which chunks are there.
    pub(super) bits: Bits,
}

// === impl Layout ===

impl Layout {
    pub(super) fn of(size_bytes: u64) -> Self {
        Self { chunks: chunk_count(size_bytes) }
    }

    pub(super) const fn chunks(self) -> u32 {
        self.chunks
    }

    /// Bytes of a slot, without what rounds it up.
    pub(super) fn slot_bytes(self) -> u64 {
        SLOT_HEAD_BYTES + u64::from(self.chunks.div_ceil(u8::BITS)) + SUM_BYTES
    }

    /// Where slot `number` (0 or 1) begins.
    pub(super) fn slot_at(self, number: u8) -> u64 {
        PAGE_BYTES + u64::from(number) * self.slot_bytes().next_multiple_of(PAGE_BYTES)
    }

    /// Where the hash of a chunk begins.
    pub(super) fn hash_at(self, index: u32) -> u64 {
        self.slot_at(2) + u64::from(index) * HASH_BYTES
    }

    /// Bytes of the whole file.
    pub(super) fn file_bytes(self) -> u64 {
        self.hash_at(self.chunks)
    }
}

/// The header of the state of this file.
pub(super) fn encode_header(spec: BlobSpec) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&spec.sha256.0);
    bytes.extend_from_slice(&spec.size_bytes.to_le_bytes());
    bytes.extend_from_slice(&CHUNK_LENGTH.to_le_bytes());
    with_sum(bytes)
}

/// Whose state this is; `None` when these are not the bytes of a header of version 1.
pub(super) fn decode_header(bytes: &[u8]) -> Option<BlobSpec> {
    let head = without_sum(bytes.get(..HEADER_BYTES)?)?;
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (sha256, rest) = rest.split_first_chunk::<32>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (chunk, _) = rest.split_first_chunk::<4>()?;
    let size_bytes = u64::from_le_bytes(*size);
    let known = *magic == MAGIC && u32::from_le_bytes(*chunk) == CHUNK_LENGTH && size_bytes <= BLOB_BYTES_MAX;
    known.then_some(BlobSpec { sha256: Digest(*sha256), size_bytes })
}

/// The bytes of a slot that says this.
pub(super) fn encode_slot(epoch: u64, sealed: bool, bits: &Bits) -> Vec<u8> {
    let bits = bits.to_bytes();
    let mut bytes = Vec::with_capacity(bits.len() + 16);
    bytes.extend_from_slice(&epoch.to_le_bytes());
    bytes.extend_from_slice(&[u8::from(sealed), 0, 0, 0]);
    bytes.extend_from_slice(&bits);
    with_sum(bytes)
}

/// What a slot says of a file of so many chunks; `None` when it is not sound.
pub(super) fn decode_slot(chunks: u32, bytes: &[u8]) -> Option<Slot> {
    let covered = without_sum(bytes)?;
    let (epoch, rest) = covered.split_first_chunk::<8>()?;
    let (flags, bits) = rest.split_first_chunk::<4>()?;
    let epoch = u64::from_le_bytes(*epoch);
    let sealed = match flags {
        [0, 0, 0, 0] => false,
        [1, 0, 0, 0] => true,
        _ => return None,
    };
    let bits = Bits::from_bytes(chunks, bits)?;
    (epoch <= EPOCH_MAX).then_some(Slot { epoch, sealed, bits })
}

/// The slot that counts, and its number: the sound one, and of two the later one.
pub(super) fn latest(slots: [Option<Slot>; 2]) -> Option<(u8, Slot)> {
    let sound = (0..).zip(slots).filter_map(|(number, slot)| Some((number, slot?)));
    sound.max_by_key(|(_, slot)| slot.epoch)
}

fn with_sum(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// What the checksum at the end covers, when it fits.
fn without_sum(bytes: &[u8]) -> Option<&[u8]> {
    let (covered, sum) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(covered) == u32::from_le_bytes(*sum)).then_some(covered)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// The pieces of a golden sample, each with its place; what lies between them is zeros.
    fn golden() -> Vec<(usize, Vec<u8>)> {
        let lines = include_str!("../../tests/golden/part-v1.hex").lines();
        let pieces = lines.map(|line| line.split_once(' ').expect("a place and bytes"));
        pieces
            .map(|(at, bytes)| (at.parse().expect("a place"), hex::decode(bytes).expect("hexadecimal digits")))
            .collect()
    }

    fn bits(len: u32, set: &[u32]) -> Bits {
        let mut bits = Bits::new(len);
        for index in set {
            bits.set(*index);
        }
        bits
    }

    /// Of a file of 9 MiB and 5 bytes, hence three chunks, of which the first and last were there before the second.
    #[test]
    fn the_golden_sample_has_not_changed() {
        let spec = BlobSpec { sha256: Digest([0xab; 32]), size_bytes: 9 * MIB + 5 };
        let layout = Layout::of(spec.size_bytes);
        let place = |at: u64| usize::try_from(at).expect("small");
        let slots = [
            Slot { epoch: 7, sealed: true, bits: Bits::full(3) },
            Slot { epoch: 6, sealed: false, bits: bits(3, &[0, 2]) },
        ];
        let encode = |slot: &Slot| encode_slot(slot.epoch, slot.sealed, &slot.bits);
        let expected = golden();
        let hashes = (0..3).map(|index| (place(layout.hash_at(index)), vec![0x11 * (index as u8 + 1); 32]));
        let written = [(0, encode_header(spec))]
            .into_iter()
            .chain((0..).zip(&slots).map(|(number, slot)| (place(layout.slot_at(number)), encode(slot))))
            .chain(hashes);
        assert_eq!(written.collect::<Vec<_>>(), expected);
        assert_eq!(layout.file_bytes(), 12_288 + 96);
        assert_eq!(decode_header(&expected[0].1), Some(spec));
        let read = [1, 2].map(|piece| decode_slot(3, &expected[piece].1));
        assert_eq!(read.clone().map(Option::unwrap), slots);
        assert_eq!(latest(read), Some((0, slots[0].clone())));
    }

    #[test]
    fn of_two_slots_the_newer_sound_one_counts() {
        let slot = |epoch: u64| Slot { epoch, sealed: false, bits: Bits::new(3) };
        let check = |slots: [Option<u64>; 2], expected: Option<u8>| {
            let found = latest(slots.map(|epoch| epoch.map(slot)));
            assert_eq!(found.map(|(number, _)| number), expected, "{slots:?}");
        };
        check([None, None], None);
        check([Some(3), None], Some(0));
        check([None, Some(1)], Some(1));
        check([Some(3), Some(2)], Some(0));
        check([Some(3), Some(4)], Some(1));
    }

    #[test]
    fn places_do_not_overlap_whatever_the_size() {
        let check = |size_bytes: u64, chunks: u32, slot: u64| {
            let layout = Layout::of(size_bytes);
            assert_eq!((layout.chunks(), layout.slot_at(1)), (chunks, PAGE_BYTES + slot), "{size_bytes}");
            assert_eq!(layout.hash_at(0), PAGE_BYTES + 2 * slot, "{size_bytes}");
            assert!(layout.slot_bytes() <= slot, "{size_bytes}");
        };
        check(0, 0, 4_096);
        check(1, 1, 4_096);
        check(CHUNK_BYTES * 8 * 4_080, 8 * 4_080, 4_096);
        check(CHUNK_BYTES * 8 * 4_080 + 1, 8 * 4_080 + 1, 8_192);
        check(BLOB_BYTES_MAX, 4 << 20, 524_288 + 4_096);
    }

    #[test]
    fn what_no_release_wrote_is_refused() {
        let header = |size_bytes: u64, chunk: u32, magic: &[u8; 8]| {
            let parts = [&magic[..], &[1; 32], &size_bytes.to_le_bytes(), &chunk.to_le_bytes()];
            decode_header(&with_sum(parts.concat()))
        };
        assert!(header(BLOB_BYTES_MAX, CHUNK_LENGTH, &MAGIC).is_some());
        assert_eq!(header(BLOB_BYTES_MAX + 1, CHUNK_LENGTH, &MAGIC), None, "larger than any file");
        assert_eq!(header(5, CHUNK_LENGTH / 2, &MAGIC), None, "other chunks");
        assert_eq!(header(5, CHUNK_LENGTH, b"OMXPART2"), None, "another version");
        let slot = |epoch: u64, flags: [u8; 4], bits: &[u8]| {
            decode_slot(3, &with_sum([&epoch.to_le_bytes()[..], &flags, bits].concat()))
        };
        assert!(slot(EPOCH_MAX, [1, 0, 0, 0], &[0b111]).is_some_and(|slot| slot.bits.is_full()));
        assert_eq!(slot(EPOCH_MAX + 1, [0; 4], &[0]), None, "no epoch could follow");
        assert_eq!(slot(1, [2, 0, 0, 0], &[0]), None, "neither sealed nor not");
        assert_eq!(slot(1, [0, 0, 0, 1], &[0]), None, "a flag that has no meaning yet");
        assert_eq!(slot(1, [0; 4], &[0b1000]), None, "a chunk beyond the end");
        assert_eq!(slot(1, [0; 4], &[0, 0]), None, "more chunks than the file has");
        assert_eq!(slot(1, [0; 4], &[]), None, "fewer chunks than the file has");
        assert_eq!(decode_slot(3, &[0; 17]), None, "what a new file holds");
    }

    proptest! {
        #[test]
        fn a_slot_comes_back_as_it_went_and_any_flipped_or_missing_bit_is_seen(
            epoch in 0..EPOCH_MAX,
            sealed in any::<bool>(),
            set in prop::collection::vec(any::<bool>(), 0..300),
            at in any::<usize>(),
        ) {
            let chunks = u32::try_from(set.len()).expect("few");
            let indices: Vec<u32> = (0..chunks).filter(|index| set[*index as usize]).collect();
            let slot = Slot { epoch, sealed, bits: bits(chunks, &indices) };
            let mut bytes = encode_slot(epoch, sealed, &slot.bits);
            prop_assert_eq!(bytes.len() as u64, Layout { chunks }.slot_bytes());
            prop_assert_eq!(decode_slot(chunks, &bytes), Some(slot));
            prop_assert_eq!(decode_slot(chunks, &bytes[..at % bytes.len()]), None);
            let flipped = at % (bytes.len() * 8);
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(decode_slot(chunks, &bytes), None);
        }

        #[test]
        fn a_header_comes_back_as_it_went_and_any_flipped_or_missing_bit_is_seen(
            sha256 in any::<[u8; 32]>(),
            size_bytes in 0..=BLOB_BYTES_MAX,
            at in 0..HEADER_BYTES * 8,
        ) {
            let spec = BlobSpec { sha256: Digest(sha256), size_bytes };
            let mut bytes = encode_header(spec);
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(decode_header(&bytes), Some(spec));
            prop_assert_eq!(decode_header(&bytes[..at / 8]), None);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(decode_header(&bytes), None);
        }
    }
}
