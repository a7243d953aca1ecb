//! What requests with a key were answered, by key.
//!
//! Key: `16`, the key, 32 bytes. Value: version 1, `OnceRecord`. Written with the effect of the request; replaced and
//! deleted when its time has passed.

use ollamax_core::catalog::{Key, Once};
use ollamax_proto::disk;
use ollamax_types::Timestamp;

use crate::answer;
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x16;
const VERSION: u8 = 1;
const WHAT: &str = "once record";

pub(super) fn encode_key(key: &[u8; 32]) -> Vec<u8> {
    let mut bytes = vec![PREFIX];
    bytes.extend_from_slice(key);
    bytes
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Once(fixed("once key", rest)?))
}

pub(super) fn encode(record: &Once) -> Vec<u8> {
    let committed = answer::encode(record.revision, record.term, record.answer.clone());
    let (digest, ends_at_ms) = (record.digest.to_vec(), record.ends_at.0);
    seal(VERSION, &disk::OnceRecord { digest, committed: Some(committed), ends_at_ms })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Once, Malformed> {
    let message: disk::OnceRecord = unseal(WHAT, VERSION, bytes)?;
    let committed = message.committed.ok_or_else(|| Malformed::new(WHAT, "no answer"))?;
    let (revision, term, answer) =
        answer::decode(committed).map_err(|unknown| Malformed::new(WHAT, unknown.to_string()))?;
    let (digest, ends_at) = (fixed(WHAT, &message.digest)?, Timestamp(message.ends_at_ms));
    Ok(Once { digest, revision, term, answer, ends_at })
}
