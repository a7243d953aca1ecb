//! What files of models must be, by their SHA-256.
//!
//! Key: `11`, SHA-256 of the file, 32 bytes. Value: version 1, `BlobRecord`. Written once, never replaced.

use ollamax_core::catalog::{Blob, Key};
use ollamax_proto::disk;
use ollamax_types::{Digest, NodeId, Root, Timestamp};

use crate::framing::{Malformed, fixed, seal, unseal};

pub(super) const PREFIX: u8 = 0x11;
const VERSION: u8 = 1;
const WHAT: &str = "blob record";

pub(super) fn encode_key(sha256: &Digest) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.extend_from_slice(&sha256.0);
    key
}

pub(super) fn decode_key(rest: &[u8]) -> Result<Key, Malformed> {
    Ok(Key::Blob(Digest(fixed("blob key", rest)?)))
}

pub(super) fn encode(record: &Blob) -> Vec<u8> {
    let message = disk::BlobRecord {
        size_bytes: record.size_bytes,
        root: record.root.0.to_vec(),
        bound_by: record.bound_by.0,
        bound_at_ms: record.bound_at.0,
    };
    seal(VERSION, &message)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Blob, Malformed> {
    let message: disk::BlobRecord = unseal(WHAT, VERSION, bytes)?;
    Ok(Blob {
        size_bytes: message.size_bytes,
        root: Root(fixed(WHAT, &message.root)?),
        bound_by: NodeId(message.bound_by),
        bound_at: Timestamp(message.bound_at_ms),
    })
}
