//! What the clients' door sees of this node: the engines in their slot, and how the node stands, from cached state.

use std::sync::Arc;

use tokio::sync::watch;

use ollamax_core::catalog::View;
use ollamax_core::health::Health;
use ollamax_gateway::grpc::{AdminError, Phase};
use ollamax_gateway::ports::{Component, Needed, Node, Readiness};
use ollamax_outbound::RuntimeHandle;
use ollamax_scheduler as scheduler;
use ollamax_types::{NodeId, RuntimeState};

use crate::slot::{MemberEngines, Slot};

/// The gateway's view of this node.
#[derive(Debug)]
pub(crate) struct ClientsOverSlot {
    /// This node's name until it has one in a cluster.
    pub(crate) name: String,
    /// The engines, once there are any.
    pub(crate) slot: Slot,
    /// Where this node stands.
    pub(crate) phase: watch::Receiver<Phase>,
    /// The runtime beside it.
    pub(crate) runtime: RuntimeHandle,
}

// === impl ClientsOverSlot ===

impl ClientsOverSlot {
    fn is_removed(&self) -> bool {
        *self.phase.borrow() == Phase::Removed
    }

    /// The engines, while they serve clients. A removed node keeps its vote a little longer than that.
    fn serving(&self) -> Option<MemberEngines> {
        self.slot.get().filter(|_| !self.is_removed())
    }

    fn metadata(&self) -> Component {
        let (works, detail) = match self.serving().map(|engines| engines.metadata.status()) {
            None if self.is_removed() => {
                let AdminError { what, next, .. } = AdminError::removed();
                (false, format!("{what}; run {next}"))
            }
            None => (false, "this node belongs to no cluster yet; run ollamax init or ollamax join".to_owned()),
            Some(status) => {
                let leader =
                    status.leader.map_or_else(|| "no leader".to_owned(), |leader| format!("node {leader} leads"));
                let quorum = if status.has_quorum { "" } else { ", no quorum: inference goes on, changes wait" };
                (true, format!("{leader}, index {} of {}{quorum}", status.applied, status.last_log_index))
            }
        };
        Component { name: "metadata", works, needed: Needed::ToServe, detail }
    }

    fn runtime(&self) -> Component {
        let report = self.runtime.report().borrow().clone();
        let (works, detail) = match report.state {
            RuntimeState::Up => (true, format!("{} {} at {}", report.kind.as_str(), report.version, report.url)),
            RuntimeState::Absent => (true, "none on this node".to_owned()),
            RuntimeState::Down(reason) => (false, reason),
        };
        // Requests go to other nodes' runtimes while this one is down.
        Component { name: "runtime", works, needed: Needed::Shown, detail }
    }
}

/// How many others answer, and whether this node takes work. Neither makes it unfit to be asked.
fn around(scheduler: &scheduler::Handle) -> [Component; 2] {
    let peers = scheduler.peers();
    let alive = peers.iter().filter(|peer| peer.health == Health::Alive).count();
    let draining = scheduler.is_draining();
    let work = if draining { "draining: takes nothing new" } else { "takes requests" };
    let shown = |name, works, detail| Component { name, works, needed: Needed::Shown, detail };
    [
        shown("peers", alive == peers.len(), format!("{alive} of {} others alive", peers.len())),
        shown("scheduler", !draining, format!("{work}, {} in flight", scheduler.in_flight())),
    ]
}

impl Node for ClientsOverSlot {
    fn name(&self) -> String {
        self.slot.get().map_or_else(|| self.name.clone(), |engines| engines.name)
    }

    fn name_of(&self, node: NodeId) -> Option<String> {
        self.serving()?.placements.member(node).map(|member| member.name.clone())
    }

    fn scheduler(&self) -> Option<scheduler::Handle> {
        self.serving().map(|engines| engines.scheduler)
    }

    fn view(&self) -> Option<Arc<dyn View + Send + Sync>> {
        self.serving().map(|engines| engines.metadata.view())
    }

    fn readiness(&self) -> Readiness {
        let phase = *self.phase.borrow();
        Readiness {
            started: !matches!(phase, Phase::Waiting | Phase::Joining),
            stopping: phase == Phase::Stopping,
            components: [self.metadata(), self.runtime()]
                .into_iter()
                .chain(self.scheduler().iter().flat_map(around))
                .collect(),
        }
    }
}
