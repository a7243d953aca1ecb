//! The frame round everything stored: one version byte, then a protobuf message.
//!
//! A version that this release does not know is an error, never a guess.

use prost::Message;

/// Stored bytes that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub(crate) struct Malformed {
    /// Which kind of bytes.
    pub(crate) what: &'static str,
    /// How it showed.
    pub(crate) reason: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self { what, reason: reason.into() }
    }
}

pub(crate) fn seal(version: u8, message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(version);
    message.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

pub(crate) fn unseal<M: Message + Default>(what: &'static str, version: u8, bytes: &[u8]) -> Result<M, Malformed> {
    let Some((found, body)) = bytes.split_first() else {
        return Err(Malformed::new(what, "empty"));
    };
    if *found != version {
        return Err(Malformed::new(what, format!("version {found}, and this release knows {version}")));
    }
    M::decode(body).map_err(|error| Malformed::new(what, error.to_string()))
}

/// Reads a field of fixed length.
pub(crate) fn fixed<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    <[u8; N]>::try_from(bytes).map_err(|_| Malformed::new(what, format!("{} bytes instead of {N}", bytes.len())))
}

#[cfg(test)]
mod tests {
    use ollamax_proto::disk;

    use super::*;

    #[test]
    fn an_empty_value_and_an_unknown_version_are_refused() {
        let sealed = seal(2, &disk::MemberByPeerRecord { node: 9 });
        assert_eq!(unseal::<disk::MemberByPeerRecord>("x", 2, &sealed).expect("same version").node, 9);
        assert!(unseal::<disk::MemberByPeerRecord>("x", 1, &sealed).is_err());
        assert!(unseal::<disk::MemberByPeerRecord>("x", 1, &[]).is_err());
    }
}
