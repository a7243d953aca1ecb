//! What a power cut may leave at the end of RocksDB's write-ahead log and of its manifest, which has the same form, and
//! how it is told from damage in the middle.
//!
//! Bytes that were written and never synced may come back as anything: cut short, which RocksDB takes as the end, or as
//! zeros and garbage, at which it refuses to open. They are a tail, and are cut, only when no whole record follows,
//! byte by byte looked for, in this file or a later one. Whether anything that was synced went with them is judged
//! before RocksDB may write, by the vote and the high-water mark, as after a torn tail; what is refused is put back as
//! it was found. The mark is written once a second: when a disk damages what it had synced within its last second,
//! nobody here can tell. The bytes are kept in `raft/cut-tail` for people.
//!
//! The log's form (RocksDB, `db/log_format.h`): blocks of 32 KiB; in them records of masked CRC-32C of all that follows
//! the length (4 bytes), length (2 bytes), type (1 byte), content, little endian; a block's last bytes that hold no
//! header are filled up.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::DiskError;

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
/// Where the checksum begins to count.
const TYPE_AT: usize = 6;
/// What RocksDB adds to a checksum so that one of checksums does not repeat itself.
const MASK_DELTA: u32 = 0xa282_ead8;

/// What follows the sound records of files that are read one after the other.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Nothing,
    /// Damaged bytes and no record. Where the sound ones end in each file.
    Tail(Vec<usize>),
    /// Damage, and records behind it.
    Records,
}

/// A damaged tail: of each file its bytes and where the sound ones end.
#[derive(Debug)]
pub(crate) struct Tail(Vec<Part>);

#[derive(Debug)]
struct Part {
    path: PathBuf,
    bytes: Vec<u8>,
    end: usize,
}

/// Finds damaged tails; `None` when there are none, or when one is no tail. Changes nothing.
pub(crate) fn find(database: &Path) -> Result<Option<Tail>, DiskError> {
    let failed = |error| DiskError::io("read the log's tail", &error);
    let mut parts = Vec::new();
    for paths in [log_files(database).map_err(failed)?, manifest(database).map_err(failed)?] {
        let logs = paths.iter().map(fs::read).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        match rest_of(&logs) {
            Rest::Nothing => {}
            Rest::Tail(ends) => {
                let files = paths.into_iter().zip(logs).zip(ends);
                parts.extend(files.map(|((path, bytes), end)| Part { path, bytes, end }));
            }
            Rest::Records => return Ok(None),
        }
    }
    parts.retain(|part| part.end < part.bytes.len());
    Ok((!parts.is_empty()).then_some(Tail(parts)))
}

// === impl Tail ===

impl Tail {
    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|part| part.bytes.len() - part.end).sum()
    }

    /// Cuts it off, and adds its bytes to the file `kept`.
    pub(crate) fn cut(&self, kept: &Path) -> Result<(), DiskError> {
        let failed = |error| DiskError::io("cut the log's tail", &error);
        let mut aside = OpenOptions::new().create(true).append(true).open(kept).map_err(failed)?;
        for part in &self.0 {
            aside.write_all(&part.bytes[part.end..]).map_err(failed)?;
        }
        aside.sync_all().map_err(failed)?;
        for part in &self.0 {
            let file = OpenOptions::new().write(true).open(&part.path).map_err(failed)?;
            file.set_len(part.end as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    /// Leaves the files as they were found.
    pub(crate) fn put_back(&self) -> Result<(), DiskError> {
        let failed = |error| DiskError::io("put the log's tail back", &error);
        for part in &self.0 {
            let mut file = OpenOptions::new().append(true).open(&part.path).map_err(failed)?;
            file.write_all(&part.bytes[part.end..]).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(())
    }
}

/// The files of the write-ahead log, oldest first.
fn log_files(database: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut numbered = Vec::new();
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), true) = (number, path.extension().is_some_and(|kind| kind == "log")) {
            numbered.push((number, path));
        }
    }
    numbered.sort();
    Ok(numbered.into_iter().map(|(_, path)| path).collect())
}

/// The manifest in use.
fn manifest(database: &Path) -> std::io::Result<Vec<PathBuf>> {
    let name = fs::read_to_string(database.join("CURRENT"))?;
    let path = database.join(name.trim_end());
    Ok(if path.is_file() && name.starts_with("MANIFEST-") { vec![path] } else { Vec::new() })
}

