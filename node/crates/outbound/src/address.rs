//! The forms in which `OLLAMA_HOST` and `runtime.url` name a runtime, as Ollama's own clients read them.
//!
//! Pure. A wildcard address (what a server binds to) is read as loopback (what a client can reach). Unlike Ollama,
//! which warns and falls back to its default, a bad port or scheme is an error that says so: a daemon that talks to
//! another runtime than the one that was named would be worse than one that stops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

/// Where Ollama listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 11_434;

/// The text names no runtime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no runtime address ({problem}); write it like 127.0.0.1:11434 or http://host:11434")]
pub struct BadAddress {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Reads an address; an empty text is the default, `http://127.0.0.1:11434`.
///
/// # Errors
/// When the scheme is neither http nor https, or host or port cannot be read.
pub fn parse(text: &str) -> Result<Url, BadAddress> {
    let bad = |problem| BadAddress { text: text.to_owned(), problem };
    let trimmed = text.trim().trim_matches(['"', '\'']).trim();
    let (scheme, rest, default_port) = match trimmed.split_once("://") {
        None => ("http", trimmed, DEFAULT_PORT),
        Some(("http", rest)) => ("http", rest, 80),
        Some(("https", rest)) => ("https", rest, 443),
        Some(_) => return Err(bad("the scheme is neither http nor https")),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = split_port(authority).ok_or_else(|| bad("the port is not a number below 65536"))?;
    let port = port.unwrap_or(default_port);
    let host = reachable(host);
    let mut url = Url::parse(&format!("{scheme}://{host}:{port}/")).map_err(|_| bad("the host is not readable"))?;
    if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err(bad("the host is not readable"));
    }
    let path = path.trim_matches('/');
    if !path.is_empty() {
        url.set_path(&format!("{path}/"));
    }
    Ok(url)
}

/// Whether both texts' addresses name the same port of this machine's loopback, or the same host and port.
#[must_use]
pub fn same_endpoint(a: &Url, b: &Url) -> bool {
    let host = |url: &Url| match url.host_str() {
        Some("localhost" | "[::1]") => Some("127.0.0.1".to_owned()),
        other => other.map(str::to_owned),
    };
    host(a) == host(b) && a.port_or_known_default() == b.port_or_known_default()
}

/// Whether the address is on this machine's loopback.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Host and, where given, port. `None` when a port is given and is none.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    if !authority.is_empty() && authority.bytes().all(|byte| byte.is_ascii_digit()) {
        return authority.parse().ok().map(|port| ("", Some(port)));
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Some((authority, None));
    }
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        return match rest.strip_prefix(':') {
            None if rest.is_empty() => Some((host, None)),
            None => None,
            Some(port) => port.parse().ok().map(|port| (host, Some(port))),
        };
    }
    match authority.rsplit_once(':') {
        None => Some((authority, None)),
        Some((host, port)) => port.parse().ok().map(|port| (host, Some(port))),
    }
}

/// The host as a client can reach it, ready to stand in a URL.
fn reachable(host: &str) -> String {
    if host.is_empty() {
        return Ipv4Addr::LOCALHOST.to_string();
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(IpAddr::V4(ip)) => ip.to_string(),
        Err(_) => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let read = parse(text).map(String::from).unwrap_or_else(|error| format!("error: {}", error.problem));
        assert_eq!(read, expected, "{text:?}");
    }

    #[test]
    fn reads_every_form_of_ollama_host() {
        check("", "http://127.0.0.1:11434/");
        check("  \"127.0.0.1\" ", "http://127.0.0.1:11434/");
        check("0.0.0.0", "http://127.0.0.1:11434/");
        check("0.0.0.0:1234", "http://127.0.0.1:1234/");
        check("[::]:1234", "http://127.0.0.1:1234/");
        check("::", "http://127.0.0.1:11434/");
        check("::1", "http://[::1]:11434/");
        check("[::1]", "http://[::1]:11434/");
        check("[fd00::7]:80", "http://[fd00::7]/");
        check(":5000", "http://127.0.0.1:5000/");
        check("5000", "http://127.0.0.1:5000/");
        check("gpu-3.lab", "http://gpu-3.lab:11434/");
        check("gpu-3.lab:5000", "http://gpu-3.lab:5000/");
        check("http://gpu-3", "http://gpu-3/");
        check("https://gpu-3", "https://gpu-3/");
        check("https://gw.lab:8443/ollama/", "https://gw.lab:8443/ollama/");
        check("https://gw.lab/a/b", "https://gw.lab/a/b/");
    }

    #[test]
    fn refuses_what_names_no_runtime() {
        check("ftp://host", "error: the scheme is neither http nor https");
        check("host:99999", "error: the port is not a number below 65536");
        check("host:port", "error: the port is not a number below 65536");
        check("99999", "error: the port is not a number below 65536");
        check("[::1]x", "error: the port is not a number below 65536");
        check("a b", "error: the host is not readable");
        check("user:pw@host:1", "error: the host is not readable");
    }

    #[test]
    fn loopback_names_are_one_endpoint() {
        let url = |text| parse(text).expect("readable");
        assert!(same_endpoint(&url("localhost"), &url("127.0.0.1:11434")));
        assert!(same_endpoint(&url("[::1]"), &url("0.0.0.0")));
        assert!(!same_endpoint(&url("localhost:1"), &url("localhost:2")));
        assert!(is_loopback(&url("localhost")) && is_loopback(&url("::1")) && !is_loopback(&url("10.0.0.1")));
    }
}
