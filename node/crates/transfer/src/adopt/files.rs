//! What is known of the files of a store, and which of them is hashed next. It does nothing by itself.
//!
//! Always holds: what is known of a file holds for that very file alone, and each file stands in one list. Cannot fail.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use ollamax_blobs::{BlobSpec, Fault, FileIdentity};
use ollamax_types::{Digest, Root};

/// What is known of the files of a store, and which is hashed next. It does nothing by itself.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// To be hashed, the smallest first.
    queue: BTreeMap<(u64, Digest), FileIdentity>,
    /// Could not be read to the end.
    resting: BTreeMap<BlobSpec, Resting>,
    /// Not looked at yet, or could not be opened.
    unseen: BTreeSet<BlobSpec>,
    pub(super) sound: BTreeMap<Digest, (FileIdentity, Root)>,
    pub(super) suspect: BTreeMap<Digest, (FileIdentity, String)>,
}

/// A file that could not be read to its end.
#[derive(Debug, Clone)]
struct Resting {
    identity: FileIdentity,
    /// It is not tried again before then.
    until: Instant,
    why: String,
}

/// What a look at one file showed.
#[derive(Debug)]
pub(super) enum Sight {
    /// It is not there, or has another size.
    Gone,
    /// It could not be opened.
    Shut(Fault),
    /// It is there. The root is what is on record for exactly this file; not asked for where it is known already.
    There(FileIdentity, Option<Root>),
}

// === impl Files ===

impl Files {
    /// The next to be hashed.
    pub(super) fn first(&self) -> Option<(BlobSpec, FileIdentity)> {
        let ((size_bytes, sha256), identity) = self.queue.first_key_value()?;
        Some((BlobSpec { sha256: *sha256, size_bytes: *size_bytes }, *identity))
    }

    /// The first of these that is to be hashed.
    pub(super) fn first_of(&self, urgent: &BTreeSet<BlobSpec>) -> Option<(BlobSpec, FileIdentity)> {
        urgent.iter().find_map(|spec| Some((*spec, *self.queue.get(&rank(*spec))?)))
    }

    pub(super) fn wants(&self, spec: BlobSpec, identity: FileIdentity) -> bool {
        self.queue.get(&rank(spec)) == Some(&identity)
    }

    /// Whether this very file is known to be sound.
    pub(super) fn is_sound(&self, sha256: Digest, identity: FileIdentity) -> bool {
        self.sound.get(&sha256).is_some_and(|(sound, _)| *sound == identity)
    }

    /// The files whose root is known.
    pub(super) fn identities(&self) -> BTreeMap<Digest, FileIdentity> {
        self.sound.iter().map(|(sha256, (identity, _))| (*sha256, *identity)).collect()
    }

    /// Takes in which files models are made of, before anybody looked at them.
    pub(super) fn announce(&mut self, wanted: &BTreeSet<BlobSpec>) {
        let known = |spec: &BlobSpec| {
            let is_hashed = self.sound.contains_key(&spec.sha256) || self.suspect.contains_key(&spec.sha256);
            is_hashed || self.queue.contains_key(&rank(*spec)) || self.resting.contains_key(spec)
        };
        self.unseen = wanted.iter().copied().filter(|spec| !known(spec)).collect();
    }

    /// Takes in a look at all files that models are made of; what was not seen is forgotten.
    pub(super) fn take(&mut self, seen: Vec<(BlobSpec, Sight)>, now: Instant) {
        let before = std::mem::take(self);
        for (spec, sight) in seen {
            let sha256 = spec.sha256;
            let (identity, on_record) = match sight {
                Sight::Gone => continue,
                Sight::Shut(_) => {
                    self.unseen.insert(spec);
                    continue;
                }
                Sight::There(identity, on_record) => (identity, on_record),
            };
            let sound = before.sound.get(&sha256).filter(|(sound, _)| *sound == identity);
            let suspect = before.suspect.get(&sha256).filter(|(suspect, _)| *suspect == identity);
            let rests = |resting: &&Resting| resting.identity == identity && now < resting.until;
            let resting = before.resting.get(&spec).filter(rests);
            if let Some(root) = on_record.or(sound.map(|(_, root)| *root)) {
                self.sound.insert(sha256, (identity, root));
            } else if let Some(suspect) = suspect {
                self.suspect.insert(sha256, suspect.clone());
            } else if let Some(resting) = resting {
                self.resting.insert(spec, resting.clone());
            } else {
                self.queue.insert(rank(spec), identity);
            }
        }
    }

