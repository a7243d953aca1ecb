//! Readings of this machine for its frames, and the ids that log lines carry.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio_util::sync::CancellationToken;

use ollamax_scheduler::Machine;

use crate::slot::MemberEngines;
use crate::telemetry::Standing;

/// Time between two readings.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// Reads until `stop`.
pub(crate) async fn follow(
    engines: MemberEngines,
    standing: Arc<Standing>,
    data_dir: PathBuf,
    stop: CancellationToken,
) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = match System::new_with_specifics(kinds) {
        Ok(system) => system,
        // Memory and CPU then stay out of this node's frames; everything else works.
        Err(error) => return tracing::warn!(%error, "read this machine's memory and CPU"),
    };
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    standing.node.store(engines.node.0, Ordering::Relaxed);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        system.refresh_specifics(kinds);
        let status = engines.metadata.status();
        standing.term.store(status.term, Ordering::Relaxed);
        engines.scheduler.set_machine(Machine {
            memory_used_bytes: system.used_memory(),
            memory_total_bytes: system.total_memory(),
            cpu_permille: permille(system.global_cpu_usage()),
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
