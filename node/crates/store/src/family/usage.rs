//! What values take, by namespace and prefix.
//!
//! Key: `09`, namespace (closed text), prefix (open text). Value: version 1, `UsageRecord`. Changes with each value.

use ollamax_core::catalog::{Key, Usage};
use ollamax_proto::disk;

use super::text;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x09;
const VERSION: u8 = 1;

pub(super) fn encode_key(namespace: &str, prefix: &str) -> Vec<u8> {
    let mut bytes = vec![PREFIX];
    text::write_pair(&mut bytes, namespace, prefix);
    bytes
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (namespace, prefix) = text::read_pair("usage key", rest)?;
    Ok(Key::Usage(namespace, prefix))
}

pub(super) fn encode(record: Usage) -> Vec<u8> {
    seal(VERSION, &disk::UsageRecord { keys: record.keys, bytes: record.bytes, bytes_max: record.bytes_max })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Usage, Malformed> {
    let message: disk::UsageRecord = unseal("usage record", VERSION, bytes)?;
    Ok(Usage { keys: message.keys, bytes: message.bytes, bytes_max: message.bytes_max })
}