    pub(super) fn set_sound(&mut self, spec: BlobSpec, identity: FileIdentity, root: Root) {
        self.queue.remove(&rank(spec));
        self.sound.insert(spec.sha256, (identity, root));
    }

    pub(super) fn set_suspect(&mut self, spec: BlobSpec, identity: FileIdentity, what: String) {
        self.queue.remove(&rank(spec));
        self.suspect.insert(spec.sha256, (identity, what));
    }

    /// A file is not what it was when it was hashed, if it is still that very file. True: nobody knew.
    pub(super) fn doubt(&mut self, sha256: Digest, identity: FileIdentity, what: &str) -> bool {
        if self.sound.get(&sha256).is_none_or(|(sound, _)| *sound != identity) {
            return false;
        }
        self.sound.remove(&sha256);
        self.suspect.insert(sha256, (identity, what.to_owned()));
        true
    }

    pub(super) fn drop_moved(&mut self, spec: BlobSpec) {
        self.queue.remove(&rank(spec));
    }

    pub(super) fn rest(&mut self, spec: BlobSpec, identity: FileIdentity, until: Instant, why: String) {
        self.queue.remove(&rank(spec));
        self.resting.insert(spec, Resting { identity, until, why });
    }

    /// The files that rest, which ones those are, and why.
    pub(super) fn unreadable(&self) -> BTreeMap<Digest, (FileIdentity, String)> {
        let told = |(spec, resting): (&BlobSpec, &Resting)| (spec.sha256, (resting.identity, resting.why.clone()));
        self.resting.iter().map(told).collect()
    }

    /// Bytes of all files that are not hashed.
    pub(super) fn left_bytes(&self) -> u64 {
        let queued = self.queue.keys().map(|(size_bytes, _)| *size_bytes);
        let others = self.resting.keys().chain(&self.unseen).map(|spec| spec.size_bytes);
        queued.chain(others).fold(0, u64::saturating_add)
    }
}

