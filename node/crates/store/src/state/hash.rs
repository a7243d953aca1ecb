//! The state hash: a sum over all records, so that it can follow each change and does not depend on their order.
//!
//! Each record counts with the first 128 bits of BLAKE3 over key length (4 bytes, little endian), key and value; the
//! sum wraps. It finds corruption and divergence; it is no proof against somebody who crafts records.

/// Sum of the hashes of all records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StateHash(u128);

// === impl StateHash ===

impl StateHash {
    /// Follows a change of one key.
    pub(crate) fn replace(&mut self, key: &[u8], old: Option<&[u8]>, new: Option<&[u8]>) {
        if let Some(value) = old {
            self.0 = self.0.wrapping_sub(of_record(key, value));
        }
        if let Some(value) = new {
            self.0 = self.0.wrapping_add(of_record(key, value));
        }
    }

    pub(crate) const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}

fn of_record(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn following_changes_equals_computing_from_scratch(
            changes in prop::collection::vec((0u8..6, prop::option::of(0u8..4)), 0..60)
        ) {
            let (mut followed, mut state) = (StateHash::default(), BTreeMap::new());
            for (key, new) in changes {
                let old = match new {
                    Some(new) => state.insert([key], [new]),
                    None => state.remove(&[key]),
                };
                followed.replace(&[key], old.as_ref().map(|v| &v[..]), new.map(|v| [v]).as_ref().map(|v| &v[..]));
            }
            let mut scratch = StateHash::default();
            for (key, value) in state.iter().rev() {
                scratch.replace(key, None, Some(value));
            }
            prop_assert_eq!(followed, scratch);
        }
    }

    #[test]
    fn the_border_between_key_and_value_counts() {
        let (mut a, mut b) = (StateHash::default(), StateHash::default());
        a.replace(b"ab", None, Some(b"c"));
        b.replace(b"a", None, Some(b"bc"));
        assert_ne!(a, b);
    }
}
