//! The one cluster record.
//!
//! Key: `01`. Value: version 1, `ClusterRecord`. Written by the first entry; afterwards `next_node_id` grows with each
//! join and `version` with upgrades. Never deleted.

use ollamax_core::catalog::{Cluster, Key};
use ollamax_proto::disk;
use ollamax_types::{ClusterId, Timestamp};

use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x01;
const VERSION: u8 = 1;
const WHAT: &str = "cluster record";

pub(super) fn encode_key() -> Vec<u8> {
    vec![PREFIX]
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    if rest.is_empty() { Ok(Key::Cluster) } else { Err(Malformed::new("cluster key", "is longer than its prefix")) }
}

pub(super) fn encode(record: &Cluster) -> Vec<u8> {
    let message = disk::ClusterRecord {
        id: record.id.0.to_vec(),
        name: record.name.clone(),
        public_key: record.public_key.to_vec(),
        created_at_ms: record.created_at.0,
        next_node_id: record.next_node_id,
        version: record.version,
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Cluster, Malformed> {
    let message: disk::ClusterRecord = unseal(WHAT, VERSION, bytes)?;
    Ok(Cluster {
        id: ClusterId(fixed(WHAT, &message.id)?),
        name: message.name,
        public_key: fixed(WHAT, &message.public_key)?,
        created_at: Timestamp(message.created_at_ms),
        next_node_id: message.next_node_id,
        version: message.version,
    })
}
