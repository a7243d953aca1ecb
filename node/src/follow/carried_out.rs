//! What this node removes for the cluster, so that it can tell that from what people remove.
//!
//! A drop may be taken back between its node's last look and the end of the removal. The record then says nothing of it
//! any more, and only the node knows why its copy is gone. Always holds: a copy is noted before it goes, in the version
//! that goes and as of when it was put there, and until the record does not have it so. The same version may be put
//! there again before anybody was told that it had gone: that is another copy, by its time, and whoever removes that
//! one is a person. A removal that failed is taken back unless the copy is known to be gone. Nothing is kept on disk: a
//! restart in between makes it a person's removal, if the drop was taken back just then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_core::catalog::{Fault, Location, View, read};
use ollamax_types::{Digest, ModelName, NodeId, Timestamp};

/// A version, and when it was put there.
type Copied = (Digest, Timestamp);

/// The copies that this node removes for the cluster, by key, until the record does not have them any more. Clones are
/// the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct CarriedOut(Arc<Mutex<BTreeMap<String, Copied>>>);

// === impl CarriedOut ===

impl CarriedOut {
    /// Whether this node removed a copy that it has by the record, or is at it.
    pub(crate) fn has(&self, held: &Location) -> bool {
        self.lock().get(&held.model.name.key()) == Some(&copied(held))
    }

    /// It is about to go.
    pub(crate) fn begin(&self, held: &Location) {
        self.lock().insert(held.model.name.key(), copied(held));
    }

    /// Its removal failed; `is_gone`: it is known not to be there all the same.
    pub(crate) fn failed(&self, name: &ModelName, is_gone: bool) {
        if !is_gone {
            self.lock().remove(&name.key());
        }
    }

    /// Forgets what the record does not have any more, or has again.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn settle(&self, view: &dyn View, node: NodeId) -> Result<(), Fault> {
        let noted = self.lock().clone();
        for (key, gone) in noted {
            let held = read::node_model(view, node, &key)?;
            if held.is_none_or(|held| copied(&held) != gone) {
                self.lock().remove(&key);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Copied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn copied(held: &Location) -> Copied {
    (held.model.digest, held.model.modified_at)
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Key, Mutation, Record};
    use ollamax_types::ModelRecord;

    use super::*;

    fn name(text: &str) -> ModelName {
        text.parse().expect("a name")
    }

    fn location(text: &str, byte: u8) -> Location {
        let model = ModelRecord {
            name: name(text),
            digest: Digest([byte; 32]),
            weights: Digest([byte; 32]),
            size_bytes: 7,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        Location { node: NodeId(1), model }
    }

    fn held(text: &str, byte: u8) -> Mutation {
        Mutation::Put(Key::NodeModel(NodeId(1), name(text).key()), Record::Location(location(text, byte)))
    }

    #[test]
    fn what_was_removed_for_the_cluster_is_known_until_the_record_does_not_have_it() {
        let (carried_out, mut view) = (CarriedOut::default(), MemView::default());
        let has = |byte| carried_out.has(&location("a", byte));
        let begin = || carried_out.begin(&location("a", 1));
        view.write(&[held("a", 1), held("b", 1)]);
        begin();
        assert_eq!((has(1), has(2)), (true, false), "another version is a person's");
        carried_out.settle(&view, NodeId(1)).expect("readable");
        assert!(has(1), "nobody was told yet");
        carried_out.failed(&name("a"), true);
        assert!(has(1), "it is gone all the same");
        carried_out.failed(&name("a"), false);
        assert!(!has(1));
        for change in [Mutation::Delete(Key::NodeModel(NodeId(1), name("a").key())), held("a", 2)] {
            begin();
            view.write(&[change]);
            carried_out.settle(&view, NodeId(1)).expect("readable");
            assert!(!has(1), "it is told");
        }
    }

    #[test]
    fn a_copy_that_is_put_there_again_before_it_was_told_is_another_one() {
        let (carried_out, mut view) = (CarriedOut::default(), MemView::default());
        let again = |ms: u64| {
            let mut again = location("a", 1);
            again.model.modified_at = Timestamp(ms);
            again
        };
        view.write(&[held("a", 1)]);
        carried_out.begin(&again(1));
        assert!(carried_out.has(&again(1)));
        assert!(!carried_out.has(&again(2)), "somebody put the same version there");
        view.write(&[Mutation::Put(Key::NodeModel(NodeId(1), name("a").key()), Record::Location(again(2)))]);
        carried_out.settle(&view, NodeId(1)).expect("readable");
        assert!(!carried_out.has(&again(1)), "nobody asks for that one any more");
    }
}
