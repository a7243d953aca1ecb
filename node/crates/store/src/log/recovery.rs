//! What the log holds when the directory is opened: every key and checksum is looked at once.
//!
//! Entries at or below the purge mark are leftovers of a crash and go. At the first missing or damaged entry the rest
//! goes too, if nothing of it was ever promised; if it was (the high-water mark lies at or behind it), the log is
//! refused as it is.

use rocksdb::WriteBatch;

use super::{Positions, entry};
use crate::database::{Database, LOG};
use crate::error::{DiskError, OpenError};
use crate::marks;

/// A place where the log breaks off.
struct Break {
    from: u64,
    to: u64,
    reason: String,
}

/// Reads where the log begins and ends, and removes what must not be there.
pub(crate) fn recover(database: &Database, synced: Option<u64>) -> Result<Positions, OpenError> {
    let (positions, surplus) = look(database, synced)?;
    if !surplus.is_empty() {
        database.write_synced(surplus, "cut the log")?;
    }
    Ok(positions)
}

/// Reads where the log begins and ends, and what must not be there. Changes nothing.
pub(crate) fn look(database: &Database, synced: Option<u64>) -> Result<(Positions, WriteBatch), OpenError> {
    let mut positions =
        Positions { first: None, last: None, purged: marks::read_purged(database)?, vote: marks::read_vote(database)? };
    let purged = positions.purged_index();
    let family = database.fixed_family(LOG);
    let mut cursor = database.rocks().raw_iterator_cf(&family);
    let (mut surplus, mut broken) = (WriteBatch::default(), None);
    cursor.seek_to_first();
    while let Some((key, value)) = cursor.item() {
        let index = <[u8; 8]>::try_from(key).map(u64::from_be_bytes);
        match index {
            Ok(index) if broken.is_none() && purged.is_none_or(|purged| index > purged) => {
                broken = examine(&positions, index, value);
                if broken.is_none() {
                    positions.first = positions.first.or(Some(index));
                    positions.last = Some(index);
                } else {
                    surplus.delete_cf(&family, key);
                }
            }
            Ok(_) | Err(_) => surplus.delete_cf(&family, key),
        }
        cursor.next();
    }
    cursor.status().map_err(|error| DiskError::rocks("read the log", &error))?;
    if let Some(Break { from, to, reason }) = broken {
        match synced {
            Some(synced) if synced >= from => return Err(OpenError::LogGap { from, to, synced, reason }),
            _ => tracing::warn!(from, reason, "the log breaks off; entries that were never synced are cut"),
        }
    }
    let last = positions.last.max(purged);
    if last < synced {
        let reason = format!("entry {} was synced, and the log ends at {last:?}", synced.unwrap_or_default());
        return Err(OpenError::BehindHighWater { reason });
    }
    Ok((positions, surplus))
}

fn examine(positions: &Positions, index: u64, value: &[u8]) -> Option<Break> {
    let expected = positions.next().unwrap_or(index);
    if index != expected {
        return Some(Break { from: expected, to: index - 1, reason: "it is missing".to_owned() });
    }
    let malformed = entry::unseal(index, value).err()?;
    Some(Break { from: index, to: index, reason: malformed.to_string() })
}
