//! How much of what the cluster sends to this node has its room set aside.
//!
//! Whoever plans counts what is on its way to a node against what is free there, and must not count what the disk has
//! given already. So a model counts here with all its bytes, as in a plan, from the moment its room is set aside until
//! the record has the copy, or its pull ends before: with an error, or where the runtime is down and lists it later.
//! What the disk did not give, as it sets nothing aside or a runtime writes it by itself, does not count before the
//! model is in the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ollamax_blobs::Promise;

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

/// What the disk has given of a model of this size: all of it, but for what is only promised still.
pub(super) fn given_bytes(size_bytes: u64, room: &[Promise]) -> u64 {
    room.iter().fold(size_bytes, |given, promise| given.saturating_sub(promise.left_bytes()))
}

// === impl SetAside ===

impl Drop for SetAside {
    fn drop(&mut self) {
        self.aside.0.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use ollamax_blobs::{Need, Promises};

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

    #[test]
    fn what_a_disk_that_sets_nothing_aside_has_not_given_does_not_count() {
        let need = Need { bytes: 60, spare_percent: 0, spare_bytes_min: 0 };
        let mut room = vec![Promises::default().take(7, None, need).expect("nobody knows what is free")];
        assert_eq!(given_bytes(100, &room), 40, "what was there before");
        room[0].allocated(25);
        assert_eq!(given_bytes(100, &room), 65);
        room[0].allocated(35);
        assert_eq!(given_bytes(100, &room), 100);
        assert_eq!(given_bytes(100, &[]), 100, "it is in the store");
    }
}
