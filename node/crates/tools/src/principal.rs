//! Who calls, and what that caller may do.
//!
//! A principal is made at a door and nowhere else. Keys, tokens and scopes will be new ways to become one; tools see
//! the permissions alone. Nobody has a permission that is not listed here.

use std::fmt;

use ollamax_types::{RequestId, Trace};

/// What a tool asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// To look at the cluster, its nodes and its models.
    Read,
    /// To have models answer.
    Infer,
    /// To change what the cluster has or does.
    Manage,
}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A program on this machine that called over the loopback address and did not say who it is.
    Loopback,
    /// The user whose program opened the admin socket.
    Uid(u32),
}

/// Somebody, with permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    subject: Subject,
    permissions: &'static [Permission],
}

/// One call's principal, and what logs know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// Under which id.
    pub request: RequestId,
    /// The trace that its client named, under the call's own span.
    pub trace: Option<Trace>,
}

// === impl Permission ===

impl Permission {
    /// Its name, as people and programs read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Infer => "infer",
            Self::Manage => "manage",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Uid(uid) => write!(f, "uid/{uid}"),
        }
    }
}

// === impl Principal ===

impl Principal {
    /// A caller over the loopback address: it reads and infers, and nothing else.
    #[must_use]
    pub const fn loopback() -> Self {
        Self { subject: Subject::Loopback, permissions: &[Permission::Read, Permission::Infer] }
    }

    /// A caller over the admin socket, which only administrators can open.
    #[must_use]
    pub const fn of_socket(uid: u32) -> Self {
        Self { subject: Subject::Uid(uid), permissions: &[Permission::Read, Permission::Infer, Permission::Manage] }
    }

    /// The one whose subject is written so: what a record says of who asked, with the permissions that it has here.
    #[must_use]
    pub fn of_subject(text: &str) -> Option<Self> {
        let found = match text.strip_prefix("uid/") {
            Some(uid) => Self::of_socket(uid.parse().ok()?),
            None => Self::loopback(),
        };
        // A number may be written in several ways, and a subject in one.
        (found.subject.to_string() == text).then_some(found)
    }

    /// Who it is.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether it may do what asks for this permission.
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_reads_and_infers_and_administrators_do_everything() {
        let check = |principal: &Principal, expected: [bool; 3], name: &str| {
            let may = [Permission::Read, Permission::Infer, Permission::Manage].map(|one| principal.may(one));
            assert_eq!((may, principal.subject().to_string().as_str()), (expected, name));
        };
        check(&Principal::loopback(), [true, true, false], "loopback");
        check(&Principal::of_socket(1_000), [true, true, true], "uid/1000");
    }

    #[test]
    fn a_subject_is_read_as_it_is_written_and_in_no_other_way() {
        for principal in [Principal::loopback(), Principal::of_socket(0), Principal::of_socket(u32::MAX)] {
            assert_eq!(Principal::of_subject(&principal.subject().to_string()), Some(principal));
        }
        for text in ["", "Loopback", "loopback ", "uid/", "uid/+7", "uid/07", "uid/-1", "uid/4294967296", "uid/x", "7"]
        {
            assert_eq!(Principal::of_subject(text), None, "{text:?}");
        }
    }
}
