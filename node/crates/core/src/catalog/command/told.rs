//! Which codes of failures may stand in the log, and since which cluster version.
//!
//! The table is total: a new code does not compile until it has its version here.

use ollamax_types::ErrorCode;

/// The cluster version from which on a code may be told in the log. A code that older members do not know would halt
/// them, so a new one waits for a version of its own.
pub(super) const fn told_since(code: ErrorCode) -> u32 {
    match code {
        ErrorCode::ConfigInvalid
        | ErrorCode::StorageFailed
        | ErrorCode::StorageCorrupt
        | ErrorCode::DiskFull
        | ErrorCode::NoQuorum
        | ErrorCode::OutcomeUnknown
        | ErrorCode::NotInitialised
        | ErrorCode::RuntimeUnavailable
        | ErrorCode::RuntimeFailed
        | ErrorCode::PeerUnreachable
        | ErrorCode::BackupTargetFailed
        | ErrorCode::OriginFailed
        | ErrorCode::OriginRefused
        | ErrorCode::ManifestInvalid
        | ErrorCode::DigestMismatch
        | ErrorCode::Internal
        | ErrorCode::BadRequest
        | ErrorCode::BodyTooLarge
        | ErrorCode::ModelNotFound
        | ErrorCode::NodeNotFound
        | ErrorCode::TokenNotFound
        | ErrorCode::SettingNotFound
        | ErrorCode::LeaseNotFound
        | ErrorCode::KeyNotFound
        | ErrorCode::Compacted
        | ErrorCode::SessionExpired
        | ErrorCode::SequenceTooOld
        | ErrorCode::AlreadyMember
        | ErrorCode::IdentityConflict
        | ErrorCode::DigestConflict
        | ErrorCode::StalePlacement
        | ErrorCode::PreconditionFailed
        | ErrorCode::StoreNotWritable
        | ErrorCode::PullCancelled
        | ErrorCode::NotImplemented
        | ErrorCode::Forbidden
        | ErrorCode::TokenInvalid
        | ErrorCode::NotMember
        | ErrorCode::Overloaded
        | ErrorCode::QuotaExceeded
        | ErrorCode::Draining
        | ErrorCode::DeadlineExceeded => 4,
        ErrorCode::TaskNotFound | ErrorCode::Starting => 5,
    }
}
