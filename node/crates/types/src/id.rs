//! Identifiers. Each is a newtype, so that one cannot stand where another is meant.
//!
//! Node ids come from the replicated state and are never used again. A peer id is the text form of a libp2p
//! PeerId, the name of a node's key. An incarnation is drawn once per data directory: a copied or wiped directory
//! therefore cannot pass for the original.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::REQUEST_ID_BYTES_MAX;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct ParseIdError {
    /// What was expected, for example "cluster id".
    pub what: &'static str,
    /// What was found.
    pub text: String,
}

/// A member's number, from the replicated state. 0 is never given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.parse().ok().filter(|id| *id != 0);
        parsed.map(Self).ok_or_else(|| ParseIdError { what: "node id", text: text.to_owned() })
    }
}

macro_rules! hex16 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError { what: $what, text: text.to_owned() })?;
                Ok(Self(bytes))
            }
        }
    };
}

hex16!(
    /// A cluster's name for machines: 16 random bytes, written as 32 hex digits.
    ClusterId,
    "cluster id"
);
hex16!(
    /// Drawn when a data directory is made; bound to the node id at join.
    Incarnation,
    "incarnation"
);

/// The text form of a libp2p PeerId (base58). Built by `security`, which checks it; elsewhere only compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub String);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of a join token: names the token without giving it away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the text of a [`TaskId`] begins.
const TASK: &str = "task_";

/// A task's name, drawn by whoever opens it: 16 random bytes, written as `task_` and 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskId(pub [u8; 16]);

// === impl TaskId ===

impl TaskId {
    /// The id that these random bytes make.
    #[must_use]
    pub const fn draw(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TASK}{}", hex::encode(self.0))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unlike = || ParseIdError { what: "task id", text: text.to_owned() };
        let digits = text.strip_prefix(TASK).ok_or_else(unlike)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| unlike())?;
        // One id, one text: programs compare them as texts.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) { Err(unlike()) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Follows one request, of a client, an administrator or a node itself, through every node and log line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

// === impl RequestId ===

impl RequestId {
    /// The id that a caller chose, where it is short and plain.
    #[must_use]
    pub fn chosen(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let is_sane = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain);
        is_sane.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_request_id_is_short_and_plain() {
        assert_eq!(RequestId::chosen("a-B_1.2"), Some(RequestId("a-B_1.2".to_owned())));
        for bad in ["", "a b", "a\nb", "ä", &"x".repeat(REQUEST_ID_BYTES_MAX + 1)] {
            assert_eq!(RequestId::chosen(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_task_id_has_one_text_and_nothing_else_is_one() {
        let id = TaskId::draw([0xab; 16]);
        let text = format!("task_{}", "ab".repeat(16));
        assert_eq!((id.to_string(), text.parse::<TaskId>()), (text, Ok(id)));
        let digits = "ab".repeat(16);
        for bad in ["", "task_", &digits, &format!("task_{}", "AB".repeat(16)), &format!("task_{digits}0"), "task_xyz"]
        {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_forms_round_trip_and_garbage_is_refused() {
        let id = ClusterId([0xab; 16]);
        assert_eq!(id.to_string().parse::<ClusterId>(), Ok(id));
        for bad in ["", "xyz", "ab", &"g".repeat(32)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
        assert_eq!("7".parse::<NodeId>(), Ok(NodeId(7)));
        for bad in ["0", "-1", "n1", ""] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }
}
