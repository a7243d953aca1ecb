//! Fixed pieces of a file: how many, how long, and which of them are there.
//!
//! All pieces have [`CHUNK_BYTES`] but the last, which is what remains; an empty file has none. Which pieces are there
//! is a [`Bits`]: as large as the file has pieces and never larger, whatever is set or read.

use std::ops::Range;

/// Length of every piece of a file but the last. A power of two, so that a piece is a subtree of the file's BLAKE3.
pub const CHUNK_BYTES: u64 = 4 << 20;

const WORD_BITS: u32 = u64::BITS;

/// Pieces of a file of this size; 0 for an empty one. `size_bytes` is at most `BLOB_BYTES_MAX`.
#[must_use]
pub fn chunk_count(size_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX)
}

/// The bytes that are piece `index` of a file of this size; empty beyond the end.
#[must_use]
pub fn chunk_range(size_bytes: u64, index: u32) -> Range<u64> {
    let start = (u64::from(index) * CHUNK_BYTES).min(size_bytes);
    start..start.saturating_add(CHUNK_BYTES).min(size_bytes)
}

/// One bit for each piece of a file. Bits beyond the end do not exist: they are never set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bits {
    words: Vec<u64>,
    len: u32,
    ones: u32,
}

// === impl Bits ===

impl Bits {
    /// So many bits, none of them set.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(WORD_BITS) as usize], len, ones: 0 }
    }

    /// So many bits, all of them set.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut bits = Self { words: vec![u64::MAX; len.div_ceil(WORD_BITS) as usize], len, ones: len };
        if let Some(last) = bits.words.last_mut()
            && !len.is_multiple_of(WORD_BITS)
        {
            *last = mask(len) - 1;
        }
        bits
    }

    /// Reads what [`Bits::to_bytes`] wrote. `None` when the length is another, or when a bit beyond `len` is set.
    #[must_use]
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != len.div_ceil(u8::BITS) as usize {
            return None;
        }
        let beyond = bytes.last().is_some_and(|last| !len.is_multiple_of(u8::BITS) && last >> (len % u8::BITS) != 0);
        if beyond {
            return None;
        }
        let words = bytes.chunks(size_of::<u64>()).map(|part| {
            let mut word = [0; size_of::<u64>()];
            word[..part.len()].copy_from_slice(part);
            u64::from_le_bytes(word)
        });
        let words: Vec<u64> = words.collect();
        let ones = words.iter().map(|word| word.count_ones()).sum();
        Some(Self { words, len, ones })
    }

    /// One bit after the other, the lowest of each byte first; `len / 8` bytes, rounded up.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(u8::BITS) as usize);
        bytes
    }

    /// How many bits there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no bit at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bits are set.
    #[must_use]
    pub const fn ones(&self) -> u32 {
        self.ones
    }

    /// Whether every bit is set.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether this bit is set; false beyond the end.
    #[must_use]
    pub fn get(&self, index: u32) -> bool {
        index < self.len && self.words[(index / WORD_BITS) as usize] & mask(index) != 0
    }

    /// Sets a bit; true when it was not set before. Beyond the end nothing happens, and the answer is false.
    pub fn set(&mut self, index: u32) -> bool {
        if index >= self.len || self.get(index) {
            return false;
        }
        self.words[(index / WORD_BITS) as usize] |= mask(index);
        self.ones += 1;
        true
    }

    /// Clears a bit; true when it was set before.
    pub fn clear(&mut self, index: u32) -> bool {
        if !self.get(index) {
            return false;
        }
        self.words[(index / WORD_BITS) as usize] &= !mask(index);
        self.ones -= 1;
        true
    }

    /// How many bits are set without a gap from the first on.
    #[must_use]
    pub fn prefix(&self) -> u32 {
        self.next(0, false)
    }

    /// The bits that are not set, in order, from `from` on.
    pub fn zeros_from(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            let zero = self.next(at, false);
            at = zero.saturating_add(1);
            (zero < self.len).then_some(zero)
        })
    }

    /// The runs of set bits, in order; between two of them at least one bit is not set.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, true);
            at = self.next(start, false);
            (start < at).then_some(start..at)
        })
    }

    /// The first bit from `from` on that is as `wanted`; `len` where there is none.
    fn next(&self, from: u32, wanted: bool) -> u32 {
        let first = from / WORD_BITS;
        for (number, word) in (first..).zip(self.words.iter().skip(first as usize)) {
            let candidates = if wanted { *word } else { !*word };
            let candidates = if number == first { candidates & !(mask(from) - 1) } else { candidates };
            if candidates != 0 {
                return (number * WORD_BITS + candidates.trailing_zeros()).min(self.len);
            }
        }
        self.len
    }
}

