//! Texts within keys.
//!
//! An open text runs to the key's end. A closed text may be followed by more: NUL is written as `00 ff` and the end as
//! `00 01`, which keeps the order of the texts and never lets one text look like another.

use crate::framing::Malformed;

const ESCAPE: u8 = 0x00;
const ESCAPED_NUL: u8 = 0xff;
const END: u8 = 0x01;

pub(super) fn prefixed(prefix: u8, text: &str) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(text.as_bytes());
    key
}

pub(super) fn read(what: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|error| Malformed::new(what, error.to_string()))
}

pub(super) fn write_closed(key: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        key.push(byte);
        if byte == ESCAPE {
            key.push(ESCAPED_NUL);
        }
    }
    key.extend_from_slice(&[ESCAPE, END]);
}

/// A closed text and an open one behind it.
pub(super) fn write_pair(key: &mut Vec<u8>, closed: &str, open: &str) {
    write_closed(key, closed);
    key.extend_from_slice(open.as_bytes());
}

/// Both of them.
pub(super) fn read_pair(what: &'static str, bytes: &[u8]) -> Result<(String, String), Malformed> {
    let (closed, open) = read_closed(what, bytes)?;
    Ok((closed, read(what, open)?))
}

/// The text and what follows it.
pub(super) fn read_closed<'a>(what: &'static str, bytes: &'a [u8]) -> Result<(String, &'a [u8]), Malformed> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [ESCAPE, ESCAPED_NUL, tail @ ..] => {
                text.push(ESCAPE);
                rest = tail;
            }
            [ESCAPE, END, tail @ ..] => return Ok((read(what, &text)?, tail)),
            [ESCAPE, ..] | [] => return Err(Malformed::new(what, "its text has no end")),
            [byte, tail @ ..] => {
                text.push(*byte);
                rest = tail;
            }
        }
    }
}
