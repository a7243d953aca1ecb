//! The one table of error codes. Every error that leaves a node carries one of them.
//!
//! A code belongs to one of ten classes and answers total questions: which HTTP and gRPC status, may the caller try
//! again, did anything change. Each code has a paragraph in `docs/api/errors.md`; a test keeps the two in step.

use std::fmt;

/// The ten classes of the error taxonomy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The node's own configuration is wrong.
    Configuration,
    /// The replicated or local store failed.
    Database,
    /// A runtime, another node, or the program that answers failed.
    ExternalService,
    /// The request is malformed.
    Validation,
    /// What was asked for does not exist.
    NotFound,
    /// The state forbids it.
    Conflict,
    /// The route or feature does not exist here.
    NotImplemented,
    /// The caller may not do it.
    Permission,
    /// A bound was reached.
    RateLimit,
    /// It took too long.
    Timeout,
}

macro_rules! codes {
    ($(
        $(#[$doc:meta])*
        $name:ident = $text:literal, $class:ident, $http:literal, $grpc:literal, $retry:literal, $free:literal;
    )*) => {
        /// Why a request failed. The text form is stable; programs may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable text form.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }

            /// Its class.
            #[must_use]
            pub const fn class(self) -> ErrorClass { match self { $(Self::$name => ErrorClass::$class,)* } }

            /// The HTTP status.
            #[must_use]
            pub const fn http_status(self) -> u16 { match self { $(Self::$name => $http,)* } }

            /// The gRPC status number.
            #[must_use]
            pub const fn grpc_status(self) -> i32 { match self { $(Self::$name => $grpc,)* } }

            /// Whether the same request may succeed later without a change by the caller.
            #[must_use]
            pub const fn is_retryable(self) -> bool { match self { $(Self::$name => $retry,)* } }

            /// Whether it is certain that nothing was changed.
            #[must_use]
            pub const fn is_free_of_effects(self) -> bool { match self { $(Self::$name => $free,)* } }

            /// Finds a code by its text form.
            #[must_use]
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| code.as_str() == text)
            }
        }
    };
}

