//! What a node says of one model in its runtime's store.

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::limits::{CAPABILITIES_MAX, CAPABILITY_BYTES_MAX};
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
    /// What it can do (`completion`, `tools`, …), as [`capabilities_of`] keeps it; empty while it is not known.
    pub capabilities: Vec<String>,
}

// === impl ModelRecord ===

impl ModelRecord {
    /// The weights, unless only the manifest stands for them.
    #[must_use]
    pub fn known_weights(&self) -> Option<Digest> {
        (self.weights != self.digest).then_some(self.weights)
    }
}

/// Words for what a model can do as records keep them: in order, each once, within the limits. What breaks a limit is
/// left out.
#[must_use]
pub fn capabilities_of(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let kept = words.into_iter().filter(|word| (1..=CAPABILITY_BYTES_MAX).contains(&word.len()));
    kept.collect::<BTreeSet<_>>().into_iter().take(CAPABILITIES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_in_order_each_once_and_within_their_limits() {
        let check = |words: &[&str], expected: &[&str]| {
            assert_eq!(capabilities_of(words.iter().map(|word| (*word).to_owned())), expected, "{words:?}");
        };
        check(&[], &[]);
        check(&["tools", "completion", "tools"], &["completion", "tools"]);
        let longest = "x".repeat(CAPABILITY_BYTES_MAX);
        check(&["", &longest, &"x".repeat(CAPABILITY_BYTES_MAX + 1)], &[&longest]);
        let many: Vec<String> = (0..=CAPABILITIES_MAX).map(|number| format!("c{number:02}")).collect();
        assert_eq!(capabilities_of(many.clone()), many[..CAPABILITIES_MAX]);
    }
}
