//! A set of small numbers that knows a short form of itself.
//!
//! A search places operations nearly in the order of their calls, so its sets are full in front, empty behind and
//! mixed only between. The short form is that middle: it stays small however long the history is, which is what the
//! memory of the search is made of.

const BITS: usize = 64;

/// The set.
#[derive(Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    /// How many words in front are full.
    full: usize,
    /// Behind which word all are empty.
    end: usize,
}

/// The short form of a set. Two sets of numbers from the same range are equal when their short forms are.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Short {
    full: usize,
    middle: Box<[u64]>,
}

// === impl Bits ===

impl Bits {
    /// The empty set of numbers below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self { words: vec![0; count.div_ceil(BITS)], full: 0, end: 0 }
    }

    pub(super) fn has(&self, number: usize) -> bool {
        self.words[number / BITS] & mask(number) != 0
    }

    pub(super) fn set(&mut self, number: usize) {
        let word = number / BITS;
        self.words[word] |= mask(number);
        self.end = self.end.max(word + 1);
        while self.words.get(self.full) == Some(&u64::MAX) {
            self.full += 1;
        }
    }

    pub(super) fn clear(&mut self, number: usize) {
        let word = number / BITS;
        self.words[word] &= !mask(number);
        self.full = self.full.min(word);
        while self.end > 0 && self.words[self.end - 1] == 0 {
            self.end -= 1;
        }
    }

    pub(super) fn short(&self) -> Short {
        Short { full: self.full, middle: Box::from(&self.words[self.full..self.end]) }
    }
}

fn mask(number: usize) -> u64 {
    1 << (number % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_tells_sets_apart_and_forgets_the_way() {
        let set = |numbers: &[usize]| {
            let mut bits = Bits::new(200);
            numbers.iter().for_each(|number| bits.set(*number));
            bits
        };
        let all: Vec<usize> = (0..200).collect();
        let mut bits = set(&all);
        assert_eq!(bits.short(), Short { full: 3, middle: Box::from([0xff]) });
        bits.clear(70);
        assert_eq!(bits.short(), Short { full: 1, middle: Box::from([!(1 << 6), u64::MAX, 0xff]) });
        (128..200).for_each(|number| bits.clear(number));
        assert_eq!(bits.short(), Short { full: 1, middle: Box::from([!(1 << 6)]) });
        assert!(bits.has(69) && !bits.has(70) && !bits.has(199));
        bits.set(70);
        assert_eq!(bits.short(), set(&all[..128]).short());
        (0..128).for_each(|number| bits.clear(number));
        assert_eq!(bits.short(), set(&[]).short());
        assert_ne!(set(&[3]).short(), set(&[67]).short());
    }
}
