//! The BLAKE3 of a whole file.
//!
//! It is the plain hash that any tool computes, and at the same time the root of the tree of hashes by which pieces of
//! the file are checked one by one.

use std::fmt;
use std::str::FromStr;

use crate::id::ParseIdError;

/// 32 bytes of BLAKE3; written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Root(pub [u8; 32]);

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", hex::encode(&self.0[..6]))
    }
}

impl FromStr for Root {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| ParseIdError { what: "BLAKE3 root", text: text.to_owned() })?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_comes_back_and_garbage_is_refused() {
        let root = Root([0xab; 32]);
        assert_eq!(root.to_string().parse::<Root>(), Ok(root));
        assert_eq!(format!("{root:?}"), "Root(abababababab)");
        for bad in ["", "ab", &"g".repeat(64), &format!("blake3:{root}")] {
            assert!(bad.parse::<Root>().is_err(), "{bad}");
        }
    }
}
