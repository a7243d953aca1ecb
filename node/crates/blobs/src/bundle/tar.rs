//! Heads of ustar: written one way, read in every way that we may meet.
//!
//! A file of tar is a row of entries: a head of 512 bytes, then the bytes, filled up with zeros to a multiple of 512;
//! two blocks of zeros end it. Written are plain files alone, without owner, rights of their own or times, so that the
//! same entries are the same bytes. Read is what GNU tar, bsdtar and others make of them. A name is text to compare,
//! never a path to open. Numbers are octal; a size that does not fit into eleven digits is written in base 256, as all
//! of those do it.

/// Heads have this length, and bytes are filled up to multiples of it.
pub(super) const BLOCK_BYTES: usize = 512;

/// Longest name in its own field; more of it goes into the field before it, cut at a `/`.
const NAME_BYTES: usize = 100;
/// Longest part of a name before that.
const PREFIX_BYTES: usize = 155;
/// From here on a size is written in base 256.
const OCTAL_SIZES: u64 = 1 << 33;
/// Marks a number in base 256; the bit below it marks a negative one.
const BASE_256: u8 = 0x80;
/// Rights of a file: the owner writes, everybody reads.
const MODE: &[u8] = b"0000644\0";
/// Nobody in particular owns a file.
const NOBODY: &[u8] = b"0000000\0";
/// The number 0 as a time.
const NO_TIME: &[u8] = b"00000000000\0";
/// What a head of ustar says of itself, version included.
const MAGIC: &[u8] = b"ustar\x0000";

/// Where the fields lie.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const SUM: Range<usize> = 148..156;
    pub(super) const KIND: usize = 156;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const PREFIX: Range<usize> = 345..500;
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// Its name, as it is written.
    pub(super) name: String,
    /// What it is.
    pub(super) kind: Kind,
    /// Bytes that follow, without what they are filled up with.
    pub(super) size_bytes: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A plain file.
    File,
    /// A folder; nothing follows.
    Folder,
    /// Something about the entry behind it: a longer name, finer times.
    Note,
    /// A link, a device, or what nobody knows.
    Strange,
}

/// What fills the last block of so many bytes up.
pub(super) const fn padding(size_bytes: u64) -> u64 {
    size_bytes.wrapping_neg() % BLOCK_BYTES as u64
}

/// The head of a plain file. `None`: the name does not fit.
pub(super) fn head(name: &str, size_bytes: u64) -> Option<[u8; BLOCK_BYTES]> {
    let (prefix, name) = parted(name)?;
    let mut block = [0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[field::PREFIX.start..][..prefix.len()].copy_from_slice(prefix.as_bytes());
    block[field::MODE].copy_from_slice(MODE);
    for field in [field::UID, field::GID] {
        block[field].copy_from_slice(NOBODY);
    }
    block[field::SIZE].copy_from_slice(&size_field(size_bytes));
    block[field::MTIME].copy_from_slice(NO_TIME);
    block[field::KIND] = b'0';
    block[field::MAGIC].copy_from_slice(MAGIC);
    let sum = format!("{:06o}\0 ", sum_of(&block));
    block[field::SUM].copy_from_slice(sum.as_bytes());
    Some(block)
}

/// Reads a head. `Ok(None)`: a block of zeros, which ends a file of tar.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(block: &[u8; BLOCK_BYTES]) -> Result<Option<Head>, &'static str> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    // Older forms of GNU tar have another version behind it, and times where ustar has the front of a name.
    if !block[field::MAGIC].starts_with(b"ustar") {
        return Err("there is no head of an entry");
    }
    if octal(&block[field::SUM]) != Some(sum_of(block)) {
        return Err("the head of an entry does not add up");
    }
    let size_bytes = size_in(&block[field::SIZE]).ok_or("the head of an entry has no size that can be")?;
    let mut name = text(&block[field::NAME]);
    let prefix = text(&block[field::PREFIX]);
    if block[field::MAGIC] == *MAGIC && !prefix.is_empty() {
        name = format!("{prefix}/{name}");
    }
    let kind = match block[field::KIND] {
        b'0' | 0 => Kind::File,
        b'5' => Kind::Folder,
        b'x' | b'g' | b'L' | b'K' => Kind::Note,
        _ => Kind::Strange,
    };
    Ok(Some(Head { name, kind, size_bytes }))
}

/// A name as the two fields take it, the longest part that fits behind the cut.
fn parted(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME_BYTES {
        return Some(("", name));
    }
    let cuts = name.match_indices('/').map(|(at, _)| (&name[..at], &name[at + 1..]));
    let mut fitting = cuts.filter(|(prefix, rest)| prefix.len() <= PREFIX_BYTES && rest.len() <= NAME_BYTES);
    fitting.find(|(prefix, rest)| !prefix.is_empty() && !rest.is_empty())
}

fn size_field(size_bytes: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if size_bytes < OCTAL_SIZES {
        field[..11].copy_from_slice(format!("{size_bytes:011o}").as_bytes());
    } else {
        field[0] = BASE_256;
        field[4..].copy_from_slice(&size_bytes.to_be_bytes());
    }
    field
}

fn size_in(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & BASE_256 == 0 {
        return octal(field);
    }
    let (high, low) = rest.split_at_checked(rest.len().checked_sub(size_of::<u64>())?)?;
    let is_small = *first == BASE_256 && high.iter().all(|byte| *byte == 0);
    is_small.then(|| low.try_into().map(u64::from_be_bytes).ok()).flatten()
}

