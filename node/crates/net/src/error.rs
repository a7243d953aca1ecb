//! What can go wrong at this door, one enum per operation.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ollamax_security::RandomError;
use ollamax_security::tls::{ProofError, TlsError, WrongPeer};
use ollamax_types::{ErrorCode, NodeId};

pub use crate::lanes::NoLane;

/// The listeners could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The `peer` listener.
    #[error("listen on {address} (peer.listen): {source}")]
    Peer {
        /// As configured.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The `p2p` listener.
    #[error("listen on {address} (p2p.listen): {reason}")]
    P2p {
        /// As configured.
        address: SocketAddr,
        /// The transport's reason.
        reason: String,
    },
    /// An address to advertise is malformed.
    #[error("peer.advertise: {0}")]
    Advertise(#[from] crate::address::InvalidAddress),
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing to tell this process from others by.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// One address, or a lane, was tried in vain.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// `host:port`; `p2p` for a lane.
    pub address: String,
    /// Why it did not work.
    pub problem: Problem,
}

/// Why one address, or the lane, did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    /// The text is no address.
    #[error("{0}")]
    Address(#[from] crate::address::InvalidAddress),
    /// No TCP connection.
    #[error("{0}")]
    Tcp(Arc<io::Error>),
    /// TCP did not connect in time: the machine is off, or a firewall drops packets.
    #[error("no answer within {0} ms (machine off, or a firewall drops packets)")]
    Silent(u64),
    /// TLS was refused: not an OllamaMax `peer` listener, or one that does not want this connection.
    #[error("TLS: {0}")]
    Tls(Arc<io::Error>),
    /// TCP connected, and then nothing came.
    #[error("connected, but no TLS handshake within {0} ms (not a peer listener, or the node hangs)")]
    Stuck(u64),
    /// The peer proved no node key.
    #[error("{0}")]
    Proof(#[from] ProofError),
    /// Another node answered.
    #[error("{0}")]
    WrongPeer(#[from] WrongPeer),
    /// The greeting got no answer that can be read.
    #[error("the node closed the connection after the greeting: {0}")]
    Unanswered(Arc<io::Error>),
    /// The node has no place left for keys that are no members.
    #[error("the node has no place left for nodes that are joining; try again in a moment")]
    Full,
    /// The node hears another process with this node's key.
    #[error("another live process has this node's identity; this one was started on a copy of its data directory")]
    OwnTwin,
    /// Another process with the node's key is connected and speaks.
    #[error("this is another process with the identity of a node that is connected and alive")]
    TheirTwin,
    /// No libp2p stream to the node.
    #[error("{0}")]
    Lane(#[from] NoLane),
}

/// No connection to a node.
#[derive(Debug, Clone)]
pub enum ConnectError {
    /// The applied catalog has no such member.
    NotMember(NodeId),
    /// The member has told no address, and discovery knows none.
    NoAddress(NodeId),
    /// All addresses were tried.
    Unreachable {
        /// Which node, when its number is known.
        node: Option<NodeId>,
        /// What happened with each address.
        attempts: Arc<Vec<Attempt>>,
    },
    /// The node is stopping.
    Stopping,
}

// === impl Problem ===

impl Problem {
    /// Every word of [`Problem::reason`].
    pub const REASONS: [&'static str; 12] = [
        "address",
        "tcp",
        "silent",
        "tls",
        "stuck",
        "proof",
        "wrong_peer",
        "unanswered",
        "full",
        "own_twin",
        "their_twin",
        "lane",
    ];

    /// The word in metric labels.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Tcp(_) => "tcp",
            Self::Silent(_) => "silent",
            Self::Tls(_) => "tls",
            Self::Stuck(_) => "stuck",
            Self::Proof(_) => "proof",
            Self::WrongPeer(_) => "wrong_peer",
            Self::Unanswered(_) => "unanswered",
            Self::Full => "full",
            Self::OwnTwin => "own_twin",
            Self::TheirTwin => "their_twin",
            Self::Lane(_) => "lane",
        }
    }
}

// === impl ConnectError ===

impl ConnectError {
    /// The code that leaves the node.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotMember(_) => ErrorCode::NotMember,
            Self::NoAddress(_) | Self::Unreachable { .. } => ErrorCode::PeerUnreachable,
            Self::Stopping => ErrorCode::Draining,
        }
    }
}

impl Error for ConnectError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMember(node) => write!(f, "node {node} is no member of this cluster"),
            Self::NoAddress(node) => write!(f, "node {node} has told no address"),
            Self::Stopping => f.write_str("this node is stopping"),
            Self::Unreachable { node, attempts } => {
                match node {
                    Some(node) => write!(f, "node {node} cannot be reached: ")?,
                    None => f.write_str("no connection: ")?,
                }
                for (at, attempt) in attempts.iter().enumerate() {
                    let separator = if at == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {}", attempt.address, attempt.problem)?;
                }
                Ok(())
            }
        }
    }
}

/// Whether a failed call over a channel of this crate certainly never reached the other node, because no connection
/// came about. Such a call changed nothing.
#[must_use]
pub fn was_never_sent(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() || error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use ollamax_types::PeerId;

    use super::*;
    use crate::address;

    #[test]
    fn the_text_names_node_addresses_and_reasons() {
        let attempt = |address: &str, problem| Attempt { address: address.to_owned(), problem };
        let lane = attempt("p2p", NoLane::Unconnected.into());
        let tried = vec![attempt("a:1", Problem::Silent(1_000)), attempt("b:2", Problem::Stuck(2_000)), lane];
        let attempts = Arc::new(tried);
        let error = ConnectError::Unreachable { node: Some(NodeId(3)), attempts };
        let text = error.to_string();
        assert!(text.starts_with("node 3 cannot be reached: a:1: no answer within 1000 ms"), "{text}");
        assert!(text.contains("; b:2: connected, but no TLS handshake within 2000 ms"), "{text}");
        assert!(text.ends_with("; p2p: no libp2p connection to it stands"), "{text}");
        assert_eq!(error.code(), ErrorCode::PeerUnreachable);
    }

    #[test]
    fn every_problem_has_a_reason_of_its_own() {
        let refused = || Arc::new(io::Error::other("refused"));
        let key = |name: &str| PeerId(name.to_owned());
        let problems: [Problem; 12] = [
            address::check("nowhere").unwrap_err().into(),
            Problem::Tcp(refused()),
            Problem::Silent(1),
            Problem::Tls(refused()),
            Problem::Stuck(1),
            ProofError::Absent.into(),
            WrongPeer { expected: key("a"), proved: key("b") }.into(),
            Problem::Unanswered(refused()),
            Problem::Full,
            Problem::OwnTwin,
            Problem::TheirTwin,
            NoLane::Unconnected.into(),
        ];
        assert_eq!(problems.map(|problem| problem.reason()), Problem::REASONS);
    }

    #[test]
    fn only_a_connect_failure_counts_as_never_sent() {
        let wrapped = tonic::ConnectError(Box::new(ConnectError::NotMember(NodeId(3))));
        assert!(was_never_sent(&tonic::Status::from_error(Box::new(wrapped))));
        assert!(!was_never_sent(&tonic::Status::unavailable("draining")));
        assert!(!was_never_sent(&tonic::Status::from_error(Box::new(io::Error::other("broke off")))));
    }
}
