//! The scheduler's `Placements` port over the replicated state as this node has applied it.
//!
//! Works without a leader: routing goes on from what the node knows.

use ollamax_core::catalog::{Location, MemberState, read};
use ollamax_metadata as metadata;
use ollamax_scheduler::{Placements, PlacementsError};
use ollamax_types::{ModelName, NodeId};

/// Reads this node's own state.
#[derive(Debug, Clone)]
pub(crate) struct PlacementsOverMetadata(metadata::Handle);

// === impl PlacementsOverMetadata ===

impl PlacementsOverMetadata {
    /// Reads through this handle.
    #[must_use]
    pub(crate) const fn new(metadata: metadata::Handle) -> Self {
        Self(metadata)
    }
}

impl Placements for PlacementsOverMetadata {
    fn locations(&self, model: &ModelName) -> Result<Vec<Location>, PlacementsError> {
        let view = self.0.view();
        read::locations_of(&*view, model).map_err(|fault| PlacementsError { reason: fault.to_string() })
    }

    fn drained(&self, node: NodeId) -> bool {
        let view = self.0.view();
        !matches!(read::member(&*view, node), Ok(Some(member)) if member.state == MemberState::Active)
    }
}
