//! Counts what a command reads, so that none can grow with the state.

use std::cell::Cell;

use ollamax_types::limits::COMMAND_KEYS_MAX;

use crate::catalog::record::{Key, KeyRange, Record};
use crate::catalog::view::{Fault, View};

/// A view that faults beyond `COMMAND_KEYS_MAX` keys.
pub(super) struct Reader<'a> {
    view: &'a dyn View,
    read: Cell<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(view: &'a dyn View) -> Self {
        Self { view, read: Cell::new(0) }
    }

    fn count(&self, keys: usize) -> Result<(), Fault> {
        let read = self.read.get() + keys;
        self.read.set(read);
        if read > COMMAND_KEYS_MAX {
            return Err(Fault::Invariant(format!("a command read {read} keys; the limit is {COMMAND_KEYS_MAX}")));
        }
        Ok(())
    }
}

impl View for Reader<'_> {
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault> {
        self.count(1)?;
        self.view.get(key)
    }

    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault> {
        let found = self.view.scan(range, after, limit)?;
        self.count(found.len())?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::mem::MemView;

    #[test]
    fn the_key_after_the_limit_is_a_fault() {
        let view = MemView::default();
        let reader = Reader::new(&view);
        for _ in 0..COMMAND_KEYS_MAX {
            assert_eq!(reader.get(&Key::Cluster), Ok(None));
        }
        assert!(matches!(reader.get(&Key::Cluster), Err(Fault::Invariant(_))));
    }
}
