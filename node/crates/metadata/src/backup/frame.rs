//! The bytes round the payload: the page in front, the end behind, the length before each sealed message.
//!
//! Page: `OLLAMAXB`, length of the message (4 bytes, little endian), `BackupHead`, zeros, crc32c of all that (4 bytes,
//! little endian) at its end. End: `OLLAMAXE`, length of the payload (8 bytes), BLAKE3 over page and payload (32
//! bytes), 12 zeros, crc32c (4 bytes). Sealed messages have their length before them, 4 bytes.

use std::io::{self, Write};

use prost::Message;

use ollamax_proto::disk;
use ollamax_types::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use ollamax_types::{ClusterId, Timestamp};

use super::{BackupError, END_BYTES, PAGE_BYTES, Page};

/// The format that this release reads and writes.
pub(super) const FORMAT: u32 = 1;
/// Longest sealed message: a chunk of the state and what frames it.
pub(super) const MESSAGE_BYTES_MAX: usize = SNAPSHOT_CHUNK_BYTES_MAX + (64 << 10);

const PAGE_MAGIC: &[u8; 8] = b"OLLAMAXB";
const END_MAGIC: &[u8; 8] = b"OLLAMAXE";
/// Where the message of the page begins.
const MESSAGE_AT: usize = PAGE_MAGIC.len() + 4;
/// Where a checksum begins, from the end of what it covers.
const CHECKSUM_BYTES: usize = 4;

/// What the end of a file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) payload_bytes: u64,
    pub(super) blake3: [u8; 32],
}

impl Page {
    pub(super) fn to_disk(&self) -> disk::BackupHead {
        disk::BackupHead {
            format: FORMAT,
            cluster: self.cluster.0.to_vec(),
            cluster_name: self.cluster_name.clone(),
            revision: self.revision,
            taken_at_ms: self.taken_at.0,
            release: self.release.clone(),
            recipient: self.recipient.clone(),
        }
    }

    pub(super) fn from_disk(head: disk::BackupHead) -> Result<Self, BackupError> {
        if head.format != FORMAT {
            return Err(BackupError::Newer { found: head.format, known: FORMAT });
        }
        let cluster = <[u8; 16]>::try_from(head.cluster.as_slice());
        let cluster = cluster.map_err(|_| BackupError::damaged("in its first page", "it names no cluster"))?;
        Ok(Self {
            cluster: ClusterId(cluster),
            cluster_name: head.cluster_name,
            revision: head.revision,
            taken_at: Timestamp(head.taken_at_ms),
            release: head.release,
            recipient: head.recipient,
        })
    }
}

pub(super) fn encode_page(page: &Page) -> [u8; PAGE_BYTES] {
    let message = page.to_disk().encode_to_vec();
    let length = u32::try_from(message.len()).expect("names and keys are short");
    let mut bytes = [0; PAGE_BYTES];
    bytes[..PAGE_MAGIC.len()].copy_from_slice(PAGE_MAGIC);
    bytes[PAGE_MAGIC.len()..MESSAGE_AT].copy_from_slice(&length.to_le_bytes());
    bytes[MESSAGE_AT..MESSAGE_AT + message.len()].copy_from_slice(&message);
    sum_up(&mut bytes);
    bytes
}

pub(super) fn decode_page(bytes: &[u8; PAGE_BYTES]) -> Result<Page, BackupError> {
    let damaged = |reason: &str| BackupError::damaged("in its first page", reason);
    if &bytes[..PAGE_MAGIC.len()] != PAGE_MAGIC {
        return Err(BackupError::NotABackup("it does not begin as one".to_owned()));
    }
    if !is_whole(bytes) {
        return Err(damaged("it does not fit its checksum"));
    }
    let length = u32::from_le_bytes(bytes[PAGE_MAGIC.len()..MESSAGE_AT].try_into().expect("4 bytes"));
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(MESSAGE_AT));
    let message = end.and_then(|end| bytes.get(MESSAGE_AT..end)).ok_or_else(|| damaged("its length is impossible"))?;
    Page::from_disk(disk::BackupHead::decode(message).map_err(|_| damaged("it cannot be read"))?)
}

pub(super) fn encode_end(end: &End) -> [u8; END_BYTES] {
    let mut bytes = [0; END_BYTES];
    bytes[..8].copy_from_slice(END_MAGIC);
    bytes[8..16].copy_from_slice(&end.payload_bytes.to_le_bytes());
    bytes[16..48].copy_from_slice(&end.blake3);
    sum_up(&mut bytes);
    bytes
}

pub(super) fn decode_end(bytes: &[u8; END_BYTES]) -> Result<End, BackupError> {
    let damaged = |reason: &str| BackupError::damaged("at its end", reason);
    if &bytes[..8] != END_MAGIC {
        return Err(damaged("it is cut off, or something was added"));
    }
    if !is_whole(bytes) {
        return Err(damaged("it does not fit its checksum"));
    }
    Ok(End {
        payload_bytes: u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")),
        blake3: bytes[16..48].try_into().expect("32 bytes"),
    })
}

fn sum_up(bytes: &mut [u8]) {
    let (covered, sum) = bytes.split_at_mut(bytes.len() - CHECKSUM_BYTES);
    sum.copy_from_slice(&crc32c::crc32c(covered).to_le_bytes());
}

fn is_whole(bytes: &[u8]) -> bool {
    let (covered, sum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    crc32c::crc32c(covered).to_le_bytes() == sum
}

/// Writes one sealed message behind its length.
pub(super) fn write_message(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::Error::other("a message without bounds"))?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(message)
}

/// A writer that counts and hashes what goes through.
pub(super) struct Hashed<W> {
    pub(super) inner: W,
    pub(super) bytes: u64,
    hasher: blake3::Hasher,
}

impl<W> Hashed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, bytes: 0, hasher: blake3::Hasher::new() }
    }

    pub(super) fn blake3(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
