//! Transfer's `Runtime` port over the runtime beside this node: where its store is, and when it shall list it again.

use std::path::PathBuf;

use ollamax_outbound::{Environment, RuntimeHandle};
use ollamax_transfer::{Place, Runtime};

use crate::model_place::{ModelPlace, model_place, none_at};

/// Speaks of whatever runtime this node has now.
#[derive(Debug, Clone)]
pub(crate) struct StoreOverRuntime {
    /// The runtime beside this node.
    pub(crate) runtime: RuntimeHandle,
    /// The data directory, in which the engine's store lies.
    pub(crate) data_dir: PathBuf,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
}

impl Runtime for StoreOverRuntime {
    fn place(&self) -> Place {
        let report = self.runtime.report().borrow().clone();
        match model_place(&report, &self.data_dir, &self.environment) {
            ModelPlace::Store(place) => Place::Store(place),
            ModelPlace::Elsewhere(why) => Place::None(why.to_owned()),
            ModelPlace::NotFound(places) => Place::None(none_at(&places)),
        }
    }

    fn look(&self) {
        if let Some(client) = self.runtime.client() {
            client.note_models_changed();
        }
    }
}
