//! What a request must look like before any handler sees it: the `Host` and `Origin` rules of Ollama.
//!
//! A server on the loopback interface answers only to local names, so that a web page cannot reach it by pointing a
//! name of its own at 127.0.0.1. Pages of other sites are refused on every request, not only when they ask first.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST, ORIGIN, VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

const LOCAL_SUFFIXES: [&str; 3] = [".localhost", ".local", ".internal"];
const APP_SCHEMES: [&str; 8] = [
    "app",
    "file",
    "tauri",
    "vscode-webview",
    "vscode-file",
    "chrome-extension",
    "moz-extension",
    "safari-web-extension",
];
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, User-Agent, Accept, X-Requested-With, OpenAI-Beta, \
     x-stainless-arch, x-stainless-async, x-stainless-custom-poll-interval, x-stainless-helper-method, \
     x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-poll-helper, \
     x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout";

/// Refuses requests for a host that is not this machine.
pub(super) async fn local_host_only(request: Request, next: Next) -> Response {
    let header = request.headers().get(HOST).map(|value| value.to_str().unwrap_or("?"));
    let host = request.uri().host().or_else(|| header.map(host_of)).unwrap_or_default();
    if is_local(host) { next.run(request).await } else { StatusCode::FORBIDDEN.into_response() }
}

/// Refuses requests of foreign web pages and answers the questions of browsers.
pub(super) async fn known_origins_only(request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(ORIGIN).cloned() else {
        return next.run(request).await;
    };
    if !origin.to_str().is_ok_and(|origin| is_known(origin, request.headers())) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let asks = request.method() == Method::OPTIONS;
    let mut response = if asks { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if asks {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, HEAD"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED_HEADERS));
    }
    response
}

fn host_of(header: &str) -> &str {
    let bracketed = header.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(host, _)| host);
    bracketed.unwrap_or_else(|| header.rsplit_once(':').map_or(header, |(host, _)| host))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
        Err(_) => host.is_empty() || host == "localhost" || LOCAL_SUFFIXES.iter().any(|suffix| host.ends_with(suffix)),
    }
}

fn is_known(origin: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    if APP_SCHEMES.contains(&scheme) {
        return true;
    }
    let same = headers.get(HOST).is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(rest.as_bytes()));
    let Ok(authority) = rest.parse::<Authority>() else { return false };
    matches!(scheme, "http" | "https") && (same || matches!(authority.host(), "localhost" | "127.0.0.1" | "0.0.0.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_hosts_are_answered() {
        let check = |host: &str, allowed: bool| assert_eq!(is_local(host_of(host)), allowed, "{host}");
        for host in
            ["localhost", "localhost:11434", "127.0.0.1:1", "[::1]:80", "192.168.1.5", "me.local", "x.internal:80", ""]
        {
            check(host, true);
        }
        for host in ["example.com", "example.com:11434", "8.8.8.8", "localhost.evil.com", "[2001:db8::1]", "?"] {
            check(host, false);
        }
    }

    #[test]
    fn only_local_pages_and_apps_may_call() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("gpu7:11434"));
        let check = |origin: &str, allowed: bool| assert_eq!(is_known(origin, &headers), allowed, "{origin}");
        for origin in
            ["http://localhost:3000", "https://127.0.0.1", "app://x", "vscode-webview://1", "http://gpu7:11434"]
        {
            check(origin, true);
        }
        for origin in ["https://example.com", "http://localhost.evil.com", "null", "ftp://localhost", "http://gpu7:1"] {
            check(origin, false);
        }
    }
}
