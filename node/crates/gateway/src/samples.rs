//! A member and what a node says of itself, for tests: whoever needs another one says in what it differs.

use std::collections::BTreeMap;

use ollamax_core::catalog::{Cordon, Member, MemberState};
use ollamax_types::{Applies, Beat, Incarnation, NodeId, PeerId, Role, RuntimeKind, RuntimeState, Timestamp};

/// A voter that takes models.
pub(crate) fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        name: format!("n{id}"),
        peer_id: PeerId(format!("p{id}")),
        incarnation: Incarnation([1; 16]),
        role: Role::Voter,
        state: MemberState::Active,
        peer_addresses: Vec::new(),
        p2p_addresses: Vec::new(),
        api_addresses: Vec::new(),
        joined_at: Timestamp(0),
        labels: BTreeMap::new(),
        own_labels: BTreeMap::new(),
        cordon: Cordon::Open,
    }
}

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
