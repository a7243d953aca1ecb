//! The cluster key: an Ed25519 key pair, made by `init`, held by the voters.
//!
//! It signs membership credentials and nothing else. Its public half is in the catalog and in every join token. It
//! lies in the voter's data directory, mode 0600, and is handed to a promoted voter over an authenticated connection.
//! Without it nothing stops: only new members cannot be vouched for by this node.

use std::fmt;
use std::path::Path;

use libp2p_identity::ed25519;
use zeroize::Zeroizing;

use ollamax_types::ClusterId;

use crate::node_key::pair_of;
use crate::private_file::{self, KeyFileError};
use crate::random::{RandomError, random_bytes};
use crate::sha256::sha256;

const KIND: &str = "ollamax-cluster-key";
/// Keeps the hash from being taken for one of something else.
const CLUSTER_ID_PREFIX: &[u8] = b"ollamax-cluster-id:";

/// The key that vouches for members. Prints as its public half.
#[derive(Clone)]
pub struct ClusterKey {
    pair: ed25519::Keypair,
}

// === impl ClusterKey ===

impl ClusterKey {
    /// Makes a new one, in memory.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn generate() -> Result<Self, RandomError> {
        let seed = Zeroizing::new(random_bytes()?);
        Ok(Self { pair: pair_of(&seed) })
    }

    /// Reads it from the voter's data directory.
    ///
    /// # Errors
    /// When the file is missing, may be read by others, is damaged, or cannot be read.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        private_file::read(path, KIND).map(|seed| Self { pair: pair_of(&seed) })
    }

    /// Writes it into the voter's data directory. Writing the same key again changes nothing.
    ///
    /// # Errors
    /// When the file holds another key, or cannot be written.
    pub fn seal(&self, path: &Path) -> Result<(), KeyFileError> {
        match private_file::write_new(path, KIND, &self.handover()) {
            Err(KeyFileError::Exists { path }) => match Self::load(&path)?.public_key() == self.public_key() {
                true => Ok(()),
                false => Err(KeyFileError::Exists { path }),
            },
            written => written,
        }
    }

    /// The secret half, for a promoted voter. Send it over an authenticated connection to a member only.
    #[must_use]
    pub fn handover(&self) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(self.pair.secret().as_ref());
        seed
    }

    /// The other end of [`ClusterKey::handover`].
    #[must_use]
    pub fn from_handover(seed: &Zeroizing<[u8; 32]>) -> Self {
        Self { pair: pair_of(seed) }
    }

    /// The public half: verifies credentials, stands in join tokens and in the catalog.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public().to_bytes()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message)
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", hex::encode(self.public_key()))
    }
}

/// The id of the cluster that this key vouches for: half of a hash of its public half. So whoever holds a join token
/// knows which cluster it is for before anybody was asked.
#[must_use]
pub fn cluster_id(public_key: &[u8; 32]) -> ClusterId {
    let hash = sha256(&[CLUSTER_ID_PREFIX, public_key].concat());
    let (half, _) = hash.0.split_first_chunk().expect("a SHA-256 has 32 bytes");
    ClusterId(*half)
}

/// Whether `signature` over `message` was made with the secret half of `public_key`.
pub(crate) fn is_signed_by(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    ed25519::PublicKey::try_from_bytes(public_key).is_ok_and(|key| key.verify(message, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_key_is_read_back_and_another_never_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        let key = ClusterKey::generate().unwrap();
        key.seal(&path).unwrap();
        key.seal(&path).unwrap();
        assert_eq!(ClusterKey::load(&path).unwrap().public_key(), key.public_key());
        let other = ClusterKey::generate().unwrap();
        assert!(matches!(other.seal(&path), Err(KeyFileError::Exists { .. })));
        assert_eq!(ClusterKey::load(&path).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_clusters_id_follows_from_its_public_key_for_ever() {
        assert_eq!(cluster_id(&[7; 32]).to_string(), "91a9288f204fc7dc0d451ad649b990d7");
        assert_ne!(cluster_id(&[7; 32]), cluster_id(&[8; 32]));
    }

    #[test]
    fn a_handed_over_key_signs_the_same() {
        let key = ClusterKey::generate().unwrap();
        let copy = ClusterKey::from_handover(&key.handover());
        let signature = copy.sign(b"x");
        assert!(is_signed_by(&key.public_key(), b"x", &signature));
        assert!(!is_signed_by(&key.public_key(), b"y", &signature));
    }

    #[test]
    fn a_node_key_is_not_taken_for_a_cluster_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.key");
        crate::NodeKey::load_or_create(&path).unwrap();
        assert!(matches!(ClusterKey::load(&path), Err(KeyFileError::Damaged { .. })));
    }

    #[test]
    fn never_prints_its_secret_half() {
        let key = ClusterKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&hex::encode(key.handover().as_slice())));
    }
}
