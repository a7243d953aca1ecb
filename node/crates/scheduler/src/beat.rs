//! What this node says of itself: its runtime, its runners, its machine.
//!
//! The assembly sets the parts as it learns them; a beat is put together when it is asked for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use ollamax_types::Beat;

use crate::handle::Shared;
use crate::report::{Machine, RuntimeReport};
use crate::vigil::Vigil;

/// This machine, as the assembly last told.
#[derive(Debug, Default)]
pub(crate) struct Local {
    sequence: AtomicU64,
    draining: AtomicBool,
    runtime: watch::Sender<Arc<RuntimeReport>>,
    machine: Mutex<Machine>,
}

// === impl Local ===

impl Local {
    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::SeqCst);
    }

    /// Wakes whoever follows the report when it says something new.
    pub(crate) fn set_runtime(&self, report: RuntimeReport) {
        self.runtime.send_if_modified(|current| {
            let is_new = **current != report;
            if is_new {
                *current = Arc::new(report);
            }
            is_new
        });
    }

    pub(crate) fn runtime(&self) -> Arc<RuntimeReport> {
        Arc::clone(&self.runtime.borrow())
    }

    pub(crate) fn runtime_changes(&self) -> watch::Receiver<Arc<RuntimeReport>> {
        self.runtime.subscribe()
    }

    pub(crate) fn vigil(&self) -> Vigil {
        Vigil::new(self.runtime_changes())
    }

    pub(crate) fn set_machine(&self, machine: Machine) {
        *self.machine() = machine;
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this node takes no new requests: it stops, or an administrator drained it.
pub(crate) fn is_draining(shared: &Shared) -> bool {
    shared.local.draining.load(Ordering::SeqCst) || shared.parts.placements.drained(shared.parts.node)
}

/// The next frame.
pub(crate) fn beat(shared: &Shared) -> Beat {
    let draining = is_draining(shared);
    let (runtime, machine) = (shared.local.runtime(), shared.local.machine().clone());
    Beat {
        node: shared.parts.node,
        sequence: shared.local.sequence.fetch_add(1, Ordering::Relaxed) + 1,
        sent_at: shared.parts.clock.now(),
        draining,
        runtime_kind: runtime.kind,
        runtime_version: runtime.version.clone(),
        runtime_state: runtime.state.clone(),
        resident: runtime.resident.clone(),
        runners: shared.admission.loads(),
        memory_used_bytes: machine.memory_used_bytes,
        memory_total_bytes: machine.memory_total_bytes,
        cpu_permille: machine.cpu_permille,
        disk_free_bytes: machine.disk_free_bytes,
        models_free_bytes: machine.models_free_bytes,
        models_total_bytes: machine.models_total_bytes,
        models_aside_bytes: machine.models_aside_bytes,
        models_spare: machine.models_spare,
        no_store_at: machine.no_store_at,
        gpus: machine.gpus.clone(),
        daemon_version: shared.parts.daemon_version.clone(),
        applies: shared.parts.applies,
        applied_index: machine.applied_index,
        quarantined: machine.quarantined,
        suspect_files: machine.suspect_files,
        damaged_manifests: machine.damaged_manifests,
        models_bytes: machine.models_bytes,
        models_unique_bytes: machine.models_unique_bytes,
    }
}
