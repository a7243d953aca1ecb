//! What the assembly itself counts: this build, this machine's disk and GPUs, and the other members.
//!
//! | name | unit | labels | meaning |
//! |---|---|---|---|
//! | `ollamax_build_info` | 1 | `version`, `revision` | the running build; `revision` is empty when it was not told |
//! | `ollamax_disk_free_bytes` | bytes | | free for the node where its data directory lies |
//! | `ollamax_disk_used_bytes` | bytes | | in use there |
//! | `ollamax_members` | members | `health` | the other members, by what this node thinks of them |
//! | `ollamax_gpu_memory_total_bytes` | bytes | `uuid`, `name` | memory of a GPU |
//! | `ollamax_gpu_memory_used_bytes` | bytes | `uuid`, `name` | of it in use |
//! | `ollamax_gpu_use_ratio` | 0 to 1 | `uuid`, `name` | share of the last moments in which a GPU worked |
//!
//! CPU, memory, threads and files of the process are `process_*`, as every Prometheus client library names them. The
//! page `docs/operations/metrics.md` lists the metrics of all crates; a test here compares it with what is registered.

use prometheus::process_collector::ProcessCollector;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use ollamax_core::health::Health;
use ollamax_store::Space;
use ollamax_types::Gpu;

/// The commit that was built, as whoever builds says in this variable.
const REVISION: &str = match option_env!("OLLAMAX_REVISION") {
    Some(revision) => revision,
    None => "",
};

/// This machine and the other members, as last read.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    disk_free_bytes: IntGaugeVec,
    disk_used_bytes: IntGaugeVec,
    members: IntGaugeVec,
}

/// The GPUs, by `uuid` and `name`. What a device does not say has no value.
#[derive(Debug, Clone)]
pub(crate) struct GpuMetrics {
    memory_total_bytes: IntGaugeVec,
    memory_used_bytes: IntGaugeVec,
    use_ratio: GaugeVec,
}

/// Shows the build and the process.
///
/// # Errors
/// When the registry has one of these names already.
pub(crate) fn register_process(registry: &Registry) -> prometheus::Result<()> {
    let build = Opts::new("ollamax_build_info", "The running build");
    let build = IntGaugeVec::new(build, &["version", "revision"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))
}

// === impl Metrics ===

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let disk = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &[]);
        let members = Opts::new("ollamax_members", "The other members, by what this node thinks of them");
        let metrics = Self {
            disk_free_bytes: disk("ollamax_disk_free_bytes", "Free where the data directory lies")?,
            disk_used_bytes: disk("ollamax_disk_used_bytes", "In use where the data directory lies")?,
            members: IntGaugeVec::new(members, &["health"])?,
        };
        registry.register(Box::new(metrics.disk_free_bytes.clone()))?;
        registry.register(Box::new(metrics.disk_used_bytes.clone()))?;
        registry.register(Box::new(metrics.members.clone()))?;
        metrics.show_members(&[]);
        Ok(metrics)
    }

    /// A disk that does not say how full it is has no value.
    pub(crate) fn show_disk(&self, space: Option<Space>) {
        let Some(space) = space else {
            self.disk_free_bytes.reset();
            return self.disk_used_bytes.reset();
        };
        let unlabelled: [&str; 0] = [];
        self.disk_free_bytes.with_label_values(&unlabelled).set(whole(space.free_bytes));
        self.disk_used_bytes.with_label_values(&unlabelled).set(whole(space.used_bytes));
    }

    pub(crate) fn show_members(&self, others: &[Health]) {
        for health in [Health::Alive, Health::Unknown, Health::Suspect, Health::Dead] {
            let count = others.iter().filter(|other| **other == health).count();
            self.members.with_label_values(&[health.as_str()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

// === impl GpuMetrics ===

impl GpuMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let labels = ["uuid", "name"];
        let whole = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &labels);
        let metrics = Self {
            memory_total_bytes: whole("ollamax_gpu_memory_total_bytes", "Memory of a GPU of this machine")?,
            memory_used_bytes: whole("ollamax_gpu_memory_used_bytes", "Memory of a GPU of this machine in use")?,
            use_ratio: GaugeVec::new(
                Opts::new("ollamax_gpu_use_ratio", "Share of the last moments in which a GPU worked, 0 to 1"),
                &labels,
            )?,
        };
        registry.register(Box::new(metrics.memory_total_bytes.clone()))?;
        registry.register(Box::new(metrics.memory_used_bytes.clone()))?;
        registry.register(Box::new(metrics.use_ratio.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn show(&self, before: &[Gpu], now: &[Gpu]) {
        let device = |gpus: &[Gpu]| gpus.iter().map(|gpu| gpu.uuid.clone()).collect::<Vec<_>>();
        if device(before) != device(now) {
            self.memory_total_bytes.reset();
            self.memory_used_bytes.reset();
            self.use_ratio.reset();
        }
        for gpu in now {
            let labels = [gpu.uuid.as_str(), gpu.name.as_str()];
            let bytes =
                [(&self.memory_total_bytes, gpu.memory_total_bytes), (&self.memory_used_bytes, gpu.memory_used_bytes)];
            for (gauge, value) in bytes {
                if let Some(value) = value {
                    gauge.with_label_values(&labels).set(whole(value));
                }
            }
            if let Some(permille) = gpu.use_permille {
                self.use_ratio.with_label_values(&labels).set(f64::from(permille) / 1_000.0);
            }
        }
    }
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
