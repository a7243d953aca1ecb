//! What a member may become.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::ParseIdError;

/// A member's role, fixed by the join token it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May be promoted to vote when the cluster's size wants another voter.
    #[default]
    Voter,
    /// Full metadata and models, never votes.
    Learner,
    /// Full metadata, no models, never votes: laptops and front doors.
    Gateway,
}

impl Role {
    /// The word used in tokens, flags and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Voter, Self::Learner, Self::Gateway]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| ParseIdError { what: "role (voter, learner or gateway)", text: text.to_owned() })
    }
}
