//! The owner's side: check, wait for a slot, call the runtime, tell a failure from an answer.
//!
//! Always holds: a slot is held exactly while the runtime works on a request or its answer flows. An answer that says
//! "no room", "no such model" or "the runner died" is a refusal, so that the router can go elsewhere; any other answer
//! goes to the client byte for byte, errors included.

mod body;
mod verdict;

use std::sync::Arc;

use ollamax_types::{Digest, InferenceRequest, RuntimeState};

use crate::admission::Place;
use crate::beat::is_draining;
use crate::error::AdmitError;
use crate::handle::Shared;
use crate::ports::RuntimeError;
use crate::response::Response;
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
    let digest = check(shared, &request)?;
    let place = if request.api.needs_runner() { Some(wait_for_slot(shared, digest).await?) } else { None };
    let (model, wanted) = (Box::new(request.model.clone()), request.digest);
    let mut working = Working::new(place, shared.parts.metrics.clone());
    let response = shared.parts.runtime.send(request).await.map_err(|source| match source {
        RuntimeError::Unreachable(detail) => AdmitError::RuntimeUnavailable { node, detail },
        RuntimeError::Failed(_) => AdmitError::Runtime { node, source },
    });
    let verdict = match response {
        Ok(response) => verdict::of(response).await,
        Err(error) => {
            working.refused();
            return Err(error);
        }
    };
    let error = match verdict {
        Verdict::Answer(response) => {
            return Ok(Response { node, body: working.follow(response.body), ..response });
        }
        Verdict::NoRoom(detail) => AdmitError::Overloaded { node, detail },
        Verdict::NoModel => AdmitError::StalePlacement { node, model, wanted },
        Verdict::RunnerDied(detail) => AdmitError::RunnerCrashed { node, detail },
    };
    working.refused();
    Err(error)
}

/// May this node take the request, and for which version of the model?
fn check(shared: &Shared, request: &InferenceRequest) -> Result<Digest, AdmitError> {
    let node = shared.parts.node;
    if is_draining(shared) {
        return Err(AdmitError::Draining { node });
    }
    let report = shared.local.runtime();
    match &report.state {
        RuntimeState::Up => {}
        RuntimeState::Absent => {
            return Err(AdmitError::RuntimeUnavailable { node, detail: "there is none".to_owned() });
        }
        RuntimeState::Down(why) => return Err(AdmitError::RuntimeUnavailable { node, detail: why.clone() }),
    }
    let held = report.models.iter().find(|model| model.name == request.model).map(|model| model.digest);
    let fits = |held: &Digest| request.digest.is_none_or(|wanted| wanted == *held);
    held.filter(fits).ok_or_else(|| AdmitError::StalePlacement {
        node,
        model: Box::new(request.model.clone()),
        wanted: request.digest,
    })
}

async fn wait_for_slot(shared: &Arc<Shared>, digest: Digest) -> Result<Place, AdmitError> {
    let node = shared.parts.node;
    let place = shared.admission.enter(digest).await;
    place.map_err(|error| AdmitError::Overloaded { node, detail: error.to_string() })
}
