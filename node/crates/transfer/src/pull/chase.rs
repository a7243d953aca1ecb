//! Follows a growing file with SHA-256, without a gap.
//!
//! A chunk is read back from disk and goes on into the digest, so that what is published is what the disk has. Only
//! when the digest is not the promised one, each chunk is compared with its own hash, and those that the disk changed
//! go. The state of SHA-256 cannot be kept over a restart: a new chaser begins with the first chunk.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use ollamax_blobs::{Part, PartError};
use ollamax_types::Digest;

use super::blocking;
use crate::error::PullError;

/// Most chunks that one thread takes before it looks whether it is still wanted.
const RUN_CHUNKS: u32 = 16;

/// Most chunks of one file that a disk may damage while it is fetched.
const DAMAGED_MAX: u32 = 16;

/// How far a file is hashed.
#[derive(Clone)]
pub(crate) struct Chaser {
    sha256: Sha256,
    next: u32,
    buffer: Vec<u8>,
}

// === impl Chaser ===

impl Chaser {
    pub(crate) fn new() -> Self {
        Self { sha256: Sha256::new(), next: 0, buffer: Vec::new() }
    }

    /// The first chunk that is not hashed.
    pub(crate) const fn next(&self) -> u32 {
        self.next
    }

    /// Checks a chunk, and hashes it if it is the next one. False: it is not there any more. Blocks on the disk.
    pub(crate) fn take(&mut self, part: &Part, index: u32) -> Result<bool, PartError> {
        let is_sound = part.check(index, &mut self.buffer)?;
        if is_sound && index == self.next {
            self.sha256.update(&self.buffer);
            self.next += 1;
        }
        Ok(is_sound)
    }

    /// Hashes what is there from the next chunk on, before the chunk `end` and up to the first gap, and not for long.
    /// `Some`: this chunk cannot be read any more, and is gone. `place`: where the part lies.
    pub(crate) async fn follow(mut self, part: &Part, end: u32, place: &str) -> Result<(Self, Option<u32>), PullError> {
        let read = part.clone();
        let hashed = blocking(move || {
            let lost = self.run(&read, end);
            (self, lost)
        });
        let (back, lost) = hashed.await?;
        Ok((back, lost.map_err(|error| PullError::of_part(place, &error))?))
    }

    fn run(&mut self, part: &Part, end: u32) -> Result<Option<u32>, PartError> {
        let end = end.min(self.next.saturating_add(RUN_CHUNKS));
        while self.next < end && part.hash_of(self.next).is_some() {
            let is_read = part.read(self.next, &mut self.buffer).is_ok();
            if !is_read && !part.check(self.next, &mut self.buffer)? {
                return Ok(Some(self.next));
            }
            self.sha256.update(&self.buffer);
            self.next += 1;
        }
        Ok(None)
    }

    /// The digest of a part that was hashed to its end; but when it is not the promised one because the disk changed
    /// chunks since they were written, these chunks, which are gone.
    pub(crate) async fn verdict(self, part: &Part, place: &str) -> Result<Result<Digest, Vec<u32>>, PullError> {
        let (digest, count) = (self.finish(), part.have().len());
        let (mut lost, mut begin) = (Vec::new(), 0);
        while digest != part.spec().sha256 && begin < count {
            let (part, run) = (part.clone(), begin..count.min(begin.saturating_add(RUN_CHUNKS)));
            begin = run.end;
            let looked = blocking(move || changed_of(&part, run)).await?;
            lost.extend(looked.map_err(|error| PullError::of_part(place, &error))?);
        }
        Ok(if lost.is_empty() { Ok(digest) } else { Err(lost) })
    }

    /// The digest of what was hashed.
    pub(crate) fn finish(self) -> Digest {
        Digest(self.sha256.finalize().into())
    }
}

/// A chunk of a part is not what was written, and so many were not by now. A disk that goes on like this is not written
/// to for ever. `place`: where the part lies.
pub(crate) fn check_damage(part: &Part, place: &str, index: u32, damaged: u32) -> Result<(), PullError> {
    if damaged <= DAMAGED_MAX {
        return Ok(());
    }
    let blob = part.spec().sha256.short();
    Err(PullError::Disk(format!(
        "{place}: {damaged} chunks of {blob} were not what had been written; chunk {index} was the last"
    )))
}

