//! Files on which pulls of this node count: those of the version that each brings, whether they are there or not.
//!
//! A pull counts on its files before it looks what is there, and until it has published or given up. Always holds: what
//! is counted on loses neither its name in the store nor its last name by anybody of this process. Lost with the
//! process, which does no harm: a pull that goes on after a start looks anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_blobs::Manifest;
use ollamax_types::Digest;

/// How many pulls count on each file. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<Digest, usize>>>);

/// A pull counts on these files for as long as this is held.
#[derive(Debug)]
pub(crate) struct Counted {
    counts: Counts,
    files: Vec<Digest>,
}

// === impl Counts ===

impl Counts {
    /// Counts on the files of a version from now on.
    pub(crate) fn on(&self, wanted: &Manifest) -> Counted {
        let files: Vec<Digest> = wanted.blobs().into_iter().map(|blob| blob.sha256).collect();
        let mut counts = self.lock();
        for sha256 in &files {
            *counts.entry(*sha256).or_default() += 1;
        }
        drop(counts);
        Counted { counts: self.clone(), files }
    }

    /// Whether a pull counts on a file.
    pub(crate) fn has(&self, sha256: Digest) -> bool {
        self.lock().contains_key(&sha256)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        for sha256 in &self.files {
            let left = counts.get(sha256).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                counts.remove(sha256);
            } else {
                counts.insert(*sha256, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_counted_on_until_the_last_pull_that_does_is_over() {
        let manifest = |files: &[u8]| {
            let layer = |file: &u8| {
                let sha256 = Digest([*file; 32]);
                format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":1}}"#)
            };
            let layers: Vec<String> = files.iter().map(layer).collect();
            let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
            Manifest::read(text.as_bytes()).expect("a manifest")
        };
        let counts = Counts::default();
        let counted_on = || [1, 2, 3].map(|file| counts.has(Digest([file; 32])));
        let one = counts.on(&manifest(&[1, 2]));
        let other = counts.on(&manifest(&[2, 3]));
        assert_eq!(counted_on(), [true, true, true]);
        drop(one);
        assert_eq!(counted_on(), [false, true, true]);
        drop(other);
        assert_eq!(counted_on(), [false, false, false]);
    }
}
