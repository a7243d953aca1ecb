//! Changes that are not committed yet, laid over the state that they began from.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Fault, Key, KeyRange, Mutation, Record, View};

use super::hash::StateHash;
use super::view::{StateView, bounds, decode, decode_pair, unreadable};
use crate::error::DiskError;
use crate::family;

/// A batch. Reading through it shows its own changes.
#[derive(Debug)]
pub struct Batch {
    view: StateView,
    /// New value by key; `None` deletes.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

// === impl Batch ===

impl Batch {
    pub(crate) const fn new(view: StateView) -> Self {
        Self { view, changes: BTreeMap::new() }
    }

    /// Adds what one entry changes.
    ///
    /// # Errors
    /// When a key is given a record of another family; nothing of the mutations is added then.
    pub fn stage(&mut self, mutations: Vec<Mutation>) -> Result<(), Fault> {
        let encoded = mutations.into_iter().map(|mutation| match mutation {
            Mutation::Put(key, record) => {
                let value =
                    family::encode_record(&key, &record).map_err(|_| Fault::Mismatch { key: key.to_string() })?;
                Ok((family::encode_key(&key), Some(value)))
            }
            Mutation::Delete(key) => Ok((family::encode_key(&key), None)),
        });
        let encoded: Vec<_> = encoded.collect::<Result<_, Fault>>()?;
        self.changes.extend(encoded);
        Ok(())
    }

    /// Whether nothing was staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The hash that the state would have with these changes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn state_hash(&self) -> Result<[u8; 16], DiskError> {
        self.outcome().map(|(hash, _)| hash.to_bytes())
    }

    /// Hash and number of the records with these changes.
    pub(crate) fn outcome(&self) -> Result<(StateHash, u64), DiskError> {
        let standing = self.view.standing();
        let (mut hash, mut count) = (standing.hash, standing.count);
        for (key, new) in &self.changes {
            let old = self.view.get_bytes(key)?;
            hash.replace(key, old.as_deref(), new.as_deref());
            count = count + u64::from(new.is_some()) - u64::from(old.is_some());
        }
        Ok((hash, count))
    }

    pub(crate) const fn view(&self) -> &StateView {
        &self.view
    }

    pub(crate) const fn changes(&self) -> &BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        &self.changes
    }
}

impl View for Batch {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        match self.changes.get(&family::encode_key(key)) {
            Some(change) => change.as_deref().map(|bytes| decode(key, bytes)).transpose(),
            None => self.view.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        let (start, end) = bounds(range, after);
        let changed: Vec<_> = self
            .changes
            .range(start.clone()..)
            .take_while(|(key, _)| end.as_ref().is_none_or(|end| *key < end))
            .collect();
        let wanted = limit.saturating_add(changed.len());
        let mut merged = BTreeMap::new();
        let take = |key: &[u8], value: &[u8]| {
            merged.insert(key.to_vec(), value.to_vec());
            merged.len() < wanted
        };
        if wanted > 0 {
            self.view.walk(&start, end, take).map_err(|error| unreadable(range, &error))?;
        }
        for (key, change) in changed {
            match change {
                Some(value) => drop(merged.insert(key.clone(), value.clone())),
                None => drop(merged.remove(key)),
            }
        }
        merged.iter().take(limit).map(|(key, value)| decode_pair(key, value)).collect()
    }
}
