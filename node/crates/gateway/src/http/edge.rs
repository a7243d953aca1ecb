//! Who may call from where: the Host rule against DNS rebinding, the Origin rule against foreign web pages, CORS.
//!
//! The rules are Ollama's. Bound to loopback, only hosts that name this machine or an IP address are served; a browser
//! page may call only from this machine, from desktop programs, or from a configured origin. Others get 403 with an
//! empty body.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;

use crate::config::Config;
use crate::http::OpenDoor;

/// Origins beside those of this machine: desktop programs and browser extensions, any text behind the scheme.
const SCHEMES: [&str; 9] = [
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
    "chrome-extension://",
    "safari-extension://",
    "moz-extension://",
    "ms-browser-extension://",
];
const LOCAL_ORIGINS: [&str; 4] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"];
const LOCAL_TLDS: [&str; 3] = [".localhost", ".local", ".internal"];
const METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";
const HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,X-Request-Id,OpenAI-Beta,\
                       x-stainless-lang,x-stainless-package-version,x-stainless-os,x-stainless-arch,\
                       x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-async,\
                       x-stainless-helper-method,x-stainless-poll-helper,x-stainless-custom-poll-interval,\
                       x-stainless-timeout";
const EXPOSED: &str = "X-OllamaMax-Node,X-OllamaMax-Error,X-Request-Id";

/// The rules of one door.
#[derive(Debug)]
pub(crate) struct Edge {
    checks_hosts: bool,
    hostname: String,
    origins: Vec<String>,
}

/// What the Origin header means for a request.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// None was sent, or the page came from this door itself.
    Same,
    /// A page that may call.
    Allowed(HeaderValue),
    /// A page that may not.
    Foreign,
}

// === impl Edge ===

impl Edge {
    pub(crate) fn new(config: &Config, bound: SocketAddr, hostname: &str) -> Self {
        Self {
            checks_hosts: bound.ip().is_loopback(),
            hostname: hostname.to_lowercase(),
            origins: config.origins.clone(),
        }
    }

    /// Whether a Host names this machine, or nothing that a foreign name server could answer for.
    fn serves_host(&self, host: &str) -> bool {
        let host = without_port(host).to_lowercase();
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        !self.checks_hosts
            || is_address
            || matches!(host.as_str(), "" | "localhost")
            || host == self.hostname
            || LOCAL_TLDS.iter().any(|tld| host.ends_with(tld))
    }

    fn origin(&self, headers: &HeaderMap, host: &str) -> Origin {
        let Some(value) = headers.get(header::ORIGIN) else { return Origin::Same };
        let Ok(origin) = value.to_str() else { return Origin::Foreign };
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if !host.is_empty() && authority == Some(host) && origin.starts_with("http") {
            return Origin::Same;
        }
        if self.allows_origin(origin) { Origin::Allowed(value.clone()) } else { Origin::Foreign }
    }

    fn allows_origin(&self, origin: &str) -> bool {
        if SCHEMES.iter().any(|scheme| origin.starts_with(scheme)) {
            return true;
        }
        let web = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if web.is_some_and(|authority| LOCAL_ORIGINS.contains(&without_port(authority))) {
            return true;
        }
        self.origins.iter().any(|pattern| matches_pattern(pattern, origin))
    }
}

/// Lets a request in, or answers it.
pub(crate) async fn check(State(door): State<Arc<OpenDoor>>, request: Request, next: Next) -> Response<Body> {
    let host = host_of(&request);
    if !door.edge.serves_host(&host) {
        return empty(StatusCode::FORBIDDEN);
    }
    let origin = door.edge.origin(request.headers(), &host);
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = match (&origin, is_preflight) {
        (Origin::Foreign, _) => return empty(StatusCode::FORBIDDEN),
        (Origin::Allowed(_), true) => preflight(),
        (Origin::Allowed(_) | Origin::Same, _) => next.run(request).await,
    };
    if let Origin::Allowed(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// The host that the client called: of the request line (HTTP/2), else of the Host header.
fn host_of(request: &Request) -> String {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let header = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let unreadable = || request.headers().contains_key(header::HOST).then(|| "unreadable.invalid".to_owned());
    authority.or_else(header).or_else(unreadable).unwrap_or_default()
}

fn preflight() -> Response<Body> {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("43200"));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// `name:port`, `[ip]:port` or either without a port.
fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// Whether a text matches a pattern in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = rest.split('*').collect();
    let (last, middle) = parts.split_last().map_or(("", &parts[..]), |(last, middle)| (*last, middle));
    for part in middle {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(bound: &str, origins: &[&str]) -> Edge {
        let config = Config { origins: origins.iter().map(ToString::to_string).collect(), ..Config::default() };
        Edge::new(&config, bound.parse().expect("an address"), "GPU-3")
    }

    #[test]
    fn on_loopback_only_hosts_of_this_machine_are_served() {
        let edge = edge("127.0.0.1:1", &[]);
        let good = ["localhost", "LOCALHOST:11435", "127.0.0.1:11435", "[::1]:1", "::1", "10.0.0.7:80", "gpu-3:11435"];
        for host in good.into_iter().chain(["", "box.local", "a.internal:1", "x.localhost"]) {
            assert!(edge.serves_host(host), "{host}");
        }
        for host in ["evil.com", "evil.com:11435", "localhost.evil.com", "127.0.0.1.evil.com", "local", "gpu-3.lab"] {
            assert!(!edge.serves_host(host), "{host}");
        }
    }

    #[test]
    fn beyond_loopback_every_host_is_served() {
        assert!(edge("0.0.0.0:1", &[]).serves_host("gpu-3.lab:11435"));
    }

    #[test]
    fn pages_of_this_machine_and_configured_ones_may_call() {
        let edge = edge("127.0.0.1:1", &["https://*.lab", "http://one.example:8080"]);
        let good =
            ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5", "https://0.0.0.0", "http://[::1]:1"];
        let apps = ["app://-", "tauri://localhost", "vscode-webview://abc", "chrome-extension://abc", "file://"];
        for origin in good.into_iter().chain(apps).chain(["https://chat.lab", "http://one.example:8080"]) {
            assert!(edge.allows_origin(origin), "{origin}");
        }
        let bad = ["http://evil.com", "http://localhost.evil.com", "null", "http://chat.lab", "https://lab.evil.com"];
        for origin in bad.into_iter().chain(["http://one.example", "http://127.0.0.1.evil.com:1"]) {
            assert!(!edge.allows_origin(origin), "{origin}");
        }
    }

    #[test]
    fn a_page_of_this_door_itself_needs_no_permission() {
        let mut headers = HeaderMap::new();
        let edge = edge("0.0.0.0:1", &[]);
        assert_eq!(edge.origin(&headers, "gpu-3.lab:1"), Origin::Same);
        headers.insert(header::ORIGIN, HeaderValue::from_static("http://gpu-3.lab:1"));
        assert_eq!(edge.origin(&headers, "gpu-3.lab:1"), Origin::Same);
        assert_eq!(edge.origin(&headers, "other.lab:1"), Origin::Foreign);
    }
}
