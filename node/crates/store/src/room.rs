//! Whether the disk has room for more.
//!
//! A write that meets a full disk ends the store for good, because nobody knows then what the disk holds. So changes
//! are refused before: while fewer than `reserve_bytes` are free, whoever would make the log grow has to ask here first
//! and is told [`NoRoom`]. What keeps a node alive (votes, flushes, marks) does not ask; the reserve is for it.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::config::Config;
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

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for this user.
    pub free_bytes: u64,
    /// In use.
    pub used_bytes: u64,
}

impl Config {
    /// Whether the log of a store at this path may grow. A disk that cannot be asked is not called full.
    ///
    /// # Errors
    /// While fewer bytes are free than are kept.
    pub fn check_room(&self, path: &Path) -> Result<(), NoRoom> {
        if self.reserve_bytes == 0 {
            return Ok(());
        }
        Space::of(path).map_or(Ok(()), |space| space.check(self.reserve_bytes))
    }
}

impl Store {
    /// Whether the log may grow.
    ///
    /// # Errors
    /// As [`Config::check_room`].
    pub fn check_room(&self) -> Result<(), NoRoom> {
        self.config().check_room(self.path())
    }
}

// === impl Space ===

impl Space {
    /// The file system of a path; `None` when it cannot be asked.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let system = statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(system.fragment_size());
        let used = system.blocks().saturating_sub(system.blocks_free());
        Some(Self { free_bytes: bytes(system.blocks_available()), used_bytes: bytes(used) })
    }

    /// Whether the reserve is whole.
    ///
    /// # Errors
    /// While fewer bytes are free.
    pub const fn check(self, reserve_bytes: u64) -> Result<(), NoRoom> {
        let free_bytes = self.free_bytes;
        if free_bytes < reserve_bytes { Err(NoRoom { free_bytes, reserve_bytes }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_says_how_full_it_is_where_there_is_one() {
        assert!(Space::of(Path::new("/")).is_some_and(|space| space.used_bytes > 0));
        assert_eq!(Space::of(Path::new("/no/such/place")), None);
    }

    #[test]
    fn there_is_room_while_the_reserve_is_whole() {
        let free = |free_bytes| Space { free_bytes, used_bytes: 1 };
        assert_eq!(free(64).check(64), Ok(()));
        let refused = free(3 << 20).check(64 << 20).expect_err("less than the reserve");
        let text = refused.to_string();
        assert!(text.contains("3 MiB are free") && text.contains("64 MiB are kept"), "{text}");
    }
}
