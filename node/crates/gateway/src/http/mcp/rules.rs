//! Which hosts and origins `/mcp` takes, in the form in which rmcp reads them; `/tools` takes the same.
//!
//! The door has decided on both before (`http::edge`); what gets here must pass this narrower list, too: pages of this
//! machine and those that `api.origins` names in full. A pattern with `*` is no name.

use std::net::SocketAddr;

use axum::http::Uri;
use axum::http::uri::Authority;

/// What programs on this machine call it by.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Hosts by which the node is called from its own machine.
pub(crate) fn hosts(hostname: &str, bound: SocketAddr) -> Vec<String> {
    let named = (!hostname.is_empty()).then(|| hostname.to_owned());
    let address = (!bound.ip().is_unspecified()).then(|| bound.ip().to_string());
    LOCAL.iter().map(|host| (*host).to_owned()).chain(named).chain(address).collect()
}

/// Origins of pages that may call.
pub(crate) fn origins(configured: &[String], hostname: &str, bound: SocketAddr) -> Vec<String> {
    let local = ["localhost", "127.0.0.1", "[::1]"].into_iter();
    let local = local.flat_map(|host| [format!("http://{host}:*"), format!("https://{host}:*")]);
    let own = (!hostname.is_empty()).then(|| format!("http://{hostname}:{}", bound.port()));
    local.chain(own).chain(configured.iter().filter_map(|origin| with_port(origin))).collect()
}

/// Whether these lists take a request to a host, from a page of an origin where it comes from a page. What rmcp decides
/// at `/mcp`, for doors that it does not see.
pub(crate) fn take(hosts: &[String], origins: &[String], host: &str, origin: Option<&str>) -> bool {
    let is_named = host.parse::<Authority>().is_ok_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    });
    is_named && origin.is_none_or(|origin| is_among(origins, origin))
}

fn is_among(origins: &[String], origin: &str) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let (Some(scheme), Some(host)) = (origin.scheme_str(), origin.host()) else { return false };
    let Some(port) = origin.port_u16().or_else(|| port_of(scheme)) else { return false };
    let forms = [format!("{scheme}://{host}:*"), format!("{scheme}://{host}:{port}")];
    forms.iter().any(|form| origins.iter().any(|one| one.eq_ignore_ascii_case(form)))
}

/// The port where none is written.
fn port_of(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// An origin with its port, which is the scheme's where none is written.
fn with_port(origin: &str) -> Option<String> {
    let (scheme, authority) = origin.split_once("://")?;
    let port = port_of(scheme)?;
    if authority.is_empty() || origin.contains('*') {
        return None;
    }
    // The colons of an address stand in brackets.
    let has_port = authority.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    Some(if has_port { origin.to_owned() } else { format!("{origin}:{port}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_taken_in_full_and_with_their_port() {
        let check =
            |origin: &str, expected: Option<&str>| assert_eq!(with_port(origin).as_deref(), expected, "{origin}");
        check("https://chat.lab", Some("https://chat.lab:443"));
        check("http://chat.lab", Some("http://chat.lab:80"));
        check("http://chat.lab:3000", Some("http://chat.lab:3000"));
        check("http://[fd00::1]", Some("http://[fd00::1]:80"));
        check("http://[fd00::1]:3000", Some("http://[fd00::1]:3000"));
        for none in ["*", "https://*.lab", "https://", "app://desk", "chat.lab"] {
            check(none, None);
        }
    }

    #[test]
    fn a_node_is_called_by_its_name_and_the_addresses_of_its_machine() {
        let bound = |text: &str| text.parse().expect("an address");
        assert_eq!(hosts("gpu-1", bound("127.0.0.2:1")), ["localhost", "127.0.0.1", "::1", "gpu-1", "127.0.0.2"]);
        assert_eq!(hosts("", bound("[::]:1")), ["localhost", "127.0.0.1", "::1"]);
        let origins = origins(&["*".to_owned(), "https://chat.lab".to_owned()], "gpu-1", bound("127.0.0.1:11435"));
        assert_eq!(origins.len(), 8, "{origins:?}");
        assert_eq!(origins[6..], ["http://gpu-1:11435", "https://chat.lab:443"]);
    }

    #[test]
    fn a_host_and_an_origin_are_taken_where_the_lists_name_them() {
        let bound = "127.0.0.1:11435".parse().expect("an address");
        let (hosts, origins) = (hosts("GPU-1", bound), origins(&["https://*".to_owned()], "GPU-1", bound));
        let check = |host: &str, origin: Option<&str>, expected: bool| {
            assert_eq!(take(&hosts, &origins, host, origin), expected, "{host} {origin:?}");
        };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:11435", "[::1]:11435", "gpu-1:11435"] {
            check(host, None, true);
        }
        for host in ["", "evil.example", "evil.local", "a.internal:11435", "10.0.0.9", "localhost.evil.example"] {
            check(host, None, false);
        }
        for origin in ["http://localhost", "https://localhost:3000", "http://[::1]:3000", "http://gpu-1:11435"] {
            check("localhost", Some(origin), true);
        }
        for origin in ["", "null", "https://evil.example", "http://gpu-1", "http://localhost.evil.example", "file://"] {
            check("localhost", Some(origin), false);
        }
    }
}
