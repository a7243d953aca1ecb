//! Where files were found: the addresses to which registries redirect, for as long as they may be used again.
//!
//! An address is signed and as good as a key, so it stays here. It is forgotten when it is refused, and by itself
//! before signatures usually end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use ollamax_types::Digest;

use super::call::Source;

/// How long an address is used after it was given.
const KEPT_FOR: Duration = Duration::from_secs(300);
/// Addresses that are kept; beyond it the old ones go, and if there are none, all.
const PLACES_MAX: usize = 1_024;

/// Which file, as who answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    origin: (String, bool),
    sha256: Digest,
}

/// Addresses of files.
#[derive(Default)]
pub(super) struct Places(Mutex<BTreeMap<Key, Place>>);

struct Place {
    url: Url,
    since: Instant,
}

// === impl Key ===

impl Key {
    /// A file of a registry.
    pub(super) fn new(source: &Source, sha256: Digest) -> Self {
        Self { origin: source.origin(), sha256 }
    }
}

// === impl Places ===

impl Places {
    /// Where a file is, if that was told not long ago.
    pub(super) fn get(&self, key: &Key) -> Option<Url> {
        self.lock().get(key).filter(|place| place.is_fresh()).map(|place| place.url.clone())
    }

    /// Keeps where a file is.
    pub(super) fn keep(&self, key: Key, url: Url) {
        let mut places = self.lock();
        if places.len() >= PLACES_MAX {
            places.retain(|_, place| place.is_fresh());
        }
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(key, Place { url, since: Instant::now() });
    }

    /// Forgets an address, unless another one was told meanwhile.
    pub(super) fn forget(&self, key: &Key, url: &Url) {
        let mut places = self.lock();
        if places.get(key).is_some_and(|place| place.url == *url) {
            places.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Place {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < KEPT_FOR
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn key(number: u32) -> Key {
        let mut sha256 = Digest::default();
        sha256.0[..4].copy_from_slice(&number.to_be_bytes());
        Key { origin: ("https://models.lan".to_owned(), false), sha256 }
    }

    fn url(path: &str) -> Url {
        format!("https://cdn.lan/{path}").parse().expect("a URL")
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_used_for_minutes() {
        let places = Places::default();
        assert_eq!(places.get(&key(1)), None);
        places.keep(key(1), url("a"));
        advance(KEPT_FOR - Duration::from_millis(1)).await;
        assert_eq!(places.get(&key(1)), Some(url("a")));
        assert_eq!(places.get(&key(2)), None);
        let insecure = Key { origin: ("https://models.lan".to_owned(), true), ..key(1) };
        assert_eq!(places.get(&insecure), None, "what was found without TLS is not for those who want it");
        advance(Duration::from_millis(1)).await;
        assert_eq!(places.get(&key(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_address_that_was_refused_is_forgotten() {
        let places = Places::default();
        places.keep(key(1), url("a"));
        places.keep(key(1), url("b"));
        places.forget(&key(1), &url("a"));
        assert_eq!(places.get(&key(1)), Some(url("b")));
        places.forget(&key(1), &url("b"));
        assert_eq!(places.get(&key(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_do_not_pile_up() {
        let places = Places::default();
        let count = u32::try_from(PLACES_MAX).expect("few");
        (0..count).for_each(|number| places.keep(key(number), url("a")));
        advance(KEPT_FOR).await;
        (0..count).for_each(|number| places.keep(key(count + number), url("b")));
        let length = || places.lock().len();
        assert_eq!(length(), PLACES_MAX);
        assert_eq!(places.get(&key(count)), Some(url("b")));
        places.keep(key(0), url("c"));
        assert_eq!(length(), 1);
        assert_eq!(places.get(&key(0)), Some(url("c")));
    }
}
