//! The owner's side: check, wait for a slot, call the runtime, tell a failure from an answer.
//!
//! Always holds: a slot is held exactly while the runtime works on a request or its answer flows. An answer that says
//! "no room", "no such model" or "the runner died" is a refusal, so that the router can go elsewhere; any other answer
//! goes to the client byte for byte, errors included. When the runtime is reported down, what waits in the queue or for
//! its head is refused too: nothing waits behind a runtime that does not answer.

mod body;
mod verdict;

use std::sync::Arc;

use ollamax_types::{Digest, InferenceRequest, ModelRecord};

use crate::admission::Place;
use crate::beat::is_draining;
use crate::error::AdmitError;
use crate::handle::Shared;
use crate::ports::RuntimeError;
use crate::response::Response;
use crate::vigil::{Vigil, problem};
use body::Working;
use verdict::Verdict;

/// Takes a request to the runtime beside this node.
pub(crate) async fn admit(shared: &Arc<Shared>, request: InferenceRequest) -> Result<Response, AdmitError> {
    let outcome = try_admit(shared, request).await;
    if outcome.is_err() {
        shared.parts.metrics.owned("refused");
    }
    outcome
}

async fn try_admit(shared: &Arc<Shared>, request: InferenceRequest) -> Result<Response, AdmitError> {
    let node = shared.parts.node;
    let weights = check(shared, &request)?;
    let mut vigil = shared.local.vigil();
    let place = if request.api.needs_runner() { Some(wait_for_slot(shared, &mut vigil, weights).await?) } else { None };
    let mut working = Working::new(Arc::clone(shared), place);
    // What only shows a model does not use it.
    let used = request.api.needs_runner().then(|| request.model.clone());
    let judged = tokio::select! {
        biased;
        detail = vigil.down() => Err(AdmitError::RuntimeLost { node, detail }),
        judged = ask(shared, request) => judged,
    };
    match judged {
        Ok(response) => {
            if let Some(model) = used {
                shared.served.note(&model, shared.parts.clock.now());
            }
            Ok(Response { node, body: working.follow(response.body, vigil), ..response })
        }
        Err(error) => {
            working.refused();
            Err(error)
        }
    }
}

/// Sends the request to the runtime and judges the head of its answer.
async fn ask(shared: &Shared, request: InferenceRequest) -> Result<Response, AdmitError> {
    let node = shared.parts.node;
    let (model, wanted) = (request.model.clone(), request.digest);
    let response = shared.parts.runtime.send(request).await.map_err(|source| match source {
        RuntimeError::Unreachable(detail) => AdmitError::RuntimeUnavailable { node, detail },
        RuntimeError::Failed(_) => AdmitError::Runtime { node, source },
    })?;
    match verdict::of(response).await {
        Verdict::Answer(response) => Ok(response),
        Verdict::NoRoom(detail) => Err(AdmitError::Overloaded { node, detail }),
        Verdict::NoModel => Err(AdmitError::StalePlacement { node, model: Box::new(model), wanted }),
        Verdict::RunnerDied(detail) => Err(AdmitError::RunnerCrashed { node, detail }),
    }
}

/// May this node take the request, and at the runner of which weights?
fn check(shared: &Shared, request: &InferenceRequest) -> Result<Digest, AdmitError> {
    let node = shared.parts.node;
    if is_draining(shared) {
        return Err(AdmitError::Draining { node });
    }
    let report = shared.local.runtime();
    if let Some(why) = problem(&report.state) {
        return Err(AdmitError::RuntimeUnavailable { node, detail: why.to_owned() });
    }
    let held = report.models.iter().find(|model| model.name == request.model);
    let fits = |held: &&ModelRecord| request.digest.is_none_or(|wanted| wanted == held.digest);
    held.filter(fits).map(|held| held.weights).ok_or_else(|| AdmitError::StalePlacement {
        node,
        model: Box::new(request.model.clone()),
        wanted: request.digest,
    })
}

/// Waits in the queue of the runner, as long as the runtime does not go down.
async fn wait_for_slot(shared: &Shared, vigil: &mut Vigil, weights: Digest) -> Result<Place, AdmitError> {
    let node = shared.parts.node;
    tokio::select! {
        biased;
        detail = vigil.down() => Err(AdmitError::RuntimeUnavailable { node, detail }),
        place = shared.admission.enter(weights) => {
            place.map_err(|error| AdmitError::Overloaded { node, detail: error.to_string() })
        }
    }
}
