//! Why a pull did not happen.
//!
//! One error for all of it, since one asker hears of all of it, however late he asks and from whichever node: so it is
//! cheap to clone and compares. What the disk says arrives here as one of three: it is full, it may not be written, or
//! it fails.

use std::time::Duration;

use ollamax_blobs::{BundleError, Fault, ManifestError, NoRoom, PartError, PublishError};
use ollamax_types::{Digest, ErrorCode, ModelName, NodeId};

use crate::ports::{LedgerError, OriginError};

/// What helps where a folder does not take what belongs there.
const REMEDY_RIGHTS: &str = "let the daemon's user write there";
/// What helps where publishing is refused.
const REMEDY_DOCTOR: &str = "`ollamax doctor` tells what would allow it";

/// Why a pull did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The origin gave no manifest.
    #[error("pull model manifest: {0}")]
    Manifest(OriginError),
    /// What it gave is none.
    #[error("pull model manifest: {0}")]
    BadManifest(ManifestError),
    /// The origin does not give a file.
    #[error("pull {blob}: {error}")]
    Blob {
        /// The file, 12 hex digits.
        blob: String,
        /// Why not.
        error: OriginError,
    },
    /// Nothing came for too long.
    #[error("pull {blob}: nothing came for {} s; last: {last}", silence.as_secs())]
    Silent {
        /// The file, 12 hex digits.
        blob: String,
        /// How long.
        silence: Duration,
        /// What was said last.
        last: String,
    },
    /// The bytes are not those of the name. What came was removed.
    #[error("digest mismatch, file must be downloaded again: want sha256:{wanted}, got sha256:{found}")]
    Digest {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// There is too little room, found before the first byte.
    #[error("not enough room for {model} at {place}: {room}")]
    NoRoom {
        /// Which model.
        model: ModelName,
        /// Where it should lie.
        place: String,
        /// In numbers.
        room: NoRoom,
    },
    /// The disk was filled meanwhile.
    #[error("the disk at {place} is full: {reason}")]
    DiskFull {
        /// Which disk.
        place: String,
        /// What it refused.
        reason: String,
    },
    /// This node may not publish there.
    #[error("{place}: {reason}; {remedy}")]
    NotWritable {
        /// Where.
        place: String,
        /// Why not.
        reason: String,
        /// What would help.
        remedy: String,
    },
    /// There is no store.
    #[error("no place for models on this node: {0}")]
    NoStore(String),
    /// The disk failed.
    #[error("{0}")]
    Disk(String),
    /// Somebody ended it.
    #[error("the pull was cancelled")]
    Cancelled,
    /// The node ends.
    #[error("this node is stopping; the pull goes on when it starts again")]
    Stopping,
    /// No more can wait.
    #[error("{0} pulls wait already; the limit is {1}")]
    TooMany(usize, usize),
    /// No more can watch.
    #[error("{0} watch this pull already, which is the limit")]
    TooManyWatchers(usize),
    /// It is there, and the runtime does not see it.
    #[error("{name} is in the store, but the runtime does not list it")]
    NotListed {
        /// Which model.
        name: ModelName,
    },
    /// It is there, and the runtime is down.
    #[error("{name} is in the store, and the runtime is down; it lists the model when it is up again")]
    RuntimeDown {
        /// Which model.
        name: ModelName,
    },
    /// Somebody else gave the name another version while this pull was cut off.
    #[error("another version of {name} was put into the store meanwhile; it stays")]
    Overtaken {
        /// Which model.
        name: ModelName,
    },
    /// The runtime was to fetch what this node may not put into its store, and did not.
    #[error("the runtime does not fetch the model from this node: {text}")]
    Runtime {
        /// What that means for others.
        code: ErrorCode,
        /// In its words.
        text: String,
    },
    /// It made another version of what it fetched. Nothing of it was kept.
    #[error("the runtime made {found} of {wanted}; nothing was kept: a newer runtime keeps a manifest as it is")]
    OtherVersion {
        /// What was offered.
        wanted: Digest,
        /// What it listed.
        found: String,
    },
    /// No other node has a file, or none that is what it should be.
    #[error("no node has a sound copy of {blob}: {text}")]
    Peers {
        /// The file, 12 hex digits.
        blob: String,
        /// What is wrong with each of them.
        text: String,
    },
    /// The manifest and the cluster's record differ about a file.
    #[error("{blob} has {wanted} bytes by the manifest, and {found} on record")]
    OtherSize {
        /// The file, 12 hex digits.
        blob: String,
        /// Its size by the manifest.
        wanted: u64,
        /// Its size on record.
        found: u64,
    },
    /// The cluster's record was not changed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A bundle is not what it should be, or is not wanted.
    #[error("{text}")]
    Bundle {
        /// What that means for others.
        code: ErrorCode,
        /// What is wrong.
        text: String,
    },
    /// The runtime was to remove a model, and did not.
    #[error("{name} was not removed: {text}")]
    NotRemoved {
        /// Which model.
        name: ModelName,
        /// What that means for others.
        code: ErrorCode,
        /// In the runtime's words.
        text: String,
    },
    /// The model is not on this node.
    #[error("{name} is not on this node")]
    NotHere {
        /// Which model.
        name: ModelName,
    },
    /// The store has a manifest for the model that is none.
    #[error("the manifest of {name} is damaged: {why}")]
    DamagedManifest {
        /// Of which model.
        name: ModelName,
        /// Where it lies, and what is wrong.
        why: String,
    },
    /// No more can have files read again.
    #[error("{0} have files read again already, which is the limit")]
    TooManyChecks(usize),
    /// What another node says.
    #[error("node {node}: {text}")]
    Elsewhere {
        /// Which node.
        node: NodeId,
        /// Its code.
        code: ErrorCode,
        /// Its words.
        text: String,
    },
}