/// A number in octal digits, between blanks and zeros.
fn octal(field: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| matches!(byte, 0 | b' ');
    let start = field.iter().position(|byte| !is_blank(byte))?;
    let digits = &field[start..];
    let end = digits.iter().position(is_blank).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(is_blank) {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The sum of all bytes of a head, where its own field counts as blanks.
fn sum_of(block: &[u8; BLOCK_BYTES]) -> u64 {
    let outside = |at: &usize| !field::SUM.contains(at);
    let bytes: u64 = (0..BLOCK_BYTES).filter(outside).map(|at| u64::from(block[at])).sum();
    bytes + field::SUM.len() as u64 * u64::from(b' ')
}

/// Text up to the first zero. What is no UTF-8 is none of our names anyway.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, size_bytes: u64) -> [u8; BLOCK_BYTES] {
        head(name, size_bytes).expect("it fits")
    }

    /// Makes the sum right again after a change.
    fn summed(mut block: [u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
        let sum = format!("{:06o}\0 ", sum_of(&block));
        block[field::SUM].copy_from_slice(sum.as_bytes());
        block
    }

    #[test]
    fn a_size_is_octal_as_long_as_it_fits_and_base_256_beyond() {
        let check = |size: u64, wanted: &[u8; 12]| {
            let block = written("a", size);
            assert_eq!(&block[field::SIZE], wanted, "{size}");
            let wanted = Head { name: "a".to_owned(), kind: Kind::File, size_bytes: size };
            assert_eq!(read(&block), Ok(Some(wanted)), "{size}");
        };
        check(0, b"00000000000\0");
        check(8, b"00000000010\0");
        check((8 << 30) - 1, b"77777777777\0");
        check(8 << 30, b"\x80\0\0\0\0\0\0\x02\0\0\0\0");
        check(16 << 40, b"\x80\0\0\0\0\0\x10\0\0\0\0\0");
        check(u64::MAX, b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    }

    #[test]
    fn a_long_name_is_cut_at_a_slash_or_does_not_fit() {
        let check = |name: &str, prefix: Option<&str>| {
            let block = head(name, 1);
            assert_eq!(block.map(|block| text(&block[field::PREFIX])).as_deref(), prefix, "{name}");
            if let Some(block) = block {
                assert_eq!(read(&block).expect("a head").expect("no end").name, name);
            }
        };
        let long = |count: usize| "n".repeat(count);
        check("ollamamax/bundle.json", Some(""));
        check(&long(100), Some(""));
        check(&long(101), None);
        check(&format!("a/{}", long(99)), Some("a"));
        check(&format!("a/{}", long(98)), Some(""));
        check(&format!("{}/b/{}", long(10), long(97)), Some(&long(10)));
        check(&format!("{}/{}", long(155), long(100)), Some(&long(155)));
        check(&format!("{}/{}", long(156), long(100)), None);
        check(&format!("a/{}", long(101)), None);
    }

    #[test]
    fn what_other_programs_write_is_read() {
        let mut gnu = written("blobs/x", 5);
        // GNU's own form: other words behind `ustar`, times where the front of a name would be.
        gnu[field::MAGIC].copy_from_slice(b"ustar  \0");
        gnu[field::PREFIX][..11].copy_from_slice(b"15000000000");
        let gnu = read(&summed(gnu)).expect("a head").expect("no end");
        assert_eq!((gnu.name.as_str(), gnu.size_bytes), ("blobs/x", 5));
        let kind = |byte: u8| {
            let mut block = written("a", 0);
            block[field::KIND] = byte;
            read(&summed(block)).expect("a head").expect("no end").kind
        };
        let kinds = [b'0', 0, b'5', b'x', b'g', b'L', b'K', b'1', b'2', b'3', b'6', b'S', 0xff].map(kind);
        let [file, folder, note, strange] = [Kind::File, Kind::Folder, Kind::Note, Kind::Strange];
        let wanted = [file, file, folder, note, note, note, note, strange, strange, strange, strange, strange, strange];
        assert_eq!(kinds, wanted);
        let mut blanks = written("a", 0);
        blanks[field::SIZE].copy_from_slice(b"      17 \0\0\0");
        assert_eq!(read(&summed(blanks)).expect("a head").expect("no end").size_bytes, 0o17);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let size = |field: &[u8; 12]| {
            let mut block = written("a", 0);
            block[field::SIZE].copy_from_slice(field);
            read(&summed(block)).map(|head| head.map(|head| head.size_bytes))
        };
        let refused = Err("the head of an entry has no size that can be");
        for field in [
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
            b"            ",
            b"00000000008\0",
            b"1 1\0\0\0\0\0\0\0\0\0",
            b"-0000000001\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xc0\0\0\0\0\0\0\0\0\0\0\x01",
            b"\x80\0\0\x01\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(size(field), refused, "{field:?}");
        }
        assert_eq!(size(b"777777777777"), Ok(Some((8 << 33) - 1)), "twelve digits");
    }

    #[test]
    fn a_head_with_another_byte_is_none() {
        let block = written("ollamamax/bundle.json", 1_234);
        for at in 0..BLOCK_BYTES {
            let mut changed = block;
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "{at}");
        }
        assert_eq!(read(&[0; BLOCK_BYTES]), Ok(None));
        assert_eq!(read(&[b'x'; BLOCK_BYTES]), Err("there is no head of an entry"));
    }

    #[test]
    fn blocks_are_filled_up() {
        let paddings = [0, 1, 511, 512, 513, u64::MAX].map(padding);
        assert_eq!(paddings, [0, 511, 1, 0, 511, 1]);
    }
}
