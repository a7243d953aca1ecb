//! The node key: an Ed25519 key pair, made at the first start, that names this machine for good.
//!
//! Its public half is the node's PeerId and what TLS proves. It stays in one file, mode 0600, and is never sent. When
//! the file is too wide or damaged the node does not start; a lost key means joining again as a new node.

use std::fmt;
use std::path::Path;

use libp2p_identity::{Keypair, ed25519};
use zeroize::Zeroizing;

use ollamax_types::PeerId;

use crate::private_file::{self, KeyFileError, Seed};
use crate::random::{RandomError, random_bytes};

const KIND: &str = "ollamax-node-key";

/// This node's identity. Cheap to clone; prints as its PeerId.
#[derive(Clone)]
pub struct NodeKey {
    pair: Keypair,
    peer_id: PeerId,
}

// === impl NodeKey ===

impl NodeKey {
    /// Reads the key file, or makes it when there is none.
    ///
    /// # Errors
    /// When the file may be read by others, is damaged, or cannot be read or written.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match Self::load(path) {
            Err(KeyFileError::Missing { .. }) => {}
            found => return found,
        }
        let seed: Seed = Zeroizing::new(random_bytes()?);
        match private_file::write_new(path, KIND, &seed) {
            // Another process of ours was faster; its key is the node's key.
            Ok(()) | Err(KeyFileError::Exists { .. }) => Self::load(path),
            Err(error) => Err(error),
        }
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// As [`NodeKey::load_or_create`], and when there is none.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        private_file::read(path, KIND).map(|seed| Self::from_seed(&seed))
    }

    /// A key that lives in memory only: for tests and for tools that dial once.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn ephemeral() -> Result<Self, RandomError> {
        Ok(Self::from_seed(&Zeroizing::new(random_bytes()?)))
    }

    /// The name of this key.
    #[must_use]
    pub const fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    /// The key pair as libp2p takes it, for `net` alone.
    #[must_use]
    pub const fn keypair(&self) -> &Keypair {
        &self.pair
    }

    fn from_seed(seed: &Seed) -> Self {
        let pair = Keypair::from(pair_of(seed));
        let peer_id = crate::peer_id::of_public_key(&pair.public());
        Self { pair, peer_id }
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.peer_id)
    }
}

/// The Ed25519 pair of a seed.
pub(crate) fn pair_of(seed: &Seed) -> ed25519::Keypair {
    let secret = ed25519::SecretKey::try_from_bytes(**seed).expect("any 32 bytes are an Ed25519 seed");
    ed25519::Keypair::from(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_finds_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        assert!(matches!(NodeKey::load(&path), Err(KeyFileError::Missing { .. })));
        let first = NodeKey::load_or_create(&path).unwrap();
        let second = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_ne!(first.peer_id(), NodeKey::ephemeral().unwrap().peer_id());
    }

    #[test]
    fn the_peer_id_of_a_known_seed_is_the_golden_one() {
        let key = NodeKey::from_seed(&Zeroizing::new([7; 32]));
        assert_eq!(key.peer_id().0, "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7");
        assert_eq!(format!("{key:?}"), "NodeKey(12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7)");
    }
}
