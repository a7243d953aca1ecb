//! The state of a data directory: every record, the hash and the count that were kept with them, and the sums that
//! records keep of other records.

use std::collections::BTreeMap;

use rocksdb::ReadOptions;

use ollamax_core::catalog::{Counts, Key, Record, Usage, value_prefix};

use super::Verification;
use crate::database::Database;
use crate::family;
use crate::framing::Malformed;
use crate::marks;
use crate::state::applied::{KEY as APPLIED_KEY, Standing};
use crate::state::hash::StateHash;

/// Bytes of a key that cannot be read which are shown.
const KEY_BYTES_SHOWN: usize = 32;

/// Everything is read once, so nothing is kept for another time.
pub(super) fn once() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options
}

/// What records say of other records, and what there is of these.
#[derive(Default)]
struct Sums {
    families: BTreeMap<&'static str, u64>,
    counts: Counts,
    /// By namespace and prefix: what is kept, keys and bytes that there are.
    usage: BTreeMap<(String, String), (Option<Usage>, u64, u64)>,
    /// By lease: what is kept, values that there are.
    leases: BTreeMap<u64, (Option<u64>, u64)>,
}

/// Reads the whole state.
pub(super) fn examine(database: &Database, found: &mut Verification) {
    // A directory that was never used has none.
    let Some(generation) = found.mark("generation", marks::read_generation(database)) else { return };
    let family = match database.state_family(generation) {
        Ok(family) => family,
        Err(error) => return found.damaged("state", error.to_string()),
    };
    let kept = database.rocks().get_cf(&family, APPLIED_KEY);
    let standing = match kept.map(|bytes| bytes.map(|bytes| Standing::unseal(&bytes)).transpose()) {
        Ok(Ok(standing)) => Some(standing.unwrap_or_default()),
        Ok(Err(malformed)) => {
            found.damaged("state mark", malformed.to_string());
            None
        }
        Err(error) => {
            found.damaged("state mark", error.to_string());
            None
        }
    };
    let (mut hash, mut sums) = (StateHash::default(), Sums::default());
    let mut cursor = database.rocks().raw_iterator_cf_opt(&family, once());
    cursor.seek_to_first();
    while let Some((key, value)) = cursor.item() {
        if key != APPLIED_KEY {
            hash.replace(key, None, Some(value));
            found.state.records += 1;
            if let Err((place, malformed)) = sums.add(key, value) {
                found.damaged(place, malformed.to_string());
            }
        }
        cursor.next();
    }
    found.state.hash = hash.to_bytes();
    found.state.families = sums.families.iter().map(|(name, count)| (*name, *count)).collect();
    if let Err(error) = cursor.status() {
        found.damaged("state", format!("behind {} records: {error}", found.state.records));
        return;
    }
    if let Some(standing) = standing {
        compare(&standing, hash, found);
    }
    sums.compare(found);
}

/// The kept hash and count must be those of the records, and the log must lead on from the state.
fn compare(standing: &Standing, hash: StateHash, found: &mut Verification) {
    found.state.index = standing.index();
    let (kept, records) = (standing.count, found.state.records);
    if kept != records {
        found.damaged("state", format!("{kept} records were written, and {records} are there"));
    }
    if standing.hash != hash {
        found.damaged("state", "the hash of the records is not the hash of what was written: a record has changed");
    }
    if found.log.purged > standing.index() {
        let (purged, index) = (found.log.purged.unwrap_or_default(), standing.index().unwrap_or_default());
        found.damaged("state", format!("it ends at entry {index}, and the log was purged up to {purged}"));
    }
}

// === impl Sums ===

impl Sums {
    /// Takes up one record; gives the place and what is wrong where it cannot be read.
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), (String, Malformed)> {
        let shown = || format!("state key {:02x?}", &key[..key.len().min(KEY_BYTES_SHOWN)]);
        let name = family::name_of(key);
        let key = family::decode_key(key).map_err(|malformed| (shown(), malformed))?;
        if let Some(name) = name {
            *self.families.entry(name).or_default() += 1;
        }
        let record = family::decode_record(&key, value);
        let record = record.map_err(|malformed| (format!("state record {key}"), malformed))?;
        match (key, record) {
            (Key::Value(namespace, key), Record::Value(value)) => {
                let prefix = value_prefix(&key).unwrap_or_default().to_owned();
                let (_, keys, bytes) = self.usage.entry((namespace, prefix)).or_default();
                *keys += 1;
                *bytes += key.len() as u64 + value.bytes.len() as u64;
            }
            (Key::Usage(namespace, prefix), Record::Usage(usage)) => {
                self.usage.entry((namespace, prefix)).or_default().0 = Some(usage);
            }
            (Key::Lease(id), Record::Lease(lease)) => {
                self.leases.entry(id).or_default().0 = Some(u64::from(lease.values));
            }
            (Key::LeaseValue(id, ..), Record::Present) => self.leases.entry(id).or_default().1 += 1,
            (Key::Counts, Record::Counts(counts)) => self.counts = counts,
            _ => {}
        }
        Ok(())
    }

    fn of(&self, family: &str) -> u64 {
        self.families.get(family).copied().unwrap_or_default()
    }

    fn compare(&self, found: &mut Verification) {
        for ((namespace, prefix), (usage, keys, bytes)) in &self.usage {
            let kept = usage.map_or((0, 0), |usage| (usage.keys, usage.bytes));
            if kept != (*keys, *bytes) {
                let problem = format!(
                    "{} keys with {} bytes are on record, and {keys} keys with {bytes} bytes are there",
                    kept.0, kept.1
                );
                found.damaged(format!("state record usage/{namespace}/{prefix}"), problem);
            }
        }
        for (lease, (kept, values)) in &self.leases {
            let (kept, values) = (kept.unwrap_or_default(), *values);
            if kept != values {
                let problem = format!("it counts {kept} values, and {values} go with it");
                found.damaged(format!("state record lease/{lease}"), problem);
            }
        }
        let pairs = [
            ("sessions", self.counts.sessions, self.of("sessions")),
            ("leases", self.counts.leases, self.of("leases")),
            ("wishes", self.counts.wishes, self.of("wishes")),
            ("blobs", self.counts.blobs, self.of("blobs")),
            ("names", self.counts.models, self.of("names")),
            ("tasks", self.counts.tasks, self.of("tasks")),
            ("keyed answers", self.counts.once, self.of("keyed answers")),
            ("locations", self.of("models by node"), self.of("locations")),
        ];
        for (what, kept, there) in pairs.into_iter().filter(|(_, kept, there)| kept != there) {
            found.damaged(format!("state, {what}"), format!("{kept} are on record, and {there} are there"));
        }
    }
}
