//! The keys that seal what clients carry.
//!
//! Key: `17`, alone. Value: version 1, `StateKeysRecord`. Written with each key that comes; deleted when the state goes
//! on under another cluster identity. The bytes lie on the disk as they are, as all of the state does.

use ollamax_core::catalog::{Key, StateKey, StateKeys};
use ollamax_proto::disk;
use ollamax_types::{SecretKey, Timestamp};

use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x17;
const VERSION: u8 = 1;
const WHAT: &str = "state keys record";

pub(super) fn encode_key() -> Vec<u8> {
    vec![PREFIX]
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    if rest.is_empty() { Ok(Key::StateKeys) } else { Err(Malformed::new("state keys key", "something follows it")) }
}

pub(super) fn encode(record: &StateKeys) -> Vec<u8> {
    let stored = |key: &StateKey| disk::StateKeyRecord {
        number: key.number,
        secret: key.secret.expose().to_vec(),
        made_at_ms: key.made_at.0,
    };
    seal(VERSION, &disk::StateKeysRecord { keys: record.keys.iter().map(stored).collect() })
}

pub(super) fn decode(bytes: &[u8]) -> Result<StateKeys, Malformed> {
    let message: disk::StateKeysRecord = unseal(WHAT, VERSION, bytes)?;
    let key = |stored: disk::StateKeyRecord| -> Result<StateKey, Malformed> {
        let secret = SecretKey::new(fixed(WHAT, &stored.secret)?);
        Ok(StateKey { number: stored.number, secret, made_at: Timestamp(stored.made_at_ms) })
    };
    Ok(StateKeys { keys: message.keys.into_iter().map(key).collect::<Result<_, _>>()? })
}
