//! What a node says of one model in its runtime's store.

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::name::ModelName;

/// One model as listed by a runtime's `/api/tags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    /// Canonical name, tag included, spelled as the runtime spells it.
    pub name: ModelName,
    /// SHA-256 of the manifest: equal digests are byte-identical models.
    pub digest: Digest,
    /// SHA-256 of the weights file; the manifest's digest while it is not known. A runtime has one runner for each
    /// weights file, whatever the number of models made from it.
    pub weights: Digest,
    /// Bytes on disk, as the runtime reports.
    pub size_bytes: u64,
    /// When the runtime last changed it.
    pub modified_at: Timestamp,
    /// The runtime's `details` object, as JSON text, handed through unread.
    pub details_json: String,
}

// === impl ModelRecord ===

impl ModelRecord {
    /// The weights, unless only the manifest stands for them.
    #[must_use]
    pub fn known_weights(&self) -> Option<Digest> {
        (self.weights != self.digest).then_some(self.weights)
    }
}