/// Where a file stands in the queue.
const fn rank(spec: BlobSpec) -> (u64, Digest) {
    (spec.size_bytes, spec.sha256)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    const LATER: Duration = Duration::from_secs(1);
    // Where a single file is kept, as the numbers of files in each list.
    const QUEUED: [usize; 5] = [1, 0, 0, 0, 0];
    const RESTING: [usize; 5] = [0, 1, 0, 0, 0];
    const UNSEEN: [usize; 5] = [0, 0, 1, 0, 0];
    const SOUND: [usize; 5] = [0, 0, 0, 1, 0];
    const SUSPECT: [usize; 5] = [0, 0, 0, 0, 1];

    fn spec(name: u8, size_bytes: u64) -> BlobSpec {
        BlobSpec { sha256: Digest([name; 32]), size_bytes }
    }

    fn identity(ino: u64) -> FileIdentity {
        FileIdentity { dev: 1, ino, size: 1, mtime_ns: 0, ctime_ns: 0 }
    }

    fn root(byte: u8) -> Root {
        Root([byte; 32])
    }

    fn there(ino: u64) -> Sight {
        Sight::There(identity(ino), None)
    }

    fn shut() -> Sight {
        Sight::Shut(Fault::at("open", Path::new("/x"))(std::io::ErrorKind::PermissionDenied.into()))
    }

    #[test]
    fn the_smallest_file_is_hashed_first_and_whatever_comes_of_it_takes_it_out() {
        let now = Instant::now();
        let mut files = Files::default();
        let names = [(1, 30), (2, 10), (3, 20), (4, 40)];
        files.take(names.iter().map(|(name, size)| (spec(*name, *size), there(u64::from(*name)))).collect(), now);
        let mut order = Vec::new();
        while let Some((spec, identity)) = files.first() {
            assert!(files.wants(spec, identity));
            match order.len() {
                0 => files.set_sound(spec, identity, root(2)),
                1 => files.set_suspect(spec, identity, "something else".to_owned()),
                2 => files.rest(spec, identity, now + LATER, "no sector".to_owned()),
                _ => files.drop_moved(spec),
            }
            order.push((spec.sha256.0[0], files.left_bytes()));
        }
        // What rests is not hashed yet; of what moved only the next look knows.
        assert_eq!(order, [(2, 90), (3, 70), (1, 70), (4, 30)]);
        let unreadable = BTreeMap::from([(spec(1, 30).sha256, (identity(1), "no sector".to_owned()))]);
        assert_eq!(files.unreadable(), unreadable);
        files.take(vec![(spec(1, 30), there(1))], now + LATER);
        assert_eq!((files.unreadable(), files.first()), (BTreeMap::new(), Some((spec(1, 30), identity(1)))));
    }

    #[test]
    fn what_is_known_of_a_file_holds_for_that_very_file_alone() {
        let now = Instant::now();
        let (file, ino) = (spec(1, 10), identity(1));
        let sound = || Files { sound: BTreeMap::from([(file.sha256, (ino, root(1)))]), ..Files::default() };
        let suspect = || {
            let what = "something else".to_owned();
            Files { suspect: BTreeMap::from([(file.sha256, (ino, what))]), ..Files::default() }
        };
        let resting = || {
            let resting = Resting { identity: ino, until: now + LATER, why: "no sector".to_owned() };
            Files { resting: BTreeMap::from([(file, resting)]), ..Files::default() }
        };
        let queued = || Files { queue: BTreeMap::from([(rank(file), ino)]), ..Files::default() };
        let check = |mut files: Files, sight: Sight, after: Duration, expected: [usize; 5]| {
            let told = format!("{files:?} {sight:?}");
            files.take(vec![(file, sight)], now + after);
            let Files { queue, resting, unseen, sound, suspect } = files;
            let found = [queue.len(), resting.len(), unseen.len(), sound.len(), suspect.len()];
            assert_eq!(found, expected, "{told}");
        };
        let soon = Duration::ZERO;
        check(Files::default(), there(1), soon, QUEUED);
        check(Files::default(), Sight::There(ino, Some(root(1))), soon, SOUND);
        check(queued(), there(1), soon, QUEUED);
        check(queued(), there(2), soon, QUEUED);
        check(sound(), there(1), soon, SOUND);
        check(sound(), there(2), soon, QUEUED);
        check(sound(), Sight::There(identity(2), Some(root(2))), soon, SOUND);
        check(suspect(), there(1), soon, SUSPECT);
        check(suspect(), there(2), soon, QUEUED);
        check(resting(), there(1), soon, RESTING);
        check(resting(), there(1), LATER, QUEUED);
        check(resting(), there(2), soon, QUEUED);
        for files in [queued(), sound(), suspect(), resting()] {
            check(files, shut(), soon, UNSEEN);
        }
        for files in [queued(), sound(), suspect(), resting()] {
            check(files, Sight::Gone, soon, [0; 5]);
        }
    }

    #[test]
    fn a_file_that_others_found_damaged_is_suspect_until_another_lies_there() {
        let now = Instant::now();
        let file = spec(1, 10);
        let mut files = Files::default();
        files.take(vec![(file, Sight::There(identity(1), Some(root(1))))], now);
        assert!(!files.doubt(file.sha256, identity(2), "damaged") && files.suspect.is_empty(), "another file");
        assert!(files.doubt(file.sha256, identity(1), "damaged"));
        assert!(!files.doubt(file.sha256, identity(1), "damaged"), "it is known");
        assert!(files.sound.is_empty());
        files.take(vec![(file, there(1))], now);
        assert_eq!(files.suspect.get(&file.sha256), Some(&(identity(1), "damaged".to_owned())));
        files.take(vec![(file, there(2))], now);
        assert_eq!((files.suspect.len(), files.queue.len()), (0, 1), "it was replaced");
    }

    #[test]
    fn what_nobody_has_looked_at_is_left_to_do() {
        let now = Instant::now();
        let mut files = Files::default();
        files.take(vec![(spec(1, 10), Sight::There(identity(1), Some(root(1)))), (spec(2, 20), there(2))], now);
        files.announce(&BTreeSet::from([spec(1, 10), spec(2, 20), spec(3, 40)]));
        assert_eq!(files.left_bytes(), 60);
        assert_eq!(files.first(), Some((spec(2, 20), identity(2))), "only what was seen is hashed");
    }
}
