//! The classes of bytes that limits tell apart, and their words.

/// What moves bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// From registries.
    Origin,
    /// From other nodes.
    Receive,
    /// To other nodes.
    Send,
    /// To machines that are no members.
    Lab,
}

// === impl Class ===

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Origin, Self::Receive, Self::Send, Self::Lab];

    /// As metrics call it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Receive => "receive",
            Self::Send => "send",
            Self::Lab => "lab",
        }
    }

    /// The setting with its limit.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Origin => "transfer.limit_origin",
            Self::Receive => "transfer.limit_receive",
            Self::Send => "transfer.limit_send",
            Self::Lab => "transfer.limit_lab",
        }
    }

    /// For people.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Origin => "transfers from registries",
            Self::Receive => "transfers from nodes",
            Self::Send => "transfers to nodes",
            Self::Lab => "transfers to machines of the lab",
        }
    }
}
