//! Receiving one blob: a temporary file in the blob folder, hashed as it is written, renamed once it is right.
//!
//! A temporary file disappears with its `Upload`, whatever the reason; those of a killed process go at the next start.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::store::{Digest, StoreError, is_full, sync_folder};

const PREFIX: &str = ".upload-";

/// A blob on its way in.
#[derive(Debug)]
pub(crate) struct Upload {
    file: NamedTempFile,
    hash: Sha256,
    expected: Digest,
    target: PathBuf,
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The bytes are not those that were announced.
    #[error("digest mismatch, expected \"sha256:{expected}\", got \"sha256:{actual}\"")]
    Mismatch {
        /// Announced.
        expected: String,
        /// Received.
        actual: String,
    },
    /// No room.
    #[error("the disk with the model folder is full; free some space and upload again")]
    Full,
    /// The disk refused for another reason.
    #[error("write model blob: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        if is_full(&error) { Self::Full } else { Self::Io(error) }
    }
}

impl Upload {
    pub(super) fn start(folder: &Path, target: PathBuf, expected: Digest) -> Result<Self, UploadError> {
        Ok(Self { file: temporary(folder)?, hash: Sha256::new(), expected, target })
    }

    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.hash.update(bytes);
        Ok(self.file.write_all(bytes)?)
    }

    /// Checks the whole and puts it in its place.
    pub(crate) fn finish(self) -> Result<(), UploadError> {
        let actual = hex::encode(self.hash.finalize());
        if actual != self.expected.hex() {
            return Err(UploadError::Mismatch { expected: self.expected.hex().to_owned(), actual });
        }
        self.file.as_file().sync_all()?;
        self.file.persist(&self.target).map_err(|error| error.error)?;
        self.target.parent().map_or(Ok(()), sync_folder)?;
        Ok(())
    }
}

/// A file that is removed when it is dropped before it was renamed.
pub(super) fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new().prefix(PREFIX).permissions(fs::Permissions::from_mode(0o644)).tempfile_in(folder)
}

/// Removes what a process that was killed could not.
pub(super) fn remove_leftovers(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let entry = entry.map_err(StoreError::io("list", folder))?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_file(entry.path()).map_err(StoreError::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}
