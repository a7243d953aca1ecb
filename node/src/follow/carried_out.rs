//! What this node removes for the cluster, so that it can tell that from what people remove.
//!
//! A drop may be taken back between its node's last look and the end of the removal. The record then says nothing of it
//! any more, and only the node knows why its copy is gone. Always holds: a copy is noted before it goes, in the version
//! that goes, and until the record does not have it. It is not kept on disk: a restart in between makes it a person's
//! removal, if the drop was taken back just then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ollamax_core::catalog::{Fault, Location, View, read};
use ollamax_types::{Digest, ModelName, NodeId};

/// The copies that this node removes for the cluster, by key, until the record does not have them any more. Clones are
/// the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct CarriedOut(Arc<Mutex<BTreeMap<String, Digest>>>);

// === impl CarriedOut ===

impl CarriedOut {
    /// Whether this node removed a copy that it has by the record, or is at it.
    pub(crate) fn has(&self, held: &Location) -> bool {
        self.lock().get(&held.model.name.key()) == Some(&held.model.digest)
    }

    /// It is about to go.
    pub(crate) fn begin(&self, name: &ModelName, digest: Digest) {
        self.lock().insert(name.key(), digest);
    }

    /// It was not removed.
    pub(crate) fn take_back(&self, name: &ModelName) {
        self.lock().remove(&name.key());
    }

    /// Forgets what the record does not have any more.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn settle(&self, view: &dyn View, node: NodeId) -> Result<(), Fault> {
        let noted = self.lock().clone();
        for (key, digest) in noted {
            let held = read::node_model(view, node, &key)?;
            if held.is_none_or(|held| held.model.digest != digest) {
                self.lock().remove(&key);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{Key, Mutation, Record};
    use ollamax_types::{ModelRecord, Timestamp};

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
        let begin = || carried_out.begin(&name("a"), Digest([1; 32]));
        view.write(&[held("a", 1), held("b", 1)]);
        begin();
        assert_eq!((has(1), has(2)), (true, false), "another version is a person's");
        carried_out.settle(&view, NodeId(1)).expect("readable");
        assert!(has(1), "nobody was told yet");
        carried_out.take_back(&name("a"));
        assert!(!has(1));
        for change in [Mutation::Delete(Key::NodeModel(NodeId(1), name("a").key())), held("a", 2)] {
            begin();
            view.write(&[change]);
            carried_out.settle(&view, NodeId(1)).expect("readable");
            assert!(!has(1), "it is told");
        }
    }
}
