//! Client sessions.
//!
//! Key: `0c`, session id as 8 bytes big endian. Value: version 1, `SessionRecord`. Replaced by each command of the
//! session, deleted when it ends.

use ollamax_core::catalog::{Key, Session};
use ollamax_proto::disk;
use ollamax_types::Timestamp;

use super::number;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x0c;
const VERSION: u8 = 1;

pub(super) fn encode_key(id: u64) -> Vec<u8> {
    number::prefixed(PREFIX, id)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Session(number::read("session key", rest)?))
}

pub(super) fn encode(record: &Session) -> Vec<u8> {
    let message = disk::SessionRecord {
        principal: record.principal.clone(),
        ttl_ms: record.ttl_ms,
        ends_at_ms: record.ends_at.0,
        window: record.window,
        highest: record.highest,
        due_at_ms: record.due_at.map(|at| at.0),
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Session, Malformed> {
    let message: disk::SessionRecord = unseal("session record", VERSION, bytes)?;
    Ok(Session {
        principal: message.principal,
        ttl_ms: message.ttl_ms,
        ends_at: Timestamp(message.ends_at_ms),
        window: message.window,
        highest: message.highest,
        due_at: message.due_at_ms.map(Timestamp),
    })
}
