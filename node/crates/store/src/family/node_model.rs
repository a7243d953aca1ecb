//! Which node holds which model, by node: the same values as `location.rs`, under another key.
//!
//! Key: `06`, node id as 8 bytes big endian, model key (open text). Value: as in `location.rs`. The two families change
//! together.

use ollamax_core::catalog::Key;
use ollamax_types::NodeId;

use super::{number, text};
use crate::framing::Malformed;

pub(super) const PREFIX: u8 = 0x06;

pub(super) fn encode_key(node: NodeId, model: &str) -> Vec<u8> {
    let mut key = prefix_of_node(node);
    key.extend_from_slice(model.as_bytes());
    key
}

pub(super) fn prefix_of_node(node: NodeId) -> Vec<u8> {
    number::prefixed(PREFIX, node.0)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (node, model) = number::read_first("node-model key", rest)?;
    Ok(Key::NodeModel(NodeId(node), text::read("node-model key", model)?))
}
