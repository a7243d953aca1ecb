//! The backup key: an age X25519 pair. The public half seals backups, the secret half opens them.
//!
//! The cluster keeps the public half alone. The secret half is told once to the administrator and never stored here:
//! it comes back only to verify or restore, from a file that nobody else may read or from standard input. What is
//! sealed is the payload of an ordinary age file. Whoever changes, cuts or lengthens it is found out when it is opened.
//! `age` draws its keys from the operating system and stops the process where that gives none.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use ollamax_types::Secret;

/// Rights that must not be given to anybody but the owner.
const FOREIGN_RIGHTS: u32 = 0o077;
/// Longest text that can hold a key: the key, and what `age-keygen` writes about it.
const TEXT_BYTES_MAX: u64 = 4 << 10;

/// The secret half. Prints as its public half.
#[derive(Clone)]
pub struct BackupKey(age::x25519::Identity);

/// The public half.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupRecipient(age::x25519::Recipient);

/// Why a text or a file is not a backup key.
#[derive(Debug, thiserror::Error)]
pub enum BackupKeyError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others than the owner may read or change it.
    #[error("{} holds a secret key but has mode {mode:04o}; run: chmod 600 {}", path.display(), path.display())]
    TooWide {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not the text of a key.
    #[error("{what} is no backup key: {problem}")]
    NotAKey {
        /// Which text.
        what: String,
        /// How it showed.
        problem: &'static str,
    },
}

/// Why what was sealed cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// It was sealed for another key.
    #[error("it was sealed for another key")]
    OtherKey,
    /// It is not what was sealed.
    #[error("{0}")]
    Damaged(&'static str),
    /// The disk refused.
    #[error(transparent)]
    Io(io::Error),
}

/// A writer that seals what it is given.
pub struct Sealing<W: Write>(age::stream::StreamWriter<W>);

/// A reader that opens what was sealed.
pub struct Unsealing<R: Read>(age::stream::StreamReader<R>);

// === impl BackupKey ===

impl BackupKey {
    /// Makes a new one, in memory.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Reads it from text: `AGE-SECRET-KEY-…` in a line of its own; lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// When there is no such line, more than one, or it is garbled. `what` names the text in the error.
    pub fn parse(what: &str, text: &str) -> Result<Self, BackupKeyError> {
        let refused = |problem| BackupKeyError::NotAKey { what: what.to_owned(), problem };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or_else(|| refused("it is empty"))?;
        if lines.next().is_some() {
            return Err(refused("it has more than one line"));
        }
        if line.starts_with("age1") {
            return Err(refused("this is the public half; the secret half begins with AGE-SECRET-KEY-"));
        }
        line.parse().map(Self).map_err(|_| refused("it is not AGE-SECRET-KEY- and 58 letters and digits"))
    }

    /// Reads it from a file that only its owner may read; `-` is standard input.
    ///
    /// # Errors
    /// When the file cannot be read, others may read it too, or it holds no key.
    pub fn load(path: &Path) -> Result<Self, BackupKeyError> {
        if path.as_os_str() == "-" {
            return Self::read("standard input", path, io::stdin().lock());
        }
        let unreadable = |source| BackupKeyError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        // What is no file (a pipe, say) has no rights worth looking at.
        let mode = about.mode() & 0o7777;
        if about.is_file() && mode & FOREIGN_RIGHTS != 0 {
            return Err(BackupKeyError::TooWide { path: path.to_owned(), mode });
        }
        Self::read(&path.display().to_string(), path, file)
    }

    fn read(what: &str, path: &Path, from: impl Read) -> Result<Self, BackupKeyError> {
        let mut text = Zeroizing::new(String::new());
        match from.take(TEXT_BYTES_MAX + 1).read_to_string(&mut text) {
            Ok(read) if read as u64 > TEXT_BYTES_MAX => {
                Err(BackupKeyError::NotAKey { what: what.to_owned(), problem: "it is too long" })
            }
            Ok(_) => Self::parse(what, &text),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(BackupKeyError::NotAKey { what: what.to_owned(), problem: "it is not text" })
            }
            Err(source) => Err(BackupKeyError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// The text to show once.
    #[must_use]
    pub fn text(&self) -> Secret {
        Secret::new(self.0.to_string().expose_secret())
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> BackupRecipient {
        BackupRecipient(self.0.to_public())
    }

    /// Opens what was sealed for this key.
    ///
    /// # Errors
    /// When it was sealed for another key, or its beginning is damaged. Damage further on is an error of reading.
    pub fn unseal<R: BufRead>(&self, from: R) -> Result<Unsealing<R>, UnsealError> {
        let header = age::Decryptor::new_buffered(from).map_err(unopened)?;
        let opened = header.decrypt(std::iter::once(&self.0 as &dyn age::Identity));
        opened.map(Unsealing).map_err(unopened)
    }
}

impl fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupKey({})", self.recipient())
    }
}

// === impl BackupRecipient ===

impl BackupRecipient {
    /// Reads `age1…`.
    ///
    /// # Errors
    /// When it is garbled.
    pub fn parse(text: &str) -> Result<Self, BackupKeyError> {
        text.trim().parse().map(Self).map_err(|problem| BackupKeyError::NotAKey { what: format!("{text:?}"), problem })
    }

