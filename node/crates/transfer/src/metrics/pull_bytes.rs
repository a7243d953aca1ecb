//! The rows of each pull that is not over: how many bytes it has, and how many of them are there and have a hash.
//!
//! They go with the pull, and never are there rows of more than [`PULLS_MAX`] pulls: of more, those that began first.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntGaugeVec, Opts, Registry};

use ollamax_types::ModelName;

const STATES: [&str; 2] = ["total", "verified"];
/// Most pulls that have rows at once.
const PULLS_MAX: usize = 64;

/// The rows. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct PullBytes {
    gauge: IntGaugeVec,
    /// The models that have rows.
    shown: Arc<Mutex<BTreeSet<String>>>,
}

// === impl PullBytes ===

impl Default for PullBytes {
    fn default() -> Self {
        let named = Opts::new("ollamax_transfer_pull_bytes", "Bytes of each pull of this node that is not over.");
        let gauge = IntGaugeVec::new(named, &["model", "state"]).expect("a valid name and two labels");
        Self { gauge, shown: Arc::default() }
    }
}

impl PullBytes {
    /// Shows them in a registry.
    pub(super) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.gauge.clone()))
    }

    /// How far a pull is.
    pub(super) fn show(&self, model: &ModelName, total_bytes: u64, verified_bytes: u64) {
        let model = model.to_string();
        let mut shown = self.lock();
        if !shown.contains(&model) {
            if shown.len() >= PULLS_MAX {
                return;
            }
            shown.insert(model.clone());
        }
        for (state, bytes) in STATES.into_iter().zip([total_bytes, verified_bytes]) {
            let row = self.gauge.with_label_values(&[model.as_str(), state]);
            row.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// A pull is over.
    pub(super) fn forget(&self, model: &ModelName) {
        let model = model.to_string();
        let mut shown = self.lock();
        if shown.remove(&model) {
            for state in STATES {
                // It was put there when the model was.
                drop(self.gauge.remove_label_values(&[model.as_str(), state]));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_has_rows_until_it_is_over_and_never_have_too_many_pulls_some() {
        let registry = Registry::new();
        let bytes = PullBytes::default();
        bytes.register(&registry).expect("an empty registry");
        let name = |number: usize| format!("m{number}").parse::<ModelName>().expect("a name");
        let rows = || registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        assert_eq!(rows(), 0);
        bytes.show(&name(0), 100, 7);
        bytes.show(&name(0), 100, 40);
        let value = |state: &str| bytes.gauge.with_label_values(&["m0:latest", state]).get();
        assert_eq!((rows(), value("total"), value("verified")), (2, 100, 40));
        (1..=PULLS_MAX).for_each(|number| bytes.show(&name(number), 1, 0));
        assert_eq!(rows(), 2 * PULLS_MAX);
        bytes.forget(&name(PULLS_MAX));
        assert_eq!(rows(), 2 * PULLS_MAX, "it had none");
        (0..PULLS_MAX).for_each(|number| bytes.forget(&name(number)));
        assert_eq!(rows(), 0);
    }
}
