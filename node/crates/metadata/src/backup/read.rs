//! Reading a backup: without the key its page, length and hash; with it every message and every record.
//!
//! Damage is told with its place: the page, the payload as a whole, a sealed message, or the end. Nothing that is read
//! is believed before it was checked against what was sealed with it.

use std::io::{BufReader, Read, Seek, SeekFrom};

use prost::Message;

use ollamax_proto::disk;
use ollamax_proto::disk::backup_part::Part;
use ollamax_security::backup_key::is_damage;
use ollamax_security::{BackupKey, UnsealError};
use ollamax_store as store;

use super::frame::{self, MESSAGE_BYTES_MAX};
use super::write::facts;
use super::{BackupError, END_BYTES, Facts, PAGE_BYTES, Page};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// A backup that was found good, as far as it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What everybody can read of it.
    pub page: Page,
    /// Its length.
    pub bytes: u64,
    /// What only the key shows; `None` when it was checked without.
    pub facts: Option<Facts>,
}

/// What was found without the key.
pub(super) struct Outer {
    pub(super) page: Page,
    pub(super) bytes: u64,
    payload_bytes: u64,
    /// The payload is not the one that was hashed when it was written.
    is_changed: bool,
}

/// The page at the start of a backup.
///
/// # Errors
/// When it is no backup, a later release's, or its page is damaged.
pub fn read_page(from: &mut impl Read) -> Result<Page, BackupError> {
    let mut page = [0; PAGE_BYTES];
    from.read_exact(&mut page).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            BackupError::NotABackup(format!("it has fewer than {PAGE_BYTES} bytes; it may be cut off"))
        }
        _ => BackupError::io("read the backup")(error),
    })?;
    frame::decode_page(&page)
}

/// Checks a backup from its first byte to its last: without a key that it is whole, with it that it can be restored.
///
/// # Errors
/// When anything about it is not as it was written, with the place; or it was sealed for another key.
pub fn verify(file: &mut (impl Read + Seek), key: Option<&BackupKey>) -> Result<Verified, BackupError> {
    let outer = look(file)?;
    let changed = || BackupError::damaged("in its payload", "it does not fit the hash at the end of the file");
    let Some(key) = key else {
        if outer.is_changed {
            return Err(changed());
        }
        return Ok(Verified { page: outer.page, bytes: outer.bytes, facts: None });
    };
    let mut check = store::Check::default();
    let mut each = |message: &[u8]| check.add(message).map_err(BackupError::Import);
    // The seal tells more closely where a payload was changed.
    let facts = open(file, &outer, key, &mut each)?;
    if outer.is_changed {
        return Err(changed());
    }
    check.verify().map_err(of_state)?;
    let families: Vec<_> = check.families().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    if (check.count(), &families) != (facts.records, &facts.families) {
        return Err(BackupError::damaged("in its state", "it holds other records than were counted"));
    }
    if check.meta().map(|meta| meta.index) != Some(outer.page.revision) {
        return Err(BackupError::damaged("in its state", "it reaches another revision than its page says"));
    }
    Ok(Verified { page: outer.page, bytes: outer.bytes, facts: Some(facts) })
}

/// What is wrong with the state as a whole.
fn of_state(error: store::ImportError) -> BackupError {
    match error {
        store::ImportError::Invalid(reason) => BackupError::damaged("in its state", reason),
        other => BackupError::Import(other),
    }
}

/// Looks at what can be seen without the key.
pub(super) fn look(file: &mut (impl Read + Seek)) -> Result<Outer, BackupError> {
    let failed = BackupError::io("read the backup");
    let bytes = file.seek(SeekFrom::End(0)).map_err(&failed)?;
    file.rewind().map_err(&failed)?;
    let page = read_page(file)?;
    let framing = (PAGE_BYTES + END_BYTES) as u64;
    let payload_bytes = bytes.checked_sub(framing);
    let payload_bytes = payload_bytes
        .ok_or_else(|| BackupError::damaged("at its end", format!("it is cut off after {bytes} bytes")))?;
    file.seek(SeekFrom::Start(bytes - END_BYTES as u64)).map_err(&failed)?;
    let mut end = [0; END_BYTES];
    file.read_exact(&mut end).map_err(&failed)?;
    let end = frame::decode_end(&end)?;
    if end.payload_bytes != payload_bytes {
        let reason = format!("its payload has {payload_bytes} bytes, and {} were written", end.payload_bytes);
        return Err(BackupError::damaged("at its end", reason));
    }
    file.rewind().map_err(&failed)?;
    let mut hasher = blake3::Hasher::new();
    let hashed =
        std::io::copy(&mut BufReader::with_capacity(READ_BYTES, file).take(bytes - END_BYTES as u64), &mut hasher);
    hashed.map_err(&failed)?;
    let is_changed = *hasher.finalize().as_bytes() != end.blake3;
    Ok(Outer { page, bytes, payload_bytes, is_changed })
}

