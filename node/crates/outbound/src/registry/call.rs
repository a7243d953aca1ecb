//! One GET to a registry: through which client, with which login, and behind which redirects.
//!
//! A login is shown to the registry itself and to nobody to whom it redirects. TLS is never left for plain HTTP, unless
//! the caller said so for this name. A head, and each next piece of a short answer, comes in time or is given up.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use ollamax_types::ModelName;
use ollamax_types::name::DEFAULT_HOST;

use crate::address::is_loopback;
use crate::cause::{is_no_tls, without_address};

use super::RegistryError;
use super::auth::Tokens;
use super::error::{host_of, words_of};

/// Who this node says it is.
const USER_AGENT: &str = concat!("ollamax/", env!("CARGO_PKG_VERSION"));
/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the head of an answer.
const HEAD_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Redirects that one question may take.
const REDIRECTS_MAX: u32 = 10;
/// Bytes of a refusal that are read for its words.
const SAID_BYTES_MAX: usize = 8 << 10;
/// Connections to one host that are kept for later.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// A repository of a registry, and whether plain HTTP will do.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Ends with a slash.
    base: Url,
    insecure: bool,
}

/// Asks registries.
pub(super) struct Caller {
    /// Asks through the proxies of the environment.
    outward: Door,
    /// Asks this machine, through nobody.
    inward: Door,
    /// How long a head, or a piece of a short answer, is waited for.
    patience: Duration,
    /// What was given to everybody.
    pub(super) tokens: Tokens,
}

/// A client, and why it cannot speak TLS where it cannot.
struct Door {
    http: reqwest::Client,
    no_tls: Option<String>,
}

// === impl Source ===

impl Source {
    /// Where a name is asked; `default` stands for the host of names that give none.
    ///
    /// # Errors
    /// When the name's host cannot be an address.
    pub(super) fn of(default: Option<&Url>, name: &ModelName, insecure: bool) -> Result<Self, RegistryError> {
        let [host, namespace, model, _] = name.parts();
        let mut base = match default.filter(|_| host.eq_ignore_ascii_case(DEFAULT_HOST)) {
            Some(base) => base.clone(),
            None => {
                let scheme = if insecure { "http" } else { "https" };
                Url::parse(&format!("{scheme}://{host}/")).map_err(|error| RegistryError::Unreachable {
                    host: host.to_owned(),
                    reason: format!("it is no address: {error}"),
                })?
            }
        };
        let path = format!("{}/v2/{namespace}/{model}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self { base, insecure })
    }

    /// An address in it.
    pub(super) fn url(&self, path: &str) -> Url {
        self.base.join(path).expect("tags and digests are of plain characters")
    }

    /// Scheme, host and port, and whether plain HTTP will do: who answers, as far as files go.
    pub(super) fn origin(&self) -> (String, bool) {
        (self.base.origin().ascii_serialization(), self.insecure)
    }

    /// The whole address of the repository: what a token is good for.
    pub(super) fn repository(&self) -> &str {
        self.base.as_str()
    }

    /// Who is asked, as errors tell it.
    pub(super) fn host(&self) -> String {
        host_of(&self.base)
    }

    /// Whether a login of this registry may go there: to itself, or to a host below it. Never from TLS to plain HTTP.
    pub(super) fn may_log_in_at(&self, url: &Url) -> bool {
        let (Some(home), Some(host)) = (self.base.host_str(), url.host_str()) else { return false };
        let is_below = host.strip_suffix(home).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let is_safe =
            url.scheme() == "https" || url.scheme() == "http" && (self.insecure || self.base.scheme() == "http");
        is_below && is_safe
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }
}

// === impl Door ===

impl Door {
    fn open(reads_proxies: bool) -> Result<Self, RegistryError> {
        let builder = || {
            let builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never())
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .http1_only();
            if reads_proxies { builder } else { builder.no_proxy() }
        };
        let error = match builder().build() {
            Ok(http) => return Ok(Self { http, no_tls: None }),
            Err(error) => without_address(error),
        };
        // A machine without TLS roots can still ask a registry in its own network.
        let http = builder().tls_certs_only([]).build();
        let http =
            http.map_err(|_| RegistryError::Unreachable { host: DEFAULT_HOST.to_owned(), reason: error.clone() })?;
        Ok(Self { http, no_tls: Some(error) })
    }
}

// === impl Caller ===

impl Caller {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// When no client can be made.
    pub(super) fn open(stall: Duration) -> Result<Self, RegistryError> {
        let (outward, inward) = (Door::open(true)?, Door::open(false)?);
        Ok(Self { outward, inward, patience: stall.min(HEAD_TIMEOUT_MAX), tokens: Tokens::default() })
    }

