//! Which node holds which model, by model.
//!
//! Key: `05`, model key (closed text), node id as 8 bytes big endian. Value: version 1, `LocationRecord`. Replaced when
//! the node reports the model anew, deleted when it reports the model gone or departs. Weights that are not known are
//! left out, as in all records from before they were asked for, and read back as the manifest's digest. What the model
//! can do is kept since cluster version 4.

use ollamax_core::catalog::{Key, Location};
use ollamax_proto::disk;
use ollamax_types::{Digest, ModelName, ModelRecord, NodeId, Timestamp};

use super::{number, text};
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x05;
const VERSION: u8 = 1;
const WHAT: &str = "location record";

pub(super) fn encode_key(model: &str, node: NodeId) -> Vec<u8> {
    let mut key = prefix_of_model(model);
    key.extend_from_slice(&node.0.to_be_bytes());
    key
}

pub(super) fn prefix_of_model(model: &str) -> Vec<u8> {
    let mut key = vec![PREFIX];
    text::write_closed(&mut key, model);
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (model, node) = text::read_closed("location key", rest)?;
    Ok(Key::Location(model, NodeId(number::read("location key", node)?)))
}

pub(super) fn encode(record: &Location) -> Vec<u8> {
    let message = disk::LocationRecord {
        node: record.node.0,
        name: record.model.name.full(),
        digest: record.model.digest.0.to_vec(),
        size_bytes: record.model.size_bytes,
        modified_at_ms: record.model.modified_at.0,
        details_json: record.model.details_json.clone(),
        weights: record.model.known_weights().map(|weights| weights.0.to_vec()).unwrap_or_default(),
        capabilities: record.model.capabilities.clone(),
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Location, Malformed> {
    let message: disk::LocationRecord = unseal(WHAT, VERSION, bytes)?;
    let name: ModelName =
        message.name.parse().map_err(|_| Malformed::new(WHAT, format!("{:?} is not a model name", message.name)))?;
    let digest = Digest(fixed(WHAT, &message.digest)?);
    let weights = if message.weights.is_empty() { digest } else { Digest(fixed(WHAT, &message.weights)?) };
    let model = ModelRecord {
        name,
        digest,
        weights,
        size_bytes: message.size_bytes,
        modified_at: Timestamp(message.modified_at_ms),
        details_json: message.details_json,
        capabilities: message.capabilities,
    };
    Ok(Location { node: NodeId(message.node), model })
}
