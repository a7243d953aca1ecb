#![doc = include_str!("../DESIGN.md")]
#![forbid(unsafe_code)]

pub mod backup_key;
pub mod cluster_key;
pub mod credential;
pub mod join_token;
pub mod node_key;
pub mod peer_id;
mod private_file;
pub mod random;
pub mod sha256;
pub mod tls;

pub use backup_key::{BackupKey, BackupKeyError, BackupRecipient, UnsealError};
pub use cluster_key::ClusterKey;
pub use credential::{Credential, CredentialError};
pub use join_token::{JoinToken, JoinTokenError};
pub use node_key::NodeKey;
pub use peer_id::{InvalidPeerId, check_peer_id};
pub use private_file::KeyFileError;
pub use random::{RandomError, draw_request_id, draw_span, random_bytes};
pub use sha256::sha256;
