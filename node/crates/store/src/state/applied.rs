//! How far the state is, stored in it.
//!
//! Key: `00`. Value: version 1, `StateMark`. Replaced by every commit, in the same write as the records. It is no
//! part of the state hash.

use std::sync::Arc;

use ollamax_proto::disk;

use super::hash::StateHash;
use crate::framing::{Malformed, fixed, seal, unseal};

/// Before all records.
pub(crate) const KEY: &[u8] = &[0x00];
const VERSION: u8 = 1;
const WHAT: &str = "applied mark";

/// The last applied entry and the membership after it, as bytes that only the caller understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedMeta {
    /// Index of the last applied entry.
    pub index: u64,
    /// Its log id.
    pub last_applied: Vec<u8>,
    /// The membership in force.
    pub membership: Vec<u8>,
}

/// Meta, hash and count of one state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) meta: Option<Arc<AppliedMeta>>,
    pub(crate) hash: StateHash,
    pub(crate) count: u64,
}

// === impl Standing ===

impl Standing {
    pub(crate) fn index(&self) -> Option<u64> {
        self.meta.as_ref().map(|meta| meta.index)
    }

    pub(crate) fn message(&self) -> disk::StateMark {
        let meta = self.meta.as_deref();
        disk::StateMark {
            index: self.index().unwrap_or_default(),
            last_applied: meta.map(|meta| meta.last_applied.clone()).unwrap_or_default(),
            membership: meta.map(|meta| meta.membership.clone()).unwrap_or_default(),
            state_hash: self.hash.to_bytes().to_vec(),
            count: self.count,
        }
    }

    pub(crate) fn from_message(message: disk::StateMark) -> Result<Self, Malformed> {
        let hash = StateHash::from_bytes(fixed(WHAT, &message.state_hash)?);
        let disk::StateMark { index, last_applied, membership, count, .. } = message;
        Ok(Self { meta: Some(Arc::new(AppliedMeta { index, last_applied, membership })), hash, count })
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        seal(VERSION, &self.message())
    }

    pub(crate) fn unseal(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::from_message(unseal(WHAT, VERSION, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_mark_comes_back_as_it_went(
            index in any::<u64>(),
            last_applied in prop::collection::vec(any::<u8>(), 0..20),
            membership in prop::collection::vec(any::<u8>(), 0..20),
            hash in any::<[u8; 16]>(),
            count in any::<u64>(),
        ) {
            let meta = Some(Arc::new(AppliedMeta { index, last_applied, membership }));
            let standing = Standing { meta, hash: StateHash::from_bytes(hash), count };
            prop_assert_eq!(Standing::unseal(&standing.seal()), Ok(standing));
        }
    }

    #[test]
    fn the_golden_sample_has_not_changed() {
        let meta = Some(Arc::new(AppliedMeta { index: 300, last_applied: vec![1], membership: vec![2] }));
        let standing = Standing { meta, hash: StateHash::from_bytes([0x11; 16]), count: 4 };
        let hex: String = standing.seal().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, format!("0108ac021201011a01022210{}2804", "11".repeat(16)));
    }
}
