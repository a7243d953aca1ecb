//! The first bytes of a connection after the handshake, from the side that dialled.
//!
//! Owns their form, version 1: version, class, length of the credential (2 bytes, big endian), credential. The
//! credential is empty for a node that has none yet. It lets a node recognise a member that it has not heard of yet.
//! Anything else ends the connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use ollamax_security::credential::CREDENTIAL_BYTES_MAX;

use crate::peer::Class;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 4;

/// What the dialling side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// What the connection is for.
    pub(crate) class: Class,
    /// Its membership credential, or nothing.
    pub(crate) credential: Vec<u8>,
}

/// The byte form. A credential that is too long is left out: the receiver would refuse it.
pub(crate) fn encode(class: Class, credential: &[u8]) -> Vec<u8> {
    let credential = if credential.len() > CREDENTIAL_BYTES_MAX { &[] } else { credential };
    let length = u16::try_from(credential.len()).expect("CREDENTIAL_BYTES_MAX fits into two bytes");
    let mut bytes = vec![VERSION, class.number()];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(credential);
    bytes
}

/// Reads a greeting.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Greeting> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let [version, class, high, low] = head;
    if version != VERSION {
        return Err(invalid("the greeting has a version that this node does not know"));
    }
    let class = Class::from_number(class).ok_or_else(|| invalid("the greeting names an unknown kind of connection"))?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > CREDENTIAL_BYTES_MAX {
        return Err(invalid("the greeting's credential is too long"));
    }
    let mut credential = vec![0; length];
    stream.read_exact(&mut credential).await?;
    Ok(Greeting { class, credential })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_form_is_the_golden_one() {
        assert_eq!(encode(Class::Liveness, b"abc"), [1, 4, 0, 3, b'a', b'b', b'c']);
        assert_eq!(encode(Class::Raft, &[0; CREDENTIAL_BYTES_MAX + 1]), [1, 1, 0, 0]);
    }

    #[tokio::test]
    async fn greetings_are_read_back_and_garbage_is_refused() {
        for class in Class::ALL {
            let bytes = encode(class, b"abc");
            let greeting = read(&mut bytes.as_slice()).await.unwrap();
            assert_eq!(greeting, Greeting { class, credential: b"abc".to_vec() });
        }
        let rows: [&[u8]; 6] = [&[], &[1, 1, 0], &[2, 1, 0, 0], &[1, 99, 0, 0], &[1, 1, 0xff, 0xff], &[1, 1, 0, 5, 1]];
        for mut bad in rows {
            assert!(read(&mut bad).await.is_err());
        }
    }
}
