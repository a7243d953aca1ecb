//! A SHA-256 digest: the name of a blob or manifest in Ollama's and OCI's stores.

use std::fmt;
use std::str::FromStr;

use crate::id::ParseIdError;

/// 32 bytes of SHA-256; written as 64 hex digits without prefix. Parsing takes `sha256:` and `sha256-` too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 12 hex digits, as people see them.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-")).unwrap_or(text);
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes)
            .map_err(|_| ParseIdError { what: "SHA-256 digest", text: text.to_owned() })?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_with_and_without_prefix() {
        let digest = Digest([7; 32]);
        for text in [digest.to_string(), format!("sha256:{digest}"), format!("sha256-{digest}")] {
            assert_eq!(text.parse::<Digest>(), Ok(digest));
        }
        assert!("sha256:12".parse::<Digest>().is_err());
    }
}
