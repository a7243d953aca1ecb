//! What the clients' door sees of this node: the engines in their slot, and how the node stands, from cached state.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use ollamax_core::catalog::{self, Fault, View, read};
use ollamax_core::health::Health;
use ollamax_core::integrity::Alarm;
use ollamax_core::placement::Site;
use ollamax_gateway::grpc::{AdminError, Phase};
use ollamax_gateway::ports::{Component, Needed, Node, Readiness};
use ollamax_outbound::RuntimeHandle;
use ollamax_scheduler as scheduler;
use ollamax_store::{Space, SyncError};
use ollamax_transfer as transfer;
use ollamax_types::{ErrorCode, ModelName, NodeId, RuntimeState};

use crate::sites::Sites;
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
    /// How full the disk of the data directory is, as last read.
    pub(crate) disk: watch::Receiver<Option<Space>>,
    /// What must stay free there.
    pub(crate) reserve_bytes: u64,
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
        let serving = self.serving();
        if let Some((_, detail)) = serving.as_ref().and_then(|engines| engines.metadata.failure()) {
            return Component { name: "metadata", works: false, needed: Needed::ToServe, detail };
        }
        let (works, detail) = match serving.map(|engines| engines.metadata.status()) {
            None => {
                let AdminError { what, next, .. } = AdminError::without_engines(*self.phase.borrow());
                (false, format!("{what}; run {next}"))
            }
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

/// A store that failed takes no write until the process is started again.
fn store(is_open: bool, failure: Option<&SyncError>) -> Component {
    let detail = match failure {
        Some(error) => error.to_string(),
        None if is_open => "takes writes".to_owned(),
        None => "not open".to_owned(),
    };
    Component { name: "store", works: failure.is_none(), needed: Needed::ToLive, detail }
}

/// A node on a full disk goes on serving models.
fn disk(space: Option<Space>, reserve_bytes: u64) -> Component {
    let (works, detail) = match space.map(|space| (space, space.check(reserve_bytes))) {
        Some((_, Err(full))) => (false, format!("no changes are taken: {full}")),
        Some((space, Ok(()))) => {
            (true, format!("{} MiB free, {} MiB used", space.free_bytes >> 20, space.used_bytes >> 20))
        }
        None => (false, "it does not say how full it is".to_owned()),
    };
    Component { name: "disk", works, needed: Needed::Shown, detail }
}

/// Models are served whatever the state says of other things; where a state is wrong it is not read.
fn state(node: NodeId, alarm: &Alarm) -> Component {
    let (works, detail) = if alarm.deviating.contains(&node) {
        (
            false,
            "it differs from that of the majority: not read here, changes go to the leader; ollamax status".to_owned(),
        )
    } else if alarm.undecided {
        (false, "the voters' states differ and none has a majority; ollamax status".to_owned())
    } else if alarm.index == 0 {
        (true, "not compared yet".to_owned())
    } else {
        (true, format!("compared at index {}", alarm.index))
    };
    Component { name: "state", works, needed: Needed::Shown, detail }
}

/// How many others answer, and whether this node takes work. Neither makes it unfit to be asked.
fn around(scheduler: &scheduler::Handle) -> [Component; 2] {
    let others = scheduler.others();
    let alive = others.iter().filter(|health| **health == Health::Alive).count();
    let draining = scheduler.is_draining();
    let work = if draining { "draining: takes nothing new" } else { "takes requests" };
    let shown = |name, works, detail| Component { name, works, needed: Needed::Shown, detail };
    [
        shown("peers", alive == others.len(), format!("{alive} of {} others alive", others.len())),
        shown("scheduler", !draining, format!("{work}, {} in flight", scheduler.in_flight())),
    ]
}

/// The members that are there, as places for a model, of which any version counts.
fn sites(engines: &MemberEngines, name: &ModelName) -> Result<Vec<Site>, Fault> {
    let view = engines.metadata.view();
    let holders: BTreeSet<NodeId> = read::locations_of(&*view, name)?.into_iter().map(|copy| copy.node).collect();
    Ok(Sites::now(&*view, &engines.scheduler)?.with_holders(&holders))
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

    fn phase(&self, name: &ModelName) -> catalog::Phase {
        self.serving().map_or(catalog::Phase::Active, |engines| engines.placements.phase(name))
    }

    fn transfer(&self) -> Option<transfer::Handle> {
        self.serving().map(|engines| engines.transfer)
    }

    fn sites(&self, name: &ModelName) -> Vec<Site> {
        self.serving().and_then(|engines| sites(&engines, name).ok()).unwrap_or_default()
    }

    fn is_starting(&self) -> bool {
        // Asked where there were no engines; by now there may be some.
        AdminError::without_engines(*self.phase.borrow()).code == ErrorCode::Starting
    }

    fn readiness(&self) -> Readiness {
        let phase = *self.phase.borrow();
        let engines = self.slot.get();
        let failure = engines.as_ref().and_then(|engines| engines.metadata.store_failure());
        let store = store(engines.is_some(), failure.as_ref());
        let disk = disk(*self.disk.borrow(), self.reserve_bytes);
        let state = self.serving().map(|engines| state(engines.node, &engines.metadata.status().alarm));
        Readiness {
            started: !matches!(phase, Phase::Waiting | Phase::Joining),
            stopping: phase == Phase::Stopping,
            components: [self.metadata(), store, disk, self.runtime()]
                .into_iter()
                .chain(state)
                .chain(self.scheduler().iter().flat_map(around))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ollamax_store::DiskError;

    use super::*;

    fn check(part: Component, works: bool, needed: Needed, detail: &str) {
        let Component { name, works: found, needed: how, detail: said } = part;
        assert_eq!((found, how), (works, needed), "{name}: {said}");
        assert!(said.contains(detail), "{name}: {said}");
    }

    #[test]
    fn a_store_that_failed_makes_the_process_useless_and_says_why() {
        check(store(true, None), true, Needed::ToLive, "takes writes");
        check(store(false, None), true, Needed::ToLive, "not open");
        let cause = DiskError::Damaged { action: "read", reason: "checksum".to_owned() };
        check(store(true, Some(&SyncError { cause })), false, Needed::ToLive, "stored bytes are damaged (checksum)");
        let failed = Readiness {
            started: true,
            stopping: false,
            components: vec![store(
                true,
                Some(&SyncError { cause: DiskError::Full { action: "sync", reason: "x".to_owned() } }),
            )],
        };
        assert!(!failed.is_live() && !failed.is_ready());
    }

    #[test]
    fn a_state_that_differs_is_shown_and_the_node_goes_on_serving() {
        let alarm = |index, deviating: &[u64], undecided| Alarm {
            index,
            deviating: deviating.iter().copied().map(NodeId).collect(),
            undecided,
            change: 0,
        };
        let check = |alarm: &Alarm, works, detail| check(state(NodeId(2), alarm), works, Needed::Shown, detail);
        check(&alarm(0, &[], false), true, "not compared yet");
        check(&alarm(9, &[], false), true, "compared at index 9");
        check(&alarm(9, &[3], false), true, "compared at index 9");
        check(&alarm(9, &[2], false), false, "differs from that of the majority");
        check(&alarm(9, &[], true), false, "none has a majority");
    }

    #[test]
    fn a_full_disk_is_shown_and_the_node_goes_on_serving() {
        let free = |mib: u64| Some(Space { free_bytes: mib << 20, used_bytes: 5 << 20 });
        check(disk(free(64), 64 << 20), true, Needed::Shown, "64 MiB free, 5 MiB used");
        check(disk(free(3), 64 << 20), false, Needed::Shown, "3 MiB are free, and 64 MiB are kept");
        check(disk(None, 64 << 20), false, Needed::Shown, "does not say how full it is");
    }
}
