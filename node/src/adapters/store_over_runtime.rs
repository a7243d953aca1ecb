//! Transfer's `Runtime` port over the runtime beside this node: where its store is, when it shall list it again, when
//! it, and the cluster, know of a model, and how it fetches one by itself where this node may not write.

use std::path::PathBuf;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};

use ollamax_core::catalog::read;
use ollamax_metadata as metadata;
use ollamax_outbound::{Client, Environment, PullStep, Report, RuntimeError, RuntimeHandle};
use ollamax_transfer::Shelf;
use ollamax_transfer::ports::{FetchStep, Listing, Place, Runtime, RuntimeTrouble};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId, RuntimeKind, RuntimeState};

use crate::model_place::{ModelPlace, model_place, none_at};

/// What a full disk is called in the words of a runtime.
const NO_SPACE: &str = "no space left on device";

/// Speaks of whatever runtime this node has now.
#[derive(Debug, Clone)]
pub(crate) struct StoreOverRuntime {
    /// The runtime beside this node.
    pub(crate) runtime: RuntimeHandle,
    /// The data directory, in which the engine's store lies.
    pub(crate) data_dir: PathBuf,
    /// What the process's environment says of Ollama.
    pub(crate) environment: Environment,
    /// From where the runtime may fetch.
    pub(crate) shelf: Option<Shelf>,
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

    fn shelf(&self) -> Result<Shelf, String> {
        shelf_for(&self.runtime.report().borrow(), self.shelf.as_ref())
    }

    fn fetch(&self, name: &ModelName) -> BoxStream<'static, Result<FetchStep, RuntimeTrouble>> {
        match self.client() {
            Ok(client) => client.pull(name).map(fetch_step).boxed(),
            Err(trouble) => stream::iter([Err(trouble)]).boxed(),
        }
    }

    fn holds(&self, name: &ModelName) -> BoxFuture<'static, Result<Option<Digest>, RuntimeTrouble>> {
        let (client, name) = (self.client(), name.clone());
        async move {
            let models = client?.tags().await.map_err(|error| trouble(&error))?;
            Ok(models.into_iter().find(|model| model.name == name).map(|model| model.digest))
        }
        .boxed()
    }

    fn copy(&self, from: &ModelName, to: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>> {
        let (client, from, to) = (self.client(), from.clone(), to.clone());
        async move { client?.copy(&from, &to).await.map_err(|error| trouble(&error)) }.boxed()
    }

    fn delete(&self, name: &ModelName) -> BoxFuture<'static, Result<(), RuntimeTrouble>> {
        let (client, name) = (self.client(), name.clone());
        async move {
            match client?.delete(&name).await {
                Err(error) if error.code() != ErrorCode::ModelNotFound => Err(trouble(&error)),
                _ => Ok(()),
            }
        }
        .boxed()
    }
}

// === impl StoreOverRuntime ===

impl StoreOverRuntime {
    fn client(&self) -> Result<Client, RuntimeTrouble> {
        self.runtime.client().ok_or_else(|| RuntimeTrouble {
            may_pass: true,
            is_down: false,
            code: ErrorCode::RuntimeUnavailable,
            text: "no runtime has an address yet".to_owned(),
        })
    }
}

/// From where the runtime of this report fetches what this node may not put into its store; else why it does not.
pub(crate) fn shelf_for(report: &Report, shelf: Option<&Shelf>) -> Result<Shelf, String> {
    match (report.kind, shelf) {
        (RuntimeKind::Engine, _) => Err("the bundled engine fetches nothing by itself".to_owned()),
        (RuntimeKind::Ollama, None) => {
            Err("this node found no port of 127.0.0.1 at which the runtime could fetch".to_owned())
        }
        (RuntimeKind::Ollama, Some(shelf)) => Ok(shelf.clone()),
    }
}

