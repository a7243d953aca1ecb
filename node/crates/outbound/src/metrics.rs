//! The metrics of this crate. All gauges and counters; no labels, since a node has one runtime.
//!
//! | name | unit | meaning |
//! |---|---|---|
//! | `ollamax_runtime_up` | 0 or 1 | the runtime answers |
//! | `ollamax_runtime_health_failures_total` | calls | health calls that failed |
//! | `ollamax_engine_starts_total` | starts | starts of the bundled engine by this node |

use prometheus::{IntCounter, IntGauge, Registry};

/// The handles, shared by all loops of this crate.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) up: IntGauge,
    pub(crate) health_failures: IntCounter,
    pub(crate) engine_starts: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics; see [`Metrics::register`].
    #[must_use]
    pub fn new() -> Self {
        const VALID: &str = "name and help are valid, as a test shows";
        Self {
            up: IntGauge::new("ollamax_runtime_up", "1 when the model runtime beside this node answers").expect(VALID),
            health_failures: IntCounter::new(
                "ollamax_runtime_health_failures_total",
                "Health calls to the model runtime that failed",
            )
            .expect(VALID),
            engine_starts: IntCounter::new("ollamax_engine_starts_total", "Starts of the bundled engine").expect(VALID),
        }
    }

    /// Shows them in a registry.
    ///
    /// # Errors
    /// When the registry holds metrics of these names already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.up.clone()))?;
        registry.register(Box::new(self.health_failures.clone()))?;
        registry.register(Box::new(self.engine_starts.clone()))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_can_be_registered_once() {
        let registry = Registry::new();
        let metrics = Metrics::new();
        metrics.register(&registry).expect("an empty registry");
        assert_eq!(registry.gather().len(), 3);
        metrics.register(&registry).expect_err("taken");
    }
}
