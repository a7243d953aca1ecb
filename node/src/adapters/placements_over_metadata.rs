//! What requests read of the replicated state as this node has applied it, kept decoded: the scheduler's `Placements`
//! port, and names of nodes.
//!
//! Works without a leader: routing goes on from what the node knows. Always: what is answered is not older than the
//! applied index at the time of the question; of a pinned name only the pinned version is seen, where any node has it.
//! Anything applied empties the memory; what is asked again is read again, piece by piece, so that a request never
//! reads more than itself needs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use ollamax_core::catalog::{Fault, Location, Member, MemberState, Model, Phase, View, read};
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
    models: HashMap<ModelName, Known>,
    members: HashMap<NodeId, Arc<Member>>,
}

/// What is known of one name.
#[derive(Debug, Clone)]
struct Known {
    copies: Arc<[Location]>,
    phase: Phase,
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

    /// Where a model stands in its life. Nobody is refused because the state cannot be read: then it is active.
    #[must_use]
    pub(crate) fn phase(&self, model: &ModelName) -> Phase {
        self.known(model).map_or(Phase::Active, |known| known.phase)
    }

    fn known(&self, model: &ModelName) -> Result<Known, Fault> {
        if let Some(known) = self.kept().models.get(model) {
            return Ok(known.clone());
        }
        let (applied, view) = (self.applied(), self.0.metadata.view());
        let known = Known::read(&*view, model)?;
        let mut kept = self.kept();
        // Of names that nobody has there is no end.
        if kept.applied == applied && !known.copies.is_empty() {
            if kept.models.len() >= MODELS_KEPT_MAX {
                kept.models.clear();
            }
            kept.models.insert(model.clone(), known.clone());
        }
        Ok(known)
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

// === impl Known ===

impl Known {
    fn read(view: &dyn View, model: &ModelName) -> Result<Self, Fault> {
        let (mut copies, record) = (read::locations_of(view, model)?, read::model(view, model)?);
        let pinned = record.as_ref().and_then(Model::pinned);
        if let Some(pinned) = pinned.filter(|pinned| copies.iter().any(|copy| copy.model.digest == *pinned)) {
            copies.retain(|copy| copy.model.digest == pinned);
        }
        Ok(Self { copies: copies.into(), phase: record.map_or(Phase::Active, |record| record.phase) })
    }
}

impl Placements for PlacementsOverMetadata {
    fn locations(&self, model: &ModelName) -> Result<Arc<[Location]>, PlacementsError> {
        let known = self.known(model).map_err(|fault| PlacementsError { reason: fault.to_string() })?;
        Ok(known.copies)
    }

    fn drained(&self, node: NodeId) -> bool {
        self.member(node).is_none_or(|member| member.state != MemberState::Active)
    }
}

#[cfg(test)]
mod tests {
    use ollamax_core::catalog::mem::MemView;
    use ollamax_core::catalog::{CLUSTER_VERSION, Command, Key, Mutation, PhaseWord, Pin, Record};
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

    fn reported(present: Vec<ModelRecord>, absent: Vec<String>) -> Command {
        Command::ReportModels { node: NODE, present, absent, removed: vec![] }
    }

    #[tokio::test]
    async fn what_is_asked_twice_is_read_once_and_again_after_each_change() {
        let world = World::start(CLUSTER_VERSION).await;
        let placements = PlacementsOverMetadata::new(world.metadata.clone());
        let copies = || placements.locations(&model(1).name).expect("readable");
        assert!(copies().is_empty());
        for manifest in [1, 2] {
            let present = vec![model(manifest)];
            world.change(reported(present, vec![])).await;
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
        world.change(reported(vec![], absent)).await;
        assert!(copies().is_empty());
        world.finish().await;
    }
    #[tokio::test]
    async fn of_a_pinned_name_only_that_version_is_seen_while_somebody_has_it() {
        let world = World::start(CLUSTER_VERSION).await;
        let placements = PlacementsOverMetadata::new(world.metadata.clone());
        let name = model(1).name;
        let seen = || placements.locations(&name).expect("readable").len();
        let report = async |manifest: u8| {
            let present = vec![model(manifest)];
            world.change(reported(present, vec![])).await;
        };
        report(1).await;
        world.change(Command::PinModel { name: name.clone(), digest: Some(model(1).digest) }).await;
        assert_eq!(seen(), 1);
        // It was exchanged by hand: another version is better than none.
        report(2).await;
        assert_eq!(seen(), 1);
        let others = |digest: u8| Location { node: NodeId(9), model: model(digest) };
        let mut view = MemView::default();
        for location in [others(1), Location { node: NODE, model: model(2) }] {
            let key = Key::Location(name.key(), location.node);
            view.write(&[Mutation::Put(key, Record::Location(location))]);
        }
        let known = |view: &MemView| Known::read(view, &name).expect("readable");
        assert_eq!(known(&view).copies.len(), 2);
        let pin = Pin { digest: model(1).digest, by: "node/1 for admin".to_owned(), at: Timestamp(1) };
        let record = Model { pin: Some(pin), ..Model::new(name.clone(), Timestamp(1)) };
        view.write(&[Mutation::Put(Key::Model(name.key()), Record::Model(Box::new(record)))]);
        assert_eq!(*known(&view).copies, [others(1)]);
        world.finish().await;
    }

    #[tokio::test]
    async fn a_phase_is_known_as_soon_as_it_is_applied() {
        let world = World::start(CLUSTER_VERSION).await;
        let placements = PlacementsOverMetadata::new(world.metadata.clone());
        let name = model(1).name;
        assert_eq!(placements.phase(&name), Phase::Active);
        world.change(reported(vec![model(1)], vec![])).await;
        for phase in [PhaseWord::Disabled, PhaseWord::Active, PhaseWord::Deprecated] {
            world.change(Command::SetPhase { name: name.clone(), phase, note: "old".to_owned() }).await;
            let is_as_set = match placements.phase(&name) {
                Phase::Active => phase == PhaseWord::Active,
                Phase::Deprecated(since) => phase == PhaseWord::Deprecated && since.note == "old",
                Phase::Disabled(since) => phase == PhaseWord::Disabled && since.note == "old",
                Phase::Deleted(_) => false,
            };
            assert!(is_as_set, "{phase:?}");
        }
        world.finish().await;
    }
}
