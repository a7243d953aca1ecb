//! Join tokens: `omxj1.<cluster public key>.<id>.<secret>`.
//!
//! Owns their text form. The public key lets the joiner check who answers before the secret leaves; the id names the
//! token in lists and logs; the secret is 32 random bytes and is stored nowhere, only its SHA-256 is. Which role,
//! how often and until when are the catalog's to know. A text that is no whole token is refused before any dialling.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use ollamax_types::{Digest, Secret, TokenId};

use crate::random::{RandomError, random_bytes};
use crate::sha256::sha256;

/// What every token of this version begins with.
const PREFIX: &str = "omxj1";
/// What every token of any version begins with.
const FAMILY: &str = "omxj";
/// Bytes of the id, written as twice as many hex digits.
const ID_BYTES: usize = 8;
/// Bytes of the secret.
const SECRET_BYTES: usize = 32;
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 512;

/// A join token in its parts. Prints without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Verifies the credential of whoever answers.
    pub cluster_public_key: [u8; 32],
    /// Names the token.
    pub id: TokenId,
    /// Admits its holder: what is sent as `token_secret`.
    pub secret: Secret,
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Something else altogether.
    #[error("this is not an OllamaMax join token; one begins with \"omxj1.\" (make one with: ollamax token create)")]
    Foreign,
    /// Made by a newer version.
    #[error("this join token was made by a newer version of OllamaMax; update this machine first")]
    Newer,
    /// A part is missing.
    #[error("the join token is cut off or has parts too many; copy the whole line, it has four parts between dots")]
    Parts,
    /// A part is garbled or too short.
    #[error("the {0} in the join token is garbled or cut off; copy the whole line")]
    Part(&'static str),
}

// === impl JoinToken ===

impl JoinToken {
    /// Makes a new token for the cluster with this public key.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn make(cluster_public_key: [u8; 32]) -> Result<Self, RandomError> {
        Ok(Self {
            cluster_public_key,
            id: TokenId(hex::encode(random_bytes::<ID_BYTES>()?)),
            secret: Secret::new(URL_SAFE_NO_PAD.encode(random_bytes::<SECRET_BYTES>()?)),
        })
    }

    /// Reads the text form. White space around it is ignored.
    ///
    /// # Errors
    /// When the text is not a whole join token.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(JoinTokenError::Foreign);
        }
        let mut parts = text.split('.');
        match parts.next() {
            Some(PREFIX) => {}
            Some(other) if is_newer(other) => return Err(JoinTokenError::Newer),
            _ => return Err(JoinTokenError::Foreign),
        }
        let (Some(key), Some(id), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(JoinTokenError::Parts);
        };
        let mut id_bytes = [0; ID_BYTES];
        hex::decode_to_slice(id, &mut id_bytes).map_err(|_| JoinTokenError::Part("id"))?;
        // The canonical forms are kept, so that two spellings never name two tokens.
        let secret_bytes: [u8; SECRET_BYTES] = decode(secret, "secret")?;
        Ok(Self {
            cluster_public_key: decode(key, "cluster key")?,
            id: TokenId(hex::encode(id_bytes)),
            secret: Secret::new(URL_SAFE_NO_PAD.encode(secret_bytes)),
        })
    }

    /// The text form, which is a secret itself.
    #[must_use]
    pub fn text(&self) -> Secret {
        let key = URL_SAFE_NO_PAD.encode(self.cluster_public_key);
        Secret::new(format!("{PREFIX}.{key}.{}.{}", self.id, self.secret.expose()))
    }

    /// What the catalog keeps of the secret.
    #[must_use]
    pub fn secret_sha256(&self) -> Digest {
        secret_sha256(&self.secret)
    }
}

/// What the catalog keeps of a secret that a joiner sent.
#[must_use]
pub fn secret_sha256(secret: &Secret) -> Digest {
    sha256(secret.expose().as_bytes())
}

fn is_newer(prefix: &str) -> bool {
    prefix.strip_prefix(FAMILY).and_then(|version| version.parse::<u32>().ok()).is_some_and(|version| version > 1)
}

fn decode<const N: usize>(text: &str, part: &'static str) -> Result<[u8; N], JoinTokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| JoinTokenError::Part(part))?;
    bytes.try_into().map_err(|_| JoinTokenError::Part(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_token_is_parsed_back() {
        let token = JoinToken::make([5; 32]).unwrap();
        let text = token.text();
        assert_eq!(JoinToken::parse(&format!("  {}\n", text.expose())), Ok(token.clone()));
        assert_eq!(secret_sha256(&token.secret), token.secret_sha256());
        assert_ne!(JoinToken::make([5; 32]).unwrap().secret_sha256(), token.secret_sha256());
    }

    #[test]
    fn the_text_form_is_the_golden_one() {
        let key = URL_SAFE_NO_PAD.encode([5; 32]);
        let secret = URL_SAFE_NO_PAD.encode([6; 32]);
        let golden = format!("omxj1.{key}.0123456789abcdef.{secret}");
        let token = JoinToken::parse(&golden).unwrap();
        assert_eq!(token.id, TokenId("0123456789abcdef".to_owned()));
        assert_eq!(token.cluster_public_key, [5; 32]);
        assert_eq!(token.text().expose(), golden);
    }

    #[test]
    fn each_bad_text_gets_its_own_line() {
        let whole = JoinToken::make([5; 32]).unwrap().text();
        let whole = whole.expose();
        let key = whole.split('.').nth(1).unwrap();
        let rows = [
            (String::new(), JoinTokenError::Foreign),
            ("K10abc::server:xyz".to_owned(), JoinTokenError::Foreign),
            ("x".repeat(10_000), JoinTokenError::Foreign),
            (whole.replacen("omxj1", "omxj2", 1), JoinTokenError::Newer),
            (whole.rsplit_once('.').unwrap().0.to_owned(), JoinTokenError::Parts),
            (format!("{whole}.x"), JoinTokenError::Parts),
            (whole[..whole.len() - 4].to_owned(), JoinTokenError::Part("secret")),
            (whole.replacen(key, &key[1..], 1), JoinTokenError::Part("cluster key")),
            (whole.replacen(key, "%%%", 1), JoinTokenError::Part("cluster key")),
            (format!("omxj1.{key}.xyz.{}", whole.rsplit('.').next().unwrap()), JoinTokenError::Part("id")),
        ];
        for (text, expected) in rows {
            assert_eq!(JoinToken::parse(&text), Err(expected), "{text}");
        }
    }

    #[test]
    fn never_prints_its_secret() {
        let token = JoinToken::make([5; 32]).unwrap();
        let printed = format!("{token:?} {:?}", token.text());
        assert!(!printed.contains(token.secret.expose()), "{printed}");
    }
}
