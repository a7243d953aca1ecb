//! What the assembly itself counts: this build, this machine's disk and GPUs, the other members, and copies of models.
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
//! | `ollamax_models_under_replicated` | models | | with too few copies, if it leads |
//! | `ollamax_models_impossible` | models | | that cannot have the copies that are wanted, if it leads |
//! | `ollamax_model_moves_under_way` | models | | with copies on their way that nobody asked for, if it leads |
//! | `ollamax_model_moves_total` | moves | `kind`, `outcome`: done, failed | made by this node as the leader |
//!
//! CPU, memory, threads and files of the process are `process_*`, as every Prometheus client library names them. The
//! page `docs/operations/metrics.md` lists the metrics of all crates; a test here compares it with what is registered.

use prometheus::process_collector::ProcessCollector;
use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

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

/// Copies of models as the leader sees them. A node that does not lead shows none.
#[derive(Debug, Clone)]
pub(crate) struct CopyMetrics {
    under_replicated: IntGauge,
    impossible: IntGauge,
    under_way: IntGauge,
    moves: IntCounterVec,
}

/// How a move ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// The copies are there, or the one that was not needed goes.
    Done,
    /// Some are not, or the cluster refused it.
    Failed,
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

// === impl CopyMetrics ===

impl CopyMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has one of these names already.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let moves =
            Opts::new("ollamax_model_moves_total", "Copies made or dropped that nobody asked for, by this leader");
        let metrics = Self {
            under_replicated: IntGauge::new(
                "ollamax_models_under_replicated",
                "On the leader: models with too few copies; 0 elsewhere",
            )?,
            impossible: IntGauge::new(
                "ollamax_models_impossible",
                "On the leader: models that cannot have the copies that are wanted; 0 elsewhere",
            )?,
            under_way: IntGauge::new(
                "ollamax_model_moves_under_way",
                "On the leader: models with copies on their way that nobody asked for; 0 elsewhere",
            )?,
            moves: IntCounterVec::new(moves, &["kind", "outcome"])?,
        };
        // What is shown from the start has a first value for whoever computes rates.
        for kind in ["repair", "rebalance", "emptying", "drop"] {
            for outcome in [Moved::Done, Moved::Failed] {
                metrics.moves.with_label_values(&[kind, outcome.as_str()]);
            }
        }
        registry.register(Box::new(metrics.under_replicated.clone()))?;
        registry.register(Box::new(metrics.impossible.clone()))?;
        registry.register(Box::new(metrics.under_way.clone()))?;
        registry.register(Box::new(metrics.moves.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn show(&self, under_replicated: usize, impossible: usize, under_way: usize) {
        let count = |models: usize| i64::try_from(models).unwrap_or(i64::MAX);
        self.under_replicated.set(count(under_replicated));
        self.impossible.set(count(impossible));
        self.under_way.set(count(under_way));
    }

    /// A move of this kind has ended.
    pub(crate) fn moved(&self, kind: &str, outcome: Moved) {
        self.moves.with_label_values(&[kind, outcome.as_str()]).inc();
    }
}

// === impl Moved ===

impl Moved {
    /// The word in labels.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
