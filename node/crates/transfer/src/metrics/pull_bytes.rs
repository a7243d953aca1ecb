//! The rows of each pull that is not over: how many bytes it has, how many of them are there and have a hash, and how
//! many came from each kind of source.
//!
//! They go with the pull, and never are there rows of more than [`PULLS_MAX`] pulls: of more, those that began first.
//! Which node gave how much is no row: a cluster may have many.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::{IntGaugeVec, Opts, Registry};

use ollamax_types::ModelName;

use crate::progress::Source;

const STATES: [&str; 2] = ["total", "verified"];
/// Most pulls that have rows at once.
const PULLS_MAX: usize = 64;

/// Bytes from each kind of source.
type ByKind = [(&'static str, u64); Source::KINDS.len()];

/// The rows. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct PullBytes {
    states: IntGaugeVec,
    sources: IntGaugeVec,
    /// The models that have rows.
    shown: Arc<Mutex<BTreeSet<String>>>,
}

// === impl PullBytes ===

impl Default for PullBytes {
    fn default() -> Self {
        let gauge = |name: &str, help: &str, label: &str| {
            IntGaugeVec::new(Opts::new(name, help), &["model", label]).expect("a valid name and two labels")
        };
        let states = "Bytes of each pull of this node that is not over.";
        let sources = "Bytes that each pull of this node that is not over got, by where from.";
        Self {
            states: gauge("ollamax_transfer_pull_bytes", states, "state"),
            sources: gauge("ollamax_transfer_pull_source_bytes", sources, "source"),
            shown: Arc::default(),
        }
    }
}

impl PullBytes {
    /// Shows them in a registry.
    pub(super) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.states.clone()))?;
        registry.register(Box::new(self.sources.clone()))
    }

    /// How far a pull is.
    pub(super) fn show(&self, model: &ModelName, total_bytes: u64, verified_bytes: u64, by_kind: ByKind) {
        let model = model.to_string();
        let mut shown = self.lock();
        if !shown.contains(&model) {
            if shown.len() >= PULLS_MAX {
                return;
            }
            shown.insert(model.clone());
        }
        let states = STATES.into_iter().zip([total_bytes, verified_bytes]);
        let states = states.map(|(state, bytes)| (&self.states, state, bytes));
        let sources = by_kind.into_iter().map(|(kind, bytes)| (&self.sources, kind, bytes));
        for (gauge, label, bytes) in states.chain(sources) {
            let row = gauge.with_label_values(&[model.as_str(), label]);
            row.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// A pull is over.
    pub(super) fn forget(&self, model: &ModelName) {
        let model = model.to_string();
        let mut shown = self.lock();
        if shown.remove(&model) {
            let states = STATES.into_iter().map(|state| (&self.states, state));
            for (gauge, label) in states.chain(Source::KINDS.into_iter().map(|kind| (&self.sources, kind))) {
                // It was put there when the model was.
                drop(gauge.remove_label_values(&[model.as_str(), label]));
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
        let of_each = STATES.len() + Source::KINDS.len();
        let from = |origin: u64, node: u64| [("origin", origin), ("node", node), ("here", 0), ("bundle", 0)];
        assert_eq!(rows(), 0);
        bytes.show(&name(0), 100, 7, from(7, 0));
        bytes.show(&name(0), 100, 40, from(10, 30));
        let value = |state: &str| bytes.states.with_label_values(&["m0:latest", state]).get();
        assert_eq!((rows(), value("total"), value("verified")), (of_each, 100, 40));
        let came = |kind: &str| bytes.sources.with_label_values(&["m0:latest", kind]).get();
        assert_eq!(Source::KINDS.map(came), [10, 30, 0, 0]);
        (1..=PULLS_MAX).for_each(|number| bytes.show(&name(number), 1, 0, from(0, 0)));
        assert_eq!(rows(), of_each * PULLS_MAX);
        bytes.forget(&name(PULLS_MAX));
        assert_eq!(rows(), of_each * PULLS_MAX, "it had none");
        (0..PULLS_MAX).for_each(|number| bytes.forget(&name(number)));
        assert_eq!(rows(), 0);
    }
}
