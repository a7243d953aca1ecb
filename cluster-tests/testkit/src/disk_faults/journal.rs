//! The journal that the library writes: what the process was promised and which names it changed, read back.
//!
//! Each record carries its own sum. A kill can leave one torn, and another process may have written behind it, so the
//! reader steps over what is no record and says how many bytes that were: what they would have said had not yet been
//! answered to anybody. The layout stands in `layout.h`; records are in the order in which things happened.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::disk_faults::tree::{Inode, Kind, Place};

const MAGIC: u32 = 0x4a46_4b44;
/// Bytes before the names, and where among them the sum stands.
const HEADER: usize = 64;
const SUM_AT: usize = 12;
/// Flags: the first and the second number are directories.
const IS_FOLDER: u16 = 1;
const OTHER_IS_FOLDER: u16 = 2;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its place in the order of everything that happened. A sync covers what stands before its `began`.
    pub(crate) sequence: u64,
    pub(crate) change: Change,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new file or directory; without a place it has no name yet.
    Created { place: Option<Place<Inode>>, inode: Inode, kind: Kind },
    /// One more name of a file.
    Linked { place: Place<Inode>, inode: Inode },
    /// What stood at `to` lost that name.
    Renamed { from: Place<Inode>, to: Place<Inode>, inode: Inode, kind: Kind },
    /// What stood at the first place stands at the second now, and the other way round.
    Exchanged { first: (Place<Inode>, Inode, Kind), second: (Place<Inode>, Inode, Kind) },
    /// A name is gone.
    Unlinked { place: Place<Inode>, inode: Inode },
    /// So many bytes of a file last.
    FileSynced { inode: Inode, length: u64, began: u64 },
    /// The names of a directory last.
    DirectorySynced { inode: Inode, began: u64 },
    /// A file was shortened.
    Truncated { inode: Inode, length: u64 },
    /// Bytes of a file that were promised were written anew.
    Overwritten { inode: Inode },
    /// A file was mapped for writing.
    Mapped { inode: Inode },
}

/// A journal as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<Record>,
    /// Bytes that are no record.
    pub(crate) torn_bytes: u64,
}

// === impl Journal ===

impl Journal {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let mut journal = Self::default();
        let mut left = bytes;
        while !left.is_empty() {
            if let Some((record, length)) = record(left) {
                journal.records.push(record);
                left = &left[length..];
            } else {
                journal.torn_bytes += 1;
                left = &left[1..];
            }
        }
        journal.records.sort_by_key(|record| record.sequence);
        journal
    }
}

/// What is left of the bytes of a record.
struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn short(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn name(&mut self, length: u16) -> Option<&'a [u8]> {
        let (name, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(name)
    }
}

/// The record that begins here, and how long it is.
fn record(bytes: &[u8]) -> Option<(Record, usize)> {
    let mut reader = Reader(bytes);
    if reader.word()? != MAGIC {
        return None;
    }
    let (kind, flags) = (reader.short()?, reader.short()?);
    let (first_length, second_length) = (reader.short()?, reader.short()?);
    let sum = reader.word()?;
    let sequence = reader.long()?;
    let (directory, inode) = (reader.long()?, Inode(reader.long()?));
    let (other_directory, other, began) = (reader.long()?, reader.long()?, reader.long()?);
    let (first, second) = (reader.name(first_length)?, reader.name(second_length)?);
    let length = HEADER + first.len() + second.len();
    if sum_of(&bytes[..length]) != sum {
        return None;
    }
    let at = |directory, name: &[u8]| Place { directory: Inode(directory), name: OsString::from_vec(name.to_vec()) };
    let kind_if = |flag: u16| if flags & flag == 0 { Kind::File } else { Kind::Directory };
    let is = kind_if(IS_FOLDER);
    let place = at(directory, first);
    let change = match kind {
        1 => Change::Created { place: Some(place).filter(|place| !place.name.is_empty()), inode, kind: is },
        2 => Change::Linked { place, inode },
        3 => Change::Renamed { from: place, to: at(other_directory, second), inode, kind: is },
        4 => Change::Exchanged {
            first: (place, inode, is),
            second: (at(other_directory, second), Inode(other), kind_if(OTHER_IS_FOLDER)),
        },
        5 => Change::Unlinked { place, inode },
        6 => Change::FileSynced { inode, length: other, began },
        7 => Change::DirectorySynced { inode, began },
        8 => Change::Truncated { inode, length: other },
        9 => Change::Overwritten { inode },
        10 => Change::Mapped { inode },
        _ => return None,
    };
    Some((Record { sequence, change }, length))
}

