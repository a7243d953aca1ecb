//! The router's side: choose a node, send, and go on to the next one as long as nothing of an answer was seen.
//!
//! Always holds: one request is served from one version of the model; it is tried on a node once; after the head it
//! stays where it is. A request that waits for its head at a node that has fallen silent is taken back and sent
//! elsewhere, because a queue behind a dead node never moves. Failed attempts are logged here, where they are consumed.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, MissedTickBehavior};

use ollamax_core::catalog::{Location, models};
use ollamax_core::health::Health;
use ollamax_core::routing::{self, Attempt, Candidate, Failure, Next, Wanted};
use ollamax_types::{Digest, ErrorCode, InferenceRequest, NodeId, limits};

use crate::candidates::{candidate, copies};
use crate::error::{AdmitError, DispatchError, NodeReason, Reason};
use crate::handle::Shared;
use crate::load_view::Sending;
use crate::ports::SendError;
use crate::response::{Body, Broken, Response};

/// One failed attempt, for the rules and for people.
struct Failed {
    failure: Failure,
    reason: Reason,
    detail: String,
}

/// What was tried so far.
#[derive(Default)]
struct Trail {
    attempts: Vec<Attempt>,
    reasons: Vec<NodeReason>,
}

/// Sends a request to the best node, or to the next best.
pub(crate) async fn dispatch(shared: &Arc<Shared>, request: InferenceRequest) -> Result<Response, DispatchError> {
    let outcome = try_dispatch(shared, request).await;
    let word = outcome.as_ref().map_or_else(|error| error.code().as_str(), |_| "answered");
    shared.parts.metrics.dispatched(word);
    outcome
}

async fn try_dispatch(shared: &Arc<Shared>, mut request: InferenceRequest) -> Result<Response, DispatchError> {
    let copies = copies(shared, &request.model)?;
    let Some(digest) = models::served_digest(&copies) else {
        return Err(DispatchError::ModelNotFound { model: request.model });
    };
    request.digest = Some(digest);
    let weights = models::weights_of(&copies, digest);
    let wanted = Wanted { digest, weights, num_ctx: request.num_ctx, needs_runner: request.api.needs_runner() };
    let runner = wanted.needs_runner.then_some(weights);
    let mut trail = Trail::default();
    loop {
        let (ranked, unusable) = rank_untried(shared, &copies, &wanted, &trail);
        let Some((node, others)) = ranked.split_first() else {
            return Err(trail.exhausted(request, unusable));
        };
        let failed = match attempt(shared, *node, others, runner, &request).await {
            Ok(response) => {
                shared.parts.metrics.attempted("answered");
                return Ok(response);
            }
            Err(failed) => failed,
        };
        shared.parts.metrics.attempted(failed.reason.as_str());
        let next = routing::after_failure(failed.failure, &trail.attempts);
        let (reason, detail) = (failed.reason.as_str(), &failed.detail);
        tracing::warn!(request_id = %request.id, model = %request.model, %node, reason, detail, ?next, "attempt failed");
        trail.push(*node, failed);
        if next == Next::GiveUp || trail.is_long(shared.config.attempts_max) {
            let untried = others.iter().map(|node| not_tried(*node)).chain(unusable).collect();
            return Err(trail.exhausted(request, untried));
        }
    }
}

/// Sends a request to one node and to no other.
pub(crate) async fn dispatch_to(
    shared: &Arc<Shared>,
    node: NodeId,
    request: InferenceRequest,
) -> Result<Response, DispatchError> {
    let failed = match attempt(shared, node, &[], None, &request).await {
        Ok(response) => return Ok(response),
        Err(failed) => failed,
    };
    let (reason, detail) = (failed.reason.as_str(), &failed.detail);
    tracing::warn!(request_id = %request.id, model = %request.model, %node, reason, detail, "attempt failed");
    let mut trail = Trail::default();
    trail.push(node, failed);
    Err(trail.exhausted(request, Vec::new()))
}

/// The nodes still to be tried, best first, and those that cannot be.
fn rank_untried(
    shared: &Shared,
    copies: &[Location],
    wanted: &Wanted,
    trail: &Trail,
) -> (Vec<NodeId>, Vec<NodeReason>) {
    let mut candidates: Vec<Candidate> = Vec::with_capacity(copies.len());
    let mut unusable = Vec::new();
    for copy in copies.iter().filter(|copy| copy.model.digest == wanted.digest && !trail.has(copy.node)) {
        match candidate(shared, copy, wanted) {
            Ok(candidate) => candidates.push(candidate),
            Err(reason) => unusable.push(reason),
        }
    }
    (routing::rank(wanted, &candidates, shared.random()), unusable)
}

fn not_tried(node: NodeId) -> NodeReason {
    NodeReason { node, reason: Reason::NotTried, detail: String::new() }
}

