//! The value of families whose keys say everything.
//!
//! Version 1, `PresentRecord`.

use ollamax_proto::disk;

use crate::framing::{Malformed, seal, unseal};

const VERSION: u8 = 1;

pub(super) fn encode() -> Vec<u8> {
    seal(VERSION, &disk::PresentRecord {})
}

pub(super) fn decode(bytes: &[u8]) -> Result<(), Malformed> {
    unseal("present record", VERSION, bytes).map(|disk::PresentRecord {}| ())
}
