//! What a fake registry has seen.

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET` or `HEAD`, as a rule.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The bytes that were asked for: the first, and the first that was not; `u64::MAX` where the end was left open.
    pub range: Option<(u64, u64)>,
    /// Whom the client meant: the host of the request line where that names one, as a proxy gets it, else `Host`.
    pub host: String,
    /// It showed a token that was given out here and is still good.
    pub authorised: bool,
}

/// Everything so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The requests in the order in which they came; the first hundred thousand are kept.
    pub seen: Vec<Seen>,
    /// `Authorization` that was shown at the address behind the redirect, where nobody should.
    pub leaked: Vec<String>,
}

/// Requests that are kept.
pub(super) const SEEN_MAX: usize = 100_000;

// === impl Record ===

impl Record {
    /// How many requests came for paths that begin like this.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        self.seen.iter().filter(|seen| seen.path.starts_with(path)).count()
    }
}