    /// GETs an address: answers one challenge of the registry and follows redirects. The answer is a success; beside it
    /// stands the address that gave it.
    ///
    /// # Errors
    /// When nobody answers in time, or anything but a success ends it.
    pub(super) async fn get(
        &self,
        source: &Source,
        begin: Url,
        headers: &HeaderMap,
    ) -> Result<(Response, Url), RegistryError> {
        let mut url = begin;
        let mut login = self.tokens.of(source).await;
        let (mut redirects, mut has_logged_in) = (0, false);
        loop {
            let is_home = source.is_home(&url);
            let response = self.send(&url, headers, login.as_ref().filter(|_| is_home)).await?;
            let status = response.status();
            if status.is_success() {
                return Ok((response, url));
            }
            let is_challenge = status == StatusCode::UNAUTHORIZED && is_home;
            if is_redirect(status) && redirects < REDIRECTS_MAX {
                redirects += 1;
                url = redirected(&url, response.headers(), source.insecure)?;
            } else if is_redirect(status) {
                let what = format!("more than {REDIRECTS_MAX} times");
                return Err(RegistryError::Redirect { host: host_of(&url), what });
            } else if is_challenge && !has_logged_in {
                has_logged_in = true;
                login = Some(self.log_in(source, response.headers(), login.as_ref()).await?);
            } else if is_challenge {
                return Err(RegistryError::Unauthorized { host: host_of(&url) });
            } else {
                return Err(self.refusal(&url, response).await);
            }
        }
    }

    /// One question; its answer may be anything.
    pub(super) async fn send(
        &self,
        url: &Url,
        headers: &HeaderMap,
        login: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let host = host_of(url);
        let door = if is_loopback(url) { &self.inward } else { &self.outward };
        if let Some(reason) = door.no_tls.as_ref().filter(|_| url.scheme() == "https") {
            let reason = format!("the TLS roots of this machine cannot be read: {reason}");
            return Err(RegistryError::Unreachable { host, reason });
        }
        let mut request = door.http.get(url.clone()).headers(headers.clone());
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        match timeout(self.patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if url.scheme() == "https" && is_no_tls(&error) => Err(RegistryError::PlainHttp { host }),
            Ok(Err(error)) => Err(RegistryError::Unreachable { host, reason: without_address(error) }),
            Err(_) => Err(RegistryError::Stalled { host, after: self.patience }),
        }
    }

    /// A whole answer of bounded length; `None` when it is longer.
    pub(super) async fn whole(
        &self,
        host: &str,
        mut response: Response,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let (wanted, mut bytes) = (response.content_length(), Vec::new());
        if wanted.is_some_and(|wanted| wanted > limit as u64) {
            return Ok(None);
        }
        let host = || host.to_owned();
        while bytes.len() <= limit {
            match timeout(self.patience, response.chunk()).await {
                Ok(Ok(Some(piece))) => bytes.extend_from_slice(&piece),
                Ok(Ok(None)) => return Ok(Some(bytes)),
                Ok(Err(error)) => {
                    return Err(match wanted {
                        Some(wanted) => RegistryError::Cut { host: host(), got: bytes.len() as u64, wanted },
                        None => RegistryError::Unreachable { host: host(), reason: without_address(error) },
                    });
                }
                Err(_) => return Err(RegistryError::Stalled { host: host(), after: self.patience }),
            }
        }
        Ok(None)
    }

    /// What an answer means that is no success.
    pub(super) async fn refusal(&self, url: &Url, response: Response) -> RegistryError {
        let (host, status) = (host_of(url), response.status());
        let may_pass = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if may_pass || status.is_server_error() {
            return RegistryError::Busy { host, status: status.as_u16(), after: retry_after(response.headers()) };
        }
        let said = words_of(&self.beginning(response).await);
        let message = if said.is_empty() { status.canonical_reason().unwrap_or("no reason").to_owned() } else { said };
        RegistryError::Refused { host, status: status.as_u16(), message }
    }

    /// The beginning of a refusal. What cannot be read of it takes nothing from it.
    async fn beginning(&self, mut response: Response) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Ok(Some(piece))) = timeout(self.patience, response.chunk()).await {
            bytes.extend_from_slice(&piece);
            if bytes.len() >= SAID_BYTES_MAX {
                break;
            }
        }
        bytes.truncate(SAID_BYTES_MAX);
        bytes
    }
}

/// What is done within a time, or counts as silence.
pub(super) async fn within<T>(
    limit: Duration,
    host: &str,
    done: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let silence = || Err(RegistryError::Stalled { host: host.to_owned(), after: limit });
    timeout(limit, done).await.unwrap_or_else(|_| silence())
}

const fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where an answer sends its asker on to.
fn redirected(from: &Url, headers: &HeaderMap, insecure: bool) -> Result<Url, RegistryError> {
    let bad = |what: String| RegistryError::Redirect { host: host_of(from), what };
    let location = headers.get(LOCATION).ok_or_else(|| bad("without saying where to".to_owned()))?;
    let to = location.to_str().ok().and_then(|text| from.join(text).ok());
    let to = to.ok_or_else(|| bad("to what is no address".to_owned()))?;
    match (from.scheme(), to.scheme()) {
        ("https", "http") if !insecure => Err(bad(format!("to plain HTTP at {}", host_of(&to)))),
        (_, "http" | "https") => Ok(to),
        (_, scheme) => Err(bad(format!("to an address of {scheme}"))),
    }
}

