//! What ends by itself, in order of time.
//!
//! Key: `0e`, log time in milliseconds as 8 bytes big endian, one byte (01 lease, 02 session), id as 8 bytes big
//! endian. Value: version 1, `PresentRecord`. Deleted when its time has come or what it names ends, and written anew
//! when that was renewed.

use ollamax_core::catalog::{Due, Key};
use ollamax_types::Timestamp;

use super::number;
use crate::framing::Malformed;

pub(super) const PREFIX: u8 = 0x0e;
const LEASE: u8 = 0x01;
const SESSION: u8 = 0x02;

pub(super) fn encode_key(at: Timestamp, due: Due) -> Vec<u8> {
    let (kind, id) = match due {
        Due::Lease(id) => (LEASE, id),
        Due::Session(id) => (SESSION, id),
    };
    let mut bytes = number::prefixed(PREFIX, at.0);
    bytes.push(kind);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (at, rest) = number::read_first("deadline key", rest)?;
    let due = match rest {
        [LEASE, id @ ..] => Due::Lease(number::read("deadline key", id)?),
        [SESSION, id @ ..] => Due::Session(number::read("deadline key", id)?),
        _ => return Err(Malformed::new("deadline key", "of a kind that this release does not know")),
    };
    Ok(Key::Deadline(Timestamp(at), due))
}
