//! The file `raft/high-water`: what this node has promised, kept apart from the database.
//!
//! Content: version byte, crc32c of the rest (4 bytes, little endian), `HighWaterMark`. It is replaced as a whole
//! (temporary file, fsync, rename, fsync of the directory) on every vote, before every truncation, and at most once a
//! second for synced entries. It may lag behind the database, never run ahead of it: a database that opens behind it
//! has lost synced writes, and the node refuses to vote.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use ollamax_proto::disk;

use crate::StoreIdentity;
use crate::error::{DiskError, OpenError};
use crate::framing::{seal_checked, unseal_checked};
use crate::marks;

const VERSION: u8 = 1;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Promises {
    /// Whose directory it is.
    pub(crate) identity: Option<StoreIdentity>,
    /// How many votes were saved; 0 before the first.
    pub(crate) vote_number: u64,
    /// The last of them.
    pub(crate) vote: Vec<u8>,
    /// The last entry that was synced and not truncated since.
    pub(crate) last_synced: Option<u64>,
}

/// The file and what should stand in it.
#[derive(Debug)]
pub(crate) struct HighWater {
    path: PathBuf,
    promises: Promises,
    /// Counts truncations, so that a sync that began before one cannot raise the mark after it.
    truncations: u64,
    /// The file lags behind `promises`.
    dirty: bool,
}

// === impl HighWater ===

impl HighWater {
    /// Reads the file; `None` when there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Promises>, OpenError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::io("read the high-water file", &error).into()),
        };
        let damaged = |problem: String| OpenError::HighWater { path: path.to_path_buf(), problem };
        decode(&bytes).map(Some).map_err(damaged)
    }

    pub(crate) const fn new(path: PathBuf, promises: Promises) -> Self {
        Self { path, promises, truncations: 0, dirty: false }
    }

    pub(crate) const fn promises(&self) -> &Promises {
        &self.promises
    }

    pub(crate) const fn truncations(&self) -> u64 {
        self.truncations
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(crate) fn bind(&mut self, identity: StoreIdentity) {
        self.promises.identity = Some(identity);
        self.dirty = true;
    }

    /// Entries up to `index` were synced, written after `truncations` truncations.
    pub(crate) fn raise(&mut self, truncations: u64, index: u64) {
        if truncations == self.truncations && self.promises.last_synced.is_none_or(|last| last < index) {
            self.promises.last_synced = Some(index);
            self.dirty = true;
        }
    }

    /// Entries behind `index` are about to be removed.
    pub(crate) fn lower(&mut self, index: Option<u64>) {
        self.truncations += 1;
        if self.promises.last_synced > index {
            self.promises.last_synced = index;
            self.dirty = true;
        }
    }

    /// A vote was synced.
    pub(crate) fn voted(&mut self, number: u64, vote: Vec<u8>) {
        if number > self.promises.vote_number {
            self.promises.vote_number = number;
            self.promises.vote = vote;
            self.dirty = true;
        }
    }

    /// Brings the file up to date; durable on return.
    pub(crate) fn save(&mut self) -> Result<(), DiskError> {
        replace(&self.path, &encode(&self.promises))
            .map_err(|error| DiskError::io("write the high-water file", &error))?;
        self.dirty = false;
        Ok(())
    }
}

fn encode(promises: &Promises) -> Vec<u8> {
    let mark = disk::HighWaterMark {
        identity: promises.identity.as_ref().map(marks::encode_identity),
        vote_number: promises.vote_number,
        vote: promises.vote.clone(),
        last_synced_index: promises.last_synced.unwrap_or_default(),
        any_synced: promises.last_synced.is_some(),
    };
    seal_checked(VERSION, &mark)
}

fn decode(bytes: &[u8]) -> Result<Promises, String> {
    let message: disk::HighWaterMark = unseal_checked(VERSION, bytes)?;
    let identity = message.identity.as_ref().map(marks::decode_identity).transpose();
    Ok(Promises {
        identity: identity.map_err(|malformed| format!("damaged ({malformed})"))?,
        vote_number: message.vote_number,
        vote: message.vote,
        last_synced: message.any_synced.then_some(message.last_synced_index),
    })
}

/// Puts a file in the place of another, or of none, in one step; durable on return.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use ollamax_types::{ClusterId, Incarnation, NodeId};
    use proptest::prelude::*;

    use super::*;

    fn promises() -> impl Strategy<Value = Promises> {
        let identity = proptest::option::of((any::<[u8; 16]>(), any::<u64>(), any::<[u8; 16]>()).prop_map(
            |(cluster, node, incarnation)| StoreIdentity {
                cluster: ClusterId(cluster),
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
            },
        ));
        (identity, any::<u64>(), prop::collection::vec(any::<u8>(), 0..20), proptest::option::of(any::<u64>()))
            .prop_map(|(identity, vote_number, vote, last_synced)| Promises {
                identity,
                vote_number,
                vote,
                last_synced,
            })
    }

    proptest! {
        #[test]
        fn the_file_comes_back_as_it_went_and_any_flipped_bit_is_seen(promises in promises(), at in 0usize..1000) {
            let mut bytes = encode(&promises);
            prop_assert_eq!(decode(&bytes), Ok(promises));
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        let promises = Promises { identity: None, vote_number: 3, vote: vec![0xaa, 0xbb], last_synced: Some(300) };
        let hex: String = encode(&promises).iter().skip(5).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "10031a02aabb20ac022801");
    }

    #[test]
    fn a_sync_that_began_before_a_truncation_does_not_raise_the_mark() {
        let mut mark = HighWater::new(PathBuf::from("unused"), Promises::default());
        mark.raise(0, 10);
        mark.lower(Some(4));
        mark.raise(0, 10);
        assert_eq!(mark.promises().last_synced, Some(4));
        mark.raise(1, 6);
        assert_eq!(mark.promises().last_synced, Some(6));
        mark.lower(Some(9));
        assert_eq!(mark.promises().last_synced, Some(6), "a truncation behind the mark leaves it");
    }
}
