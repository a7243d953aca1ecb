//! Which values go with a lease.
//!
//! Key: `0b`, lease id as 8 bytes big endian, namespace (closed text), key (open text). Value: version 1,
//! `PresentRecord`. Written and deleted with the value's lease.

use ollamax_core::catalog::Key;

use super::{number, text};
use crate::framing::Malformed;

pub(super) const PREFIX: u8 = 0x0b;

pub(super) fn encode_key(lease: u64, namespace: &str, key: &str) -> Vec<u8> {
    let mut bytes = prefix_of_lease(lease);
    text::write_pair(&mut bytes, namespace, key);
    bytes
}

pub(super) fn prefix_of_lease(lease: u64) -> Vec<u8> {
    number::prefixed(PREFIX, lease)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (lease, rest) = number::read_first("lease-value key", rest)?;
    let (namespace, key) = text::read_pair("lease-value key", rest)?;
    Ok(Key::LeaseValue(lease, namespace, key))
}
