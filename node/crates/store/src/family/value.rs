//! Revisioned values.
//!
//! Key: `08`, namespace (closed text), key (open text). Value: version 1, `ValueRecord`. Replaced and deleted by
//! transactions, deleted with the lease that it names.

use ollamax_core::catalog::{Key, Value};
use ollamax_proto::disk;

use super::text;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x08;
const VERSION: u8 = 1;

pub(super) fn encode_key(namespace: &str, key: &str) -> Vec<u8> {
    let mut bytes = vec![PREFIX];
    text::write_pair(&mut bytes, namespace, key);
    bytes
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (namespace, key) = text::read_pair("value key", rest)?;
    Ok(Key::Value(namespace, key))
}

/// As it also travels in answers.
pub(crate) fn message(record: &Value) -> disk::ValueRecord {
    disk::ValueRecord {
        value: record.bytes.clone(),
        created: record.created,
        modified: record.modified,
        version: record.version,
        lease: record.lease.unwrap_or(0),
    }
}

pub(crate) fn from_message(message: disk::ValueRecord) -> Value {
    Value {
        bytes: message.value,
        created: message.created,
        modified: message.modified,
        version: message.version,
        lease: Some(message.lease).filter(|lease| *lease != 0),
    }
}

pub(super) fn encode(record: &Value) -> Vec<u8> {
    seal(VERSION, &message(record))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Value, Malformed> {
    Ok(from_message(unseal("value record", VERSION, bytes)?))
}
