//! The only owner of RocksDB: Raft log, vote and marks; the replicated state; snapshots; and the byte form of each.
//!
//! All calls are synchronous. What waits for the disk says so; call that from a thread that may block.
#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod answer;
mod ballast;
mod closing;
mod config;
mod database;
pub mod error;
mod family;
mod flush;
mod framing;
mod health;
mod high_water;
mod lock;
mod log;
mod marks;
pub mod metrics;
mod room;
mod shared;
mod snapshot;
mod state;
mod store;
mod sync;
mod verify;
mod wal_tail;

pub use ballast::ReleasedBallast;
pub use closing::wait_closed;
pub use config::Config;
pub use error::{
    CommitError, DiskError, ExportError, ImportError, OpenError, PurgeError, ReadError, SyncError, VerifyError,
    WriteError,
};
pub use log::{Log, LogState};
pub use metrics::Metrics;
pub use room::{NoRoom, Space};
pub use snapshot::{Check, Export, Import, SnapshotId};
pub use state::{AppliedMeta, Batch, State, StateView};
pub use store::{Store, StoreIdentity};
pub use sync::SyncDone;
pub use verify::{Damage, LogCounts, StateCounts, Verification, verify};
