//! Restoring: a backup becomes the state of a new cluster, in a directory that no node has used.
//!
//! Everything is checked before the first byte is written ([`check`]). What is made belongs to nobody until the caller
//! writes down the membership, which is the last step; until then a node that starts there is an empty one and sweeps
//! it away. The log begins [`crate::REVISION_JUMP`] after the revision of the backup.

use std::io::{Read, Seek};
use std::path::PathBuf;

use ollamax_core::catalog::lineage::Founder;
use ollamax_core::catalog::{CLUSTER_VERSION, Member};
use ollamax_security::BackupKey;
use ollamax_store as store;
use ollamax_store::{Store, StoreIdentity};
use ollamax_types::Incarnation;

use super::read::{self, Verified};
use super::{BackupError, Facts, Page};
use crate::lineage::{self, Begun, LineageError};

/// Where a backup is restored, and as what.
#[derive(Debug, Clone)]
pub struct Target {
    /// The data directory; the store makes its folder in it.
    pub dir: PathBuf,
    /// The store's numbers.
    pub store: store::Config,
    /// Of the data directory.
    pub incarnation: Incarnation,
    /// The new cluster and its first member.
    pub founder: Founder,
}

/// A state that waits for its node to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What was restored.
    pub page: Page,
    /// The same, as only the key shows it.
    pub facts: Facts,
    /// The first member, as it is on record.
    pub member: Member,
    /// Where the log goes on.
    pub revision: u64,
}

/// A backup that was found good and may become a state of this release.
#[derive(Debug)]
pub struct Restorable {
    page: Page,
    facts: Facts,
}

/// Checks a backup, down to each record. Writes nothing.
///
/// # Errors
/// When it is not good in every byte, was sealed for another key, or is a later release's.
pub fn check(file: &mut (impl Read + Seek), key: &BackupKey) -> Result<Restorable, BackupError> {
    let Verified { page, facts, .. } = read::verify(file, Some(key))?;
    let facts = facts.ok_or_else(|| BackupError::damaged("in its payload", "it was not opened"))?;
    if facts.cluster_version > CLUSTER_VERSION {
        let (found, known) = (facts.cluster_version, CLUSTER_VERSION);
        return Err(BackupError::ClusterTooNew { found, known, release: page.release });
    }
    Ok(Restorable { page, facts })
}

/// Makes the state in a checked backup the beginning of a new cluster. Waits for the disk.
///
/// # Errors
/// When the disk refuses, or the file changed since it was checked. What lies in the directory then is nobody's.
pub fn restore(
    file: &mut (impl Read + Seek),
    key: &BackupKey,
    checked: Restorable,
    target: &Target,
) -> Result<Restored, BackupError> {
    let Restorable { page, facts } = checked;
    let Begun { member, revision, .. } = {
        let store = Store::open(&target.dir, None, target.store.clone())?;
        let begun = fill(file, key, &store, target)?;
        store.close().map_err(LineageError::from)?;
        begun
    };
    // The first opening with an identity binds the directory to it.
    let identity = StoreIdentity { cluster: target.founder.cluster, node: member.id, incarnation: target.incarnation };
    let bound = Store::open(&target.dir, Some(identity), target.store.clone())?;
    bound.close().map_err(LineageError::from)?;
    Ok(Restored { page, facts, member, revision })
}

fn fill(file: &mut (impl Read + Seek), key: &BackupKey, store: &Store, target: &Target) -> Result<Begun, BackupError> {
    let mut import = store.state().import().map_err(BackupError::Import)?;
    let outer = read::look(file)?;
    let mut each = |message: &[u8]| {
        target.store.check_room(&target.dir)?;
        import.add(message).map_err(BackupError::Import)
    };
    read::open(file, &outer, key, &mut each)?;
    let meta = import.meta().cloned();
    let meta = meta.ok_or_else(|| BackupError::damaged("in its state", "there is no header"))?;
    import.finish(&meta).map_err(BackupError::Import)?;
    // Nobody has voted in this store yet.
    Ok(lineage::begin(store, &target.founder, 0)?)
}
