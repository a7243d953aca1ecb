//! Readings of this machine for its frames, and the term that log lines carry.
//!
//! What cannot be read is told as not known; the rest goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use ollamax_metadata as metadata;
use ollamax_scheduler::Machine;
use ollamax_store::free_bytes;
use ollamax_types::Gpu;

use crate::slot::MemberEngines;
use crate::telemetry::Standing;

/// Time between two readings.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps the term that log lines carry, from the moment in which it changes, until `stop`.
pub(crate) async fn keep_term(metadata: metadata::Handle, standing: Arc<Standing>, stop: CancellationToken) {
    let mut term = 0;
    while let Some(next) = stop.run_until_cancelled(metadata.next_term(term)).await {
        term = next;
        standing.term.store(term, Ordering::Relaxed);
    }
}

/// Reads until `stop`.
pub(crate) async fn follow(
    engines: MemberEngines,
    data_dir: PathBuf,
    gpus: watch::Receiver<Vec<Gpu>>,
    stop: CancellationToken,
) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(kinds)
        .inspect_err(|error| tracing::warn!(%error, "read this machine's memory and CPU"))
        .ok();
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let status = engines.metadata.status();
        let mut machine = Machine {
            disk_free_bytes: free_bytes(&data_dir),
            gpus: gpus.borrow().clone(),
            applied_index: status.applied,
            ..Machine::default()
        };
        if let Some(system) = &mut system {
            system.refresh_specifics(kinds);
            machine.memory_used_bytes = system.used_memory();
            machine.memory_total_bytes = system.total_memory();
            machine.cpu_permille = permille(system.global_cpu_usage());
        }
        engines.scheduler.set_machine(machine);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 before the cast")]
fn permille(percent: f32) -> u32 {
    (percent * 10.0).clamp(0.0, 1000.0) as u32
}
