//! A member and what a node says of itself, for tests: whoever needs another one says in what it differs.

use ollamax_types::{Applies, Beat, NodeId, RuntimeKind, RuntimeState, Timestamp};

pub(crate) use ollamax_core::catalog::mem::member;

/// A node with a runtime that answers, and nothing in it.
pub(crate) fn beat(node: u64) -> Beat {
    Beat {
        node: NodeId(node),
        sequence: 1,
        sent_at: Timestamp(1),
        draining: false,
        runtime_kind: RuntimeKind::Engine,
        runtime_version: String::new(),
        runtime_state: RuntimeState::Up,
        resident: Vec::new(),
        runners: Vec::new(),
        memory_used_bytes: 0,
        memory_total_bytes: 0,
        cpu_permille: 0,
        disk_free_bytes: None,
        models_free_bytes: None,
        models_total_bytes: None,
        models_aside_bytes: None,
        models_spare: None,
        no_store_at: None,
        gpus: Vec::new(),
        daemon_version: String::new(),
        applies: Applies::default(),
        applied_index: 0,
        quarantined: Vec::new(),
        suspect_files: 0,
        damaged_manifests: 0,
        models_bytes: 0,
        models_unique_bytes: 0,
    }
}
