//! Marks of this node: column family `meta`, one key per mark, written through the WAL.
//!
//! | key | value (after a version byte, 1) | changes |
//! |---|---|---|
//! | `format` | nothing: the version byte is the format of the directory | never |
//! | `identity` | `IdentityMark` | once |
//! | `vote` | `VoteMark` | each vote, synced |
//! | `committed` | opaque bytes | often, not synced |
//! | `purged` | `PurgeMark` | each purge |
//! | `generation` | 8 bytes big endian: which `sm-*` family is the state | each installed snapshot, synced |

use ollamax_proto::disk;
use ollamax_types::{ClusterId, Incarnation, NodeId};

use crate::StoreIdentity;
use crate::database::{Database, META};
use crate::error::DiskError;
use crate::framing::{Malformed, fixed, seal, unseal};

/// The newest directory format that this release reads and the one that it writes.
pub(crate) const FORMAT: u8 = 1;
const VERSION: u8 = 1;

pub(crate) const KEY_FORMAT: &[u8] = b"format";
pub(crate) const KEY_IDENTITY: &[u8] = b"identity";
pub(crate) const KEY_VOTE: &[u8] = b"vote";
pub(crate) const KEY_COMMITTED: &[u8] = b"committed";
pub(crate) const KEY_PURGED: &[u8] = b"purged";
pub(crate) const KEY_GENERATION: &[u8] = b"generation";

pub(crate) fn encode_identity(identity: &StoreIdentity) -> disk::IdentityMark {
    disk::IdentityMark {
        cluster: identity.cluster.0.to_vec(),
        node: identity.node.0,
        incarnation: identity.incarnation.0.to_vec(),
    }
}

pub(crate) fn decode_identity(message: &disk::IdentityMark) -> Result<StoreIdentity, Malformed> {
    const WHAT: &str = "identity mark";
    Ok(StoreIdentity {
        cluster: ClusterId(fixed(WHAT, &message.cluster)?),
        node: NodeId(message.node),
        incarnation: Incarnation(fixed(WHAT, &message.incarnation)?),
    })
}

pub(crate) fn seal_identity(identity: &StoreIdentity) -> Vec<u8> {
    seal(VERSION, &encode_identity(identity))
}

pub(crate) fn seal_vote(number: u64, vote: &[u8]) -> Vec<u8> {
    seal(VERSION, &disk::VoteMark { number, vote: vote.to_vec() })
}

pub(crate) fn seal_purged(index: u64, mark: &[u8]) -> Vec<u8> {
    seal(VERSION, &disk::PurgeMark { index, mark: mark.to_vec() })
}

pub(crate) fn seal_committed(committed: &[u8]) -> Vec<u8> {
    [&[VERSION], committed].concat()
}

pub(crate) fn seal_generation(generation: u64) -> Vec<u8> {
    [&[VERSION][..], &generation.to_be_bytes()].concat()
}

pub(crate) fn read_format(database: &Database) -> Result<Option<u8>, DiskError> {
    let read = |bytes: Vec<u8>| bytes.first().copied().ok_or_else(|| Malformed::new("format mark", "empty"));
    read_mark(database, KEY_FORMAT, read)
}

pub(crate) fn read_identity(database: &Database) -> Result<Option<StoreIdentity>, DiskError> {
    read_mark(database, KEY_IDENTITY, |bytes| decode_identity(&unseal("identity mark", VERSION, &bytes)?))
}

/// Number and bytes of the vote.
pub(crate) fn read_vote(database: &Database) -> Result<Option<(u64, Vec<u8>)>, DiskError> {
    read_mark(database, KEY_VOTE, |bytes| {
        let message: disk::VoteMark = unseal("vote mark", VERSION, &bytes)?;
        Ok((message.number, message.vote))
    })
}

pub(crate) fn read_purged(database: &Database) -> Result<Option<(u64, Vec<u8>)>, DiskError> {
    read_mark(database, KEY_PURGED, |bytes| {
        let message: disk::PurgeMark = unseal("purge mark", VERSION, &bytes)?;
        Ok((message.index, message.mark))
    })
}

pub(crate) fn read_committed(database: &Database) -> Result<Option<Vec<u8>>, DiskError> {
    read_mark(database, KEY_COMMITTED, |bytes| match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest.to_vec()),
        _ => Err(Malformed::new("committed mark", "of a version that this release does not know")),
    })
}

pub(crate) fn read_generation(database: &Database) -> Result<Option<u64>, DiskError> {
    read_mark(database, KEY_GENERATION, |bytes| match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(u64::from_be_bytes(fixed("generation mark", rest)?)),
        _ => Err(Malformed::new("generation mark", "of a version that this release does not know")),
    })
}

fn read_mark<T>(
    database: &Database,
    key: &[u8],
    decode: impl FnOnce(Vec<u8>) -> Result<T, Malformed>,
) -> Result<Option<T>, DiskError> {
    let found = database.get(META, key, "read a mark")?;
    found.map(decode).transpose().map_err(|malformed| DiskError::malformed("read a mark", &malformed))
}