    /// Seals what is written from here on; [`Sealing::finish`] ends it.
    ///
    /// # Errors
    /// When the writer refuses.
    pub fn seal<W: Write>(&self, to: W) -> io::Result<Sealing<W>> {
        let recipients = std::iter::once(&self.0 as &dyn age::Recipient);
        let header =
            age::Encryptor::with_recipients(recipients).map_err(|error| io::Error::other(error.to_string()))?;
        header.wrap_output(to).map(Sealing)
    }
}

impl fmt::Display for BackupRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BackupRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupRecipient({self})")
    }
}

// === impl Sealing ===

impl<W: Write> Sealing<W> {
    /// Ends what is sealed, and gives the writer back. Without it nobody can open what was written.
    ///
    /// # Errors
    /// When the writer refuses.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> fmt::Debug for Sealing<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").finish_non_exhaustive()
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

// === impl Unsealing ===

impl<R: Read> fmt::Debug for Unsealing<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealing").finish_non_exhaustive()
    }
}

impl<R: Read> Read for Unsealing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

fn unopened(error: age::DecryptError) -> UnsealError {
    match error {
        age::DecryptError::NoMatchingKeys => UnsealError::OtherKey,
        age::DecryptError::Io(error) if is_damage(&error) => {
            UnsealError::Damaged("its beginning is garbled or cut off")
        }
        age::DecryptError::Io(error) => UnsealError::Io(error),
        age::DecryptError::InvalidMac => UnsealError::Damaged("its beginning was changed"),
        age::DecryptError::UnknownFormat => UnsealError::Damaged("it is of a form that this release does not know"),
        _ => UnsealError::Damaged("its beginning is garbled"),
    }
}

/// Whether an error of reading says that the bytes are not those that were sealed, rather than that the disk refused.
#[must_use]
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn sealed(key: &BackupKey, plain: &[u8]) -> Vec<u8> {
        let mut sealing = key.recipient().seal(Vec::new()).expect("a Vec takes everything");
        sealing.write_all(plain).expect("a Vec takes everything");
        sealing.finish().expect("a Vec takes everything")
    }

    fn opened(key: &BackupKey, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        let mut unsealing = key.unseal(sealed).map_err(|error| error.to_string())?;
        unsealing.read_to_end(&mut plain).map_err(|error| error.to_string())?;
        Ok(plain)
    }

    #[test]
    fn a_key_comes_back_from_its_text_and_from_a_file_for_its_owner_alone() {
        let key = BackupKey::generate();
        let text = key.text().expose().to_owned();
        assert!(text.starts_with("AGE-SECRET-KEY-1"), "{}", key.text());
        assert_eq!(BackupRecipient::parse(&key.recipient().to_string()).unwrap(), key.recipient());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, format!("# made today\n\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = BackupKey::load(&path).unwrap_err();
        assert!(error.to_string().ends_with(&format!("run: chmod 600 {}", path.display())), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(BackupKey::load(&path).unwrap().recipient(), key.recipient());
        assert!(matches!(BackupKey::load(&folder.path().join("none")), Err(BackupKeyError::Unreadable { .. })));
    }

    #[test]
    fn what_is_no_key_is_told_without_repeating_it() {
        let key = BackupKey::generate();
        let text = key.text().expose().to_owned();
        let rows = [
            (String::new(), "empty"),
            (format!("{text}\n{text}"), "more than one line"),
            (key.recipient().to_string(), "public half"),
            (text[..text.len() - 1].to_owned(), "58 letters"),
            ("secret".to_owned(), "58 letters"),
        ];
        for (text, expected) in rows {
            let error = BackupKey::parse("the file", &text).unwrap_err().to_string();
            assert!(error.starts_with("the file is no backup key: ") && error.contains(expected), "{error}");
        }
        assert!(!format!("{key:?}").contains(&text));
        assert!(BackupRecipient::parse("age1nonsense").is_err());
    }

    #[test]
    fn only_its_key_opens_it() {
        let (key, other) = (BackupKey::generate(), BackupKey::generate());
        let bytes = sealed(&key, b"the state");
        assert_eq!(opened(&key, &bytes), Ok(b"the state".to_vec()));
        assert!(matches!(other.unseal(&bytes[..]), Err(UnsealError::OtherKey)));
        assert!(matches!(key.unseal(&b"no age file"[..]), Err(UnsealError::Damaged(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_changed_bit_and_no_cut_goes_unseen(length in 0usize..200_000, at in any::<prop::sample::Index>()) {
            let key = BackupKey::generate();
            let plain: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            let bytes = sealed(&key, &plain);
            prop_assert_eq!(opened(&key, &bytes), Ok(plain));
            let at = at.index(bytes.len());
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            prop_assert!(opened(&key, &flipped).is_err(), "a flipped bit in byte {}", at);
            prop_assert!(opened(&key, &bytes[..at]).is_err(), "cut at byte {}", at);
        }
    }
}
