//! Who could answer: the copies of a model, joined with what is known of their nodes.
//!
//! For this node the runtime's own list counts, because it is newer than what the cluster has agreed on and is there
//! without a majority; for the others the agreed placements count.

use ollamax_core::catalog::{Location, models};
use ollamax_core::health::Health;
use ollamax_core::routing::{Candidate, Wanted};
use ollamax_types::{Digest, ModelName, NodeId, Residency, RunnerLoad, RuntimeState};

use crate::beat::is_draining;
use crate::error::{NodeReason, Reason};
use crate::handle::Shared;
use crate::ports::PlacementsError;

/// All copies of a model that this node knows of.
pub(crate) fn copies(shared: &Shared, model: &ModelName) -> Result<Vec<Location>, PlacementsError> {
    let own = shared.parts.node;
    let mut copies = shared.parts.placements.locations(model)?.to_vec();
    let report = shared.local.runtime();
    if report.state == RuntimeState::Up {
        copies.retain(|copy| copy.node != own);
        let held = report.models.iter().find(|held| held.name == *model);
        copies.extend(held.map(|held| Location { node: own, model: held.clone() }));
    }
    Ok(copies)
}

/// One holder of the model: a candidate, or why it is none.
pub(crate) fn candidate(shared: &Shared, copy: &Location, wanted: &Wanted) -> Result<Candidate, NodeReason> {
    if copy.node == shared.parts.node {
        own(shared, copy.model.weights, wanted)
    } else {
        other(shared, copy.node, wanted)
    }
}

/// This node counts its runners by the weights that its own runtime told of, if it did.
fn own(shared: &Shared, weights: Digest, wanted: &Wanted) -> Result<Candidate, NodeReason> {
    let node = shared.parts.node;
    let report = shared.local.runtime();
    check_runtime(node, &report.state)?;
    let base = base(node, wanted, &report.resident, Some(&shared.admission.load(weights)));
    Ok(Candidate { health: Health::Alive, draining: is_draining(shared), ..base })
}

fn other(shared: &Shared, node: NodeId, wanted: &Wanted) -> Result<Candidate, NodeReason> {
    let seen = shared.load_view.seen(node, wanted.weights, shared.now());
    let drained = shared.parts.placements.drained(node);
    let Some(beat) = &seen.beat else {
        let base = base(node, wanted, &[], None);
        return Ok(Candidate { health: seen.health, draining: drained, in_flight_here: seen.sent_since, ..base });
    };
    check_runtime(node, &beat.runtime_state)?;
    let runner = beat.runners.iter().find(|runner| wanted.is_run_by(runner.weights));
    let base = base(node, wanted, &beat.resident, runner);
    Ok(Candidate {
        health: seen.health,
        draining: drained || beat.draining,
        running: base.running.saturating_sub(seen.ended_since),
        in_flight_here: seen.sent_since,
        ..base
    })
}

fn check_runtime(node: NodeId, state: &RuntimeState) -> Result<(), NodeReason> {
    let detail = match state {
        RuntimeState::Up => return Ok(()),
        RuntimeState::Absent => format!("node {node} has no runtime"),
        RuntimeState::Down(why) => format!("the runtime of node {node} is down: {why}"),
    };
    Err(NodeReason { node, reason: Reason::RuntimeDown, detail })
}

fn base(node: NodeId, wanted: &Wanted, resident: &[Residency], runner: Option<&RunnerLoad>) -> Candidate {
    let loaded = resident.iter().find(|one| wanted.is_run_by(one.weights));
    Candidate {
        node,
        health: Health::Unknown,
        draining: false,
        digest: wanted.digest,
        resident: loaded.is_some(),
        context_length: loaded.map_or(0, |one| one.context_length),
        running: runner.map_or(0, |runner| runner.running),
        waiting: runner.map_or(0, |runner| runner.waiting),
        slots: runner.map_or(1, |runner| runner.slots),
        service_ms: runner.map_or(0, |runner| runner.service_ms),
        load_ms: runner.map_or(0, |runner| runner.load_ms),
        in_flight_here: 0,
    }
}

/// The living nodes that have a model in memory, under its name or another one of its weights.
pub(crate) fn loaded_on(shared: &Shared, model: &ModelName) -> Vec<NodeId> {
    // Where the placements cannot be read, the names have to do.
    let copies = copies(shared, model).unwrap_or_default();
    let has = |node: NodeId, resident: &[Residency]| {
        let version = copies.iter().find(|copy| copy.node == node).map(|copy| copy.model.digest);
        let runners = version.map(|digest| [digest, models::weights_of(&copies, digest)]);
        let is_of_it = |weights| runners.is_some_and(|runners| runners.contains(&weights));
        resident.iter().any(|one| one.name == *model || is_of_it(one.weights))
    };
    let own = shared.parts.node;
    let here = has(own, &shared.local.runtime().resident).then_some(own);
    let peers = shared.load_view.peers(shared.now()).into_iter();
    let others = peers.filter(|peer| peer.health != Health::Dead && has(peer.beat.node, &peer.beat.resident));
    here.into_iter().chain(others.map(|peer| peer.beat.node)).collect()
}
