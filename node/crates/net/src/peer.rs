//! The words of this crate: peers, callers, kinds of connections.

use std::fmt;
use std::net::SocketAddr;

use ollamax_security::tls::Alpn;
use ollamax_types::{ClusterId, NodeId, PeerId};

/// What a connection is for. Each kind has its own connection to each node, so that none waits behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Log entries and votes.
    Raft,
    /// The leader's sign of life, never behind log entries.
    Heartbeat,
    /// Changes and reads on their way to the leader; also joining.
    Forward,
    /// Frames between nodes.
    Liveness,
    /// Requests for runtimes, model uploads.
    Inference,
    /// Raft snapshots.
    Snapshot,
    /// Raw bytes for the transfer engine.
    Bulk,
}

impl Class {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Raft, Self::Heartbeat, Self::Forward, Self::Liveness, Self::Inference, Self::Snapshot, Self::Bulk];

    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Heartbeat => "heartbeat",
            Self::Forward => "forward",
            Self::Liveness => "liveness",
            Self::Inference => "inference",
            Self::Snapshot => "snapshot",
            Self::Bulk => "bulk",
        }
    }

    /// The protocol that is spoken on it.
    pub(crate) const fn alpn(self) -> Alpn {
        match self {
            Self::Bulk => Alpn::Bulk,
            _ => Alpn::Grpc,
        }
    }

    /// The number in a greeting; never reused.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Raft => 1,
            Self::Heartbeat => 2,
            Self::Forward => 3,
            Self::Liveness => 4,
            Self::Inference => 5,
            Self::Snapshot => 6,
            Self::Bulk => 7,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.number() == number)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What carries a stream to another node; the best first. What runs inside is the same on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// A TCP connection to the `peer` listener, dialled by either side.
    Tcp,
    /// A libp2p stream on a connection that the two nodes have with each other.
    P2p,
    /// A libp2p stream through a third member.
    Relayed,
}

impl Way {
    /// Every way, the best first.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::P2p, Self::Relayed];

    /// The word in logs, answers and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::P2p => "p2p",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether others can dial this node's `p2p` listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reach {
    /// Nobody has said yet; taken for direct.
    #[default]
    Unknown,
    /// They can.
    Direct,
    /// They cannot: it asks other members to relay for it.
    Relayed,
}

impl Reach {
    /// Every answer.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Direct, Self::Relayed];

    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A member, as the applied catalog has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerEntry {
    /// Its number.
    pub node: NodeId,
    /// Its key.
    pub peer_id: PeerId,
    /// Its `peer` listener, `host:port`, in the order of its wish.
    pub addresses: Vec<String>,
    /// Its `p2p` listener, as multiaddresses; circuits name the relay without an address of it.
    pub p2p_addresses: Vec<String>,
}

/// Who sent a request: found in the request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key that TLS proved.
    pub peer_id: PeerId,
    /// Its member number; `None` for a key that is no member now.
    pub node: Option<NodeId>,
    /// The member number that a credential of this cluster gives the key, whether it is a member now or not.
    pub vouched: Option<NodeId>,
}

/// A member that refused this node, because another process with this node's key is connected there and speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuser {
    /// The member.
    pub node: NodeId,
    /// Where it was dialled, `host:port`; `p2p` over a lane.
    pub address: String,
}

/// A node that discovery has heard of. Only a hint: nothing in it is proved except the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Its key.
    pub peer_id: PeerId,
    /// The cluster that it says it belongs to.
    pub cluster: Option<ClusterId>,
    /// Its `peer` listener, `host:port`, as it says.
    pub addresses: Vec<String>,
}

/// This node's own ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its key.
    pub peer_id: PeerId,
    /// Where the `peer` listener is bound.
    pub peer: SocketAddr,
    /// Its port.
    pub peer_port: u16,
    /// Where the `p2p` listener is bound, as multiaddresses.
    pub p2p_addresses: Vec<String>,
    /// What others shall dial to reach the `peer` listener, `host:port`.
    pub advertise: Vec<String>,
    /// What others shall dial to reach the `p2p` listener, as multiaddresses.
    pub p2p_advertise: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_number() {
        for class in Class::ALL {
            assert_eq!(Class::from_number(class.number()), Some(class));
        }
        assert_eq!(Class::from_number(0), None);
    }

    #[test]
    fn a_better_way_comes_before_a_worse_one() {
        assert!(Way::ALL.is_sorted());
        assert_eq!(Way::ALL.map(Way::as_str), ["tcp", "p2p", "relayed"]);
    }
}
