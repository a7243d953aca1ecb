//! The answer to a registry that asks who calls: an anonymous token.
//!
//! A challenge is answered only at the registry's own host or below it, and never from TLS by plain HTTP. A token is
//! kept in memory until it is refused; who needs one while another asks for it waits for that answer. A token is
//! printed nowhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use super::RegistryError;
use super::call::{Caller, Source, within};
use super::error::host_of;

/// How long a token may take from the question to its last byte.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer that a token is taken from.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Repositories whose tokens are kept; beyond it all are forgotten and asked for anew.
const TOKENS_MAX: usize = 256;
/// Longest challenge that is read.
const CHALLENGE_BYTES_MAX: usize = 4 << 10;

/// The place for the token of one repository; whoever asks for one holds it.
type Slot = Arc<AsyncMutex<Option<HeaderValue>>>;

/// Tokens by repository.
#[derive(Default)]
pub(super) struct Tokens(Mutex<BTreeMap<String, Slot>>);

/// What a registry wants to be shown, as it says in `WWW-Authenticate`.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
    scope: String,
}

/// What gives a token. Registries use both names.
#[derive(Deserialize)]
struct Given {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

// === impl Tokens ===

impl Tokens {
    /// The token of a repository, as a header; waits for one that is being asked for.
    pub(super) async fn of(&self, source: &Source) -> Option<HeaderValue> {
        let slot = self.lock().get(source.repository()).cloned()?;
        let token = slot.lock().await;
        token.clone()
    }

    fn slot(&self, source: &Source) -> Slot {
        let mut slots = self.lock();
        if slots.len() >= TOKENS_MAX && !slots.contains_key(source.repository()) {
            slots.clear();
        }
        Arc::clone(slots.entry(source.repository().to_owned()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Challenge ===

impl Challenge {
    /// The first challenge that asks for a token.
    fn read(headers: &HeaderMap) -> Option<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| {
            let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
            if !scheme.eq_ignore_ascii_case("bearer") || rest.len() > CHALLENGE_BYTES_MAX {
                return None;
            }
            let mut found = parameters(rest);
            let mut word = |name: &str| found.remove(name).unwrap_or_default();
            let challenge = Self { realm: word("realm"), service: word("service"), scope: word("scope") };
            (!challenge.realm.is_empty()).then_some(challenge)
        })
    }

    /// Where the token is, if that is a place where this registry may send us.
    fn address(&self, source: &Source) -> Result<Url, RegistryError> {
        let bad = |what: String| RegistryError::Redirect { host: source.host(), what };
        let mut url = Url::parse(&self.realm).map_err(|_| bad("its login to what is no address".to_owned()))?;
        if !source.may_log_in_at(&url) {
            return Err(bad(format!("its login to {}://{}", url.scheme(), host_of(&url))));
        }
        for (name, value) in [("service", &self.service), ("scope", &self.scope)] {
            if !value.is_empty() {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        Ok(url)
    }
}

// === impl Caller ===

impl Caller {
    /// A token instead of the one that was refused, as the registry's challenge says where to get it.
    ///
    /// # Errors
    /// When the challenge is none that can be answered, or leads elsewhere, or there is no token.
    pub(super) async fn log_in(
        &self,
        source: &Source,
        challenge: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let unknown = || RegistryError::Unauthorized { host: source.host() };
        let url = Challenge::read(challenge).ok_or_else(unknown)?.address(source)?;
        let slot = self.tokens.slot(source);
        let mut token = slot.lock().await;
        if let Some(other) = token.as_ref().filter(|token| refused != Some(*token)) {
            return Ok(other.clone());
        }
        *token = None;
        let fresh = within(TOKEN_TIMEOUT, &host_of(&url), self.fetch_token(&url)).await?;
        *token = Some(fresh.clone());
        Ok(fresh)
    }

    async fn fetch_token(&self, url: &Url) -> Result<HeaderValue, RegistryError> {
        let host = host_of(url);
        let response = self.send(url, &HeaderMap::new(), None).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(RegistryError::Unauthorized { host }),
            status if !status.is_success() => return Err(self.refusal(url, response).await),
            _ => {}
        }
        let read = self.whole(&host, response, TOKEN_BYTES_MAX).await?;
        let token = read.and_then(|bytes| token_in(&bytes));
        token.ok_or_else(|| RegistryError::Garbled { host, what: "no token".to_owned() })
    }
}

/// The header that shows the token of an answer.
fn token_in(bytes: &[u8]) -> Option<HeaderValue> {
    let Given { token, access_token } = serde_json::from_slice(bytes).ok()?;
    let token = if token.is_empty() { access_token } else { token };
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `name=value` and `name="value"`, apart by commas; names in lower case, the first of a name counts.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut rest) = (BTreeMap::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', '\t', ',']).to_ascii_lowercase();
        let (value, left) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (value, left) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_owned(), left)
            }
        };
        found.entry(name).or_insert(value);
        rest = left;
    }
    found
}

