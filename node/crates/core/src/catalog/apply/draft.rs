//! The changes of one command while it is worked out, laid over the view.
//!
//! Each key is read once and written at most once, whatever the command does with it in between; what comes out is in
//! the order of keys. A range is read as the view has it: no command reads a range that it has changed.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::catalog::record::{Key, KeyRange, Record};
use crate::catalog::view::{Fault, Mutation, View};

struct Slot {
    record: Option<Record>,
    changed: bool,
}

/// What a command has read and changed so far.
pub(super) struct Draft<'a> {
    view: &'a dyn View,
    slots: RefCell<BTreeMap<Key, Slot>>,
}

// === impl Draft ===

impl<'a> Draft<'a> {
    pub(super) fn new(view: &'a dyn View) -> Self {
        Self { view, slots: RefCell::default() }
    }

    pub(super) fn put(&self, key: Key, record: Record) {
        self.slots.borrow_mut().insert(key, Slot { record: Some(record), changed: true });
    }

    pub(super) fn delete(&self, key: Key) {
        self.slots.borrow_mut().insert(key, Slot { record: None, changed: true });
    }

    /// What has changed.
    pub(super) fn into_mutations(self) -> Vec<Mutation> {
        let changed = self.slots.into_inner().into_iter().filter(|(_, slot)| slot.changed);
        changed
            .map(|(key, slot)| match slot.record {
                Some(record) => Mutation::Put(key, record),
                None => Mutation::Delete(key),
            })
            .collect()
    }
}

impl View for Draft<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        if let Some(slot) = self.slots.borrow().get(key) {
            return Ok(slot.record.clone());
        }
        let record = self.view.get(key)?;
        self.slots.borrow_mut().insert(key.clone(), Slot { record: record.clone(), changed: false });
        Ok(record)
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        self.view.scan(range, after, limit)
    }
}
