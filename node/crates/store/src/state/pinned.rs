//! A RocksDB snapshot together with the database that it borrows, so that a view needs no lifetime.
//!
//! The snapshot is released before the database can close.

use std::sync::Arc;

use rocksdb::{BoundColumnFamily, SnapshotWithThreadMode};
use self_cell::self_cell;

use crate::database::{Database, Rocks};

/// A snapshot of RocksDB, with the generation that it is about.
pub(super) struct Pinned<'a> {
    pub(super) snapshot: SnapshotWithThreadMode<'a, Rocks>,
    pub(super) family: Option<Arc<BoundColumnFamily<'a>>>,
}

self_cell!(
    /// The database and a snapshot that borrows it.
    pub(super) struct PinnedCell {
        owner: Arc<Database>,
        #[not_covariant]
        dependent: Pinned,
    }
);
