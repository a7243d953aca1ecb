//! Readings of this machine for its frames, and the term that log lines carry.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio_util::sync::CancellationToken;

use ollamax_metadata as metadata;
use ollamax_scheduler::Machine;

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
pub(crate) async fn follow(engines: MemberEngines, data_dir: PathBuf, stop: CancellationToken) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    // Where they cannot be read, memory and CPU stay out of this node's frames; everything else goes on.
    let mut system = System::new_with_specifics(kinds)
        .inspect_err(|error| tracing::warn!(%error, "read this machine's memory and CPU"))
        .ok();
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Some(system) = &mut system {
            system.refresh_specifics(kinds);
        }
        let status = engines.metadata.status();
        engines.scheduler.set_machine(Machine {
            memory_used_bytes: system.as_ref().map_or(0, System::used_memory),
            memory_total_bytes: system.as_ref().map_or(0, System::total_memory),
            cpu_permille: system.as_ref().map_or(0, |system| permille(system.global_cpu_usage())),
            disk_free_bytes: disk_free_bytes(&data_dir),
            applied_index: status.applied,
        });
    }
}

/// Free bytes for this user on the file system of a path; 0 when it cannot be read.
#[must_use]
pub(crate) fn disk_free_bytes(path: &std::path::Path) -> u64 {
    nix::sys::statvfs::statvfs(path).map_or(0, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000 before the cast")]
fn permille(percent: f32) -> u32 {
    (percent * 10.0).clamp(0.0, 1000.0) as u32
}