/// How long a host wants to be left alone. It may also give a date, which is not read: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, base: Option<&str>, insecure: bool) -> Source {
        let base: Option<Url> = base.map(|base| base.parse().expect("a URL"));
        Source::of(base.as_ref(), &name.parse().expect("a name"), insecure).expect("an address")
    }

    #[test]
    fn a_name_is_asked_where_it_says() {
        let check = |name: &str, base: Option<&str>, insecure: bool, expected: &str| {
            assert_eq!(source(name, base, insecure).repository(), expected, "{name} {base:?}");
        };
        check("tiny", None, false, "https://registry.ollama.ai/v2/library/tiny/");
        check("Me/Tiny:1b", None, false, "https://registry.ollama.ai/v2/Me/Tiny/");
        check("tiny", None, true, "http://registry.ollama.ai/v2/library/tiny/");
        check("tiny", Some("http://mirror.lan:5000"), false, "http://mirror.lan:5000/v2/library/tiny/");
        check("tiny", Some("https://mirror.lan/ollama/?a=b#c"), true, "https://mirror.lan/ollama/v2/library/tiny/");
        check("models.lan/me/tiny", Some("http://mirror.lan"), false, "https://models.lan/v2/me/tiny/");
        check("127.0.0.1:5000/me/tiny", None, true, "http://127.0.0.1:5000/v2/me/tiny/");
        let name: ModelName = "a:b:c/me/tiny".parse().expect("a name");
        let error = Source::of(None, &name, false).expect_err("no port");
        assert!(error.to_string().starts_with("a:b:c cannot be reached: it is no address"), "{error}");
    }

    #[test]
    fn a_tag_and_a_digest_make_an_address() {
        let source = source("tiny", None, false);
        assert_eq!(source.url("manifests/1b_x.y").path(), "/v2/library/tiny/manifests/1b_x.y");
        assert_eq!(source.url("blobs/sha256:00ff").path(), "/v2/library/tiny/blobs/sha256:00ff");
    }

    #[test]
    fn a_login_stays_at_its_registry() {
        let check = |insecure: bool, url: &str, expected: bool| {
            let source = source("models.lan/me/tiny", None, insecure);
            assert_eq!(source.may_log_in_at(&url.parse().expect("a URL")), expected, "{insecure} {url}");
        };
        check(false, "https://models.lan/token", true);
        check(false, "https://login.models.lan:8443/token", true);
        check(false, "https://evilmodels.lan/token", false);
        check(false, "https://models.lan.evil/token", false);
        check(false, "https://lan/token", false);
        check(false, "http://models.lan/token", false);
        check(true, "http://models.lan/token", true);
        check(true, "ftp://models.lan/token", false);
    }

    #[test]
    fn no_downgrade_to_plain_http() {
        let check = |from: &str, to: Option<&str>, insecure: bool, expected: Result<&str, &str>| {
            let pair = to.map(|to| (LOCATION, HeaderValue::from_bytes(to.as_bytes()).expect("a value")));
            let headers: HeaderMap = pair.into_iter().collect();
            let found = redirected(&from.parse().expect("a URL"), &headers, insecure);
            let found = found.map(|url| url.to_string()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{from} {to:?}");
        };
        let from = "https://models.lan/v2/a/b/blobs/x";
        check(from, Some("https://cdn.lan/y?sig=1"), false, Ok("https://cdn.lan/y?sig=1"));
        check(from, Some("/y"), false, Ok("https://models.lan/y"));
        check(from, Some("//cdn.lan/y"), false, Ok("https://cdn.lan/y"));
        check(from, Some("http://cdn.lan/y?sig=1"), true, Ok("http://cdn.lan/y?sig=1"));
        check(from, Some("http://cdn.lan/y?sig=1"), false, Err("models.lan redirects to plain HTTP at cdn.lan"));
        check("http://models.lan/x", Some("http://cdn.lan/y"), false, Ok("http://cdn.lan/y"));
        check(from, Some("file:///etc/passwd"), true, Err("models.lan redirects to an address of file"));
        check(from, Some("https://"), false, Err("models.lan redirects to what is no address"));
        check(from, Some("\u{e9}"), false, Err("models.lan redirects to what is no address"));
        check(from, None, false, Err("models.lan redirects without saying where to"));
    }

    #[test]
    fn a_wait_is_taken_from_a_host_in_seconds() {
        let check = |text: &str, expected: Option<u64>| {
            let headers: HeaderMap = [(RETRY_AFTER, text.parse().expect("a value"))].into_iter().collect();
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{text}");
        };
        check("7", Some(7));
        check(" 0 ", Some(0));
        check("-1", None);
        check("Fri, 31 Dec 1999 23:59:59 GMT", None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
