//! The metrics of this crate: name, unit, meaning. No labels, since a node has one store.
//!
//! | name | unit | meaning |
//! |---|---|---|
//! | `ollamax_blobs_models` | models | models in the store beside this node, all their files there |
//! | `ollamax_blobs_unhashed_bytes` | bytes | of files in that store that are not hashed yet |
//! | `ollamax_blobs_hashed_bytes_total` | bytes | read from that store to hash them |
//! | `ollamax_blobs_suspect` | files | in that store whose bytes are not what their name says |

use prometheus::{IntCounter, IntGauge, Registry};

/// Handles on the metrics; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    models: IntGauge,
    unhashed: IntGauge,
    hashed: IntCounter,
    suspect: IntGauge,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a valid name");
        let hashed = "Bytes of the model store beside this node that were read to hash them.";
        Self {
            models: gauge("ollamax_blobs_models", "Complete models in the store beside this node."),
            unhashed: gauge("ollamax_blobs_unhashed_bytes", "Bytes of that store that are not hashed yet."),
            hashed: IntCounter::new("ollamax_blobs_hashed_bytes_total", hashed).expect("a valid name"),
            suspect: gauge("ollamax_blobs_suspect", "Files of that store whose bytes are not what their name says."),
        }
    }
}

impl Metrics {
    /// Shows the metrics in a registry.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.models.clone()))?;
        registry.register(Box::new(self.unhashed.clone()))?;
        registry.register(Box::new(self.hashed.clone()))?;
        registry.register(Box::new(self.suspect.clone()))
    }

    pub(crate) fn show(&self, models: usize, suspect: usize) {
        self.models.set(i64::try_from(models).unwrap_or(i64::MAX));
        self.suspect.set(i64::try_from(suspect).unwrap_or(i64::MAX));
    }

    pub(crate) fn show_unhashed(&self, bytes: u64) {
        self.unhashed.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn hashed(&self, bytes: u64) {
        self.hashed.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_registered_once_under_their_own_names() {
        let registry = Registry::new();
        let metrics = Metrics::default();
        metrics.register(&registry).expect("an empty registry");
        assert_eq!(registry.gather().len(), 4);
        metrics.register(&registry).expect_err("taken");
    }
}
