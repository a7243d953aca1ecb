//! The first bytes of a connection after the handshake, and the answer to them.
//!
//! Owns both forms, version 2. Greeting, from the side that dialled: version, class, boot (16 bytes), length of the
//! credential (2 bytes, big endian), credential. The credential is empty for a node that has none yet; it lets a node
//! recognise a member that it has not heard of yet. Answer: version, verdict, boot (16 bytes). Nothing is sent after
//! the greeting before the answer has come. Anything else ends the connection.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use ollamax_security::credential::CREDENTIAL_BYTES_MAX;

use crate::peer::Class;
use crate::twins::Boot;

const VERSION: u8 = 2;
const HEAD_BYTES: usize = 20;
const ANSWER_BYTES: usize = 18;

/// What the dialling side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// What the connection is for.
    pub(crate) class: Class,
    /// The process that dials.
    pub(crate) boot: Boot,
    /// Its membership credential, or nothing.
    pub(crate) credential: Vec<u8>,
}

/// Whether the connection may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    /// It may.
    Welcome,
    /// There is no place left for keys that are no members.
    Full,
    /// Another process with the same key is connected and speaks.
    Twin,
}

/// What the listening side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Whether the connection may be used.
    pub(crate) reception: Reception,
    /// The process that listens.
    pub(crate) boot: Boot,
}

// === impl Reception ===

impl Reception {
    const ALL: [Self; 3] = [Self::Welcome, Self::Full, Self::Twin];

    /// The number in an answer; never reused.
    const fn number(self) -> u8 {
        match self {
            Self::Welcome => 1,
            Self::Full => 2,
            Self::Twin => 3,
        }
    }
}

/// The byte form. A credential that is too long is left out: the receiver would refuse it.
pub(crate) fn encode(class: Class, boot: Boot, credential: &[u8]) -> Vec<u8> {
    let credential = if credential.len() > CREDENTIAL_BYTES_MAX { &[] } else { credential };
    let length = u16::try_from(credential.len()).expect("CREDENTIAL_BYTES_MAX fits into two bytes");
    let mut bytes = vec![VERSION, class.number()];
    bytes.extend_from_slice(&boot.0);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(credential);
    bytes
}

/// Reads a greeting.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Greeting> {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let [version, class, boot @ .., high, low] = head;
    check_version(version)?;
    let class = Class::from_number(class).ok_or_else(|| invalid("the greeting names an unknown kind of connection"))?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > CREDENTIAL_BYTES_MAX {
        return Err(invalid("the greeting's credential is too long"));
    }
    let mut credential = vec![0; length];
    stream.read_exact(&mut credential).await?;
    Ok(Greeting { class, boot: Boot(boot), credential })
}

/// The byte form of an answer.
pub(crate) fn encode_answer(answer: Answer) -> Vec<u8> {
    let mut bytes = vec![VERSION, answer.reception.number()];
    bytes.extend_from_slice(&answer.boot.0);
    bytes
}

/// Reads an answer.
pub(crate) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Answer> {
    let mut bytes = [0; ANSWER_BYTES];
    stream.read_exact(&mut bytes).await?;
    let [version, number, boot @ ..] = bytes;
    check_version(version)?;
    let reception = Reception::ALL.into_iter().find(|reception| reception.number() == number);
    let reception = reception.ok_or_else(|| invalid("the answer says something that this node does not know"))?;
    Ok(Answer { reception, boot: Boot(boot) })
}

fn check_version(version: u8) -> io::Result<()> {
    if version == VERSION { Ok(()) } else { Err(invalid("greetings of a version that this node does not know")) }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot = Boot([7; 16]);

    #[test]
    fn the_byte_forms_are_the_golden_ones() {
        let head = |class: u8, length: u8| [&[2, class][..], &[7; 16], &[0, length]].concat();
        assert_eq!(encode(Class::Liveness, BOOT, b"abc"), [&head(4, 3)[..], b"abc"].concat());
        assert_eq!(encode(Class::Raft, BOOT, &[0; CREDENTIAL_BYTES_MAX + 1]), head(1, 0));
        let answer = |reception| encode_answer(Answer { reception, boot: BOOT });
        assert_eq!(answer(Reception::Welcome), [&[2, 1][..], &[7; 16]].concat());
        assert_eq!(answer(Reception::Full)[1], 2);
        assert_eq!(answer(Reception::Twin)[1], 3);
    }

    #[tokio::test]
    async fn greetings_are_read_back_and_garbage_is_refused() {
        for class in Class::ALL {
            let bytes = encode(class, BOOT, b"abc");
            let greeting = read(&mut bytes.as_slice()).await.unwrap();
            assert_eq!(greeting, Greeting { class, boot: BOOT, credential: b"abc".to_vec() });
        }
        let sound = encode(Class::Raft, BOOT, b"abc");
        for (at, value) in [(0, 1), (1, 99), (18, 0xff), (19, 99)] {
            let mut bad = sound.clone();
            bad[at] = value;
            assert!(read(&mut bad.as_slice()).await.is_err(), "byte {at}");
        }
        assert!(read(&mut &sound[..HEAD_BYTES - 1]).await.is_err());
        assert!(read(&mut &sound[..0]).await.is_err());
    }

    #[tokio::test]
    async fn answers_are_read_back_and_garbage_is_refused() {
        for reception in Reception::ALL {
            let answer = Answer { reception, boot: BOOT };
            assert_eq!(read_answer(&mut encode_answer(answer).as_slice()).await.unwrap(), answer);
        }
        let sound = encode_answer(Answer { reception: Reception::Welcome, boot: BOOT });
        for (at, value) in [(0, 1), (1, 0)] {
            let mut bad = sound.clone();
            bad[at] = value;
            assert!(read_answer(&mut bad.as_slice()).await.is_err(), "byte {at}");
        }
        assert!(read_answer(&mut &sound[..3]).await.is_err());
    }
}
