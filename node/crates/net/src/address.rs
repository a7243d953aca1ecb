//! `host:port` texts: what nodes tell each other to dial.
//!
//! Addresses come from people, from the catalog and from discovery, so each is checked before it is used or passed on.
//! A text that passes can be handed to the resolver as it is.

use std::net::{IpAddr, Ipv6Addr};

/// Longest host name (DNS).
const HOST_BYTES_MAX: usize = 253;

/// A text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {problem}")]
pub struct InvalidAddress {
    /// What was found, cut to a readable length.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Checks `host:port`, `1.2.3.4:port` or `[::1]:port`.
///
/// # Errors
/// When a part is missing or malformed.
pub fn check(text: &str) -> Result<(), InvalidAddress> {
    let invalid = |problem| InvalidAddress { text: text.chars().take(80).collect(), problem };
    let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid("write host:port"))?;
    check_host(host).map_err(invalid)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(invalid("the port must be 1 to 65535")),
    }
}

/// `text` with `port` added where it names none.
///
/// # Errors
/// When the result is no address.
pub fn with_port(text: &str, port: u16) -> Result<String, InvalidAddress> {
    let completed = match text.parse::<IpAddr>() {
        Ok(ip) => join(ip, port),
        Err(_) if has_port(text) => text.to_owned(),
        Err(_) => format!("{text}:{port}"),
    };
    check(&completed).map(|()| completed)
}

/// The text form of an IP address and a port.
#[must_use]
pub fn join(ip: IpAddr, port: u16) -> String {
    match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    }
}

fn has_port(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((_, port)) => !port.contains(']'),
        None => false,
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("the bracket is not closed")?;
        let ip = inner.split_once('%').map_or(inner, |(ip, _scope)| ip);
        return ip.parse::<Ipv6Addr>().map(|_| ()).map_err(|_| "in brackets stands an IPv6 address");
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    match host {
        "" => Err("the host is missing"),
        _ if host.len() > HOST_BYTES_MAX => Err("the host is too long"),
        _ if host.contains(':') => Err("write an IPv6 address in brackets"),
        _ if host.bytes().all(is_name_byte) => Ok(()),
        _ => Err("the host has a character that names cannot have"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_addresses_pass() {
        for good in ["node-1:11436", "10.0.0.7:1", "[::1]:65535", "[fe80::1%eth0]:5", "a.b.example:80"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = format!("{}:1", "a".repeat(300));
        for bad in ["", ":1", "host", "host:", "host:0", "host:70000", "::1:80", "[::1:80", "a b:1", "a/b:1", &long] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_port_is_added() {
        let rows = [
            ("node-1", "node-1:7"),
            ("node-1:8", "node-1:8"),
            ("10.0.0.7", "10.0.0.7:7"),
            ("::1", "[::1]:7"),
            ("[::1]", "[::1]:7"),
            ("[::1]:9", "[::1]:9"),
        ];
        for (text, expected) in rows {
            assert_eq!(with_port(text, 7).as_deref(), Ok(expected), "{text}");
        }
        assert!(with_port("a b", 7).is_err());
    }
}
