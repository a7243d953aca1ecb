//! How much of what the cluster sends to this node has its room set aside.
//!
//! Whoever plans counts what is on its way to a node against what is free there, and must not count what the disk has
//! given already. So a model counts here with all its bytes, as in a plan, from the moment its room is set aside until
//! its pull ends, which is when the record has the copy. What a runtime writes into its store by itself has no room
//! there before: such a model counts from the moment it is in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The sum over all pulls. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside(Arc<AtomicU64>);

/// One model of it, until this is dropped.
#[derive(Debug)]
pub(super) struct SetAside {
    aside: Aside,
    bytes: u64,
}

// === impl Aside ===

impl Aside {
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Room is set aside for a model of this size, which is less than any sum would need to overflow.
    pub(super) fn add(&self, bytes: u64) -> SetAside {
        self.0.fetch_add(bytes, Ordering::SeqCst);
        SetAside { aside: self.clone(), bytes }
    }
}

// === impl SetAside ===

impl Drop for SetAside {
    fn drop(&mut self) {
        self.aside.0.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_counts_until_its_pull_ends() {
        let aside = Aside::default();
        let (first, second) = (aside.add(7), aside.clone().add(5));
        assert_eq!(aside.bytes(), 12);
        drop(first);
        assert_eq!(aside.bytes(), 5);
        drop(second);
        assert_eq!(aside.bytes(), 0);
    }
}
