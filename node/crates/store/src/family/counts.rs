//! How many there are of what is bounded in number.
//!
//! Key: `0f`, alone. Value: version 1, `CountsRecord`.

use ollamax_core::catalog::{Counts, Key};
use ollamax_proto::disk;

use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x0f;
const VERSION: u8 = 1;

pub(super) fn encode_key() -> Vec<u8> {
    vec![PREFIX]
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    if rest.is_empty() { Ok(Key::Counts) } else { Err(Malformed::new("counts key", "something follows it")) }
}

pub(super) fn encode(record: Counts) -> Vec<u8> {
    let Counts { sessions, leases, wishes, blobs, models, tasks, once, tasks_changed_at } = record;
    seal(VERSION, &disk::CountsRecord { sessions, leases, wishes, blobs, models, tasks, once, tasks_changed_at })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Counts, Malformed> {
    let disk::CountsRecord { sessions, leases, wishes, blobs, models, tasks, once, tasks_changed_at } =
        unseal("counts record", VERSION, bytes)?;
    Ok(Counts { sessions, leases, wishes, blobs, models, tasks, once, tasks_changed_at })
}