/// Which of some chunks are not what was written; they are gone.
fn changed_of(part: &Part, chunks: Range<u32>) -> Result<Vec<u32>, PartError> {
    let (mut buffer, mut changed) = (Vec::new(), Vec::new());
    for index in chunks {
        // One that is gone already was withdrawn by somebody who knows why.
        if part.hash_of(index).is_some() && !part.check(index, &mut buffer)? {
            changed.push(index);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use tempfile::TempDir;

    use ollamax_blobs::{BlobSpec, Staging, chunk_hash};
    use ollamax_types::CHUNK_BYTES;

    use super::*;

    fn part(folder: &TempDir, bytes: &[u8]) -> Part {
        let staging = Staging::open(&folder.path().join("staging"), None).expect("ours");
        let spec = BlobSpec { sha256: Digest(Sha256::digest(bytes).into()), size_bytes: bytes.len() as u64 };
        staging.begin(spec).expect("there is room")
    }

    #[test]
    fn chunks_are_hashed_in_order_however_they_are_looked_at() {
        let folder = tempfile::tempdir().expect("temp");
        let length = usize::try_from(CHUNK_BYTES).expect("small");
        let bytes: Vec<u8> = (0..2 * length + 7).map(|at| (at % 253) as u8).collect();
        let part = part(&folder, &bytes);
        for (index, chunk) in (0..).zip(bytes.chunks(length)) {
            part.write(index, chunk, chunk_hash(bytes.len() as u64, index, chunk)).expect("there is room");
        }
        let mut chaser = Chaser::new();
        assert!(chaser.take(&part, 2).expect("readable"), "it is sound, and not its turn");
        assert_eq!(chaser.next(), 0);
        for index in 0..3 {
            assert!(chaser.take(&part, index).expect("readable"));
        }
        assert!(!chaser.take(&part, 3).expect("there is none"));
        assert_eq!((chaser.next(), chaser.finish()), (3, part.spec().sha256));
    }

    #[tokio::test]
    async fn it_goes_up_to_the_gap_and_never_far_at_once() {
        let folder = tempfile::tempdir().expect("temp");
        let length = usize::try_from(CHUNK_BYTES).expect("small");
        let bytes = vec![7; (RUN_CHUNKS as usize + 2) * length];
        let part = part(&folder, &bytes);
        let hash = |index| chunk_hash(bytes.len() as u64, index, &bytes[..length]);
        let count = RUN_CHUNKS + 2;
        (0..count).filter(|index| *index != 3).for_each(|index| {
            part.write(index, &bytes[..length], hash(index)).expect("there is room");
        });
        let (chaser, lost) = Chaser::new().follow(&part, count, "here").await.expect("readable");
        assert_eq!((chaser.next(), lost), (3, None), "up to the gap");
        part.write(3, &bytes[..length], hash(3)).expect("there is room");
        let (chaser, _) = chaser.follow(&part, 5, "here").await.expect("readable");
        assert_eq!(chaser.next(), 5, "not behind what it may");
        let (chaser, _) = Chaser::new().follow(&part, count, "here").await.expect("readable");
        assert_eq!(chaser.next(), RUN_CHUNKS, "not for long");
        let (chaser, _) = chaser.follow(&part, count, "here").await.expect("readable");
        assert_eq!(chaser.verdict(&part, "here").await, Ok(Ok(part.spec().sha256)));
    }

    #[tokio::test]
    async fn what_the_disk_changed_goes_and_what_only_is_another_file_stays() {
        let folder = tempfile::tempdir().expect("temp");
        let length = usize::try_from(CHUNK_BYTES).expect("small");
        let bytes: Vec<u8> = (0..2 * length + 7).map(|at| (at % 253) as u8).collect();
        let part = part(&folder, &bytes);
        let write = |index: u32, chunk: &[u8]| {
            part.write(index, chunk, chunk_hash(bytes.len() as u64, index, chunk)).expect("there is room");
        };
        (0..).zip(bytes.chunks(length)).for_each(|(index, chunk)| write(index, chunk));
        let data = folder.path().join(format!("staging/parts/sha256-{}.part", part.spec().sha256));
        let file = File::options().write(true).open(data).expect("ours");
        file.write_all_at(b"damaged", CHUNK_BYTES + 3).expect("there is room");
        let (chaser, lost) = Chaser::new().follow(&part, 3, "here").await.expect("readable");
        assert_eq!((chaser.next(), lost), (3, None), "it is not looked at yet");
        assert_eq!(chaser.verdict(&part, "here").await, Ok(Err(vec![1])));
        assert_eq!(part.hash_of(1), None);

        let mut other = bytes[length..2 * length].to_vec();
        other[9] ^= 1;
        write(1, &other);
        let (chaser, _) = Chaser::new().follow(&part, 3, "here").await.expect("readable");
        let digest = chaser.verdict(&part, "here").await.expect("readable").expect("it is what was written");
        assert_ne!(digest, part.spec().sha256);
        assert!(part.have().is_full());
    }

    #[test]
    fn nothing_hashes_to_the_digest_of_nothing() {
        let folder = tempfile::tempdir().expect("temp");
        let part = part(&folder, b"");
        part.seal(Chaser::new().finish()).expect("it is whole");
    }
}
