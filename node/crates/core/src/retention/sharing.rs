//! How much is saved because files of models are stored once.
//!
//! Files with the same digest are one file, whatever the number of models that use it. Sums end at the largest number.

use std::collections::BTreeMap;

use ollamax_types::Digest;

/// What models of one store take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sharing {
    /// The files of each model, added up.
    pub apparent_bytes: u64,
    /// Each file once.
    pub unique_bytes: u64,
}

/// What these models take: for each its files with their sizes. A file that one model names twice is counted once for
/// it.
#[must_use]
pub fn sharing(models: &[Vec<(Digest, u64)>]) -> Sharing {
    let mut all: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut apparent_bytes = 0_u64;
    for files in models {
        let own: BTreeMap<Digest, u64> = files.iter().copied().collect();
        apparent_bytes = apparent_bytes.saturating_add(sum(&own));
        all.extend(own);
    }
    Sharing { apparent_bytes, unique_bytes: sum(&all) }
}

fn sum(files: &BTreeMap<Digest, u64>) -> u64 {
    files.values().fold(0, |sum: u64, size| sum.saturating_add(*size))
}

// === impl Sharing ===

impl Sharing {
    /// What is saved.
    #[must_use]
    pub const fn saved_bytes(&self) -> u64 {
        self.apparent_bytes.saturating_sub(self.unique_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    #[test]
    fn a_file_of_several_models_is_stored_once() {
        let check = |what: &str, models: &[&[(u8, u64)]], expected: [u64; 3]| {
            let files = |files: &&[(u8, u64)]| files.iter().map(|(byte, size)| (digest(*byte), *size)).collect();
            let models: Vec<Vec<(Digest, u64)>> = models.iter().map(files).collect();
            let sharing = sharing(&models);
            let found = [sharing.apparent_bytes, sharing.unique_bytes, sharing.saved_bytes()];
            assert_eq!(found, expected, "{what}");
        };
        check("nothing", &[], [0, 0, 0]);
        check("one model", &[&[(1, 70), (2, 30)]], [100, 100, 0]);
        check("two with the same weights", &[&[(1, 70), (2, 30)], &[(1, 70), (3, 5)]], [175, 105, 70]);
        check("three names for one", &[&[(1, 70)], &[(1, 70)], &[(1, 70)]], [210, 70, 140]);
        check("a file that a model names twice", &[&[(1, 70), (1, 70)]], [70, 70, 0]);
        check("more than can be counted", &[&[(1, u64::MAX)], &[(2, 1)]], [u64::MAX, u64::MAX, 0]);
    }
}
