//! Numbers of the store. All have defaults; [`Config::validate`] names every bad one at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_types::limits::SNAPSHOT_CHUNK_BYTES_MAX;

/// Least size of a snapshot chunk: the largest record and its key fit.
const SNAPSHOT_CHUNK_BYTES_MIN: usize = 128 << 10;
/// Least size of a ballast: less would be no help.
const BALLAST_BYTES_MIN: u64 = 1 << 20;
/// Largest.
const BALLAST_BYTES_MAX: u64 = 64 << 30;

/// Numbers of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Applied entries after which the state is flushed; a restart replays at most about this many.
    pub flush_entries_max: u64,
    /// Bytes written to the state after which it is flushed.
    pub flush_bytes_max: u64,
    /// Writes that may wait for one sync; the next one blocks its caller.
    pub sync_queue_max: usize,
    /// Memory of all write buffers together, bytes.
    pub write_buffer_bytes: usize,
    /// Memory of the block cache, bytes.
    pub block_cache_bytes: usize,
    /// Largest message of a snapshot stream, bytes.
    pub snapshot_chunk_bytes: usize,
    /// Free bytes on the disk that no change may use: with less, changes are refused until there is room again, and
    /// votes, flushes and what was promised before have a disk to go to. 0: use the disk to its end. Since 0.1.
    pub reserve_bytes: u64,
    /// Bytes of the ballast: a file that is deleted when the disk fills, so that there is room to work in. It is made
    /// where four times as much is free beyond `ballast_release_bytes`. 0: none. Since 0.1.
    pub ballast_bytes: u64,
    /// Free bytes below which the ballast is deleted; never less than `reserve_bytes`. Since 0.1.
    pub ballast_release_bytes: u64,
    /// Whether the log may be purged only below the flushed state. Off in conformance suites alone, which purge logs
    /// that no state machine ever saw; not settable from a file.
    #[serde(skip)]
    pub purge_only_flushed: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flush_entries_max: 10_000,
            flush_bytes_max: 32 << 20,
            sync_queue_max: 4_096,
            write_buffer_bytes: 32 << 20,
            block_cache_bytes: 16 << 20,
            snapshot_chunk_bytes: SNAPSHOT_CHUNK_BYTES_MAX,
            reserve_bytes: 64 << 20,
            ballast_bytes: 256 << 20,
            ballast_release_bytes: 2 << 30,
            purge_only_flushed: true,
        }
    }
}

// === impl Config ===

impl Config {
    /// Every problem, in words; empty when the numbers can be used.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.flush_entries_max == 0 {
            problems.push("flush_entries_max must be at least 1".to_owned());
        }
        if self.flush_bytes_max < 1 << 16 {
            problems.push("flush_bytes_max must be at least 65536 bytes".to_owned());
        }
        if self.sync_queue_max == 0 {
            problems.push("sync_queue_max must be at least 1".to_owned());
        }
        if self.write_buffer_bytes < 1 << 20 {
            problems.push("write_buffer_bytes must be at least 1048576 bytes".to_owned());
        }
        if self.block_cache_bytes < 1 << 20 {
            problems.push("block_cache_bytes must be at least 1048576 bytes".to_owned());
        }
        if !(SNAPSHOT_CHUNK_BYTES_MIN..=SNAPSHOT_CHUNK_BYTES_MAX).contains(&self.snapshot_chunk_bytes) {
            problems.push(format!(
                "snapshot_chunk_bytes must lie between {SNAPSHOT_CHUNK_BYTES_MIN} and {SNAPSHOT_CHUNK_BYTES_MAX} bytes"
            ));
        }
        if self.ballast_bytes != 0 && !(BALLAST_BYTES_MIN..=BALLAST_BYTES_MAX).contains(&self.ballast_bytes) {
            problems.push(format!(
                "ballast_bytes must be 0, or lie between {BALLAST_BYTES_MIN} and {BALLAST_BYTES_MAX} bytes"
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_every_bad_number_is_named_at_once() {
        assert_eq!(Config::default().validate(), Vec::<String>::new());
        let bad = Config {
            flush_entries_max: 0,
            flush_bytes_max: 0,
            sync_queue_max: 0,
            write_buffer_bytes: 0,
            block_cache_bytes: 0,
            snapshot_chunk_bytes: 2 << 20,
            reserve_bytes: 0,
            ballast_bytes: 1,
            ballast_release_bytes: 0,
            purge_only_flushed: true,
        };
        assert_eq!(bad.validate().len(), 7);
    }
}
