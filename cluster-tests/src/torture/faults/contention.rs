//! A disk that has more to do than the nodes: a large file is written beside their data, and every piece of it synced.
//!
//! It is what a model that arrives does. The file has a largest size and is written over from its begin; it goes with
//! the fault. Where the data lies in memory there is no disk that could be busy, and the proof says so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use tokio::time::Instant;

use crate::faults::{Done, Stage, proof};

const PIECE_BYTES: usize = 8 << 20;
/// How many pieces the file has at most: 256 MiB.
const PIECES_MAX: u64 = 32;
/// Fewest pieces that make a disk busy.
const PIECES_MIN: u64 = 4;
/// What a proof adds that shows nothing.
const IN_MEMORY: &str = ", in memory, which makes no disk busy: set TMPDIR to a folder on a disk";

impl Stage<'_> {
    pub(super) async fn contend(&mut self) -> Result<Done> {
        let path = self.cluster.directory().join("contention");
        let (file, end) = (path.clone(), Instant::now() + self.round.time);
        let written = tokio::task::spawn_blocking(move || write_until(&file, end)).await;
        let pieces = written.context("the writer")?.with_context(|| format!("write {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        let folder = self.cluster.directory();
        let found = statfs(folder).with_context(|| format!("look at the file system of {}", folder.display()))?;
        let in_memory = if found.filesystem_type() == TMPFS_MAGIC { IN_MEMORY } else { "" };
        let mib = pieces * (PIECE_BYTES as u64 >> 20);
        let what = format!("{mib} MiB were written and synced beside the nodes{in_memory}");
        Ok(Done::now(proof(pieces >= PIECES_MIN, what)))
    }
}

/// Writes and syncs pieces up to a moment. Returns how many.
fn write_until(path: &Path, end: Instant) -> io::Result<u64> {
    let (file, piece) = (File::create(path)?, vec![0xa5_u8; PIECE_BYTES]);
    let mut pieces = 0;
    while Instant::now() < end {
        file.write_all_at(&piece, pieces % PIECES_MAX * PIECE_BYTES as u64)?;
        file.sync_data()?;
        pieces += 1;
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_file_is_written_up_to_the_moment_and_has_whole_pieces() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("file");
        assert_eq!(write_until(&path, Instant::now()).expect("written"), 0);
        let pieces = write_until(&path, Instant::now() + Duration::from_millis(1)).expect("written");
        let length = path.metadata().expect("there").len();
        assert!(pieces <= PIECES_MAX && length == pieces * PIECE_BYTES as u64, "{pieces} pieces, {length} bytes");
    }
}
