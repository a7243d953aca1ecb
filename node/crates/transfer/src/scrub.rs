//! Which file of the store is read again next: the one that somebody doubts, else the one that was not read for the
//! longest time, if that is long enough. It does nothing by itself.
//!
//! Always holds: of each file only the last moment is kept at which it was read to its end, and a file that is another
//! one by now is forgotten. Cannot fail.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_blobs::FileIdentity;
use ollamax_types::{DAY_MS, Digest, Timestamp};

/// Wait before a file is read again that could not be read to its end.
const RETRY_MS: u64 = 600_000;
/// Most files that are read because somebody doubts them; one more is not.
const DOUBTED_MAX: usize = 64;

/// When the files of a store were read, and which of them are doubted.
#[derive(Debug)]
pub(crate) struct Rota {
    /// A file is read again after so long; 0: never.
    interval_ms: u64,
    files: BTreeMap<Digest, (FileIdentity, Timestamp)>,
    /// The same, the oldest first.
    order: BTreeSet<(Timestamp, Digest)>,
    doubted: BTreeSet<Digest>,
}

// === impl Rota ===

impl Rota {
    pub(crate) fn new(days: u32) -> Self {
        let interval_ms = u64::from(days).saturating_mul(DAY_MS);
        Self { interval_ms, files: BTreeMap::new(), order: BTreeSet::new(), doubted: BTreeSet::new() }
    }

    /// These are the sound files of the store; all else is forgotten. Those of which it is not known when they were
    /// read.
    pub(crate) fn keep(&mut self, sound: &BTreeMap<Digest, FileIdentity>) -> Vec<(Digest, FileIdentity)> {
        let is_known = |sha256: &Digest, identity: &FileIdentity| sound.get(sha256) == Some(identity);
        self.files.retain(|sha256, (identity, _)| is_known(sha256, identity));
        let files = &self.files;
        self.order.retain(|(_, sha256)| files.contains_key(sha256));
        self.doubted.retain(|sha256| sound.contains_key(sha256));
        let unknown = sound.iter().filter(|(sha256, _)| !files.contains_key(*sha256));
        unknown.map(|(sha256, identity)| (*sha256, *identity)).collect()
    }

    /// A file was read to its end then, or is to be treated as if.
    pub(crate) fn set(&mut self, sha256: Digest, identity: FileIdentity, at: Timestamp) {
        self.forget(sha256);
        self.files.insert(sha256, (identity, at));
        self.order.insert((at, sha256));
    }

    /// A file could not be read to its end.
    pub(crate) fn put_off(&mut self, sha256: Digest, identity: FileIdentity, now: Timestamp) {
        let due = now.plus_ms(RETRY_MS);
        self.set(sha256, identity, Timestamp(due.0.saturating_sub(self.interval_ms)));
    }

    /// Nothing is known of a file any more, and nobody doubts it.
    pub(crate) fn forget(&mut self, sha256: Digest) {
        self.doubted.remove(&sha256);
        if let Some((_, at)) = self.files.remove(&sha256) {
            self.order.remove(&(at, sha256));
        }
    }

    /// Somebody got other bytes from a file than it should have.
    pub(crate) fn doubt(&mut self, sha256: Digest) {
        if self.doubted.len() < DOUBTED_MAX {
            self.doubted.insert(sha256);
        }
    }

    /// The first file that somebody doubts.
    pub(crate) fn doubted(&self) -> Option<Digest> {
        self.doubted.first().copied()
    }

    /// The file that is read next although nobody doubts it.
    pub(crate) fn due(&self, now: Timestamp) -> Option<Digest> {
        let (at, sha256) = self.order.first()?;
        let is_due = self.interval_ms > 0 && now.ms_since(*at) >= self.interval_ms;
        is_due.then_some(*sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest([byte; 32])
    }

    fn identity(ino: u64) -> FileIdentity {
        FileIdentity { dev: 1, ino, size: 1, mtime_ns: 0, ctime_ns: 0 }
    }

    const fn days(count: u64) -> Timestamp {
        Timestamp(count * DAY_MS)
    }

    #[test]
    fn the_oldest_is_read_first_and_none_before_its_time() {
        let mut rota = Rota::new(30);
        assert_eq!(rota.due(days(99)), None);
        for (byte, at) in [(1, 20), (2, 10), (3, 15)] {
            rota.set(digest(byte), identity(u64::from(byte)), days(at));
        }
        assert_eq!(rota.due(Timestamp(days(40).0 - 1)), None);
        let mut order = Vec::new();
        while let Some(sha256) = rota.due(days(49)) {
            order.push(sha256.0[0]);
            rota.set(sha256, identity(u64::from(sha256.0[0])), days(49));
        }
        assert_eq!(order, [2, 3], "the first is 29 days old");
        assert_eq!(rota.due(days(50)), Some(digest(1)));
    }

    #[test]
    fn with_no_days_nothing_is_read_but_what_somebody_doubts() {
        let mut rota = Rota::new(0);
        rota.set(digest(1), identity(1), days(0));
        assert_eq!((rota.due(days(9_999)), rota.doubted()), (None, None));
        rota.doubt(digest(1));
        assert_eq!(rota.doubted(), Some(digest(1)));
        rota.set(digest(1), identity(1), days(1));
        assert_eq!(rota.doubted(), None, "it was read");
    }

    #[test]
    fn only_the_very_file_that_was_read_is_known() {
        let mut rota = Rota::new(30);
        rota.set(digest(1), identity(1), days(1));
        rota.set(digest(2), identity(2), days(2));
        rota.doubt(digest(2));
        let sound = BTreeMap::from([(digest(1), identity(9)), (digest(3), identity(3))]);
        assert_eq!(rota.keep(&sound), [(digest(1), identity(9)), (digest(3), identity(3))]);
        assert_eq!((rota.due(days(99)), rota.doubted()), (None, None));
    }

    #[test]
    fn what_cannot_be_read_rests_for_ten_minutes() {
        let mut rota = Rota::new(30);
        rota.set(digest(1), identity(1), days(1));
        rota.put_off(digest(1), identity(1), days(40));
        assert_eq!(rota.due(Timestamp(days(40).0 + RETRY_MS - 1)), None);
        assert_eq!(rota.due(Timestamp(days(40).0 + RETRY_MS)), Some(digest(1)));
    }

    #[test]
    fn a_flood_of_doubts_is_bounded() {
        let mut rota = Rota::new(30);
        (0..=255).for_each(|byte| rota.doubt(digest(byte)));
        assert_eq!(rota.doubted.len(), DOUBTED_MAX);
    }
}
