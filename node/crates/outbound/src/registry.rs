//! A registry of models, read only: manifests by name, files by digest and range.
//!
//! Nothing that comes is used before its head says that it is what was asked for; whether the bytes have the digest is
//! for the caller to see. Redirects are followed by hand, and a login goes to nobody but the registry itself. Where a
//! registry keeps a file is remembered for minutes, so that it is not asked again for each range. Nothing is repeated
//! here but what a new login or a new address may mend; every failure says who was asked last.
//!
//! Proxies are those of the environment, and none for loopback. HTTP/1.1 alone is spoken: ranges that shared one
//! connection would be no faster than one.

mod auth;
mod call;
mod error;
mod places;
mod range;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use url::Url;

use ollamax_types::limits::MANIFEST_BYTES_MAX;
use ollamax_types::name::DEFAULT_HOST;
use ollamax_types::{Digest, ModelName};

pub use error::RegistryError;
pub use range::{Ranged, Wanted};

use call::{Caller, Source, within};
use error::host_of;
use places::{Key, Places};

/// How long an answer may be silent, where [`Options`] do not say.
pub const STALL_DEFAULT: Duration = Duration::from_secs(30);
/// How long a manifest may take from the question to its last byte.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The form of manifests that is asked for.
const MANIFEST_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.docker.distribution.manifest.v2+json");

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where names without a host are asked; `None` is the host that such names stand for, by HTTPS.
    pub base: Option<Url>,
    /// How long an answer may be silent; zero means [`STALL_DEFAULT`].
    pub stall: Duration,
}

/// A client of registries. Cheap to clone; opens no connection by itself.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    caller: Caller,
    places: Places,
    base: Option<Url>,
    stall: Duration,
}

// === impl Registry ===

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.base.as_ref().map_or_else(|| DEFAULT_HOST.to_owned(), host_of);
        write!(f, "Registry({host})")
    }
}

impl Registry {
    /// A client of registries. Without TLS roots on this machine it speaks plain HTTP alone.
    ///
    /// # Errors
    /// When `base` is no address of HTTP, or no client can be made.
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        let Options { base, stall } = options;
        if let Some(base) = base.as_ref().filter(|base| !matches!(base.scheme(), "http" | "https")) {
            let reason = "its address begins with neither http:// nor https://".to_owned();
            return Err(RegistryError::Unreachable { host: host_of(base), reason });
        }
        let stall = if stall.is_zero() { STALL_DEFAULT } else { stall };
        Ok(Self(Arc::new(Inner { caller: Caller::open(stall)?, places: Places::default(), base, stall })))
    }

    /// The manifest of a name, byte for byte. That it is JSON is seen, and no more.
    ///
    /// # Errors
    /// When there is none, the registry cannot be reached or refuses, or answers something else.
    pub async fn manifest(&self, name: &ModelName, insecure: bool) -> Result<Bytes, RegistryError> {
        let source = self.source(name, insecure)?;
        let [.., tag] = name.parts();
        let url = source.url(&format!("manifests/{tag}"));
        within(MANIFEST_TIMEOUT, &source.host(), self.read_manifest(&source, url)).await
    }

    /// The manifest with this digest, whatever the name stands for now, byte for byte. A registry need not have it by
    /// its digest, and whether what comes has it is for the caller to see.
    ///
    /// # Errors
    /// As [`Registry::manifest`].
    pub async fn manifest_of(&self, name: &ModelName, digest: Digest, insecure: bool) -> Result<Bytes, RegistryError> {
        let source = self.source(name, insecure)?;
        let url = source.url(&format!("manifests/sha256:{digest}"));
        within(MANIFEST_TIMEOUT, &source.host(), self.read_manifest(&source, url)).await
    }

    /// A range of a file. A range without a byte is answered with nothing, and nobody is asked.
    ///
    /// # Errors
    /// When the file is not there, who has it cannot be reached or refuses, or answers something else. What happens
    /// behind the head of the answer is told by the body.
    pub async fn range(&self, wanted: Wanted) -> Result<Ranged, RegistryError> {
        let wanted = Wanted { until: wanted.until.min(wanted.size_bytes), ..wanted };
        if wanted.from >= wanted.until {
            return Ok(Ranged { whole: false, body: stream::empty().boxed() });
        }
        let source = self.source(&wanted.name, wanted.insecure)?;
        let key = Key::new(&source, wanted.sha256);
        if let Some(place) = self.0.places.get(&key) {
            match self.open(&source, place.clone(), &wanted).await {
                Ok((ranged, _)) => return Ok(ranged),
                Err(error) if says_nothing_of_the_address(&error) => return Err(error),
                Err(error) => {
                    self.0.places.forget(&key, &place);
                    if matches!(error, RegistryError::Busy { .. }) {
                        return Err(error);
                    }
                }
            }
        }
        let (begin, sha256) = (source.url(&format!("blobs/sha256:{}", wanted.sha256)), wanted.sha256);
        let (ranged, place) = self.open(&source, begin.clone(), &wanted).await.map_err(|error| match error {
            RegistryError::Refused { host, status: 404, .. } => RegistryError::BlobNotFound { host, sha256 },
            other => other,
        })?;
        if place != begin {
            self.0.places.keep(key, place);
        }
        Ok(ranged)
    }

    fn source(&self, name: &ModelName, insecure: bool) -> Result<Source, RegistryError> {
        Source::of(self.0.base.as_ref(), name, insecure)
    }

    async fn read_manifest(&self, source: &Source, url: Url) -> Result<Bytes, RegistryError> {
        let headers = HeaderMap::from_iter([(ACCEPT, MANIFEST_TYPE)]);
        let (response, url) = self.0.caller.get(source, url, &headers).await.map_err(|error| match error {
            RegistryError::Refused { status: 404, .. } => RegistryError::NotFound,
            other => other,
        })?;
        let (host, status) = (host_of(&url), response.status());
        let kind = described(response.headers());
        let read = self.0.caller.whole(&host, response, MANIFEST_BYTES_MAX).await?;
        let bytes = read.ok_or(RegistryError::TooLarge { limit_bytes: MANIFEST_BYTES_MAX })?;
        if status == StatusCode::OK && bytes.trim_ascii_start().starts_with(b"{") {
            return Ok(bytes.into());
        }
        Err(RegistryError::Garbled { host, what: format!("no manifest (status {}, {kind})", status.as_u16()) })
    }

    /// Asks for a range at an address: the answer, its head seen to be right, and the address that gave it.
    async fn open(&self, source: &Source, url: Url, wanted: &Wanted) -> Result<(Ranged, Url), RegistryError> {
        let headers = HeaderMap::from_iter([(RANGE, wanted.header())]);
        let (response, url) = self.0.caller.get(source, url, &headers).await?;
        let ranged = range::read(response, &host_of(&url), wanted, self.0.stall)?;
        Ok((ranged, url))
    }
}

/// Whether another address would have done no better: who is asked is there, and has trouble of its own.
const fn says_nothing_of_the_address(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Busy { status: 500.., .. } | RegistryError::Stalled { .. })
}

/// What kind of answer it says it is.
fn described(headers: &HeaderMap) -> String {
    match headers.get(CONTENT_TYPE) {
        Some(kind) => format!("content type {:?}", String::from_utf8_lossy(kind.as_bytes())),
        None => "no content type".to_owned(),
    }
}
