//! Numbers within keys: 8 bytes, big endian, so that the order of bytes is the order of numbers.

use crate::framing::{Malformed, fixed};

pub(super) fn prefixed(prefix: u8, number: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// A number and nothing behind it.
pub(super) fn read(what: &'static str, bytes: &[u8]) -> Result<u64, Malformed> {
    Ok(u64::from_be_bytes(fixed(what, bytes)?))
}

/// A number and what follows it.
pub(super) fn read_first<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(u64, &'a [u8]), Malformed> {
    let (number, rest) = bytes.split_first_chunk().ok_or_else(|| Malformed::new(what, "too short for a number"))?;
    Ok((u64::from_be_bytes(*number), rest))
}
