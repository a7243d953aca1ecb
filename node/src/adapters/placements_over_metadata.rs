//! What requests read of the replicated state as this node has applied it, kept decoded: the scheduler's `Placements`
//! port, and names of nodes.
//!
//! Works without a leader: routing goes on from what the node knows. Always: what is answered is not older than the
//! applied index at the time of the question. Anything applied empties the memory; what is asked again is read again,
//! piece by piece, so that a request never reads more than itself needs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use ollamax_core::catalog::{Location, Member, MemberState, read};
use ollamax_metadata as metadata;
use ollamax_scheduler::{Placements, PlacementsError};
use ollamax_types::{ModelName, NodeId};

/// Models that are kept; one more empties the memory.
const MODELS_KEPT_MAX: usize = 4_096;

/// A cheap handle on this node's own state.
#[derive(Debug, Clone)]
pub(crate) struct PlacementsOverMetadata(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metadata: metadata::Handle,
    applied: watch::Receiver<u64>,
    kept: Mutex<Kept>,
}

/// Pieces of the state at one applied index or later.
#[derive(Debug, Default)]
struct Kept {
    applied: u64,
    copies: HashMap<ModelName, Arc<[Location]>>,
    members: HashMap<NodeId, Arc<Member>>,
}

// === impl PlacementsOverMetadata ===

impl PlacementsOverMetadata {
    /// Reads through this handle.
    #[must_use]
    pub(crate) fn new(metadata: metadata::Handle) -> Self {
        Self(Arc::new(Inner { applied: metadata.changes(), metadata, kept: Mutex::default() }))
    }

    /// A member by id, departed or not; `None` too when the state cannot be read.
    #[must_use]
    pub(crate) fn member(&self, node: NodeId) -> Option<Arc<Member>> {
        if let Some(member) = self.kept().members.get(&node) {
            return Some(Arc::clone(member));
        }
        let (applied, view) = (self.applied(), self.0.metadata.view());
        let member = Arc::new(read::member(&*view, node).ok().flatten()?);
        let mut kept = self.kept();
        if kept.applied == applied {
            kept.members.insert(node, Arc::clone(&member));
        }
        Some(member)
    }

    /// The state is published before the index, so a view taken after this is at least as new.
    fn applied(&self) -> u64 {
        *self.0.applied.borrow()
    }

    /// What is kept of the state as it is now.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        let applied = self.applied();
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.applied < applied {
            *kept = Kept { applied, ..Kept::default() };
        }
        kept
    }
}

impl Placements for PlacementsOverMetadata {
    fn locations(&self, model: &ModelName) -> Result<Arc<[Location]>, PlacementsError> {
        if let Some(copies) = self.kept().copies.get(model) {
            return Ok(Arc::clone(copies));
        }
        let (applied, view) = (self.applied(), self.0.metadata.view());
        let copies =
            read::locations_of(&*view, model).map_err(|fault| PlacementsError { reason: fault.to_string() })?;
        let copies: Arc<[Location]> = copies.into();
        let mut kept = self.kept();
        // Of names that nobody has there is no end.
        if kept.applied == applied && !copies.is_empty() {
            if kept.copies.len() >= MODELS_KEPT_MAX {
                kept.copies.clear();
            }
            kept.copies.insert(model.clone(), Arc::clone(&copies));
        }
        Ok(copies)
    }

    fn drained(&self, node: NodeId) -> bool {
        self.member(node).is_none_or(|member| member.state != MemberState::Active)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::{CLUSTER_VERSION, Command};
    use ollamax_types::{Digest, ModelRecord, Timestamp};

    use super::*;
    use crate::cluster_of_one::{NODE, World};

    fn model(manifest: u8) -> ModelRecord {
        ModelRecord {
            name: "m".parse().expect("a name"),
            digest: Digest([manifest; 32]),
            weights: Digest([manifest; 32]),
            size_bytes: 1,
            modified_at: Timestamp(1),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_asked_twice_is_read_once_and_again_after_each_change() {
        let world = World::start(CLUSTER_VERSION).await;
        let placements = PlacementsOverMetadata::new(world.metadata.clone());
        let copies = || placements.locations(&model(1).name).expect("readable");
        assert!(copies().is_empty());
        for manifest in [1, 2] {
            let present = vec![model(manifest)];
            world.change(Command::ReportModels { node: NODE, present, absent: vec![] }).await;
            let found = copies();
            assert_eq!(*found, [Location { node: NODE, model: model(manifest) }]);
            assert!(Arc::ptr_eq(&found, &copies()), "nothing was applied since");
        }
        for drained in [true, false] {
            world.change(Command::SetDrained { node: NODE, drained }).await;
            assert_eq!(placements.drained(NODE), drained);
            assert_eq!(placements.member(NODE).expect("a member").name, "n1");
        }
        assert!(placements.drained(NodeId(2)), "an unknown node takes no requests");
        let absent = vec![model(2).name.key()];
        world.change(Command::ReportModels { node: NODE, present: vec![], absent }).await;
        assert!(copies().is_empty());
        world.finish().await;
    }
}
