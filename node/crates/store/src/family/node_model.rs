//! Which node holds which model, by node: the same values as `location.rs`, under another key.
//!
//! Key: `06`, node id as 8 bytes big endian, model key (open text). Value: as in `location.rs`. The two families change
//! together.

use ollamax_core::catalog::Key;
use ollamax_types::NodeId;

use super::text;
use crate::framing::Malformed;

pub(super) const PREFIX: u8 = 0x06;

pub(super) fn encode_key(node: NodeId, model: &str) -> Vec<u8> {
    let mut key = prefix_of_node(node);
    key.extend_from_slice(model.as_bytes());
    key
}

pub(super) fn prefix_of_node(node: NodeId) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&node.0.to_be_bytes());
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let Some((node, model)) = rest.split_first_chunk::<8>() else {
        return Err(Malformed::new("node-model key", "too short for a node id"));
    };
    Ok(Key::NodeModel(NodeId(u64::from_be_bytes(*node)), text::read("node-model key", model)?))
}
