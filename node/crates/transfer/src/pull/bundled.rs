//! The files of a pull that come from a bundle, in the bundle's order.
//!
//! All files that are missing are begun before the first byte is read, each in its turn, so that two bundles never
//! wait for each other. A piece is compared by whoever reads the bundle before it is written, and read back like one
//! that came from a registry. What lies in the store already is read over, and checked all the same. Always holds: the
//! model is published only when the bundle was read to its end and all of it was sound.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use ollamax_blobs::{BundleError, BundleReader, Manifest, Part, PartError};
use ollamax_types::{CHUNK_BYTES, Digest, ErrorCode, chunk_range};

use crate::buffers::Buffer;
use crate::bundle::{Bundled, Feed, Incoming};
use crate::error::PullError;
use crate::progress::Stage;

use super::chase::Chaser;
use super::{Ground, Pull, blocking, upkeep};

/// How often a piece is written that the disk does not give back.
const WRITES_MAX: u32 = 2;

/// A right to work on a file, for as long as it is held.
type Held = OwnedMutexGuard<()>;

/// Why a piece is not there.
enum Trouble {
    Bundle(BundleError),
    Part(PartError),
    /// The disk does not give back what was written.
    Lost(u32),
}

// === impl Pull ===

impl Pull {
    /// The version that the bundle is, unless the name stands for another one.
    pub(super) async fn resolve_bundle(&self, bundled: &Bundled) -> Result<Manifest, PullError> {
        let manifest = bundled.contents.manifest().clone();
        if bundled.replaces {
            return Ok(manifest);
        }
        match self.stored().await? {
            Some((_, stored)) if stored.digest() != manifest.digest() => {
                let (name, found) = (&self.spec.name, stored.digest().short());
                let text = format!("{name} is another version here ({found}), and the bundle does not replace it");
                Err(PullError::Bundle { code: ErrorCode::DigestConflict, text })
            }
            _ => Ok(manifest),
        }
    }

    /// Steps 5 and 6 of a pull from a bundle.
    pub(super) async fn take_bundle(&self, ground: &Ground, bundled: &Bundled) -> Result<Vec<Part>, PullError> {
        let Some(incoming) = bundled.take() else {
            let text = "the store lost a file of the model meanwhile; import the bundle again".to_owned();
            return Err(PullError::Bundle { code: ErrorCode::PreconditionFailed, text });
        };
        let (held, parts) = self.begin_all(ground).await?;
        self.board.begin(Stage::Fetching);
        let taken = tokio::select! {
            biased;
            taken = self.unless_ended(self.take_files(ground, incoming, &parts)) => taken,
            () = upkeep::keep_told(&self.board) => Err(PullError::Stopping),
        };
        drop(held);
        taken.map(|()| parts.into_values().collect())
    }

    /// Begins all files that are missing, in one order for all.
    async fn begin_all(&self, ground: &Ground) -> Result<(Vec<Held>, BTreeMap<Digest, Part>), PullError> {
        let mut missing: Vec<_> = ground.missing.iter().collect();
        missing.sort_unstable_by_key(|(blob, _)| blob.sha256);
        let (mut held, mut parts) = (Vec::new(), BTreeMap::new());
        for (blob, turn) in missing {
            let taken = async { Ok(Arc::clone(turn).lock_owned().await) };
            held.push(self.unless_ended(taken).await?);
            let begun = self.begin_part(ground, *blob).await?;
            if begun.as_ref().is_none_or(Part::is_sealed) {
                self.board.found(blob.sha256, blob.size_bytes);
            }
            parts.extend(begun.map(|part| (blob.sha256, part)));
        }
        Ok((held, parts))
    }

    async fn take_files(
        &self,
        ground: &Ground,
        mut incoming: Incoming,
        parts: &BTreeMap<Digest, Part>,
    ) -> Result<(), PullError> {
        let mut buffer = self.means.buffers.take_for_outside().await;
        while let Some(spec) = incoming.next_file().await? {
            let Some(part) = parts.get(&spec.sha256).filter(|part| !part.is_sealed()) else { continue };
            let taken = tokio::select! {
                biased;
                taken = self.take_file(ground, &mut incoming, part, buffer) => taken,
                error = upkeep::keep_durable(part, &ground.place) => Err(error),
            };
            let (back, digest) = taken?;
            buffer = back;
            self.seal(ground, part.clone(), digest).await?;
        }
        self.board.begin(Stage::Verifying);
        incoming.finish().await
    }

    /// One file, and the digest of what the disk has of it.
    async fn take_file(
        &self,
        ground: &Ground,
        incoming: &mut Incoming,
        part: &Part,
        mut buffer: Buffer,
    ) -> Result<(Buffer, Digest), PullError> {
        let (spec, begun) = (part.spec(), part.clone());
        let agreed = incoming.with(move |reader| reader.tree().map(|tree| begun.agree_with(tree)).transpose());
        agreed.await?.map_err(|error| PullError::of_part(&ground.place, &error))?;
        let mut chaser = Chaser::new();
        loop {
            self.means.limits.before_write(CHUNK_BYTES).await;
            let part = part.clone();
            let stepped = incoming.with(move |reader| {
                let taken = take_piece(reader, &part, &mut chaser, buffer.bytes_mut());
                (chaser, buffer, taken)
            });
            let (hashed, back, taken) = stepped.await?;
            chaser = hashed;
            buffer = back;
            let index = match taken {
                Ok(Some(index)) => index,
                Ok(None) => return Ok((buffer, chaser.finish())),
                Err(trouble) => return Err(self.give_up(ground, spec.sha256, trouble).await),
            };
            let range = chunk_range(spec.size_bytes, index);
            self.board.came_in_bundle(spec.sha256, range.end, range.end - range.start);
        }
    }

    /// What came of a file that is another one as a whole goes, so that nobody goes on with it.
    async fn give_up(&self, ground: &Ground, sha256: Digest, trouble: Trouble) -> PullError {
        if matches!(trouble, Trouble::Bundle(BundleError::Digest { .. })) {
            let staging = ground.staging.clone();
            if let Ok(Err(error)) = blocking(move || staging.forget(sha256)).await {
                tracing::warn!(%error, "remove a file that is not what its name says");
            }
        }
        trouble.told(ground, sha256)
    }
}

// === impl Trouble ===

impl Trouble {
    fn told(&self, ground: &Ground, sha256: Digest) -> PullError {
        match self {
            Self::Bundle(error) => PullError::of_bundle(error),
            Self::Part(error) => PullError::of_part(&ground.place, error),
            Self::Lost(index) => {
                let (place, blob) = (&ground.place, sha256.short());
                PullError::Disk(format!("{place}: chunk {index} of {blob} was not what had been written"))
            }
        }
    }
}

/// Writes the next piece and reads it back. What an earlier process left there is checked, and written anew where it is
/// damaged. `None`: the file is at its end.
fn take_piece(
    reader: &mut BundleReader<Feed>,
    part: &Part,
    chaser: &mut Chaser,
    buffer: &mut Vec<u8>,
) -> Result<Option<u32>, Trouble> {
    let Some((index, hash)) = reader.next_chunk(buffer).map_err(Trouble::Bundle)? else { return Ok(None) };
    for _ in 0..WRITES_MAX {
        part.write(index, buffer, hash).map_err(Trouble::Part)?;
        if chaser.take(part, index).map_err(Trouble::Part)? {
            return Ok(Some(index));
        }
    }
    Err(Trouble::Lost(index))
}