/// The place of a bit in its word.
const fn mask(index: u32) -> u64 {
    1 << (index % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_is_short_and_an_empty_file_has_none() {
        let check = |size: u64, ranges: &[Range<u64>]| {
            assert_eq!(chunk_count(size) as usize, ranges.len(), "{size}");
            for (index, range) in (0..).zip(ranges) {
                assert_eq!(chunk_range(size, index), *range, "{size}");
            }
            let beyond = chunk_range(size, u32::try_from(ranges.len()).expect("few"));
            assert!(beyond.is_empty() && beyond.end == size, "{size}");
        };
        let whole = CHUNK_BYTES;
        check(0, &[]);
        check(1, std::slice::from_ref(&(0..1)));
        check(whole - 1, std::slice::from_ref(&(0..whole - 1)));
        check(whole, std::slice::from_ref(&(0..whole)));
        check(whole + 1, &[0..whole, whole..whole + 1]);
        check(3 * whole, &[0..whole, whole..2 * whole, 2 * whole..3 * whole]);
    }

    #[test]
    fn sizes_that_no_file_has_do_not_overflow() {
        assert_eq!(chunk_count(u64::MAX), u32::MAX);
        let last = chunk_range(u64::MAX, u32::MAX);
        assert_eq!(last.end - last.start, CHUNK_BYTES);
        assert!(chunk_range(0, u32::MAX).is_empty());
    }

    /// Every pattern of few bits, and patterns round the borders of words.
    fn patterns() -> impl Iterator<Item = (u32, Vec<u32>)> {
        let small = (0..=10_u32).flat_map(|len| {
            (0..1_u32 << len).map(move |set| (len, (0..len).filter(|bit| (set >> bit) & 1 == 1).collect::<Vec<u32>>()))
        });
        let large = [63, 64, 65, 127, 128, 129, 200].into_iter().flat_map(|len: u32| {
            let every = |step: usize| (0..len).step_by(step).collect::<Vec<u32>>();
            let borders = [0, 62, 63, 64, 65, len - 1].into_iter().filter(|bit| *bit < len).collect();
            [vec![], every(1), every(2), every(3), every(64), borders].map(|set| (len, set))
        });
        small.chain(large)
    }

    fn bits(len: u32, set: &[u32]) -> Bits {
        let mut bits = Bits::new(len);
        for bit in set {
            bits.set(*bit);
        }
        bits
    }

    #[test]
    fn bits_come_back_from_their_bytes_and_other_lengths_are_refused() {
        for (len, set) in patterns() {
            let bits = bits(len, &set);
            let bytes = bits.to_bytes();
            assert_eq!(bytes.len(), len.div_ceil(8) as usize);
            assert_eq!(Bits::from_bytes(len, &bytes), Some(bits), "{len} {set:?}");
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Bits::from_bytes(len, &longer), None, "{len} {set:?}");
            if let Some((_, shorter)) = bytes.split_last() {
                assert_eq!(Bits::from_bytes(len, shorter), None, "{len} {set:?}");
            }
        }
        assert_eq!(Bits::from_bytes(3, &[0b111]), Some(Bits::full(3)));
        assert_eq!(Bits::from_bytes(3, &[0b1000]), None, "a bit beyond the end");
        assert_eq!(bits(12, &[0, 9]).to_bytes(), [1, 2], "the byte form has not changed");
    }

    #[test]
    fn what_is_counted_and_listed_is_what_was_set() {
        for (len, set) in patterns() {
            let bits = bits(len, &set);
            let is_set = |bit: &u32| set.contains(bit);
            assert_eq!((bits.len(), bits.is_empty()), (len, len == 0));
            assert_eq!(bits.ones() as usize, (0..len).filter(is_set).count(), "{len} {set:?}");
            assert_eq!(bits.is_full(), (0..len).all(|bit| is_set(&bit)), "{len} {set:?}");
            assert!((0..len + 70).all(|bit| bits.get(bit) == (bit < len && is_set(&bit))), "{len} {set:?}");
            assert_eq!(bits.prefix(), (0..len).take_while(is_set).count() as u32, "{len} {set:?}");
            for from in [0, 1, 63, 64, 65, len, len + 1, u32::MAX] {
                let wanted: Vec<u32> = (from..len).filter(|bit| !is_set(bit)).collect();
                assert_eq!(bits.zeros_from(from).collect::<Vec<u32>>(), wanted, "{len} {set:?} from {from}");
            }
            let runs: Vec<Range<u32>> = bits.runs().collect();
            assert!(runs.iter().cloned().flatten().eq((0..len).filter(is_set)), "{len} {set:?}");
            assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{len} {set:?}");
        }
    }

    #[test]
    fn a_bit_is_set_and_cleared_once_and_none_beyond_the_end() {
        let mut bits = Bits::new(65);
        assert!(bits.set(64) && !bits.set(64));
        assert!(!bits.set(65) && !bits.get(65) && !bits.clear(65));
        assert_eq!(bits.ones(), 1);
        assert!(bits.clear(64) && !bits.clear(64));
        assert_eq!(bits, Bits::new(65));
        let mut full = Bits::full(65);
        assert!(full.is_full() && full.prefix() == 65 && full.zeros_from(0).next().is_none());
        assert!(full.clear(7) && full.set(7));
        assert_eq!(full, Bits::full(65));
        assert!(Bits::full(0).is_full() && Bits::default() == Bits::new(0));
    }
}
