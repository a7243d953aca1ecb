//! The log of a data directory: every entry's checksum, and that none is missing.

use super::Verification;
use crate::database::{Database, LOG};
use crate::log::entry;
use crate::marks;

/// Reads the whole log. `synced` is the last entry that was promised.
pub(super) fn examine(database: &Database, synced: Option<u64>, found: &mut Verification) {
    found.log.purged = found.mark("purged", marks::read_purged(database)).map(|(index, _)| index);
    let mut expected = found.log.purged.map(|purged| purged + 1);
    let mut cut = false;
    let mut cursor = database.rocks().raw_iterator_cf_opt(&database.fixed_family(LOG), super::state::once());
    cursor.seek_to_first();
    while let Some((key, value)) = cursor.item() {
        match <[u8; 8]>::try_from(key).map(u64::from_be_bytes) {
            Err(_) => found.damaged("log", format!("key {key:02x?} is no index")),
            // What a crash left below the purge mark.
            Ok(index) if found.log.purged.is_some_and(|purged| index <= purged) => {}
            Ok(_) if cut => found.log.surplus += 1,
            Ok(index) => {
                let problem = problem(expected, index, value);
                let promised = |from: u64| synced.is_some_and(|synced| from <= synced);
                match problem {
                    None => {
                        found.log.first = found.log.first.or(Some(index));
                        found.log.last = Some(index);
                        found.log.entries += 1;
                        found.log.bytes += value.len() as u64;
                    }
                    Some((from, problem)) if promised(from) => found.damaged(format!("log entry {from}"), problem),
                    Some(_) => {
                        cut = true;
                        found.log.surplus += 1;
                    }
                }
                expected = Some(index.saturating_add(1));
            }
        }
        cursor.next();
    }
    if let Err(error) = cursor.status() {
        found.damaged("log", format!("behind entry {}: {error}", found.log.last.unwrap_or_default()));
        return;
    }
    let end = found.log.last.max(found.log.purged);
    if let Some(synced) = synced.filter(|synced| end < Some(*synced)) {
        let end = end.map_or_else(|| "it is empty".to_owned(), |end| format!("it ends at {end}"));
        found.damaged("log", format!("entries up to {synced} were promised, and {end}"));
    }
}

/// What is wrong at an entry, and from which index on.
fn problem(expected: Option<u64>, index: u64, value: &[u8]) -> Option<(u64, String)> {
    if let Some(expected) = expected.filter(|expected| index != *expected) {
        let last = index.saturating_sub(1);
        return Some((expected, format!("entries {expected} to {last} are missing")));
    }
    entry::unseal(index, value).err().map(|malformed| (index, malformed.to_string()))
}
