//! The Raft log of a node that is off: which entries its store would start with, and a sum of each.
//!
//! A copy of the files is opened, as the node itself opens them, so that nothing of the node changes, not even a name.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use ollamax_store::{Config, Store};

use crate::copy_directory;

/// The replicated state in a data directory.
const STATE: &str = "raft";
/// Bytes of entries that are read at once.
const READ_BYTES: usize = 1 << 20;

/// The files of a log, copied.
#[derive(Debug)]
pub struct KeptLog {
    copy: TempDir,
}

// === impl KeptLog ===

impl KeptLog {
    /// Copies the replicated state in the data directory of a node that does not run.
    ///
    /// # Errors
    /// When it cannot be read, or there is no room.
    pub fn copy(data_dir: &Path) -> Result<Self> {
        let copy = tempfile::tempdir().context("make a scratch directory")?;
        let from = data_dir.join(STATE);
        copy_directory(&from, &copy.path().join(STATE)).with_context(|| format!("copy {}", from.display()))?;
        Ok(Self { copy })
    }

    /// Index and sum of each entry, in order. Waits for the disk.
    ///
    /// # Errors
    /// When the store refuses the copy.
    pub fn entries(self) -> Result<Vec<(u64, u64)>> {
        let store = Store::open(self.copy.path(), None, Config::default()).context("open the copied state")?;
        let log = store.log();
        let held = log.state();
        let (Some(mut next), Some(last)) = (held.first, held.last) else { return Ok(Vec::new()) };
        let mut sums = Vec::new();
        while next <= last {
            let entries = log.read(next..last + 1, READ_BYTES).context("read the log")?;
            ensure!(!entries.is_empty(), "the log ends before {next}, not at {last}");
            sums.extend(entries.iter().map(|(index, payload)| (*index, sum_of(payload))));
            next += entries.len() as u64;
        }
        Ok(sums)
    }
}

/// The same for the same bytes, whoever asks.
fn sum_of(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn log_of(payloads: &[&[u8]]) -> TempDir {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::open(folder.path(), None, Config::default()).expect("opens");
        let entries = payloads.iter().zip(7..).map(|(payload, index)| (index, payload.to_vec())).collect();
        store.log().append(entries, Box::new(|_| {})).expect("appended");
        store.close().expect("closed");
        folder
    }

    #[test]
    fn equal_entries_have_equal_sums_and_the_node_stays_as_it_was() {
        let (one, other) = (log_of(&[b"a", b"b", b"c"]), log_of(&[b"a", b"x"]));
        let names = || {
            let read = fs::read_dir(one.path().join("raft/db")).expect("there");
            let mut names: Vec<_> = read.map(|entry| entry.expect("read").file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let read = |folder: &TempDir| KeptLog::copy(folder.path()).expect("copied").entries().expect("read");
        let (ours, theirs) = (read(&one), read(&other));
        assert_eq!(ours.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [7, 8, 9]);
        assert!(ours[0] == theirs[0] && ours[1].1 != theirs[1].1 && theirs.len() == 2, "{ours:?} {theirs:?}");
        assert_eq!(names(), before);
        assert_eq!(read(&one), ours);
    }
}
