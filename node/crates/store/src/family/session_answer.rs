//! What commands of client sessions answered.
//!
//! Key: `0d`, session id and sequence, each as 8 bytes big endian. Value: version 1, `RememberedRecord`. Never changed;
//! deleted when it falls out of the session's window, or with the session.

use ollamax_core::catalog::{Key, Remembered};
use ollamax_proto::disk;

use super::number;
use crate::answer;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x0d;
const VERSION: u8 = 1;
const WHAT: &str = "session-answer record";

pub(super) fn encode_key(session: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = prefix_of_session(session);
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes
}

pub(super) fn prefix_of_session(session: u64) -> Vec<u8> {
    number::prefixed(PREFIX, session)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (session, rest) = number::read_first("session-answer key", rest)?;
    Ok(Key::SessionAnswer(session, number::read("session-answer key", rest)?))
}

pub(super) fn encode(record: &Remembered) -> Vec<u8> {
    let committed = answer::encode(record.revision, record.term, record.answer.clone());
    seal(VERSION, &disk::RememberedRecord { committed: Some(committed) })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Remembered, Malformed> {
    let message: disk::RememberedRecord = unseal(WHAT, VERSION, bytes)?;
    let committed = message.committed.ok_or_else(|| Malformed::new(WHAT, "no answer"))?;
    let (revision, term, answer) =
        answer::decode(committed).map_err(|unknown| Malformed::new(WHAT, unknown.to_string()))?;
    Ok(Remembered { revision, term, answer })
}
