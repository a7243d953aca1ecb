//! One log entry on disk.
//!
//! Value: version byte (1), crc32c (4 bytes, little endian) over index (8 bytes big endian) and payload, payload. The
//! index is part of the checksum, so that an entry under a wrong key is damage too. Never changed once written.

use crate::framing::Malformed;

const VERSION: u8 = 1;
const WHAT: &str = "log entry";

fn checksum(index: u64, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&index.to_be_bytes()), payload)
}

pub(super) fn seal(index: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + payload.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&checksum(index, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn unseal(index: u64, bytes: &[u8]) -> Result<&[u8], Malformed> {
    let Some((version, rest)) = bytes.split_first() else {
        return Err(Malformed::new(WHAT, format!("{index} is empty")));
    };
    if *version != VERSION {
        return Err(Malformed::new(WHAT, format!("{index} has version {version}, and this release knows {VERSION}")));
    }
    match rest.split_first_chunk::<4>() {
        Some((crc, payload)) if checksum(index, payload) == u32::from_le_bytes(*crc) => Ok(payload),
        _ => Err(Malformed::new(WHAT, format!("{index} does not fit its checksum"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_comes_back_and_any_flipped_bit_is_seen(
            index in any::<u64>(),
            payload in prop::collection::vec(any::<u8>(), 0..60),
            at in 0usize..1000,
        ) {
            let mut bytes = seal(index, &payload);
            prop_assert_eq!(unseal(index, &bytes), Ok(&payload[..]));
            prop_assert!(unseal(index ^ 1, &bytes).is_err(), "under another index");
            let at = at % (bytes.len() * 8);
            bytes[at / 8] ^= 1 << (at % 8);
            prop_assert!(unseal(index, &bytes).is_err());
        }
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        let hex: String = seal(7, b"x").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "0124adc93a78");
    }
}
