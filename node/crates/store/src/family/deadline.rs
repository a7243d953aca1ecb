//! What ends by itself, in order of time.
//!
//! Key: `0e`, log time in milliseconds as 8 bytes big endian, one byte (01 lease, 02 session, 03 task, 04 request with
//! a key), then the id as 8 bytes big endian, of a task its 16 bytes, the key of 32 bytes. Value: version 1,
//! `PresentRecord`. Deleted when its time has come or what it names ends, and written anew when that was renewed.

use ollamax_core::catalog::{Due, Key};
use ollamax_types::{TaskId, Timestamp};

use super::number;
use crate::framing::{Malformed, fixed};

pub(super) const PREFIX: u8 = 0x0e;
const LEASE: u8 = 0x01;
const SESSION: u8 = 0x02;
const TASK: u8 = 0x03;
const ONCE: u8 = 0x04;

pub(super) fn encode_key(at: Timestamp, due: Due) -> Vec<u8> {
    let mut bytes = number::prefixed(PREFIX, at.0);
    match due {
        Due::Lease(id) => write(&mut bytes, LEASE, &id.to_be_bytes()),
        Due::Session(id) => write(&mut bytes, SESSION, &id.to_be_bytes()),
        Due::Task(id) => write(&mut bytes, TASK, &id.0),
        Due::Once(key) => write(&mut bytes, ONCE, &key),
    }
    bytes
}

fn write(bytes: &mut Vec<u8>, kind: u8, id: &[u8]) {
    bytes.push(kind);
    bytes.extend_from_slice(id);
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (at, rest) = number::read_first("deadline key", rest)?;
    let due = match rest {
        [LEASE, id @ ..] => Due::Lease(number::read("deadline key", id)?),
        [SESSION, id @ ..] => Due::Session(number::read("deadline key", id)?),
        [TASK, id @ ..] => Due::Task(TaskId(fixed("deadline key", id)?)),
        [ONCE, key @ ..] => Due::Once(fixed("deadline key", key)?),
        _ => return Err(Malformed::new("deadline key", "of a kind that this release does not know")),
    };
    Ok(Key::Deadline(Timestamp(at), due))
}
