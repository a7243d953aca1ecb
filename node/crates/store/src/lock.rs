//! The directory lock: one process per data directory.
//!
//! The file `raft/lock` is locked with the system's advisory lock, which dies with the process, and holds the process
//! id for people. A leftover file without a lock means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::error::{DiskError, OpenError, VerifyError};

/// Held as long as the database is open.
#[derive(Debug)]
pub(crate) struct DirectoryLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl DirectoryLock {
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let refused = |error: std::io::Error| DiskError::io("open the lock file", &error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(refused)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { path: path.to_path_buf(), pid: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(DiskError::io("lock the data directory", &error).into()),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(refused)?;
        Ok(Self(file))
    }

    /// For somebody who only looks: keeps a daemon away and changes nothing. `None` where no daemon ever ran.
    pub(crate) fn look(path: &Path) -> Result<Option<Self>, VerifyError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::io("open the lock file", &error).into()),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => {
                Err(VerifyError::Locked { path: path.to_path_buf(), pid: holder(&mut file) })
            }
            Err(TryLockError::Error(error)) => Err(DiskError::io("lock the data directory", &error).into()),
        }
    }
}

/// The process that the file names.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok())
}
