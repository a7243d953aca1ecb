//! Counts what a command reads, so that none can grow with the state.

use std::cell::Cell;

use ollamax_types::limits::COMMAND_KEYS_MAX;

use crate::catalog::record::{Key, KeyRange, Record};
use crate::catalog::view::{Fault, View};

/// A view that faults beyond `COMMAND_KEYS_MAX` keys, and those that are read beside the command.
pub(super) struct Reader<'a> {
    view: &'a dyn View,
    read: Cell<usize>,
    limit: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(view: &'a dyn View, beside: usize) -> Self {
        Self { view, read: Cell::new(0), limit: COMMAND_KEYS_MAX + beside }
    }

    fn count(&self, keys: usize) -> Result<(), Fault> {
        let read = self.read.get() + keys;
        self.read.set(read);
        if read > self.limit {
            return Err(Fault::Invariant(format!("a command read {read} keys; the limit is {}", self.limit)));
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
        for beside in [0, 2] {
            let reader = Reader::new(&view, beside);
            for _ in 0..COMMAND_KEYS_MAX + beside {
                assert_eq!(reader.get(&Key::Cluster), Ok(None));
            }
            assert!(matches!(reader.get(&Key::Cluster), Err(Fault::Invariant(_))));
        }
    }
}
