//! Cluster-wide configuration values.
//!
//! Key: `07`, text of the name. Value: version 1, `SettingRecord`. Replaced and deleted by administrators.

use ollamax_core::catalog::{Key, Setting};
use ollamax_proto::disk;

use super::text;
use crate::framing::{Malformed, seal, unseal};

pub(super) const PREFIX: u8 = 0x07;
const VERSION: u8 = 1;

pub(super) fn encode_key(name: &str) -> Vec<u8> {
    text::prefixed(PREFIX, name)
}

pub(super) fn prefix_of(start: &str) -> Vec<u8> {
    text::prefixed(PREFIX, start)
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Setting(text::read("setting key", rest)?))
}

pub(super) fn encode(record: &Setting) -> Vec<u8> {
    seal(VERSION, &disk::SettingRecord { value: record.value.clone(), revision: record.revision })
}

pub(super) fn decode(bytes: &[u8]) -> Result<Setting, Malformed> {
    let message: disk::SettingRecord = unseal("setting record", VERSION, bytes)?;
    Ok(Setting { value: message.value, revision: message.revision })
}
