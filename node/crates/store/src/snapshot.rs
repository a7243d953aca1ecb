//! Snapshots: the state as a stream of checked messages in key order, and back.
//!
//! Format 1: `SnapshotPart` messages: one header (how far the state is, its hash and count), chunks of sorted records,
//! one trailer (counts and BLAKE3). A chunk names its first and last key, so that a later version can resume by key.
//! Neither side ever holds the whole state in memory.

mod check;
mod export;
mod import;

pub use check::Check;
pub use export::Export;
pub use import::Import;

/// The format that this release writes and reads.
const FORMAT: u32 = 1;
