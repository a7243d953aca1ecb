//! Transfer's `Origin` port over the registry of models.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use ollamax_outbound::registry::{self, Registry, RegistryError};
use ollamax_transfer::ports::{Opened, Origin, OriginError, OriginTrouble, Wanted};
use ollamax_types::{Digest, ModelName};

/// Asks the registry that a name stands for.
#[derive(Debug, Clone)]
pub(crate) struct OriginOverRegistry {
    registry: Registry,
}

// === impl OriginOverRegistry ===

impl OriginOverRegistry {
    /// Asks through this client.
    #[must_use]
    pub(crate) const fn new(registry: Registry) -> Self {
        Self { registry }
    }
}

impl Origin for OriginOverRegistry {
    fn manifest(&self, name: &ModelName, insecure: bool) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let (registry, name) = (self.registry.clone(), name.clone());
        async move { registry.manifest(&name, insecure).await.map_err(|error| trouble(&error)) }.boxed()
    }

    fn manifest_of(
        &self,
        name: &ModelName,
        digest: Digest,
        insecure: bool,
    ) -> BoxFuture<'static, Result<Bytes, OriginError>> {
        let (registry, name) = (self.registry.clone(), name.clone());
        async move { registry.manifest_of(&name, digest, insecure).await.map_err(|error| trouble(&error)) }.boxed()
    }

    fn open(&self, wanted: Wanted) -> BoxFuture<'static, Result<Opened, OriginError>> {
        let registry = self.registry.clone();
        async move {
            let ranged = registry.range(range_of(wanted)).await.map_err(|error| trouble(&error))?;
            let body = ranged.body.map(|piece| piece.map_err(|error| trouble(&error)));
            Ok(Opened { whole: ranged.whole, body: body.boxed() })
        }
        .boxed()
    }
}

fn range_of(wanted: Wanted) -> registry::Wanted {
    let Wanted { name, insecure, blob, from, until } = wanted;
    registry::Wanted { name, insecure, sha256: blob.sha256, size_bytes: blob.size_bytes, from, until }
}

/// What helps against it, with the code and the words that the registry's client has for it.
fn trouble(error: &RegistryError) -> OriginError {
    let kind = match error {
        RegistryError::NotFound | RegistryError::BlobNotFound { .. } => OriginTrouble::Absent,
        RegistryError::Refused { .. } | RegistryError::Unauthorized { .. } => OriginTrouble::Refused,
        RegistryError::Busy { after, .. } => {
            let after_ms = after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            OriginTrouble::Busy { after_ms }
        }
        RegistryError::Cut { .. } => OriginTrouble::Cut,
        RegistryError::Stalled { .. } => OriginTrouble::Stalled,
        RegistryError::Unreachable { .. } => OriginTrouble::Unreachable,
        RegistryError::Garbled { .. }
        | RegistryError::Redirect { .. }
        | RegistryError::TooLarge { .. }
        | RegistryError::PlainHttp { .. } => OriginTrouble::Garbled,
    };
    OriginError { kind, code: error.code(), text: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ollamax_types::ErrorCode;

    use super::*;

    #[test]
    fn a_failure_keeps_its_code_and_its_words_and_says_what_helps() {
        let check = |error: RegistryError, kind: OriginTrouble, code: ErrorCode| {
            let text = error.to_string();
            assert_eq!(trouble(&error), OriginError { kind, code, text });
        };
        let host = || "models.lan".to_owned();
        let refused = RegistryError::Refused { host: host(), status: 403, message: String::new() };
        let busy = |after| RegistryError::Busy { host: host(), status: 429, after };
        let stalled = RegistryError::Stalled { host: host(), after: Duration::from_secs(1) };
        let unreachable = RegistryError::Unreachable { host: host(), reason: "refused".to_owned() };
        let absent = RegistryError::BlobNotFound { host: host(), sha256: Digest([7; 32]) };
        check(RegistryError::NotFound, OriginTrouble::Absent, ErrorCode::ModelNotFound);
        check(absent, OriginTrouble::Absent, ErrorCode::OriginFailed);
        check(RegistryError::PlainHttp { host: host() }, OriginTrouble::Garbled, ErrorCode::ManifestInvalid);
        check(refused, OriginTrouble::Refused, ErrorCode::OriginRefused);
        check(RegistryError::Unauthorized { host: host() }, OriginTrouble::Refused, ErrorCode::OriginRefused);
        check(busy(None), OriginTrouble::Busy { after_ms: None }, ErrorCode::OriginFailed);
        let told = OriginTrouble::Busy { after_ms: Some(1_500) };
        check(busy(Some(Duration::from_millis(1_500))), told, ErrorCode::OriginFailed);
        let cut = RegistryError::Cut { host: host(), got: 1, wanted: 2 };
        check(cut, OriginTrouble::Cut, ErrorCode::OriginFailed);
        check(stalled, OriginTrouble::Stalled, ErrorCode::OriginFailed);
        check(unreachable, OriginTrouble::Unreachable, ErrorCode::OriginFailed);
        let garbled = RegistryError::Garbled { host: host(), what: "a page".to_owned() };
        check(garbled, OriginTrouble::Garbled, ErrorCode::ManifestInvalid);
        let astray = RegistryError::Redirect { host: host(), what: "nowhere".to_owned() };
        check(astray, OriginTrouble::Garbled, ErrorCode::ManifestInvalid);
        check(RegistryError::TooLarge { limit_bytes: 1 }, OriginTrouble::Garbled, ErrorCode::ManifestInvalid);
    }
}