codes! {
    /// A configuration key is unknown or has a bad value.
    ConfigInvalid = "config_invalid", Configuration, 500, 9, false, true;
    /// The disk refused a read or write.
    StorageFailed = "storage_failed", Database, 500, 13, false, false;
    /// Stored bytes are damaged.
    StorageCorrupt = "storage_corrupt", Database, 500, 15, false, true;
    /// No room is left on the disk.
    DiskFull = "disk_full", Database, 507, 8, false, true;
    /// No majority of voters answered in time.
    NoQuorum = "no_quorum", Database, 503, 14, true, true;
    /// The change was sent, and its outcome did not come back.
    OutcomeUnknown = "outcome_unknown", Timeout, 504, 2, false, false;
    /// The node is not a member of any cluster yet.
    NotInitialised = "not_initialised", Conflict, 409, 9, false, true;
    /// The node is a member whose engines are not running yet.
    Starting = "starting", ExternalService, 503, 14, true, true;
    /// No node with a working runtime can answer.
    RuntimeUnavailable = "runtime_unavailable", ExternalService, 503, 14, true, true;
    /// The runtime broke off or answered something that is not its protocol.
    RuntimeFailed = "runtime_failed", ExternalService, 502, 13, true, true;
    /// Another node cannot be reached.
    PeerUnreachable = "peer_unreachable", ExternalService, 502, 14, true, true;
    /// The store that backups go to cannot be reached, or refused.
    BackupTargetFailed = "backup_target_failed", ExternalService, 502, 14, false, false;
    /// The registry that a model comes from cannot be reached, is busy, or broke off.
    OriginFailed = "origin_failed", ExternalService, 502, 14, true, true;
    /// The registry that a model comes from does not let this node in.
    OriginRefused = "origin_refused", ExternalService, 502, 9, false, true;
    /// What a registry answers is no model that can be fetched.
    ManifestInvalid = "manifest_invalid", ExternalService, 502, 9, false, true;
    /// The bytes of a model are not those that its manifest names.
    DigestMismatch = "digest_mismatch", ExternalService, 502, 15, true, true;
    /// A defect of the program, which its log tells more of.
    Internal = "internal", ExternalService, 500, 13, false, false;
    /// The request is malformed.
    BadRequest = "bad_request", Validation, 400, 3, false, true;
    /// The request body is larger than the gateway takes.
    BodyTooLarge = "body_too_large", Validation, 413, 8, false, true;
    /// No node has this model.
    ModelNotFound = "model_not_found", NotFound, 404, 5, false, true;
    /// No member has this id or name.
    NodeNotFound = "node_not_found", NotFound, 404, 5, false, true;
    /// No join token has this id.
    TokenNotFound = "token_not_found", NotFound, 404, 5, false, true;
    /// No configuration key has this name.
    SettingNotFound = "setting_not_found", NotFound, 404, 5, false, true;
    /// No task has this id, or it is over since long ago.
    TaskNotFound = "task_not_found", NotFound, 404, 5, false, true;
    /// No lease has this id, or it has ended.
    LeaseNotFound = "lease_not_found", NotFound, 404, 5, false, true;
    /// No value has this key.
    KeyNotFound = "key_not_found", NotFound, 404, 5, false, true;
    /// The changes that were asked for are not kept any more.
    Compacted = "compacted", NotFound, 410, 11, false, true;
    /// The client session has ended.
    SessionExpired = "session_expired", Conflict, 409, 9, false, false;
    /// The answer to this command of the session is not kept any more.
    SequenceTooOld = "sequence_too_old", Conflict, 409, 9, false, false;
    /// The node belongs to a cluster already.
    AlreadyMember = "already_member", Conflict, 409, 6, false, true;
    /// The data directory, key or node id does not belong together or to this cluster.
    IdentityConflict = "identity_conflict", Conflict, 409, 9, false, true;
    /// Copies of one model would differ.
    DigestConflict = "digest_conflict", Conflict, 409, 9, false, true;
    /// The request arrived at a node that no longer holds that version of the model.
    StalePlacement = "stale_placement", Conflict, 409, 9, true, true;
    /// The state does not allow this change.
    PreconditionFailed = "precondition_failed", Conflict, 409, 9, false, true;
    /// The folder of models belongs to somebody else, and this node may not write there.
    StoreNotWritable = "store_not_writable", Conflict, 409, 9, false, true;
    /// Somebody ended the pull.
    PullCancelled = "pull_cancelled", Conflict, 409, 10, false, true;
    /// The route does not exist in this release.
    NotImplemented = "not_implemented", NotImplemented, 501, 12, false, true;
    /// The caller may not do this.
    Forbidden = "forbidden", Permission, 403, 7, false, true;
    /// The join token is unknown, used up, revoked, expired, or for another cluster.
    TokenInvalid = "token_invalid", Permission, 403, 16, false, true;
    /// The peer is no member of this cluster.
    NotMember = "not_member", Permission, 403, 7, false, true;
    /// A queue or connection bound was reached.
    Overloaded = "overloaded", RateLimit, 503, 8, true, true;
    /// What may be kept of this kind is kept already.
    QuotaExceeded = "quota_exceeded", RateLimit, 507, 8, false, true;
    /// The node is stopping or drained.
    Draining = "draining", RateLimit, 503, 14, true, true;
    /// The caller left, or its deadline passed.
    DeadlineExceeded = "deadline_exceeded", Timeout, 504, 4, true, true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_unique_and_found_again() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_text(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn a_code_that_may_have_changed_something_is_never_retryable() {
        for code in ErrorCode::ALL {
            assert!(code.is_free_of_effects() || !code.is_retryable(), "{code}");
        }
    }
}
