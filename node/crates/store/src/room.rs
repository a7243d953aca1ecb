//! Whether the disk has room for more.
//!
//! A write that meets a full disk ends the store for good, because nobody knows then what the disk holds. So changes
//! are refused before: while fewer than `reserve_bytes` are free, whoever would make the log grow has to ask here first
//! and is told [`NoRoom`]. What keeps a node alive (votes, flushes, marks) does not ask; the reserve is for it.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::store::Store;

/// The disk is too full for another change. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of the data directory is full: {} MiB are free, and {} MiB are kept for what was promised before; \
     free some space there", .free_bytes >> 20, .reserve_bytes >> 20
)]
pub struct NoRoom {
    /// What is free.
    pub free_bytes: u64,
    /// What must stay free.
    pub reserve_bytes: u64,
}

impl Store {
    /// Whether the log may grow.
    ///
    /// # Errors
    /// While fewer bytes are free than the configuration keeps.
    pub fn check_room(&self) -> Result<(), NoRoom> {
        let reserve_bytes = self.config().reserve_bytes;
        if reserve_bytes == 0 {
            return Ok(());
        }
        judge(free_bytes(self.path()), reserve_bytes)
    }
}

/// A disk that cannot be asked is not called full.
fn judge(free_bytes: Option<u64>, reserve_bytes: u64) -> Result<(), NoRoom> {
    match free_bytes {
        Some(free_bytes) if free_bytes < reserve_bytes => Err(NoRoom { free_bytes, reserve_bytes }),
        _ => Ok(()),
    }
}

/// Free bytes for this user on the file system of a path; `None` when it cannot be asked.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    statvfs(path).ok().map(|system| system.blocks_available().saturating_mul(system.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_cannot_be_asked_is_not_a_full_one() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/no/such/place")), None);
    }

    #[test]
    fn there_is_room_while_the_reserve_is_whole() {
        assert_eq!(judge(Some(64), 64), Ok(()));
        assert_eq!(judge(None, 64), Ok(()));
        let refused = judge(Some(3 << 20), 64 << 20).expect_err("less than the reserve");
        let text = refused.to_string();
        assert!(text.contains("3 MiB are free") && text.contains("64 MiB are kept"), "{text}");
    }
}
