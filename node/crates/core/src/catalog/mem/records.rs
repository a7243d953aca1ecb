//! Records to begin a test or a simulation with. Who wants another one says what is other:
//! `Member { role, ..member(1) }`.

use std::collections::{BTreeMap, BTreeSet};

use ollamax_types::{Incarnation, ModelName, NodeId, PeerId, Role, Timestamp};

use crate::catalog::record::{Cordon, Member, MemberState, Replicas, Want, Wish};

/// A voter, `n` and its number by name, that takes models.
#[must_use]
pub fn member(id: u64) -> Member {
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

/// A wish for two copies, which nobody has planned yet.
#[must_use]
pub fn wish(name: ModelName) -> Wish {
    Wish {
        name,
        round: 7,
        insecure: false,
        replicas: Replicas::Count(2),
        digest: None,
        size_bytes: 0,
        plan: None,
        failures: BTreeMap::new(),
        asked_at: Timestamp(0),
        asked_by: "test".to_owned(),
        want: Want::default(),
        declared: false,
        surplus: BTreeSet::new(),
        shared: false,
    }
}
