//! Backups: the replicated state of one revision as one file, sealed for a key that the product never stores.
//!
//! ```text
//! page    4,096 bytes   whose, when, up to where: for everybody to read, behind a checksum
//! payload               an age file: header, the store's snapshot stream, trailer, each message behind its length
//! end     64 bytes      length of the payload, BLAKE3 over page and payload, a checksum
//! ```
//!
//! Without the key page, length and BLAKE3 can be checked; with it everything, down to each record. Both sides hold
//! one chunk of the state at a time. Model bytes and what belongs to one machine (node keys, the cluster key) are not
//! in the state, so they are not in a backup: who restores one makes a new cluster identity.

mod frame;
mod read;
mod restore;
mod write;

#[cfg(test)]
mod tests;

use std::io;

use ollamax_core::catalog::Fault;
use ollamax_security::BackupRecipient;
use ollamax_store as store;
use ollamax_types::{ClusterId, ErrorCode, NodeId, Timestamp};

use crate::lineage::LineageError;

pub use read::{Verified, read_page, verify};
pub use restore::{Restorable, Restored, Target, check, restore};
pub use write::{Order, Progress, Written};

/// Bytes of the page that everybody can read.
pub const PAGE_BYTES: usize = 4_096;
/// Bytes at the end of the file.
pub const END_BYTES: usize = 64;

/// What everybody can read of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whose state it holds.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// Log index that the state reaches.
    pub revision: u64,
    /// Wall time of the node that made it.
    pub taken_at: Timestamp,
    /// Release of that node.
    pub release: String,
    /// Public half of the key that opens it.
    pub recipient: String,
}

/// What only the key shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Term of the last entry in the state.
    pub term: u64,
    /// Log time that the state reaches.
    pub log_time: Timestamp,
    /// Least release level that can go on from it.
    pub cluster_version: u32,
    /// Who made it.
    pub node: NodeId,
    /// Records.
    pub records: u64,
    /// Records by family, in order of their names.
    pub families: Vec<(String, u64)>,
}

/// Why a backup was not made, not believed, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The state holds no cluster yet.
    #[error("there is nothing to back up: this node belongs to no cluster yet")]
    NoCluster,
    /// The state could not be read out.
    #[error(transparent)]
    Export(#[from] store::ExportError),
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] Fault),
    /// The system refused to read or write the file.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk is too full to go on.
    #[error(transparent)]
    Full(#[from] store::NoRoom),
    /// Whoever asked for it has gone, or the node stops.
    #[error("it was broken off")]
    BrokenOff,
    /// The file is no backup at all.
    #[error("it is no backup of OllamaMax: {0}")]
    NotABackup(String),
    /// Made by a later release.
    #[error("it has format {found}, and this release knows {known}; use the release that made it")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// The cluster had gone on to a version that this release does not apply.
    #[error(
        "its cluster ran version {found}, and this release applies up to {known}; use the release that made it ({release})"
    )]
    ClusterTooNew {
        /// The cluster's.
        found: u32,
        /// What this release applies.
        known: u32,
        /// The release that made it.
        release: String,
    },
    /// The bytes are not those that were written.
    #[error("it is damaged, {place}: {reason}")]
    Damaged {
        /// Where.
        place: String,
        /// How it showed.
        reason: String,
    },
    /// It was sealed for another key.
    #[error("it was sealed for the key with the public half {wanted}, and the key that was given has {given}")]
    OtherKey {
        /// Whose secret half opens it.
        wanted: String,
        /// The public half of what was given.
        given: BackupRecipient,
    },
    /// The store of the new data directory could not be made.
    #[error(transparent)]
    Open(Box<store::OpenError>),
    /// The state could not be taken in.
    #[error(transparent)]
    Import(store::ImportError),
    /// The state could not be made the beginning of a new cluster.
    #[error(transparent)]
    Lineage(#[from] LineageError),
}

impl From<store::OpenError> for BackupError {
    fn from(error: store::OpenError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl BackupError {
    pub(crate) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    pub(crate) fn damaged(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Damaged { place: place.into(), reason: reason.into() }
    }

    /// The code that leaves the node.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoCluster => ErrorCode::NotInitialised,
            Self::Export(error) => error.code(),
            Self::State(_) => ErrorCode::StorageCorrupt,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorCode::DiskFull,
                _ => ErrorCode::StorageFailed,
            },
            Self::Full(_) => ErrorCode::DiskFull,
            Self::BrokenOff => ErrorCode::DeadlineExceeded,
            Self::NotABackup(_) => ErrorCode::BadRequest,
            Self::Newer { .. } | Self::ClusterTooNew { .. } => ErrorCode::PreconditionFailed,
            Self::Damaged { .. } => ErrorCode::StorageCorrupt,
            Self::OtherKey { .. } => ErrorCode::Forbidden,
            Self::Open(error) => error.code(),
            Self::Import(error) => error.code(),
            Self::Lineage(error) => error.code(),
        }
    }
}