/// FNV-1a, with the sum's own bytes as zeros.
fn sum_of(bytes: &[u8]) -> u32 {
    bytes.iter().enumerate().fold(2_166_136_261, |sum: u32, (at, byte)| {
        let byte = if (SUM_AT..SUM_AT + 4).contains(&at) { 0 } else { *byte };
        (sum ^ u32::from(byte)).wrapping_mul(16_777_619)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that the library writes: kind and flags; sequence, directory, inode, other directory, other, began.
    fn encode([kind, flags]: [u16; 2], numbers: [u64; 6], names: [&str; 2]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        for short in [kind, flags, names[0].len() as u16, names[1].len() as u16] {
            bytes.extend(short.to_le_bytes());
        }
        bytes.extend([0; 4]);
        for number in numbers {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(names.concat().bytes());
        let sum = sum_of(&bytes);
        bytes[SUM_AT..SUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn place(directory: u64, name: &str) -> Place<Inode> {
        Place { directory: Inode(directory), name: name.into() }
    }

    #[test]
    fn every_kind_of_record_is_read() {
        let check = |kind: [u16; 2], names: [&str; 2], change: Change| {
            let journal = Journal::parse(&encode(kind, [7, 2, 3, 4, 5, 6], names));
            assert_eq!(journal, Journal { records: vec![Record { sequence: 7, change }], torn_bytes: 0 });
        };
        let (a, b, inode) = (place(2, "a"), place(4, "b"), Inode(3));
        let (file, directory) = (Kind::File, Kind::Directory);
        check([1, 0], ["a", ""], Change::Created { place: Some(a.clone()), inode, kind: file });
        check([1, 1], ["a", ""], Change::Created { place: Some(a.clone()), inode, kind: directory });
        check([1, 0], ["", ""], Change::Created { place: None, inode, kind: file });
        check([2, 0], ["a", ""], Change::Linked { place: a.clone(), inode });
        check([3, 1], ["a", "b"], Change::Renamed { from: a.clone(), to: b.clone(), inode, kind: directory });
        let exchanged = Change::Exchanged { first: (a.clone(), inode, file), second: (b, Inode(5), directory) };
        check([4, 2], ["a", "b"], exchanged);
        check([5, 0], ["a", ""], Change::Unlinked { place: a, inode });
        check([6, 0], ["", ""], Change::FileSynced { inode, length: 5, began: 6 });
        check([7, 0], ["", ""], Change::DirectorySynced { inode, began: 6 });
        check([8, 0], ["", ""], Change::Truncated { inode, length: 5 });
        check([9, 0], ["", ""], Change::Overwritten { inode });
        check([10, 0], ["", ""], Change::Mapped { inode });
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        // Written by the library: a rename of `next` over `current`, which was number 3.
        let hex = concat!(
            "444b464a0300000004000700c40260b4090000000000000002000000000000000400000000000000",
            "0200000000000000030000000000000000000000000000006e65787463757272656e74",
        );
        let change =
            Change::Renamed { from: place(2, "next"), to: place(2, "current"), inode: Inode(4), kind: Kind::File };
        let journal = Journal::parse(&hex::decode(hex).expect("hex"));
        assert_eq!(journal, Journal { records: vec![Record { sequence: 9, change }], torn_bytes: 0 });
    }

    #[test]
    fn records_are_put_in_order_and_torn_ones_are_stepped_over() {
        let synced = |sequence| encode([6, 0], [sequence, 0, 3, 0, 5, 1], ["", ""]);
        let torn = &encode([1, 0], [3, 2, 3, 0, 0, 0], ["name", ""])[..66];
        let bytes = [&synced(8)[..], torn, &synced(4)[..], &torn[..20]].concat();
        let journal = Journal::parse(&bytes);
        assert_eq!(journal.records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [4, 8]);
        assert_eq!(journal.torn_bytes, 86);
    }

    #[test]
    fn a_flipped_bit_or_an_unknown_kind_makes_a_record_none() {
        let whole = encode([1, 0], [3, 2, 3, 0, 0, 0], ["name", ""]);
        for at in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert_eq!(Journal::parse(&bytes).records, [], "bit {at}");
        }
        assert_eq!(Journal::parse(&encode([11, 0], [0; 6], ["", ""])).torn_bytes, 64);
    }
}