fn fetch_step(step: Result<PullStep, RuntimeError>) -> Result<FetchStep, RuntimeTrouble> {
    match step {
        Ok(PullStep::Went { status, completed_bytes }) => Ok(FetchStep::Went { what: status, bytes: completed_bytes }),
        Ok(PullStep::Done) => Ok(FetchStep::Done),
        Err(error) => Err(trouble(&error)),
    }
}

/// What an error of the runtime means for a pull.
fn trouble(error: &RuntimeError) -> RuntimeTrouble {
    let may_pass = match error {
        RuntimeError::Unreachable { .. }
        | RuntimeError::Disconnected { .. }
        | RuntimeError::TimedOut { .. }
        | RuntimeError::Broken(_) => true,
        RuntimeError::NotOllama { .. }
        | RuntimeError::IsOllamaMax { .. }
        | RuntimeError::Refused { .. }
        | RuntimeError::TooLarge { .. }
        | RuntimeError::UploadFailed { .. } => false,
    };
    let text = match error {
        RuntimeError::Refused { message, .. } => message.clone(),
        other => other.to_string(),
    };
    let code = match error.code() {
        _ if text.contains(NO_SPACE) => ErrorCode::DiskFull,
        // Nobody asked for anything bad: the runtime did not do what it was asked for.
        ErrorCode::BadRequest | ErrorCode::ModelNotFound => ErrorCode::RuntimeFailed,
        code => code,
    };
    // One behind a way that is closed runs, and may be about to name any file.
    let is_down = matches!(error, RuntimeError::Unreachable { is_refused: true, .. });
    RuntimeTrouble { may_pass, is_down, code, text }
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
    fn what_a_runtime_says_of_a_fetch_is_told_in_its_words_and_a_full_disk_as_such() {
        let check = |error: RuntimeError, may_pass: bool, code: ErrorCode, text: &str| {
            let found = trouble(&error);
            assert_eq!((found.may_pass, found.code, found.text.as_str()), (may_pass, code, text), "{error:?}");
        };
        let refused = |status: u16, message: &str| RuntimeError::Refused {
            path: "/api/pull".to_owned(),
            status,
            message: message.to_owned(),
        };
        let full = "write /m/blobs/sha256-00-partial: no space left on device";
        check(refused(200, full), false, ErrorCode::DiskFull, full);
        check(refused(200, "file does not exist"), false, ErrorCode::RuntimeFailed, "file does not exist");
        check(refused(400, "invalid model name"), false, ErrorCode::RuntimeFailed, "invalid model name");
        check(refused(404, "model 'm' not found"), false, ErrorCode::RuntimeFailed, "model 'm' not found");
        for is_refused in [true, false] {
            let (url, reason) = ("http://h:1".to_owned(), "as it is".to_owned());
            let gone = RuntimeError::Unreachable { url, reason, is_refused };
            assert_eq!(trouble(&gone).is_down, is_refused, "a name that is not found or silence is not down");
            let text = "the runtime at http://h:1 cannot be reached: as it is";
            check(gone, true, ErrorCode::RuntimeUnavailable, text);
        }
    }

    #[test]
    fn only_an_ollama_fetches_and_only_where_there_is_a_shelf() {
        let shelf = Shelf::new(([127, 0, 0, 1], 7).into(), || None);
        let check = |kind: RuntimeKind, shelf: Option<&Shelf>, expected: Result<u16, &str>| {
            let found = shelf_for(&Report::absent(kind), shelf).map(|shelf| shelf.address().port());
            match (&found, expected) {
                (Ok(port), Ok(expected)) => assert_eq!(*port, expected),
                (Err(why), Err(needle)) => assert!(why.contains(needle), "{why}"),
                _ => panic!("{found:?}, not {expected:?}"),
            }
        };
        check(RuntimeKind::Ollama, Some(&shelf), Ok(7));
        check(RuntimeKind::Ollama, None, Err("no port of 127.0.0.1"));
        check(RuntimeKind::Engine, Some(&shelf), Err("the bundled engine fetches nothing"));
    }

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