/// Opens the payload and hands each message of the snapshot stream to `each`, in order.
pub(super) fn open(
    file: &mut (impl Read + Seek),
    outer: &Outer,
    key: &BackupKey,
    each: &mut dyn FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<Facts, BackupError> {
    let failed = BackupError::io("read the backup");
    file.seek(SeekFrom::Start(PAGE_BYTES as u64)).map_err(&failed)?;
    let payload = BufReader::with_capacity(READ_BYTES, file.take(outer.payload_bytes));
    let opened = key.unseal(payload).map_err(|error| match error {
        UnsealError::OtherKey => BackupError::OtherKey { wanted: outer.page.recipient.clone(), given: key.recipient() },
        UnsealError::Damaged(reason) => BackupError::damaged("at the beginning of its payload", reason),
        UnsealError::Io(error) => failed(error),
    })?;
    let mut messages = Messages { from: opened, number: 0, bytes: 0 };
    let mut hasher = blake3::Hasher::new();
    let header = read_header(&mut messages, &outer.page, &mut hasher)?;
    let mut parts = 0;
    loop {
        let Some((message, part)) = messages.next()? else { return Err(messages.damaged("it ends early")) };
        match part {
            Part::Snapshot(chunk) => {
                hasher.update(&message);
                parts += 1;
                each(&chunk).map_err(|error| messages.placed(error))?;
            }
            Part::Trailer(trailer) => {
                if trailer.parts != parts || trailer.blake3 != hasher.finalize().as_bytes() {
                    return Err(messages.damaged("what came before is not what was written"));
                }
                if messages.next()?.is_some() {
                    return Err(messages.damaged("something follows its end"));
                }
                let families = trailer.families.into_iter().map(|count| (count.family, count.records));
                return Ok(facts(&header, trailer.records, families.collect()));
            }
            Part::Header(_) => return Err(messages.damaged("a second header")),
        }
    }
}

/// The first message: what the page says, and what it does not.
fn read_header(
    messages: &mut Messages<impl Read>,
    page: &Page,
    hasher: &mut blake3::Hasher,
) -> Result<disk::BackupHeader, BackupError> {
    match messages.next()? {
        Some((message, Part::Header(header))) => {
            if header.head.as_ref() != Some(&page.to_disk()) {
                let reason = "it is not the one that was sealed with the payload";
                return Err(BackupError::damaged("in its first page", reason));
            }
            hasher.update(&message);
            Ok(header)
        }
        _ => Err(messages.damaged("there is no header")),
    }
}

/// Messages that were sealed, one after the other.
struct Messages<R> {
    from: R,
    /// Of the message that was read last, from 1.
    number: u64,
    /// Bytes before it.
    bytes: u64,
}

impl<R: Read> Messages<R> {
    /// The next message as it was written, and what is in it; `None` at the end.
    fn next(&mut self) -> Result<Option<(Vec<u8>, Part)>, BackupError> {
        self.number += 1;
        let mut length = [0; 4];
        if !self.fill(&mut length)? {
            return Ok(None);
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(self.damaged("its length is impossible"));
        }
        let mut message = vec![0; length];
        if !self.fill(&mut message)? && length > 0 {
            return Err(self.damaged("it is cut off"));
        }
        let part = disk::BackupPart::decode(&message[..]).map_err(|_| self.damaged("it cannot be read"))?;
        let part = part.part.ok_or_else(|| self.damaged("it is of a kind that this release does not know"))?;
        self.bytes += message.len() as u64;
        Ok(Some((message, part)))
    }

    /// Fills the whole of it; `false` when there is nothing any more.
    fn fill(&mut self, into: &mut [u8]) -> Result<bool, BackupError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.from.read(&mut into[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.damaged("it is cut off")),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_damage(&error) => return Err(self.damaged("it is not what was sealed there")),
                Err(error) => return Err(BackupError::io("read the backup")(error)),
            }
        }
        Ok(true)
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::damaged(self.place(), reason)
    }

    fn place(&self) -> String {
        format!("in sealed message {}, after {} bytes of what was sealed", self.number, self.bytes)
    }

    /// The same error with its place, where it is one of the stream.
    fn placed(&self, error: BackupError) -> BackupError {
        match error {
            BackupError::Import(store::ImportError::Invalid(reason)) => BackupError::damaged(self.place(), reason),
            other => other,
        }
    }
}
