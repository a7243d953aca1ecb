//! Which hosts and origins `/mcp` takes, in the form in which rmcp reads them.
//!
//! The door has decided on both before (`http::edge`); what gets here must pass this narrower list, too: pages of this
//! machine and those that `api.origins` names in full. A pattern with `*` is no name.

use std::net::SocketAddr;

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

/// An origin with its port, which is the scheme's where none is written.
fn with_port(origin: &str) -> Option<String> {
    let (scheme, authority) = origin.split_once("://")?;
    let port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
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
}
