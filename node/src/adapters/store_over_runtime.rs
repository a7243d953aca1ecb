//! Transfer's `Runtime` port over the runtime beside this node: where its store is, when it shall list it again, and
//! when it, and the cluster, know of a model.

use std::path::PathBuf;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use ollamax_core::catalog::read;
use ollamax_metadata as metadata;
use ollamax_outbound::{Environment, Report, RuntimeHandle};
use ollamax_transfer::ports::{Listing, Place, Runtime};
use ollamax_types::{Digest, ModelName, NodeId, RuntimeState};

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
    /// This node.
    pub(crate) node: NodeId,
    /// The replicated state, which names this node's models.
    pub(crate) metadata: metadata::Handle,
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

    fn lists(&self, name: &ModelName, digest: Digest) -> BoxFuture<'static, Listing> {
        let (mut reports, name) = (self.runtime.report(), name.clone());
        async move {
            loop {
                let listing = listing(&reports.borrow_and_update(), &name, digest);
                if let Some(listing) = listing {
                    return listing;
                }
                if reports.changed().await.is_err() {
                    return Listing::Down;
                }
            }
        }
        .boxed()
    }

    fn known(&self, name: &ModelName, digest: Digest) -> BoxFuture<'static, ()> {
        let (metadata, node, name) = (self.metadata.clone(), self.node, name.clone());
        async move {
            let mut changes = metadata.changes();
            loop {
                changes.borrow_and_update();
                let locations = read::locations_of(&*metadata.view(), &name).unwrap_or_default();
                let is_known = locations.iter().any(|held| held.node == node && held.model.digest == digest);
                if is_known || changes.changed().await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

/// What a report says of a model; `None` when the runtime answers and does not list it yet.
fn listing(report: &Report, name: &ModelName, digest: Digest) -> Option<Listing> {
    if report.state != RuntimeState::Up {
        return Some(Listing::Down);
    }
    let mut models = report.models.iter().flat_map(|models| models.iter());
    models.any(|model| model.name == *name && model.digest == digest).then_some(Listing::Listed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ollamax_types::{ModelRecord, RuntimeKind, Timestamp};

    use super::*;

    #[test]
    fn a_model_is_listed_when_name_and_digest_are_and_nobody_waits_for_a_runtime_that_is_down() {
        let name: ModelName = "demo".parse().expect("a name");
        let model = |digest: u8| ModelRecord {
            name: name.clone(),
            digest: Digest([digest; 32]),
            weights: Digest([digest; 32]),
            size_bytes: 1,
            modified_at: Timestamp(0),
            details_json: "{}".to_owned(),
            capabilities: Vec::new(),
        };
        let check = |state: RuntimeState, models: Option<Vec<ModelRecord>>, expected: Option<Listing>| {
            let report = Report { state, models: models.map(Arc::new), ..Report::absent(RuntimeKind::Ollama) };
            assert_eq!(listing(&report, &name, Digest([1; 32])), expected, "{report:?}");
        };
        let down = || RuntimeState::Down("it starts".to_owned());
        check(RuntimeState::Up, Some(vec![model(1)]), Some(Listing::Listed));
        check(RuntimeState::Up, Some(vec![model(2)]), None);
        check(RuntimeState::Up, Some(Vec::new()), None);
        check(RuntimeState::Up, None, None);
        check(down(), Some(vec![model(1)]), Some(Listing::Down));
        check(RuntimeState::Absent, None, Some(Listing::Down));
    }
}
