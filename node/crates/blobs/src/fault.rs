//! What a disk did not do: action, path, reason; one leaf for all errors of this crate.
//!
//! The action is a phrase in the present tense, such as "read the manifest". Whether it was the disk that is full or
//! the rights that are missing is asked of the fault, so that no caller reads the system's words.

use std::io::{self, ErrorKind};
use std::path::Path;

/// One call to the file system that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct Fault {
    /// What was being done.
    pub action: &'static str,
    /// To which file or folder.
    pub path: String,
    /// What the system said.
    pub source: io::Error,
}

// === impl Fault ===

impl Fault {
    /// Turns what the system says into a fault: `fs::read(&path).map_err(Fault::at("read", &path))`.
    pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |source| Self { action, path, source }
    }

    /// Whether the disk, or what this user may have of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    }

    /// Whether the rights are missing, or the file system takes no changes.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_fault_says_what_was_done_to_which_file_and_why_not() {
        let fault = Fault::at("read the manifest", Path::new("/models/x"))(ErrorKind::NotFound.into());
        assert_eq!(fault.to_string(), "read the manifest /models/x: entity not found");
    }

    #[test]
    fn a_full_disk_and_missing_rights_are_told_apart() {
        let check = |errno: Errno, full: bool, denied: bool| {
            let fault = Fault::at("write", Path::new("/x"))(errno.into());
            assert_eq!((fault.is_full(), fault.is_denied()), (full, denied), "{errno}");
        };
        check(Errno::ENOSPC, true, false);
        check(Errno::EDQUOT, true, false);
        check(Errno::EFBIG, true, false);
        check(Errno::EACCES, false, true);
        check(Errno::EPERM, false, true);
        check(Errno::EROFS, false, true);
        check(Errno::EIO, false, false);
        check(Errno::ENOENT, false, false);
    }
}
