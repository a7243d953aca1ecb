//! The frame round everything stored: one version byte, then a protobuf message. A file that stands alone has the
//! message's crc32c between the two, since nothing else would notice what the disk changed.
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

/// As [`seal`], for a file that stands alone.
pub(crate) fn seal_checked(version: u8, message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![version];
    bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// Undoes [`seal_checked`]; else how the bytes are.
pub(crate) fn unseal_checked<M: Message + Default>(version: u8, bytes: &[u8]) -> Result<M, String> {
    let Some((found, rest)) = bytes.split_first() else { return Err("empty".to_owned()) };
    if *found != version {
        return Err(format!("of version {found}, which this release does not know"));
    }
    let Some((crc, body)) = rest.split_first_chunk::<4>() else { return Err("cut short".to_owned()) };
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("damaged (its checksum does not fit)".to_owned());
    }
    M::decode(body).map_err(|error| format!("damaged ({error})"))
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

    #[test]
    fn a_file_that_stands_alone_says_what_is_wrong_with_it() {
        let sealed = seal_checked(2, &disk::MemberByPeerRecord { node: 9 });
        let read = |version, bytes: &[u8]| unseal_checked::<disk::MemberByPeerRecord>(version, bytes);
        assert_eq!(read(2, &sealed).map(|record| record.node), Ok(9));
        assert_eq!(read(2, &[]), Err("empty".to_owned()));
        assert_eq!(read(1, &sealed), Err("of version 2, which this release does not know".to_owned()));
        assert_eq!(read(2, &sealed[..4]), Err("cut short".to_owned()));
        assert_eq!(read(2, &sealed[..sealed.len() - 1]), Err("damaged (its checksum does not fit)".to_owned()));
    }
}
