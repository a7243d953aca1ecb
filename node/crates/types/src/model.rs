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
    /// Bytes on disk, as the runtime reports.
    pub size_bytes: u64,
    /// When the runtime last changed it.
    pub modified_at: Timestamp,
    /// The runtime's `details` object, as JSON text, handed through unread.
    pub details_json: String,
}
