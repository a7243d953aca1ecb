//! The place where the engines appear once this node has an id.
//!
//! Services that are bound before that (peers, clients, administrators) look here at each request and answer
//! `not_initialised` while it is empty.

use tokio::sync::watch;

use ollamax_metadata as metadata;
use ollamax_scheduler as scheduler;
use ollamax_transfer as transfer;
use ollamax_types::{ClusterId, NodeId};

use crate::adapters::placements_over_metadata::PlacementsOverMetadata;
use crate::follow::carried_out::CarriedOut;
use crate::follow::presence::Prospect;

/// This node as a member of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct MemberEngines {
    /// Of which cluster.
    pub(crate) cluster: ClusterId,
    /// Its id there.
    pub(crate) node: NodeId,
    /// Its name there.
    pub(crate) name: String,
    /// The replicated state.
    pub(crate) metadata: metadata::Handle,
    /// What requests read of it.
    pub(crate) placements: PlacementsOverMetadata,
    /// Load, queues, dispatch.
    pub(crate) scheduler: scheduler::Handle,
    /// What would be done for wishes, as this node sees it.
    pub(crate) prospect: Prospect,
    /// Pulls, and what lies in the store of the runtime beside this node.
    pub(crate) transfer: transfer::Handle,
    /// Copies that this node removed for the cluster.
    pub(crate) carried_out: CarriedOut,
}

/// A cheap handle on the place.
#[derive(Debug, Clone)]
pub(crate) struct Slot(watch::Sender<Option<MemberEngines>>);

impl Default for Slot {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

// === impl Slot ===

impl Slot {
    /// The engines, if they run.
    #[must_use]
    pub(crate) fn get(&self) -> Option<MemberEngines> {
        self.0.borrow().clone()
    }

    /// Puts the engines in place, or takes them away.
    pub(crate) fn set(&self, engines: Option<MemberEngines>) {
        self.0.send_replace(engines);
    }

    /// Follows what is in the place.
    #[must_use]
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<MemberEngines>> {
        self.0.subscribe()
    }
}
