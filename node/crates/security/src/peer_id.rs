//! The text form of a PeerId, checked.
//!
//! `types::PeerId` is a text that the rest of the system only compares. Here it is made from keys and checked when it
//! comes from outside. Only the names of Ed25519 keys pass: no node of ours has another kind.

use libp2p_identity::PublicKey;

use ollamax_types::PeerId;

/// Multihash code of the identity hash: a PeerId of an Ed25519 key holds the key itself.
const IDENTITY_HASH: u64 = 0;
/// The protobuf form of an Ed25519 public key.
const ED25519_KEY_BYTES: usize = 36;

/// A text is not the PeerId of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the PeerId of an Ed25519 key (12D3KooW…)")]
pub struct InvalidPeerId {
    /// What was found, cut to a readable length.
    pub text: String,
}

/// Takes a PeerId from outside.
///
/// # Errors
/// When the text is not the PeerId of an Ed25519 key.
pub fn check_peer_id(text: &str) -> Result<PeerId, InvalidPeerId> {
    parse(text).map(|parsed| PeerId(parsed.to_base58()))
}

/// The PeerId of a public key.
pub(crate) fn of_public_key(key: &PublicKey) -> PeerId {
    PeerId(key.to_peer_id().to_base58())
}

/// The libp2p form of a text.
pub(crate) fn parse(text: &str) -> Result<libp2p_identity::PeerId, InvalidPeerId> {
    let invalid = || InvalidPeerId { text: text.chars().take(80).collect() };
    let parsed: libp2p_identity::PeerId = text.parse().map_err(|_| invalid())?;
    let hash = parsed.as_ref();
    let is_ed25519 = hash.code() == IDENTITY_HASH
        && hash.digest().len() == ED25519_KEY_BYTES
        && PublicKey::try_decode_protobuf(hash.digest()).is_ok();
    if is_ed25519 { Ok(parsed) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ed25519_keys_pass() {
        let good = "12D3KooWJRSrypvnpHgc6ZAgyCni4KcSmbV7uGRaMw5LgMKT18fq";
        assert_eq!(check_peer_id(good), Ok(PeerId(good.to_owned())));
        let rows = ["", "n1", "12D3KooW", "QmZcrvr3r4S3QvwFdae3c2EWTfo792Y14UpzCZurhmiWeX", &"1".repeat(500)];
        for bad in rows {
            assert!(check_peer_id(bad).is_err(), "{bad}");
        }
    }
}
