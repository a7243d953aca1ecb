//! A migration tried on a state that is not changed: what it would look at and change, and whether it would get
//! through.

use std::collections::BTreeMap;
use std::ops::Bound;

use ollamax_types::limits::MIGRATION_REHEARSAL_STEPS_MAX;

use super::{Step, Trouble, Walk};
use crate::catalog::mem;
use crate::catalog::record::{Key, KeyRange, Record};
use crate::catalog::view::{Fault, Mutation, View};

/// What a walk would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rehearsal {
    /// Records that it looked at.
    pub looked_at: u64,
    /// Records that it would change.
    pub changed: u64,
    /// Why it would not get through.
    pub contradiction: Option<String>,
    /// It was broken off after `MIGRATION_REHEARSAL_STEPS_MAX` steps: the numbers are lower bounds.
    pub broken_off: bool,
}

/// A state with changes over it.
struct Tried<'a> {
    view: &'a dyn View,
    changed: BTreeMap<Key, Option<Record>>,
}

/// Tries a whole walk.
///
/// # Errors
/// When the state cannot be read or trusted.
pub fn rehearse(view: &dyn View, walk: Walk) -> Result<Rehearsal, Fault> {
    let mut tried = Tried { view, changed: BTreeMap::new() };
    let (mut told, mut after) = (Rehearsal::default(), None);
    for _ in 0..MIGRATION_REHEARSAL_STEPS_MAX {
        let Step { mutations, looked_at, next } = match walk(&tried, after.as_ref()) {
            Ok(step) => step,
            Err(Trouble::Contradiction(text)) => return Ok(Rehearsal { contradiction: Some(text), ..told }),
            Err(Trouble::Fault(fault)) => return Err(fault),
        };
        told.looked_at += looked_at;
        told.changed += mutations.len() as u64;
        tried.write(mutations);
        if next.is_none() {
            return Ok(told);
        }
        after = next;
    }
    Ok(Rehearsal { broken_off: true, ..told })
}

// === impl Tried ===

impl Tried<'_> {
    fn write(&mut self, mutations: Vec<Mutation>) {
        for mutation in mutations {
            match mutation {
                Mutation::Put(key, record) => self.changed.insert(key, Some(record)),
                Mutation::Delete(key) => self.changed.insert(key, None),
            };
        }
    }
}

impl View for Tried<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        self.changed.get(key).map_or_else(|| self.view.get(key), |changed| Ok(changed.clone()))
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        let from = (mem::start(range, after), Bound::Unbounded);
        let changed: Vec<_> = self.changed.range(from).take_while(|(key, _)| mem::holds(range, key)).collect();
        // As many more as may be gone.
        let found = self.view.scan(range, after, limit.saturating_add(changed.len()))?;
        let mut merged: BTreeMap<Key, Record> = found.into_iter().collect();
        for (key, change) in changed {
            match change {
                Some(record) => drop(merged.insert(key.clone(), record.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}
