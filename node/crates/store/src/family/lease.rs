//! Leases.
//!
//! Key: `0a`, lease id as 8 bytes big endian. Value: version 1, `LeaseRecord`. Replaced when it is renewed, a value
//! comes or goes, or its deadline moves; deleted when it ends.

use ollamax_core::catalog::{Key, Lease};
use ollamax_proto::disk;
use ollamax_types::Timestamp;

use super::number;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x0a;
const VERSION: u8 = 1;

pub(super) fn encode_key(id: u64) -> Vec<u8> {
    number::prefixed(PREFIX, id)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Lease(number::read("lease key", rest)?))
}

pub(super) fn encode(record: Lease) -> Vec<u8> {
    let (ttl_ms, ends_at_ms, values) = (record.ttl_ms, record.ends_at.0, record.values);
    seal(VERSION, &disk::LeaseRecord { ttl_ms, ends_at_ms, values, due_at_ms: record.due_at.map(|at| at.0) })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Lease, Malformed> {
    let message: disk::LeaseRecord = unseal("lease record", VERSION, bytes)?;
    Ok(Lease {
        ttl_ms: message.ttl_ms,
        ends_at: Timestamp(message.ends_at_ms),
        values: message.values,
        due_at: message.due_at_ms.map(Timestamp),
    })
}
