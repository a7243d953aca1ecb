//! What can go wrong, one enum per operation, and the code under which each error leaves the node.
//!
//! [`DiskError`] is the leaf: the disk is full, refused, or holds damaged bytes. A failed sync is never retried,
//! because a failed fsync may have dropped the pages that it was asked to keep: it becomes a [`SyncError`], and every
//! later write fails with it.

use std::path::PathBuf;

use ollamax_types::{ErrorCode, Incarnation, NodeId};

use crate::framing::Malformed;

/// The disk or RocksDB refused, while doing what `action` says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No room is left.
    #[error("{action}: the disk is full ({reason}); free some space and start again")]
    Full {
        /// What was being done.
        action: &'static str,
        /// The words of the system.
        reason: String,
    },
    /// Stored bytes are damaged.
    #[error("{action}: stored bytes are damaged ({reason})")]
    Damaged {
        /// What was being done.
        action: &'static str,
        /// Which bytes, and how it showed.
        reason: String,
    },
    /// Anything else that the system answered.
    #[error("{action}: {reason}")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// The words of the system.
        reason: String,
    },
}

impl DiskError {
    pub(crate) fn rocks(action: &'static str, error: &rocksdb::Error) -> Self {
        Self::from_words(action, error.to_string(), error.kind() == rocksdb::ErrorKind::Corruption)
    }

    /// RocksDB hands errors of the system on as text.
    fn from_words(action: &'static str, reason: String, damaged: bool) -> Self {
        if reason.to_lowercase().contains("no space left") {
            Self::Full { action, reason }
        } else if damaged {
            Self::Damaged { action, reason }
        } else {
            Self::Refused { action, reason }
        }
    }

    pub(crate) fn io(action: &'static str, error: &std::io::Error) -> Self {
        let reason = error.to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full { action, reason },
            _ => Self::Refused { action, reason },
        }
    }

    pub(crate) fn malformed(action: &'static str, malformed: &Malformed) -> Self {
        Self::Damaged { action, reason: malformed.to_string() }
    }

    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::DiskFull,
            Self::Damaged { .. } => ErrorCode::StorageCorrupt,
            Self::Refused { .. } => ErrorCode::StorageFailed,
        }
    }
}

/// A write or sync failed, so that nobody knows what the disk holds: the node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store has stopped: {cause}")]
pub struct SyncError {
    /// What failed.
    pub cause: DiskError,
}

impl SyncError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.cause.code()
    }
}

/// Why a store was not opened. Nothing was changed, unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The numbers are unusable.
    #[error("store configuration: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Another process has the directory.
    #[error("{} is in use{}; stop that process, or use another data directory", .path.display(), pid_words(*.pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as the file says.
        pid: Option<u32>,
    },
    /// The directory belongs to another cluster, node or incarnation.
    #[error(
        "{} belongs to node {found_node} of cluster {found_cluster} ({found_incarnation}), not to node {wanted_node} \
         of cluster {wanted_cluster} ({wanted_incarnation}): it was copied, or the node's key was; use the \
         directory that belongs to this node, or an empty one and `ollamax join`", .path.display()
    )]
    OtherIdentity {
        /// The directory.
        path: PathBuf,
        /// Cluster it holds.
        found_cluster: String,
        /// Node it holds.
        found_node: NodeId,
        /// Incarnation it holds.
        found_incarnation: Incarnation,
        /// Cluster asked for.
        wanted_cluster: String,
        /// Node asked for.
        wanted_node: NodeId,
        /// Incarnation asked for.
        wanted_incarnation: Incarnation,
    },
    /// A later release wrote it.
    #[error("{} has format {found}; this release knows formats up to {known}: use the newer release", .path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// Entries that were synced are gone from the middle of the log.
    #[error(
        "the log lacks entries {from} to {to}, which were synced (up to {synced}): {reason}. The disk lost \
         acknowledged changes; remove this node from the cluster, move its data directory away, and join again under a \
         new id"
    )]
    LogGap {
        /// First index that is missing or damaged.
        from: u64,
        /// Last index known to be missing.
        to: u64,
        /// The durable high-water mark.
        synced: u64,
        /// How it showed.
        reason: String,
    },
    /// The database is older than the node's durable marks: a lost tail, or a restored disk.
    #[error(
        "the store is older than its own marks ({reason}): the disk lost synced writes or was restored from a copy. \
         This node must not vote; remove it from the cluster, move its data directory away, and join again under a \
         new id"
    )]
    BehindHighWater {
        /// Which mark, and by how much.
        reason: String,
    },
    /// The high-water file is missing beside a database, or damaged.
    #[error(
        "{} is {problem}: whether the disk lost writes cannot be known. Remove this node from the cluster, move its \
         data directory away, and join again under a new id", .path.display()
    )]
    HighWater {
        /// The file.
        path: PathBuf,
        /// "missing", or how it is damaged.
        problem: String,
    },
    /// There is nothing that could be read.
    #[error("{} holds no replicated state: this node was never a member, or the state is gone", .path.display())]
    Missing {
        /// The Raft directory.
        path: PathBuf,
    },
    /// The log ends in bytes that were never synced, as a power cut may leave them; only a start of the node cuts them.
    #[error(
        "the log ends in {bytes} damaged bytes, as a power cut leaves them: start ollamax-node once on this directory, \
         which cuts them, and stop it again"
    )]
    Tail {
        /// How many.
        bytes: usize,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn pid_words(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

impl OpenError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Config(_) => ErrorCode::ConfigInvalid,
            Self::Locked { .. } | Self::OtherIdentity { .. } => ErrorCode::IdentityConflict,
            Self::NewerFormat { .. } | Self::Missing { .. } => ErrorCode::PreconditionFailed,
            Self::LogGap { .. } | Self::BehindHighWater { .. } | Self::HighWater { .. } | Self::Tail { .. } => {
                ErrorCode::StorageCorrupt
            }
            Self::Disk(error) => error.code(),
        }
    }
}

