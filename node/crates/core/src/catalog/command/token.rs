//! What a join token is refused for.
//!
//! Always holds: each reason is one word or few, as a sentence about the token goes on with it.

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenProblem {
    /// Not known to this cluster.
    Unknown,
    /// All its uses are spent.
    UsedUp,
    /// Withdrawn.
    Revoked,
    /// Past its time.
    Expired,
}

impl std::fmt::Display for TokenProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown to this cluster",
            Self::UsedUp => "used up",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        })
    }
}
