//! A consistent view of the state, which outlives later changes and switches of generation.

use std::fmt;
use std::sync::Arc;

use rocksdb::ReadOptions;

use ollamax_core::catalog::{Fault, Key, KeyRange, Record, View};

use super::applied::{AppliedMeta, Standing};
use super::pinned::{Pinned, PinnedCell};
use crate::database::Database;
use crate::error::DiskError;
use crate::family;
use crate::framing::Malformed;

/// A consistent view of the state. Cheap to clone. While it lives, what it sees takes room on disk.
#[derive(Clone)]
pub struct StateView {
    cell: Arc<PinnedCell>,
    generation: u64,
    standing: Standing,
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateView").field("applied", &self.standing.index()).finish_non_exhaustive()
    }
}

// === impl StateView ===

impl StateView {
    /// The caller holds the lock that keeps `standing` and the database together.
    pub(crate) fn take(database: &Arc<Database>, generation: u64, standing: Standing) -> Self {
        let cell = PinnedCell::new(Arc::clone(database), |database| Pinned {
            snapshot: database.rocks().snapshot(),
            family: database.state_family(generation).ok(),
        });
        Self { cell: Arc::new(cell), generation, standing }
    }

    /// How far the viewed state is.
    #[must_use]
    pub fn applied(&self) -> Option<&AppliedMeta> {
        self.standing.meta.as_deref()
    }

    /// Hash of the viewed state.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 16] {
        self.standing.hash.to_bytes()
    }

    pub(crate) const fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn get_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.cell.with_dependent(|_, pinned| {
            let family = pinned.family.as_ref().ok_or_else(gone)?;
            pinned.snapshot.get_cf(family, key).map_err(|error| DiskError::rocks("read the state", &error))
        })
    }

    /// Hands keys and values from `start` to before `end` to `each`, in order, until it says stop (`false`).
    pub(crate) fn walk(
        &self,
        start: &[u8],
        end: Option<Vec<u8>>,
        mut each: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        self.cell.with_dependent(|_, pinned| {
            let family = pinned.family.as_ref().ok_or_else(gone)?;
            let mut options = ReadOptions::default();
            if let Some(end) = end {
                options.set_iterate_upper_bound(end);
            }
            let mut cursor = pinned.snapshot.raw_iterator_cf_opt(family, options);
            cursor.seek(start);
            while let Some((key, value)) = cursor.item() {
                if !each(key, value) {
                    return Ok(());
                }
                cursor.next();
            }
            cursor.status().map_err(|error| DiskError::rocks("read the state", &error))
        })
    }
}

impl View for StateView {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        let found = self.get_bytes(&family::encode_key(key)).map_err(|error| unreadable(key, &error))?;
        found.map(|bytes| decode(key, &bytes)).transpose()
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        let mut found = Vec::new();
        let (start, end) = bounds(range, after);
        let mut take = |key: &[u8], value: &[u8]| {
            if found.len() < limit {
                found.push((key.to_vec(), value.to_vec()));
            }
            found.len() < limit
        };
        if limit > 0 {
            self.walk(&start, end, &mut take).map_err(|error| unreadable(range, &error))?;
        }
        found.iter().map(|(key, value)| decode_pair(key, value)).collect()
    }
}

fn gone() -> DiskError {
    DiskError::Damaged { action: "read the state", reason: "its column family is not there".to_owned() }
}

/// First key of a scan and the first key behind it.
pub(super) fn bounds(range: &KeyRange, after: Option<&Key>) -> (Vec<u8>, Option<Vec<u8>>) {
    let prefix = family::range_prefix(range);
    let end = family::prefix_end(&prefix);
    let Some(after) = after else { return (prefix, end) };
    let mut next = family::encode_key(after);
    next.push(0);
    (next.max(prefix), end)
}

pub(super) fn unreadable(what: &impl fmt::Debug, reason: &impl fmt::Display) -> Fault {
    Fault::Unreadable { key: format!("{what:?}"), reason: reason.to_string() }
}

pub(super) fn decode(key: &Key, bytes: &[u8]) -> Result<Record, Fault> {
    family::decode_record(key, bytes).map_err(|malformed: Malformed| unreadable(key, &malformed))
}

pub(super) fn decode_pair(key: &[u8], value: &[u8]) -> Result<(Key, Record), Fault> {
    let key = family::decode_key(key).map_err(|malformed| unreadable(&key, &malformed))?;
    let record = decode(&key, value)?;
    Ok((key, record))
}
