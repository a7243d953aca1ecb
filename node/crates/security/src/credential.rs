//! Membership credentials: what the cluster key says about a member.
//!
//! Owns their byte form, version 1: version, cluster (16), node id (8, big endian), role, incarnation (16), PeerId
//! (length byte and multihash), Ed25519 signature (64) over a fixed prefix and all that precedes. A credential has no
//! date: whether its holder is still a member is decided by the catalog, never here. Anything that does not verify is
//! refused whole.

use ollamax_types::{ClusterId, Incarnation, NodeId, PeerId, Role};

use crate::cluster_key::{ClusterKey, is_signed_by};
use crate::peer_id::{self, InvalidPeerId};

/// Version of the byte form.
const VERSION: u8 = 1;
/// Keeps a signature from being taken for one over something else.
const SIGNING_PREFIX: &[u8] = b"ollamax-membership-credential:";
const SIGNATURE_BYTES: usize = 64;

/// Longest encoded credential.
pub const CREDENTIAL_BYTES_MAX: usize = 256;

/// A member, as the cluster key vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Its number there.
    pub node: NodeId,
    /// Its key.
    pub peer_id: PeerId,
    /// What it may become.
    pub role: Role,
    /// Its data directory.
    pub incarnation: Incarnation,
}

/// Why bytes are not a credential that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Written by a newer version.
    #[error("the credential has version {0}; this node knows version 1: update this node")]
    Version(u8),
    /// Cut off or garbled.
    #[error("the credential is damaged ({0})")]
    Damaged(&'static str),
    /// Signed with another cluster's key, or changed afterwards.
    #[error("the credential is not signed by this cluster's key: its holder belongs to another cluster")]
    Foreign,
    /// It names no key of a node.
    #[error(transparent)]
    PeerId(#[from] InvalidPeerId),
}

// === impl Credential ===

impl Credential {
    /// Signs and encodes it.
    ///
    /// # Errors
    /// When its PeerId is not the name of a node's key.
    pub fn sign(&self, key: &ClusterKey) -> Result<Vec<u8>, InvalidPeerId> {
        let mut bytes = self.body()?;
        let signature = key.sign(&signed_message(&bytes));
        bytes.extend_from_slice(&signature);
        Ok(bytes)
    }

    /// Decodes a credential and checks the signature with the cluster's public key.
    ///
    /// # Errors
    /// When it is damaged, from a newer version, or not signed by that key.
    pub fn verify(bytes: &[u8], cluster_public_key: &[u8; 32]) -> Result<Self, CredentialError> {
        let (credential, body, signature) = decode(bytes)?;
        if is_signed_by(cluster_public_key, &signed_message(body), signature) {
            Ok(credential)
        } else {
            Err(CredentialError::Foreign)
        }
    }

    fn body(&self) -> Result<Vec<u8>, InvalidPeerId> {
        let peer_id = peer_id::parse(&self.peer_id.0)?.to_bytes();
        let length = u8::try_from(peer_id.len()).expect("the PeerId of an Ed25519 key has 38 bytes");
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.node.0.to_be_bytes());
        bytes.push(role_number(self.role));
        bytes.extend_from_slice(&self.incarnation.0);
        bytes.push(length);
        bytes.extend_from_slice(&peer_id);
        Ok(bytes)
    }
}

fn signed_message(body: &[u8]) -> Vec<u8> {
    [SIGNING_PREFIX, body].concat()
}

const fn role_number(role: Role) -> u8 {
    match role {
        Role::Voter => 1,
        Role::Learner => 2,
        Role::Gateway => 3,
    }
}

fn role_of(number: u8) -> Result<Role, CredentialError> {
    [Role::Voter, Role::Learner, Role::Gateway]
        .into_iter()
        .find(|role| role_number(*role) == number)
        .ok_or(CredentialError::Damaged("unknown role"))
}

