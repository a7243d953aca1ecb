//! What the replicated state consists of: key families and the record that each holds.
//!
//! Byte forms of both belong to `store`, one file per family.

use std::fmt;

use ollamax_types::{ClusterId, Incarnation, ModelRecord, NodeId, PeerId, Role, Timestamp, TokenId};

/// Names one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The one [`Cluster`] record.
    Cluster,
    /// A [`Member`] by id. Departed members stay, with their state.
    Member(NodeId),
    /// The id of the active member with this key.
    MemberByPeer(PeerId),
    /// A join [`Token`].
    Token(TokenId),
    /// That a node holds a model: model key (`ModelName::key`), node. Value: [`Location`].
    Location(String, NodeId),
    /// The same, by node first, so that a node's models can be listed. Value: [`Location`].
    NodeModel(NodeId, String),
    /// A cluster-wide configuration key.
    Setting(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Member(id) => write!(f, "member/{id}"),
            Self::MemberByPeer(peer) => write!(f, "member-by-peer/{peer}"),
            Self::Token(id) => write!(f, "token/{id}"),
            Self::Location(model, node) => write!(f, "location/{model}/{node}"),
            Self::NodeModel(node, model) => write!(f, "node-model/{node}/{model}"),
            Self::Setting(key) => write!(f, "setting/{key}"),
        }
    }
}

/// A run of keys of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRange {
    /// All members.
    Members,
    /// All tokens.
    Tokens,
    /// All locations of all models, by model.
    Locations,
    /// All locations of one model key.
    LocationsOf(String),
    /// All models of one node.
    ModelsOf(NodeId),
    /// All configuration keys that start with a text.
    Settings(String),
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// At [`Key::Cluster`].
    Cluster(Cluster),
    /// At [`Key::Member`].
    Member(Member),
    /// At [`Key::MemberByPeer`].
    NodeId(NodeId),
    /// At [`Key::Token`].
    Token(Token),
    /// At [`Key::Location`] and [`Key::NodeModel`].
    Location(Location),
    /// At [`Key::Setting`].
    Setting(Setting),
}

/// The cluster itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Drawn by `init`.
    pub id: ClusterId,
    /// For people.
    pub name: String,
    /// Ed25519 public key that signs membership credentials, 32 bytes.
    pub public_key: [u8; 32],
    /// Log time of the first entry.
    pub created_at: Timestamp,
    /// The id that the next member gets. Never goes back.
    pub next_node_id: u64,
    /// Least release level of all members; gates new commands.
    pub version: u32,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Takes part.
    Active,
    /// Takes no new requests, by an administrator's wish.
    Drained,
    /// Removed or left; the id is never used again.
    Departed {
        /// Log time of the removal.
        at: Timestamp,
    },
}

/// One machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// For people; unique among members that have not departed.
    pub name: String,
    /// Its key.
    pub peer_id: PeerId,
    /// Its data directory.
    pub incarnation: Incarnation,
    /// What it may become.
    pub role: Role,
    /// Where it stands.
    pub state: MemberState,
    /// `host:port` of its `peer` listener, best first.
    pub peer_addresses: Vec<String>,
    /// libp2p multiaddresses.
    pub p2p_addresses: Vec<String>,
    /// Base URLs of its `api` listener.
    pub api_addresses: Vec<String>,
    /// Log time of its first join.
    pub joined_at: Timestamp,
}

// === impl Member ===

impl Member {
    /// Whether it is a member still, drained or not.
    #[must_use]
    pub const fn is_standing(&self) -> bool {
        !matches!(self.state, MemberState::Departed { .. })
    }
}

/// A permission to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The public half.
    pub id: TokenId,
    /// SHA-256 of the secret half.
    pub secret_sha256: [u8; 32],
    /// The role it grants.
    pub role: Role,
    /// Joins that it still permits.
    pub uses_left: u32,
    /// Log time.
    pub created_at: Timestamp,
    /// Log time.
    pub expires_at: Timestamp,
    /// Withdrawn by an administrator.
    pub revoked: bool,
}

/// One node's copy of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Who holds it.
    pub node: NodeId,
    /// What its runtime says of it.
    pub model: ModelRecord,
}

/// A cluster-wide configuration value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The bytes that were set.
    pub value: Vec<u8>,
    /// Index of the entry that set it.
    pub revision: u64,
}
