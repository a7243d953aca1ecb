//! Snapshots: the state as a stream of checked messages in key order, and back.
//!
//! Format 1: `SnapshotPart` messages: one header (how far the state is, its hash and count), chunks of sorted records,
//! one trailer (counts and BLAKE3). A stream that goes on behind a key has the same header; numbers and trailer are
//! those of its own chunks, and the header's count and hash are checked over what came before as well. Neither side
//! ever holds the whole state in memory.

mod check;
mod export;
mod id;
mod import;
mod staging;

pub use check::Check;
pub use export::Export;
pub use id::SnapshotId;
pub use import::Import;
pub(crate) use staging::{clear_unless_busy, sweep, sweep_unless_busy};

/// The format that this release writes and reads.
const FORMAT: u32 = 1;