/// Why a log write or mark was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An earlier write or sync failed, or this one did.
    #[error(transparent)]
    Stopped(#[from] SyncError),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The entries would leave a hole or overwrite; nothing was written.
    #[error("append at index {found}, where {expected} is next")]
    NotConsecutive {
        /// The index that must come next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
}

impl WriteError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Stopped(error) => error.code(),
            Self::Closed => ErrorCode::Draining,
            Self::NotConsecutive { .. } => ErrorCode::StorageFailed,
        }
    }
}

/// Why entries or marks could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// An entry that the log must hold is not there.
    #[error("read log: entry {index} is missing")]
    Hole {
        /// Which entry.
        index: u64,
    },
    /// The disk refused, or holds damaged bytes.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl ReadError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Hole { .. } => ErrorCode::StorageCorrupt,
            Self::Disk(error) => error.code(),
        }
    }
}

/// Why the log was not purged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// A restart would need these entries: the state on disk ends before them.
    #[error("purge log up to {index}: the state on disk reaches only {flushed:?}")]
    AboveFlushed {
        /// What was asked.
        index: u64,
        /// Where the state on disk ends.
        flushed: Option<u64>,
    },
    /// As for any write.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl PurgeError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::AboveFlushed { .. } => ErrorCode::StorageFailed,
            Self::Write(error) => error.code(),
        }
    }
}

/// Why a batch was not committed. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The state has changed since the batch began: there were two writers.
    #[error("the state moved from index {began:?} to {now:?} under the batch")]
    Stale {
        /// Applied index when the batch began.
        began: Option<u64>,
        /// Applied index now.
        now: Option<u64>,
    },
    /// The index does not go forward.
    #[error("commit at index {index}, with {applied} applied already")]
    NotForward {
        /// Index of the batch.
        index: u64,
        /// Index that is applied.
        applied: u64,
    },
    /// As for any write.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl CommitError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Stale { .. } | Self::NotForward { .. } => ErrorCode::StorageFailed,
            Self::Write(error) => error.code(),
        }
    }
}

/// Why a snapshot could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// Nothing was ever applied.
    #[error("there is no state to export yet")]
    Empty,
    /// What the disk holds is not what was written: hash or count differ.
    #[error("export state: {reason}")]
    Differs {
        /// What differs.
        reason: String,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl ExportError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::PreconditionFailed,
            Self::Differs { .. } => ErrorCode::StorageCorrupt,
            Self::Disk(error) => error.code(),
        }
    }
}

/// Why a snapshot was not installed. The state is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Another import is under way.
    #[error("another snapshot is being installed")]
    Busy,
    /// The stream breaks its own rules; the text says which.
    #[error("install snapshot: {0}")]
    Invalid(String),
    /// The header's meta is not the one asked for.
    #[error("install snapshot: it ends at index {found}, not at {wanted}, or under another membership")]
    OtherMeta {
        /// Index in the header.
        found: u64,
        /// Index asked for.
        wanted: u64,
    },
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// As for any write.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ImportError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Busy => ErrorCode::Overloaded,
            Self::Invalid(_) | Self::OtherMeta { .. } => ErrorCode::StorageCorrupt,
            Self::Disk(error) => error.code(),
            Self::Write(error) => error.code(),
        }
    }
}

/// Why a data directory could not be looked at. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No node ever kept its state here.
    #[error("{} holds no replicated state", .path.display())]
    NothingThere {
        /// The directory that would hold it.
        path: PathBuf,
    },
    /// A daemon has the directory.
    #[error("{} is in use{}", .path.display(), pid_words(*.pid))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as the file says.
        pid: Option<u32>,
    },
    /// A later release wrote it.
    #[error("{} has format {found}; this release knows formats up to {known}", .path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// The system refused to read.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl VerifyError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NothingThere { .. } => ErrorCode::NotInitialised,
            Self::Locked { .. } => ErrorCode::IdentityConflict,
            Self::NewerFormat { .. } => ErrorCode::PreconditionFailed,
            Self::Disk(error) => error.code(),
        }
    }

    /// What to do.
    #[must_use]
    pub const fn next(&self) -> &'static str {
        match self {
            Self::NothingThere { .. } => "name the data directory of a member with --data-dir",
            Self::Locked { .. } => "stop the daemon first (systemctl stop ollamax-node), or verify a copy of it",
            Self::NewerFormat { .. } => "use the release that wrote it",
            Self::Disk(_) => "repeat it as the user that runs the daemon",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_from_the_system_and_from_rocksdb_words() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(DiskError::io("write", &full).code(), ErrorCode::DiskFull);
        let refused = std::io::Error::from_raw_os_error(13);
        assert_eq!(DiskError::io("write", &refused).code(), ErrorCode::StorageFailed);
        let rows = [
            ("IO error: No space left on device: While appending to file: 000008.log", false, ErrorCode::DiskFull),
            ("Corruption: block checksum mismatch", true, ErrorCode::StorageCorrupt),
            ("IO error: Permission denied", false, ErrorCode::StorageFailed),
        ];
        for (words, damaged, code) in rows {
            assert_eq!(DiskError::from_words("write", words.to_owned(), damaged).code(), code, "{words}");
        }
    }

    #[test]
    fn the_lock_error_names_the_process_and_what_to_do() {
        let error = OpenError::Locked { path: PathBuf::from("/d/raft/lock"), pid: Some(7) };
        assert_eq!(
            error.to_string(),
            "/d/raft/lock is in use by process 7; stop that process, or use another data directory"
        );
    }
}
