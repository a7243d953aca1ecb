//! The keys that seal what clients carry, from the replicated record: the same ones at every node.
//!
//! What is read is what this node has applied. A key is on record for a day before anything is sealed with it, so a
//! node that is behind opens what the others seal. Where the record cannot be read there are no keys.

use ollamax_core::catalog::{StateKey, StateKeys, read};
use ollamax_gateway::ports::{Keys, Ring};
use ollamax_types::ErrorCode;

use crate::slot::Slot;

/// The keys of the cluster, at one node.
#[derive(Debug, Clone)]
pub(crate) struct StateKeysOverMetadata(Slot);

// === impl StateKeysOverMetadata ===

impl StateKeysOverMetadata {
    pub(crate) const fn new(slot: Slot) -> Self {
        Self(slot)
    }
}

impl Keys for StateKeysOverMetadata {
    fn ring(&self) -> Option<Ring> {
        let engines = self.0.get()?;
        match read::state_keys(&*engines.metadata.view()) {
            Ok(keys) => ring(&keys),
            Err(fault) => {
                tracing::error!(code = %ErrorCode::StorageFailed, error = %fault, "read the keys of what clients carry");
                None
            }
        }
    }
}

/// A record in the door's words. A key is called by the number of the entry that brought it.
fn ring(keys: &StateKeys) -> Option<Ring> {
    let name = |key: &StateKey| key.number.to_string();
    let seals = name(keys.sealing()?);
    Some(Ring { seals, keys: keys.keys.iter().map(|key| (name(key), key.secret)).collect() })
}

#[cfg(test)]
mod tests {
    use ollamax_types::{SecretKey, Timestamp};

    use super::*;

    #[test]
    fn the_key_before_the_newest_seals_and_all_of_them_open() {
        let key = |number| StateKey { number, secret: SecretKey::new([1; 32]), made_at: Timestamp(number) };
        let of = |numbers: &[u64]| {
            let keys = numbers.iter().map(|number| key(*number)).fold(StateKeys::default(), StateKeys::with);
            ring(&keys).map(|ring| (ring.seals, ring.keys.into_iter().map(|(name, _)| name).collect::<Vec<_>>()))
        };
        let named = |seals: &str, keys: &[&str]| {
            Some((seals.to_owned(), keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()))
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3]), named("3", &["3"]));
        assert_eq!(of(&[3, 9]), named("3", &["3", "9"]));
        assert_eq!(of(&[3, 9, 12, 40]), named("12", &["9", "12", "40"]));
    }
}
