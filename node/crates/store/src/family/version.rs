//! The history of names, by model and number.
//!
//! Key: `14`, model key (closed text), number as 8 bytes big endian. Value: version 1, `VersionRow`. Written once,
//! deleted when the history grows too long.

use ollamax_core::catalog::{Key, Version};
use ollamax_proto::disk;
use ollamax_types::{Digest, Timestamp};

use super::{number, placing, text};
use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x14;
const VERSION: u8 = 1;
const WHAT: &str = "version record";

pub(super) fn encode_key(model: &str, number: u64) -> Vec<u8> {
    let mut key = prefix_of_model(model);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn prefix_of_model(model: &str) -> Vec<u8> {
    let mut key = vec![PREFIX];
    text::write_closed(&mut key, model);
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    let (model, rest) = text::read_closed("version key", rest)?;
    Ok(Key::Version(model, number::read("version key", rest)?))
}

pub(super) fn encode(record: &Version) -> Vec<u8> {
    let (how, to, from) = placing::how(&record.how);
    let message = disk::VersionRow {
        digest: record.digest.0.to_vec(),
        size_bytes: record.size_bytes,
        at_ms: record.at.0,
        how,
        to,
        from,
        by: record.by.clone(),
    };
    seal(VERSION, &message)
}

/// The number is the key's.
pub(super) fn decode(number: u64, bytes: &[u8]) -> Result<Version, Malformed> {
    let message: disk::VersionRow = unseal(WHAT, VERSION, bytes)?;
    let digest = Digest(fixed(WHAT, &message.digest)?);
    let how = placing::how_of(message.how, message.to, &message.from)
        .ok_or_else(|| Malformed::new(WHAT, "it came in a way that this release does not know"))?;
    let (size_bytes, at) = (message.size_bytes, Timestamp(message.at_ms));
    Ok(Version { number, digest, size_bytes, at, how, by: message.by })
}
