//! Which state a snapshot is of.

use std::sync::Arc;

use crate::state::AppliedMeta;
use crate::state::applied::Standing;
use crate::state::hash::StateHash;

/// Which state a snapshot is of. Those with the same id hold the same records, whoever made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotId {
    /// How far the state is.
    pub meta: AppliedMeta,
    /// Its hash.
    pub state_hash: [u8; 16],
    /// Records in it.
    pub count: u64,
}

// === impl SnapshotId ===

impl SnapshotId {
    pub(super) fn standing(&self) -> Standing {
        let hash = StateHash::from_bytes(self.state_hash);
        Standing { meta: Some(Arc::new(self.meta.clone())), hash, count: self.count }
    }
}
