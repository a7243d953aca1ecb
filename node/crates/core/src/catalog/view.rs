//! How `apply` sees the state, and how it says what changes.

use super::record::{Key, KeyRange, Record};

/// The state cannot be trusted, or an entry cannot be understood: the node halts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The store could not be read.
    #[error("read {key}: {reason}")]
    Unreadable {
        /// What was read.
        key: String,
        /// Why it failed.
        reason: String,
    },
    /// A key holds another kind of record than its family says.
    #[error("{key} holds a record of another kind")]
    Mismatch {
        /// Which key.
        key: String,
    },
    /// A value that an earlier command must have written is missing or impossible.
    #[error("broken invariant: {0}")]
    Invariant(String),
}

/// Read access to the state. `store` implements it with an overlay, so that entries of one batch see each other.
pub trait View {
    /// The record at a key.
    ///
    /// # Errors
    /// When the store cannot be read or the value cannot be decoded.
    fn get(&self, key: &Key) -> Result<Option<Record>, Fault>;

    /// Up to `limit` records of a range in key order, starting after `after`.
    ///
    /// # Errors
    /// As [`View::get`].
    fn scan(&self, range: &KeyRange, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Record)>, Fault>;
}

/// One change of the state.
#[expect(clippy::large_enum_variant, reason = "most of them put, and there are few at a time")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Writes a record, replacing what was there.
    Put(Key, Record),
    /// Removes a record; removing what is not there is allowed and does nothing.
    Delete(Key),
}
