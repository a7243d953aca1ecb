//! What nodes tell each other four times a second: the load view. Memory only, stale in a second anyway.

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::id::NodeId;
use crate::name::ModelName;

/// Which runtime stands beside a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeKind {
    /// An Ollama that somebody else runs.
    Ollama,
    /// `ollamax-engine`, started by the daemon.
    Engine,
}

impl RuntimeKind {
    /// The word in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Engine => "engine",
        }
    }
}

/// Whether a node's runtime can be sent work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeState {
    /// No runtime wanted (gateway role), or none found yet.
    Absent,
    /// Answers.
    Up,
    /// Refused, hung or answered garbage; the text says which.
    Down(String),
}

/// One model that is in the runtime's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// Name as `/api/ps` spells it.
    pub name: ModelName,
    /// Manifest digest of the model that loaded first; others of the same weights use its runner.
    pub digest: Digest,
    /// SHA-256 of the weights file; the manifest's digest while it is not known.
    pub weights: Digest,
    /// Memory in use, bytes.
    pub size_bytes: u64,
    /// Part of it in GPU memory, bytes; 0 means CPU.
    pub size_vram_bytes: u64,
    /// Context length of the runner, tokens; 0 when the runtime does not say.
    pub context_length: u32,
    /// When it will be unloaded, RFC 3339 as the runtime wrote it; empty when it did not say.
    pub expires_at: String,
    /// The `details` object as JSON text.
    pub details_json: String,
}

/// One GPU of a machine, as its driver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's name for this very device, the same after a restart.
    pub uuid: String,
    /// The model of the device.
    pub name: String,
    /// Its memory, bytes; `None` when the device does not say, as where it shares the machine's.
    pub memory_total_bytes: Option<u64>,
    /// Part of it in use, bytes.
    pub memory_used_bytes: Option<u64>,
    /// Share of the last moments in which it worked, per mille; `None` when the device does not say.
    pub use_permille: Option<u32>,
}

/// The owner's own count for one runner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerLoad {
    /// SHA-256 of the weights that it runs; the digest of the model's manifest while it is not known.
    pub weights: Digest,
    /// Requests that the runtime is working on.
    pub running: u32,
    /// Requests that wait in the owner's queue.
    pub waiting: u32,
    /// Requests the runner works on at once.
    pub slots: u32,
    /// Smoothed time of one request, milliseconds; 0 before the first.
    pub service_ms: u32,
    /// Last observed load time, milliseconds; 0 before the first.
    pub load_ms: u32,
}

/// A node that another asks for no files for a while, since it sent damaged pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quarantine {
    /// Who is not asked.
    pub node: NodeId,
    /// Until when, on the clock of whoever does not ask.
    pub until: Timestamp,
    /// The damaged pieces that it sent.
    pub strikes: u32,
}

/// Which cluster versions a node applies; 0: not known, as of a node of an older release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applies {
    /// The highest that it lets the cluster go to.
    pub up_to: u32,
    /// The highest that its program knows; more than `up_to` where its configuration holds it back.
    pub known: u32,
}

/// What stays free of a disk beside a model that comes to it: the larger of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareRule {
    /// So much of the model, percent.
    pub percent: u32,
    /// So many bytes at least.
    pub bytes_min: u64,
}

/// One frame of a liveness stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Who speaks.
    pub node: NodeId,
    /// Counts up with each frame of one process.
    pub sequence: u64,
    /// The sender's wall time, for the clock-skew check.
    pub sent_at: Timestamp,
    /// Takes no new requests: draining or stopping.
    pub draining: bool,
    /// The runtime's kind.
    pub runtime_kind: RuntimeKind,
    /// The runtime's version, as it says; empty when unknown.
    pub runtime_version: String,
    /// Whether it can be sent work.
    pub runtime_state: RuntimeState,
    /// What is in its memory.
    pub resident: Vec<Residency>,
    /// The owner's counts.
    pub runners: Vec<RunnerLoad>,
    /// Memory of the machine in use, bytes.
    pub memory_used_bytes: u64,
    /// Memory of the machine, bytes.
    pub memory_total_bytes: u64,
    /// CPU use of the machine, per mille of all cores.
    pub cpu_permille: u32,
    /// Free bytes where the data directory lies; `None` when they cannot be read.
    pub disk_free_bytes: Option<u64>,
    /// Free bytes where the runtime's models lie, with those that make way; `None` when that is not known.
    pub models_free_bytes: Option<u64>,
    /// Size of the disk where they lie, bytes; `None` when that is not known.
    pub models_total_bytes: Option<u64>,
    /// Bytes of the models that the cluster sends it, whole, of those that have their room where models lie: what is
    /// free there lacks them already. `None` when that is not known.
    pub models_aside_bytes: Option<u64>,
    /// What it keeps free beside a model that comes to it, as it is set; `None` when that is not known.
    pub models_spare: Option<SpareRule>,
    /// Where it looks for its model store, which is not there; `None` where there is one, or that is not known.
    pub no_store_at: Option<String>,
    /// The machine's GPUs; empty without a driver.
    pub gpus: Vec<Gpu>,
    /// Release of the daemon.
    pub daemon_version: String,
    /// Which cluster versions it applies.
    pub applies: Applies,
    /// Raft index that this node has applied, for lag displays.
    pub applied_index: u64,
    /// Whom it asks for no files for a while.
    pub quarantined: Vec<Quarantine>,
    /// Files of its models that are not what their names say, with damaged manifests of those on record there.
    pub suspect_files: u32,
    /// Other damaged manifests in its store. It has none of these models, so those that it has are no worse for it.
    pub damaged_manifests: u32,
    /// Bytes of its models, each counted by itself.
    pub models_bytes: u64,
    /// Bytes of their files, each counted once.
    pub models_unique_bytes: u64,
}

// === impl SpareRule ===

impl SpareRule {
    /// What stays free beside a model of this size.
    #[must_use]
    pub fn beside(self, size_bytes: u64) -> u64 {
        let share = u128::from(size_bytes) * u128::from(self.percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).max(self.bytes_min)
    }
}

/// Where nobody set another one.
impl Default for SpareRule {
    fn default() -> Self {
        Self { percent: 5, bytes_min: 1 << 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_a_share_and_a_least_stays_free() {
        let check = |(percent, bytes_min): (u32, u64), size_bytes: u64, expected: u64| {
            assert_eq!(SpareRule { percent, bytes_min }.beside(size_bytes), expected, "{percent} % of {size_bytes}");
        };
        check((5, 10), 100, 10);
        check((5, 10), 1_000, 50);
        check((0, 0), u64::MAX, 0);
        check((100, 1), u64::MAX, u64::MAX);
        check((u32::MAX, 1), u64::MAX, u64::MAX);
    }
}
