//! Readings of this machine: for its metrics from the start, for its frames once it is a member. Also the term that log
//! lines carry.
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
use ollamax_store::Space;
use ollamax_types::Gpu;

use crate::metrics::Metrics;
use crate::slot::Slot;
use crate::telemetry::Standing;

/// Time between two readings.
const READ_INTERVAL: Duration = Duration::from_secs(2);

/// What is read, and who is told.
#[derive(Debug)]
pub(crate) struct Reader {
    /// The engines, once there are any.
    pub(crate) slot: Slot,
    /// Whose disk is read.
    pub(crate) data_dir: PathBuf,
    /// The GPUs, as last read.
    pub(crate) gpus: watch::Receiver<Vec<Gpu>>,
    /// How full the disk is; `None` while that is not known.
    pub(crate) disk: watch::Sender<Option<Space>>,
    /// What `/metrics` shows of it.
    pub(crate) metrics: Metrics,
}

/// Keeps the term that log lines carry, from the moment in which it changes, until `stop`.
pub(crate) async fn keep_term(metadata: metadata::Handle, standing: Arc<Standing>, stop: CancellationToken) {
    let mut term = 0;
    while let Some(next) = stop.run_until_cancelled(metadata.next_term(term)).await {
        term = next;
        standing.term.store(term, Ordering::Relaxed);
    }
}

/// Reads until `stop`.
pub(crate) async fn follow(reader: Reader, stop: CancellationToken) {
    let kinds = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let mut system = System::new_with_specifics(kinds)
        .inspect_err(|error| tracing::warn!(%error, "read this machine's memory and CPU"))
        .ok();
    let mut placed = reader.slot.subscribe();
    let mut ticks = tokio::time::interval(READ_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
            // The first frames of a member say something, too.
            _ = placed.changed() => {}
        }
        if let Some(system) = &mut system {
            system.refresh_specifics(kinds);
        }
        reader.read(system.as_ref());
    }
}

// === impl Reader ===

impl Reader {
    fn read(&self, system: Option<&System>) {
        let disk = Space::of(&self.data_dir);
        self.disk.send_replace(disk);
        self.metrics.show_disk(disk);
        let Some(engines) = self.slot.get() else { return };
        self.metrics.show_members(&engines.scheduler.others());
        let mut machine = Machine {
            disk_free_bytes: disk.map(|space| space.free_bytes),
            gpus: self.gpus.borrow().clone(),
            applied_index: engines.metadata.status().applied,
            ..Machine::default()
        };
        if let Some(system) = system {
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

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;

    #[tokio::test]
    async fn a_node_without_a_cluster_knows_its_disk() {
        let folder = tempfile::tempdir().expect("temp");
        let (disk, mut latest) = watch::channel(None);
        let reader = Reader {
            slot: Slot::default(),
            data_dir: folder.path().to_owned(),
            gpus: watch::channel(Vec::new()).1,
            disk,
            metrics: Metrics::register(&Registry::new()).expect("new names"),
        };
        let stop = CancellationToken::new();
        let looking = async {
            let space = latest.wait_for(Option::is_some).await.expect("still followed").expect("read");
            stop.cancel();
            space
        };
        let ((), space) = tokio::join!(follow(reader, stop.clone()), looking);
        assert!(space.used_bytes > 0, "{space:?}");
    }
}