fn rest_of(logs: &[Vec<u8>]) -> Rest {
    let ends: Vec<usize> = logs.iter().map(|log| end_of_records(log)).collect();
    let Some(first) = logs.iter().zip(&ends).position(|(log, end)| *end < log.len()) else { return Rest::Nothing };
    let is_tail = logs.iter().zip(&ends).enumerate().skip(first).all(|(at, (log, end))| {
        let from = if at == first { *end } else { 0 };
        (from..log.len()).all(|at| record_at(log, at).is_none())
    });
    if is_tail { Rest::Tail(ends) } else { Rest::Records }
}

/// Where the first byte stands that belongs to no sound record; the length when there is none.
fn end_of_records(log: &[u8]) -> usize {
    let mut at = 0;
    loop {
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES {
            at = at.next_multiple_of(BLOCK_BYTES).min(log.len());
        }
        match record_at(log, at) {
            Some(end) => at = end,
            None => return at,
        }
    }
}

/// The end of the sound record that begins here.
fn record_at(log: &[u8], at: usize) -> Option<usize> {
    let header = log.get(at..at + HEADER_BYTES)?;
    let bytes = HEADER_BYTES + usize::from(u16::from_le_bytes([header[4], header[5]]));
    let is_of_a_kind = matches!(header[TYPE_AT], 1..=4 | 9 | 10);
    if !is_of_a_kind || at % BLOCK_BYTES + bytes > BLOCK_BYTES {
        return None;
    }
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let computed = crc32c::crc32c(log.get(at + TYPE_AT..at + bytes)?);
    (computed.rotate_right(15).wrapping_add(MASK_DELTA) == stored).then_some(at + bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as RocksDB writes it.
    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let counted = [&[kind], content].concat();
        let masked = crc32c::crc32c(&counted).rotate_right(15).wrapping_add(MASK_DELTA);
        let length = u16::try_from(content.len()).expect("short");
        [&masked.to_le_bytes()[..], &length.to_le_bytes(), &counted].concat()
    }

    /// Records of one block and a bit, and where they end.
    fn sound() -> Vec<u8> {
        let mut log = record(1, &[7; 20_000]);
        let rest = BLOCK_BYTES - log.len() - HEADER_BYTES - 3;
        log.extend(record(1, &vec![8; rest]));
        log.extend([0; 3]);
        log.extend(record(2, b"first"));
        log.extend(record(4, b"last"));
        log
    }

    #[test]
    fn a_sound_log_has_no_tail() {
        let log = sound();
        assert_eq!(end_of_records(&log), log.len());
        assert_eq!(rest_of(&[log.clone(), Vec::new()]), Rest::Nothing);
        assert_eq!(end_of_records(&log[..BLOCK_BYTES - 1]), BLOCK_BYTES - 1, "the filling is cut short");
        assert_eq!(rest_of(&[]), Rest::Nothing);
    }

    #[test]
    fn what_holds_no_record_is_a_tail() {
        let (log, garbage) = (sound(), [0xa5; 100]);
        let check = |logs: &[Vec<u8>], expected: &[usize]| {
            assert_eq!(rest_of(logs), Rest::Tail(expected.to_vec()));
        };
        let with = |tail: &[u8]| [&log[..], tail].concat();
        check(&[with(&garbage)], &[log.len()]);
        check(&[with(&[0; 40_000])], &[log.len()]);
        check(&[with(&record(1, b"torn")[..9])], &[log.len()]);
        check(&[log.clone(), garbage.to_vec()], &[log.len(), 0]);
        check(&[with(&garbage), Vec::new(), vec![0; 9]], &[log.len(), 0, 0]);
        let mut flipped = log.clone();
        *flipped.last_mut().expect("not empty") ^= 1;
        check(&[flipped], &[log.len() - HEADER_BYTES - 4]);
    }

    #[test]
    fn damage_that_a_record_follows_is_none() {
        let log = sound();
        for at in [3, 6, 5_000, 20_000, BLOCK_BYTES + 2] {
            let mut damaged = log.clone();
            damaged[at] ^= 0x10;
            assert_eq!(rest_of(&[damaged]), Rest::Records, "damage at {at}");
        }
        let garbage = [&log[..], &[0xa5; 100]].concat();
        assert_eq!(rest_of(&[garbage, log]), Rest::Records, "damage before a later file");
    }
}
