//! Active members by the name of their key.
//!
//! Key: `03`, text of the peer id. Value: version 1, `MemberByPeerRecord`. Written by a join, deleted when the member
//! departs.

use ollamax_core::catalog::Key;
use ollamax_proto::disk;
use ollamax_types::{NodeId, PeerId};

use super::text;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x03;
const VERSION: u8 = 1;

pub(super) fn encode_key(peer: &PeerId) -> Vec<u8> {
    text::prefixed(PREFIX, &peer.0)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::MemberByPeer(PeerId(text::read("member-by-peer key", rest)?)))
}

pub(super) fn encode(node: NodeId) -> Vec<u8> {
    seal(VERSION, &disk::MemberByPeerRecord { node: node.0 })
}

pub(super) fn decode(bytes: &[u8]) -> Result<NodeId, Malformed> {
    let message: disk::MemberByPeerRecord = unseal("member-by-peer record", VERSION, bytes)?;
    Ok(NodeId(message.node))
}
