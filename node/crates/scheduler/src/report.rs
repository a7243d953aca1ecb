//! What the assembly tells the scheduler about this machine: its runtime and its resources.

use std::sync::Arc;

use ollamax_types::{Gpu, ModelRecord, Quarantine, Residency, RuntimeKind, RuntimeState, SpareRule};

/// The runtime beside this node, as last polled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeReport {
    /// Which runtime.
    pub kind: RuntimeKind,
    /// Its version, as it says; empty when unknown.
    pub version: String,
    /// Whether it can be sent work.
    pub state: RuntimeState,
    /// What is in its store. The owner checks the digest of each request against this list.
    pub models: Arc<Vec<ModelRecord>>,
    /// What is in its memory.
    pub resident: Vec<Residency>,
}

impl Default for RuntimeReport {
    fn default() -> Self {
        Self {
            kind: RuntimeKind::Ollama,
            version: String::new(),
            state: RuntimeState::Absent,
            models: Arc::default(),
            resident: Vec::new(),
        }
    }
}

/// Readings of this machine, carried in its beats unread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Memory in use, bytes.
    pub memory_used_bytes: u64,
    /// Memory, bytes.
    pub memory_total_bytes: u64,
    /// CPU use, per mille of all cores.
    pub cpu_permille: u32,
    /// Free bytes where the data directory lies; `None` when they cannot be read.
    pub disk_free_bytes: Option<u64>,
    /// Free bytes where the runtime's models lie; `None` when that is not known.
    pub models_free_bytes: Option<u64>,
    /// Size of the disk where they lie, bytes; `None` when that is not known.
    pub models_total_bytes: Option<u64>,
    /// Bytes of the models that the cluster sends it for which room is set aside; `None` when that is not known.
    pub models_aside_bytes: Option<u64>,
    /// What stays free beside a model that comes here; `None` when that is not known.
    pub models_spare: Option<SpareRule>,
    /// Where the model store is looked for and is not; `None` where there is one, or that is not known.
    pub no_store_at: Option<String>,
    /// Its GPUs; empty without a driver.
    pub gpus: Vec<Gpu>,
    /// Raft index that this node has applied.
    pub applied_index: u64,
    /// Whom it asks for no files for a while.
    pub quarantined: Vec<Quarantine>,
    /// Files of its models that are not what their names say, with damaged manifests of those on record there.
    pub suspect_files: u32,
    /// Other damaged manifests in its store.
    pub damaged_manifests: u32,
    /// Bytes of its models, each counted by itself.
    pub models_bytes: u64,
    /// Bytes of their files, each counted once.
    pub models_unique_bytes: u64,
}
