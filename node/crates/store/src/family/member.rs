//! Members by id.
//!
//! Key: `02`, node id as 8 bytes big endian. Value: version 1, `MemberRecord`. Written by a join, replaced by changes
//! of address or standing. A departed member stays, so that its id is never given out again.

use ollamax_core::catalog::{Key, Member, MemberState};
use ollamax_proto::disk;
use ollamax_types::{Incarnation, NodeId, PeerId, Timestamp};

use super::{number, placing, role};
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x02;
const VERSION: u8 = 1;
const WHAT: &str = "member record";

pub(super) fn encode_key(node: NodeId) -> Vec<u8> {
    number::prefixed(PREFIX, node.0)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Member(NodeId(number::read("member key", rest)?)))
}

pub(super) fn encode(record: &Member) -> Vec<u8> {
    let (standing, departed_at_ms) = match record.state {
        MemberState::Active => (disk::MemberStanding::Active, 0),
        MemberState::Drained => (disk::MemberStanding::Drained, 0),
        MemberState::Departed { at } => (disk::MemberStanding::Departed, at.0),
    };
    let message = disk::MemberRecord {
        id: record.id.0,
        name: record.name.clone(),
        peer_id: record.peer_id.0.clone(),
        incarnation: record.incarnation.0.to_vec(),
        role: role::encode(record.role),
        standing: standing.into(),
        departed_at_ms,
        peer_addresses: record.peer_addresses.clone(),
        p2p_addresses: record.p2p_addresses.clone(),
        api_addresses: record.api_addresses.clone(),
        joined_at_ms: record.joined_at.0,
        labels: placing::labels(&record.labels),
        own_labels: placing::labels(&record.own_labels),
        cordon: placing::cordon(record.cordon),
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Member, Malformed> {
    let message: disk::MemberRecord = unseal(WHAT, VERSION, bytes)?;
    let state = match message.standing() {
        disk::MemberStanding::Active => MemberState::Active,
        disk::MemberStanding::Drained => MemberState::Drained,
        disk::MemberStanding::Departed => MemberState::Departed { at: Timestamp(message.departed_at_ms) },
        disk::MemberStanding::Unspecified => {
            return Err(Malformed::new(WHAT, format!("standing {} is not known", message.standing)));
        }
    };
    Ok(Member {
        id: NodeId(message.id),
        name: message.name,
        peer_id: PeerId(message.peer_id),
        incarnation: Incarnation(fixed(WHAT, &message.incarnation)?),
        role: role::decode(WHAT, message.role)?,
        state,
        peer_addresses: message.peer_addresses,
        p2p_addresses: message.p2p_addresses,
        api_addresses: message.api_addresses,
        joined_at: Timestamp(message.joined_at_ms),
        labels: placing::labels_of(message.labels),
        own_labels: placing::labels_of(message.own_labels),
        cordon: placing::cordon_of(message.cordon)
            .ok_or_else(|| Malformed::new(WHAT, format!("cordon {} is not known", message.cordon)))?,
    })
}