/// The credential, its signed body and its signature; the signature is not checked yet.
fn decode(bytes: &[u8]) -> Result<(Credential, &[u8], &[u8]), CredentialError> {
    match bytes.first() {
        None => return Err(CredentialError::Damaged("it is empty")),
        Some(&VERSION) => {}
        Some(&other) => return Err(CredentialError::Version(other)),
    }
    if bytes.len() > CREDENTIAL_BYTES_MAX {
        return Err(CredentialError::Damaged("it is too long"));
    }
    let mut rest = &bytes[1..];
    let cluster = ClusterId(take(&mut rest)?);
    let node = NodeId(u64::from_be_bytes(take(&mut rest)?));
    let [role] = take(&mut rest)?;
    let incarnation = Incarnation(take(&mut rest)?);
    let [length] = take(&mut rest)?;
    let (peer_id, signature) = rest.split_at_checked(usize::from(length)).ok_or(CUT_OFF)?;
    if signature.len() != SIGNATURE_BYTES {
        return Err(CUT_OFF);
    }
    let peer_id = libp2p_identity::PeerId::from_bytes(peer_id).map_err(|_| CredentialError::Damaged("bad PeerId"))?;
    let peer_id = peer_id::check_peer_id(&peer_id.to_base58())?;
    let body = &bytes[..bytes.len() - SIGNATURE_BYTES];
    Ok((Credential { cluster, node, peer_id, role: role_of(role)?, incarnation }, body, signature))
}

const CUT_OFF: CredentialError = CredentialError::Damaged("it is cut off or has bytes too many");

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], CredentialError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(CUT_OFF)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::node_key::pair_of;

    fn key(seed: u8) -> ClusterKey {
        ClusterKey::from_handover(&Zeroizing::new([seed; 32]))
    }

    fn sample(role: Role, node: u64, holder: u8) -> Credential {
        let public = libp2p_identity::PublicKey::from(pair_of(&Zeroizing::new([holder; 32])).public());
        Credential {
            cluster: ClusterId([0xc1; 16]),
            node: NodeId(node),
            peer_id: peer_id::of_public_key(&public),
            role,
            incarnation: Incarnation([0x1c; 16]),
        }
    }

    #[test]
    fn the_byte_form_is_the_golden_one() {
        let bytes = sample(Role::Learner, 3, 9).sign(&key(1)).unwrap();
        let golden = include_str!("../tests/golden/credential-v1.hex");
        assert_eq!(hex::encode(&bytes), golden.trim());
    }

    #[test]
    fn every_changed_or_missing_byte_is_refused() {
        let cluster = key(1);
        let bytes = sample(Role::Voter, 2, 9).sign(&cluster).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Credential::verify(&changed, &cluster.public_key()).is_err(), "byte {at}");
            assert!(Credential::verify(&bytes[..at], &cluster.public_key()).is_err(), "cut at {at}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Credential::verify(&longer, &cluster.public_key()).is_err());
    }

    #[test]
    fn another_clusters_credential_is_called_foreign() {
        let bytes = sample(Role::Voter, 2, 9).sign(&key(1)).unwrap();
        assert_eq!(Credential::verify(&bytes, &key(2).public_key()), Err(CredentialError::Foreign));
    }

    #[test]
    fn a_newer_version_says_what_to_do() {
        let error = Credential::verify(&[2, 0, 0], &key(1).public_key()).unwrap_err();
        assert!(error.to_string().contains("update this node"), "{error}");
    }

    proptest! {
        #[test]
        fn what_was_signed_is_verified(node in 1..u64::MAX, holder: u8, which in 0..3_usize) {
            let role = [Role::Voter, Role::Learner, Role::Gateway][which];
            let credential = sample(role, node, holder);
            let bytes = credential.sign(&key(1)).unwrap();
            prop_assert!(bytes.len() <= CREDENTIAL_BYTES_MAX);
            prop_assert_eq!(Credential::verify(&bytes, &key(1).public_key()), Ok(credential));
        }

        #[test]
        fn garbage_never_passes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Credential::verify(&bytes, &key(1).public_key()).is_err());
        }
    }
}
