//! Key files: one 32-byte Ed25519 seed in a text file that only its owner may read.
//!
//! Owns the form of every key file: one line, `<kind> 1 <64 hex digits>`, where the number is the form's version.
//! A file is written whole (temporary file, sync, link into place, sync of the folder), so a crash leaves either no
//! file or a good one, and an existing file is never written over. A file that others may read, or that is damaged,
//! is refused with the command that mends it; it is never repaired or replaced silently.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::random::{RandomError, random_bytes};

/// Version of the line's form.
const VERSION: &str = "1";
/// Longest line that can be a key file.
const FILE_BYTES_MAX: u64 = 256;
/// Rights that must not be given to anybody but the owner.
const FOREIGN_RIGHTS: u32 = 0o077;

/// A seed, wiped from memory when it is dropped.
pub(crate) type Seed = Zeroizing<[u8; 32]>;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There is one already; it is not written over.
    #[error("{} exists already and is not replaced; move it away if you mean to make a new key", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may read or change it.
    #[error("{} holds a private key but has mode {mode:04o}; run: chmod 600 {}", path.display(), path.display())]
    TooWide {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is a folder, a link to nowhere or a device.
    #[error("{} is not a regular file; move it away", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Its content is not a key.
    #[error(
        "{} is damaged ({problem}); restore it from a backup, or move it away and join the cluster again as a new node",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The disk refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, in the present tense.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No random bytes for a new key.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl KeyFileError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Reads the seed of a key file of this kind.
pub(crate) fn read(path: &Path, kind: &str) -> Result<Seed, KeyFileError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing { path: path.to_owned() },
        _ => KeyFileError::Io { action: "open", path: path.to_owned(), source },
    })?;
    let about = file.metadata().map_err(KeyFileError::io("read the rights of", path))?;
    if !about.is_file() {
        return Err(KeyFileError::NotAFile { path: path.to_owned() });
    }
    let mode = about.mode() & 0o7777;
    if mode & FOREIGN_RIGHTS != 0 {
        return Err(KeyFileError::TooWide { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        Ok(_) => decode(&text, kind).map_err(|problem| KeyFileError::Damaged { path: path.to_owned(), problem }),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(KeyFileError::Damaged { path: path.to_owned(), problem: "it is not text" })
        }
        Err(error) => Err(KeyFileError::io("read", path)(error)),
    }
}

/// Writes a new key file; refuses when there is one.
pub(crate) fn write_new(path: &Path, kind: &str, seed: &Seed) -> Result<(), KeyFileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = folder.join(format!(".{}.new", hex::encode(random_bytes::<8>()?)));
    let written = write_draft(&draft, &encode(kind, seed));
    let linked = written.and_then(|()| {
        fs::hard_link(&draft, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
            _ => KeyFileError::Io { action: "create", path: path.to_owned(), source },
        })
    });
    // The draft goes in every case; one that stays behind is unreadable to others and harms nothing.
    let _kept_when_the_disk_refuses = fs::remove_file(&draft);
    linked?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(KeyFileError::io("sync", folder))
}

fn write_draft(draft: &Path, text: &str) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)
        .map_err(KeyFileError::io("create", draft))?;
    // The process's umask may have taken rights away from the owner; these are the rights we want.
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(KeyFileError::io("protect", draft))?;
    file.write_all(text.as_bytes()).map_err(KeyFileError::io("write", draft))?;
    file.sync_all().map_err(KeyFileError::io("sync", draft))
}

fn encode(kind: &str, seed: &Seed) -> Zeroizing<String> {
    let digits = Zeroizing::new(hex::encode(seed.as_slice()));
    Zeroizing::new(format!("{kind} {VERSION} {}\n", digits.as_str()))
}

fn decode(text: &str, kind: &str) -> Result<Seed, &'static str> {
    let mut words = text.split_ascii_whitespace();
    match words.next() {
        None => return Err("it is empty"),
        Some(found) if found == kind => {}
        Some(_) => return Err("it holds something else"),
    }
    match words.next() {
        Some(VERSION) => {}
        Some(_) => return Err("it was written by a newer version of OllamaMax"),
        None => return Err("it is cut off"),
    }
    let mut seed = Zeroizing::new([0; 32]);
    let digits = words.next().ok_or("it is cut off")?;
    hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| "the key is cut off or garbled")?;
    if words.next().is_some() {
        return Err("something follows the key");
    }
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "ollamax-test-key";

    fn seed() -> Seed {
        Zeroizing::new([7; 32])
    }

    #[test]
    fn the_form_is_the_golden_one() {
        let golden = format!("{KIND} 1 {}\n", "07".repeat(32));
        assert_eq!(*encode(KIND, &seed()), golden);
        assert_eq!(decode(&golden, KIND), Ok(seed()));
    }

    #[test]
    fn a_written_file_is_read_back_and_only_the_owner_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        write_new(&path, KIND, &seed()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(read(&path, KIND).unwrap(), seed());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the draft is gone");
        assert!(matches!(write_new(&path, KIND, &seed()), Err(KeyFileError::Exists { .. })));
    }

    #[test]
    fn each_damage_is_named() {
        let digits = "07".repeat(32);
        let rows = [
            (String::new(), "empty"),
            ("-----BEGIN PRIVATE KEY-----".to_owned(), "something else"),
            (KIND.to_owned(), "cut off"),
            (format!("{KIND} 1"), "cut off"),
            (format!("{KIND} 2 {digits}"), "newer version"),
            (format!("{KIND} 1 {}", &digits[1..]), "garbled"),
            (format!("{KIND} 1 {digits} x"), "follows"),
            (format!("{KIND} 1 {}", "z".repeat(400)), "garbled"),
        ];
        for (text, expected) in rows {
            let problem = decode(&text, KIND).unwrap_err();
            assert!(problem.contains(expected), "{text:?}: {problem}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        write_new(&path, KIND, &seed()).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path, KIND).unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn missing_files_folders_and_bytes_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(&folder.path().join("none"), KIND), Err(KeyFileError::Missing { .. })));
        assert!(matches!(read(folder.path(), KIND), Err(KeyFileError::NotAFile { .. })));
        let bytes = folder.path().join("bytes");
        fs::write(&bytes, [0xff; 40]).unwrap();
        fs::set_permissions(&bytes, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(read(&bytes, KIND), Err(KeyFileError::Damaged { .. })));
    }
}