// === impl PullError ===

impl PullError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Manifest(error) | Self::Blob { error, .. } => error.code,
            Self::BadManifest(_) | Self::DamagedManifest { .. } => ErrorCode::ManifestInvalid,
            Self::Silent { .. } | Self::Peers { .. } => ErrorCode::OriginFailed,
            Self::OtherSize { .. } => ErrorCode::DigestConflict,
            Self::Ledger(error) => error.code(),
            Self::Digest { .. } => ErrorCode::DigestMismatch,
            Self::NoRoom { .. } | Self::DiskFull { .. } => ErrorCode::DiskFull,
            Self::NotWritable { .. } => ErrorCode::StoreNotWritable,
            Self::NoStore(_) | Self::RuntimeDown { .. } => ErrorCode::RuntimeUnavailable,
            Self::Disk(_) => ErrorCode::StorageFailed,
            Self::Cancelled | Self::Overtaken { .. } => ErrorCode::PullCancelled,
            Self::Stopping => ErrorCode::Draining,
            Self::TooMany(..) | Self::TooManyWatchers(_) | Self::TooManyChecks(_) => ErrorCode::Overloaded,
            Self::NotHere { .. } => ErrorCode::ModelNotFound,
            Self::NotListed { .. } => ErrorCode::RuntimeFailed,
            Self::OtherVersion { .. } => ErrorCode::DigestConflict,
            Self::Runtime { code, .. }
            | Self::NotRemoved { code, .. }
            | Self::Bundle { code, .. }
            | Self::Elsewhere { code, .. } => *code,
        }
    }

    /// One reason more why nothing can be put there.
    pub(crate) fn and_also(mut self, why: &str) -> Self {
        if let Self::NotWritable { reason, .. } = &mut self {
            *reason = format!("{reason}, and {why}");
        }
        self
    }

    /// What a disk did not do, at a place that people know.
    pub(crate) fn of_fault(place: &str, fault: &Fault) -> Self {
        let (place, reason) = (place.to_owned(), fault.to_string());
        if fault.is_full() {
            Self::DiskFull { place, reason }
        } else if fault.is_denied() {
            Self::NotWritable { place, reason, remedy: REMEDY_RIGHTS.to_owned() }
        } else {
            Self::Disk(reason)
        }
    }

    /// What is wrong with a bundle.
    pub(crate) fn of_bundle(error: &BundleError) -> Self {
        let code = match error {
            damage if damage.is_damage() => ErrorCode::DigestMismatch,
            BundleError::Write(_) | BundleError::Fault(_) => ErrorCode::StorageFailed,
            _ => ErrorCode::BadRequest,
        };
        Self::Bundle { code, text: error.to_string() }
    }

    /// What a part did not do.
    pub(crate) fn of_part(place: &str, error: &PartError) -> Self {
        match error {
            PartError::Fault(fault) => Self::of_fault(place, fault),
            PartError::Digest { wanted, found } => Self::Digest { wanted: *wanted, found: *found },
            PartError::Absent { .. } | PartError::Length { .. } | PartError::Incomplete(_) => {
                Self::Disk(error.to_string())
            }
        }
    }

    /// Why a model did not become visible.
    pub(crate) fn of_publish(place: &str, error: &PublishError) -> Self {
        match error {
            PublishError::Fault(fault) => Self::of_fault(place, fault),
            PublishError::NotWritable(_) | PublishError::OtherDisk(_) => {
                let (place, reason, remedy) = (place.to_owned(), error.to_string(), REMEDY_DOCTOR.to_owned());
                Self::NotWritable { place, reason, remedy }
            }
            PublishError::Missing { .. } | PublishError::Size { .. } => Self::Disk(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use ollamax_core::catalog::{Refusal, Replicas};
    use ollamax_core::placement::Unfit;

    use super::*;
    use crate::ports::OriginTrouble;

    #[test]
    fn what_a_disk_says_is_one_of_three() {
        let check = |kind: io::ErrorKind, code: ErrorCode, text: &str| {
            let fault = Fault::at("write", Path::new("/m/x"))(kind.into());
            let error = PullError::of_fault("/m", &fault);
            assert_eq!((error.code(), error.to_string().as_str()), (code, text));
            let error = PullError::of_publish("/m", &PublishError::Fault(fault));
            assert_eq!(error.code(), code);
        };
        check(io::ErrorKind::StorageFull, ErrorCode::DiskFull, "the disk at /m is full: write /m/x: no storage space");
        let denied = "/m: write /m/x: permission denied; let the daemon's user write there";
        check(io::ErrorKind::PermissionDenied, ErrorCode::StoreNotWritable, denied);
        check(io::ErrorKind::TimedOut, ErrorCode::StorageFailed, "write /m/x: timed out");
    }

    #[test]
    fn what_other_nodes_and_the_record_say_has_its_code() {
        let check = |error: PullError, code: ErrorCode, text: &str| {
            assert_eq!((error.code(), error.to_string().as_str()), (code, text));
        };
        let blob = || "6a0746a1ec1a".to_owned();
        let peers = PullError::Peers { blob: blob(), text: "node 2 sent 3 damaged chunks".to_owned() };
        let text = "no node has a sound copy of 6a0746a1ec1a: node 2 sent 3 damaged chunks";
        check(peers, ErrorCode::OriginFailed, text);
        let text = "6a0746a1ec1a has 7 bytes by the manifest, and 8 on record";
        check(PullError::OtherSize { blob: blob(), wanted: 7, found: 8 }, ErrorCode::DigestConflict, text);
        let quorum = LedgerError::NoQuorum("no majority of voters answers".to_owned());
        check(quorum.into(), ErrorCode::NoQuorum, "no majority of voters answers");
        let old = LedgerError::NeedsVersion { needed: 4, actual: 3 };
        check(old.into(), ErrorCode::PreconditionFailed, "needs cluster version 4; this cluster runs 3");
        let conflict = LedgerError::Refused(Refusal::RootConflict { sha256: Digest([0xab; 32]) });
        let text = "the file abababababab is on record with another BLAKE3 or size";
        check(conflict.into(), ErrorCode::DigestConflict, text);
        let no_room = Unfit::NoRoom { needed_bytes: 12_100_000_000, free_bytes: 3_000_000_000 };
        let why = vec![(NodeId(2), no_room), (NodeId(3), Unfit::Gateway)];
        let text = "it fits on 1 of 3 nodes (node 2: 12.1 GB needed, 3.0 GB free; node 3 is a gateway)";
        let impossible = |of, why| LedgerError::Impossible { replicas: Replicas::Count(2), fits: 1, of, why };
        check(impossible(3, why).into(), ErrorCode::PreconditionFailed, text);
        check(impossible(2, Vec::new()).into(), ErrorCode::PreconditionFailed, "it fits on 1 of 2 nodes");
        let failed = LedgerError::Failed { code: ErrorCode::OutcomeUnknown, text: "no answer".to_owned() };
        check(failed.into(), ErrorCode::OutcomeUnknown, "no answer");
    }

    #[test]
    fn texts_are_those_that_clients_know() {
        let check = |error: PullError, code: ErrorCode, text: &str| {
            assert_eq!((error.code(), error.to_string().as_str()), (code, text));
        };
        let absent = || OriginError {
            kind: OriginTrouble::Absent,
            code: ErrorCode::ModelNotFound,
            text: "file does not exist".to_owned(),
        };
        let text = "pull model manifest: file does not exist";
        check(PullError::Manifest(absent()), ErrorCode::ModelNotFound, text);
        let blob = || "6a0746a1ec1a".to_owned();
        let text = "pull 6a0746a1ec1a: file does not exist";
        check(PullError::Blob { blob: blob(), error: absent() }, ErrorCode::ModelNotFound, text);
        let silent = PullError::Silent { blob: blob(), silence: Duration::from_secs(300), last: "busy".to_owned() };
        check(silent, ErrorCode::OriginFailed, "pull 6a0746a1ec1a: nothing came for 300 s; last: busy");
        check(PullError::TooMany(64, 64), ErrorCode::Overloaded, "64 pulls wait already; the limit is 64");
        check(
            PullError::TooManyWatchers(256),
            ErrorCode::Overloaded,
            "256 watch this pull already, which is the limit",
        );
        check(PullError::Cancelled, ErrorCode::PullCancelled, "the pull was cancelled");
        let name: ModelName = "llama3.2".parse().expect("a name");
        let text = "llama3.2:latest is in the store, but the runtime does not list it";
        check(PullError::NotListed { name: name.clone() }, ErrorCode::RuntimeFailed, text);
        let text = "llama3.2:latest is in the store, and the runtime is down; it lists the model when it is up again";
        check(PullError::RuntimeDown { name: name.clone() }, ErrorCode::RuntimeUnavailable, text);
        let refused = PullError::NotWritable {
            place: "/m".to_owned(),
            reason: "/m/blobs cannot be written by ollamax".to_owned(),
            remedy: "chmod".to_owned(),
        };
        let text = "/m: /m/blobs cannot be written by ollamax, and it cannot fetch; chmod";
        check(refused.and_also("it cannot fetch"), ErrorCode::StoreNotWritable, text);
        let runtime = PullError::Runtime { code: ErrorCode::DiskFull, text: "no space left on device".to_owned() };
        let text = "the runtime does not fetch the model from this node: no space left on device";
        check(runtime, ErrorCode::DiskFull, text);
        let text = "llama3.2:latest was not removed: it is busy".to_owned();
        let busy =
            PullError::NotRemoved { name: name.clone(), code: ErrorCode::RuntimeFailed, text: "it is busy".into() };
        check(busy, ErrorCode::RuntimeFailed, &text);
        let other = PullError::OtherVersion { wanted: Digest([0; 32]), found: "nothing".to_owned() };
        assert_eq!(other.code(), ErrorCode::DigestConflict);
        let text = "llama3.2:latest is not on this node";
        check(PullError::NotHere { name: name.clone() }, ErrorCode::ModelNotFound, text);
        let text = "4 have files read again already, which is the limit";
        check(PullError::TooManyChecks(4), ErrorCode::Overloaded, text);
        let text = "another version of llama3.2:latest was put into the store meanwhile; it stays";
        check(PullError::Overtaken { name: name.clone() }, ErrorCode::PullCancelled, text);
        let (why, text) = ("no JSON".to_owned(), "the manifest of llama3.2:latest is damaged: no JSON");
        check(PullError::DamagedManifest { name, why }, ErrorCode::ManifestInvalid, text);
        let damaged = PullError::of_bundle(&BundleError::Missing(Digest([0xab; 32])));
        let text = format!("{} is missing in the bundle", "ab".repeat(32));
        check(damaged, ErrorCode::DigestMismatch, &text);
        let other = PullError::of_bundle(&BundleError::NotABundle("it is no file of tar"));
        check(other, ErrorCode::BadRequest, "this is no bundle: it is no file of tar");
        let code = ErrorCode::DiskFull;
        let elsewhere = PullError::Elsewhere { node: NodeId(3), code, text: "full".to_owned() };
        check(elsewhere, code, "node 3: full");
    }
}