/// Sends to one node; until the answer ends it counts as in flight at the runner of these weights, if it needs one.
async fn attempt(
    shared: &Arc<Shared>,
    node: NodeId,
    others: &[NodeId],
    runner: Option<Digest>,
    request: &InferenceRequest,
) -> Result<Response, Failed> {
    if node == shared.parts.node {
        return crate::admit::admit(shared, request.clone()).await.map_err(|error| Failed::at_home(&error));
    }
    let sending = runner.map(|weights| shared.load_view.send(node, weights, shared.now()));
    let sent = shared.parts.remote.send(node, request.clone());
    let response = tokio::select! {
        response = sent => response.map_err(|error| Failed::away(shared, node, error))?,
        silent = until_hopeless(shared, node, others) => return Err(Failed::silent(node, silent)),
    };
    let body = holding(Arc::clone(shared), node, response.body, sending);
    Ok(Response { node, body, ..response })
}

/// Ends when waiting for this node makes no sense any more: it is silent and another one could answer, or it is dead.
async fn until_hopeless(shared: &Shared, node: NodeId, others: &[NodeId]) -> Duration {
    let patience = Duration::from_millis(shared.config.abandon_silent_ms);
    let since = Instant::now();
    let mut ticks = tokio::time::interval(limits::BEAT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = shared.now();
        let silent = shared.load_view.silent_for(node, now);
        let dead = shared.load_view.health(node, now) == Health::Dead;
        let other = || others.iter().any(|other| shared.load_view.health(*other, now) == Health::Alive);
        if silent >= patience && (other() || (dead && since.elapsed() >= patience)) {
            return silent;
        }
    }
}

/// Passes a body through; the request counts as in flight until the body ends or is dropped. A body from a node that
/// is dead breaks off, because a half-open connection would keep its reader waiting for ever.
fn holding(shared: Arc<Shared>, node: NodeId, body: Body, sending: Option<Sending>) -> Body {
    let step = move |flow: Option<(Body, Option<Sending>)>| {
        let shared = Arc::clone(&shared);
        async move {
            let (mut body, sending) = flow?;
            let part = tokio::select! {
                biased;
                part = body.next() => part?,
                message = until_dead(&shared, node) => Err(Broken { message }),
            };
            let rest = part.is_ok().then_some((body, sending));
            Some((part, rest))
        }
    };
    stream::unfold(Some((body, sending)), step).boxed()
}

async fn until_dead(shared: &Shared, node: NodeId) -> String {
    loop {
        tokio::time::sleep(limits::SUSPECT_AFTER).await;
        let now = shared.now();
        if shared.load_view.health(node, now) == Health::Dead {
            let silent = shared.load_view.silent_for(node, now).as_secs();
            return format!("node {node} has been silent for {silent} s");
        }
    }
}

// === impl Failed ===

impl Failed {
    fn at_home(error: &AdmitError) -> Self {
        Self::refused(error.code(), error.started(), error.to_string())
    }

    fn away(shared: &Shared, node: NodeId, error: SendError) -> Self {
        match error {
            SendError::Refused { code, message, started } => Self::refused(code, started, message),
            SendError::Unreachable(why) => {
                let dead = shared.load_view.health(node, shared.now()) == Health::Dead;
                let reason = if dead { Reason::NodeOffline } else { Reason::Unreachable };
                let detail = format!("node {node} cannot be reached: {why}");
                Self { failure: Failure::Unreachable, reason, detail }
            }
        }
    }

    fn silent(node: NodeId, silent: Duration) -> Self {
        let detail = format!("node {node} has been silent for {:.1} s", silent.as_secs_f64());
        Self { failure: Failure::Unreachable, reason: Reason::NodeOffline, detail }
    }

    fn refused(code: ErrorCode, started: bool, detail: String) -> Self {
        let (failure, reason) = match code {
            _ if started => (Failure::Crashed, Reason::RunnerCrashed),
            ErrorCode::Overloaded => (Failure::Refused, Reason::Overloaded),
            ErrorCode::Draining => (Failure::Refused, Reason::NodeDraining),
            ErrorCode::StalePlacement | ErrorCode::ModelNotFound => (Failure::Stale, Reason::StalePlacement),
            ErrorCode::RuntimeUnavailable => (Failure::Refused, Reason::RuntimeDown),
            ErrorCode::PeerUnreachable => (Failure::Unreachable, Reason::Unreachable),
            _ => (Failure::Refused, Reason::RuntimeFailed),
        };
        Self { failure, reason, detail }
    }
}

// === impl Trail ===

impl Trail {
    fn has(&self, node: NodeId) -> bool {
        self.attempts.iter().any(|attempt| attempt.node == node)
    }

    fn is_long(&self, attempts_max: u32) -> bool {
        u32::try_from(self.attempts.len()).is_ok_and(|attempts| attempts >= attempts_max)
    }

    fn push(&mut self, node: NodeId, failed: Failed) {
        self.attempts.push(Attempt { node, failure: failed.failure });
        self.reasons.push(NodeReason { node, reason: failed.reason, detail: failed.detail });
    }

    fn exhausted(self, request: InferenceRequest, rest: Vec<NodeReason>) -> DispatchError {
        let nodes = self.reasons.into_iter().chain(rest).collect();
        DispatchError::Exhausted { model: request.model, nodes }
    }
}