/// A quoted text up to its closing quote, and what follows. One without an end goes to the end of the text.
fn unquoted(text: &str) -> (String, &str) {
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '\\' if !is_escaped => is_escaped = true,
            '"' if !is_escaped => return (value, &text[at + 1..]),
            c => {
                value.push(c);
                is_escaped = false;
            }
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let values = values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().expect("a value")));
        values.collect()
    }

    #[test]
    fn a_challenge_is_read_as_registries_write_it() {
        let check = |values: &[&str], expected: Option<[&str; 3]>| {
            let expected = expected.map(|[realm, service, scope]| Challenge {
                realm: realm.to_owned(),
                service: service.to_owned(),
                scope: scope.to_owned(),
            });
            assert_eq!(Challenge::read(&headers(values)), expected, "{values:?}");
        };
        let usual = r#"Bearer realm="https://m.lan/token",service="m.lan",scope="repository:a/b:pull,push""#;
        check(&[usual], Some(["https://m.lan/token", "m.lan", "repository:a/b:pull,push"]));
        check(&["Basic realm=\"x\"", usual], Some(["https://m.lan/token", "m.lan", "repository:a/b:pull,push"]));
        check(&["bearer REALM=https://m.lan/t , service = \"a\\\"b\""], Some(["https://m.lan/t", "a\"b", ""]));
        check(&["Bearer realm=\"https://m.lan/never ends"], Some(["https://m.lan/never ends", "", ""]));
        check(&["Bearer error=\"invalid_token\""], None);
        check(&["Bearer"], None);
        check(&["Basic realm=\"https://m.lan/token\""], None);
        check(&[&format!("Bearer realm=\"{}\"", "x".repeat(CHALLENGE_BYTES_MAX))], None);
        check(&[], None);
    }

    #[test]
    fn a_challenge_leads_to_its_registry_alone() {
        let name = "models.lan/me/tiny".parse().expect("a name");
        let source = Source::of(None, &name, false).expect("an address");
        let check = |realm: &str, scope: &str, expected: Result<&str, &str>| {
            let challenge =
                Challenge { realm: realm.to_owned(), service: "the registry".to_owned(), scope: scope.to_owned() };
            let found = challenge.address(&source).map(|url| url.to_string()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{realm}");
        };
        let expected = "https://models.lan/token?a=b&service=the+registry&scope=repository%3Ame%2Ftiny%3Apull";
        check("https://models.lan/token?a=b", "repository:me/tiny:pull", Ok(expected));
        check("https://auth.models.lan/", "", Ok("https://auth.models.lan/?service=the+registry"));
        let elsewhere = "models.lan redirects its login to https://evil.lan:8443";
        check("https://evil.lan:8443/token?x=y", "", Err(elsewhere));
        check("http://models.lan/token", "", Err("models.lan redirects its login to http://models.lan"));
        check("token", "", Err("models.lan redirects its login to what is no address"));
    }

    #[test]
    fn a_token_is_taken_from_either_name_and_never_printed() {
        let check = |text: &str, expected: Option<&str>| {
            let found = token_in(text.as_bytes());
            assert_eq!(found.as_ref().map(HeaderValue::as_bytes), expected.map(str::as_bytes), "{text}");
            assert!(!format!("{found:?}").contains("secret"), "{found:?}");
        };
        check(r#"{"token":"secret","expires_in":300}"#, Some("Bearer secret"));
        check(r#"{"access_token":"secret"}"#, Some("Bearer secret"));
        check(r#"{"token":"secret\n"}"#, None);
        check("{}", None);
        check("<html>", None);
    }
}
