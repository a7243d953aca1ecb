//! What cluster version each member can apply, as its consensus says with every answer.
//!
//! Kept in memory by whoever asks: the leader hears all members within a heartbeat. A member that was not heard since
//! this process began is not known, and keeps the cluster's version where it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ollamax_types::NodeId;

/// A cheap handle on what was heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Releases(Arc<Mutex<BTreeMap<NodeId, u32>>>);

impl Releases {
    pub(crate) fn heard(&self, node: NodeId, release: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node, release);
    }

    pub(crate) fn all(&self) -> BTreeMap<NodeId, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
