//! Which tasks are not over, by whose they are.
//!
//! Key: `19`, subject (closed text), task id, 16 bytes. Value: version 1, `PresentRecord`. Written with the task,
//! deleted when it is over.

use ollamax_core::catalog::Key;
use ollamax_types::TaskId;

use super::text;
use crate::framing::{Malformed, fixed};

pub(super) const PREFIX: u8 = 0x19;

pub(super) fn encode_key(subject: &str, id: &TaskId) -> Vec<u8> {
    let mut key = prefix_of_subject(subject);
    key.extend_from_slice(&id.0);
    key
}

pub(super) fn prefix_of_subject(subject: &str) -> Vec<u8> {
    let mut key = vec![PREFIX];
    text::write_closed(&mut key, subject);
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (subject, id) = text::read_closed("open task key", rest)?;
    Ok(Key::OpenTask(subject, TaskId(fixed("open task key", id)?)))
}
