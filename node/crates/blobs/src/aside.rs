//! Damaged pieces of files, kept for whoever looks into why.
//!
//! ```text
//! <root>/sha256-<hex>.<index>   0600, the bytes of that chunk as the disk gave them
//! ```
//!
//! What a disk or a memory module did shows in them: one bit, a sector of zeros, a page of another file. They are few
//! of each file and few in all, written once and never read by this program. That one could not be kept is told to
//! nobody but the log: the repair goes on.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use ollamax_types::Digest;

use crate::fault::Fault;
use crate::staging::disk;

/// Most pieces of one file.
const OF_ONE_MAX: usize = 16;
/// Most pieces of all files: 256 MiB.
const OF_ALL_MAX: usize = 64;

/// The folder. Clones are the same.
#[derive(Debug, Clone)]
pub struct Aside {
    root: PathBuf,
}

// === impl Aside ===

impl Aside {
    /// Takes a folder, which is made when the first piece comes.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Keeps a piece, if there are not too many. False: it was not kept, or it was before.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(&self, sha256: Digest, index: u32, bytes: &[u8]) -> Result<bool, Fault> {
        let stem = format!("sha256-{sha256}.");
        let kept = disk::names_in(&self.root)?;
        let of_this = kept.iter().filter(|name| name.starts_with(&stem)).count();
        if kept.len() >= OF_ALL_MAX || of_this >= OF_ONE_MAX {
            return Ok(false);
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        made.map_err(Fault::at("create", &self.root))?;
        let path = self.root.join(format!("{stem}{index}"));
        let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            opened => opened.map_err(Fault::at("keep aside", &path))?,
        };
        file.write_all(bytes).map_err(Fault::at("keep aside", &path))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn few_pieces_are_kept_of_each_file_and_few_in_all_and_nobody_else_reads_them() {
        let folder = tempfile::tempdir().expect("temp");
        let aside = Aside::new(folder.path().join("damaged"));
        assert!(aside.keep(Digest([1; 32]), 3, b"damaged").expect("room"));
        let path = folder.path().join(format!("damaged/sha256-{}.3", Digest([1; 32])));
        assert_eq!(fs::read(&path).expect("it is there"), b"damaged");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert!(!aside.keep(Digest([1; 32]), 3, b"other").expect("readable"), "the first time counts");
        assert_eq!(fs::read(&path).expect("it is there"), b"damaged");
        let kept = |file: u8, count: u32| {
            (0..count).filter(|index| aside.keep(Digest([file; 32]), 100 + index, b"x").expect("room")).count()
        };
        assert_eq!(kept(1, 32), OF_ONE_MAX - 1);
        assert_eq!([2, 3, 4, 5].map(|file| kept(file, 32)), [16, 16, 16, 0]);
    }
}
